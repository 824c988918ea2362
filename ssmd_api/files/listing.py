"""What there is of the captured data, by its manifests alone: feeds, days, files, and hours that are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta

import msgspec

from ssmd_api.errors import InvalidRequestError
from ssmd_api.files.answers import (
    CatalogAnswer,
    CatalogDay,
    CatalogEntry,
    FeedEntry,
    FeedList,
    MissingHour,
    Offer,
    State,
)
from ssmd_api.files.holdings import Holdings
from ssmd_api.files.proofs import PROOF_TYPES, backfill_files, not_proved, proof_files
from ssmd_api.params import shown
from ssmd_api.routing import days_between
from ssmd_core.archive.manifest import Manifest
from ssmd_core.archive.paths import SLOT_FILE
from ssmd_core.datasets.catalog import StreamEntry
from ssmd_core.datasets.manifest import ParquetManifest
from ssmd_core.feeds import FEEDS
from ssmd_core.feeds.base import Feed
from ssmd_core.storage.layout import Day, Kind

MAX_FILES = 200
_SLOTS_PER_HOUR = 4


async def feeds(holdings: Holdings, names: Sequence[str], first: date, last: date) -> FeedList:
    """The streams of the feeds, with what lies between the days.

    Raises:
        UnavailableError: a manifest cannot be read.
    """
    catalog = await holdings.catalog()
    found = {(entry.feed, entry.stream): entry for entry in (catalog.feeds if catalog else [])}
    answer = FeedList([], catalog.generated_at if catalog else None)
    for feed in (FEEDS[name] for name in names):
        streams = {**dict.fromkeys(feed.streams), **{stream: None for name, stream in found if name == feed.name}}
        for stream in streams:
            entry = FeedEntry(feed.name, feed.display_name, f"{feed.name}/{stream}", stream, dataset_types(feed))
            if (listed := found.get((feed.name, stream))) and (cut := await _cut(holdings, listed, first, last)):
                entry.date_min, entry.date_max = cut.date_min, cut.date_max
                entry.total_files, entry.total_bytes, entry.total_rows = (
                    cut.total_files,
                    cut.total_bytes,
                    cut.total_rows,
                )
            answer.feeds.append(entry)
    return answer


async def overview(holdings: Holdings, names: Sequence[str], first: date, last: date) -> CatalogAnswer:
    """Streams with datasets between the days.

    Raises:
        UnavailableError: a manifest cannot be read.
    """
    catalog = await holdings.catalog()
    if catalog is None:
        return CatalogAnswer(None, feeds=[])
    cut = [await _cut(holdings, entry, first, last) for entry in catalog.feeds if entry.feed in names]
    return CatalogAnswer(catalog.generated_at, feeds=[entry for entry in cut if entry is not None])


async def feed_catalog(holdings: Holdings, feed: str, first: date, last: date) -> CatalogAnswer:
    """The days of one feed.

    Raises:
        UnavailableError: a manifest cannot be read.
    """
    catalog = await holdings.catalog()
    days = []
    for entry in catalog.feeds if catalog else []:
        if entry.feed == feed:
            days += await _days(holdings, entry, first, last)
    days.sort(key=lambda day: (day.date, day.stream))
    begin, end = (days[0].date, days[-1].date) if days else (f"{first}", f"{last}")
    generated_at = catalog.generated_at if catalog else None
    return CatalogAnswer(generated_at, feed=feed, from_=begin, to=end, dates=days)


async def files(
    holdings: Holdings,
    feed: Feed,
    first: date,
    last: date,
    now: datetime,
    *,
    kind: Kind,
    message_type: str | None = None,
    stream: str | None = None,
    local: Holdings | None = None,
) -> tuple[list[Offer], list[MissingHour]]:
    """Files between the days, not yet signed, and the hours until now that are not there in full.

    Args:
        local: what will be in the holdings once it is uploaded.

    Raises:
        InvalidRequestError: an unknown type or stream, or more files than one answer gives.
        UnavailableError: a manifest cannot be read.
    """
    if message_type is not None and kind is Kind.RAW:
        raise InvalidRequestError("type: raw files hold all types; leave it out", field="type")
    known = PROOF_TYPES if kind is Kind.PROOF else dataset_types(feed)
    if message_type is not None and message_type not in known:
        raise InvalidRequestError(f"type: {shown(message_type)} is none of {', '.join(known)}", field="type")
    streams = await _streams(holdings, feed)
    if stream is not None:
        if stream not in streams:
            raise InvalidRequestError(f"stream: {shown(stream)} is none of {', '.join(streams)}", field="stream")
        streams = [stream]
    days = [(name, f"{day}") for name in streams for day in days_between(first, last)]
    offers, missing = await _found(holdings, feed, days, now, kind)
    offers = [offer for offer in offers if message_type in {None, offer.type}]
    if local is not None:
        missing = _not_uploaded(missing, (await _found(local, feed, days, now, kind))[1])
    if len(offers) > MAX_FILES:
        raise InvalidRequestError(
            f"{len(offers)} files, {MAX_FILES} is the most for one answer: ask for fewer days, one type or one stream",
            field="from",
        )
    return offers, missing


async def _manifests(
    holdings: Holdings, feed: Feed, days: Sequence[tuple[str, str]]
) -> list[tuple[Manifest | None, ParquetManifest | None]]:
    raws = await asyncio.gather(*(holdings.raw(feed.name, stream, day) for stream, day in days))
    parquets = await asyncio.gather(*(holdings.parquet(feed.name, stream, day) for stream, day in days))
    return list(zip(raws, parquets, strict=True))


async def _found(
    holdings: Holdings, feed: Feed, days: Sequence[tuple[str, str]], now: datetime, kind: Kind
) -> tuple[list[Offer], list[MissingHour]]:
    """Files of the days, and the hours until now that are not there in full; of a backfill none need be."""
    if kind is Kind.BACKFILL:
        return await backfill_files(holdings, feed.name, days), []
    manifests = await _manifests(holdings, feed, days)
    if kind is Kind.PROOF:
        offers = await proof_files(holdings, feed.name, days)
        return offers, not_proved(offers, days, [raw for raw, _ in manifests], now)
    offers, missing = [], []
    for (stream, day), (raw, parquet) in zip(days, manifests, strict=True):
        folder = Day(kind, feed.name, stream, day)
        offers += _raw_offers(raw, folder) if kind is Kind.RAW else _parquet_offers(parquet, folder)
        missing += _missing(raw, parquet, stream, day, now, kind)
    return offers, missing


def _not_uploaded(missing: Sequence[MissingHour], locally: Sequence[MissingHour]) -> list[MissingHour]:
    """The hours, with another state where the data folder has more of them."""
    here = {(hour.stream, hour.date, hour.hour): hour.state for hour in locally}
    return [
        hour if here.get((hour.stream, hour.date, hour.hour)) == hour.state else _as_not_uploaded(hour)
        for hour in missing
    ]


def _as_not_uploaded(hour: MissingHour) -> MissingHour:
    return msgspec.structs.replace(hour, state="not_uploaded")


def dataset_types(feed: Feed) -> list[str]:
    """Message types that have datasets."""
    return [name for name, kind in feed.message_types.items() if kind.schema is not None]


async def _streams(holdings: Holdings, feed: Feed) -> list[str]:
    catalog = await holdings.catalog()
    more = [entry.stream for entry in (catalog.feeds if catalog else []) if entry.feed == feed.name]
    return list(dict.fromkeys((*feed.streams, *more)))


async def _days(holdings: Holdings, entry: StreamEntry, first: date, last: date) -> list[CatalogDay]:
    wanted = [day for day in entry.dates if f"{first}" <= day <= f"{last}"]
    manifests = await asyncio.gather(*(holdings.parquet(entry.feed, entry.stream, day) for day in wanted))
    days = []
    for day, manifest in zip(wanted, manifests, strict=True):
        if manifest is None or not manifest.files:
            continue
        days.append(
            CatalogDay(
                date=day,
                stream=entry.stream,
                message_types=sorted({file.message_type for file in manifest.files}),
                hours=sorted(manifest.hours),
                files=len(manifest.files),
                bytes=sum(file.bytes for file in manifest.files),
                rows=sum(file.row_count for file in manifest.files),
            )
        )
    return days


async def _cut(holdings: Holdings, entry: StreamEntry, first: date, last: date) -> CatalogEntry | None:
    """A stream's entry for some days only; None if it has none of them."""
    if f"{first}" <= entry.date_min and entry.date_max <= f"{last}":
        return CatalogEntry(
            entry.feed, entry.stream, entry.message_types, entry.date_min, entry.date_max,
            entry.total_files, entry.total_bytes, entry.total_rows,
        )  # fmt: skip
    days = await _days(holdings, entry, first, last)
    if not days:
        return None
    return CatalogEntry(
        feed=entry.feed,
        stream=entry.stream,
        message_types=sorted({name for day in days for name in day.message_types}),
        date_min=days[0].date,
        date_max=days[-1].date,
        total_files=sum(day.files for day in days),
        total_bytes=sum(day.bytes for day in days),
        total_rows=sum(day.rows for day in days),
    )


