"""What the rule reads of a chunk: every message that takes a number of its subscription, by connection and sid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.errors import ArchiveError
from ssmd_core.messages.control import is_control
from ssmd_core.messages.lines import Line, parse_line
from ssmd_core.proof.rules import HourChunk

Ints = npt.NDArray[np.int64]

#: Kinds of messages. A book message that cannot be applied is `UNREADABLE`.
SNAPSHOT, DELTA, OTHER, UNREADABLE = range(4)

#: Channel and column of the instrument, by message type with a schema and a number.
CHANNELS: Final = {
    "orderbook_snapshot": ("orderbook_delta", "market_ticker"),
    "orderbook_delta": ("orderbook_delta", "market_ticker"),
    "trade": ("trade", "market_ticker"),
    "market_lifecycle_v2": ("market_lifecycle_v2", "market_ticker"),
    "event_lifecycle": ("market_lifecycle_v2", "event_ticker"),
    "event_fee_update": ("market_lifecycle_v2", "event_ticker"),
}
_NUMBER_OF_CHANNEL: Final = {name: n for n, name in enumerate(sorted({name for name, _ in CHANNELS.values()}))}
_KINDS: Final = {"orderbook_snapshot": SNAPSHOT, "orderbook_delta": DELTA}

#: Decimals of the datasets are whole numbers of 10^-6 dollars or contracts.
SCALE: Final = 1_000_000
# A contract pays one dollar, so no bid is above it.
_MAX_PRICE: Final = SCALE
# 10^8 contracts; 50,000 of them still add up within 64 bits.
_MAX_SIZE: Final = 10**14
_TAIL: Final = b',"_received_at":'


class Group(NamedTuple):
    """Messages of one subscription on one connection, in the order of the archive; columns of equal length.

    Attributes:
        epoch, sid: which; sid -1 for messages without one.
        channel: "" if no message of the chunk tells.
        nats, recv_us: sequence in JetStream and receive time.
        seq: the venue's number; -1 where there is none.
        kind: one of the four kinds.
        name: index of the instrument in `names`.
        side: of deltas, 0 for yes and 1 for no.
        price, change: of deltas, in 10^-6 dollars and contracts.
        row: of snapshots, the row of their table; of others their line in the chunk, or -1 - n for `others[n]`.
    """

    epoch: str
    sid: int
    channel: str
    nats: Ints
    recv_us: Ints
    seq: Ints
    kind: Ints
    name: Ints
    side: Ints
    price: Ints
    change: Ints
    line: Ints
    row: Ints


class Event(NamedTuple):
    """Something that ends or endangers what is known of a connection.

    Attributes:
        nats, recv_us: when.
        what: `open`, `closed`, `unsubscribe`, `hole`, or `subscribed` of the sid `sid`.
        channel, instruments: of `unsubscribe`; the channel of `subscribed`.
        since_us, detail: of `hole`: receive time of the message before it, and a sentence.
    """

    nats: int
    recv_us: int
    what: str
    channel: str = ""
    instruments: tuple[str, ...] = ()
    sid: int = -1
    since_us: int = 0
    detail: str = ""


class _Envelope(msgspec.Struct, gc=False):
    type: str = ""
    sid: int = -1
    seq: int = -1
    msg: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct, gc=False):
    channel: str = ""
    sid: int = -1
    market_ticker: str = ""


class _Said(msgspec.Struct, gc=False):
    event: str
    channel: str = ""
    instruments: list[str] = []


class _Control(msgspec.Struct, gc=False):
    ssmd: _Said


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_BODY: Final = msgspec.json.Decoder(_Body)
_CONTROL: Final = msgspec.json.Decoder(_Control)
_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_INT64: Final = range(-(2**63), 2**63)


def scaled(column: pa.Array | pa.ChunkedArray) -> Ints:
    """Values of a decimal128(18,6) column without nulls (nulls give any number), in 10^-6."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not len(column):
        return np.zeros(0, np.int64)
    # 18 digits fit in the low half of the 128 bits.
    return np.frombuffer(column.buffers()[1], np.int64)[::2][column.offset : column.offset + len(column)]


