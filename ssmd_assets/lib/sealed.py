"""Which hours of the archive are to be asked for: manifests and a cursor in, due hours and a new cursor out.

An hour of a stream is ready when

- all four of its slots are sealed, or
- a later hour of the stream has a sealed file: what has not come by then comes as a late file, or
- it ended `IDLE_GRACE` ago: capture stopped within it.

A ready hour is due unless the cursor remembers the very files that it has. A late or re-sealed file changes the
hour's digest, so the hour is due again. Nothing here imports dagster.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import msgspec

from ssmd_core.archive.manifest import FileEntry, load_manifest
from ssmd_core.archive.paths import MANIFEST, SLOT_FILE, hour_key
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed

IDLE_GRACE = timedelta(hours=1)
# Feeds seal the same slot within seconds of each other. An hour waits so long for its slower feeds, because one run
# for all feeds costs 7-9 s and one run for each costs 3.3 s a feed.
SETTLE = timedelta(minutes=2)
# Days of a stream whose hours the cursor remembers one by one (14 bytes an hour). Of an older day it keeps about 70
# bytes, 100 kB a year for four streams, and a change rebuilds all its hours.
RECENT_DAYS = 3
SLOTS_PER_HOUR = 4
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_HOUR = timedelta(hours=1)


class Day(msgspec.Struct, omit_defaults=True):
    """What the cursor remembers of one day of a stream.

    Attributes:
        stat: inode, mtime and size of the manifest when everything in it had been asked for; "" before.
        hours: digest of the files that were asked for, by hour of the day (0 to 23); empty for an old day.
        digest: of an old day's hours, "" for a recent one.
    """

    stat: str = ""
    hours: dict[int, str] = {}
    digest: str = ""

    def recall(self, current: dict[int, str]) -> None:
        """Bring an old day's hours back: those of now if they have the old digest, else none."""
        if self.digest:
            self.hours = dict(current) if _fold(current) == self.digest else {}
            self.digest = ""


class Cursor(msgspec.Struct):
    """What has been asked for.

    Attributes:
        version: of this layout. A cursor of another version is forgotten; run keys keep most hours from running twice.
        days: by `feed/stream/date`.
        live: end of the newest slot that was reported of each `feed/stream`, RFC 3339.
    """

    VERSION: ClassVar[int] = 1

    version: int = VERSION
    days: dict[str, Day] = {}
    live: dict[str, str] = {}

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        """The cursor in Dagster's text; an empty one where there is none or it is not of this version."""
        if not text:
            return cls()
        try:
            cursor = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError:
            return cls()
        return cursor if cursor.version == cls.VERSION else cls()

    def text(self) -> str:
        """What `read` reads."""
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True, slots=True)
class SealedHour:
    """One hour of one stream, as its manifest has it.

    Attributes:
        feed, stream, hour: which.
        files: its sealed files, by name.
        ready: see the module's docstring.
    """

    feed: Feed
    stream: str
    hour: datetime
    files: tuple[FileEntry, ...]
    ready: bool

    @property
    def name(self) -> str:
        """`feed/stream`."""
        return f"{self.feed.name}/{self.stream}"

    @property
    def digest(self) -> str:
        """Digest of the names and hashes of the files: 16 hexadecimal digits."""
        return _digest(f"{entry.name} {entry.sha256}" for entry in self.files)


@dataclass(slots=True)
class Scan:
    """What a look at the archive found.

    Attributes:
        due: streams to ask for, by hour.
        live: newest sealed file of each `feed/stream` whose manifest was read.
        waiting: `feed/stream hour` that have sealed files but are not to be asked for yet.
        broken: manifests that cannot be read, and why.
        cut: why the look ended early, "" if it did not.
    """

    due: dict[datetime, list[SealedHour]] = field(default_factory=dict)
    live: dict[str, FileEntry] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    cut: str = ""


