"""`ssmd catalogue`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings

_SHOWN = 20


def catalogue(
    feed: str,
    stream: str,
    hour: Annotated[str, typer.Argument(help="YYYY-MM-DD-HH:00, UTC.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print every instrument.")] = False,
) -> None:
    """What should have been captured in an hour and was not asked for; exit 0 if nothing, 1 if something."""
    from ssmd_core import feeds
    from ssmd_core.archive.paths import parse_hour
    from ssmd_core.errors import ConfigError
    from ssmd_stream.catalogue.catalogue import make_catalogue
    from ssmd_stream.catalogue.intervals import length_s, minutes

    with clear_errors():
        try:
            wanted = parse_hour(hour)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        found = asyncio.run(make_catalogue(settings(), feeds.get(feed), stream, wanted))
        missed = list(found.missed())
        if as_json:
            print_json(found.as_dict())
        else:
            for name, value in found.summary().items():
                typer.echo(f"{name:22} {value}")
            for entry in missed[:_SHOWN]:
                reasons = "; ".join(f"{channel} refused: {reason}" for channel, reason in entry.refused.items())
                touched = minutes(entry.missing)
                seconds = f"{length_s(entry.missing):.0f} s in minutes {touched[0]:02d} to {touched[-1]:02d}"
                typer.echo(f"MISSED {entry.instrument}  {seconds}  {reasons}".rstrip())
            if len(missed) > _SHOWN:
                typer.echo(f"… and {len(missed) - _SHOWN} more: --json shows all")
        if missed or found.sealed_slots == 0:
            raise typer.Exit(EXIT_FAILED)
