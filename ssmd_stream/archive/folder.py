"""A stream's folder on disk: open slots, sealed files, manifests, and repair after a crash.

The archive itself is the truth about what has been archived; JetStream's consumer state only follows it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import structlog

from ssmd_core.archive.manifest import Gap, Manifest, load_manifest, save_manifest
from ssmd_core.archive.members import iter_lines, member, salvage_lines
from ssmd_core.archive.ordinals import OrdinalSet
from ssmd_core.archive.paths import DAY_FOLDER, PART_SUFFIX, SLOT_FILE, Slot, slot_of_file
from ssmd_core.archive.tally import Tally
from ssmd_core.clock import rfc3339_us
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed
from ssmd_core.sealed_json import fsync_folder, write_durably

log = structlog.get_logger()

MAX_MEMBER_BYTES = 4 * 1024 * 1024
# Only a batch that was uncertain when its connector lost NATS is sent again; 10,000 connections back is far enough.
MAX_EPOCHS = 10_000
_READ_BYTES = 1024 * 1024
STREAM_MARK = ".stream"


class OpenSlot:
    """A slot's `.part` file: whole gzip members, each fsynced before its messages are acknowledged.

    Args:
        folder: the day's.
        slot: which quarter of an hour.
        late: number of the file among those of its slot; 0 is the slot's own.
    """

    def __init__(self, folder: Path, slot: Slot, late: int) -> None:
        self.slot = slot
        self.late = late
        self.path = folder / slot.file_name(late)
        self.part = self.path.with_name(self.path.name + PART_SUFFIX)
        self.tally = Tally()
        self.lines: list[bytes] = []
        self.buffered_bytes = 0
        self._sha256 = hashlib.sha256()
        self._file: IO[bytes] = self.part.open("ab", buffering=0)
        self._size = self.part.stat().st_size
        self._torn = False
        # The fsync of a file does not promise that its folder names it.
        fsync_folder(folder)

    def resume(self, feed: Feed) -> OrdinalSet:
        """Take up what an earlier process left: count its lines, cut off a torn end.

        What was acknowledged is whole, so a torn end costs nothing: its messages come again. Damage that a crash does
        not explain is kept beside as `.damaged`.

        Returns:
            The stream sequences of the lines.

        Raises:
            ArchiveError: a line is not an archive's line.
        """
        sequences = OrdinalSet()
        salvage = salvage_lines(self.part)
        for raw in salvage:
            sequences.add(self.tally.add_line(feed, raw).nats_seq)
        if salvage.damage:
            log.warning("part file is torn", damage=salvage.damage, kept_lines=self.tally.records)
            if not salvage.cut:
                shutil.copyfile(self.part, _unused(self.part.with_name(self.part.name + ".damaged")))
            self._size = salvage.whole_bytes
            self._cut_back()
            os.fsync(self._file.fileno())
        with self.part.open("rb") as file:
            while block := file.read(_READ_BYTES):
                self._sha256.update(block)
        return sequences

    def append(self, line: bytes) -> None:
        self.lines.append(line)
        self.buffered_bytes += len(line) + 1

    def commit(self) -> None:
        """Write what is buffered as members of at most 4 MB and fsync it.

        Raises:
            OSError: the disk is full or broken. The file is cut back to its last whole member, at the latest before
                the next write, and the lines stay buffered, so that a later commit can succeed.
        """
        if not self.lines:
            return
        if self._torn:
            self._cut_back()
        members = [member(block) for block in _blocks(self.lines)]
        try:
            for compressed in members:
                _write_all(self._file, compressed)
            os.fsync(self._file.fileno())
        except OSError:
            self._torn = True
            with contextlib.suppress(OSError):
                self._cut_back()
            raise
        for compressed in members:
            self._sha256.update(compressed)
            self._size += len(compressed)
        self.lines = []
        self.buffered_bytes = 0

    def _cut_back(self) -> None:
        self._file.truncate(self._size)
        self._torn = False

    def seal(self) -> str:
        """Give the file its final name, durably; returns its sha256. Everything must have been committed.

        Raises:
            OSError: the disk refused; it may be called again.
        """
        if self.lines:
            raise ArchiveError(f"{self.part}: sealing with {len(self.lines)} uncommitted lines")
        if not self._file.closed:
            self.part.rename(self.path)
            self._file.close()
        fsync_folder(self.path.parent)
        return self._sha256.hexdigest()

    def close(self) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._size


class Folder:
    """Everything of one stream below the archive root. One process at a time (a lock file says which).

    Args:
        root: archive root.
        feed: the feed.
        stream: stream name.

    Attributes:
        last_seq: up to here every stream sequence is archived or accounted for as a gap.
        ahead: what is so above it, behind a hole: a crash came after one slot's commit and before another's.
        open: slots being written, by start.
    """

    def __init__(self, root: Path, feed: Feed, stream: str) -> None:
        self.feed = feed
        self.stream = stream
        self.path = root / feed.name / stream
        self.last_seq = 0
        self.ahead: OrdinalSet | None = None
        self.open: dict[int, OpenSlot] = {}
        self._epochs: dict[str, OrdinalSet] = {}
        self._gaps: dict[str, list[Gap]] = {}
        self._sealed: list[Path] = []
        self._lock: IO[bytes] | None = None

    def lock(self) -> None:
        """Claim the folder for this process.

        Raises:
            ArchiveError: another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for parent in (self.path.parent, self.path.parent.parent):
            fsync_folder(parent)
        self._lock = (self.path / ".lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ArchiveError(f"{self.path}: another archiver is writing here") from error

    def recover(self) -> None:
        """Take up what is there: sealed files that no manifest names, `.part` files up to their last whole member.

        Everything up to the last sequence of a sealed file is durable, because a slot is sealed only when all slots
        are committed. Beyond it a sequence counts only without a hole: slots are committed one after the other, gaps
        before lines, and a crash may come in between.

        Raises:
            ArchiveError: a manifest, or a sealed file without one, is damaged; it is left as it is. To go on, move
                it aside: a manifest is made anew from the files (but for its gaps).
        """
        days = sorted(entry for entry in self.path.iterdir() if entry.is_dir() and DAY_FOLDER.match(entry.name))
        sealed_to = 0
        beyond: list[tuple[int, int]] = []
        for day in days:
            for leftover in day.glob("*.tmp"):
                leftover.unlink()
            manifest = self._merged_manifest(day)
            sealed_to = max([sealed_to, *(entry.last_seq for entry in manifest.files)])
            beyond += [(gap.after_seq + 1, gap.after_seq + gap.missing) for gap in manifest.gaps]
            # A connection lives for hours, not for days: two days of epochs are enough to know a resent message.
            if day in days[-2:]:
                self._know({name: OrdinalSet(epoch.ranges) for name, epoch in manifest.epochs.items()})
        for day in days:
            for part in sorted(day.glob(f"*{PART_SUFFIX}")):
                beyond += self._take_up(day, part).ranges
        archived = OrdinalSet([(0, sealed_to), *beyond])
        self.last_seq = archived.run_end(0)
        ahead = OrdinalSet((first, last) for first, last in beyond if first > self.last_seq)
        self.ahead = ahead if ahead.ranges else None

    def _merged_manifest(self, day: Path) -> Manifest:
        manifest = load_manifest(day) or self._new_manifest(day.name)
        unnamed = [
            path for path in sorted(day.iterdir()) if SLOT_FILE.match(path.name) and manifest.file(path.name) is None
        ]
        for path in unnamed:
            tally = Tally()
            for raw in iter_lines(path):
                tally.add_line(self.feed, raw)
            stat = path.stat()
            entry = tally.entry(
                path.name,
                slot_of_file(day.name, path.name),
                file_bytes=stat.st_size,
                sha256=sha256_of(path),
                sealed_at=rfc3339_us(stat.st_mtime_ns // 1000),
            )
            tally.merge_into(manifest, entry)
            log.warning("sealed file was missing from its manifest", file=str(path), records=entry.records)
        if unnamed:
            save_manifest(day, manifest)
        return manifest

    def _take_up(self, day: Path, part: Path) -> OrdinalSet:
        name = part.name.removesuffix(PART_SUFFIX)
        match = SLOT_FILE.match(name)
        if match is None:
            raise ArchiveError(f"{part}: not a slot's file name")
        if (day / name).exists():
            raise ArchiveError(f"{part}: {name} is sealed already")
        opened = OpenSlot(day, slot_of_file(day.name, name), int(match[3] or 0))
        sequences = opened.resume(self.feed)
        if not opened.size:
            opened.close()
            part.unlink()
            return sequences
        if opened.slot.start_us in self.open:
            raise ArchiveError(f"{part}: a second part file of its slot")
        self.open[opened.slot.start_us] = opened
        self._know(opened.tally.epochs)
        return sequences

    def _know(self, epochs: dict[str, OrdinalSet]) -> None:
        for name, seen in epochs.items():
            known = self._epochs.get(name)
            self._epochs[name] = OrdinalSet([*(known.ranges if known else []), *seen.ranges])

    def belong_to(self, created: str) -> None:
        """Note which JetStream stream the sequences are of: one of the same name starts again from 1 when it is remade.

        Args:
            created: when the stream was made, as the server says.

        Raises:
            ArchiveError: the archive is of another stream.
        """
        path = self.path / STREAM_MARK
        empty = not self.last_seq and self.ahead is None
        known = path.read_text().strip() if path.is_file() and not empty else ""
        if known and known != created:
            raise ArchiveError(
                f"{self.path} holds the stream that was made at {known}, but the server's was made at {created}: it "
                "was recreated, and its sequences start again. Move the archive folder aside, or restore the stream, "
                "before archiving goes on"
            )
        if not known:
            write_durably(path, created.encode() + b"\n")

    def seen_before(self, epoch: str, ordinal: int) -> bool:
        """Note a message; True if the archive holds this very one already (a batch that was sent again)."""
        seen = self._epochs.get(epoch)
        if seen is None:
            if len(self._epochs) >= MAX_EPOCHS:
                for oldest in list(self._epochs)[: MAX_EPOCHS // 2]:
                    del self._epochs[oldest]
            seen = self._epochs[epoch] = OrdinalSet()
        return not seen.add(ordinal)

    def starts_new(self, slot: Slot) -> bool:
        """Whether a message of this slot ends earlier open ones: the cut depends on receive times alone.

        A straggler of an older slot opens a late file beside the newer one, and a clock that jumped ahead for a while
        leaves its slot open beside those that follow; neither makes files flip.
        """
        return slot.start_us not in self.open and any(start_us < slot.start_us for start_us in self.open)

    def slot_for(self, recv_us: int) -> OpenSlot:
        """The open file for a receive time; a late file if its slot is sealed already.

        Raises:
            OSError: the disk refused to make it.
        """
        slot = Slot.of(recv_us)
        opened = self.open.get(slot.start_us)
        if opened is None:
            day = self._day(slot.date)
            late = 0
            while (day / slot.file_name(late)).exists():
                late += 1
            opened = self.open[slot.start_us] = OpenSlot(day, slot, late)
        return opened

    def _day(self, date: str) -> Path:
        day = self.path / date
        if not day.is_dir():
            day.mkdir(parents=True)
            fsync_folder(self.path)
        return day

    def missing_before(self, seq: int) -> list[tuple[int, int]]:
        """Sequences between `last_seq` and `seq`, both left out, that are not archived, as [first, last] pairs."""
        held = OrdinalSet([(0, self.last_seq), *(self.ahead.ranges if self.ahead else [])]).ranges
        ends = [*(first for first, _ in held if self.last_seq < first < seq), seq]
        starts = [last + 1 for _, last in held if last < seq]
        return [(start, end - 1) for start, end in zip(starts, ends, strict=True)]

    def note_archived(self, seq: int) -> None:
        """Move `last_seq` to `seq`, and over what is archived right behind it."""
        self.last_seq = seq if self.ahead is None else self.ahead.run_end(seq + 1)

    def note_gap(self, date: str, gap: Gap) -> None:
        """Record missing sequences; the next commit writes them into that day's manifest."""
        self._gaps.setdefault(date, []).append(gap)

    def commit(self) -> None:
        """Make gaps, then every buffered line durable.

        Raises:
            OSError: as `OpenSlot.commit`; what has been written is not written again by the next commit.
        """
        for date in list(self._gaps):
            day = self._day(date)
            manifest = load_manifest(day) or self._new_manifest(date)
            manifest.gaps = merge_gaps([*manifest.gaps, *self._gaps[date]])
            save_manifest(day, manifest)
            del self._gaps[date]
        for opened in self.open.values():
            opened.commit()

    def seal_before(self, slot: Slot) -> list[Path]:
        """Seal every open file of an earlier slot. They must have been committed.

        Returns:
            Final paths of what was sealed since the last successful call.

        Raises:
            OSError: the disk refused; the next call goes on where this one stopped.
        """
        for start_us in sorted(start for start in self.open if start < slot.start_us):
            opened = self.open[start_us]
            digest = opened.seal()
            entry = opened.tally.entry(
                opened.path.name,
                opened.slot,
                file_bytes=opened.size,
                sha256=digest,
                sealed_at=rfc3339_us(time.time_ns() // 1000),
            )
            day = opened.path.parent
            manifest = load_manifest(day) or self._new_manifest(day.name)
            opened.tally.merge_into(manifest, entry)
            save_manifest(day, manifest)
            del self.open[start_us]
            self._sealed.append(opened.path)
        sealed, self._sealed = self._sealed, []
        return sealed

    def close(self) -> None:
        """Let the folder go. Open slots stay `.part` for the next start; what is not committed comes again."""
        for opened in self.open.values():
            opened.close()
        if self._lock:
            self._lock.close()

    def _new_manifest(self, date: str) -> Manifest:
        return Manifest(feed=self.feed.name, stream=self.stream, date=date)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def merge_gaps(gaps: Iterable[Gap]) -> list[Gap]:
    """Gaps in order of sequence; adjacent ones of the same reason are one, and none is told twice.

    A gap is told again where a crash came between its manifest and the lines around it.
    """
    merged: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: (gap.after_seq, -gap.missing)):
        last = merged[-1] if merged else None
        end = gap.after_seq + gap.missing
        last_end = last.after_seq + last.missing if last else -1
        if last is None or gap.after_seq > last_end or (end > last_end and gap.reason != last.reason):
            after_seq = max(gap.after_seq, last_end)
            merged.append(Gap(after_seq, end - after_seq, gap.reason, gap.detected_at))
        elif gap.reason == last.reason:
            last.missing = max(end, last_end) - last.after_seq
            last.detected_at = min(last.detected_at, gap.detected_at)
    return merged


def _unused(path: Path) -> Path:
    number = 1
    candidate = path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _blocks(lines: list[bytes]) -> Iterator[bytes]:
    block: list[bytes] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line) + 1
        if size >= MAX_MEMBER_BYTES:
            yield b"\n".join(block) + b"\n"
            block, size = [], 0
    if block:
        yield b"\n".join(block) + b"\n"


def _write_all(file: IO[bytes], content: bytes) -> None:
    view = memoryview(content)
    while view:
        written = file.write(view)
        view = view[written:]
