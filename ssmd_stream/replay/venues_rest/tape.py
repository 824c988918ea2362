"""The trades that a replay server has sent, generated or recorded, for its REST interface to tell again.

A frame is noted before a fault may drop it: the venue knows what the client did not get. Noting costs one search of
the frame's bytes; frames are read when REST is asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

#: Trades and frames kept; what is older the venue has forgotten.
MAX_TRADES = 50_000
# Stands in every frame with a trade, and in hardly another. Polymarket's opening books, of up to megabytes, have a
# member of the name that is a trade's event type.
_NEEDLES = {
    "kalshi": b'"trade_id"',
    "kraken": b'"trade_id"',
    "kraken-futures": b'"uid"',
    "polymarket": b'"last_trade_price"',
}
_AS_A_VALUE = (b'"last_trade_price",', b'"last_trade_price"}', b'"last_trade_price" }')
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


class TapedTrade(NamedTuple):
    """A trade as it was sent.

    Attributes:
        instrument: by which REST is asked: ticker, symbol, product or condition.
        time_us: the venue's time, epoch µs.
        message: the object that tells it, fractions as `Decimal`.
    """

    instrument: str
    time_us: int
    message: dict[str, Any]


class Tape:
    """Trades by the order in which they were first sent, each once.

    Args:
        feed: whose frames; others have no trades.
    """

    def __init__(self, feed: str) -> None:
        self._needle = _NEEDLES.get(feed)
        self._values = _AS_A_VALUE if feed == "polymarket" else ()
        self._read = _READERS.get(feed)
        self._frames: deque[bytes] = deque(maxlen=MAX_TRADES)
        self._trades: dict[Any, TapedTrade] = {}

    def take(self, frames: Iterable[bytes]) -> None:
        """Note frames that the venue sends."""
        needle = self._needle
        if needle is None:
            return
        telling = [frame for frame in frames if needle in frame]
        if self._values:
            telling = [frame for frame in telling if any(value in frame for value in self._values)]
        self._frames.extend(telling)

    def trades(self, instrument: str | None = None) -> list[TapedTrade]:
        """Trades by time, of one instrument or of all."""
        while self._frames:
            frame = self._frames.popleft()
            try:
                found = _DECODER.decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            for message in found if isinstance(found, list) else [found]:
                self._note(message)
        while len(self._trades) > MAX_TRADES:
            del self._trades[next(iter(self._trades))]
        chosen = [each for each in self._trades.values() if instrument is None or each.instrument == instrument]
        return sorted(chosen, key=lambda trade: trade.time_us)

    def _note(self, message: Any) -> None:
        if not isinstance(message, dict) or self._read is None:
            return
        try:
            for key, trade in self._read(message):
                self._trades.setdefault(key, trade)
        except (KeyError, TypeError, ValueError):
            # A recording may hold what only looks like a trade.
            return


_Read = Callable[[dict[str, Any]], Iterator[tuple[Any, TapedTrade]]]


def _kalshi(message: dict[str, Any]) -> Iterator[tuple[Any, TapedTrade]]:
    body = message.get("msg")
    if message.get("type") == "trade" and isinstance(body, dict) and "trade_id" in body:
        ms = body["ts_ms"] if "ts_ms" in body else body["ts"] * 1000
        yield body["trade_id"], TapedTrade(body["market_ticker"], ms * 1000, body)


def _kraken(message: dict[str, Any]) -> Iterator[tuple[Any, TapedTrade]]:
    if message.get("channel") == "trade":
        for row in _objects(message.get("data")):
            key = (row["symbol"], row["trade_id"])
            yield key, TapedTrade(row["symbol"], us_of_iso(row["timestamp"]), row)


def _kraken_futures(message: dict[str, Any]) -> Iterator[tuple[Any, TapedTrade]]:
    if message.get("feed") in ("trade", "trade_snapshot"):
        for row in _objects(message.get("trades", [message])):
            product = row["product_id"] if "product_id" in row else message["product_id"]
            yield row["uid"], TapedTrade(product, row["time"] * 1000, row)


def _polymarket(message: dict[str, Any]) -> Iterator[tuple[Any, TapedTrade]]:
    if message.get("event_type") == "last_trade_price":
        names = ("transaction_hash", "asset_id", "price", "size", "side", "timestamp")
        key = tuple(message.get(name) for name in names)
        yield key, TapedTrade(message["market"], int(message["timestamp"]) * 1000, message)


_READERS: dict[str, _Read] = {
    "kalshi": _kalshi,
    "kraken": _kraken,
    "kraken-futures": _kraken_futures,
    "polymarket": _polymarket,
}


def _objects(value: Any) -> Sequence[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def us_of_iso(text: str) -> int:
    """Epoch µs of RFC 3339 text in UTC; further digits are cut."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(f"{whole}+00:00")
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return seconds * 1_000_000 + int((fraction + "000000")[:6])
