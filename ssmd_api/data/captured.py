"""What was captured: manifests and datasets of the data folder, and what a question about a day reads of them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from ssmd_api.data.engine import Engine
from ssmd_api.errors import InvalidRequestError, UnavailableError
from ssmd_api.params import shown
from ssmd_api.proof.hours import Books
from ssmd_core.datasets.coverage import HOURS, DayCoverage, HourState, Manifests, day_coverage
from ssmd_core.feeds import get
from ssmd_core.feeds.base import Feed, Schema
from ssmd_core.proof.words import Words
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    from ssmd_api.services import Services

log = structlog.get_logger()

_PROVED = frozenset({"complete", "empty"})
_HOUR = re.compile(r"(?:[01][0-9]|2[0-3])00\Z")


class Captured:
    """The data folder, as the API reads it. Nothing is opened before the first question.

    Attributes:
        manifests: of the archive and the datasets.
        words: of hours that are proved.
        engine: DuckDB over the datasets.
        books: order books from the archive.
    """

    def __init__(self, settings: Settings) -> None:
        self.manifests = Manifests(settings.archive_root, settings.dataset_root)
        self.words = Words(settings.proof_root)
        self.engine = Engine(settings.dataset_root)
        self.books = Books()

    def close(self) -> None:
        """End; queries that run are interrupted."""
        self.engine.close()


class Basis(msgspec.Struct, rename="camel", kw_only=True):
    """What an answer is made from, and what it lacks.

    Attributes:
        streams: that were read.
        hour: None for the whole day.
        complete: True if the ledgers of all hours prove it; False if something is known to be missing; None if
            neither is known.
        missing_hours: hours without a dataset, but for those to come.
        not_built: those among them that are archived, whole or in part.
        partial_hours: hours of which fewer than four slots were sealed; those that are built are in the answer.
        stale_hours: hours that were archived anew since they were built: the answer has the older state.
        future_hours: hours of which no slot is over yet.
        other_schema_hours: hours whose files have another major version of the schema; they are not in the answer.
        rejected_hours: hours with messages that break their schema; they are not in the answer.
        gap_hours: hours in which messages are known to have been lost.
        degraded_hours: hours whose ledger says that something is wrong.
        sources: files that were read, below the dataset root.
    """

    feed: str
    streams: list[str]
    date: date
    hour: str | None
    complete: bool | None
    missing_hours: list[str]
    not_built: list[str]
    partial_hours: list[str]
    stale_hours: list[str]
    future_hours: list[str]
    other_schema_hours: list[str]
    rejected_hours: list[str]
    gap_hours: list[str]
    degraded_hours: list[str]
    sources: list[str]


@dataclass(frozen=True, slots=True)
class Reading:
    """The files of one message type for a question.

    Attributes:
        schema: what their columns mean.
        paths: of the files.
        any_dataset: whether any of the hours has datasets that can be read; without one, nothing is known, not even
            that it was nothing.
        state: hashes of the files: what was counted over them holds as long as these are the same.
        basis: for the answer.
    """

    feed: Feed
    schema: Schema
    paths: list[str]
    any_dataset: bool
    state: tuple[str, ...]
    basis: Basis


def check_hour(hour: str | None) -> None:
    """Refuse what is no hour.

    Raises:
        InvalidRequestError: not `HH00`.
    """
    if hour is not None and not _HOUR.match(hour):
        raise InvalidRequestError(f"hour: {shown(hour)} is not an hour such as 1100", field="hour")


async def reading(
    services: Services, feed: str, day: date, message_type: str, *, hour: str | None = None, stream: str | None = None
) -> Reading:
    """The files that hold a message type of a day, and what is missing of it.

    Args:
        hour: `HH00`, only this one.
        stream: only this one; default are those that the registry names, because others may hold the same messages.

    Raises:
        InvalidRequestError: no such hour or stream.
        UnavailableError: a manifest is damaged.
    """
    check_hour(hour)
    return await asyncio.to_thread(
        _reading, services.captured, get(feed), day, message_type, hour, stream, services.now
    )


def _reading(
    captured: Captured, feed: Feed, day: date, message_type: str, hour: str | None, stream: str | None, now: datetime
) -> Reading:
    manifests = captured.manifests
    if stream is not None and stream not in (known := manifests.streams(feed)):
        raise InvalidRequestError(f"stream: {shown(stream)} is none of {', '.join(known)}", field="stream")
    streams = list(feed.streams) if stream is None else [stream]
    schema = feed.required_schema(message_type)
    days = [checked(day_coverage(manifests, feed, name, day, now)) for name in streams]
    wanted = set(HOURS) if hour is None else {hour}
    other: set[str] = set()
    sources, hashes = [], []
    for one in days:
        for file in one.files:
            if file.message_type == message_type and file.hour in wanted:
                if _major(file.schema_version) == _major(schema.version):
                    # Not the manifest's own path: this one stays below the root whatever it says.
                    sources.append(f"{feed.name}/{one.stream}/{day}/{message_type}_{file.hour}.parquet")
                    hashes.append(file.sha256)
                else:
                    other.add(file.hour)
    root = manifests.dataset_root.resolve()
    basis = _basis(captured.words, feed, day, hour, days, wanted, message_type, now)
    basis.other_schema_hours = sorted(other)
    basis.sources = sources
    if other:
        basis.complete = False
    built = any(each.has_dataset for one in days for each in one.hours if each.hour in wanted - other)
    return Reading(feed, schema, [str(root / source) for source in sources], built, tuple(hashes), basis)


def checked(day: DayCoverage) -> DayCoverage:
    """The day, if its manifests can be read.

    Raises:
        UnavailableError: they cannot.
    """
    if day.error:
        log.error("manifest_damaged", feed=day.feed, stream=day.stream, date=str(day.date), error=day.error)
        raise UnavailableError(f"a manifest of {day.feed}/{day.stream} on {day.date} is damaged")
    return day


def basis_of(words: Words, feed: Feed, days: list[DayCoverage], now: datetime) -> Basis:
    """What is known of a whole day of streams; without sources."""
    return _basis(words, feed, days[0].date, None, days, set(HOURS), None, now)


def _basis(
    words: Words,
    feed: Feed,
    day: date,
    hour: str | None,
    days: list[DayCoverage],
    wanted: set[str],
    message_type: str | None,
    now: datetime,
) -> Basis:
    hours = [each for one in days for each in one.hours if each.hour in wanted]

    def those(*states: HourState) -> list[str]:
        return sorted({each.hour for each in hours if each.state in states})

    without = [each for each in hours if not each.has_dataset and each.state is not HourState.FUTURE]
    rejected = [each for each in hours if (message_type in each.rejected_types if message_type else each.rejected)]
    proved = {
        (one.stream, each.hour): words.word(feed.name, one.stream, day, number, each, now)
        for one in days
        for number, each in enumerate(one.hours)
        if each.hour in wanted
    }
    known = all(each.state is HourState.BUILT and not each.known_missing for each in hours)
    whole = not rejected and known and "degraded" not in proved.values()
    return Basis(
        feed=feed.name,
        streams=[one.stream for one in days],
        date=day,
        hour=hour,
        complete=(True if _PROVED.issuperset(proved.values()) else None) if whole else False,
        missing_hours=sorted({each.hour for each in without}),
        not_built=sorted({each.hour for each in without if each.slots}),
        partial_hours=those(HourState.PARTIAL),
        stale_hours=those(HourState.STALE),
        future_hours=those(HourState.FUTURE),
        other_schema_hours=[],
        rejected_hours=sorted({each.hour for each in rejected}),
        gap_hours=sorted({each.hour for each in hours if each.known_missing}),
        degraded_hours=sorted({hour for (_, hour), word in proved.items() if word == "degraded"}),
        sources=[],
    )


def _major(version: str) -> str:
    return version.partition(".")[0]
