"""The newest price of each instrument, out of ticker messages as the registry describes them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import msgspec

from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Column, Convert, Feed, Schema

MAX_INSTRUMENTS = 1000
_MAX_ID_CHARS = 128
_MAX_NUMBER_CHARS = 40
_INSTRUMENT = ("market_ticker", "symbol", "product_id", "asset_id")
_BID = ("yes_bid", "bid", "best_bid")
_ASK = ("yes_ask", "ask", "best_ask")
_LAST = ("last_price", "last")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)  # a price stays what the venue wrote


class Quote(msgspec.Struct, rename="camel"):
    """An instrument's newest prices, in the unit of the feed's datasets; Kalshi's are of the yes side.

    Attributes:
        feed: the feed.
        stream: stream of that feed.
        instrument: the venue's id.
        name: what people call it, from the security master; "" if it does not know it.
        bid, ask, last: None where the venue has told none.
        at: when the newest message was received.
    """

    feed: str
    stream: str
    instrument: str
    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None
    at: datetime
    name: str = ""


class _Reading(NamedTuple):
    """Where one message type carries prices."""

    schema: Schema
    instrument: Column
    bid: Column | None
    ask: Column | None
    last: Column | None


class PriceReader:
    """Reads one feed's messages.

    Attributes:
        tokens: subject tokens of the types that carry prices.
    """

    def __init__(self, feed: Feed) -> None:
        self._route = feed.route
        self._readings = {
            name: reading
            for name, kind in feed.message_types.items()
            if kind.schema is not None and (reading := _reading(kind.schema)) is not None
        }
        self.tokens = tuple(dict.fromkeys(feed.message_types[name].token for name in self._readings))

    def read(self, payload: bytes) -> Iterator[tuple[str, Decimal | None, Decimal | None, Decimal | None]]:
        """(instrument, bid, ask, last) of each element of a message; nothing of one that cannot be read."""
        try:
            reading = self._readings.get(self._route(payload).type)
            message = _DECODER.decode(payload)
        except (FrameError, msgspec.DecodeError, RecursionError, ArithmeticError):
            return
        if reading is None:
            return
        for item in _items(message, reading.schema):
            instrument, _ = _found(message, item, reading.instrument)
            if isinstance(instrument, str) and 0 < len(instrument) <= _MAX_ID_CHARS:
                bid, ask, last = (_number(message, item, column) for column in (reading.bid, reading.ask, reading.last))
                yield instrument, bid, ask, last


class Prices:
    """Newest quotes of one stream, at most `MAX_INSTRUMENTS`, the least recent out first.

    Attributes:
        feed: the feed's name.
        quotes: by instrument, newest last, each with the turn in which it changed.
    """

    def __init__(self, feed: Feed, stream: str) -> None:
        self.feed, self._stream = feed.name, stream
        self._reader = PriceReader(feed)
        self.quotes: OrderedDict[str, tuple[int, Quote]] = OrderedDict()

    @property
    def tokens(self) -> tuple[str, ...]:
        """Subject tokens of messages to give to `add`."""
        return self._reader.tokens

    def add(self, payload: bytes, at: datetime, turn: int) -> None:
        """Take a message; what it does not tell stays."""
        for instrument, bid, ask, last in self._reader.read(payload):
            _, old = self.quotes.get(instrument, (0, None))
            self.quotes[instrument] = (
                turn,
                Quote(
                    feed=self.feed,
                    stream=self._stream,
                    instrument=instrument,
                    bid=bid if bid is not None or old is None else old.bid,
                    ask=ask if ask is not None or old is None else old.ask,
                    last=last if last is not None or old is None else old.last,
                    at=at,
                ),
            )
            self.quotes.move_to_end(instrument)
            if len(self.quotes) > MAX_INSTRUMENTS:
                self.quotes.popitem(last=False)


def _reading(schema: Schema) -> _Reading | None:
    columns = {column.name: column for column in schema.columns}

    def first(names: tuple[str, ...]) -> Column | None:
        return next((columns[name] for name in names if name in columns), None)

    instrument, bid, ask = first(_INSTRUMENT), first(_BID), first(_ASK)
    if instrument is None or bid is None or ask is None:
        return None
    return _Reading(schema, instrument, bid, ask, first(_LAST))


def _items(message: Any, schema: Schema) -> list[Any]:
    if not isinstance(message, dict):
        return []
    if not schema.explode:
        return [message]
    for path in schema.explode:
        found = message if path == "." else _at(message, path)
        if isinstance(found, list):
            return found
        if isinstance(found, dict):
            return [found]
    return []


def _at(value: Any, path: str) -> Any:
    for member in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(member)
    return value


def _found(message: Any, item: Any, column: Column) -> tuple[Any, Convert]:
    """The first of the column's sources that is there and not empty, and how it is read; None if there is none."""
    for path, convert in column.sources:
        value = _at(item, path.removeprefix("item.")) if path.startswith("item.") else _at(message, path)
        if value is not None and value != "":
            return value, convert
    return None, "text"


def _number(message: Any, item: Any, column: Column | None) -> Decimal | None:
    value, convert = _found(message, item, column) if column is not None else (None, "text")
    if not isinstance(value, (str, int, Decimal)) or isinstance(value, bool):
        return None
    try:
        text = str(value)
        number = Decimal(text if len(text) <= _MAX_NUMBER_CHARS else "NaN")
    except (InvalidOperation, ValueError):
        return None
    # 1e999999 is a number too, and would be a megabyte of text.
    if not number.is_finite() or abs(number.adjusted()) > _MAX_NUMBER_CHARS:
        return None
    return number / 100 if convert == "cents" else number
