"""Derive again, from the files alone, everything an archive's manifests state, and name what does not hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssmd_core.archive.manifest import Manifest, load_manifest
from ssmd_core.archive.members import iter_lines
from ssmd_core.archive.ordinals import OrdinalSet
from ssmd_core.archive.paths import MANIFEST, PART_SUFFIX, SLOT_FILE, Slot, slot_of_file
from ssmd_core.archive.tally import Tally, classify, is_closed_event
from ssmd_core.errors import ArchiveError, SsmdError
from ssmd_core.feeds import get
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import parse_line


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


def _verify_stream(folders: list[Path], check: ArchiveCheck) -> None:
    sequences = OrdinalSet()
    epochs: dict[str, OrdinalSet] = {}
    closed: set[str] = set()
    accounted = OrdinalSet()
    lost_before = check.lost
    for folder in folders:
        try:
            manifest = load_manifest(folder)
        except ArchiveError as error:
            check.problems.append(str(error))
            continue
        if manifest is None:
            check.problems.append(f"{folder}: no {MANIFEST}")
            continue
        if (manifest.feed, manifest.stream, manifest.date) != (*folder.parts[-3:],):
            check.problems.append(
                f"{folder / MANIFEST}: says {manifest.feed}/{manifest.stream}/{manifest.date}, which is not its folder"
            )
        try:
            feed = get(manifest.feed)
        except SsmdError as error:
            check.problems.append(f"{folder / MANIFEST}: {error}")
            continue
        tally_of_day = _verify_day(folder, feed, manifest, sequences, check)
        for name, seen in tally_of_day.epochs.items():
            epochs[name] = OrdinalSet([*(epochs[name].ranges if name in epochs else []), *seen.ranges])
        closed |= tally_of_day.closed_epochs
        for gap in manifest.gaps:
            accounted = OrdinalSet([*accounted.ranges, (gap.after_seq + 1, gap.after_seq + gap.missing)])
            if gap.reason != "duplicate":
                check.lost += gap.missing
    _verify_continuity(folders, sequences, accounted, check)
    _verify_epochs(folders[0].parent, epochs, closed, check, lossy=check.lost > lost_before)


def _verify_day(folder: Path, feed: Feed, manifest: Manifest, sequences: OrdinalSet, check: ArchiveCheck) -> Tally:
    """Compare each file with its entry and the folder's sums with the manifest's; fills `sequences`."""
    total = Tally()
    on_disk = {entry.name for entry in folder.iterdir() if SLOT_FILE.match(entry.name)}
    named = {entry.name for entry in manifest.files}
    check.problems.extend(f"{folder / name}: sealed but not in the manifest" for name in sorted(on_disk - named))
    check.problems.extend(f"{folder / name}: in the manifest but not there" for name in sorted(named - on_disk))
    check.notes.extend(f"{part}: still being written" for part in sorted(folder.glob(f"*{PART_SUFFIX}")))
    for entry in manifest.files:
        path = folder / entry.name
        if entry.name not in on_disk:
            continue
        check.files += 1
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry.sha256:
            check.problems.append(f"{path}: sha256 is {digest}, the manifest says {entry.sha256}")
        slot = slot_of_file(folder.name, entry.name)
        tally = Tally()
        try:
            _tally_file(path, feed, slot, tally, total, sequences)
        except ArchiveError as error:
            check.problems.append(str(error))
            continue
        check.records += tally.records
        derived = tally.entry(entry.name, slot, file_bytes=len(content), sha256=digest, sealed_at=entry.sealed_at)
        for name in derived.__struct_fields__:
            if name != "sha256" and getattr(derived, name) != getattr(entry, name):
                check.problems.append(
                    f"{path}: {name} is {getattr(derived, name)}, the manifest says {getattr(entry, name)}"
                )
    for name, epoch in manifest.epochs.items():
        derived_ranges = total.epochs[name].ranges if name in total.epochs else []
        if not any(check_part for check_part in folder.glob(f"*{PART_SUFFIX}")) and derived_ranges != [
            tuple(pair) for pair in epoch.ranges
        ]:
            check.problems.append(f"{folder / MANIFEST}: epoch {name} holds {derived_ranges}, not {epoch.ranges}")
    return total


def _tally_file(path: Path, feed: Feed, slot: Slot, tally: Tally, total: Tally, sequences: OrdinalSet) -> None:
    previous_seq = 0
    for number, raw in enumerate(iter_lines(path), start=1):
        try:
            line = parse_line(raw)
        except ArchiveError as error:
            raise ArchiveError(f"{path}: line {number}: {error}") from error
        if line.nats_seq <= previous_seq:
            raise ArchiveError(f"{path}: line {number}: sequence {line.nats_seq} after {previous_seq}")
        previous_seq = line.nats_seq
        if not slot.start_us <= line.recv_us < slot.end_us:
            raise ArchiveError(f"{path}: line {number}: received at {line.recv_us} µs, outside its slot")
        if not sequences.add(line.nats_seq):
            raise ArchiveError(f"{path}: line {number}: sequence {line.nats_seq} is archived twice")
        seen = total.epochs.get(line.epoch)
        if seen is not None and line.ordinal in seen:
            raise ArchiveError(f"{path}: line {number}: message {line.epoch}:{line.ordinal} is archived twice")
        message_type, ticker = classify(feed, line.payload)
        for sums in (tally, total):
            sums.add(
                message_type=message_type,
                ticker=ticker,
                nats_seq=line.nats_seq,
                epoch=line.epoch,
                ordinal=line.ordinal,
                line_bytes=len(raw),
                closes=is_closed_event(line.payload),
            )


def _verify_continuity(folders: list[Path], held: OrdinalSet, accounted: OrdinalSet, check: ArchiveCheck) -> None:
    """Every stream sequence between the first and the last is archived or accounted for as a gap."""
    everything = OrdinalSet([*held.ranges, *accounted.ranges]).ranges
    for (_, last), (first, _) in zip(everything, everything[1:], strict=False):
        check.problems.append(
            f"{folders[0].parent}: sequences {last + 1} to {first - 1} are neither archived nor recorded as a gap"
        )


def _verify_epochs(
    folder: Path, epochs: dict[str, OrdinalSet], closed: set[str], check: ArchiveCheck, *, lossy: bool
) -> None:
    """A connection's ordinals have no hole: one would be a message lost between the socket and the stream."""
    for name, seen in sorted(epochs.items()):
        if name == "unstamped":
            continue
        ranges = seen.ranges
        holes = [(last + 1, first - 1) for (_, last), (first, _) in zip(ranges, ranges[1:], strict=False)]
        if ranges[0][0] != 0:
            holes.insert(0, (0, ranges[0][0] - 1))
        if holes and not lossy:
            check.problems.append(f"{folder}: epoch {name} lacks ordinals {holes}")
        elif holes:
            check.notes.append(f"{folder}: epoch {name} lacks ordinals {holes}; the manifests declare lost sequences")
        if name not in closed:
            check.notes.append(f"{folder}: epoch {name} has no closing event: it is open, or it ended with its process")
