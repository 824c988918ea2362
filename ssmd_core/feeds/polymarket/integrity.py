"""Polymarket's integrity rule: every book and every price change against the venue's SHA-1 of the full book.

The one check is `book`, of a token. There is no sequence number, so a loss shows at the first hash after it that is
not ours, and is over with the next one that is: the hash covers the whole book. A loss that the next message makes good
(the same level set again, nothing else missing) leaves no trace and no wrong book behind.

A hash also covers the last trade price. The message about a trade comes after the change that the trade caused, so a
hash that does not fit is kept until the next one that does, and tried again with what was learned in between.

The two tokens of a market are one book seen from two sides: a change is sent to both in one message, at p and at 1 - p
with the same size. They are in step once one such message has found both hashes right and the prices of the two books
each other's mirror. From then on one hash of the two is made: a message is lost or damaged as a whole, so what it said
is missing in both books or in none, and what mends one mends the other, because it sets the same level. They are out of
step, and both hashes are made, from the first message on that is no such pair (a book, a trade, a tick size, a change
of one token), from a hole, and from a hash that does not fit.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ssmd_core.feeds.polymarket.book import TokenBook
from ssmd_core.feeds.polymarket.followed import MAX_TRIES, Epoch, Token
from ssmd_core.feeds.polymarket.judge import BOOKS, Judge, mirrored
from ssmd_core.feeds.polymarket.live import LivePolymarket
from ssmd_core.feeds.polymarket.order import in_order
from ssmd_core.feeds.polymarket.replay import PolymarketReplay
from ssmd_core.feeds.polymarket.saved import SavedToken, load, save
from ssmd_core.feeds.polymarket.wire import (
    NUMBERS,
    BookMessage,
    Change,
    ChangeMessage,
    Message,
    is_amount,
    read_book,
    read_change,
    read_line,
)
from ssmd_core.messages.control import is_control
from ssmd_core.messages.lines import Line
from ssmd_core.proof.book_events import connection_of
from ssmd_core.proof.rules import Findings, Hole, HourChunk
from ssmd_core.proof.verdicts import Verdicts

# Of two tokens in step, each is hashed for 4.2 s in turn: by messages in turn, one message changes one side of a book
# and the hash must join two.
_TURN_BITS: Final = 22

__all__ = ["BOOKS", "PolymarketRule", "book_replay", "hour_rule", "live_check"]


def hour_rule(state: bytes | None) -> PolymarketRule:
    """The rule of one hour; see `proof.rules`."""
    return PolymarketRule(state)


def live_check() -> LivePolymarket:
    """The check of one connection; see `proof.rules`."""
    return LivePolymarket()


def book_replay(instrument: str, state: bytes | None) -> PolymarketReplay:
    """A replay of one token's book; see `proof.rules`."""
    return PolymarketReplay(instrument, state)


class _Control(msgspec.Struct):
    event: str
    instruments: list[str] = []


class _Wrapped(msgspec.Struct):
    ssmd: _Control


_CONTROL: Final = msgspec.json.Decoder(_Wrapped)


