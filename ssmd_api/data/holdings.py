"""What is there: coverage of hours, a day's files, how fresh a feed is, the schemas of its datasets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date, datetime

import msgspec
import structlog

from ssmd_api.data.captured import Basis, basis_of, checked
from ssmd_api.data.questions import members, served
from ssmd_api.errors import InvalidRequestError
from ssmd_api.params import shown
from ssmd_api.services import Services
from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.datasets.coverage import DayCoverage, HourState, day_coverage, newest_hour
from ssmd_core.datasets.coverage import coverage as covered
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds import get
from ssmd_core.feeds.base import Feed

log = structlog.get_logger()

MAX_COVERAGE_DAYS = 31
#: A feed whose newest dataset is of an hour that began longer ago is stale.
STALE_HOURS = 7


class HourAnswer(msgspec.Struct, rename="camel"):
    """One hour of a stream, see `ssmd_core.datasets.coverage.HourCoverage`.

    Attributes:
        word: `complete`, `degraded` or `empty` by its ledger, or `missing`; None while it is not proved.
    """

    hour: str
    word: str | None
    state: HourState
    slots: int
    has_dataset: bool
    records: int
    rejected: int | None
    missing_seqs: int | None
    dropped_duplicates: int
    gaps: int
    lost: int


class CoverageDay(msgspec.Struct, rename="camel"):
    """One day of a stream: all 24 hours."""

    date: date
    hours: list[HourAnswer]


class CoverageStream(msgspec.Struct, rename="camel"):
    """The days of a stream."""

    stream: str
    days: list[CoverageDay]


class FeedCoverage(msgspec.Struct, rename="camel"):
    """The streams of a feed."""

    feed: str
    streams: list[CoverageStream]


class CoverageAnswer(msgspec.Struct, rename="camel"):
    """What is there of each hour, by what the manifests and the ledgers say: none is complete without a ledger."""

    from_: date = msgspec.field(name="from")
    to: date
    feeds: list[FeedCoverage]


class FileAnswer(msgspec.Struct, rename="camel"):
    """A parquet file; `path` is relative to the dataset root."""

    path: str
    type: str
    hour: str
    bytes: int
    rows: int
    sha256: str
    schema_name: str
    schema_version: str


class DayStream(msgspec.Struct, rename="camel"):
    """What a day of a stream holds."""

    stream: str
    hours: list[HourAnswer]
    files: list[FileAnswer]
    total_bytes: int
    total_rows: int


class DayAnswer(Basis, rename="camel", kw_only=True):
    """What a day of a feed holds."""

    contents: list[DayStream]


class FeedFreshness(msgspec.Struct):
    """How old the newest datasets of a feed are.

    Attributes:
        status: fresh, stale (older than `STALE_HOURS`), no_data, or error if a manifest is damaged.
        newest_hour: `HH00`; `age_hours` counts from its beginning.
    """

    feed: str
    status: str
    newest_date: date | None
    newest_hour: str | None
    age_hours: float | None
    stale: bool


class FreshnessAnswer(msgspec.Struct):
    """How old the newest datasets are."""

    checked_at: datetime
    stale_threshold_hours: int
    feeds: list[FeedFreshness]


class ColumnAnswer(msgspec.Struct, rename="camel"):
    """A column, with its type in arrow."""

    name: str
    type: str
    nullable: bool
    unit: str
    description: str


class SchemaAnswer(msgspec.Struct, rename="camel"):
    """The columns of a message type's dataset as it is built now."""

    feed: str
    message_type: str
    schema_name: str
    schema_version: str
    description: str
    columns: list[ColumnAnswer]


class SchemasAnswer(msgspec.Struct, rename="camel"):
    """Schemas of datasets."""

    schemas: list[SchemaAnswer]


async def coverage(services: Services, feed: str, first: date, last: date) -> FeedCoverage:
    """What is there of each hour of the days from first to last.

    A damaged manifest makes the hours of its day `damaged`.

    Raises:
        InvalidRequestError: more days than `MAX_COVERAGE_DAYS`, or in the wrong order.
    """
    if not 0 <= (last - first).days < MAX_COVERAGE_DAYS:
        raise InvalidRequestError(f"from: {first} to {last} is not 1 to {MAX_COVERAGE_DAYS} days", field="from")
    return await asyncio.to_thread(_coverage, services, get(feed), first, last)


async def day(services: Services, feed: str, day: date) -> DayAnswer:
    """What a day of a feed holds: coverage by hour, files with their hashes.

    Raises:
        UnavailableError: a manifest is damaged.
    """
    found = await asyncio.to_thread(_day, services, get(feed), day)
    served(services, feed, sum(len(each.files) for each in found.contents))
    return found


