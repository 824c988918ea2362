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

from ssmd_core.errors import DatasetError
from ssmd_core.feeds.base import Feed

Indexes = npt.NDArray[np.int32]
_NEWLINE = 10
# Longest type member: `"event_type": "tick_size_change"` has 33 bytes.
_WINDOW = 48


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
        runs: where they come from, ascending; the first starts at 0.
    """

    data: bytes
    runs: tuple[Run, ...]

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
        offsets: where its lines start, and its end.
        groups: by type with a schema.
        rest: lines to classify one by one.
    """

    chunk: Chunk
    offsets: npt.NDArray[np.int64]
    groups: tuple[Group, ...]
    rest: Indexes

    def line(self, i: int) -> bytes:
        """One line, without its line break."""
        return self.chunk.data[self.offsets[i] : self.offsets[i + 1]].removesuffix(b"\n")


def line_offsets(data: bytes) -> npt.NDArray[np.int64]:
    """Where lines start, and the end of the last."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
    return np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])


def split_chunk(feed: Feed, chunk: Chunk) -> Split:
    """Split a chunk whose last byte is a line break."""
    offsets = line_offsets(chunk.data)
    lines = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(chunk.data))
    valid = _valid_utf8(lines, chunk.data, offsets)
    open_ = np.arange(len(lines), dtype=np.int32)[valid]
    groups = []
    for key, names in _names_by_key(feed).items():
        if not len(open_):
            break
        candidates = lines if len(open_) == len(lines) else lines.take(pa.array(open_))
        window = _windows(chunk.data, offsets, open_, candidates, key)
        taken = np.zeros(len(open_), dtype=bool)
        for name in names:
            matches = np.zeros(len(open_), dtype=bool)
            for colon in (b'":"', b'": "'):
                wanted = np.frombuffer(b'"' + key.encode() + colon + name.encode() + b'"', np.uint8)
                matches |= (window[:, : len(wanted)] == wanted).all(axis=1)
            if matches.any():
                groups.append(Group(name, open_[matches], candidates.filter(pa.array(matches))))
                taken |= matches
            if taken.all():
                break
        open_ = open_[~taken]
    rest = np.setdiff1d(np.arange(len(lines), dtype=np.int32), np.concatenate([group.i for group in groups] or [open_[:0]]))
    return Split(chunk, offsets, tuple(groups), rest)


def _names_by_key(feed: Feed) -> dict[str, list[str]]:
    names = [name for name, kind in feed.message_types.items() if kind.schema]
    longest = max(len(key) + len(name) for key in feed.type_key for name in names) + 6
    if longest > _WINDOW:
        raise DatasetError(f"{feed.name}: type members of {longest} bytes do not fit in {_WINDOW}")
    return dict.fromkeys(feed.type_key, names)


def _windows(
    data: bytes, offsets: npt.NDArray[np.int64], i: Indexes, lines: pa.Array, key: str
) -> npt.NDArray[np.uint8]:
    """The bytes of each line from the first `"key"` on; of lines without it those from the line's start."""
    at = offsets[:-1][i] + np.maximum(pc.find_substring(lines.cast(pa.large_binary()), f'"{key}"'.encode()).to_numpy(), 0)
    padded = np.frombuffer(data, np.uint8)
    if len(padded) < _WINDOW:
        padded = np.pad(padded, (0, _WINDOW))
    # Near the chunk's end the window would leave it: there it starts earlier and does not match, and the line is
    # classified alone.
    last = len(padded) - _WINDOW
    windows: npt.NDArray[np.uint8] = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[np.minimum(at, last)]
    return windows


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
