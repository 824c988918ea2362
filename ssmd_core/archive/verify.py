"""Derive again, from the files alone, everything an archive's manifests state, and name what does not hold."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from ssmd_core.archive.manifest import FileEntry, Gap, Manifest, load_manifest
from ssmd_core.archive.members import iter_lines, salvage_lines
from ssmd_core.archive.ordinals import OrdinalSet
from ssmd_core.archive.paths import MANIFEST, PART_SUFFIX, SLOT_FILE, Slot, slot_of_file
from ssmd_core.archive.tally import Tally
from ssmd_core.errors import ArchiveError, ConfigError, SsmdError
from ssmd_core.feeds import get
from ssmd_core.feeds.base import Feed

# Between a file's final name and its manifest lie two fsyncs; a disk that takes a second for them is broken.
SEALING_ATTEMPTS = 5
SEALING_WAIT_S = 0.25


@dataclass
class ArchiveCheck:
    """What verification saw.

    Attributes:
        files: sealed files read.
        records: lines read.
        problems: what does not hold, each naming file and place.
        notes: what an operator should know though nothing is wrong: open slots, epochs that ended with their process.
        lost: stream sequences that the manifests themselves declare lost.
    """

    files: int = 0
    records: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: int = 0

    def add(self, other: ArchiveCheck) -> None:
        """Take in what was seen elsewhere."""
        self.files += other.files
        self.records += other.records
        self.problems += other.problems
        self.notes += other.notes
        self.lost += other.lost


def day_folders(path: Path) -> Iterator[Path]:
    """Folders of archived days at or below a path, in order of name."""
    for folder in sorted({path, *(entry for entry in path.rglob("*") if entry.is_dir())}):
        if (folder / MANIFEST).is_file() or any(SLOT_FILE.match(entry.name) for entry in folder.iterdir()):
            yield folder


def verify_archive(path: Path) -> ArchiveCheck:
    """Check every day's folder at or below `path`, and sequences and ordinals across the days of a stream."""
    check = ArchiveCheck()
    streams: dict[Path, list[Path]] = {}
    for folder in day_folders(path):
        streams.setdefault(folder.parent, []).append(folder)
    for folders in streams.values():
        _verify_stream(folders, check)
    return check


@dataclass
class _Stream:
    """What the files of a stream hold, over all its days."""

    sequences: OrdinalSet = field(default_factory=OrdinalSet)
    epochs: dict[str, OrdinalSet] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    gaps: list[tuple[Path, Gap]] = field(default_factory=list)
    unread: int = 0


def _verify_stream(folders: list[Path], check: ArchiveCheck) -> None:
    stream = _Stream()
    for folder in folders:
        try:
            on_disk, manifest = _settled(folder)
            feed = get(manifest.feed)
        except SsmdError as error:
            check.problems.append(f"{folder / MANIFEST}: {error}" if isinstance(error, ConfigError) else str(error))
            stream.unread += 1
            continue
        stated = (manifest.feed, manifest.stream, manifest.date)
        if stated != folder.absolute().parts[-3:]:
            check.problems.append(f"{folder / MANIFEST}: says {'/'.join(stated)}, which is not its folder")
        _verify_day(folder, on_disk, feed, manifest, stream, check)
        stream.gaps += [(folder, gap) for gap in manifest.gaps]
    parent = folders[0].parent
    lost = sum(gap.missing for _, gap in stream.gaps if gap.reason != "duplicate")
    check.lost += lost
    if stream.unread:
        check.notes.append(f"{parent}: sequences and epochs are not checked, because files cannot be read")
        return
    _verify_continuity(parent, stream, check)
    _verify_epochs(parent, stream, check, lost=lost)


def _settled(folder: Path) -> tuple[set[str], Manifest]:
    """Sealed files and manifest of a folder; an archiver that is just sealing a file is waited for.

    Raises:
        ArchiveError: there is no manifest, or it is damaged.
    """
    for attempt in range(SEALING_ATTEMPTS):
        if attempt:
            time.sleep(SEALING_WAIT_S)
        on_disk = {entry.name for entry in folder.iterdir() if SLOT_FILE.match(entry.name)}
        manifest = load_manifest(folder)
        if manifest is not None and all(manifest.file(name) for name in on_disk):
            break
    if manifest is None:
        raise ArchiveError(f"{folder}: no {MANIFEST}")
    return on_disk, manifest


def _verify_day(
    folder: Path, on_disk: set[str], feed: Feed, manifest: Manifest, stream: _Stream, check: ArchiveCheck
) -> None:
    """Compare each file with its entry, and what the files add up to with the manifest's sums."""
    unread = stream.unread
    named = {entry.name for entry in manifest.files}
    check.problems.extend(f"{folder / name}: sealed but not in the manifest" for name in sorted(on_disk - named))
    for part in sorted(folder.glob(f"*{PART_SUFFIX}")):
        check.notes.append(f"{part}: still being written")
        salvage = salvage_lines(part)
        deque(salvage, maxlen=0)
        # A member cut at the end is what a living or a killed archiver leaves; its messages were never acknowledged.
        if salvage.damage and not salvage.cut:
            check.problems.append(salvage.damage)
    for damaged in sorted(folder.glob(f"*{PART_SUFFIX}.damaged*")):
        check.notes.append(f"{damaged}: what a part file held before its damaged end was cut off")
    # What is not derived from the files (identity, gaps) is checked elsewhere or protected by the manifest's sha256.
    derived = msgspec.structs.replace(manifest, files=[], epochs={}, tickers=[], tickers_truncated=False)
    derived.message_types = []
    for entry in manifest.files:
        found = _verify_file(folder / entry.name, entry, feed, stream, check)
        if found is None:
            stream.unread += 1
        else:
            found.merge_into(derived, entry)
            stream.closed |= found.closed_epochs
    if stream.unread == unread:
        check.problems += _differences(f"{folder / MANIFEST}", derived, manifest)


