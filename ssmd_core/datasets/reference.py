"""One message to rows, in plain Python: what a schema means, and why a message breaks it.

The fast path (`project.py`) hands over every message that it cannot convert with certainty, so this is slow
(8 MB/s) but complete, and its numbers are the text that the venue wrote, never a binary float.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import pyarrow as pa

from ssmd_core.datasets.arrow import is_levels, value_type
from ssmd_core.feeds.base import Column, Schema, Source
from ssmd_core.messages.lines import Line

Row = dict[str, Any]
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,9})?\Z")
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})\Z"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US_PER = {"s": 1_000_000, "ms": 1_000, "us": 1}
_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)
_QUOTED_CHARS = 80


class RowError(Exception):
    """The message breaks its schema; the text says which column and value."""


class NumberText(str):
    """A JSON number as it is written."""

    __slots__ = ()


class _Absent:
    """Marks a member that is not there or null."""


_ABSENT = _Absent()


def parse_message(payload: bytes) -> dict[str, Any]:
    """A message's members, numbers as `NumberText`; of two members with one name the first counts.

    Raises:
        RowError: not one JSON object in UTF-8.
    """
    try:
        value = json.loads(
            payload.decode(),
            parse_int=NumberText,
            parse_float=NumberText,
            parse_constant=_no_constant,
            object_pairs_hook=_first_wins,
        )
    except RecursionError:
        raise RowError("invalid JSON: nested too deeply") from None
    except ValueError as error:
        raise RowError(f"invalid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError(f"not a JSON object: {_quote(value)}")
    return value


def message_rows(schema: Schema, line: Line) -> list[Row]:
    """The rows of one message.

    Raises:
        RowError: it breaks the schema; then none of its rows may be used.
    """
    message = parse_message(line.payload)
    meta = {
        "_nats_seq": line.nats_seq,
        "_received_at": _EPOCH + timedelta(microseconds=line.recv_us),
        "_epoch": line.epoch,
        "_ordinal": line.ordinal,
    }
    try:
        return [
            {column.name: _column_value(column, message, item) for column in schema.columns} | meta
            for item in _items(schema, message)
        ]
    except RecursionError:
        raise RowError("nested too deeply") from None


def compact_json(value: Any) -> str:
    """A value of `parse_message` as compact JSON, its numbers as written."""
    if isinstance(value, NumberText):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json_text(key)}:{compact_json(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact_json, value)) + "]"
    return _json_text(value)


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs)) if len(pairs) != len({key for key, _ in pairs}) else dict(pairs)


def _items(schema: Schema, message: dict[str, Any]) -> Iterator[Any]:
    if not schema.explode:
        yield message
        return
    for path in schema.explode:
        found = message if path == "." else _find(message, path)
        if found is _ABSENT:
            continue
        if isinstance(found, list):
            yield from found
        elif isinstance(found, dict):
            yield found
        else:
            raise RowError(f"{path} is not an array: {_quote(found)}")
        return
    raise RowError(f"missing {' or '.join(schema.explode)}")


def _find(value: Any, path: str) -> Any:
    for member in path.split("."):
        if not isinstance(value, dict):
            return _ABSENT
        value = value.get(member)
    return _ABSENT if value is None else value


def _column_value(column: Column, message: dict[str, Any], item: Any) -> Any:
    for source in column.sources:
        in_item = source.path.startswith("item.")
        raw = _find(item, source.path[5:]) if in_item else _find(message, source.path)
        if raw is _ABSENT or (raw == "" and source.convert in ("decimal", "cents_or_dollars")):
            continue
        try:
            return _levels(column, source, raw) if is_levels(column) else _scalar(column, source, raw)
        except (ValueError, OverflowError, InvalidOperation) as error:
            raise RowError(f"column {column.name}, {source.path} {_quote(raw)}: {error}") from None
    if not column.nullable:
        paths = " or ".join(source.path for source in column.sources)
        raise RowError(f"missing required column {column.name} ({paths})")
    return None


def _levels(column: Column, source: Source, raw: Any) -> list[Row]:
    if not isinstance(raw, list):
        raise ValueError("is not an array")
    value = value_type(column)
    levels = []
    for level in raw:
        if source.convert == "levels":
            price, size = (_find(level, "price"), _first(level, "size", "qty"))
        elif isinstance(level, list) and len(level) == 2:
            price, size = level
        else:
            raise ValueError(f"{_quote(level)} is not a pair of price and size")
        if price in (None, _ABSENT) or size in (None, _ABSENT):
            raise ValueError(f"{_quote(level)} lacks its price or size")
        read = _float if pa.types.is_floating(value) else _decimal
        exact_price = _cents(price, value) if source.convert == "cents_pairs" else read(price, value)
        levels.append({"price": exact_price, "size": read(size, value)})
    return levels


def _first(value: Any, *members: str) -> Any:
    return next((found for member in members if (found := _find(value, member)) is not _ABSENT), _ABSENT)


def _scalar(column: Column, source: Source, raw: Any) -> Any:  # noqa: PLR0911, PLR0912 one per conversion
    value = value_type(column)
    match source.convert:
        case "text":
            if not isinstance(raw, str):
                raise ValueError("is neither text nor a number")
            return _utf8(str(raw))
        case "json":
            return _utf8(compact_json(raw))
        case "int":
            return _int(raw, _UINT64 if value == pa.uint64() else _INT64)
        case "float":
            return _float(raw, value)
        case "bool":
            return _bool(raw)
        case "decimal":
            return _decimal(raw, value)
        case "cents":
            return _cents(raw, value)
        case "cents_or_dollars":
            return _cents(raw, value) if isinstance(raw, NumberText) else _decimal(raw, value)
        case "s" | "ms" | "us" as unit:
            return _from_epoch(raw, _US_PER[unit])
        case "iso":
            return _from_rfc3339(raw)
        case "is_snapshot":
            if raw not in ("snapshot", "update"):
                raise ValueError("is neither snapshot nor update")
            return raw == "snapshot"
        case _:
            raise ValueError(f"cannot be read as {source.convert}")


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not text: half of a surrogate pair") from None
    return text


def _exact(raw: Any) -> Decimal:
    if not isinstance(raw, str) or not _NUMBER.match(raw):
        raise ValueError("is not a number")
    return Decimal(raw)


def _int(raw: Any, allowed: range) -> int:
    number = _exact(raw)
    if number.adjusted() > 20 or number != number.to_integral_value():
        raise ValueError("is not a whole number of 64 bits")
    if int(number) not in allowed:
        raise ValueError("is not a whole number of 64 bits")
    return int(number)


def _float(raw: Any, _: pa.DataType) -> float:
    _exact(raw)
    number = float(raw)
    if number in (float("inf"), float("-inf")):
        raise ValueError("is too large for float64")
    return number


def _bool(raw: Any) -> bool:
    if raw is True or raw == "true":
        return True
    if raw is False or raw == "false":
        return False
    raise ValueError("is neither true nor false")


def _decimal(raw: Any, value: pa.DataType) -> Decimal:
    number = _exact(raw)
    if number and not -1_000 < number.adjusted() < 1_000:
        raise ValueError(f"does not fit in {value.precision - value.scale} digits and {value.scale} decimals")
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    # An exact rescaling: what would be lost must be zeros, what is added is zeros.
    lost = -exponent - value.scale
    if number and lost > 0 and any(digits[-lost:] if lost < len(digits) else digits):
        raise ValueError(f"is not a decimal with at most {value.scale} digits after the point")
    if number.adjusted() >= value.precision - value.scale and number:
        raise ValueError(f"is too large: at most {value.precision - value.scale} digits before the point")
    return number.quantize(Decimal(1).scaleb(-value.scale)) if number else Decimal(0).scaleb(-value.scale)


def _cents(raw: Any, value: pa.DataType) -> Decimal:
    number = _exact(raw)
    if number.adjusted() > value.precision or number != number.to_integral_value():
        raise ValueError("is not a whole number of cents")
    return _decimal(f"{int(number)}e-2", value)


def _from_epoch(raw: Any, us: int) -> datetime:
    number = _exact(raw)
    if number.adjusted() > 18:
        raise ValueError("is not a time")
    return _EPOCH + timedelta(microseconds=int(number * us))


def _from_rfc3339(raw: Any) -> datetime:
    match = _RFC3339.match(raw) if isinstance(raw, str) else None
    if match is None:
        raise ValueError("is not an RFC 3339 time")
    fraction = (match[3] or "")[:6].ljust(6, "0")
    return datetime.fromisoformat(f"{match[1]}T{match[2]}.{fraction}{match[4]}").astimezone(UTC)


def _quote(value: Any) -> str:
    text = compact_json(value) if not isinstance(value, _Absent) else "nothing"
    return text if len(text) <= _QUOTED_CHARS else text[:_QUOTED_CHARS] + "…"
