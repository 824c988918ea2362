"""Root fields of the security master, over the functions that REST calls."""

from __future__ import annotations

from typing import Any

import graphene

from ssmd_api.auth.access import Scope
from ssmd_api.errors import InvalidRequestError
from ssmd_api.graphql import scalars, sources
from ssmd_api.graphql.cursors import Connection, check_first, connection, place_of
from ssmd_api.graphql.fields import RootField
from ssmd_api.graphql.relations import CONNECTIONS, TYPES, fill_arguments
from ssmd_api.graphql.types import connection_of, list_of, object_type, paging
from ssmd_api.params import shown
from ssmd_api.routing import Call, DayRule, FeedRule
from ssmd_api.secmaster.cursors import encode_cursor
from ssmd_api.secmaster.fees import trade_fee
from ssmd_api.secmaster.lists import list_rows
from ssmd_api.secmaster.reach import FEEDS_OF, PAIR_FEEDS, within
from ssmd_core.db.tables import SYNCED
from ssmd_core.secmaster.selections import FILTERS, STATUSES, Selection

_TEXT, _FLAG = graphene.String, graphene.Boolean
_KALSHI = FEEDS_OF["series"]

#: Types of the conditions that a list may have; which list knows which stands in `FILTERS`.
_CONDITIONS: dict[str, Any] = {
    **{
        name: _TEXT
        for name in ("category", "status", "exchange", "market_type", "base", "quote", "tag", "series", "event")
    },
    "games": _FLAG,
    "categories": list_of(_TEXT),
    "words": list_of(_TEXT),
    "min_volume": scalars.DECIMAL,
    "closing_before": scalars.DATE_TIME,
    "closing_after": scalars.DATE_TIME,
}


def _as_of() -> dict[str, Any]:
    text = "As known at this moment; so is all that belongs to the rows."
    return {"as_of": graphene.Argument(scalars.DATE_TIME, description=text)}


def _row_field(table: str) -> RootField:
    """One row by its key; null if there is none."""
    key = SYNCED[table].key

    async def resolve(call: Call) -> Any:
        row = await sources.row_of(call.services, table, getattr(call.query, key), call.moment)
        if row is not None and table == "pairs":
            call.principal.check_feed(PAIR_FEEDS[row["market_type"]])
        return row

    return RootField(
        gives=TYPES[table],
        arguments={key: graphene.Argument(_TEXT, required=True)} | _as_of(),
        scope=Scope.SECMASTER_READ,
        feeds=FEEDS_OF[table],
        days=DayRule.AS_OF,
        kept=True,
        about=f"The {TYPES[table]} with this id; null if there is none.",
        resolve=resolve,
    )


def _list_field(table: str) -> RootField:
    """Rows by their properties."""
    conditions = [name for name in _CONDITIONS if name in FILTERS[table]]
    key = SYNCED[table].key

    async def resolve(call: Call) -> Any:
        query = call.query
        given = {name: getattr(query, name) for name in conditions}
        given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        selection = within(table, Selection(**given, as_of=call.moment), call.feeds)
        found = await list_rows(
            call.services, table, selection, call.feeds,
            limit=check_first(query.first), order="key", cursor=query.after,
        )  # fmt: skip
        return Connection(
            sources.marked(found.rows, call.moment), found.next_cursor is not None, query.after is not None,
            lambda row: encode_cursor((table, "key", selection), (row[key],)),
        )  # fmt: skip

    return RootField(
        gives=CONNECTIONS[table],
        arguments={name: graphene.Argument(_CONDITIONS[name]) for name in conditions} | paging() | _as_of(),
        scope=Scope.SECMASTER_READ,
        feeds=FEEDS_OF[table],
        days=DayRule.AS_OF,
        kept=True,
        about=f"Every {TYPES[table]} with these properties, in the order of their ids.",
        resolve=resolve,
    )


async def _fee(call: Call) -> Any:
    query = call.query
    return await trade_fee(
        call.services,
        query.series,
        query.price,
        query.contracts,
        query.role.value,
        moment=call.moment,
        event=query.event,
    )


