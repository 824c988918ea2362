"""What the security master says was open in an hour, whatever a connector made of it.

A market is open from its opening time until its close, or until the security master learned that it was active no
more, if that was earlier. Today's knowledge is used, with the time at which the market became known: what was learned
too late should have been captured all the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from ssmd_core.config import SecmasterConfig
from ssmd_core.db.connect import DatabaseError, connect
from ssmd_stream.capture.universe import Filter, Scope
from ssmd_stream.catalogue.intervals import Interval

_FETCH_ROWS = 2000

# History first by key: there is an index, and the prices' versions of all other markets are not looked at.
_HISTORY = """
  CROSS JOIN LATERAL (
    SELECT min(known_from) AS known_at,
      min(known_from) FILTER (WHERE status = 'active' AND deleted_at IS NULL) AS active_from,
      max(version) FILTER (WHERE status = 'active' AND deleted_at IS NULL) AS last_active
    FROM {table}_history h WHERE h.{key} = m.{key}) seen
  CROSS JOIN LATERAL (
    SELECT min(known_from) AS ended_at FROM {table}_history h
    WHERE h.{key} = m.{key} AND h.version > seen.last_active) after
"""
_KALSHI = (
    """
SELECT m.ticker AS instrument, m.open_time AS opens, m.close_time AS closes, seen.known_at, seen.active_from,
  after.ended_at, e.series_ticker AS series, coalesce(nullif(e.category, ''), s.category, '') AS category,
  s.volume::text, coalesce(s.is_game, false) AS is_game
FROM markets m JOIN events e USING (event_ticker) LEFT JOIN series s ON s.ticker = e.series_ticker
"""
    + _HISTORY.format(table="markets", key="ticker")
    + """
WHERE (m.open_time < %(end)s OR m.open_time IS NULL) AND (m.close_time > %(start)s OR m.close_time IS NULL)
  AND (m.deleted_at > %(start)s OR m.deleted_at IS NULL)
"""
)
# Gamma's start date may lie before a condition can be traded, and its end date is only planned.
_POLYMARKET = (
    """
SELECT t.token_id AS instrument, NULL::timestamptz AS opens, NULL::timestamptz AS closes, m.end_date AS ends,
  seen.known_at, seen.active_from, after.ended_at, '' AS series, coalesce(m.category, '') AS category,
  m.volume::text, false AS is_game
FROM polymarket_conditions m JOIN polymarket_tokens t USING (condition_id)
"""
    + _HISTORY.format(table="polymarket_conditions", key="condition_id")
    + """
WHERE (m.deleted_at > %(start)s OR m.deleted_at IS NULL) AND t.created_at < %(end)s
"""
)
_QUERIES = {"kalshi": _KALSHI, "polymarket": _POLYMARKET}


class Open(NamedTuple):
    """An instrument that was open.

    Attributes:
        during: the part of the hour, epoch microseconds.
        known_at: when the security master first held it, epoch microseconds.
    """

    during: Interval
    known_at: int


async def open_in(database_url: str, feed: str, hour: Interval, config: SecmasterConfig) -> dict[str, Open]:
    """Instruments of the feed that pass the filter and were open in the hour.

    Raises:
        ConfigError: no database, or one that is not Postgres.
        DatabaseError: it cannot be reached, or refused.
    """
    query, filter_ = _QUERIES[feed], Filter(config)
    found: dict[str, Open] = {}
    connection = await connect(database_url, name="catalogue", autocommit=False)
    try:
        async with connection.cursor(name="catalogue", row_factory=dict_row) as cursor:
            bounds = {"start": _moment(hour.start), "end": _moment(hour.end)}
            await cursor.execute(query.encode(), bounds)
            while rows := await cursor.fetchmany(_FETCH_ROWS):
                for row in rows:
                    if opened := _open(row, hour, filter_):
                        found[row["instrument"]] = opened
    except psycopg.Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error
    finally:
        await connection.close()
    return found


def _open(row: dict[str, Any], hour: Interval, filter_: Filter) -> Open | None:
    volume = None if row["volume"] is None else Decimal(row["volume"])
    if not filter_.passes(Scope(row["category"], row["series"], volume, row["is_game"])):
        return None
    opens = row["opens"] or row["active_from"]
    if opens is None:
        return None
    ends = [moment for moment in (row["closes"], row["ended_at"]) if moment is not None]
    closes = row["closes"] or row.get("ends")
    near_s = filter_.wanted_from_s(closes.timestamp() if closes is not None else None)
    if near_s is None:
        return None
    start = max(_us(opens), int(near_s * 1e6), hour.start)
    end = min([_us(moment) for moment in ends] + [hour.end])
    return Open(Interval(start, end), _us(row["known_at"] or opens)) if start < end else None


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def _moment(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, UTC)
