"""Scalars that JSON lacks: exact numbers, moments, days."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import graphene
from graphql import GraphQLError, IntValueNode, StringValueNode, ValueNode

from ssmd_api.errors import InvalidRequestError
from ssmd_api.jsons import moment_text, number_text
from ssmd_api.params import parse_moment, shown

_MAX_NUMBER_CHARS = 64
# The greatest number of a venue has 12 digits, the smallest step 8 decimals; 1e999999999 would be written out.
_MAX_EXPONENT = 40
# Beyond it a JSON number is no exact integer in JavaScript.
_MAX_EXACT = 2**53


def _scalar(
    name: str, text: str, write: Callable[[Any], Any], read: Callable[[Any], Any], literals: tuple[type[ValueNode], ...]
) -> Any:
    def parse_literal(node: ValueNode, variables: Any = None) -> Any:
        del variables
        if not isinstance(node, literals):
            raise GraphQLError(f"not a {name}", node)
        return read(int(node.value) if isinstance(node, IntValueNode) else node.value)  # type: ignore[attr-defined]  # all of `literals` have one

    members = {
        "__doc__": text,
        "serialize": staticmethod(write),
        "parse_value": staticmethod(read),
        "parse_literal": staticmethod(parse_literal),
    }
    return type(name, (graphene.Scalar,), members)


def _read_number(value: Any) -> decimal.Decimal:
    """Text or a whole number; a float has lost what was written."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise GraphQLError('a Decimal is text, e.g. "0.56"')
    text = value if isinstance(value, str) else str(value)
    if len(text) > _MAX_NUMBER_CHARS:
        raise GraphQLError(f"a Decimal has at most {_MAX_NUMBER_CHARS} characters")
    try:
        number = decimal.Decimal(text)
    except decimal.InvalidOperation:
        raise GraphQLError(f"{shown(text)} is not a number") from None
    if not number.is_finite() or abs(number.adjusted()) > _MAX_EXPONENT:
        raise GraphQLError(f"{shown(text)} is not a number that a venue could have written")
    return number


def _read_text(kind: str, value: Any) -> str:
    if not isinstance(value, str):
        raise GraphQLError(f"a {kind} is text")
    return value


def _read_moment(value: Any) -> datetime:
    try:
        return parse_moment(_read_text("DateTime", value), "DateTime")
    except InvalidRequestError as error:
        raise GraphQLError(str(error)) from None


def _read_date(value: Any) -> date:
    text = _read_text("Date", value)
    try:
        if len(text) != len("2026-11-20"):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise GraphQLError(f"{shown(text)} is not a day such as 2026-11-20") from None


def _read_long(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_EXACT:
        raise GraphQLError(f"{shown(str(value)[:64])} is not a whole number up to 2^53")
    return value


def _read_json(value: Any) -> Any:
    del value
    raise GraphQLError("JSON is only for answers")


DECIMAL = _scalar(
    "Decimal", "A number as text, with every digit that the venue wrote; dollars or the quote currency for prices.",
    number_text, _read_number, (StringValueNode, IntValueNode),
)  # fmt: skip
DATE_TIME = _scalar(
    "DateTime", "A moment in ISO 8601, UTC: `2026-11-20T13:15:00.000Z`; without a zone it is UTC.",
    moment_text, _read_moment, (StringValueNode,),
)  # fmt: skip
DATE = _scalar("Date", "A day, UTC: `2026-11-20`.", date.isoformat, _read_date, (StringValueNode,))
LONG = _scalar("Long", "A whole number up to 2^53.", int, _read_long, (IntValueNode,))
JSON = _scalar("JSON", "Any JSON value, as the venue or ssmd wrote it.", lambda value: value, _read_json, ())
