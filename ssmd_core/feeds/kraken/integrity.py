"""Kraken spot's integrity rule: the CRC32 that comes with every book message, and trade ids that count up by one."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.kraken.book import (
    BookMessage,
    Item,
    KrakenBook,
    Level,
    decode_book,
    read_reply,
)
from ssmd_core.feeds.kraken.followed import Followed
from ssmd_core.feeds.kraken.live import KrakenLive
from ssmd_core.messages.lines import Line, parse_line
from ssmd_core.proof.book_events import BOOK, End, Event, connection_of, read_end, segments
from ssmd_core.proof.books import Books
from ssmd_core.proof.rules import Book, BookReplay, Findings, HourChunk, HourRule, LiveCheck
from ssmd_core.proof.trade_numbers import Standing, TradeNumbers, trades_of
from ssmd_core.proof.verdicts import Verdicts
from ssmd_core.proof.wire_numbers import UNREADABLE, NumberError

#: The check of order books.
BOOKS: Final = BOOK


class _BookState(msgspec.Struct, array_like=True):
    """A followed book, for the next hour. `levels`: bids and asks as price and quantity; None without a snapshot."""

    epoch: str
    symbol: str
    depth: int | None
    good: bool
    good_us: int
    recv_us: int
    nats_seq: int
    cut_to: int = 0
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
        raise ArchiveError(f"the state of Kraken's rule cannot be read: {error}") from error
    if read.version != _VERSION:
        raise ArchiveError(f"the state of Kraken's rule is of version {read.version}, {_VERSION} is wanted")
    return read


def _levels(side: list[tuple[str, str]]) -> list[Level]:
    return [Level(msgspec.Raw(price.encode()), msgspec.Raw(qty.encode())) for price, qty in side]


def _restored(kept: _BookState) -> KrakenBook | None:
    if kept.bids is None or kept.asks is None:
        return None
    book = KrakenBook(kept.cut_to)
    try:
        book.apply(Item(kept.symbol, _levels(kept.bids), _levels(kept.asks)))
    except NumberError as error:
        raise ArchiveError(f"the state of Kraken's rule holds no book of {kept.symbol}: {error}") from error
    return book


class KrakenHour:
    """Checks an hour; see `rules.HourRule`."""

    def __init__(self, state: bytes | None) -> None:
        before = _read_state(state)
        self._verdicts = Verdicts()
        self._verdicts.restore(before.intervals)
        self._trades = TradeNumbers(self._verdicts, before.trades)
        self._books = Books(self._made, before.epochs)
        for kept in before.books:
            followed = self._books.get(kept.epoch, kept.symbol, kept.good_us)
            followed.good_us = kept.good_us
            followed.depth, followed.good, followed.book = kept.depth, kept.good, _restored(kept)
            followed.recv_us, followed.nats_seq = kept.recv_us, kept.nats_seq

    def _made(self, epoch: str, symbol: str, good_us: int) -> Followed:
        return Followed(epoch, symbol, self._verdicts, good_us)

    def take(self, chunk: HourChunk) -> None:
        """The next lines of the hour."""
        trades = chunk.tables.get("trade")
        if trades is not None and trades.num_rows:
            self._trades.take(trades_of(trades, "symbol", "trade_id", None))
        self._books.saw({line.epoch for line in chunk.others})
        books = chunk.tables.get(BOOK)
        messages = _Messages(chunk, books) if books is not None and books.num_rows else None
        seqs = messages.seqs if messages else np.empty(0, np.uint64)
        for first, end, event in segments(seqs, chunk.others, chunk.holes, _is_reply):
            if messages and first < end:
                self._take_books(messages, first, end)
            if event is not None:
                self._take_event(event)

    def _take_books(self, messages: _Messages, first: int, end: int) -> None:
        data, epochs, decode = messages.data, messages.epochs, decode_book
        seen = set(messages.epoch[first:end])
        self._books.saw(epochs[n] for n in seen)
        # Nothing ends a book within the segment.
        books_of = {n: self._books.of(epochs[n]) for n in seen}
        rows = zip(*(column[first:end] for column in messages.columns), strict=True)
        for start, stop, epoch_number, recv_us, nats_seq in rows:
            line = data[start:stop]
            try:
                message = decode(line)
            except UNREADABLE as error:
                found = self._take_slowly(line, epochs[epoch_number], recv_us, nats_seq, messages, error)
                if found is None:
                    continue
                message = found
            books = books_of[epoch_number]
            for item in message.data:
                followed = books.get(item.symbol) or self._books.get(epochs[epoch_number], item.symbol, recv_us)
                followed.take(message.type, item, recv_us, nats_seq)

    def _take_slowly(
        self, line: bytes, epoch: str, recv_us: int, nats_seq: int, messages: _Messages, error: Exception
    ) -> BookMessage | None:
        """A message that the archive wrapped; or None, and what it names is in doubt."""
        try:
            return decode_book(parse_line(line).payload)
        except (*UNREADABLE, ArchiveError):
            for symbol in messages.symbols_of(nats_seq):
                self._books.get(epoch, symbol, recv_us).refuse(recv_us, nats_seq, str(error))
            return None

    def _take_event(self, event: Event) -> None:
        if event.hole is not None:
            self._books.take_hole(event.hole)
            return
        assert event.line is not None
        line = event.line
        end = read_end(line.payload) or _acknowledged_end(line.payload)
        if end is not None:
            self._books.take_end(end, line.epoch, line.recv_us)
        else:
            reply = read_reply(line.payload)
            if reply is not None and reply.channel == BOOK and reply.symbol:
                self._books.get(line.epoch, reply.symbol, line.recv_us).depth = reply.depth

    def finish(self, start_us: int, end_us: int) -> Findings:
        """What was found; after the last chunk."""
        self._books.end_silent(start_us)
        for followed in self._books:
            followed.flush()
        return self._verdicts.findings(start_us, end_us, self._trades.finish())

    def state(self) -> bytes:
        """What the next hour begins with."""
        books = []
        for followed in self._books:
            if followed.book is None and followed.depth is None and not followed.distrusted:
                continue
            kept = _BookState(
                followed.epoch,
                followed.symbol,
                followed.depth,
                followed.good,
                followed.good_us,
                followed.recv_us,
                followed.nats_seq,
            )
            if followed.book is not None:
                kept.cut_to = followed.book.depth
                kept.bids, kept.asks = followed.book.bids.text(), followed.book.asks.text()
            books.append(kept)
        return msgspec.json.encode(
            _State(books, self._books.going_on(), self._verdicts.open_intervals(), self._trades.state(), _VERSION)
        )


class _Messages:
    """The book messages of a chunk, one row a message however many books it holds."""

    def __init__(self, chunk: HourChunk, table: pa.Table) -> None:
        numbers = chunk.numbers[BOOK]
        first = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]]))
        line = numbers[first]
        epochs = pc.dictionary_encode(table["_epoch"].combine_chunks())
        self._table = table
        self.data = chunk.data
        self.epochs: list[str] = epochs.dictionary.to_pylist()
        self.epoch: list[int] = epochs.indices.to_numpy()[first].tolist()
        self.seqs = table["_nats_seq"].to_numpy()[first]
        recv_us = table["_received_at"].cast(pa.int64()).to_numpy()[first]
        self.columns: tuple[list[int], ...] = (
            chunk.offsets[line].tolist(),
            (chunk.offsets[line + 1] - 1).tolist(),
            self.epoch,
            recv_us.tolist(),
            self.seqs.tolist(),
        )

    def symbols_of(self, nats_seq: int) -> list[str]:
        """What a message names, by its rows."""
        rows = self._table.filter(pc.equal(self._table["_nats_seq"], pa.scalar(nats_seq, pa.uint64())))
        symbols: list[str] = rows["symbol"].to_pylist()
        return list(dict.fromkeys(symbols))


def _is_reply(payload: bytes) -> bool:
    """Whether it may be an acknowledgement of a book's subscription or its end."""
    return b'"book"' in payload and b'ubscribe"' in payload