class PolymarketRule(Judge):
    """Implements `rules.HourRule`. A price change of two tokens in step takes 8 µs, a hash over 1.5 KB among them.

    Args:
        state: what the hour before left.

    Raises:
        ValueError: that is not a state.
    """

    def __init__(self, state: bytes | None) -> None:
        super().__init__(Verdicts())
        self._epochs: dict[str, Epoch] = {}
        self._seen: set[str] = set()
        if state is None:
            return
        tokens, intervals, ended = load(state)
        self._verdicts.restore(intervals)
        for name, token in tokens:
            known = self._epochs.setdefault(name, Epoch()).tokens[token.book.asset_id] = Token(token.book)
            known.good_us, known.broken = token.good_us, token.broken
            known.traded, known.tries = token.traded, token.tries
        for name, asset_id in ended:
            self._epochs.setdefault(name, Epoch()).ended.add(asset_id)
        for asset_id, _, name, *_, reason, _ in intervals:
            if reason == "no_snapshot":
                self._epochs.setdefault(name, Epoch()).blind.add(asset_id)

    def take(self, chunk: HourChunk) -> None:
        """See `HourRule`."""
        for table in chunk.tables.values():
            self._seen.update(table["_epoch"].unique().to_pylist())
        data, offsets = chunk.data, chunk.offsets.tolist()
        for kind, what in in_order(chunk):
            if isinstance(what, int):
                line = data[offsets[what] : offsets[what + 1] - 1]
                if kind == "price_change":
                    if (change := read_change(line)) is not None:
                        self._change(self._epoch(change.epoch), change)
                elif kind == "book":
                    self._take_book(line)
                elif (message := read_line(line)) is not None:
                    self._settings(kind, message)
            elif isinstance(what, Hole):
                self._hole(what)
            else:
                self._seen.add(what.epoch)
                if is_control(what.payload):
                    self._control(what)

    def _epoch(self, name: str) -> Epoch:
        epoch = self._epochs.get(name)
        if epoch is None:
            epoch = self._epochs[name] = Epoch()
        return epoch

    def finish(self, start_us: int, end_us: int) -> Findings:
        """See `HourRule`."""
        for name in sorted(self._epochs.keys() - self._seen):
            # A connection of which the whole hour held nothing is gone.
            self._end_epoch(name, start_us)
        self._decide()
        return self._verdicts.findings(start_us, end_us, {})

    def state(self) -> bytes:
        """See `HourRule`. Connections of which the whole hour held nothing are left out."""
        self._decide()
        kept = {name: epoch for name, epoch in self._epochs.items() if name in self._seen}
        return save(
            [
                (name, SavedToken(token.book, token.good_us, token.broken, token.traded, token.tries))
                for name, epoch in kept.items()
                for token in epoch.tokens.values()
            ],
            [interval for interval in self._verdicts.open_intervals() if interval[2] in kept],
            [(name, asset_id) for name, epoch in kept.items() for asset_id in epoch.ended],
        )

    # -- messages

    def _settings(self, kind: str, message: Message) -> None:
        """A trade or a new tick size."""
        token = self._epoch(message.epoch).tokens.get(message.asset_id)
        if token is None:
            return
        token.part()
        token.traded = True
        if kind == "last_trade_price":
            token.book.traded(message.price)
        elif message.new_tick_size:
            token.book.tick_changed(message.new_tick_size)

    def _take_book(self, line: bytes) -> None:
        plain = read_book(line)
        if plain is not None:
            token = self._opened(plain)
            if token.book.replace_text(plain):
                self._book(token, plain, readable=True)
                return
        message = read_line(line)
        if message is not None:
            token = self._opened(message)
            self._book(token, message, readable=token.book.replace_levels(*message.levels()))

    def _opened(self, message: Message | BookMessage) -> Token:
        """The token whose book comes now."""
        epoch, asset_id = self._epoch(message.epoch), message.asset_id
        token = epoch.tokens.get(asset_id)
        if token is None:
            token = epoch.tokens[asset_id] = Token(TokenBook(message.market, asset_id))
            epoch.ended.discard(asset_id)
            epoch.blind.discard(asset_id)
        return token

    def _book(self, token: Token, message: Message | BookMessage, *, readable: bool) -> None:
        asset_id, recv_us, name = message.asset_id, message.recv_us, message.epoch
        book = token.book
        token.part()
        token.clean = False
        self._resolve(name, token, recv_us)
        book.changed_us, book.changed_nats = recv_us, message.nats_seq
        book.opened(message.tick_size, message.last_trade_price)
        self._verdicts.trust(name, asset_id, BOOKS, recv_us)
        token.broken, token.traded, token.good_us, token.tries = False, False, recv_us, MAX_TRIES
        fits = readable and bool(message.hash) and book.fits(book.hashed(message.timestamp), message.hash or "")
        self._verdicts.count(name, asset_id, BOOKS, recv_us, passed=int(fits), unverifiable=int(not fits))
        if not fits:
            detail = f"no settings that we know give hash {message.hash!r:.60} of the book"
            self._no_check(name, asset_id, recv_us, message.nats_seq, detail)

    def _pair(self, epoch: Epoch, message: Message | ChangeMessage, one: Change, other: Change) -> bool:
        """Take a change of two tokens in step; False if it must be looked at token by token."""
        first = epoch.tokens.get(one.asset_id)
        if first is None or (second := first.partner) is None or second.book.asset_id != other.asset_id:
            return False
        amount = is_amount(one.size)
        if amount is None or not mirrored(one, other):
            return False
        for token, entry in ((first, one), (second, other)):
            side = token.book.bids if entry.side == "BUY" else token.book.asks
            price = NUMBERS[entry.price]
            assert price is not None
            side.set(price, f'{{"price":"{entry.price}","size":"{entry.size}"}}' if amount else "")
        recv_us = message.recv_us
        token, entry = (first, one) if recv_us >> _TURN_BITS & 1 else (second, other)
        if not token.book.fits_now(message.timestamp, entry.hash):
            # To set the levels once more changes nothing.
            return False
        for token, entry in ((first, one), (second, other)):
            book = token.book
            book.changed_us, book.changed_nats = recv_us, message.nats_seq
            self._fits(message.epoch, token, recv_us)
            if entry.best_bid and not book.touch_is(entry.best_bid, entry.best_ask or ""):
                self._touch(message, token, entry, fits=True)
        return True

    def _change(self, epoch: Epoch, message: Message | ChangeMessage) -> None:
        tokens = epoch.tokens
        entries = message.entries()
        is_pair = len(entries) == 2
        if is_pair and self._pair(epoch, message, *entries):
            return
        right = 0
        newest: dict[str, Change] = {}
        for entry in entries:
            asset_id = entry.asset_id or message.asset_id
            newest[asset_id] = entry
            token = tokens.get(asset_id)
            if token is not None:
                token.part()
                token.book.put(entry.side, entry.price, entry.size)
        for asset_id, entry in newest.items():
            token = tokens.get(asset_id)
            if token is None:
                self._blind(epoch, asset_id, message)
            else:
                right += self._judge(message, token, entry)
        if is_pair and right == len(newest) == len(entries):
            first, second = (tokens[asset_id] for asset_id in newest)
            if mirrored(*entries) and first.clean and second.clean and first.book.mirrors(second.book):
                first.partner, second.partner = second, first

    def _decide(self) -> None:
        for name, epoch in self._epochs.items():
            for token in epoch.tokens.values():
                self._count_passed(name, token)
                if token.suspects:
                    self._open(name, token)

    # -- the connection

    def _hole(self, hole: Hole) -> None:
        epoch = self._epochs.get(hole.epoch)
        for token in epoch.tokens.values() if epoch is not None else ():
            if token.suspects:
                self._open(hole.epoch, token)
            token.part()
            token.broken, token.clean = True, False
            self._verdicts.distrust(
                hole.epoch,
                token.book.asset_id,
                BOOKS,
                from_us=hole.before_us,
                nats_seq=hole.nats_seq,
                reason="archive_hole",
                detail=f"{hole.missing} messages after ordinal {hole.after_ordinal} are not in the archive",
            )

    def _control(self, line: Line) -> None:
        try:
            said = _CONTROL.decode(line.payload).ssmd
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return
        if said.event == "open":
            # A connector that was killed closes nothing: the next opening of its connection tells that it is gone.
            connection = connection_of(line.epoch)
            for name in [name for name in self._epochs if name != line.epoch and connection_of(name) == connection]:
                self._end_epoch(name, line.recv_us)
        elif (epoch := self._epochs.get(line.epoch)) is None:
            return
        elif said.event == "closed":
            self._end_epoch(line.epoch, line.recv_us)
        elif said.event == "unsubscribe":
            everything = [*epoch.tokens, *epoch.blind] if "*" in said.instruments else said.instruments
            for asset_id in everything:
                self._end(line.epoch, epoch, asset_id, line.recv_us)
                epoch.ended.add(asset_id)

    def _end_epoch(self, name: str, at_us: int) -> None:
        epoch = self._epochs.pop(name)
        for asset_id in (*epoch.tokens, *epoch.blind):
            self._end(name, epoch, asset_id, at_us)

    def _end(self, name: str, epoch: Epoch, asset_id: str, at_us: int) -> None:
        token = epoch.tokens.pop(asset_id, None)
        epoch.blind.discard(asset_id)
        if token is not None:
            token.part()
            self._count_passed(name, token)
            if token.suspects:
                self._open(name, token)
        self._verdicts.trust(name, asset_id, BOOKS, at_us)
