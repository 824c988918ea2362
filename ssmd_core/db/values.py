"""JSON of database values, from what Postgres prints: one serialiser for CDC events and for what a cache reads itself.

Both sides have the same text in hand (pgoutput sends a type's text output, and so does a SELECT in text format), so a
row read by a query and the same row in a change event become the same bytes:

| type | JSON |
|---|---|
| boolean | `true`, `false` |
| smallint, integer, bigint, oid | number |
| numeric | string, digit for digit as printed, `"NaN"` and `"Infinity"` too: no float on the way |
| real, double precision | number; string if it is not finite |
| timestamptz | `"2026-11-22T10:00:00.5Z"`: the printed digits, in UTC |
| timestamp | the same without `Z` |
| text[], varchar[] | array of strings and nulls |
| json, jsonb | as printed: Postgres has checked it |
| every other type | string as printed |
| NULL | `null` |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import orjson
import psycopg
from psycopg.adapt import Loader

from ssmd_core.errors import SsmdError

# Type OIDs of pg_type.dat; they never change.
BOOL = 16
INTEGERS = frozenset({20, 21, 23, 26})
FLOATS = frozenset({700, 701})
NUMERIC = 1700
JSONS = frozenset({114, 3802})
TIMESTAMP = 1114
TIMESTAMPTZ = 1184
TEXT_ARRAYS = frozenset({1009, 1015})

SESSION_SETTINGS = ("timezone=UTC", "datestyle=ISO", "extra_float_digits=1", "client_encoding=UTF8")
#: What a session must be set to before its text output may be given to this module (libpq's `options`).
SESSION_OPTIONS = " ".join(f"-c {setting}" for setting in SESSION_SETTINGS)

MAX_ARRAY_DEPTH = 6  # Postgres's own limit of dimensions

_NOT_FINITE = frozenset({b"NaN", b"Infinity", b"-Infinity"})
_WHOLE = re.compile(rb"-?(?:0|[1-9][0-9]*)").fullmatch
_NUMERIC = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?").fullmatch
_FLOAT = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[-+][0-9]+)?").fullmatch
_STAMP = re.compile(rb"([0-9]{4,6}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)").fullmatch
_OTHER_TIME = re.compile(rb"-?infinity|[-0-9]{10,12} [:.0-9]{8,15}(?:\+00)? BC").fullmatch


class ValueTextError(SsmdError):
    """A value is not what its type prints in a session with `SESSION_OPTIONS`."""


Encoder = Callable[[bytes], bytes]


class Column(NamedTuple):
    """Attributes:
    name: of the column.
    type_oid: of its type.
    """

    name: str
    type_oid: int


def encoder(type_oid: int) -> Encoder:
    """The function that turns a type's printed text into JSON; it may raise `ValueTextError`."""
    return _ENCODERS.get(type_oid, text_json)


def text_json(text: bytes) -> bytes:
    """JSON string of a text."""
    try:
        return orjson.dumps(text.decode())
    except UnicodeDecodeError as error:
        raise ValueTextError(f"{text[:100]!r} is not UTF-8: {error.reason}") from error


def _bool_json(text: bytes) -> bytes:
    if text == b"t":
        return b"true"
    if text == b"f":
        return b"false"
    raise ValueTextError(f"{text[:100]!r} is not a boolean")


def _verbatim(text: bytes) -> bytes:
    return text


def _whole_json(text: bytes) -> bytes:
    if _WHOLE(text):
        return text
    raise ValueTextError(f"{text[:100]!r} is not an integer")


def _float_json(text: bytes) -> bytes:
    if _FLOAT(text):
        return text
    if text in _NOT_FINITE:
        return b'"' + text + b'"'
    raise ValueTextError(f"{text[:100]!r} is not a number")


def _numeric_json(text: bytes) -> bytes:
    if _NUMERIC(text) or text in _NOT_FINITE:
        return b'"' + text + b'"'
    raise ValueTextError(f"{text[:100]!r} is not a number")


def _timestamp_json(text: bytes) -> bytes:
    if found := _STAMP(text):
        return b'"%bT%b"' % found.group(1, 2)
    return _other_time(text)


def timestamptz_json(text: bytes) -> bytes:
    """JSON string of a timestamptz; `infinity`, `-infinity` and years before Christ stay as printed.

    Raises:
        ValueTextError: the session was not in UTC.
    """
    if text[-3:] == b"+00" and (found := _STAMP(text, 0, len(text) - 3)):
        return b'"%bT%bZ"' % found.group(1, 2)
    if _STAMP(text[:19]) and not text.endswith(b"+00 BC"):
        raise ValueTextError(f"timestamptz {text[:100]!r} is not in UTC: the session's timezone must be UTC")
    return _other_time(text)


