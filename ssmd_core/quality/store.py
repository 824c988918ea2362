"""Scores and statistics into Postgres: one row a day and feed, an hour and type, a file. The newest run counts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import psycopg
from psycopg.types.json import Jsonb

from ssmd_core.quality.daily import DayScore
from ssmd_core.quality.hourly import HourScore
from ssmd_core.quality.parquet_stats import FileStats

_HOURLY = """
INSERT INTO dq_hourly_scores (feed, stream, hour, message_type, score, components, inputs)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (feed, stream, hour, message_type) DO UPDATE SET
  score = EXCLUDED.score, components = EXCLUDED.components, inputs = EXCLUDED.inputs, updated_at = ssmd_now()
WHERE (dq_hourly_scores.score, dq_hourly_scores.components, dq_hourly_scores.inputs)
  IS DISTINCT FROM (EXCLUDED.score, EXCLUDED.components, EXCLUDED.inputs)
"""
_OTHER_HOURS = """
DELETE FROM dq_hourly_scores WHERE feed = ANY(%s) AND hour >= %s AND hour < %s
  AND NOT (feed, stream, hour, message_type) = ANY (
    SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[]))
"""
_OTHER_FILES = """
DELETE FROM dq_parquet_stats f USING unnest(%(folders)s::text[]) folder
WHERE f.date = %(day)s AND starts_with(f.path, folder) AND NOT f.path = ANY(%(paths)s)
"""
_DAILY = """
INSERT INTO dq_daily_scores (check_date, feed, score, composite_score, details, gap_count, gap_total_minutes,
  coverage_pct, expected_messages, actual_messages)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (check_date, feed) DO UPDATE SET
  score = EXCLUDED.score, composite_score = EXCLUDED.composite_score, details = EXCLUDED.details,
  gap_count = EXCLUDED.gap_count, gap_total_minutes = EXCLUDED.gap_total_minutes,
  coverage_pct = EXCLUDED.coverage_pct, expected_messages = EXCLUDED.expected_messages,
  actual_messages = EXCLUDED.actual_messages, updated_at = ssmd_now()
"""
_FILES = """
INSERT INTO dq_parquet_stats (path, feed, msg_type, date, rows, file_size_bytes, compression_ratio,
  duplicates_filtered, schema_valid, null_violations)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (path) DO UPDATE SET
  rows = EXCLUDED.rows, file_size_bytes = EXCLUDED.file_size_bytes, compression_ratio = EXCLUDED.compression_ratio,
  duplicates_filtered = EXCLUDED.duplicates_filtered, schema_valid = EXCLUDED.schema_valid,
  null_violations = EXCLUDED.null_violations, created_at = ssmd_now()
"""


async def store_hours(
    connection: psycopg.AsyncConnection, day: date, feeds: Sequence[str], scores: Sequence[HourScore]
) -> None:
    """Write the hourly scores of a day; what is already so is not written again, what an earlier run scored and this
    one did not is removed.

    Args:
        feeds: that were scored.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    start = datetime.combine(day, time(), UTC)
    keys = [(one.feed, one.stream, one.hour, one.message_type) for one in scores]
    columns = [list(column) for column in zip(*keys, strict=True)] or [[], [], [], []]
    await connection.execute(_OTHER_HOURS, (list(feeds), start, start + timedelta(days=1), *columns))
    rows = [
        (one.feed, one.stream, one.hour, one.message_type, one.score, Jsonb(one.components), Jsonb(one.inputs))
        for one in scores
    ]
    await _write(connection, _HOURLY, rows)


async def store_day(connection: psycopg.AsyncConnection, day: DayScore) -> None:
    """Write one row a feed; the composite stands on each.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    rows = [
        (
            one.day, one.feed, one.score, day.composite, Jsonb(one.details), len(one.gaps),
            sum(gap.duration_minutes for gap in one.gaps), one.coverage_pct, one.expected_messages, one.actual_messages,
        )
        for one in day.feeds
    ]  # fmt: skip
    await _write(connection, _DAILY, rows)


async def store_files(
    connection: psycopg.AsyncConnection, day: date, read: Sequence[str], files: Sequence[FileStats]
) -> None:
    """Write one row a parquet file; rows of files that are no longer there are removed.

    Args:
        read: `feed/stream` of which all files are given.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    folders = [f"{stream}/{day}/" for stream in read]
    paths = [one.path for one in files]
    await connection.execute(_OTHER_FILES, {"day": day, "folders": folders, "paths": paths})
    rows = [
        (
            one.path, one.feed, one.message_type, one.date, one.rows, one.bytes, one.compression_ratio,
            one.duplicates, one.schema_valid, Jsonb(one.null_violations),
        )
        for one in files
    ]  # fmt: skip
    await _write(connection, _FILES, rows)


async def _write(connection: psycopg.AsyncConnection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        async with connection.cursor() as cursor:
            await cursor.executemany(statement, rows)
