"""What every command shares: where talk goes, how errors end, the settings."""

from __future__ import annotations

import dataclasses
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
    """The environment's settings, with another data folder if one is named."""
    found = Settings.from_environment()
    return found if data is None else dataclasses.replace(found, data=data.absolute())


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")
