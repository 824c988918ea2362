"""Query parameters and bodies, checked: one msgspec Struct per route says what may come.

What cannot be used is refused with the name of the parameter at fault: unknown and repeated ones too, because a filter
that is silently not applied gives a wrong answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from ssmd_api.errors import InvalidRequestError

# A list holds up to 100 of Polymarket's token ids of 78 digits; all of a request line has 64 KiB at most.
MAX_VALUE_CHARS = 1024
MAX_LIST_CHARS = 16_384
_S = TypeVar("_S", bound=msgspec.Struct)
_AT = re.compile(r" - at `(.*)`\Z")
_FIELD = re.compile(r"\$\.?([A-Za-z_][A-Za-z0-9_]*)?")


def parse_moment(text: str, field: str) -> datetime:
    """A moment in ISO 8601; without a zone it is UTC, without a time midnight.

    Raises:
        InvalidRequestError: it is none, or before the year 1 or after 9999 in UTC.
    """
    # A + that was not escaped arrives as a space.
    candidate = text.replace(" ", "+") if re.search(r" \d{2}:?\d{2}\Z", text) else text
    try:
        moment = datetime.fromisoformat(candidate)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequestError(
            f"{field}: {shown(text)} is not a moment such as 2026-11-17T14:00Z", field=field
        ) from None


def shown(text: str) -> str:
    """A stranger's text for an error message: quoted, printable, short."""
    return ascii(text if len(text) <= 64 else text[:64] + "…")


def parse_query(kind: type[_S], pairs: Iterable[tuple[str, str]]) -> _S:
    """The query string's parameters.

    Args:
        pairs: decoded names and values.

    Raises:
        InvalidRequestError: unknown, repeated, missing, or not of its type.
    """
    known = _kinds(kind)
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            names = ", ".join(known) or "none"
            raise InvalidRequestError(f"unknown parameter {shown(name)}; known: {names}", field=name[:64])
        if name in values:
            raise InvalidRequestError(f"{name} is given twice", field=name)
        values[name] = _value(known[name], name, text)
    return convert(kind, values, strict=False)


def parse_body(kind: type[_S], body: bytes) -> _S:
    """A JSON body.

    Raises:
        InvalidRequestError: no JSON, or not of the expected form.
    """
    try:
        return convert(kind, msgspec.json.decode(body), strict=True)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None


def convert(kind: type[_S], values: Any, *, strict: bool) -> _S:
    """Values as a Struct.

    Raises:
        InvalidRequestError: they do not fit; the message names the field.
    """
    try:
        return msgspec.convert(values, kind, strict=strict)
    except msgspec.ValidationError as error:
        text = str(error)
        at = _AT.search(text)
        found = _FIELD.match(at[1]) if at else None
        field = (found[1] if found else "") or ""
        if missing := re.search(r"missing required field `(\w+)`", text):
            field = missing[1]
        elif unknown := re.search(r"unknown field `(.{0,64})`", text):
            field = unknown[1]
        reason = _AT.sub("", text)
        raise InvalidRequestError(f"{field}: {reason}" if field else reason, field=field) from None


def _value(kind: str, name: str, text: str) -> Any:
    most = MAX_LIST_CHARS if kind == "list" else MAX_VALUE_CHARS
    if len(text) > most:
        raise InvalidRequestError(f"{name} has {len(text)} characters, {most} is the most", field=name)
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise InvalidRequestError(f"{name} holds a character that no text in the database has", field=name)
    if kind == "moment":
        return parse_moment(text, name)
    if kind == "list":
        return [part for part in (each.strip() for each in text.split(",")) if part]
    if kind == "bool":
        if text not in {"true", "false"}:
            raise InvalidRequestError(f"{name}: {shown(text)} is neither true nor false", field=name)
        return text == "true"
    if kind == "other" and text.lower() == "null":
        # msgspec would take it for no value: a filter that is silently not applied.
        raise InvalidRequestError(f"{name}: {shown(text)} is not a value", field=name)
    if kind == "int" and not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise InvalidRequestError(f"{name}: {shown(text)} is not a whole number", field=name)
    return text


@lru_cache(maxsize=256)
def _kinds(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Parameter name -> how its text is read."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name: _kind_of(field.type) for field in info.fields}


def _kind_of(found: inspect.Type) -> str:
    while isinstance(found, inspect.Metadata):  # a description
        found = found.type
    options = found.types if isinstance(found, inspect.UnionType) else (found,)
    options = tuple(one.type if isinstance(one, inspect.Metadata) else one for one in options)
    names = {
        inspect.DateTimeType: "moment",
        inspect.ListType: "list",
        inspect.VarTupleType: "list",
        inspect.BoolType: "bool",
        inspect.IntType: "int",
        inspect.StrType: "text",
    }
    return next((names[type(one)] for one in options if type(one) in names), "other")
