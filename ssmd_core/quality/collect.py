"""Gathers what scores are made of: the archive's and the datasets' manifests, parquet footers, ledgers in Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from statistics import median
from typing import Any

import psycopg
from psycopg.rows import dict_row

from ssmd_core.archive.paths import SLOT_S
from ssmd_core.datasets.coverage import DayCoverage, HourState, Manifests, day_coverage
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds import FEEDS
from ssmd_core.feeds.base import Feed
from ssmd_core.quality.daily import DayInputs, DayScore, FundingInputs, score_day
from ssmd_core.quality.hourly import STREAM, HourScore, LedgerHour, score_hour
from ssmd_core.quality.parquet_stats import FileStats, day_stats, hours_of
from ssmd_core.quality.store import store_day, store_files, store_hours

HISTORY_DAYS = 7
#: After its end an hour is built by then, says the freshness policy of the datasets.
BUILT_AFTER = timedelta(hours=2)
# The daemon's own; see ssmd_stream.consumers.funding_daemon.
FUNDING_INTERVAL_S = 300.0
_FUNDING_FEED = "kraken-futures"

# An instrument counts once a minute and connection, however often that connection was opened in it. A minute between
# two of a connection that has no row is one in which it was closed: asked for all the same.
_LEDGER = """
WITH of_minute AS (
  SELECT date_trunc('hour', minute, 'UTC') AS hour, minute, connection, max(asked) AS asked,
         sum(open_s * LEAST(acknowledged, asked)) AS held
  FROM ledger_minutes
  WHERE feed = %(feed)s AND stream = %(stream)s AND minute >= %(from)s AND minute < %(to)s AND epoch NOT LIKE 'k0-%%'
  GROUP BY 1, 2, 3
), of_connection AS (
  SELECT hour, avg(asked) * (1 + extract(epoch FROM max(minute) - min(minute)) / 60) AS asked,
         sum(LEAST(held, 60 * asked)) AS held, min(minute) AS first_minute, max(minute) AS last_minute
  FROM of_minute GROUP BY hour, connection
), held AS (
  SELECT hour, sum(asked)::float8 AS asked, sum(held)::float8 AS held,
         (1 + extract(epoch FROM max(last_minute) - min(first_minute)) / 60)::float8 AS minutes
  FROM of_connection GROUP BY 1
), sums AS (
  SELECT date_trunc('hour', minute, 'UTC') AS hour, sum(passed)::int8 AS passed, sum(failed)::int8 AS failed,
         sum(sequence_missing)::int8 AS missing,
         max(minute) FILTER (WHERE age_p50_ms IS NOT NULL) AS last_minute, avg(age_p50_ms) AS age_ms
  FROM ledger_minutes
  WHERE feed = %(feed)s AND stream = %(stream)s AND minute >= %(from)s AND minute < %(to)s
  GROUP BY 1
), broken AS (
  SELECT hour, count(*) AS untrusted FROM untrusted_intervals
  WHERE feed = %(feed)s AND stream = %(stream)s AND hour >= %(from)s AND hour < %(to)s GROUP BY 1
)
SELECT h.hour, h.word, h.reasons, (h.totals->>'market_messages')::int8 AS messages, held.asked, held.held, held.minutes,
       sums.passed, sums.failed, sums.missing, sums.last_minute, sums.age_ms, broken.untrusted
FROM ledger_hours h LEFT JOIN held USING (hour) LEFT JOIN sums USING (hour) LEFT JOIN broken USING (hour)
WHERE h.feed = %(feed)s AND h.stream = %(stream)s AND h.hour >= %(from)s AND h.hour < %(to)s
"""
_FUNDING = """
SELECT extract(epoch FROM %(at)s - max(snapshot_at))::float8 AS age_s,
       count(*) FILTER (WHERE snapshot_at > %(at)s - interval '24 hours') AS snapshots,
       count(DISTINCT pair_id) FILTER (WHERE snapshot_at > %(at)s - interval '1 hour') AS products
