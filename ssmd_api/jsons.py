"""JSON of answers: members in camelCase, NUMERIC as text, times as ISO 8601 UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
import orjson

_US_PER_MS = 1000


@lru_cache(maxsize=4096)
def camel(name: str) -> str:
    """`event_ticker` as `eventTicker`, `volume_24h` as `volume24h`."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def row(values: dict[str, Any]) -> dict[str, Any]:
    """A row of the database with its members in camelCase; values stay."""
    return {camel(name): value for name, value in values.items()}


def moment_text(moment: datetime) -> str:
    """ISO 8601 UTC with milliseconds, or with microseconds where there are any: `2026-11-22T11:15:00.000Z`."""
    utc = moment.astimezone(UTC)
    fraction = f"{utc.microsecond:06d}" if utc.microsecond % _US_PER_MS else f"{utc.microsecond // _US_PER_MS:03d}"
    # Not strftime: it writes years below 1000 without their zeros.
    return f"{utc.replace(microsecond=0, tzinfo=None).isoformat()}.{fraction}Z"


def number_text(value: Decimal) -> str:
    """Decimal text without an exponent, as Postgres prints it."""
    return format(value, "f")


def default(value: Any) -> Any:
    """What orjson does not know."""
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return number_text(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value, builtin_types=(datetime, Decimal))
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def encode(value: Any) -> bytes:
    """The answer's body.

    Raises:
        TypeError: a value without a form in JSON.
    """
    return orjson.dumps(value, default=default, option=orjson.OPT_PASSTHROUGH_DATETIME)
