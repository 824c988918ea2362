"""Prices and quantities from the text that a venue wrote, never through binary float: order, equality, digits."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

# Keys are numbers in units of 10**-64: whole, so that order and equality are exact.
_SCALE: Final = 64
_NUMBER: Final = re.compile(rb"([0-9]{1,64})(?:\.([0-9]{1,64}))?(?:[eE]([+-]?[0-9]{1,3}))?\Z")

#: What a decoder raises for bytes that are not what it expects.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class NumberError(ValueError):
    """A price or quantity is not a number of the venue's kind: not below zero, at most 64 digits on either side."""


class Price(NamedTuple):
    """A price, read.

    Attributes:
        key: in units of 10**-64 of the quote currency.
        digits: its part of the checksum's text.
    """

    key: int
    digits: bytes


def read_number(text: bytes) -> Price:
    """Value and checksum text of a JSON number as it stands on the wire; an exponent (`1e-08`) is written out first.

    Raises:
        NumberError: see there.
    """
    found = _NUMBER.match(text.strip())
    if found is None:
        raise NumberError(f"{text[:80]!r} is not a price or quantity")
    whole, fraction, exponent = found[1], found[2] or b"", int(found[3] or b"0")
    digits = whole + fraction
    decimals = len(fraction) - exponent
    if decimals < 0:
        digits, decimals = digits + b"0" * -decimals, 0
    if decimals > _SCALE or len(digits) > 2 * _SCALE:
        raise NumberError(f"{text[:80]!r} has more than {_SCALE} digits on a side of its point")
    return Price(int(digits) * 10 ** (_SCALE - decimals), digits.lstrip(b"0"))