FROM pair_snapshots WHERE snapshot_at <= %(at)s AND snapshot_at > %(at)s - interval '8 days'
"""
# Of one kind; a day of files that all break would fill the row and the mail.
_MOST_PROBLEMS = 5
_PROBLEM_CHARS = 300


@dataclass(frozen=True, slots=True)
class Scored:
    """Everything that a day's scoring made.

    Attributes:
        day, hours, files: scores of the feeds and of their hours, and what was read of the day's parquet files.
        read: `feed/stream` whose manifest of datasets could be read: all their files are among `files`.
    """

    day: DayScore
    hours: tuple[HourScore, ...]
    files: tuple[FileStats, ...]
    read: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _StreamDay:
    covered: DayCoverage
    earlier: tuple[DayCoverage, ...]
    ledger: dict[datetime, LedgerHour]
    files: tuple[FileStats, ...]
    problems: tuple[str, ...]
    unbuilt: bool
    readable: bool
    scores: list[HourScore] = field(default_factory=list)

    @property
    def captured(self) -> bool:
        """Whether there is anything at all of it in these days; what cannot be read is something."""
        days = (self.covered, *self.earlier)
        return any(day.error or any(hour.slots or hour.has_dataset for hour in day.hours) for day in days)

    @property
    def began(self) -> int:
        """First hour of the day that counts: the first with data, where none of the days before has any."""
        if any(day.error or any(hour.slots or hour.has_dataset for hour in day.hours) for day in self.earlier):
            return 0
        return next((number for number, hour in enumerate(self.covered.hours) if hour.slots or hour.has_dataset), 0)

    @property
    def usual_messages(self) -> float | None:
        """Median of the days before that have any; the day in question is not among them."""
        sums = [sum(hour.records for hour in day.hours) for day in self.earlier]
        return median(found) if (found := [messages for messages in sums if messages]) else None


async def score_and_store(
    connection: psycopg.AsyncConnection, manifests: Manifests, day: date, now: datetime
) -> Scored:
    """Score a day and write hourly scores, daily scores and statistics of parquet files, all or nothing.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    found = await collect(connection, manifests, day, now)
    async with connection.transaction():
        await store_files(connection, day, found.read, found.files)
        await store_hours(connection, day, [one.feed for one in found.day.feeds], found.hours)
        await store_day(connection, found.day)
    return found


async def collect(connection: psycopg.AsyncConnection, manifests: Manifests, day: date, now: datetime) -> Scored:
    """Score a day without writing anything.

    Args:
        now: the day is scored as far as it is over by then.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    start = datetime.combine(day, time(), UTC)
    end = min(start + timedelta(days=1), max(now, start))
    inputs: list[DayInputs] = []
    hours: list[HourScore] = []
    files: list[FileStats] = []
    left_out: list[str] = []
    read: list[str] = []
    for feed in FEEDS.values():
        streams = [await _stream_day(connection, manifests, feed, name, day, now) for name in manifests.streams(feed)]
        streams = [stream for stream in streams if stream.captured]
        if not streams:
            left_out.append(feed.name)
            continue
        hours += (score for stream in streams for score in stream.scores)
        files += (one for stream in streams for one in stream.files)
        read += (f"{feed.name}/{stream.covered.stream}" for stream in streams if stream.readable)
        funding = await _funding(connection, end) if feed.name == _FUNDING_FEED else None
        inputs.append(_day_inputs(feed, day, start, end, streams, funding))
    weights = {feed.name: feed.quality_weight for feed in FEEDS.values()}
    return Scored(score_day(day, inputs, weights, left_out), tuple(hours), tuple(files), tuple(read))


async def _stream_day(
    connection: psycopg.AsyncConnection, manifests: Manifests, feed: Feed, stream: str, day: date, now: datetime
) -> _StreamDay:
    covered = day_coverage(manifests, feed, stream, day, now)
    days_before = [day - timedelta(days=number) for number in range(1, HISTORY_DAYS + 1)]
    earlier = tuple(day_coverage(manifests, feed, stream, before, now) for before in days_before)
    ledger = await _ledger(connection, feed, stream, day)
    problems = [covered.error] if covered.error else []
    files: list[FileStats] = []
    sums = None
    try:
        files = day_stats(manifests, feed, stream, day, days_before[:2])
        sums = manifests.datasets(feed.name, stream, day)
    except ArchiveError as error:
        problems += [str(error)] if str(error) not in problems else []
    readable = not problems
    bad = [f"{one.path}: {one.problem}"[:_PROBLEM_CHARS] for one in files if one.problem]
    problems += bad[:_MOST_PROBLEMS]
    if len(bad) > _MOST_PROBLEMS:
        problems.append(f"and {len(bad) - _MOST_PROBLEMS:,} more files")
    start = datetime.combine(day, time(), UTC)
    due = sum(start + timedelta(hours=number + 1) + BUILT_AFTER <= now for number in range(len(covered.hours)))
    unbuilt = any(hour.records and (not hour.has_dataset or hour.rejected) for hour in covered.hours[:due])
    found = _StreamDay(covered, earlier, ledger, tuple(files), tuple(problems), unbuilt, readable)
    by_hour = hours_of(files)
    for number, hour in enumerate(covered.hours):
        at = start + timedelta(hours=number)
        if number >= found.began and at + timedelta(hours=1) <= now:
            stats = sums.hours.get(hour.hour) if sums else None
            found.scores.extend(score_hour(feed.name, stream, at, hour, ledger.get(at), stats, by_hour[hour.hour]))
    return found


def _day_inputs(
    feed: Feed, day: date, start: datetime, end: datetime, streams: Sequence[_StreamDay], funding: FundingInputs | None
) -> DayInputs:
    over = int((end - start) / timedelta(hours=1))
    began = min((stream.began for stream in streams), default=0)
    present = frozenset(
        number
        for number in range(began, over)
        if all(number < stream.began or _has_data(stream, start, number) for stream in streams)
    )
    unproved = sum(
        bool(stream.covered.hours[number].slots) and start + timedelta(hours=number) not in stream.ledger
        for stream in streams
        for number in range(over)
    )
    of_streams = [score for stream in streams for score in stream.scores if score.message_type == STREAM]
    ledgers = [one for stream in streams for one in stream.ledger.values()]
    words: dict[str, int] = {}
    for score in of_streams:
        words[score.inputs["word"]] = words.get(score.inputs["word"], 0) + 1
    files = [one for stream in streams for one in stream.files]
    usual = [messages for stream in streams if (messages := stream.usual_messages)]
    newest = [_newest(stream, end) for stream in streams]
    last_minutes = [one.last_minute for one in ledgers if one.last_minute]
    ages = [one.age_ms for one in ledgers if one.age_ms is not None]
    expected_types = {
        (stream.covered.stream, entry.message_type)
        for stream in streams
        for before in stream.earlier
        for entry in before.files
    }
    seen_types = {(one.stream, one.message_type) for one in files}
    sealed = [at for at in newest if at is not None]
    return DayInputs(
        feed=feed.name,
        day=day,
        began=began,
        hours=over,
        present=present,
        messages=sum(hour.records for stream in streams for hour in stream.covered.hours),
        expected=sum(usual) if usual else None,
        elapsed=(end - start) / timedelta(days=1),
        message_age_s=_message_age_s(last_minutes, sealed, end, proved=bool(ledgers)),
        archive_age_h=(end - max(sealed)) / timedelta(hours=1) if sealed else None,
        flowing=all(at is not None and at + timedelta(seconds=2 * SLOT_S) > end for at in newest),
        coverage=_mean([score.components["coverage"] for score in of_streams]),
        integrity=_mean([score.components["integrity"] for score in of_streams]),
        expected_types=len(expected_types | seen_types) if expected_types else len(seen_types),
        seen_types=len(seen_types),
        files=len(files),
        empty_files=sum(not one.rows for one in files),
        invalid_files=sum(not one.schema_valid for one in files),
        null_violations=sum(len(one.null_violations) for one in files),
        duplicates=sum(one.duplicates for one in {(one.stream, one.hour): one for one in files}.values()),
        age_ms=sum(ages) / len(ages) if ages else None,
        words=words,
        untrusted=sum(one.untrusted for one in ledgers),
        unproved=unproved,
        unbuilt=any(stream.unbuilt for stream in streams),
        funding=funding,
        problems=tuple(problem for stream in streams for problem in stream.problems),
    )


def _has_data(stream: _StreamDay, start: datetime, number: int) -> bool:
    """Whether an hour has data, or its ledger proves that there was none to have."""
    hour = stream.covered.hours[number]
    ledger = stream.ledger.get(start + timedelta(hours=number))
    return hour.records > 0 or (ledger is not None and (ledger.word == "empty" or ledger.messages > 0))


def _message_age_s(
    last_minutes: Sequence[datetime], sealed: Sequence[datetime], end: datetime, *, proved: bool
) -> float | None:
    """Age of the newest message, by the ledgers; where there is none, that of the newest sealed slot stands for it."""
    if last_minutes:
        return max((end - max(last_minutes)).total_seconds() - 60, 0.0)
    return (end - max(sealed)).total_seconds() if sealed and not proved else None


def _newest(stream: _StreamDay, end: datetime) -> datetime | None:
    """End of the newest sealed slot, to the hour's quarter; None without one."""
    for day in (stream.covered, *stream.earlier):
        start = datetime.combine(day.date, time(), UTC)
        for number in range(23, -1, -1):
            hour = day.hours[number]
            if hour.slots and hour.state != HourState.DAMAGED:
                return min(start + timedelta(hours=number, seconds=SLOT_S * hour.slots), end)
    return None


