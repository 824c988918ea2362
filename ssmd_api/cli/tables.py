"""What commands on the database share: a session, moments and durations as people write them, tables for people."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings
from ssmd_core.text import shown

if TYPE_CHECKING:
    import psycopg
    from rich.console import Console

__all__ = ["duration_of", "moment_of", "print_table", "shown", "with_database"]

T = TypeVar("T")

# A file or another program has no width of its own; a line of `list` fits into this.
PIPED_WIDTH = 200
_PADDING = 2

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d{1,6})([smhd])")


def with_database(settings: Settings, work: Callable[[psycopg.AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` on a session of its own.

    Raises:
        ConfigError: no usable DATABASE_URL.
        DatabaseError: Postgres cannot be reached, or refused.
    """
    import psycopg

    from ssmd_core.db.connect import DatabaseError, connect

    async def run() -> T:
        async with await connect(settings.database_url, name="cli", clock=settings.clock) as connection:
            return await work(connection)

    try:
        return asyncio.run(run())
    except psycopg.errors.UndefinedTable as error:
        raise DatabaseError(f"{str(error).splitlines()[0]}; `ssmd db upgrade` makes what is missing") from error
    except psycopg.Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error


def moment_of(text: str | None, name: str) -> datetime | None:
    """A moment in ISO 8601; without a zone it is UTC, without a time midnight.

    Raises:
        ConfigError: it is none.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{name} {text!r} is not a moment such as 2026-11-17T14:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def duration_of(text: str | None, name: str) -> timedelta | None:
    """A duration such as `30m`, `48h` or `2d`.

    Raises:
        ConfigError: it is none.
    """
    if text is None:
        return None
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ConfigError(f"{name} {text!r} is not a duration such as 30m, 48h or 2d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout; one line for each value where a terminal is too narrow for it.

    Values may come from strangers: neither markup nor control characters act in it.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    values = [list(row) for row in rows]
    texts = [[shown(value) for value in row] for row in values]
    widths = [_longest_word([column, *(row[place] for row in texts)]) for place, column in enumerate(columns)]
    if texts:
        widths[0] = max(len(columns[0]), *(len(row[0]) for row in texts))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    elif sum(widths) + _PADDING * (len(columns) - 1) > console.width:
        _print_records(console, columns, texts)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, (column, width) in enumerate(zip(columns, widths, strict=True)):
        numbers = all(isinstance(row[place], int) and not isinstance(row[place], bool) for row in values)
        # Folded, never cut: an id with its end missing is of no use.
        table.add_column(
            column,
            overflow="fold",
            no_wrap=place == 0,
            min_width=min(width, console.width),
            justify="right" if numbers and values else "left",
        )
    for row in texts:
        table.add_row(*map(Text, row))
    console.print(table)


def _longest_word(texts: Iterable[str]) -> int:
    return max((len(word) for text in texts for word in text.split()), default=0)


def _print_records(console: Console, columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    from rich.text import Text

    width = max(map(len, columns)) + _PADDING
    for number, row in enumerate(texts):
        if number:
            console.print()
        for column, text in zip(columns, row, strict=True):
            if text:
                console.print(Text(column.ljust(width), style="bold") + Text(text), soft_wrap=True)
