"""Whether the security master can be trusted: what is old, what has a wrong id, what was never synced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

_STALE_AFTER = timedelta(hours=24)
# The rarest schedule is daily; two hours for its run and a late start.
_SYNC_LATE_AFTER = timedelta(hours=26)

_WITHOUT_NAMESPACE = """
SELECT pair_id FROM pairs WHERE deleted_at IS NULL AND pair_id NOT LIKE exchange || ':%%' ORDER BY 1
"""
# A row is written only when something in it changes: what the venue still lists as it was is as young as its sync.
_STALE = """
WITH synced AS (SELECT scope, max(finished_at) AS at FROM sync_runs GROUP BY 1)
SELECT pair_id, seen_at FROM (
  SELECT pair_id, greatest(updated_at, (
    SELECT at FROM synced WHERE scope = CASE market_type WHEN 'spot' THEN 'kraken/pairs' ELSE 'kraken-futures/pairs' END
  )) AS seen_at
  FROM pairs WHERE deleted_at IS NULL AND status = 'active'
) p WHERE seen_at < %s ORDER BY seen_at, pair_id
"""
_LAST_SYNCS = """
SELECT DISTINCT ON (scope) scope, mode, finished_at FROM sync_runs ORDER BY scope, finished_at DESC, id DESC
"""
_SERIES = """
SELECT category, count(*) AS total, count(*) FILTER (WHERE is_game) AS games
FROM series WHERE deleted_at IS NULL GROUP BY 1 ORDER BY 2 DESC, 1
"""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at the security master found.

    Attributes:
        pairs_without_namespace: ids that do not begin with their exchange.
        stale_pairs: active pairs that neither a change nor a sync has touched for 24 hours, with when it last did.
        syncs: per scope its last finished run; `finished_at` is None if there was none.
        problems: all that is wrong, for a person; empty if nothing is.
    """

    pairs_without_namespace: list[str]
    stale_pairs: list[Row]
    syncs: list[Row]
    problems: list[str]


async def check(connection: psycopg.AsyncConnection, scopes: Sequence[str], now: datetime) -> Health:
    """Look.

    Args:
        scopes: of all syncs that there are.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    nameless = [row["pair_id"] for row in await _rows(connection, _WITHOUT_NAMESPACE)]
    stale = await _rows(connection, _STALE, now - _STALE_AFTER)
    known = {row["scope"]: row for row in await _rows(connection, _LAST_SYNCS)}
    syncs = [known.get(scope, {"scope": scope, "mode": None, "finished_at": None}) for scope in scopes]
    problems = []
    if nameless:
        problems.append(f"{len(nameless):,} pairs have an id without their exchange")
    if stale:
        problems.append(f"{len(stale):,} active pairs were not seen for more than 24 hours")
    for row in syncs:
        if row["finished_at"] is None:
            problems.append(f"{row['scope']} was never synced")
        elif now - row["finished_at"] > _SYNC_LATE_AFTER:
            hours = (now - row["finished_at"]) // timedelta(hours=1)
            problems.append(f"{row['scope']} was last synced {hours:,} hours ago")
    return Health(nameless, stale, syncs, problems)


async def series_by_category(connection: psycopg.AsyncConnection) -> list[Row]:
    """Live series by category: `category`, `total`, and `games`, how many of them are about games.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    return await _rows(connection, _SERIES)


async def _rows(connection: psycopg.AsyncConnection, statement: str, *values: object) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchall()
