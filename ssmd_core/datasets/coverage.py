"""What is there of each hour of a stream, as the manifests of the archive and of the datasets say.

This tells what was archived and built, not what the venue sent: no hour is ever called complete here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import msgspec

from ssmd_core.archive.manifest import FileEntry as ArchiveFile
from ssmd_core.archive.manifest import Gap
from ssmd_core.archive.paths import DAY_FOLDER, MANIFEST, SLOT_FILE, SLOT_S, day_folder
from ssmd_core.datasets.manifest import PARQUET_MANIFEST, FileEntry, ParquetManifest
from ssmd_core.errors import ArchiveError, ConfigError
from ssmd_core.feeds.base import Feed
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.sealed_json import load_sealed

HOURS = tuple(f"{hour:02d}00" for hour in range(24))
SLOTS = 4
# A day of two manifests takes some 200 kB: a month of four feeds stays within 60 MB.
_KEPT = 256
_DUPLICATE = "duplicate"
_Document = TypeVar("_Document", bound=msgspec.Struct)
_Dated = TypeVar("_Dated", "ArchiveDay", ParquetManifest)


class HourState(StrEnum):
    """What is there of an hour."""

    FUTURE = "future"
    """Its first slot is not over yet."""
    MISSING = "missing"
    """No slot was sealed."""
    PARTIAL = "partial"
    """One to three slots were sealed, built or not."""
    ARCHIVED = "archived"
    """Four slots were sealed, nothing is built of them."""
    BUILT = "built"
    """Its datasets were built from exactly its four slots' files."""
    STALE = "stale"
    """Its archive files have changed since the build."""
    DAMAGED = "damaged"
    """A manifest of the day cannot be read."""


@dataclass(frozen=True, slots=True)
class HourCoverage:
    """One hour of one stream.

    Attributes:
        hour: `HH00`, UTC.
        has_dataset: whether datasets were built of it, be they stale or partial.
        slots: of its four slots, those that were sealed.
        records: archived messages.
        rejected: messages that break their schema; None without a build.
        rejected_types: their types.
        missing_seqs: JetStream sequences that the build did not find between its first and last; None without one.
        dropped: duplicates that the archiver dropped; their sequences are among the missing ones.
        gaps: holes in which messages were lost, as far as the archiver knows; one between two hours counts in both,
            for nobody knows in which of them its messages would have been.
        lost: messages in them.
    """

    hour: str
    state: HourState
    has_dataset: bool = False
    slots: int = 0
    records: int = 0
    rejected: int | None = None
    missing_seqs: int | None = None
    dropped: int = 0
    gaps: int = 0
    lost: int = 0
    rejected_types: frozenset[str] = frozenset()

    @property
    def known_missing(self) -> bool:
        """Whether messages are known to be missing from what was archived of the hour."""
        return self.gaps > 0 or (self.missing_seqs or 0) > self.dropped


@dataclass(frozen=True, slots=True)
class DayCoverage:
    """One day of one stream.

    Attributes:
        hours: all 24.
        files: datasets of the day.
        error: why its manifests cannot be read; "" if they can.
    """

    feed: str
    stream: str
    date: date
    hours: tuple[HourCoverage, ...]
    files: tuple[FileEntry, ...] = ()
    error: str = ""


class ArchiveDay(msgspec.Struct):
    """Of the archive's manifest, what coverage needs: it may name 20,000 tickers beside."""

    files: list[ArchiveFile] = []
    gaps: list[Gap] = []
    feed: str = ""
    stream: str = ""
    date: str = ""


class Manifests:
    """Reads manifests; one that has not changed on disk is read once. May be used from several threads.

    Args:
        archive_root, dataset_root: whose.
    """

    def __init__(self, archive_root: Path, dataset_root: Path) -> None:
        self.archive_root = archive_root
        self.dataset_root = dataset_root
        self._kept: OrderedDict[Path, tuple[tuple[int, ...], Any]] = OrderedDict()
        self._lock = Lock()

    def archive(self, feed: str, stream: str, day: date) -> ArchiveDay | None:
        """A day of the archive, None if there is none.

        Raises:
            ArchiveError: its manifest is damaged, or that of another day.
        """
        path = day_folder(self.archive_root, feed, stream, str(day)) / MANIFEST
        return _of(path, self._load(path, ArchiveDay), feed, stream, day)

    def datasets(self, feed: str, stream: str, day: date) -> ParquetManifest | None:
        """A day of datasets, None if there is none.

        Raises:
            ArchiveError: its manifest is damaged, or that of another day.
        """
        path = day_folder(self.dataset_root, feed, stream, str(day)) / PARQUET_MANIFEST
        found = _of(path, self._load(path, ParquetManifest), feed, stream, day)
        if found is not None and (strange := found.hours.keys() - set(HOURS)):
            raise ArchiveError(f"{path}: {', '.join(sorted(strange))} is no hour")
        return found

    def streams(self, feed: Feed) -> tuple[str, ...]:
        """The streams that the feed's registry entry names, and others that lie on disk."""
        found = set(feed.streams)
        for root in (self.archive_root, self.dataset_root):
            found.update(name for name in _folders(root / feed.name) if _is_stream(feed, name))
        return tuple(sorted(found, key=lambda name: (name not in feed.streams, name)))

    def days(self, root: Path, feed: str, stream: str, first: date, last: date) -> Iterator[date]:
        """Days from last to first that have a folder below a root."""
        for name in sorted(_folders(root / feed / stream), reverse=True):
            if DAY_FOLDER.match(name) and str(first) <= name <= str(last):
                try:
                    yield date.fromisoformat(name)
                except ValueError:
                    continue

    def _load(self, path: Path, kind: type[_Document]) -> _Document | None:
        try:
            about = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        # Manifests are replaced by rename: another inode even within one tick of the clock.
        state = (about.st_ino, about.st_mtime_ns, about.st_size)
        with self._lock:
            kept = self._kept.get(path)
            if kept is not None and kept[0] == state:
                self._kept.move_to_end(path)
                return kept[1]  # type: ignore[no-any-return]  # a path is always of one kind
        document = load_sealed(path, kind)
        with self._lock:
            self._kept[path] = (state, document)
            self._kept.move_to_end(path)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return document


