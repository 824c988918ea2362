"""What every command shares: where talk goes, how errors end, the settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import typer

from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.settings import Settings

EXIT_FAILED = 1
EXIT_USAGE = 2


@contextmanager
def clear_errors() -> Iterator[None]:
    """End with one line on stderr instead of a trace: 2 for what the caller can mend, 1 for the rest."""
    try:
        yield
    except ConfigError as error:
        typer.echo(f"ssmd: {error}", err=True)
        raise typer.Exit(EXIT_USAGE) from error
    except (SsmdError, OSError) as error:
        typer.echo(f"ssmd: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from error


def settings(data: Path | None = None) -> Settings:
    """The environment's settings; servers that it does not name are those of the `ssmd up` on the data folder.

    Args:
        data: instead of `SSMD_DATA`.
    """
    found = Settings.from_environment({**os.environ, **({"SSMD_DATA": str(data.absolute())} if data else {})})
    if (found.data / "state.json").exists():
        from ssmd_stream.servers.state import read_state

        state = read_state(found.data)
        if state is not None and state.running:
            # What this environment names wins over what that installation runs.
            values = {**state.environment, **{name: value for name, value in os.environ.items() if value}}
            return Settings.from_environment({**values, "SSMD_DATA": str(found.data)})
    return found


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")
