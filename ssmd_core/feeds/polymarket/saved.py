"""What one hour's rule hands to the next: the books of the connections still open, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from ssmd_core.feeds.polymarket.book import Settings, TokenBook

_VERSION: Final = 1

Interval = tuple[str, str, str, int, int, str, str]


class SavedToken(NamedTuple):
    """A token's book and how far it is trusted; see `integrity`."""

    book: TokenBook
    good_us: int
    broken: bool
    traded: bool
    tries: int


class _Token(msgspec.Struct, array_like=True):
    epoch: str
    market: str
    asset_id: str
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    settings: tuple[str, str, bool, str] | None
    tick_sizes: list[str]
    last_trade_prices: list[str]
    changed_us: int
    changed_nats: int
    good_us: int
    broken: bool
    traded: bool
    tries: int


class _Saved(msgspec.Struct, array_like=True):
    version: int
    tokens: list[_Token]
    intervals: list[Interval]
    ended: list[tuple[str, str]]


_DECODER: Final = msgspec.msgpack.Decoder(_Saved)


def load(state: bytes) -> tuple[list[tuple[str, SavedToken]], list[Interval], list[tuple[str, str]]]:
    """Tokens by epoch, open intervals, and (epoch, token) pairs that are no longer subscribed.

    Raises:
        ValueError: the bytes are not a state of this rule.
    """
    try:
        saved = _DECODER.decode(state)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a state of the Polymarket rule: {error}: {state[:40]!r}") from error
    if saved.version != _VERSION:
        raise ValueError(f"state of version {saved.version} of the Polymarket rule, {_VERSION} is wanted")
    return [(token.epoch, _loaded(token)) for token in saved.tokens], saved.intervals, saved.ended


def save(
    tokens: Sequence[tuple[str, SavedToken]], intervals: Sequence[Interval], ended: Sequence[tuple[str, str]]
) -> bytes:
    """The bytes of these; the same for the same, in whatever order they come."""
    saved = [
        _Token(
            epoch,
            token.book.market,
            token.book.asset_id,
            token.book.bids.levels(),
            token.book.asks.levels(),
            _settings(token.book.settings),
            token.book.tick_sizes,
            token.book.last_trade_prices,
            token.book.changed_us,
            token.book.changed_nats,
            token.good_us,
            token.broken,
            token.traded,
            token.tries,
        )
        for epoch, token in sorted(tokens, key=lambda entry: (entry[0], entry[1].book.asset_id))
    ]
    return msgspec.msgpack.encode(_Saved(_VERSION, saved, list(intervals), sorted(ended)))


def _settings(settings: Settings | None) -> tuple[str, str, bool, str] | None:
    if settings is None:
        return None
    return settings.min_order_size, settings.tick_size, settings.neg_risk, settings.last_trade_price


def _loaded(saved: _Token) -> SavedToken:
    book = TokenBook(
        saved.market,
        saved.asset_id,
        settings=Settings(*saved.settings) if saved.settings else None,
        tick_sizes=saved.tick_sizes,
        last_trade_prices=saved.last_trade_prices,
        changed_us=saved.changed_us,
        changed_nats=saved.changed_nats,
    )
    for side, levels in ((book.bids, saved.bids), (book.asks, saved.asks)):
        for price, size in levels:
            side.put(price, size)
    return SavedToken(book, saved.good_us, saved.broken, saved.traded, saved.tries)
