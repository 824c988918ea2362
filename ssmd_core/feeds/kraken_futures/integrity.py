"""Kraken Futures' integrity rule: numbers that count up by one per product, for books from each snapshot on, and for
trades.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.kraken_futures.book import (
    Change,
    FuturesBook,
    Level,
    Snapshot,
    book_of,
    decode_change,
    decode_snapshot,
)
from ssmd_core.feeds.kraken_futures.followed import Counters, Followed
from ssmd_core.feeds.kraken_futures.live import FuturesLive
from ssmd_core.messages.lines import Line, parse_line
from ssmd_core.proof.book_events import BOOK, End, connection_of, read_end, segments
from ssmd_core.proof.books import Books
from ssmd_core.proof.rules import Book, BookReplay, Findings, HourChunk, HourRule, LiveCheck
from ssmd_core.proof.trade_numbers import Standing, TradeNumbers, joined, trades_of
from ssmd_core.proof.verdicts import Verdicts
from ssmd_core.proof.wire_numbers import UNREADABLE, NumberError

#: The check of order books.
BOOKS: Final = BOOK
SNAPSHOT: Final = "book_snapshot"


class _BookState(msgspec.Struct, array_like=True):
    """A followed book, for the next hour. `bids`, `asks`: price and quantity; None without a snapshot."""

    epoch: str
    product: str
    seq: int
    good: bool
    in_doubt: bool
    good_us: int
    recv_us: int
    nats_seq: int
    bids: list[tuple[str, str]] | None = None
    asks: list[tuple[str, str]] | None = None


class _State(msgspec.Struct):
    books: list[_BookState]
    epochs: list[str]
    intervals: list[tuple[str, str, str, int, int, str, str]]
    trades: dict[str, Standing]
    version: int


_VERSION: Final = 1


def _read_state(state: bytes | None) -> _State:
    if state is None:
        return _State([], [], [], {}, _VERSION)
    try:
        read = msgspec.json.decode(state, type=_State)
    except UNREADABLE as error:
        raise ArchiveError(f"the state of Kraken Futures' rule cannot be read: {error}") from error
    if read.version != _VERSION:
        raise ArchiveError(f"the state of Kraken Futures' rule is of version {read.version}, {_VERSION} is wanted")
    return read


def _levels(side: list[tuple[str, str]]) -> list[Level]:
    return [Level(msgspec.Raw(price.encode()), msgspec.Raw(qty.encode())) for price, qty in side]


def _restore(kept: _BookState, followed: Followed) -> None:
    followed.seq, followed.good, followed.in_doubt = kept.seq, kept.good, kept.in_doubt
    followed.good_us, followed.recv_us, followed.nats_seq = kept.good_us, kept.recv_us, kept.nats_seq
    if kept.bids is not None and kept.asks is not None:
        try:
            followed.book = book_of(_levels(kept.bids), _levels(kept.asks))
        except NumberError as error:
            raise ArchiveError(f"the state of Kraken Futures' rule holds no book of {kept.product}: {error}") from error


class FuturesHour:
    """Checks an hour; see `rules.HourRule`."""

    def __init__(self, state: bytes | None) -> None:
        before = _read_state(state)
        self._verdicts = Verdicts()
        self._verdicts.restore(before.intervals)
        self._trades = TradeNumbers(self._verdicts, before.trades)
        self._counters: Counters = {}
        self._books = Books(self._made, before.epochs)
        for kept in before.books:
            _restore(kept, self._books.get(kept.epoch, kept.product, kept.good_us))

    def _made(self, epoch: str, product: str, good_us: int) -> Followed:
        return Followed(epoch, product, self._verdicts, self._counters, good_us)

    def take(self, chunk: HourChunk) -> None:
        """The next lines of the hour."""
        parts = [
            trades_of(chunk.tables[name], "product_id", "seq", is_snapshot)
            for name, is_snapshot in (("trade", False), ("trade_snapshot", True))
            if name in chunk.tables and chunk.tables[name].num_rows
        ]
        if parts:
            self._trades.take(joined(parts))
        self._books.saw({line.epoch for line in chunk.others})
        messages = _Messages(chunk)
        self._books.saw(messages.epochs)
        for first, end, event in segments(messages.seqs, chunk.others, chunk.holes, _is_reply):
            if first < end:
                self._take_books(chunk, messages, first, end)
            if event is None:
                continue
            if event.hole is not None:
                self._books.take_hole(event.hole)
            elif event.line is not None:
                ended = read_end(event.line.payload) or _acknowledged_end(event.line.payload)
                if ended is not None:
                    self._books.take_end(ended, event.line.epoch, event.line.recv_us)

    def _take_books(self, chunk: HourChunk, messages: _Messages, first: int, end: int) -> None:
        """Product by product: books have nothing to do with each other."""
        for rows, epoch, product, is_run in messages.groups(first, end):
            recv_us, nats_seq = messages.recv_us[rows], messages.seqs[rows]
            starts, stops = messages.starts[rows], messages.stops[rows]
            followed = self._books.get(epoch, product, int(recv_us[0]))
            done = 0
            if is_run and followed.joins(int(messages.numbers[rows[0]])):
                done = followed.run(chunk.data, starts.tolist(), stops.tolist(), recv_us, nats_seq)
            for row in range(done, len(rows)):
                line = chunk.data[starts[row] : stops[row]]
                is_snapshot = bool(messages.is_snapshot[rows[row]])
                _take_one(followed, line, is_snapshot, int(recv_us[row]), int(nats_seq[row]))

    def finish(self, start_us: int, end_us: int) -> Findings:
        """What was found; after the last chunk."""
        self._books.end_silent(start_us)
        for followed in self._books:
            followed.flush()
        for key, counters in self._trades.finish().items():
            self._counters.setdefault(key, []).extend(counters)
        return self._verdicts.findings(start_us, end_us, self._counters)

    def state(self) -> bytes:
        """What the next hour begins with."""
        books = []
        for followed in self._books:
            if followed.book is None and not followed.distrusted:
                continue
            kept = _BookState(
                followed.epoch,
                followed.product,
                followed.seq,
                followed.good,
                followed.in_doubt,
                followed.good_us,
                followed.recv_us,
                followed.nats_seq,
            )
            if followed.book is not None:
                kept.bids, kept.asks = followed.book.text("buy"), followed.book.text("sell")
            books.append(kept)
        return msgspec.json.encode(
            _State(books, self._books.going_on(), self._verdicts.open_intervals(), self._trades.state(), _VERSION)
        )


def _take_one(followed: Followed, line: bytes, is_snapshot: bool, recv_us: int, nats_seq: int) -> None:
    """One archive line."""
    try:
        try:
            message: Snapshot | Change = decode_snapshot(line) if is_snapshot else decode_change(line)
        except UNREADABLE:
            # Wrapped by the archive, or not to be read at all.
            payload = parse_line(line).payload
            message = decode_snapshot(payload) if is_snapshot else decode_change(payload)
    except (*UNREADABLE, ArchiveError) as error:
        followed.refuse(recv_us, nats_seq, str(error))
        return
    if isinstance(message, Snapshot):
        followed.begin(message, recv_us, nats_seq)
    else:
        followed.change(message, recv_us, nats_seq)


class _Messages:
    """Changes and snapshots of a chunk's books, in the order of the archive.

    Attributes:
        seqs: of the archive; `numbers`: of the venue.
        starts, stops: of the lines in the chunk's bytes.
    """

    def __init__(self, chunk: HourChunk) -> None:
        parts = [(name, chunk.tables[name]) for name in (BOOK, SNAPSHOT) if name in chunk.tables]
        if not parts:
            self.seqs = np.empty(0, np.uint64)
            self.epochs: list[str] = []
            return
        names = ["product_id", "seq", "_epoch", "_received_at", "_nats_seq"]
        table = pa.concat_tables([part.select(names) for _, part in parts])
        line = np.concatenate([chunk.numbers[name] for name, _ in parts])
        seqs = table["_nats_seq"].to_numpy()
        order = np.argsort(seqs, kind="stable")
        line = line[order]
        epochs = pc.dictionary_encode(table["_epoch"].combine_chunks())
        products = pc.dictionary_encode(table["product_id"].combine_chunks())
        self.seqs = seqs[order]
        self.numbers = table["seq"].to_numpy()[order]
        self.recv_us = table["_received_at"].cast(pa.int64()).to_numpy()[order]
        self.is_snapshot = np.concatenate([np.full(part.num_rows, name == SNAPSHOT) for name, part in parts])[order]
        self.starts, self.stops = chunk.offsets[line], chunk.offsets[line + 1] - 1
        self.epochs = epochs.dictionary.to_pylist()
        self._products: list[str] = products.dictionary.to_pylist()
        self._code = (epochs.indices.to_numpy().astype(np.int64) * len(self._products) + products.indices.to_numpy())[
            order
        ]

    def groups(self, first: int, end: int) -> Iterator[tuple[npt.NDArray[np.intp], str, str, bool]]:
        """Rows of an epoch and product, which these are, and whether they are changes: then their numbers rise by one.

        An epoch and product has several groups where a snapshot or a jump lies between.
        """
        rows = first + np.argsort(self._code[first:end], kind="stable")
        code, number = self._code[rows], self.numbers[rows]
        new = np.concatenate([[True], code[1:] != code[:-1]])
        jumps = np.concatenate([[False], number[1:] != number[:-1] + 1])
        is_snapshot = self.is_snapshot[rows]
        after = np.concatenate([[False], is_snapshot[:-1]])
        starts = np.flatnonzero(new | jumps | is_snapshot | after)
        ends = np.concatenate([starts[1:], [len(rows)]])
        for at, until, alone in zip(starts.tolist(), ends.tolist(), is_snapshot[starts].tolist(), strict=True):
            epoch, product = divmod(int(code[at]), len(self._products))
            yield rows[at:until], self.epochs[epoch], self._products[product], not alone


class _Reply(msgspec.Struct, gc=False):
    event: str = ""
    feed: str = ""
    product_ids: list[str] = []


_decode_reply = msgspec.json.Decoder(_Reply).decode


def _is_reply(payload: bytes) -> bool:
    return b'"unsubscribed"' in payload


def _acknowledged_end(payload: bytes) -> End | None:
    if not _is_reply(payload):
        return None
    try:
        reply = _decode_reply(payload)
    except UNREADABLE:
        return None
    return (
        End("unsubscribed", tuple(reply.product_ids)) if (reply.event, reply.feed) == ("unsubscribed", BOOK) else None
    )


class FuturesReplay:
    """Follows one product's book; see `rules.BookReplay`."""

    def __init__(self, product: str, state: bytes | None) -> None:
        self._product = product
        self._books: dict[str, Followed] = {}
        for kept in _read_state(state).books:
            if kept.product == product:
                _restore(kept, self._of(kept.epoch))

    def _of(self, epoch: str) -> Followed:
        followed = self._books.get(epoch)
        if followed is None:
            followed = self._books[epoch] = Followed(epoch, self._product, Verdicts(), {}, 0)
        return followed

    def take(self, kind: str, line: Line) -> None:
        """The next message of the archive."""
        if kind in (BOOK, SNAPSHOT):
            self._take_book(kind, line)
            return
        end = read_end(line.payload) or _acknowledged_end(line.payload)
        if end is None:
            return
        if end.kind == "open":
            connection = connection_of(line.epoch)
            for epoch in [name for name in self._books if name != line.epoch and connection_of(name) == connection]:
                del self._books[epoch]
        elif end.instruments is None or self._product in end.instruments:
            self._books.pop(line.epoch, None)

    def _take_book(self, kind: str, line: Line) -> None:
        try:
            if kind == SNAPSHOT:
                snapshot = decode_snapshot(line.payload)
                if snapshot.product_id == self._product:
                    self._of(line.epoch).begin(snapshot, line.recv_us, line.nats_seq)
            else:
                change = decode_change(line.payload)
                if change.product_id == self._product:
                    self._of(line.epoch).change(change, line.recv_us, line.nats_seq)
        except UNREADABLE:
            # Nothing of the book is known by it; the hour's rule says what it is worth.
            return

    def book(self) -> Book | None:
        """The book as it is now: that of the connection which spoke last."""
        alive = [followed for followed in self._books.values() if followed.book is not None]
        if not alive:
            return None
        followed = max(alive, key=_by_nats_seq)
        book: FuturesBook | None = followed.book
        assert book is not None
        return Book(
            instrument=self._product,
            bids=tuple(book.text("buy")),
            asks=tuple(book.text("sell")),
            sides=("bids", "asks"),
            epoch=followed.epoch,
            recv_us=followed.recv_us,
            nats_seq=followed.nats_seq,
        )


def _by_nats_seq(followed: Followed) -> int:
    return followed.nats_seq


def hour_rule(state: bytes | None) -> HourRule:
    """See `rules.hour_rule`."""
    return FuturesHour(state)


def live_check() -> LiveCheck:
    """See `rules.live_check`."""
    return FuturesLive()


def book_replay(instrument: str, state: bytes | None) -> BookReplay:
    """See `rules.book_replay`."""
    return FuturesReplay(instrument, state)
