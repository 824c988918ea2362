"""The venue's own time of a message, read from the few messages a minute whose age is sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from ssmd_core.clock import NS_PER_S, NS_PER_US
from ssmd_core.feeds.base import Feed, Source

# Opening dumps are megabytes and tell nothing about age.
MAX_BYTES = 65_536
_UNIT_NS = {"s": NS_PER_S, "ms": 1_000_000, "us": NS_PER_US}
# Beyond these years it is no time.
_EARLIEST_NS, _LATEST_NS = 1_420_070_400 * NS_PER_S, 4_102_444_800 * NS_PER_S

VenueTime = Callable[[bytes], int | None]
"""Epoch ns of a message's bytes; None if it has none."""


def venue_times(feed: Feed) -> Mapping[str, VenueTime]:
    """A reader for each message type whose venue time the registry names."""
    readers: dict[str, VenueTime] = {}
    for name, known in feed.message_types.items():
        if known.schema is None or not known.venue_time:
            continue
        column = next(column for column in known.schema.columns if column.name == known.venue_time)
        readers[name] = partial(_read, column.sources, known.schema.explode)
    return readers


def _read(sources: tuple[Source, ...], explode: tuple[str, ...], payload: bytes) -> int | None:
    if len(payload) > MAX_BYTES:
        return None
    try:
        message = msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    # A snapshot repeats what is long past.
    if not isinstance(message, dict) or message.get("type") == "snapshot":
        return None
    item = _item(message, explode)
    for source in sources:
        head, _, rest = source.path.partition(".")
        value = _at(item, rest) if explode and head == "item" else _at(message, source.path)
        if value is not None:
            return _nanoseconds(value, source.convert)
    return None


def _item(message: dict[str, Any], explode: tuple[str, ...]) -> Any:
    """The last element that is a row: the newest."""
    for path in explode:
        found = message if path == "." else _at(message, path)
        if found is not None:
            return found[-1] if isinstance(found, list) and found else found
    return None


def _at(value: Any, path: str) -> Any:
    for member in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(member)
    return value


def _nanoseconds(value: Any, convert: str) -> int | None:
    try:
        if convert == "iso":
            moment = datetime.fromisoformat(value)
            whole = int(moment.replace(microsecond=0).timestamp())
            at_ns = whole * NS_PER_S + moment.microsecond * NS_PER_US
        else:
            # Columns without a unit of their own (`int`, `text`) are ms since 1970, see `MessageType.venue_time`.
            at_ns = int(value) * _UNIT_NS.get(convert, 1_000_000)
    except (TypeError, ValueError, OverflowError):
        return None
    return at_ns if _EARLIEST_NS < at_ns < _LATEST_NS else None