def integers(column: pa.ChunkedArray) -> Ints:
    """An integer or timestamp column; nulls are -1."""
    whole = column if pa.types.is_uint64(column.type) else pc.fill_null(column.cast(pa.int64()), -1)
    values: Ints = whole.to_numpy().astype(np.int64)
    return values


class Chunk:
    """A chunk, read.

    Attributes:
        names: instruments.
        events: by epoch, in their order.
        epochs: all that have a message of any type in the chunk.
    """

    def __init__(self, chunk: HourChunk) -> None:
        self._chunk = chunk
        self.names: list[str] = []
        self._codes: dict[str, int] = {}
        self.events: dict[str, list[Event]] = {}
        self.epochs: set[str] = {
            epoch for table in chunk.tables.values() for epoch in pc.unique(table["_epoch"]).to_pylist()
        }
        self._columns: list[dict[str, Any]] = []
        for name in CHANNELS:
            table = chunk.tables.get(name)
            if table is not None and len(table):
                self._columns.append(self._of_table(name, table, chunk.numbers[name]))
        self._read_others()
        for hole in chunk.holes:
            detail = f"{hole.missing} messages after ordinal {hole.after_ordinal} are not in the archive"
            event = Event(hole.nats_seq, hole.after_us, "hole", since_us=hole.before_us, detail=detail)
            self.events.setdefault(hole.epoch, []).append(event)
        for events in self.events.values():
            # A hole is before the message that shows it.
            events.sort(key=lambda event: (event.nats, event.what != "hole"))

    def groups(self) -> Iterator[Group]:
        """The groups, by epoch and sid."""
        if not self._columns:
            return
        merged = {key: np.concatenate([columns[key] for columns in self._columns]) for key in self._columns[0]}
        order = np.lexsort((merged["nats"], merged["sid"], merged["epoch"]))
        merged = {key: column[order] for key, column in merged.items()}
        epoch, sid = merged.pop("epoch"), merged.pop("sid")
        channel = merged.pop("channel")
        starts = np.flatnonzero(np.r_[True, (np.diff(epoch) != 0) | (np.diff(sid) != 0)])
        channels = list(_NUMBER_OF_CHANNEL)
        for first, end in zip(starts.tolist(), [*starts[1:].tolist(), len(epoch)], strict=True):
            known = channel[first:end].max()
            yield Group(
                self.names[epoch[first]],
                int(sid[first]),
                channels[known] if known >= 0 else "",
                **{key: column[first:end] for key, column in merged.items()},
            )

    def payload(self, line: int) -> bytes:
        """The venue's bytes of a message, to tell a repeat by; `line` as in `Group.line`."""
        if line < 0:
            return self._chunk.others[-1 - line].payload
        raw = self._chunk.line(line)
        return raw[: raw.rfind(_TAIL)]

    def levels(self, row: int) -> tuple[Ints, Ints]:
        """A snapshot's levels: price * 2 + side (yes 0, no 1), and size."""
        table = self._chunk.tables["orderbook_snapshot"]
        keys, sizes = [], []
        for side, name in enumerate(("yes_bids", "no_bids")):
            levels = table[name].slice(row, 1).combine_chunks().flatten()
            price, size = levels.flatten()
            keys.append(scaled(price) * 2 + side)
            sizes.append(scaled(size))
        return np.concatenate(keys), np.concatenate(sizes)

    def _code(self, name: str) -> int:
        code = self._codes.get(name)
        if code is None:
            code = self._codes[name] = len(self.names)
            self.names.append(name)
        return code

    def _coded(self, column: pa.ChunkedArray) -> Ints:
        encoded = column.combine_chunks().dictionary_encode()
        codes = np.array([self._code(name or "") for name in encoded.dictionary.to_pylist()], np.int64)
        indices: Ints = codes[encoded.indices.to_numpy()]
        return indices

    def _of_table(self, name: str, table: pa.Table, numbers: npt.NDArray[np.int32]) -> dict[str, Ints]:
        channel, instrument = CHANNELS[name]
        rows = len(table)
        kind = np.full(rows, _KINDS.get(name, OTHER), np.int64)
        side = price = change = np.zeros(rows, np.int64)
        row = np.arange(rows)
        if name == "orderbook_delta":
            price, change = scaled(table["price"]), scaled(table["delta"])
            no = pc.equal(table["side"], "no").to_numpy()
            side = no.astype(np.int64)
            right = (no | pc.equal(table["side"], "yes").to_numpy()) & (price >= 0) & (price <= _MAX_PRICE)
            kind[~(right & (np.abs(change) <= _MAX_SIZE))] = UNREADABLE
        seq, sid = integers(table["exchange_seq"]), integers(table["sid"])
        return {
            "epoch": self._coded(table["_epoch"]),
            "sid": sid,
            "channel": np.full(rows, _NUMBER_OF_CHANNEL[channel]),
            "nats": integers(table["_nats_seq"]),
            "recv_us": integers(table["_received_at"]),
            "seq": np.where((seq > 0) & (sid >= 0), seq, -1),
            "kind": kind,
            "name": self._coded(table[instrument]),
            "side": side,
            "price": price,
            "change": change,
            "line": numbers.astype(np.int64),
            "row": row,
        }

    def _read_others(self) -> None:
        found: list[tuple[int, ...]] = []
        for n, line in enumerate(self._chunk.others):
            self.epochs.add(line.epoch)
            if is_control(line.payload):
                self._read_control(line)
            elif (entry := self._numbered(line, -1 - n, OTHER)) is not None:
                found.append(entry)
        for number, line in self._unread_lines():
            if (entry := self._numbered(line, number, UNREADABLE)) is not None:
                found.append(entry)
        if found:
            zeros = np.zeros(len(found), np.int64)
            keys = ("epoch", "sid", "channel", "nats", "recv_us", "seq", "kind", "name", "line")
            columns = dict(zip(keys, np.array(found, np.int64).T, strict=True))
            self._columns.append({**columns, "side": zeros, "price": zeros, "change": zeros, "row": zeros})
            order = self._columns[0]
            self._columns[-1] = {key: self._columns[-1][key] for key in order}

    def _read_control(self, line: Line) -> None:
        try:
            said = _CONTROL.decode(line.payload).ssmd
        except _ERRORS:
            return
        if said.event in ("open", "closed", "unsubscribe"):
            event = Event(line.nats_seq, line.recv_us, said.event, said.channel, tuple(said.instruments))
            self.events.setdefault(line.epoch, []).append(event)

    def _numbered(self, line: Line, number: int, kind: int) -> tuple[int, ...] | None:
        """A message outside the tables that takes a number; a `subscribed` becomes an event."""
        try:
            envelope = _ENVELOPE.decode(line.payload)
            body = _BODY.decode(envelope.msg) if bytes(envelope.msg)[:1] == b"{" else _Body()
        except _ERRORS:
            return None
        if envelope.type == "subscribed" and body.sid >= 0:
            event = Event(line.nats_seq, line.recv_us, "subscribed", body.channel, sid=body.sid)
            self.events.setdefault(line.epoch, []).append(event)
            return None
        if envelope.sid not in _INT64 or envelope.seq not in _INT64 or envelope.sid < 0 or envelope.seq < 1:
            return None
        is_book = envelope.type in _KINDS
        channel = CHANNELS.get(envelope.type, ("", ""))[0]
        return (
            self._code(line.epoch),
            envelope.sid,
            _NUMBER_OF_CHANNEL.get(channel, -1),
            line.nats_seq,
            line.recv_us,
            envelope.seq,
            kind if is_book else OTHER,
            self._code(body.market_ticker),
            number,
        )

    def _unread_lines(self) -> Iterator[tuple[int, Line]]:
        """Lines that are in no table: rejected ones, which take a number all the same."""
        lines = len(self._chunk.offsets) - 1
        read = np.zeros(lines, bool)
        for numbers in self._chunk.numbers.values():
            read[numbers] = True
        if lines - int(read.sum()) == len(self._chunk.others):
            return
        others = {line.nats_seq for line in self._chunk.others}
        for number in np.flatnonzero(~read).tolist():
            try:
                line = parse_line(self._chunk.line(number))
            except ArchiveError:
                continue
            if line.nats_seq not in others and line.nats_seq in _INT64:
                yield number, line