def _verify_file(path: Path, entry: FileEntry, feed: Feed, stream: _Stream, check: ArchiveCheck) -> Tally | None:
    """What the file holds; None if it cannot be read to its end."""
    tally = Tally()
    try:
        slot = slot_of_file(path.parent.name, entry.name)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        if digest != entry.sha256:
            check.problems.append(f"{path}: sha256 is {digest}, the manifest says {entry.sha256}")
        _tally_file(path, feed, slot, tally, stream)
    except FileNotFoundError:
        check.problems.append(f"{path}: in the manifest but not there")
        return None
    except ArchiveError as error:
        check.problems.append(str(error))
        return None
    check.files += 1
    check.records += tally.records
    found = tally.entry(entry.name, slot, file_bytes=size, sha256=entry.sha256, sealed_at=entry.sealed_at)
    check.problems += _differences(f"{path}", found, entry)
    return tally


def _differences(where: str, derived: msgspec.Struct, stated: msgspec.Struct) -> list[str]:
    return [
        f"{where}: {name} is {_short(getattr(derived, name))}, the manifest says {_short(getattr(stated, name))}"
        for name in derived.__struct_fields__
        if getattr(derived, name) != getattr(stated, name)
    ]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 500 else f"{text[:500]}…"


def _tally_file(path: Path, feed: Feed, slot: Slot, tally: Tally, stream: _Stream) -> None:
    previous_seq = 0
    start_us, end_us = slot.start_us, slot.end_us
    sequences, epochs = stream.sequences, stream.epochs
    for number, raw in enumerate(iter_lines(path), start=1):
        try:
            _, recv_us, nats_seq, epoch, ordinal = tally.add_line(feed, raw)
        except ArchiveError as error:
            raise ArchiveError(f"{path}: line {number}: {error}") from error
        if nats_seq <= previous_seq:
            raise ArchiveError(f"{path}: line {number}: sequence {nats_seq} after {previous_seq}")
        previous_seq = nats_seq
        if not start_us <= recv_us < end_us:
            raise ArchiveError(f"{path}: line {number}: received at {recv_us} µs, outside its slot")
        if not sequences.add(nats_seq):
            raise ArchiveError(f"{path}: line {number}: sequence {nats_seq} is archived twice")
        seen = epochs.get(epoch)
        if seen is None:
            seen = epochs[epoch] = OrdinalSet()
        if not seen.add(ordinal):
            raise ArchiveError(f"{path}: line {number}: message {epoch}:{ordinal} is archived twice")


def _verify_continuity(parent: Path, stream: _Stream, check: ArchiveCheck) -> None:
    """Every stream sequence between the first and the last is archived or, and not both, accounted for as a gap."""
    accounted = [(gap.after_seq + 1, gap.after_seq + gap.missing) for _, gap in stream.gaps]
    for (folder, gap), (first, last) in zip(stream.gaps, accounted, strict=True):
        if stream.sequences.overlaps(first, last):
            check.problems.append(
                f"{folder / MANIFEST}: sequences {first} to {last} are {gap.reason}, but archived too"
            )
    everything = OrdinalSet([*stream.sequences.ranges, *accounted]).ranges
    for (_, last), (first, _) in pairwise(everything):
        check.problems.append(
            f"{parent}: sequences {last + 1} to {first - 1} are neither archived nor recorded as a gap"
        )


def _verify_epochs(parent: Path, stream: _Stream, check: ArchiveCheck, *, lost: int) -> None:
    """A connection's ordinals have no hole: one would be a message lost between the socket and the stream.

    Sequences that the manifests declare lost held ordinals too: holes are excused up to that number, no further.
    """
    missing: list[str] = []
    count = 0
    for name, seen in sorted(stream.epochs.items()):
        if name == "unstamped":
            continue
        ranges = seen.ranges
        holes = [(last + 1, first - 1) for (_, last), (first, _) in pairwise(ranges)]
        if ranges[0][0] != 0:
            holes.insert(0, (0, ranges[0][0] - 1))
        if holes:
            count += sum(last - first + 1 for first, last in holes)
            missing.append(f"{parent}: epoch {name} lacks ordinals {holes}")
        if name not in stream.closed:
            check.notes.append(f"{parent}: epoch {name} has no closing event: it is open, or it ended with its process")
    if count > lost:
        check.problems += missing
    else:
        check.notes += [f"{text}; the manifests declare {lost} sequences lost" for text in missing]
