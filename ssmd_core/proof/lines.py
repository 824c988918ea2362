"""What every line of a chunk says of itself, as arrays: connection, receive time, ordinal, message type, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.archive.tally import MAX_TYPE_CHARS, MAX_TYPES, OTHER_TYPE, classify
from ssmd_core.datasets.convert import Converted
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import Line, parse_line

MINUTE_US: Final = 60_000_000
MINUTES: Final = 60
_NONE: Final = -1
_MAX_INT: Final = 2**63
# What a line has beside the payload, its numbers and its epoch: the members' names, less the payload's own brace.
_TAIL_BYTES: Final = len(',"_received_at":,"_nats_seq":,"_epoch":"","_ordinal":}') - 1
_POWERS: Final = np.array([10**n for n in range(1, 19)], np.int64)
_QUOTE, _UNDERSCORE, _R = b'"_r'

Codes = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


class Names:
    """Numbers names from 0 in the order in which they appear.

    Args:
        most: names that get a number of their own; later ones share that of `other`.
    """

    def __init__(self, most: int | None = None, other: str = "") -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}
        self._most = most
        self._other = other

    def code(self, name: str) -> int:
        """The name's number."""
        found = self._codes.get(name)
        if found is None:
            if self._most is not None and len(self.names) >= self._most and name != self._other:
                return self.code(self._other)
            found = self._codes[name] = len(self.names)
            self.names.append(name)
        return found

    def codes(self, column: pa.ChunkedArray | pa.Array) -> Codes:
        """The numbers of a column of names; -1 for nulls."""
        whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        encoded = pc.dictionary_encode(whole)
        known = np.fromiter(
            (self.code(name) if name is not None else _NONE for name in encoded.dictionary.to_pylist()), np.int32
        )
        if not len(known):
            return np.full(len(whole), _NONE, np.int32)
        taken: Codes = known[encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
        if encoded.indices.null_count:
            taken[encoded.indices.is_null().to_numpy(zero_copy_only=False)] = _NONE
        return taken


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a chunk; those that cannot be taken apart have epoch -1.

    Attributes:
        epoch, kind: numbers of the connection and of the message type, see `Reader`.
        recv_us, ordinal, nats_seq: as archived.
        minute: of the hour, by receive time.
        payload_bytes: of the venue's message.
        others: (number of the line, message) of types without a schema, ssmd's own events among them.
        order: the lines by (epoch, minute), otherwise as they stand; without those of epoch -1.
        starts: where in `order` each (epoch, minute) begins.
        group: which of those each line belongs to.
    """

    epoch: Codes
    kind: Codes
    recv_us: Longs
    ordinal: Longs
    nats_seq: npt.NDArray[np.uint64]
    minute: Codes
    payload_bytes: Longs
    others: list[tuple[int, Line]]
    order: Longs
    starts: Longs
    group: Codes

    def groups(self) -> list[tuple[int, int, int, int]]:
        """(epoch, minute, start, end) of every run in `order`."""
        ends = [*self.starts[1:].tolist(), len(self.order)]
        first = self.order[self.starts]
        return list(
            zip(self.epoch[first].tolist(), self.minute[first].tolist(), self.starts.tolist(), ends, strict=True)
        )

    def epochs(self) -> list[tuple[int, Longs]]:
        """Every epoch, and its lines by minute."""
        found = []
        groups = self.groups()
        begins = [i for i, group in enumerate(groups) if not i or groups[i - 1][0] != group[0]]
        for i, following in zip(begins, [*begins[1:], len(groups)], strict=True):
            found.append((groups[i][0], self.order[groups[i][2] : groups[following - 1][3]]))
        return found


class Reader:
    """Takes the lines of an hour's chunks apart, from their tables where there are some.

    Attributes:
        epochs, kinds: names behind the numbers.
    """

    def __init__(self, feed: Feed, start_us: int) -> None:
        self.epochs = Names()
        self.kinds = Names(MAX_TYPES, OTHER_TYPE)
        self._feed = feed
        self._start_us = start_us

    def read(self, converted: Converted) -> Lines:
        """The lines of a chunk."""
        count = len(converted.has_seq)
        epoch, kind = np.full(count, _NONE, np.int32), np.zeros(count, np.int32)
        recv_us, ordinal = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for name, table in converted.tables.items():
            numbers = converted.line_numbers[name]
            epoch[numbers] = self.epochs.codes(table["_epoch"])
            kind[numbers] = self.kinds.code(name)
            recv_us[numbers] = table["_received_at"].cast(pa.int64()).to_numpy()
            ordinal[numbers] = table["_ordinal"].to_numpy()
        payload_bytes = self._payload_bytes(converted, epoch, recv_us, ordinal)
        others = self._read_others(converted, epoch, kind, recv_us, ordinal, payload_bytes)
        minute = np.clip((recv_us - self._start_us) // MINUTE_US, 0, MINUTES - 1).astype(np.int32)
        order, starts, group = _grouped(epoch, minute)
        return Lines(epoch, kind, recv_us, ordinal, converted.seqs, minute, payload_bytes, others, order, starts, group)

    def _payload_bytes(self, converted: Converted, epoch: Codes, recv_us: Longs, ordinal: Longs) -> Longs:
        chunk = converted.split.chunk
        epoch_bytes = np.array([*(len(name) for name in self.epochs.names), 0], np.int64)
        tail = _TAIL_BYTES + _digits(recv_us) + _digits(ordinal) + epoch_bytes[epoch]
        tail += _digits(converted.seqs.astype(np.int64))
        found: Longs = np.diff(chunk.offsets) - 1 - tail
        # A wrapped message stands escaped in its line; there are few.
        data = np.frombuffer(chunk.data, np.uint8)
        at = np.minimum(chunk.offsets[:-1], max(len(data) - 4, 0))
        wrapped = (data[at + 1] == _QUOTE) & (data[at + 2] == _UNDERSCORE) & (data[at + 3] == _R) & (epoch >= 0)
        for i in np.flatnonzero(wrapped).tolist():
            found[i] = len(parse_line(chunk.line(i)).payload)
        return found

    def _read_others(
        self,
        converted: Converted,
        epoch: Codes,
        kind: Codes,
        recv_us: Longs,
        ordinal: Longs,
        payload_bytes: Longs,
    ) -> list[tuple[int, Line]]:
        """Lines without a row: types without a schema, rejects, empty arrays."""
        others = []
        for i in np.flatnonzero(epoch == _NONE).tolist():
            try:
                line = parse_line(converted.split.chunk.line(i))
            except ArchiveError:
                continue  # a reject, with this reason
            if line.recv_us >= _MAX_INT or line.ordinal >= _MAX_INT or line.nats_seq >= 2 * _MAX_INT:
                continue
            found, _ = classify(self._feed, line.payload)
            epoch[i] = self.epochs.code(line.epoch)
            kind[i] = self.kinds.code(found if len(found) <= MAX_TYPE_CHARS else OTHER_TYPE)
            recv_us[i], ordinal[i], payload_bytes[i] = line.recv_us, line.ordinal, len(line.payload)
            if self._feed.schema_of(found) is None:
                others.append((i, line))
        return others


def _grouped(epoch: Codes, minute: Codes) -> tuple[Longs, Longs, Codes]:
    key = epoch.astype(np.int64) * MINUTES + minute
    if len(key) and int(key.max()) < 2**15:
        # NumPy sorts 16-bit numbers by radix: a tenth of the time.
        key = key.astype(np.int16)
    order = np.argsort(key, kind="stable")
    order = order[int((epoch == _NONE).sum()) :]
    ordered = key[order]
    breaks = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    starts = np.concatenate([np.zeros(min(len(order), 1), np.int64), breaks])
    group = np.full(len(epoch), _NONE, np.int32)
    group[order] = np.repeat(np.arange(len(starts)), np.diff([*starts.tolist(), len(order)]))
    return order, starts, group


def _digits(numbers: Longs) -> Longs:
    """How many decimal digits each number has."""
    return np.searchsorted(_POWERS, numbers, side="right") + 1