def coverage(manifests: Manifests, feed: Feed, first: date, last: date, now: datetime) -> Iterator[DayCoverage]:
    """Every day from first to last, of every stream that the registry names or that has something on that day."""
    for stream in manifests.streams(feed):
        for n in range((last - first).days + 1):
            day = day_coverage(manifests, feed, stream, first + timedelta(days=n), now)
            if stream in feed.streams or any(hour.slots or hour.has_dataset for hour in day.hours) or day.error:
                yield day


def day_coverage(manifests: Manifests, feed: Feed, stream: str, day: date, now: datetime) -> DayCoverage:
    """One day of one stream; a damaged manifest makes all its hours `damaged`, with the reason."""
    try:
        archived = manifests.archive(feed.name, stream, day) or ArchiveDay()
        built = manifests.datasets(feed.name, stream, day) or ParquetManifest(feed.name, stream, str(day))
    except ArchiveError as error:
        hours = tuple(HourCoverage(hour, HourState.DAMAGED) for hour in HOURS)
        return DayCoverage(feed.name, stream, day, hours, error=str(error))
    gaps = _gaps_by_hour(archived)
    hours = tuple(_hour(day, hour, archived, built, gaps.get(hour, []), now) for hour in HOURS)
    return DayCoverage(feed.name, stream, day, hours, tuple(built.files))


def newest_hour(manifests: Manifests, feed: Feed, first: date, last: date) -> datetime | None:
    """The last hour of these days of which any stream of the feed has datasets; None if there is none.

    Raises:
        ArchiveError: the newest day's manifest is damaged.
    """
    found = []
    for stream in manifests.streams(feed):
        for day in manifests.days(manifests.dataset_root, feed.name, stream, first, last):
            built = manifests.datasets(feed.name, stream, day)
            if built is not None and built.hours:
                found.append(_start(day, max(built.hours)))
                break
    return max(found, default=None)


def _hour(
    day: date, hour: str, archived: ArchiveDay, built: ParquetManifest, gaps: list[Gap], now: datetime
) -> HourCoverage:
    files = [file for file in archived.files if file.name[:2] == hour[:2]]
    stats = built.hours.get(hour)
    # What the archive has pruned since is known from what was built of it.
    sources = stats.sources if stats else {}
    slots = len(
        {match[0][:4] for name in {*sources, *(file.name for file in files)} if (match := SLOT_FILE.match(name))}
    )
    if not slots:
        state = HourState.FUTURE if _start(day, hour) + timedelta(seconds=SLOT_S) > now else HourState.MISSING
    elif slots < SLOTS:
        state = HourState.PARTIAL
    elif stats is None:
        state = HourState.ARCHIVED
    elif any(sources.get(file.name) != file.sha256 for file in files):
        state = HourState.STALE
    else:
        state = HourState.BUILT
    return HourCoverage(
        hour=hour,
        state=state,
        has_dataset=stats is not None,
        slots=slots,
        records=sum(file.records for file in files) if files or stats is None else stats.messages,
        rejected=None if stats is None else sum(stats.rejects.values()),
        missing_seqs=None if stats is None else stats.missing_seqs,
        dropped=sum(gap.missing for gap in gaps if gap.reason == _DUPLICATE),
        gaps=sum(gap.reason != _DUPLICATE for gap in gaps),
        lost=sum(gap.missing for gap in gaps if gap.reason != _DUPLICATE),
        rejected_types=frozenset(stats.rejects if stats else ()),
    )


def _gaps_by_hour(archived: ArchiveDay) -> dict[str, list[Gap]]:
    """Holes by the hour of the last message before them, and up to that of the first one behind them; without any
    message before, by the first hour or that of the discovery."""
    found: dict[str, list[Gap]] = {}
    files = sorted((file for file in archived.files if file.records), key=lambda file: file.first_seq)
    firsts = [file.first_seq for file in files]
    for gap in archived.gaps:
        if not files:
            found.setdefault(f"{gap.detected_at[11:13]}00", []).append(gap)
            continue
        at = max(0, bisect_right(firsts, gap.after_seq) - 1)
        first = last = int(files[at].name[:2])
        # A dropped duplicate is no loss of the next hour.
        if gap.reason != _DUPLICATE and gap.after_seq >= files[at].last_seq and at + 1 < len(files):
            last = int(files[at + 1].name[:2])
        for hour in range(first, last + 1):
            found.setdefault(f"{hour:02d}00", []).append(gap)
    return found


def _of(path: Path, found: _Dated | None, feed: str, stream: str, day: date) -> _Dated | None:
    """The manifest, if it is that of its folder: a copied one is whole and still not true."""
    if found is not None and (found.feed, found.stream, found.date) != (feed, stream, str(day)):
        raise ArchiveError(f"{path}: is of {found.feed}/{found.stream} on {found.date}")
    return found


def _start(day: date, hour: str) -> datetime:
    return datetime(day.year, day.month, day.day, int(hour[:2]), tzinfo=UTC)


def _folders(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.iterdir() if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_stream(feed: Feed, name: str) -> bool:
    try:
        StreamName("prod", feed, name)
    except ConfigError:
        return False
    return True
