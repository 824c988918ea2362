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
#: What `ssmd up` runs beside the servers and other commands ask -> the variable that names it.
_ASKED = {"api": "SSMD_API_URL", "dagster-webserver": "DAGSTER_URL"}


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
    return Settings.from_environment(service_environment(data))


def service_environment(data: Path | None = None) -> dict[str, str]:
    """The environment, completed as `settings` says."""
    given = {**os.environ, **({"SSMD_DATA": str(data.absolute())} if data else {})}
    folder = Settings.from_environment(given).data
    if (folder / "state.json").exists():
        from ssmd_stream.servers.state import read_state

        state = read_state(folder)
        if state is not None and state.running:
            # What this environment names wins over what that installation runs.
            set_here = {name: value for name, value in os.environ.items() if value}
            asked = {_ASKED[unit.name]: unit.url for unit in state.units if unit.name in _ASKED and unit.url}
            return {**state.environment, **asked, **set_here, "SSMD_DATA": str(folder)}
    return given


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")
