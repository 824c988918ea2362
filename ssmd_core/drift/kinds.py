"""JSON values and their types, as shapes count them: decoding that hostile bytes cannot make costly."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

#: What is not looked into but only counted: decoding a hostile 16 MiB of `[1,1,…` takes 630 MB. The largest message
#: known, Kraken's 1,451 pairs, is below 0.7 MB; what is looked into takes 25 MB at most.
MAX_BYTES = 1024 * 1024
TOO_LARGE = "too large"
NOT_JSON = "not JSON"

_DECIMAL = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
#: JSON type by Python type; of text see `text_kind`.
PLAIN: dict[type, str] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "number",
    Decimal: "number",
    dict: "object",
    list: "array",
}
_DECODE = msgspec.json.Decoder().decode


class Undecoded(NamedTuple):
    """Stands for a message that was not decoded.

    Attributes:
        why: `too large` or `not JSON`.
    """

    why: str


def decoded(payload: bytes) -> Any:
    """The message's value, or an `Undecoded`."""
    if len(payload) > MAX_BYTES:
        return Undecoded(TOO_LARGE)
    try:
        return _DECODE(payload)
    except (ValueError, RecursionError):
        # msgspec's errors, bytes that are not UTF-8, and integers of more digits than Python reads are ValueErrors.
        return Undecoded(NOT_JSON)


def family(kind: str) -> str:
    """What JSON types are interchangeable: integers and fractions alternate on Kraken Futures, "" and decimal text on
    Kalshi. "null" is what says nothing: also a message that was not decoded."""
    if kind in (TOO_LARGE, NOT_JSON):
        return "null"
    if kind in ("int", "number"):
        return "number"
    return "text" if kind.endswith("text") else kind


def text_kind(text: str) -> str:
    """`empty text`, `decimal text` (a number as venues write them in text) or `text`."""
    if not text:
        return "empty text"
    return "decimal text" if text[0] in "-.0123456789" and _DECIMAL.fullmatch(text, 0, 100) else "text"