FEE_QUOTE = object_type("FeeQuote", "What a fill costs, and the terms behind it.", {
    "feeDollars": graphene.Field(scalars.DECIMAL, required=True, description="Rounded up to $0.000001."),
    "modelFeeDollars": graphene.Field(scalars.DECIMAL, required=True, description="Not rounded."),
    "feeDollarsByRounding": graphene.Field(
        scalars.JSON, required=True, description="By cent, centicent and microdollar."
    ),
    "feeType": graphene.Field(_TEXT, required=True),
    "feeMultiplier": graphene.Field(scalars.DECIMAL, required=True),
    "overriddenByEvent": graphene.Field(_FLAG, required=True, description="Whether the event has its own fees."),
    "sourceId": graphene.Field(_TEXT, required=True),
    "effectiveFrom": graphene.Field(scalars.DATE_TIME, required=True),
    "effectiveTo": graphene.Field(scalars.DATE_TIME),
    "asOf": graphene.Field(scalars.DATE_TIME, required=True),
})  # fmt: skip

_NUMBERS = ("bid", "ask", "last_price", "volume_24h", "open_interest", "funding_rate", "mark_price", "index_price")
INSTRUMENT = object_type("Instrument", "What can be traded on any venue, in one form; prices are the venue's last.", {
    "feed": graphene.Field(_TEXT, required=True),
    "instrument_type": graphene.Field(_TEXT, description="prediction, spot, perpetual or future."),
    "instrument_id": graphene.Field(_TEXT, required=True),
    **{name: graphene.Field(_TEXT) for name in ("name", "category", "status")},
    **{name: graphene.Field(scalars.DECIMAL) for name in _NUMBERS},
    "expiry": graphene.Field(scalars.DATE_TIME),
    "metadata": graphene.Field(scalars.JSON),
    "updated_at": graphene.Field(scalars.DATE_TIME),
})  # fmt: skip

_KINDS = ("prediction", *PAIR_FEEDS)
_STATUSES = tuple(dict.fromkeys(word for words in STATUSES.values() for word in words))
_FEED_OF = "CASE WHEN exchange = 'kraken' AND instrument_type <> 'spot' THEN 'kraken-futures' ELSE exchange END AS feed"


async def _instruments(call: Call) -> Any:
    query = call.query
    kind, status = (text and text.lower() for text in (query.instrument_type, query.status))
    for name, text, known in (("instrument_type", kind, _KINDS), ("status", status, _STATUSES)):
        if text is not None and text not in known:  # an empty list would look like an answer
            raise InvalidRequestError(f"{name}: {shown(text)} is none of {', '.join(known)}", field=name)
    question = ("instruments", call.feeds, kind, status)
    first, after = check_first(query.first), place_of(question, query.after, str, str)
    statement = (
        f"SELECT * FROM (SELECT {_FEED_OF}, i.* FROM instruments i) r WHERE feed = ANY(%s) "
        "AND (%s::text IS NULL OR instrument_type = %s) AND (%s::text IS NULL OR status = %s) "
        "AND (feed, instrument_id) > (%s, %s) ORDER BY feed, instrument_id LIMIT %s"
    )
    values = [list(call.feeds), kind, kind, status, status, *(after or ("", "")), first + 1]
    rows = await call.services.rows(statement, values)
    return connection(rows, first, question, ("feed", "instrument_id"), continued=after is not None)


FIELDS: dict[str, RootField] = {
    "series": _row_field("series"),
    "seriesList": _list_field("series"),
    "event": _row_field("events"),
    "events": _list_field("events"),
    "market": _row_field("markets"),
    "markets": _list_field("markets"),
    "fees": _list_field("series_fees"),
    "fee": RootField(
        gives=FEE_QUOTE,
        arguments={
            "series": graphene.Argument(_TEXT, required=True),
            "event": graphene.Argument(_TEXT, description="With it its own fees count."),
        }
        | fill_arguments()
        | {"as_of": graphene.Argument(scalars.DATE_TIME, description="When the fill was; default now.")},
        scope=Scope.SECMASTER_READ,
        feeds=_KALSHI,
        days=DayRule.AS_OF,
        about="The fee of a fill on Kalshi, in dollars.",
        resolve=_fee,
    ),
    "pair": _row_field("pairs"),
    "pairs": _list_field("pairs"),
    "condition": _row_field("polymarket_conditions"),
    "conditions": _list_field("polymarket_conditions"),
    "token": _row_field("polymarket_tokens"),
    "tokens": _list_field("polymarket_tokens"),
    "instruments": RootField(
        gives=connection_of(INSTRUMENT),
        arguments={
            "feed": graphene.Argument(_TEXT),
            "instrument_type": graphene.Argument(_TEXT),
            "status": graphene.Argument(_TEXT),
        }
        | paging(),
        scope=Scope.SECMASTER_READ,
        feeds=FeedRule.PARAM,
        days=DayRule.AS_OF,
        kept=True,
        about="What can be traded on any venue, as known now, in the order of feeds and ids.",
        resolve=_instruments,
    ),
}
