"""What was traded per event, with what the security master says of it.

An event is Kalshi's event, Polymarket's condition, and on Kraken the pair or product itself.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, date, datetime, time
from typing import Any

import msgspec

from ssmd_api.auth.access import Principal
from ssmd_api.data import sql
from ssmd_api.data.captured import Basis, reading
from ssmd_api.data.questions import Number, TickerVolume, ask, members, served, unit_of
from ssmd_api.errors import InvalidRequestError
from ssmd_api.jsons import camel
from ssmd_api.services import Services
from ssmd_core.feeds import get
from ssmd_core.secmaster.as_of import Filter, as_of

MAX_EVENTS = 100
#: What is told of an event, by the table and column where its id is looked up.
_SHOWN = {
    ("events", "event_ticker"): ("title", "category", "status", "strike_date"),
    ("polymarket_conditions", "condition_id"): ("question", "status", "end_date"),
    ("pairs", "symbol"): ("pair_id", "symbol", "status"),
    ("pairs", "native_id"): ("pair_id", "symbol", "status"),
}


class EventRow(msgspec.Struct, rename="camel"):
    """An event; `metadata` is null where the security master does not know it."""

    event_id: str
    total_trade_count: int
    total_volume: Number
    market_count: int
    metadata: dict[str, Any] | None
    top_markets: list[TickerVolume]


class EventsAnswer(Basis, rename="camel", kw_only=True):
    """Events with the most volume first; where volumes have different units, with the most trades."""

    volume_unit: str
    count: int
    events: list[EventRow]


async def events(
    services: Services,
    feed: str,
    day: date,
    *,
    moment: datetime | None = None,
    hour: str | None = None,
    stream: str | None = None,
    limit: int = 20,
) -> EventsAnswer:
    """Trades and volume per event; the metadata costs one statement, however many there are.

    Args:
        moment: as of which the security master is asked; see `metadata_moment`. Default now.
        hour, stream: as of `questions.trades`.
        limit: events at most.

    Raises:
        InvalidRequestError: hour, stream or limit cannot be used.
        ApiError: see `Engine.rows` and `captured.reading`.
        psycopg.Error: Postgres refused or went away.
    """
    if not 1 <= limit <= MAX_EVENTS:
        raise InvalidRequestError(f"limit: 1 to {MAX_EVENTS}, not {limit}", field="limit")
    chosen = get(feed).trades
    source = await reading(services, feed, day, chosen.message_type, hour=hour, stream=stream)
    rows = await ask(services, source, sql.events(chosen, source.schema), {"limit": limit})
    found: dict[str, EventRow] = {}
    for row in rows:
        one = found.get(row["event_id"])
        if one is None:
            one = found[row["event_id"]] = EventRow(
                row["event_id"], row["event_trade_count"], row["event_volume"], row["market_count"], None, []
            )
        one.top_markets.append(TickerVolume(row["ticker"], row["trade_count"], row["volume"]))
    if found:
        known = await _metadata(services, chosen.master, list(found), moment or services.now)
        for event_id, one in found.items():
            one.metadata = known.get(event_id)
    served(services, feed, len(found))
    return EventsAnswer(
        **members(source.basis),
        volume_unit=unit_of(source.schema, chosen.size),
        count=len(found),
        events=list(found.values()),
    )


def metadata_moment(principal: Principal, now: datetime) -> datetime:
    """As of when a key may see the security master: now, or the end of its last day if that is over."""
    if principal.last_day >= now.astimezone(UTC).date():
        return now
    return datetime.combine(principal.last_day, time.max, UTC)


async def _metadata(
    services: Services, master: tuple[str, str], ids: list[str], moment: datetime
) -> dict[str, dict[str, Any]]:
    """What the security master says of events, by id, in one statement."""
    table, column = master
    # The ids are what a venue wrote, and no text in Postgres has a NUL.
    known = [event_id for event_id in ids if "\0" not in event_id]
    if table == "pairs":
        kinds = ["spot"] if column == "symbol" else ["perpetual", "future"]
        chosen: dict[str, Any] = {"where": [Filter(column, "in", known), Filter("market_type", "in", kinds)]}
    else:
        chosen = {"keys": known}
    found: dict[str, dict[str, Any]] = {}
    async with services.reading() as connection, aclosing(as_of(connection, table, moment, **chosen)) as rows:
        async for row in rows:
            found[row[column]] = {camel(name): row[name] for name in _SHOWN[master]}
    return found
