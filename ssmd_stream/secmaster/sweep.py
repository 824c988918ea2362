"""What time does to a market: it opens and it closes without a word from the venue.

Kalshi tells neither the opening of a market at its `open_time` nor its close at its `close_time`: somebody has to look
at the clock. Both are promotions only, of the row as it stands, so a sweep may run as often as it likes; where nothing
is due it writes nothing, not a byte of WAL.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import psycopg

from ssmd_core.clock import Clock
from ssmd_core.db.connect import now_of, set_now


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep did.

    Attributes:
        opened, closed: markets.
        late_s: for each opened market, how long after its `open_time` that was noticed, seconds.
        events: events whose status follows from their markets'.
    """

    opened: int
    closed: int
    late_s: tuple[float, ...]
    events: int


_OPEN = """
UPDATE markets SET status = 'active' WHERE status = 'initialized' AND deleted_at IS NULL
AND open_time <= %(now)s AND (close_time IS NULL OR close_time > %(now)s)
RETURNING event_ticker, open_time
"""
# One that opened and closed between two sweeps, or while nobody looked, was never seen active.
_CLOSE = """
UPDATE markets SET status = 'closed' WHERE status IN ('initialized', 'active') AND deleted_at IS NULL
AND close_time <= %(now)s
RETURNING event_ticker
"""
_EVENTS = """
UPDATE events e SET status = d.status FROM (
  SELECT m.event_ticker, CASE WHEN bool_or(m.status IN ('initialized', 'active')) THEN 'active'
    WHEN bool_and(m.status = 'settled') THEN 'settled' ELSE 'closed' END AS status
  FROM markets m WHERE m.deleted_at IS NULL AND m.event_ticker = ANY(%s) GROUP BY 1
) d WHERE e.event_ticker = d.event_ticker AND e.status <> d.status AND e.deleted_at IS NULL
"""


async def sweep(connection: psycopg.AsyncConnection, clock: Clock) -> SweepReport:
    """Open and close what is due, and bring the events of those markets up to date.

    To be called inside of a transaction: the events of what one sweep changed are not looked at by the next.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    await set_now(connection, clock)
    now = now_of(clock)
    opened = await (await connection.execute(_OPEN, {"now": now})).fetchall()
    closed = await (await connection.execute(_CLOSE, {"now": now})).fetchall()
    touched = {row[0] for row in opened} | {row[0] for row in closed}
    events = await refresh_events(connection, touched) if touched else 0
    return SweepReport(len(opened), len(closed), tuple(_seconds(now, row[1]) for row in opened), events)


async def refresh_events(connection: psycopg.AsyncConnection, event_tickers: Collection[str]) -> int:
    """Give events the status that follows from their markets; how many got another one.

    `active` while a market is initialized or active, `settled` once all are, else `closed`. An event without a market
    keeps its status.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    cursor = await connection.execute(_EVENTS, (sorted(event_tickers),))
    return max(cursor.rowcount, 0)


def _seconds(now: datetime, then: datetime) -> float:
    return (now - then).total_seconds()
