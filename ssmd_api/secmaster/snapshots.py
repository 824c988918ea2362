"""Snapshots of pairs: the futures' tickers, sampled every five minutes."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime

from ssmd_api.errors import NotFoundError
from ssmd_api.params import shown
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_api.secmaster.lists import Listing
from ssmd_api.secmaster.reach import market_types_of
from ssmd_api.services import Services
from ssmd_core.secmaster.counts import day_begin, day_end

_SNAPSHOTS = (
    "SELECT * FROM pair_snapshots WHERE pair_id = %s AND snapshot_at >= %s AND snapshot_at < %s "
    "AND (%s::timestamptz IS NULL OR (snapshot_at, id) < (%s, %s)) ORDER BY snapshot_at DESC, id DESC LIMIT %s"
)


async def snapshots_of(
    services: Services,
    pair_id: str,
    feeds: Collection[str],
    first: date,
    last: date,
    *,
    limit: int,
    cursor: str | None = None,
) -> Listing:
    """A pair's snapshots of days (UTC), the newest first; also of a pair that is deleted now.

    Args:
        feeds: that the asker reaches; a pair of another one is not there for him.

    Raises:
        NotFoundError: no such pair.
        InvalidRequestError: a cursor of another list.
        psycopg.Error: Postgres refused or went away.
    """
    question = ("pair_snapshots", pair_id, first, last)
    at, number = decode_cursor(question, cursor, (datetime, int)) if cursor is not None else (None, 0)
    known = "SELECT 1 FROM pairs WHERE pair_id = %s AND market_type = ANY(%s)"
    if not await services.rows(known, (pair_id, list(market_types_of(feeds)))):
        raise NotFoundError(f"nothing is known as {shown(pair_id)}")
    rows = await services.rows(_SNAPSHOTS, (pair_id, day_begin(first), day_end(last), at, at, number, limit + 1))
    page = rows[:limit]
    more = len(rows) > limit
    return Listing(page, encode_cursor(question, (page[-1]["snapshot_at"], page[-1]["id"])) if more else None)
