"""Reconciliations in the database, one row per instrument and window; asked again, the newest answer stands.

But for an answer that could not be had: it does not wipe out what was found before.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import orjson
import psycopg

from ssmd_core.db.connect import DatabaseError
from ssmd_core.db.tables import ID_CHARS
from ssmd_stream.reconcile.report import Reconciliation
from ssmd_stream.secmaster.fields import clean

_UPSERT = """
INSERT INTO trade_reconciliations (
    feed, stream, instrument, started_at, ended_at, checked_at, status, venue_trades, archived_trades, matched,
    missing, extra, differing, backfilled, match_rate, sample, detail
) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT ON CONSTRAINT trade_reconciliations_once DO UPDATE SET
    checked_at = excluded.checked_at, status = excluded.status, venue_trades = excluded.venue_trades,
    archived_trades = excluded.archived_trades, matched = excluded.matched, missing = excluded.missing,
    extra = excluded.extra, differing = excluded.differing,
    -- What an earlier run has kept is still there.
    backfilled = least(excluded.missing, greatest(excluded.backfilled, trade_reconciliations.backfilled)),
    match_rate = excluded.match_rate, sample = excluded.sample, detail = excluded.detail
WHERE excluded.status <> 'unavailable' OR trade_reconciliations.status = 'unavailable'
RETURNING id
"""
_EARLIER = """
SELECT id FROM trade_reconciliations
WHERE feed = %s AND stream = %s AND instrument = %s AND started_at = %s AND ended_at = %s
"""


async def store(connection: psycopg.AsyncConnection, results: Iterable[Reconciliation], checked_at: datetime) -> None:
    """Store the results and note their ids in them, all or none.

    Raises:
        DatabaseError: Postgres refused.
    """
    try:
        async with connection.transaction():
            # In one order, so that two runs do not wait for each other's rows.
            for result in sorted(results, key=lambda one: one.instrument):
                instrument = clean(result.instrument[:ID_CHARS])
                key = (result.feed, result.stream, instrument, result.started_at, result.ended_at)
                cursor = await connection.execute(
                    _UPSERT,
                    (
                        *key,
                        checked_at,
                        result.status,
                        result.venue_trades,
                        result.archived_trades,
                        result.matched,
                        result.missing,
                        result.extra,
                        result.differing,
                        result.backfilled,
                        result.match_rate,
                        orjson.dumps(result.sample).decode(),
                        clean(result.detail),
                    ),
                )
                row = await cursor.fetchone() or await (await connection.execute(_EARLIER, key)).fetchone()
                assert row is not None
                result.id = int(row[0])
    except psycopg.Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error
