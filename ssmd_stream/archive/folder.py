"""A stream's folder on disk: open slots, sealed files, manifests, and repair after a crash.

The archive itself is the truth about what has been archived; JetStream's consumer state only follows it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import structlog

from ssmd_core.archive.manifest import Gap, Manifest, fsync_folder, load_manifest, save_manifest
from ssmd_core.archive.members import iter_lines, member, salvage_lines
from ssmd_core.archive.ordinals import OrdinalSet
from ssmd_core.archive.paths import PART_SUFFIX, SLOT_FILE, Slot, slot_of_file
from ssmd_core.archive.tally import Tally
from ssmd_core.clock import rfc3339_us
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed

log = structlog.get_logger()

MAX_MEMBER_BYTES = 4 * 1024 * 1024
# Only a batch that was uncertain when its connector lost NATS is ever sent again; 10,000 connections back is far enough.
MAX_EPOCHS = 10_000
_READ_BYTES = 1024 * 1024


class OpenSlot:
    """A slot's `.part` file: whole gzip members, each fsynced before its messages are acknowledged."""

    def __init__(self, folder: Path, slot: Slot, late: int) -> None:
        self.slot = slot
        self.path = folder / slot.file_name(late)
        self.part = self.path.with_name(self.path.name + PART_SUFFIX)
        self.tally = Tally()
        self.lines: list[bytes] = []
        self.buffered_bytes = 0
        self._sha256 = hashlib.sha256()
        self._file: IO[bytes] = self.part.open("ab", buffering=0)
        self._size = self.part.stat().st_size

    def resume(self, feed: Feed) -> None:
        """Take up what an earlier process left in the `.part`, which must be whole (see `Folder.recover`)."""
        with self.part.open("rb") as file:
            while block := file.read(_READ_BYTES):
                self._sha256.update(block)
        self.tally.add_lines(feed, iter_lines(self.part))

    def append(self, line: bytes) -> None:
        self.lines.append(line)
        self.buffered_bytes += len(line) + 1

    def commit(self) -> None:
        """Write what is buffered as members of at most 4 MB and fsync it.

        Raises:
            OSError: the disk is full or broken. The file is cut back to its last whole member and the lines stay
                buffered, so that a later commit can succeed.
        """
        if not self.lines:
            return
        members = [member(block) for block in _blocks(self.lines)]
        try:
            for compressed in members:
                _write_all(self._file, compressed)
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        for compressed in members:
            self._sha256.update(compressed)
            self._size += len(compressed)
        self.lines = []
        self.buffered_bytes = 0

    def seal(self) -> str:
        """Give the file its final name, durably; returns its sha256. Everything must have been committed."""
        if self.lines:
            raise ArchiveError(f"{self.part}: sealing with {len(self.lines)} uncommitted lines")
        self._file.close()
        self.part.rename(self.path)
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
        last_seq: highest stream sequence that is archived or accounted for as a gap.
        open: slots being written, by start.
    """

    def __init__(self, root: Path, feed: Feed, stream: str) -> None:
        self.feed = feed
        self.stream = stream
        self.path = root / feed.name / stream
        self.last_seq = 0
        self.open: dict[int, OpenSlot] = {}
        self.newest_slot_us = 0
        self._epochs: dict[str, OrdinalSet] = {}
        self._gaps: dict[str, list[Gap]] = {}
        self._lock: IO[bytes] | None = None

    def lock(self) -> None:
        """Claim the folder for this process.

        Raises:
            ArchiveError: another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / ".lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ArchiveError(f"{self.path}: another archiver is writing here") from error

    def recover(self) -> None:
        """Repair and take up what is there: whole lines of torn `.part` files, sealed files without an entry.

        Raises:
            ArchiveError: a sealed file or a manifest is damaged; nothing is changed then.
        """
        days = sorted(entry for entry in self.path.iterdir() if entry.is_dir())
        for day in days:
            for leftover in day.glob("*.tmp"):
                leftover.unlink()
            manifest = self._merged_manifest(day)
            if manifest.files:
                self.last_seq = max(self.last_seq, max(entry.last_seq for entry in manifest.files))
                self.newest_slot_us = max(
                    self.newest_slot_us, *(slot_of_file(day.name, entry.name).start_us for entry in manifest.files)
                )
            for gap in manifest.gaps:
                self.last_seq = max(self.last_seq, gap.after_seq + gap.missing)
            # A connection lives for hours, not for days: two days of epochs are enough to know a resent message.
            if day in days[-2:]:
                for name, epoch in manifest.epochs.items():
                    known = self._epochs.get(name)
                    self._epochs[name] = OrdinalSet([*(known.ranges if known else []), *epoch.ranges])
        for day in days:
            for part in sorted(day.glob(f"*{PART_SUFFIX}")):
                self._take_up(day, part)

    def _merged_manifest(self, day: Path) -> Manifest:
        manifest = load_manifest(day) or self._new_manifest(day.name)
        unnamed = [
            path for path in sorted(day.iterdir()) if SLOT_FILE.match(path.name) and manifest.file(path.name) is None
        ]
        for path in unnamed:
            tally = Tally()
            tally.add_lines(self.feed, iter_lines(path))
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

    def _take_up(self, day: Path, part: Path) -> None:
        name = part.name.removesuffix(PART_SUFFIX)
        match = SLOT_FILE.match(name)
        if match is None:
            raise ArchiveError(f"{part}: not a slot's file name")
        damage = _repair(part)
        if damage:
            log.warning("repaired a torn part file", file=str(part), damage=damage)
        if (day / name).exists():
            raise ArchiveError(f"{part}: {name} is sealed already")
        if part.stat().st_size == 0:
            part.unlink()
            return
        opened = OpenSlot(day, slot_of_file(day.name, name), int(match[3] or 0))
        opened.resume(self.feed)
        if opened.slot.start_us in self.open:
            raise ArchiveError(f"{part}: a second part file of its slot")
        self.open[opened.slot.start_us] = opened
        self.last_seq = max(self.last_seq, opened.tally.last_seq)
        self.newest_slot_us = max(self.newest_slot_us, opened.slot.start_us)
        for epoch, seen in opened.tally.epochs.items():
            known = self._epochs.get(epoch)
            self._epochs[epoch] = OrdinalSet([*(known.ranges if known else []), *seen.ranges])

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
        """The open file for a receive time; a late file if its slot is sealed already."""
        slot = Slot.of(recv_us)
        opened = self.open.get(slot.start_us)
        if opened is None:
            day = self.path / slot.date
            if not day.is_dir():
                day.mkdir(parents=True)
                fsync_folder(self.path)
            late = 0
            while (day / slot.file_name(late)).exists():
                late += 1
            opened = self.open[slot.start_us] = OpenSlot(day, slot, late)
            self.newest_slot_us = max(self.newest_slot_us, slot.start_us)
        return opened

    def note_gap(self, date: str, gap: Gap) -> None:
        """Record missing sequences; written with the next manifest of that date."""
        gaps = self._gaps.setdefault(date, [])
        previous = gaps[-1] if gaps else None
        if previous and previous.reason == gap.reason and previous.after_seq + previous.missing == gap.after_seq:
            previous.missing += gap.missing
        else:
            gaps.append(gap)

    def commit(self) -> None:
        """Make every buffered line durable. Raises OSError as `OpenSlot.commit` does."""
        for opened in self.open.values():
            opened.commit()

    def seal_before(self, slot: Slot) -> list[Path]:
        """Seal every open file of an earlier slot; returns their final paths. They must have been committed."""
        sealed = []
        for start_us in sorted(start for start in self.open if start < slot.start_us):
            opened = self.open.pop(start_us)
            digest = opened.seal()
            entry = opened.tally.entry(
                opened.path.name,
                opened.slot,
                file_bytes=opened.size,
                sha256=digest,
                sealed_at=rfc3339_us(int(datetime.now(UTC).timestamp() * 1_000_000)),
            )
            day = opened.path.parent
            manifest = load_manifest(day) or self._new_manifest(day.name)
            opened.tally.merge_into(manifest, entry)
            self._merge_gaps(manifest, day.name)
            save_manifest(day, manifest)
            sealed.append(opened.path)
        return sealed

    def close(self) -> None:
        """Write gaps that no manifest holds yet and let the folder go. Open slots stay `.part` for the next start."""
        for date in list(self._gaps):
            day = self.path / date
            if day.is_dir():
                manifest = load_manifest(day) or self._new_manifest(date)
                self._merge_gaps(manifest, date)
                save_manifest(day, manifest)
        for opened in self.open.values():
            opened.close()
        if self._lock:
            self._lock.close()

    def _merge_gaps(self, manifest: Manifest, date: str) -> None:
        gaps = [*manifest.gaps, *self._gaps.pop(date, [])]
        manifest.gaps = sorted(gaps, key=lambda gap: gap.after_seq)

    def _new_manifest(self, date: str) -> Manifest:
        return Manifest(feed=self.feed.name, stream=self.stream, date=date)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _repair(part: Path) -> str:
    """Rewrite a torn `.part` so that it holds whole members with every whole line; returns the damage, "" if none."""
    kept: list[bytes] = []
    damage = ""
    size = 0
    temporary = part.with_name(part.name + ".tmp")
    with temporary.open("wb") as file:
        salvage = salvage_lines(part)
        for line in salvage:
            kept.append(line)
            size += len(line) + 1
            if size >= MAX_MEMBER_BYTES:
                file.write(member(b"\n".join(kept) + b"\n"))
                kept, size = [], 0
        if kept:
            file.write(member(b"\n".join(kept) + b"\n"))
        file.flush()
        os.fsync(file.fileno())
        damage = salvage.damage
    if damage:
        temporary.replace(part)
        fsync_folder(part.parent)
    else:
        temporary.unlink()
    return damage


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
