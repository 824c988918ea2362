"""Every version of a row: what was known of it, since when and until when."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from typing import Any

from ssmd_api.errors import NotFoundError
from ssmd_api.params import shown
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_api.secmaster.lists import Listing
from ssmd_api.secmaster.reach import PAIR_FEEDS
from ssmd_api.services import Services
from ssmd_core.db.tables import SYNCED
from ssmd_core.secmaster.counts import day_begin, day_end
from ssmd_core.secmaster.queries import versions_of


async def history_page(
    services: Services,
    table: str,
    key: str,
    feeds: Collection[str],
    first: date,
    last: date,
    *,
    limit: int,
    cursor: str | None = None,
) -> Listing:
    """Versions that were what is known at some moment of the days (UTC), the newest first.

    What became known after the last day is left out, so `known_to` is None where a version still held at its end.

    Args:
        table: a name in `SYNCED`.
        key: of the row; of `series_fees` the series, whose rows come together.
        feeds: that the asker reaches; a pair of another one is not there for him.

    Raises:
        NotFoundError: nothing was known of it in these days.
        InvalidRequestError: a cursor of another list.
        psycopg.Error: Postgres refused or went away.
    """
    column = "series_ticker" if table == "series_fees" else SYNCED[table].key
    question = ("history", table, key, first, last)
    after: Any = None if cursor is None else decode_cursor(question, cursor, (datetime, int))
    async with services.reading() as connection:
        page = await versions_of(
            connection, table, column, key, first=day_begin(first), end=day_end(last), limit=limit, after=after
        )
    rows = page.rows
    if table == "pairs":
        rows = [row for row in rows if PAIR_FEEDS.get(row["market_type"]) in feeds]
    if not rows and cursor is None:
        raise NotFoundError(f"nothing was known as {shown(key)} from {first} to {last}")
    following = None
    if page.more:
        following = encode_cursor(question, (page.rows[-1]["known_from"], page.rows[-1]["version"]))
    return Listing(rows, following)
