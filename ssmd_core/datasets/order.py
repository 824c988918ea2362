"""An hour's archive lines as chunks, in the order of the files or, where that is not the order of sequences, sorted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ssmd_core.archive.members import iter_chunks
from ssmd_core.datasets.split import Chunk, Run, line_offsets
from ssmd_core.errors import ArchiveError
from ssmd_core.messages.lines import TAIL

# Two chunks are converted at a time. An hour of whole books then peaks at 450 MB; chunks of 16 MB take 550 MB.
CHUNK_BYTES = 8 * 1024 * 1024


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_chunks(paths: Iterable[Path]) -> Iterator[Chunk]:
    """The lines in the order of the files.

    Raises:
        TornFileError: a file is damaged.
    """
    for path in paths:
        line = 1
        for data in iter_chunks(path, CHUNK_BYTES):
            offsets = line_offsets(data)
            yield Chunk(data, offsets, (Run(0, path.name, line),))
            line += len(offsets) - 1


@dataclass
class SortedLines:
    """All lines of an hour by sequence, each line once: for late files, which overlap the files of later slots.

    The lines are spooled uncompressed; what stays in memory are 20 bytes a line.

    Attributes:
        duplicates: lines that repeat another line, byte for byte, by file.
        conflicts: lines whose sequence another message holds already, as (file, line number, sequence, line).
    """

    paths: list[Path]
    spool: Path
    duplicates: Counter[str] = field(default_factory=Counter)
    conflicts: list[tuple[str, int, int, bytes]] = field(default_factory=list)

    def chunks(self) -> Iterator[Chunk]:
        """The lines; `duplicates` and `conflicts` are complete once the iterator has ended.

        A line that does not end in the archive's members has no sequence and stays behind the line before it.

        Raises:
            TornFileError: a file is damaged.
        """
        starts, seqs, first_lines = self._write_spool()
        if not len(seqs):
            return
        order = np.argsort(seqs, kind="stable")
        with ExitStack() as stack:
            file = stack.enter_context(self.spool.open("rb"))
            data = stack.enter_context(mmap(file.fileno(), 0, access=ACCESS_READ))
            order = self._without_repeats(data, starts, seqs, order, first_lines)
            yield from self._in_order(data, starts, order, first_lines)

    def _write_spool(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        starts = [np.zeros(1, np.int64)]
        seqs: list[npt.NDArray[np.uint64]] = []
        first_lines = []
        lines = 0
        with self.spool.open("wb") as spool:
            for path in self.paths:
                first_lines.append(lines)
                for data in iter_chunks(path, CHUNK_BYTES):
                    offsets = line_offsets(data)
                    starts.append(offsets[1:] + starts[-1][-1])
                    seqs.append(_sequences(data, offsets, int(seqs[-1][-1]) if seqs else 0))
                    lines += len(offsets) - 1
                    spool.write(data)
        return np.concatenate(starts), np.concatenate([*seqs, np.zeros(0, np.uint64)]), np.array(first_lines, np.int64)

    def _without_repeats(
        self,
        data: mmap,
        starts: npt.NDArray[np.int64],
        seqs: npt.NDArray[np.uint64],
        order: npt.NDArray[np.int64],
        first_lines: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        ordered = seqs[order]
        repeats = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        dropped = []
        for position in repeats.tolist():
            number = int(order[position])
            line = data[starts[number] : starts[number + 1]]
            if TAIL.search(line.removesuffix(b"\n")) is None:
                continue
            first = int(order[np.searchsorted(ordered, ordered[position])])
            dropped.append(position)
            file, line_number = self._origin(number, first_lines)
            if data[starts[first] : starts[first + 1]] == line:
                self.duplicates[file] += 1
            else:
                self.conflicts.append((file, line_number, int(ordered[position]), line.removesuffix(b"\n")))
        return np.delete(order, dropped)

    def _in_order(
        self,
        data: mmap,
        starts: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64],
        first_lines: npt.NDArray[np.int64],
    ) -> Iterator[Chunk]:
        # Runs of lines that are neighbours in one file are copied whole.
        breaks = np.flatnonzero(np.diff(order) != 1) + 1
        files = np.searchsorted(first_lines, order, side="right")
        breaks = np.union1d(breaks, np.flatnonzero(np.diff(files)) + 1)
        pieces: list[bytes] = []
        runs: list[Run] = []
        held = lines = 0
        for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(order)], strict=True):
            position = first
            while position < end:
                start = int(starts[order[position]])
                last = int(np.searchsorted(starts, start + CHUNK_BYTES - held, side="right")) - 1
                taken = min(end - position, max(1, last - int(order[position])))
                runs.append(Run(lines, *self._origin(int(order[position]), first_lines)))
                pieces.append(data[start : int(starts[int(order[position]) + taken])])
                held += len(pieces[-1])
                lines += taken
                position += taken
                if held >= CHUNK_BYTES or position < end:
                    yield _chunk(pieces, runs)
                    pieces, runs, held, lines = [], [], 0, 0
        if pieces:
            yield _chunk(pieces, runs)

    def _origin(self, number: int, first_lines: npt.NDArray[np.int64]) -> tuple[str, int]:
        file = int(np.searchsorted(first_lines, number, side="right")) - 1
        return self.paths[file].name, number - int(first_lines[file]) + 1


def _chunk(pieces: list[bytes], runs: list[Run]) -> Chunk:
    data = b"".join(pieces)
    return Chunk(data, line_offsets(data), tuple(runs))


def _sequences(data: bytes, offsets: npt.NDArray[np.int64], before: int) -> npt.NDArray[np.uint64]:
    """The sequence of each line; a line without one takes that of the line before it."""
    seqs = np.empty(len(offsets) - 1, np.uint64)
    ends = offsets.tolist()
    for i, (start, end) in enumerate(pairwise(ends)):
        # The members take 190 bytes at most.
        tail = TAIL.search(data[max(start, end - 256) : end - 1])
        if tail is not None:
            before = int(tail[3])
            if before >= 2**64:
                raise ArchiveError(f"sequence {before} does not fit in 64 bits")
        seqs[i] = before
    return seqs
