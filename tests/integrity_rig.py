"""Recorded frames as chunks of archive lines, split and converted as the build does it, with seeded damage."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from ssmd_core.archive.tally import classify
from ssmd_core.datasets.convert import Converter
from ssmd_core.datasets.project import connect
from ssmd_core.datasets.split import Chunk, Run, Splitter
from ssmd_core.feeds import get
from ssmd_core.messages.lines import Line, format_line, needs_wrapping
from ssmd_core.proof.rules import Findings, Hole, HourChunk

START_US = 1_786_845_600_000_000
END_US = START_US + 3_600_000_000
EPOCH = "c0-20260816T020000000-0001"
STEP_US = 250_000


def frames_of(path: Path) -> list[bytes]:
    """The frames of a recording."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data.splitlines()


def recv_us(position: int) -> int:
    """Receive time of a position in the archive: four frames a second."""
    return START_US + position * STEP_US


def damage(first: int, end: int, seed: int) -> list[int]:
    """Numbers `first` to `end` with one in 1,000, at least one, removed, doubled or swapped with its successor."""
    chance = random.Random(seed)
    order = list(range(first, end))
    for _ in range(max(1, (end - first) // 1000)):
        at = chance.randrange(len(order) - 1)
        kind = chance.choice(("remove", "double", "swap"))
        if kind == "remove":
            del order[at]
        elif kind == "double":
            order.insert(at, order[at])
        else:
            order[at : at + 2] = order[at + 1], order[at]
    return order


class Rig:
    """Makes chunks of one feed."""

    def __init__(self, feed: str) -> None:
        self.feed = get(feed)
        self._splitter = Splitter(self.feed)
        self._connection = connect()
        self._converter = Converter(self.feed, self._connection)

    def close(self) -> None:
        """Let DuckDB go."""
        self._connection.close()

    def chunk(
        self, frames: Sequence[bytes], position: int = 0, *, epoch: str = EPOCH, holes: Sequence[Hole] = ()
    ) -> HourChunk:
        """Frames, the first of which is number `position` in the archive, as the builder's observer sees them."""
        kinds = [classify(self.feed, frame)[0] for frame in frames]
        lines = [
            format_line(
                frame,
                recv_us(position + n),
                position + n + 1,
                epoch,
                position + n,
                wrapped=needs_wrapping(frame) or kinds[n] == "unparsed",
            )
            + b"\n"
            for n, frame in enumerate(frames)
        ]
        offsets = np.concatenate([[0], np.cumsum([len(line) for line in lines])]).astype(np.int64)
        data = b"".join(lines)
        converted = self._converter.convert(self._splitter.split(Chunk(data, offsets, (Run(0, "0000.jsonl.gz", 1),))))
        others = [
            Line(frame, recv_us(position + n), position + n + 1, epoch, position + n)
            for n, frame in enumerate(frames)
            if self.feed.schema_of(kinds[n]) is None
        ]
        return HourChunk(converted.tables, converted.line_numbers, data, offsets, others, holes)


class Recording:
    """A recording, converted once; any of its frames can then be sent in any order.

    Attributes:
        frames, kinds: the frames and their message types.
    """

    def __init__(self, rig: Rig, path: Path) -> None:
        self.frames = frames_of(path)
        self.kinds = [classify(rig.feed, frame)[0] for frame in self.frames]
        self.whole = rig.chunk(self.frames)
        self._others = {line.ordinal: line for line in self.whole.others}

    def chunk(self, order: Sequence[int], position: int = 0) -> HourChunk:
        """These frames, the first of which is number `position` in the archive."""
        whole, sent = self.whole, np.array(order)
        tables, numbers = {}, {}
        for name, table in whole.tables.items():
            first = np.searchsorted(whole.numbers[name], sent, "left")
            length = np.searchsorted(whole.numbers[name], sent, "right") - first
            line = np.repeat(np.arange(len(sent)), length)
            row = np.arange(len(line)) - np.repeat(np.cumsum(length) - length, length) + first[line]
            taken = table.take(pa.array(row))
            for column, values in (
                ("_nats_seq", position + line + 1),
                ("_received_at", recv_us(position) + line * STEP_US),
            ):
                at = taken.schema.get_field_index(column)
                taken = taken.set_column(at, taken.schema.field(at), pa.array(values).cast(taken.schema.field(at).type))
            tables[name], numbers[name] = taken, line.astype(np.int32)
        lines = [whole.line(i) + b"\n" for i in order]
        offsets = np.concatenate([[0], np.cumsum([len(line) for line in lines])]).astype(np.int64)
        others = [
            self._others[i]._replace(recv_us=recv_us(position + n), nats_seq=position + n + 1)
            for n, i in enumerate(order)
            if i in self._others
        ]
        return HourChunk(tables, numbers, b"".join(lines), offsets, others, ())


def intervals(findings: Findings) -> list[tuple[str, str, str, int, int | None]]:
    """instrument, check, reason, position of the start, position of the end or None."""
    out = []
    for row in findings.untrusted.to_pylist():
        bounds = [
            None if row[name] is None else round((row[name].timestamp() * 1e6 - START_US) / STEP_US)
            for name in ("from", "to")
        ]
        assert bounds[0] is not None
        out.append((row["instrument"], row["check"], row["reason"], bounds[0], bounds[1]))
    return out


def rig_of(feed: str) -> Iterator[Rig]:
    """For a fixture."""
    rig = Rig(feed)
    with closing(rig):
        yield rig
