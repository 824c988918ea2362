"""Counts of what an asker reaches, and the syncs behind it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime
from typing import Any

from ssmd_api.auth.access import Principal
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_api.secmaster.lists import Listing
from ssmd_api.secmaster.reach import FEEDS_OF, market_types_of
from ssmd_api.services import Services
from ssmd_core.secmaster.counts import day_begin, day_end, fee_stats, table_stats

#: Tables by the names that they have in an answer.
_TABLES = {
    "series": "series",
    "events": "events",
    "markets": "markets",
    "pairs": "pairs",
    "conditions": "polymarket_conditions",
}
#: Members of each beside `total`.
GROUPED: dict[str, tuple[str, ...]] = {
    "series": ("by_category", "categories"),
    "events": ("by_status", "by_category", "categories"),
    "markets": ("by_status",),
    "pairs": ("by_exchange", "by_market_type", "by_status"),
    "conditions": ("by_status", "by_category", "categories", "by_tag", "tags"),
}

_RUNS = (
    "SELECT id, scope, mode, started_at, finished_at, report FROM sync_runs WHERE split_part(scope, '/', 1) = ANY(%s) "
    "AND (%s::text IS NULL OR scope = %s) AND finished_at >= %s AND finished_at < %s "
    "AND (%s::timestamptz IS NULL OR (finished_at, id) < (%s, %s)) ORDER BY finished_at DESC, id DESC LIMIT %s"
)


async def stats_of(services: Services, feeds: Collection[str], moment: datetime | None = None) -> dict[str, Any]:
    """Counts of the tables that belong to the feeds, see `ssmd_core.secmaster.counts.stats`.

    Args:
        moment: as known then, fees as in force then; default now.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    counted: dict[str, Any] = {}
    async with services.reading() as connection:
        for name, table in _TABLES.items():
            if not set(FEEDS_OF[table]).isdisjoint(feeds):
                kinds = market_types_of(feeds) if table == "pairs" else None
                counted[name] = await table_stats(connection, table, moment, kinds)
        if not set(FEEDS_OF["series_fees"]).isdisjoint(feeds):
            counted["fees"] = await fee_stats(connection, moment or services.now, moment)
    return counted


async def sync_runs_of(
    services: Services,
    feeds: Collection[str],
    first: date,
    last: date,
    *,
    scope: str | None = None,
    limit: int,
    cursor: str | None = None,
) -> Listing:
    """Sync runs of feeds that finished on the days (UTC), the newest first, each with its whole report.

    Raises:
        InvalidRequestError: a cursor of another list.
        psycopg.Error: Postgres refused or went away.
    """
    question = ("sync_runs", sorted(feeds), scope, first, last)
    at, number = decode_cursor(question, cursor, (datetime, int)) if cursor is not None else (None, 0)
    values = (list(feeds), scope, scope, day_begin(first), day_end(last), at, at, number, limit + 1)
    rows = await services.rows(_RUNS, values)
    page = rows[:limit]
    more = len(rows) > limit
    return Listing(page, encode_cursor(question, (page[-1]["finished_at"], page[-1]["id"])) if more else None)


def days_back(principal: Principal, moment: datetime, days: int) -> tuple[date, date]:
    """The day of a moment (UTC) and the first of so many days before it that the key reaches."""
    last = moment.astimezone(UTC).date()
    return max(date.fromordinal(max(1, last.toordinal() - days)), principal.first_day), last
