"""`ssmd book`: an order book as it was."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmd_api.cli.output import clear_errors, print_json, settings
from ssmd_api.cli.secmaster import JsonOption
from ssmd_api.cli.tables import moment_of, print_table
from ssmd_core.errors import ConfigError


def book(
    feed: Annotated[str, typer.Argument(metavar="FEED[/STREAM]", help="e.g. kraken or kraken/spot.")],
    instrument: Annotated[str, typer.Argument(metavar="ID", help="Market ticker, symbol, product or token id.")],
    at: Annotated[str, typer.Argument(metavar="AT", help="e.g. 2026-11-20T14:37:05Z.")],
    depth: Annotated[int, typer.Option(min=1, help="Levels to print of each side.")] = 10,
    untrusted: Annotated[bool, typer.Option("--untrusted", help="Also where the book must not be trusted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the full-depth book of an instrument at a moment (exit 1 if there is none that can be trusted)."""
    from ssmd_core.feeds import get
    from ssmd_core.feeds.subjects import StreamName
    from ssmd_core.proof.book_at import book_at

    with clear_errors():
        found = settings()
        name, _, stream = feed.partition("/")
        entry = get(name)
        stream_name = StreamName(found.env, entry, stream or entry.streams[0])
        moment = moment_of(at, "AT")
        if moment is None:
            raise ConfigError(f"AT {at!r} is not a moment")
        answer = book_at(found, entry, stream_name.stream, instrument, moment, untrusted=untrusted)
        if as_json:
            print_json(
                {
                    "feed": answer.feed,
                    "stream": answer.stream,
                    "at": answer.at,
                    "changed_at": answer.changed_at,
                    **answer.book._asdict(),
                    "doubts": [doubt._asdict() for doubt in answer.doubts],
                }
            )
            return
        for doubt in answer.doubts:
            typer.echo(f"{'NOT TO BE TRUSTED' if doubt.refuses else 'not checked'} ({doubt.reason}): {doubt.detail}")
        bids, asks = answer.book.sides
        typer.echo(
            f"{answer.feed}/{answer.stream} {answer.book.instrument}: last changed {answer.changed_at.isoformat()}, "
            f"{len(answer.book.bids):,} {bids}, {len(answer.book.asks):,} {asks}"
        )
        rows = [
            tuple(
                part
                for side in (answer.book.bids, answer.book.asks)
                for part in (side[n] if n < len(side) else ("", ""))
            )
            for n in range(min(depth, max(len(answer.book.bids), len(answer.book.asks))))
        ]
        print_table((bids, "size", asks, "size"), rows)