def _raw_offers(manifest: Manifest | None, folder: Day) -> list[Offer]:
    if manifest is None:
        return []
    return [
        Offer(
            path=folder.file(file.name),
            name=file.name,
            stream=folder.stream,
            date=folder.date,
            type=None,
            hour=file.name[:4],
            bytes=file.bytes,
            sha256=file.sha256,
            row_count=file.records,
        )
        for file in manifest.files
    ]


def _parquet_offers(manifest: ParquetManifest | None, folder: Day) -> list[Offer]:
    if manifest is None:
        return []
    offers = []
    for file in manifest.files:
        name = file.path.rpartition("/")[2]
        offers.append(
            Offer(
                path=folder.file(name),
                name=name,
                stream=folder.stream,
                date=folder.date,
                type=file.message_type,
                hour=file.hour,
                bytes=file.bytes,
                sha256=file.sha256,
                row_count=file.row_count,
            )
        )
    return offers


def _missing(
    raw: Manifest | None, parquet: ParquetManifest | None, stream: str, day: str, now: datetime, kind: Kind
) -> list[MissingHour]:
    archived = _slots(file.name for file in raw.files) if raw else {}
    found = []
    for number in range(24):
        hour = f"{number:02d}00"
        end = datetime.fromisoformat(f"{day}T{number:02d}:00+00:00") + timedelta(hours=1)
        if end > now:
            break
        slots, built = archived.get(hour, 0), True
        if kind is Kind.PARQUET:
            built = parquet is not None and hour in parquet.hours
            if built and parquet is not None:
                slots = _slots(parquet.hours[hour].sources).get(hour, 0)
        if slots == _SLOTS_PER_HOUR and built:
            continue
        state: State = "missing" if not slots else "partial" if built else "not_built"
        found.append(MissingHour(stream, day, hour, state))
    return found


def _slots(names: Iterable[str]) -> dict[str, int]:
    """Hour -> how many of its slots the files are of; late files count with their slot."""
    slots = {name[:4] for name in names if SLOT_FILE.match(name)}
    return {hour: sum(slot[:2] == hour[:2] for slot in slots) for hour in {f"{slot[:2]}00" for slot in slots}}
