"""Reads what a diagnosis is made from: seven days of scores, proofs, drift and reconciliations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeAlias

import psycopg
from psycopg.rows import dict_row

from ssmd_core.feeds import FEEDS

Row: TypeAlias = dict[str, Any]

DAYS = 7
#: Read of each; more of them would not fit into a prompt, and how many there are is counted.
MAX_DRIFT, MAX_RECONCILIATIONS, MAX_RUNS = 30, 20, 20
_MAX_REASONS = 8

_SCORES = """
SELECT check_date, feed, score, details, gap_count, gap_total_minutes, coverage_pct, expected_messages, actual_messages
FROM dq_daily_scores WHERE check_date >= %(first)s AND check_date <= %(day)s AND feed = ANY(%(feeds)s)
ORDER BY check_date DESC, feed
"""
# A missing hour has a score and no ledger; one that is not scored yet has a ledger alone.
_HOURS = f"""
SELECT feed, stream, hour, coalesce(l.word, s.inputs->>'word') AS word, s.score, s.components,
  CASE WHEN jsonb_typeof(l.reasons) = 'array' THEN jsonb_path_query_array(l.reasons, '$[0 to {_MAX_REASONS - 1}]')
  END AS reasons
FROM (SELECT * FROM ledger_hours WHERE hour >= %(start)s AND hour < %(end)s) l
FULL JOIN (SELECT * FROM dq_hourly_scores WHERE message_type = '*' AND hour >= %(start)s AND hour < %(end)s) s
  USING (feed, stream, hour)
WHERE feed = ANY(%(feeds)s) ORDER BY hour DESC, feed, stream
"""
_TYPES = """
SELECT feed, stream, hour, message_type, score FROM dq_hourly_scores
WHERE message_type <> '*' AND score < %(green)s AND hour >= %(start)s AND hour < %(end)s AND feed = ANY(%(feeds)s)
ORDER BY score, message_type
"""
_UNTRUSTED = """
SELECT feed, stream, hour, reason, count(*) AS intervals, count(DISTINCT instrument) AS instruments
FROM untrusted_intervals WHERE hour >= %(start)s AND hour < %(end)s AND feed = ANY(%(feeds)s)
GROUP BY 1, 2, 3, 4 ORDER BY intervals DESC, reason
"""
_DRIFT = """
SELECT id, feed, source, message_type, path, kind, found_at, detail, count(*) OVER () AS of_all
FROM drift_findings WHERE found_at >= %(start)s AND found_at < %(end)s AND feed = ANY(%(feeds)s)
ORDER BY found_at DESC, id DESC LIMIT %(drift)s
"""
_RECONCILIATIONS = """
SELECT id, feed, stream, instrument, started_at, ended_at, status, venue_trades, archived_trades, matched, missing,
  extra, differing, backfilled, match_rate, detail, count(*) OVER () AS of_all
FROM trade_reconciliations WHERE started_at < %(end)s AND ended_at > %(start)s AND feed = ANY(%(feeds)s)
ORDER BY missing + differing + extra > 0 DESC, match_rate IS NULL DESC, started_at >= %(day_start)s DESC,
  missing + differing DESC, extra DESC, started_at DESC, id DESC LIMIT %(reconciliations)s
"""


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A Dagster run that failed.

    Attributes:
        run_id, job: as Dagster names them.
        hour: partition of the run, "" for none.
        error: its text.
    """

    run_id: str
    job: str
    hour: str
    error: str


@dataclass(frozen=True, slots=True)
class Rows:
    """What the tables and the caller say, as it is.

    Attributes:
        first, day: of the scores, UTC.
        now: hours that are not over by then are not expected.
        scores, hours, types, untrusted, drift, reconciliations: rows of the queries of this module.
        runs: failed ones; at most `MAX_RUNS`.
        left_out: kind of item -> rows that were not read.
    """

    first: date
    day: date
    now: datetime
    scores: Sequence[Row]
    hours: Sequence[Row]
    types: Sequence[Row]
    untrusted: Sequence[Row]
    drift: Sequence[Row]
    reconciliations: Sequence[Row]
    runs: Sequence[RunFailure]
    left_out: Mapping[str, int]


async def read_rows(
    connection: psycopg.AsyncConnection, day: date, run_failures: Sequence[RunFailure] = (), *, green_from: int
) -> Rows:
    """The rows of the seven days that end with `day`; a table without any is no error.

    Args:
        run_failures: of the same days, newest first.
        green_from: types of messages are read whose score is lower.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    first = day - timedelta(days=DAYS - 1)
    values = {
        "first": first,
        "day": day,
        "start": datetime.combine(first, time(), UTC),
        "day_start": datetime.combine(day, time(), UTC),
        "end": datetime.combine(day, time(), UTC) + timedelta(days=1),
        "feeds": list(FEEDS),
        "green": green_from,
        "drift": MAX_DRIFT,
        "reconciliations": MAX_RECONCILIATIONS,
    }
    async with connection.cursor(row_factory=dict_row) as cursor:

        async def rows(statement: str) -> list[Row]:
            await cursor.execute(statement.encode(), values)
            return await cursor.fetchall()

        now = (await rows("SELECT ssmd_now() AS now"))[0]["now"]
        drift, reconciliations = await rows(_DRIFT), await rows(_RECONCILIATIONS)
        return Rows(
            first=first,
            day=day,
            now=now,
            scores=await rows(_SCORES),
            hours=await rows(_HOURS),
            types=await rows(_TYPES),
            untrusted=await rows(_UNTRUSTED),
            drift=drift,
            reconciliations=reconciliations,
            runs=run_failures[:MAX_RUNS],
            left_out=_left_out(drift, reconciliations, run_failures),
        )


def _left_out(drift: Sequence[Row], reconciliations: Sequence[Row], runs: Sequence[RunFailure]) -> dict[str, int]:
    found = {
        "drift": drift[0]["of_all"] - len(drift) if drift else 0,
        "reconciliation": reconciliations[0]["of_all"] - len(reconciliations) if reconciliations else 0,
        "run": max(0, len(runs) - MAX_RUNS),
    }
    return {kind: number for kind, number in found.items() if number}