async def freshness(services: Services, feeds: Sequence[str], first: date, last: date) -> FreshnessAnswer:
    """How old the newest datasets of feeds are, among the days from first to last."""
    now = services.now
    found = [await asyncio.to_thread(_freshness, services, get(feed), first, last, now) for feed in feeds]
    return FreshnessAnswer(now, STALE_HOURS, found)


def schemas(feeds: Sequence[str], message_type: str | None = None) -> SchemasAnswer:
    """The schemas of feeds' datasets, as the registry has them.

    Raises:
        InvalidRequestError: none of the feeds has a dataset of that type.
    """
    found = [
        SchemaAnswer(
            feed=name,
            message_type=kind.name,
            schema_name=kind.schema.name,
            schema_version=kind.schema.version,
            description=kind.description,
            columns=[
                ColumnAnswer(
                    name=field.name,
                    type=str(field.type),
                    nullable=field.nullable,
                    unit=_about(field.metadata, b"unit"),
                    description=_about(field.metadata, b"description"),
                )
                for field in arrow_schema(kind.schema)
            ],
        )
        for name in feeds
        for kind in get(name).message_types.values()
        if kind.schema is not None and message_type in (None, kind.name)
    ]
    if not found:
        raise InvalidRequestError(f"type: {shown(message_type or '')} has no dataset in these feeds", field="type")
    return SchemasAnswer(found)


def recent_days(first: date | None, last: date | None, reach: tuple[date, date], today: date) -> tuple[date, date]:
    """The days that coverage is shown of: as asked for; a missing end is today, a missing beginning a week before.

    Args:
        reach: first and last day of the key.
    """
    end = last or max(min(reach[1], today), reach[0])
    if first is not None and end < first:
        end = first
    week = date.fromordinal(max(reach[0].toordinal(), end.toordinal() - 6))
    return first or week, end


def _coverage(services: Services, feed: Feed, first: date, last: date) -> FeedCoverage:
    streams: dict[str, CoverageStream] = {}
    for one in covered(services.captured.manifests, feed, first, last, services.now):
        if one.error:
            log.error("manifest_damaged", feed=feed.name, stream=one.stream, date=str(one.date), error=one.error)
        of_stream = streams.setdefault(one.stream, CoverageStream(one.stream, []))
        of_stream.days.append(CoverageDay(one.date, _hours(services, one)))
    return FeedCoverage(feed.name, list(streams.values()))


def _day(services: Services, feed: Feed, day: date) -> DayAnswer:
    manifests = services.captured.manifests
    found = [checked(day_coverage(manifests, feed, stream, day, services.now)) for stream in manifests.streams(feed)]
    days = [one for one in found if one.stream in feed.streams or one.files or any(hour.slots for hour in one.hours)]
    return DayAnswer(
        **members(basis_of(services.captured.words, feed, days, services.now)),
        contents=[_contents(services, one) for one in days],
    )


def _contents(services: Services, one: DayCoverage) -> DayStream:
    files = [
        FileAnswer(
            path=file.path,
            type=file.message_type,
            hour=file.hour,
            bytes=file.bytes,
            rows=file.row_count,
            sha256=file.sha256,
            schema_name=file.schema_name,
            schema_version=file.schema_version,
        )
        for file in one.files
    ]
    return DayStream(
        one.stream, _hours(services, one), files, sum(file.bytes for file in files), sum(file.rows for file in files)
    )


def _hours(services: Services, one: DayCoverage) -> list[HourAnswer]:
    words, now = services.captured.words, services.now
    return [
        HourAnswer(
            hour=hour.hour,
            word=words.word(one.feed, one.stream, one.date, number, hour, now),
            state=hour.state,
            slots=hour.slots,
            has_dataset=hour.has_dataset,
            records=hour.records,
            rejected=hour.rejected,
            missing_seqs=hour.missing_seqs,
            dropped_duplicates=hour.dropped,
            gaps=hour.gaps,
            lost=hour.lost,
        )
        for number, hour in enumerate(one.hours)
    ]


def _freshness(services: Services, feed: Feed, first: date, last: date, now: datetime) -> FeedFreshness:
    try:
        newest = newest_hour(services.captured.manifests, feed, first, last)
    except ArchiveError as error:
        log.error("manifest_damaged", feed=feed.name, error=str(error))
        return FeedFreshness(feed.name, "error", None, None, None, True)
    if newest is None:
        return FeedFreshness(feed.name, "no_data", None, None, None, True)
    age_hours = (now - newest).total_seconds() / 3600
    stale = age_hours > STALE_HOURS
    status = "stale" if stale else "fresh"
    return FeedFreshness(feed.name, status, newest.date(), f"{newest:%H00}", round(age_hours, 1), stale)


def _about(metadata: dict[bytes, bytes] | None, name: bytes) -> str:
    return (metadata or {}).get(name, b"").decode()
