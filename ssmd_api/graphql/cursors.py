"""Connections: a part of a list in a fixed order, and cursors to go on from. Cursors are those of REST."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ssmd_api.errors import InvalidRequestError
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor

MAX_FIRST = 1_000
DEFAULT_FIRST = 50

Place = tuple[str | int | datetime, ...]


@dataclass(frozen=True, slots=True)
class Connection:
    """The value of a connection.

    Attributes:
        nodes: rows in the list's order.
        more: whether there are further ones.
        continued: whether the list began behind a cursor.
        cursor_of: a row's cursor.
    """

    nodes: Sequence[Any]
    more: bool
    continued: bool
    cursor_of: Callable[[Any], str]


def connection(rows: list[Any], first: int, question: object, order: tuple[str, ...], *, continued: bool) -> Connection:
    """A connection of rows that are dicts.

    Args:
        rows: one more than `first` if there are further ones.
        question: what was asked; a cursor fits no other one.
        order: members of a row that are its place in the list.
    """
    return Connection(
        rows[:first], len(rows) > first, continued, lambda row: encode_cursor(question, [row[name] for name in order])
    )


def place_of(question: object, cursor: str | None, *kinds: type) -> Place | None:
    """The place that a cursor names.

    Args:
        kinds: types of the place's parts.

    Raises:
        InvalidRequestError: it is no cursor of such a list.
    """
    if cursor is None:
        return None
    try:
        return decode_cursor(question, cursor, kinds)  # type: ignore[return-value]  # parts are of the given kinds
    except InvalidRequestError:
        text = "after: not a cursor that this list gave for these arguments; begin without it"
        raise InvalidRequestError(text, field="after") from None


def check_first(first: int) -> int:
    """How many rows are asked for.

    Raises:
        InvalidRequestError: less than 1, or more than `MAX_FIRST`.
    """
    if not 1 <= first <= MAX_FIRST:
        raise InvalidRequestError(f"first: {first} is not between 1 and {MAX_FIRST}", field="first")
    return first