def scan(
    archive_root: Path,
    streams: Sequence[tuple[Feed, str]],
    cursor: Cursor,
    now: datetime,
    *,
    askable: Callable[[datetime], bool],
    deadline: float,
    max_hours: int,
) -> Scan:
    """Find due hours, newest day first, and note them in the cursor.

    Args:
        now: by the clock that the archive's receive times are of.
        askable: whether an hour can be asked for at all; one that cannot stays waiting.
        deadline: `time.monotonic()` after which no further day is begun. One day always is, so that a disk slower
            than the deadline still gets on.
        max_hours: most hours to return.
    """
    found = Scan()
    newest: dict[str, str] = {}
    days_read = 0
    for date, folders in _days(archive_root, streams):
        changed: dict[str, tuple[Feed, str, Path, str]] = {}
        for feed, stream, folder in folders:
            stat = _stat(folder / MANIFEST)
            if not stat:
                continue
            name = f"{feed.name}/{stream}"
            newest.setdefault(name, date)
            day = cursor.days.get(f"{name}/{date}")
            if day is None or day.stat != stat:
                changed[name] = (feed, stream, folder, stat)
        if not changed:
            continue
        if days_read and time.monotonic() >= deadline:
            found.cut = f"the tick's time was up before {date}"
            break
        days_read += 1

        hours: list[SealedHour] = []
        unread: set[str] = set()
        for name, (feed, stream, folder, _) in changed.items():
            try:
                manifest = load_manifest(folder)
            except ArchiveError as error:
                found.broken.append(str(error))
                unread.add(name)
                continue
            files = manifest.files if manifest else []
            if files:
                found.live.setdefault(name, max(files, key=lambda entry: entry.end))
            of_stream = list(_hours(feed, stream, date, files, now, is_newest=newest[name] == date))
            hours.extend(of_stream)
            cursor.days.setdefault(f"{name}/{date}", Day()).recall({one.hour.hour: one.digest[:8] for one in of_stream})

        pending = unread | _collect(found, cursor, date, hours, now=now, askable=askable, max_hours=max_hours)
        for name, (_, _, _, stat) in changed.items():
            if name not in pending:
                cursor.days[f"{name}/{date}"].stat = stat
        if found.cut:
            break
    _fold_old_days(cursor)
    return found


def _days(
    archive_root: Path, streams: Sequence[tuple[Feed, str]]
) -> Iterator[tuple[str, list[tuple[Feed, str, Path]]]]:
    """Days that any stream has a folder for, newest first."""
    by_date: dict[str, list[tuple[Feed, str, Path]]] = {}
    for feed, stream in streams:
        folder = archive_root / feed.name / stream
        if folder.is_dir():
            for day in folder.iterdir():
                if _DATE.match(day.name):
                    by_date.setdefault(day.name, []).append((feed, stream, day))
    yield from sorted(by_date.items(), reverse=True)


def _stat(manifest: Path) -> str:
    """What changes whenever the manifest is replaced; "" if there is none."""
    try:
        stat = manifest.stat()
    except FileNotFoundError:
        return ""
    return f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _hours(
    feed: Feed, stream: str, date: str, files: Sequence[FileEntry], now: datetime, *, is_newest: bool
) -> Iterator[SealedHour]:
    """The hours of one manifest."""
    by_hour: dict[int, list[FileEntry]] = {}
    for entry in sorted(files, key=lambda entry: entry.name):
        if match := SLOT_FILE.match(entry.name):
            by_hour.setdefault(int(match[1]), []).append(entry)
    midnight = datetime.fromisoformat(date).replace(tzinfo=UTC)
    for number, entries in by_hour.items():
        hour = midnight + number * _HOUR
        ready = (
            len({entry.name[:4] for entry in entries}) == SLOTS_PER_HOUR
            or not is_newest
            or number < max(by_hour)
            or hour + _HOUR + IDLE_GRACE <= now
        )
        yield SealedHour(feed, stream, hour, tuple(entries), ready)


def _collect(
    found: Scan,
    cursor: Cursor,
    date: str,
    hours: Sequence[SealedHour],
    *,
    now: datetime,
    askable: Callable[[datetime], bool],
    max_hours: int,
) -> set[str]:
    """Move a day's due hours into `found` and the cursor; returns the streams of which something is left."""
    pending: set[str] = set()
    by_hour: dict[datetime, list[SealedHour]] = {}
    for one in hours:
        if cursor.days[f"{one.name}/{date}"].hours.get(one.hour.hour) != one.digest[:8]:
            by_hour.setdefault(one.hour, []).append(one)
    for hour, group in sorted(by_hour.items()):
        settling = now < hour + _HOUR + SETTLE and not all(one.ready for one in group)
        for one in group:
            if not one.ready or settling or not askable(hour):
                found.waiting.append(f"{one.name} {hour_key(hour)}")
                pending.add(one.name)
            elif hour not in found.due and len(found.due) >= max_hours:
                found.cut = f"{max_hours} hours are the most for one tick"
                pending.add(one.name)
            else:
                found.due.setdefault(hour, []).append(one)
                cursor.days[f"{one.name}/{date}"].hours[hour.hour] = one.digest[:8]
    return pending


def _fold_old_days(cursor: Cursor) -> None:
    by_stream: dict[str, list[str]] = {}
    for key in sorted(cursor.days, reverse=True):
        by_stream.setdefault(key.rpartition("/")[0], []).append(key)
    for keys in by_stream.values():
        for key in keys[RECENT_DAYS:]:
            day = cursor.days[key]
            if day.stat and day.hours:
                day.digest = _fold(day.hours)
                day.hours = {}


def _fold(hours: dict[int, str]) -> str:
    return _digest(f"{hour} {digest}" for hour, digest in sorted(hours.items()))


def _digest(lines: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
