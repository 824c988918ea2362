"""A chunk of archive lines to rows, with every line accounted for: the fast path first, the rest one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.archive.tally import UNPARSED_TYPE, classify
from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.datasets.project import Projector
from ssmd_core.datasets.reference import Row, RowError, message_rows
from ssmd_core.datasets.split import Indexes, Split
from ssmd_core.datasets.sql import has_query
from ssmd_core.errors import ArchiveError, FrameError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import Line, parse_line

_WRAPPED = (b'{"_raw":', b'{"_raw_base64":')
# A query costs 7 ms before it does anything, a line in plain Python 40 µs.
_MIN_QUERY_LINES = 200


@dataclass(frozen=True, slots=True)
class Reject:
    """A line that became no row; see `rejects.RejectsFile.add`."""

    file: str
    line: int
    nats_seq: int | None
    message_type: str
    reason: str
    raw: bytes


@dataclass(slots=True)
class Converted:
    """What became of a chunk.

    Attributes:
        split: the chunk.
        tables: rows by message type, in the order of the lines.
        line_numbers: of each row in `tables`, the number of its line in the chunk.
        accepted, no_schema: messages by type.
        rejects: in the order of the lines.
        seqs: sequence of each line.
        has_seq: whether the line has one.
    """

    split: Split
    seqs: npt.NDArray[np.uint64]
    has_seq: npt.NDArray[np.bool_]
    tables: dict[str, pa.Table] = field(default_factory=dict)
    line_numbers: dict[str, Indexes] = field(default_factory=dict)
    accepted: Counter[str] = field(default_factory=Counter)
    no_schema: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)


class Converter:
    """Converts the chunks of a feed.

    Args:
        connection: of `project.connect`; used by one thread at a time.
    """

    def __init__(self, feed: Feed, connection: duckdb.DuckDBPyConnection) -> None:
        self._feed = feed
        self._projectors = {
            name: Projector(feed, name, kind.schema, connection)
            for name, kind in feed.message_types.items()
            if kind.schema and has_query(kind.schema)
        }

    def convert(self, split: Split) -> Converted:
        """Convert one chunk."""
        lines = len(split.chunk.offsets) - 1
        converted = Converted(split, np.zeros(lines, np.uint64), np.zeros(lines, bool))
        parts: dict[str, list[tuple[pa.Table, Indexes]]] = {}
        refused: list[int] = []
        for group in split.groups:
            if group.message_type in self._projectors:
                refused += self._project(converted, parts, group.message_type, group.lines, group.i, routed=False)
            else:
                refused += group.i.tolist()
        routed, single = self._classify(converted, refused)
        for message_type, numbers in routed.items():
            i = np.array(numbers, np.int32)
            lines_of_type = pa.array([split.chunk.line(number) for number in numbers], pa.large_binary()).cast(
                pa.large_string()
            )
            left = set(self._project(converted, parts, message_type, lines_of_type, i, routed=True))
            single.extend(
                (number, message_type, parse_line(split.chunk.line(number))) for number in numbers if number in left
            )
        self._convert_singly(converted, parts, sorted(single, key=lambda entry: entry[0]))
        converted.rejects.sort(key=lambda reject: (reject.file, reject.line))
        for name, of_type in parts.items():
            converted.tables[name], converted.line_numbers[name] = _in_line_order(of_type)
        return converted

    def _project(
        self,
        converted: Converted,
        parts: dict[str, list[tuple[pa.Table, Indexes]]],
        message_type: str,
        lines: pa.Array,
        i: Indexes,
        *,
        routed: bool,
    ) -> list[int]:
        """Take the fast path; the lines that it leaves."""
        made = self._projectors[message_type].project(lines, i, routed)
        if len(made.rows):
            converted.seqs[made.i] = made.rows["_nats_seq"].to_numpy()
            converted.has_seq[made.i] = True
            parts.setdefault(message_type, []).append((made.rows, made.i))
        if len(made.left) < len(i):
            converted.accepted[message_type] += len(i) - len(made.left)
        left: list[int] = made.left.tolist()
        return left

    def _classify(
        self, converted: Converted, refused: list[int]
    ) -> tuple[dict[str, list[int]], list[tuple[int, str, Line]]]:
        """Find the type of lines that the fast path did not take: those for a second try, those for the slow path."""
        split = converted.split
        routed: dict[str, list[int]] = {}
        single: list[tuple[int, str, Line]] = []
        retry = set(split.rest.tolist())
        for i in sorted([*retry, *refused]):
            raw = split.chunk.line(i)
            try:
                line = parse_line(raw)
            except ArchiveError as error:
                self._reject(converted, i, None, UNPARSED_TYPE, str(error))
                continue
            if line.nats_seq >= 2**64:
                self._reject(converted, i, None, UNPARSED_TYPE, f"sequence {line.nats_seq} does not fit in 64 bits")
                continue
            converted.seqs[i], converted.has_seq[i] = line.nats_seq, True
            wrapped = raw.startswith(_WRAPPED)
            message_type, _ = classify(self._feed, line.payload)
            if self._feed.schema_of(message_type):
                # A wrapped message may hold members named like the archive's: only the slow path tells them apart.
                if wrapped or i not in retry or message_type not in self._projectors:
                    single.append((i, message_type, line))
                else:
                    routed.setdefault(message_type, []).append(i)
            elif message_type == UNPARSED_TYPE and not wrapped:
                # The archive wraps what has no type, so this line was not written for this feed, or is damaged.
                self._reject(converted, i, line.nats_seq, UNPARSED_TYPE, self._why_unparsed(line.payload))
            else:
                converted.no_schema[message_type] += 1
        for message_type in [name for name, numbers in routed.items() if len(numbers) < _MIN_QUERY_LINES]:
            single += [(i, message_type, parse_line(split.chunk.line(i))) for i in routed.pop(message_type)]
        return routed, single

    def _convert_singly(
        self,
        converted: Converted,
        parts: dict[str, list[tuple[pa.Table, Indexes]]],
        single: list[tuple[int, str, Line]],
    ) -> None:
        rows: dict[str, tuple[list[Row], list[int]]] = {}
        for i, message_type, line in single:
            schema = self._feed.schema_of(message_type)
            assert schema is not None
            try:
                made = message_rows(schema, line)
            except RowError as error:
                self._reject(converted, i, line.nats_seq, message_type, str(error))
                continue
            converted.accepted[message_type] += 1
            of_type, numbers = rows.setdefault(message_type, ([], []))
            of_type += made
            numbers += [i] * len(made)
        for message_type, (of_type, numbers) in rows.items():
            if of_type:
                schema = self._feed.schema_of(message_type)
                assert schema is not None
                table = pa.Table.from_pylist(of_type, schema=arrow_schema(schema))
                parts.setdefault(message_type, []).append((table, np.array(numbers, np.int32)))

    def _reject(self, converted: Converted, i: int, nats_seq: int | None, message_type: str, reason: str) -> None:
        file, number = converted.split.chunk.origin(i)
        raw = converted.split.chunk.line(i)
        converted.rejects.append(Reject(file, number, nats_seq, message_type, reason, raw))

    def _why_unparsed(self, payload: bytes) -> str:
        try:
            self._feed.route(payload)
        except FrameError as error:
            return str(error)
        return "no message type"


def _in_line_order(parts: list[tuple[pa.Table, Indexes]]) -> tuple[pa.Table, Indexes]:
    if len(parts) == 1:
        return parts[0]
    table = pa.concat_tables([rows for rows, _ in parts])
    i = np.concatenate([numbers for _, numbers in parts])
    order = pc.sort_indices(pa.array(i))
    return table.take(order), i[order.to_numpy()]
