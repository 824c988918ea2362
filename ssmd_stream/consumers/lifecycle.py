"""What Kalshi's lifecycle messages make of a market and of an event: no I/O.

Every message is kept in `market_lifecycle_events`, whole. A row is planned from all kept messages of its market, and a
column takes the value of the newest message that has it, by receive time. So it does not matter in which order
messages are delivered or how often: the same messages give the same row. `settled` is final, whatever is newer.

Wire facts: Kalshi's WebSocket reference for `market_lifecycle_v2`, and captures of 2026. Times are epoch
seconds; `settlement_value` is dollars as text, and integer cents in the oldest captures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from ssmd_core.secmaster.status import TERMINAL
from ssmd_stream.secmaster.fields import FieldError, Record, id_of, json_of

# Titles and rules of one market are a few KiB.
MAX_MESSAGE_BYTES = 256 * 1024
MARKET_TYPE = "market_lifecycle_v2"
EVENT_LIFECYCLE, EVENT_FEE = "event_lifecycle", "event_fee_update"
#: Words of `market_lifecycle_v2` that change a row; others are kept and counted.
MARKET_EVENTS = (
    "created",
    "activated",
    "deactivated",
    "close_date_updated",
    "determined",
    "settled",
    "price_level_structure_updated",
    "metadata_updated",
)
KNOWN_EVENTS = (*MARKET_EVENTS, EVENT_LIFECYCLE, EVENT_FEE)
_FINAL = ("determined", "settled")
_SWITCHES = ("activated", "deactivated")
JSON_COLUMNS = ("custom_strike", "price_ranges")

_DECODER = msgspec.json.Decoder(float_hook=Decimal)
decode_json = _DECODER.decode

Key = tuple[str, int]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LifecycleMessage:
    """One message, read.

    Attributes:
        stream: JetStream stream, with the moment it was made: another stream of the same name counts from 1 again.
        nats_seq: its sequence there.
        ticker: market ticker; the event's for messages about an event.
        event_type: the venue's word; for messages about an event their type.
        values: what it says, by column.
        metadata: its `msg`, whole, encoded for a JSON column.
        settled_ts: when the market was settled, else determined.
        received_at: when it came from the socket.
        problems: members that could not be read and are taken as missing, `name: reason`.
    """

    stream: str
    nats_seq: int
    ticker: str
    event_type: str
    values: Row
    metadata: msgspec.Raw
    settled_ts: datetime | None
    received_at: datetime
    problems: tuple[str, ...] = ()

    @property
    def about_event(self) -> bool:
        """Whether `ticker` is an event's."""
        return self.event_type in (EVENT_LIFECYCLE, EVENT_FEE)


@dataclass(frozen=True, slots=True)
class Kept:
    """A message as it is kept: what a plan is made of.

    Attributes:
        key: stream and sequence.
        event_type: the venue's word.
        received_at: when it came from the socket.
        happened_at: the venue's own time of it, where it tells and it is not in the future, else `received_at`.
        values: what it says, by column.
    """

    key: Key
    event_type: str
    received_at: datetime
    happened_at: datetime
    values: Row


@dataclass(frozen=True, slots=True)
class EventSeed:
    """What a new market says of an event that is not known yet.

    Attributes:
        title: the market's; the event's own comes with `event_lifecycle` or the next sync.
        exchange_index: the exchange's part that lists it.
    """

    title: str
    exchange_index: int | None = None