def _acknowledged_end(payload: bytes) -> End | None:
    if b'"unsubscribe"' not in payload:
        return None
    reply = read_reply(payload)
    return End("unsubscribed", (reply.symbol,)) if reply is not None and reply.channel == BOOK else None


class KrakenReplay:
    """Follows one symbol's book; see `rules.BookReplay`."""

    def __init__(self, symbol: str, state: bytes | None) -> None:
        self._symbol = symbol
        self._needle = symbol.encode()
        self._books: dict[str, Followed] = {}
        for kept in _read_state(state).books:
            if kept.symbol == symbol:
                followed = self._of(kept.epoch)
                followed.depth, followed.book = kept.depth, _restored(kept)
                followed.recv_us, followed.nats_seq = kept.recv_us, kept.nats_seq

    def _of(self, epoch: str) -> Followed:
        followed = self._books.get(epoch)
        if followed is None:
            followed = self._books[epoch] = Followed(epoch, self._symbol, Verdicts(), 0)
        return followed

    def take(self, kind: str, line: Line) -> None:
        """The next message of the archive."""
        if kind == BOOK:
            try:
                message = decode_book(line.payload)
            except UNREADABLE:
                return
            for item in message.data:
                if item.symbol == self._symbol:
                    self._of(line.epoch).take(message.type, item, line.recv_us, line.nats_seq)
            return
        end = read_end(line.payload) or _acknowledged_end(line.payload)
        if end is None:
            if kind == "subscribe" and _is_reply(line.payload):
                reply = read_reply(line.payload)
                if reply is not None and reply.channel == BOOK and reply.symbol == self._symbol:
                    self._of(line.epoch).depth = reply.depth
        elif end.kind == "open":
            connection = connection_of(line.epoch)
            for epoch in [name for name in self._books if name != line.epoch and connection_of(name) == connection]:
                del self._books[epoch]
        elif end.instruments is None or self._symbol in end.instruments:
            self._books.pop(line.epoch, None)

    def book(self) -> Book | None:
        """The book as it is now: that of the connection which spoke last."""
        alive = [followed for followed in self._books.values() if followed.book is not None]
        if not alive:
            return None
        followed = max(alive, key=lambda one: one.nats_seq)
        assert followed.book is not None
        return Book(
            instrument=self._symbol,
            bids=tuple(followed.book.bids.text()),
            asks=tuple(followed.book.asks.text()),
            sides=("bids", "asks"),
            epoch=followed.epoch,
            recv_us=followed.recv_us,
            nats_seq=followed.nats_seq,
        )


def hour_rule(state: bytes | None) -> HourRule:
    """See `rules.hour_rule`."""
    return KrakenHour(state)


def live_check() -> LiveCheck:
    """See `rules.live_check`."""
    return KrakenLive()


def book_replay(instrument: str, state: bytes | None) -> BookReplay:
    """See `rules.book_replay`."""
    return KrakenReplay(instrument, state)
