"""Polymarket's book messages of every generation, as text: the hash covers what the venue wrote, not its value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ssmd_core.datasets.reference import RowError, parse_message
from ssmd_core.errors import ArchiveError
from ssmd_core.messages.lines import parse_line

# Prices and sizes have at most 6 decimals; a number beyond these bounds is none of the venue's.
_PLACES: Final = 18
_NUMBER: Final = re.compile(r"(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})\Z")
_NUMBERS: Final = re.compile(r"(?:[0-9]{1,18}(?:\.[0-9]{0,18})?,)+\Z")
# What stands between the quotes of a side that is written as it is hashed, from the second one of a level on, and
# where the price and the size are.
_BETWEEN: Final = ((1, "price"), (2, ":"), (4, ","), (5, "size"), (6, ":"), (8, "},{"))
_PRICE_AT: Final = 3
_SIZE_AT: Final = 7
_PARTS: Final = 8
_MAX_NUMBERS: Final = 1 << 16
_WRAPPED: Final = b'{"_raw'


class Level(msgspec.Struct, gc=False):
    """A price level as written."""

    price: str
    size: str


class Change(msgspec.Struct, gc=False):
    """A new size of a level, and what the venue says of the book after it; "" where it does not."""

    price: str
    size: str
    side: str
    asset_id: str = ""
    hash: str = ""
    best_bid: str | None = ""
    best_ask: str | None = ""


class Message(msgspec.Struct):
    """What the rule reads of any message; the archive's members where it was read from an archive line."""

    market: str = ""
    asset_id: str = ""
    timestamp: str = ""
    hash: str | None = ""
    price: str = ""
    size: str = ""
    side: str | None = ""
    bids: Sequence[Level] | None = None
    asks: Sequence[Level] | None = None
    buys: Sequence[Level] | None = None
    sells: Sequence[Level] | None = None
    price_changes: Sequence[Change] | None = None
    changes: Sequence[Change] | None = None
    tick_size: str | None = None
    new_tick_size: str | None = None
    last_trade_price: str | None = None
    epoch: str = msgspec.field(name="_epoch", default="")
    recv_us: int = msgspec.field(name="_received_at", default=0)
    nats_seq: int = msgspec.field(name="_nats_seq", default=0)

    def levels(self) -> tuple[Sequence[Level], Sequence[Level]]:
        """Bids and asks of a book."""
        return self.bids or self.buys or (), self.asks or self.sells or ()

    def entries(self) -> Sequence[Change]:
        """Changes of a price_change: since 2025-09-15 `price_changes`, before that `changes`, in 2024 the message."""
        if self.price_changes is not None:
            return self.price_changes
        if self.changes is not None:
            return self.changes
        return (Change(self.price, self.size, self.side or ""),)


class BookMessage(msgspec.Struct, gc=False):
    """A whole book whose sides are still text; see `Message`."""

    market: str
    asset_id: str
    timestamp: str
    hash: str
    bids: msgspec.Raw
    asks: msgspec.Raw
    epoch: str = msgspec.field(name="_epoch")
    recv_us: int = msgspec.field(name="_received_at")
    nats_seq: int = msgspec.field(name="_nats_seq")
    tick_size: str | None = None
    last_trade_price: str | None = None


class ChangeMessage(msgspec.Struct, gc=False):
    """A price change of the generation since 2025-09-15; see `Message`."""

    price_changes: list[Change]
    timestamp: str
    epoch: str = msgspec.field(name="_epoch")
    recv_us: int = msgspec.field(name="_received_at")
    nats_seq: int = msgspec.field(name="_nats_seq")
    asset_id: str = ""
    hash: str | None = ""

    def entries(self) -> Sequence[Change]:
        """See `Message.entries`."""
        return self.price_changes


_DECODER: Final = msgspec.json.Decoder(Message)
_BOOKS: Final = msgspec.json.Decoder(BookMessage)
_CHANGES: Final = msgspec.json.Decoder(ChangeMessage)
_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def read_payload(payload: bytes) -> Message | None:
    """A message; None if it cannot be read."""
    try:
        return _DECODER.decode(payload)
    except msgspec.ValidationError:
        return _read_slowly(payload)
    except _ERRORS:
        return None


def read_book(line: bytes) -> BookMessage | None:
    """A book of the archive; None if `read_line` is to read it."""
    if line.startswith(_WRAPPED):
        return None
    try:
        return _BOOKS.decode(line)
    except _ERRORS:
        return None


def read_change(line: bytes) -> Message | ChangeMessage | None:
    """A price change of the archive; None if it cannot be read."""
    if not line.startswith(_WRAPPED):
        try:
            return _CHANGES.decode(line)
        except _ERRORS:
            pass
    return read_line(line)


def read_side(side: bytes) -> list[str] | None:
    """The prices of a side; None if it is not written as it is hashed.

    Cut at its quotes: a regular expression over the levels takes five times as long.
    """
    try:
        text = side.decode("ascii")
    except UnicodeDecodeError:
        return None
    if text == "[]":
        return []
    parts = text.split('"')
    levels = len(parts) // _PARTS
    if len(parts) != _PARTS * levels + 1 or parts[0] != "[{" or parts[-1] != "}]":
        return None
    parts[-1] = "},{"
    if any(parts[at::_PARTS].count(what) != levels for at, what in _BETWEEN):
        return None
    sizes = parts[_SIZE_AT::_PARTS]
    if not _NUMBERS.match(",".join(sizes) + ",") or any(size < "1" and not size.strip("0.") for size in sizes):
        return None
    return parts[_PRICE_AT::_PARTS]


def read_line(line: bytes) -> Message | None:
    """A message of the archive; None if it cannot be read."""
    if not line.startswith(_WRAPPED):
        try:
            return _DECODER.decode(line)
        except msgspec.ValidationError:
            pass
        except _ERRORS:
            return None
    try:
        parsed = parse_line(line)
    except ArchiveError:
        return None
    message = read_payload(parsed.payload)
    if message is not None:
        message.epoch, message.recv_us, message.nats_seq = parsed.epoch, parsed.recv_us, parsed.nats_seq
    return message


def _read_slowly(payload: bytes) -> Message | None:
    """A message whose numbers are not quoted; they count as they are written."""
    try:
        found: dict[str, Any] = parse_message(payload)
        # Text subclasses are not taken by the conversion.
        return msgspec.convert(_plain(found), Message)
    except (RowError, msgspec.ValidationError, RecursionError, UnicodeEncodeError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items() if not key.startswith("_")}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, str):
        # Half of a surrogate pair cannot be hashed.
        value.encode()
        return str(value)
    return value


class _Numbers(dict[str, int | None]):
    """Values by text, read when they are first asked for: prices come again and again."""

    def __missing__(self, text: str) -> int | None:
        value = None
        if _NUMBER.match(text):
            whole, _, fraction = text.partition(".")
            value = int(f"{whole}{fraction:0<{_PLACES}}")
        if len(self) >= _MAX_NUMBERS:
            self.clear()
        self[text] = value
        return value


#: A decimal's value in 10^-18, so that `.48`, `0.48` and `0.480` are one; None if the text is no such number.
NUMBERS: Final = _Numbers()
number: Final = NUMBERS.__getitem__
ONE: Final = 10**_PLACES


def is_amount(text: str) -> bool | None:
    """Whether a size is more than nothing; None if the text is no such number.

    Sizes hardly repeat, so they are looked at and not remembered.
    """
    if not _NUMBER.match(text):
        return None
    return text.strip("0.") != ""