async def _ledger(
    connection: psycopg.AsyncConnection, feed: Feed, stream: str, day: date
) -> dict[datetime, LedgerHour]:
    start = datetime.combine(day, time(), UTC)
    values = {"feed": feed.name, "stream": stream, "from": start, "to": start + timedelta(days=1)}
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_LEDGER, values)
        rows: list[dict[str, Any]] = await cursor.fetchall()
    found = {}
    for row in rows:
        minutes = row["minutes"] or 0
        asked = (row["asked"] or 0.0) * 60
        found[row["hour"]] = LedgerHour(
            word=row["word"],
            reasons=tuple(str(reason.get("code", "")) for reason in row["reasons"]),
            asked=asked / minutes * 60 if minutes else 0.0,
            held=row["held"] or 0.0,
            passed=row["passed"] or 0,
            failed=row["failed"] or 0,
            missing=row["missing"] or 0,
            untrusted=row["untrusted"] or 0,
            messages=row["messages"] or 0,
            last_minute=row["last_minute"],
            age_ms=row["age_ms"],
        )
    return found


async def _funding(connection: psycopg.AsyncConnection, at: datetime) -> FundingInputs | None:
    """None where no daemon has written a snapshot in the week: then none is expected."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_FUNDING, {"at": at})
        row = await cursor.fetchone()
    if row is None or row["age_s"] is None:
        return None
    return FundingInputs(row["age_s"], row["snapshots"], row["products"], FUNDING_INTERVAL_S)


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
