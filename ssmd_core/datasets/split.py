"""Archive lines by message type, many at a time.

A line's type is looked up at the first place where its type member seems to stand; DuckDB reads the member properly
afterwards and refuses what was taken for something else. Lines that show no known type so are classified one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.feeds.base import Feed

Indexes = npt.NDArray[np.int32]
_NEWLINE = 10


class Run(NamedTuple):
    """Neighbouring lines of a chunk that are neighbours in a file too.

    Attributes:
        i: number of the run's first line in the chunk.
        file: file name.
        line: number of that line in the file, from 1.
    """

    i: int
    file: str
    line: int


class Chunk(NamedTuple):
    """Whole archive lines.

    Attributes:
        data: the lines, each with its line break.
        offsets: where the lines start, and the end of the last.
        runs: where they come from, ascending; the first starts at 0.
    """

    data: bytes
    offsets: npt.NDArray[np.int64]
    runs: tuple[Run, ...]

    def line(self, i: int) -> bytes:
        """One line, without its line break."""
        return self.data[self.offsets[i] : self.offsets[i + 1]].removesuffix(b"\n")

    def origin(self, i: int) -> tuple[str, int]:
        """File and line number of a line of the chunk."""
        run = next(run for run in reversed(self.runs) if run.i <= i)
        return run.file, run.line + i - run.i


class Group(NamedTuple):
    """Lines of a chunk that look like one message type.

    Attributes:
        message_type: which.
        i: the lines' numbers in the chunk, ascending.
        lines: large_string.
    """

    message_type: str
    i: Indexes
    lines: pa.Array


class Split(NamedTuple):
    """A chunk, split.

    Attributes:
        chunk: it.
        groups: by type with a schema; a type may have several.
        rest: lines to classify one by one.
    """

    chunk: Chunk
    groups: tuple[Group, ...]
    rest: Indexes


def line_offsets(data: bytes) -> npt.NDArray[np.int64]:
    """Where lines start, and the end of the last."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
    return np.concatenate([np.zeros(1, np.int64), ends])


class Splitter:
    """Splits the chunks of a feed."""

    def __init__(self, feed: Feed) -> None:
        names = [name for name, kind in feed.message_types.items() if kind.schema]
        # `"key": "name"`, rounded up to whole words.
        longest = max(len(key) + len(name) for key in feed.type_key for name in names) + 6
        self._window = -longest // 8 * -8
        # The types that were frequent in the chunk before are looked for first; this changes the speed only.
        self._names = {key: names for key in feed.type_key}

    def split(self, chunk: Chunk) -> Split:
        """Split a chunk."""
        offsets = chunk.offsets
        lines = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(chunk.data))
        open_ = np.flatnonzero(_valid_utf8(lines, chunk.data, offsets)).astype(np.int32)
        groups: list[Group] = []
        for key in self._names:
            if len(open_):
                found, open_ = self._split_by_key(chunk.data, offsets, lines, open_, key)
                groups += found
        taken = np.zeros(len(lines), dtype=bool)
        for group in groups:
            taken[group.i] = True
        return Split(chunk, tuple(groups), np.flatnonzero(~taken).astype(np.int32))

    def _split_by_key(
        self, data: bytes, offsets: npt.NDArray[np.int64], lines: pa.Array, open_: Indexes, key: str
    ) -> tuple[list[Group], Indexes]:
        candidates = lines if len(open_) == len(lines) else lines.take(pa.array(open_))
        window = _windows(data, offsets[:-1][open_], candidates, key, self._window)
        left = np.arange(len(open_))
        groups = []
        for name in self._names[key]:
            for colon in (b'":"', b'": "'):
                matches = _starts_with(window, left, b'"' + key.encode() + colon + name.encode() + b'"')
                if matches.any():
                    chosen = left[matches]
                    whole = len(chosen) == len(lines)
                    groups.append(Group(name, open_[chosen], lines if whole else candidates.take(pa.array(chosen))))
                    left = left[~matches]
            if not len(left):
                break
        counts = {name: 0 for name in self._names[key]}
        for group in groups:
            counts[group.message_type] += len(group.i)
        self._names[key] = sorted(counts, key=counts.__getitem__, reverse=True)
        return groups, open_[left]


def _windows(
    data: bytes, starts: npt.NDArray[np.int64], lines: pa.Array, key: str, size: int
) -> npt.NDArray[np.uint64]:
    """The bytes of each line, as words, from the first `"key"` on; of lines without it those from the line's start."""
    found = pc.find_substring(lines.cast(pa.large_binary()), f'"{key}"'.encode()).to_numpy()
    at = starts + np.maximum(found, 0)
    padded = np.frombuffer(data, np.uint8)
    if len(padded) < size:
        padded = np.pad(padded, (0, size))
    # Near the chunk's end the window would leave it: there it starts earlier and does not match, and the line is
    # classified alone.
    last = len(padded) - size
    windows: npt.NDArray[np.uint64] = np.lib.stride_tricks.sliding_window_view(padded, size)[np.minimum(at, last)].view(
        np.uint64
    )
    return windows


def _starts_with(windows: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64], wanted: bytes) -> npt.NDArray[np.bool_]:
    """Which of the rows start with the wanted bytes, compared word by word."""
    padded = wanted.ljust(-len(wanted) // 8 * -8, b"\0")
    words = np.frombuffer(padded, np.uint64)
    masks = np.frombuffer(b"\xff" * len(wanted) + b"\0" * (len(padded) - len(wanted)), np.uint64)
    matches = np.ones(len(rows), dtype=bool)
    for column, (word, mask) in enumerate(zip(words, masks, strict=True)):
        matches &= (windows[rows, column] & mask) == word
    return matches


def _valid_utf8(lines: pa.Array, data: bytes, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid:
        return np.array([_is_utf8(data[start:end]) for start, end in _pairs(offsets)], dtype=bool)
    return np.ones(len(lines), dtype=bool)


def _pairs(offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    return zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