def read_message(payload: bytes, *, stream: str, nats_seq: int, received_at: datetime) -> LifecycleMessage:
    """Read a message of any generation.

    Raises:
        FieldError: it is none, or lacks what cannot be missing: type, ticker, `event_type`.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise FieldError(f"{len(payload)} bytes, more than {MAX_MESSAGE_BYTES}")
    try:
        envelope = Record(_DECODER.decode(payload))
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise FieldError(f"not JSON: {error}") from error
    kind = envelope.id("type")
    body = Record(envelope.raw.get("msg"))
    if kind in (EVENT_LIFECYCLE, EVENT_FEE):
        ticker, event_type = body.id("event_ticker"), kind
    elif kind == MARKET_TYPE:
        ticker, event_type = body.id("market_ticker"), id_of(body.raw.get("event_type"), 64)
        if event_type in (EVENT_LIFECYCLE, EVENT_FEE):
            raise FieldError(f"event_type {event_type!r} in a message about a market")
    else:
        raise FieldError(f"type {kind!r} is not about the life of a market or event")
    metadata = json_of(body.raw)
    assert metadata is not None  # it is an object
    values, moments, problems = _values(event_type, body.raw)
    settled_ts = moments.get("settled_ts") or moments.get("determination_ts")
    return LifecycleMessage(
        stream, nats_seq, ticker, event_type, values, metadata, settled_ts, received_at, tuple(problems)
    )


def kept(key: Key, event_type: str, received_at: datetime, body: Mapping[str, Any]) -> Kept:
    """A message from what the database keeps of it."""
    values, moments, _ = _values(event_type, body)
    told = moments.get("settled_ts" if event_type == "settled" else "determination_ts")
    happened_at = min(told, received_at) if told is not None and event_type in _FINAL else received_at
    return Kept(key, event_type, received_at, happened_at, values)


def _values(event_type: str, body: Mapping[str, Any]) -> tuple[Row, dict[str, datetime | None], list[str]]:
    if event_type == EVENT_LIFECYCLE:
        record = Record(body)
        return _known(_event_columns(record)), {}, record.problems
    if event_type == EVENT_FEE:
        return _fee_columns(body)
    more = body.get("additional_metadata")
    inner = more if isinstance(more, dict) else {}
    record = Record({**inner, **{name: value for name, value in body.items() if value not in (None, "")}})
    moments = {name: record.moment(name) for name in ("settled_ts", "determination_ts")}
    return _known({**_market_columns(record), "settled_at": moments["settled_ts"]}), moments, record.problems


def _known(values: Row) -> Row:
    return {name: value for name, value in values.items() if value is not None}


def _market_columns(record: Record) -> Row:
    settlement_value = record.decimal("settlement_value")
    if settlement_value is not None and isinstance(record.raw["settlement_value"], int):
        settlement_value /= 100
    jsons = {name: record.json(name) for name in JSON_COLUMNS}
    return {
        "event_ticker": record.optional_id("event_ticker"),
        "title": record.text("title", "name"),
        "yes_sub_title": record.text("yes_sub_title"),
        "no_sub_title": record.text("no_sub_title"),
        "open_time": record.moment("open_ts"),
        "close_time": record.moment("close_ts"),
        "expected_expiration_time": record.moment("expected_expiration_ts"),
        "strike_type": record.text("strike_type", chars=64),
        "floor_strike": record.decimal("floor_strike"),
        "cap_strike": record.decimal("cap_strike"),
        "functional_strike": record.text("functional_strike"),
        **{name: None if raw is None else _DECODER.decode(raw) for name, raw in jsons.items()},
        "result": record.text("result", chars=32),
        "settlement_value": settlement_value,
        "can_close_early": record.flag("can_close_early"),
        "price_level_structure": record.text("price_level_structure", chars=64),
        "exchange_index": record.whole("exchange_index"),
    }


def _event_columns(record: Record) -> Row:
    return {
        "title": record.text("title"),
        "sub_title": record.text("subtitle", "sub_title"),
        "collateral_return_type": record.text("collateral_return_type", chars=64),
        "series_ticker": record.optional_id("series_ticker"),
        "strike_date": record.moment("strike_date"),
        "strike_period": record.text("strike_period", chars=64),
        "exchange_index": record.whole("exchange_index"),
    }


def _fee_columns(body: Mapping[str, Any]) -> tuple[Row, dict[str, datetime | None], list[str]]:
    """A null says that the override is removed; a member that is missing or unreadable says nothing."""
    record = Record(body)
    read = {
        "fee_type_override": record.text("fee_type_override", chars=64),
        "fee_multiplier_override": record.decimal("fee_multiplier_override"),
    }
    said = {name: value for name, value in read.items() if name in body and (value is not None or not body[name])}
    return said, {}, record.problems


# -- plans


def plan_market(
    stored: Mapping[str, Any] | None, ticker: str, history: Sequence[Kept], fresh: Collection[Key], now: datetime
) -> Row | None:
    """The columns of a market's row that are to be written.

    Args:
        stored: the row as it is, None if there is none.
        history: all messages of the market, in any order.
        fresh: keys of those that the row does not know yet.
        now: what the clock shows.

    Returns:
        Columns with their new values; a whole row if none is stored; {} if nothing is to change; None if there is no
        row and no `created` to make one of.
    """
    history = sorted((one for one in history if one.event_type in MARKET_EVENTS), key=_age)
    newest = _newest(history)
    if stored is None:
        if not any(one.event_type == "created" for one in history):
            return None
        row = {name: value for name, (value, _) in newest.items()}
        row["event_ticker"] = _event_of(ticker, newest)
        row.setdefault("title", ticker)
        base = {"status": "initialized" if "open_time" in row else "active"}
        row |= _status(base, row, history, {one.key for one in history}, now)
        row["venue_updated_at"] = max(one.happened_at for one in history)
        return row
    changes = _differences(stored, newest, fresh)
    changes.pop("event_ticker", None)  # a market does not move to another event
    changes |= _status(stored, {**stored, **changes}, history, fresh, now)
    return _stamped(stored, changes, history, fresh)


def plan_event(
    stored: Mapping[str, Any] | None,
    ticker: str,
    history: Sequence[Kept],
    fresh: Collection[Key],
    seed: EventSeed | None,
    category: str | None,
) -> Row | None:
    """The columns of an event's row that are to be written; see `plan_market`.

    Args:
        seed: what a new market of the event says of it; None if there is no new market.
        category: of the event's series; None if the series is not known.
    """
    history = sorted((one for one in history if one.event_type in (EVENT_LIFECYCLE, EVENT_FEE)), key=_age)
    newest = _newest(history)
    if stored is None:
        if seed is None and not any(one.event_type == EVENT_LIFECYCLE for one in history):
            return None
        row = {name: value for name, (value, _) in newest.items()}
        row.setdefault("title", seed.title if seed else ticker)
        row.setdefault("series_ticker", series_of(ticker, history))
        row.setdefault("exchange_index", seed.exchange_index if seed else None)
        row["category"] = category or ""
        if history:
            row["venue_updated_at"] = max(one.happened_at for one in history)
        return row
    changes = _differences(stored, newest, fresh)
    if category and not stored["category"]:
        changes["category"] = category
    if seed is not None and stored["deleted_at"] is not None:
        changes["deleted_at"] = None
    return _stamped(stored, changes, history, fresh)


def seed_of(market_ticker: str, history: Sequence[Kept]) -> tuple[str, EventSeed] | None:
    """The event that a market without a row needs, and what is known of it; None without a `created`."""
    if not any(one.event_type == "created" for one in history):
        return None
    newest = _newest(sorted((one for one in history if one.event_type in MARKET_EVENTS), key=_age))
    title, exchange_index = newest.get("title"), newest.get("exchange_index")
    seed = EventSeed(title[0] if title else market_ticker, exchange_index[0] if exchange_index else None)
    return _event_of(market_ticker, newest), seed


def _event_of(market_ticker: str, newest: Mapping[str, tuple[Any, Key]]) -> str:
    """What the venue says, else what the ticker names: `created` did not say it before 2026."""
    said = newest.get("event_ticker")
    head, _, tail = market_ticker.rpartition("-")
    return str(said[0]) if said else head or tail


def series_of(event_ticker: str, history: Sequence[Kept] = ()) -> str:
    """The event's series: what the venue says, else the ticker's first part."""
    said = _newest(sorted(history, key=_age)).get("series_ticker")
    return said[0] if said else event_ticker.partition("-")[0]


def timed_status(status: str, open_time: datetime | None, close_time: datetime | None, now: datetime) -> str:
    """What time has made of a status: the venue tells neither the opening nor the close."""
    if status in ("initialized", "active") and close_time is not None and close_time <= now:
        return "closed"
    if status == "initialized" and open_time is not None and open_time <= now:
        return "active"
    return status


def _age(one: Kept) -> tuple[datetime, Key]:
    return one.received_at, one.key


def _newest(history: Sequence[Kept]) -> dict[str, tuple[Any, Key]]:
    return {name: (value, one.key) for one in history for name, value in one.values.items()}


def _differences(stored: Mapping[str, Any], newest: Mapping[str, tuple[Any, Key]], fresh: Collection[Key]) -> Row:
    """New values, and known ones that the row lacks; what an older message says does not replace what a sync wrote."""
    return {
        name: value
        for name, (value, key) in newest.items()
        if value != stored[name] and (key in fresh or stored[name] is None)
    }


def _status(
    stored: Mapping[str, Any], row: Mapping[str, Any], history: Sequence[Kept], fresh: Collection[Key], now: datetime
) -> Row:
    """Status and the venue's word for it, as far as they change.

    The words of REST are used, so that the next sync finds nothing to change.
    """
    status, word = stored["status"], stored.get("venue_status")
    switches = [one for one in history if one.event_type in _SWITCHES]
    said = {one.event_type for one in history}
    if said.intersection(_FINAL):
        status, word = "settled", "finalized" if "settled" in said else word if word == "finalized" else "determined"
    elif status not in TERMINAL:
        if switches and switches[-1].key in fresh:
            paused = switches[-1].event_type == "deactivated"
            status, word = ("closed", "inactive") if paused else ("active", "active")
        status = timed_status(status, row.get("open_time"), row.get("close_time"), now)
    found = {"status": status, "venue_status": word}
    return {name: value for name, value in found.items() if value != stored.get(name) or "ticker" not in stored}


def _stamped(stored: Mapping[str, Any], changes: Row, history: Sequence[Kept], fresh: Collection[Key]) -> Row:
    """With the time of the change, if there is one; a row that was deleted lives again if the venue speaks of it."""
    deleted_at = stored["deleted_at"]
    if deleted_at is not None and any(one.key in fresh and one.received_at > deleted_at for one in history):
        changes["deleted_at"] = None
    if changes and history:
        newest = max(one.happened_at for one in history)
        before = stored["venue_updated_at"]
        if before is None or newest > before:
            changes["venue_updated_at"] = newest
    return changes