def _other_time(text: bytes) -> bytes:
    if _OTHER_TIME(text):
        return b'"' + text + b'"'
    raise ValueTextError(f"{text[:100]!r} is not a time")


def array_json(text: bytes) -> bytes:
    """JSON array of a text[]: elements are strings or null, arrays of arrays for more dimensions.

    Raises:
        ValueTextError: it is not an array of at most `MAX_ARRAY_DEPTH` dimensions as Postgres prints one.
    """
    if text == b"{}":
        return b"[]"
    try:
        source = text.decode()
    except UnicodeDecodeError as error:
        raise ValueTextError(f"{text[:100]!r} is not UTF-8: {error.reason}") from error
    if source.startswith("["):  # bounds other than 1, e.g. [0:1]={a,b}
        source = source.partition("=")[2]
    return orjson.dumps(_parse_array(source))


def _parse_array(source: str) -> list[Any]:
    """Elements of `{a,"b c",NULL,{…}}`."""
    whole: list[Any] = []
    stack: list[list[Any]] = []
    at, end = 0, len(source)
    while at < end:
        char = source[at]
        if char == "{":
            if len(stack) == MAX_ARRAY_DEPTH:
                break
            inner: list[Any] = whole if not stack else []
            if stack:
                stack[-1].append(inner)
            stack.append(inner)
            at += 1
        elif not stack:
            break
        elif char == "}":
            stack.pop()
            at += 1
            if not stack:
                if at == end:
                    return whole
                break
        elif char == ",":
            at += 1
        elif char == '"':
            element, at = _quoted_element(source, at + 1)
            stack[-1].append(element)
        else:
            stop = at
            while stop < end and source[stop] not in ",}":
                stop += 1
            bare = source[at:stop]
            stack[-1].append(None if bare == "NULL" else bare)
            at = stop
    raise ValueTextError(f"{source[:100]!r} is not an array")


def _quoted_element(source: str, at: int) -> tuple[str, int]:
    """The element whose opening quote is before `at`, and where it ends."""
    parts: list[str] = []
    while True:
        quote = source.find('"', at)
        if quote < 0:
            raise ValueTextError(f"{source[:100]!r} is not an array: a quote is not closed")
        backslash = source.find("\\", at, quote)
        if backslash < 0:
            parts.append(source[at:quote])
            return "".join(parts), quote + 1
        parts.append(source[at:backslash] + source[backslash + 1 : backslash + 2])
        at = backslash + 2


_ENCODERS: dict[int, Encoder] = {
    BOOL: _bool_json,
    NUMERIC: _numeric_json,
    TIMESTAMP: _timestamp_json,
    TIMESTAMPTZ: timestamptz_json,
    **dict.fromkeys(INTEGERS, _whole_json),
    **dict.fromkeys(FLOATS, _float_json),
    **dict.fromkeys(JSONS, _verbatim),
    **dict.fromkeys(TEXT_ARRAYS, array_json),
}


class RowEncoder:
    """JSON objects of rows of one table or query: `{"column":value,…}` in the order of the columns.

    Args:
        columns: names and types.
    """

    def __init__(self, columns: Iterable[Column]) -> None:
        self.columns = tuple(columns)
        self._heads: list[bytes] = []
        for number, column in enumerate(self.columns):
            self._heads.append((b"," if number else b"{") + orjson.dumps(column.name) + b":")
        self._encoders = [encoder(column.type_oid) for column in self.columns]

    @classmethod
    def of(cls, description: Sequence[psycopg.Column]) -> RowEncoder:
        """For the rows of a cursor (`cursor.description`)."""
        return cls(Column(column.name, column.type_code) for column in description)

    def row(self, values: Sequence[bytes | None]) -> bytes:
        """JSON of one row.

        Args:
            values: every column's text, None for NULL.

        Raises:
            ValueTextError: a value is not what its type prints.
        """
        parts: list[bytes] = []
        for head, encode, value in zip(self._heads, self._encoders, values, strict=True):
            parts.append(head)
            parts.append(b"null" if value is None else encode(value))
        return b"".join(parts) + b"}" if parts else b"{}"


class _Raw(Loader):
    """Leaves a value as Postgres printed it."""

    def load(self, data: bytes | bytearray | memoryview) -> bytes:
        return bytes(data)


async def text_session(connection: psycopg.AsyncConnection[Any]) -> None:
    """Make a connection fit for `RowEncoder.row`: printed as `SESSION_OPTIONS` say, every value left as those bytes.

    For queries that do not ask for binary results. Outside autocommit the settings end with a rollback.
    """
    for setting in SESSION_SETTINGS:
        await connection.execute(b"SET " + setting.replace("=", " TO ").encode())
    connection.adapters.register_loader(0, _Raw)
    for info in psycopg.adapters.types:
        for oid in filter(None, (info.oid, info.array_oid)):
            connection.adapters.register_loader(oid, _Raw)
