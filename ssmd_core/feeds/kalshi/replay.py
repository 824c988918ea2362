"""One market's book, message by message."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec

from ssmd_core.datasets.reference import NumberText, RowError, parse_message
from ssmd_core.feeds.kalshi.saved import SavedBook, read
from ssmd_core.feeds.kalshi.sequenced import SCALE
from ssmd_core.feeds.kalshi.subscription import ALL, BOOKS, REORDER_HORIZON
from ssmd_core.messages.control import is_control
from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import Book

_SIDES: Final = ("yes", "no")
_CENT: Final = Decimal("0.01")


class _Said(msgspec.Struct):
    event: str
    channel: str = ""
    instruments: list[str] = []


class _Control(msgspec.Struct):
    ssmd: _Said


_CONTROL: Final = msgspec.json.Decoder(_Control)


@dataclass(slots=True)
class _Level:
    price: str
    size: Decimal
    text: str


@dataclass(slots=True)
class _State:
    """The market on one connection: levels by price, yes bids and no bids."""

    sides: tuple[dict[Decimal, _Level], dict[Decimal, _Level]] = field(default_factory=lambda: ({}, {}))
    snapshot_seq: int = 0
    recent: list[int] = field(default_factory=list)
    recv_us: int = 0
    nats_seq: int = 0


class KalshiReplay:
    """Implements `rules.BookReplay`.

    Prices and sizes keep the venue's text until a delta changes the size; then it is the exact sum, with two places
    (more where the venue's numbers have more). A book taken from a state has prices with four places and sizes with
    two. Where several connections carry the market, the one that spoke last counts.
    """

    def __init__(self, market: str, state: bytes | None) -> None:
        self._market = market
        # Without escapes in it, the ticker stands in the message as it is.
        self._needle = market.encode() if market.isascii() and '"' not in market and "\\" not in market else b""
        self._states: dict[str, _State] = {}
        for epoch in read(state) if state is not None else []:
            for subscription in epoch.subscriptions:
                for book in subscription.books:
                    if book.market == market and book.snapshot_seq is not None:
                        recent = [seq for seq, _ in subscription.recent]
                        self._states[epoch.name] = _from_saved(book, recent)

    def take(self, kind: str, line: Line) -> None:
        """See `BookReplay`."""
        payload = line.payload
        if is_control(payload):
            self._control(line)
        elif kind in ("orderbook_snapshot", "orderbook_delta") and self._needle in payload:
            try:
                message = parse_message(payload)
                body = message.get("msg")
                if isinstance(body, dict) and body.get("market_ticker") == self._market:
                    self._apply(kind, message, body, line)
            except (RowError, ArithmeticError, LookupError, ValueError, TypeError):
                # The hour's rule reports what cannot be applied.
                return

    def book(self) -> Book | None:
        """See `BookReplay`."""
        if not self._states:
            return None
        epoch, state = max(self._states.items(), key=lambda item: (item[1].nats_seq, item[0]))
        bids, asks = (
            tuple((side[at].price, side[at].text) for at in sorted(side, reverse=True)) for side in state.sides
        )
        return Book(self._market, bids, asks, ("yes", "no"), epoch, state.recv_us, state.nats_seq)

    def _control(self, line: Line) -> None:
        try:
            said = _CONTROL.decode(line.payload).ssmd
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return
        of_ours = said.channel == BOOKS and (ALL in said.instruments or self._market in said.instruments)
        if said.event == "closed" or (said.event == "unsubscribe" and of_ours):
            self._states.pop(line.epoch, None)

    def _apply(self, kind: str, message: dict[str, Any], body: dict[str, Any], line: Line) -> None:
        seq = int(message.get("seq", 0))
        found = self._states.get(line.epoch)
        if kind == "orderbook_snapshot":
            if found is not None and 0 < max(found.recent, default=0) - seq <= REORDER_HORIZON:
                # Late: what has been applied is newer.
                return
            state = _State(snapshot_seq=seq)
            for name, levels in zip(_SIDES, state.sides, strict=True):
                for price, size in _snapshot_side(body, name):
                    amount = Decimal(size)
                    if amount:
                        levels[Decimal(price)] = _Level(price, amount, size)
            self._states[line.epoch] = state
        else:
            # A repeat counts once, and a late delta is in the snapshot already.
            if found is None or (seq and seq in found.recent) or 0 < found.snapshot_seq - seq <= REORDER_HORIZON:
                return
            state = found
            price, change = _price(body), Decimal(_text(body.get("delta_fp", body.get("delta"))))
            side = state.sides[_SIDES.index(body["side"])]
            level = side.get(Decimal(price))
            total = change + (level.size if level else 0)
            if total:
                side[Decimal(price)] = _Level(level.price if level else price, total, _places(total))
            elif level:
                del side[Decimal(price)]
        state.recv_us, state.nats_seq = line.recv_us, line.nats_seq
        state.recent = [*state.recent[1 - REORDER_HORIZON :], seq]


def _snapshot_side(body: dict[str, Any], side: str) -> list[tuple[str, str]]:
    """A side's levels, price in dollars and size, as written; the newest generation that is there."""
    for member in (f"{side}_dollars_fp", f"{side}_dollars"):
        if isinstance(levels := body.get(member), list):
            return [(_text(price), _text(size)) for price, size in levels]
    levels = body.get(side)
    return [(_dollars(_text(price)), _text(size)) for price, size in levels] if isinstance(levels, list) else []


def _price(body: dict[str, Any]) -> str:
    return _text(body["price_dollars"]) if body.get("price_dollars") else _dollars(_text(body["price"]))


def _dollars(cents: str) -> str:
    return str(Decimal(int(cents)).scaleb(-2))


def _text(value: Any) -> str:
    """The text of a decimal, quoted or not.

    Raises:
        ValueError: it is something else, or not finite.
    """
    if not isinstance(value, (str, NumberText)) or not Decimal(value).is_finite():
        raise ValueError(f"not a number: {value!r}")
    return str(value)


def _places(size: Decimal) -> str:
    """With two places, or as many as it needs."""
    exact = size.normalize()
    exponent = exact.as_tuple().exponent
    assert isinstance(exponent, int)
    return f"{exact:f}" if exponent < -2 else f"{exact.quantize(_CENT):f}"


def _from_saved(book: SavedBook, recent: list[int]) -> _State:
    state = _State(
        snapshot_seq=book.snapshot_seq or 0, recent=recent, recv_us=book.changed_us, nats_seq=book.changed_nats
    )
    for key, size in book.levels().items():
        price = Decimal(key // 2) / SCALE
        amount = Decimal(size) / SCALE
        four = price.quantize(Decimal("0.0001"))
        text = f"{four:f}" if four == price else f"{price.normalize():f}"
        state.sides[key % 2][price] = _Level(text, amount, _places(amount))
    return state
