"""Message types and parquet schemas.

Dollars and contracts are exact decimals in every generation: `_dollars` and `_fp` text where present, else the integer
cents and counts of the time before 2026-03-12. Nothing is derived: `no_bid` is null where the venue does not send it.
"""

from __future__ import annotations

from ssmd_core.feeds.base import Column, MessageType, Schema, Source
from ssmd_core.feeds.columns import (
    cents,
    decimal,
    flag,
    integer,
    iso,
    json,
    levels_decimal,
    milliseconds,
    moment,
    seconds,
    text,
)

_TICKER = text("market_ticker", "msg.market_ticker", required=True, about="market")
_MARKET_ID = text("market_id", "msg.market_id", about="the venue's uuid of the market (since 2026-01-31)")
_SID = integer("sid", "sid", about="subscription id; means something only inside its epoch")
_SEQ = integer("exchange_seq", "seq", about="sequence number of the subscription, shared by all its markets")
_SHARD = integer("_shard_id", "_shard_id", about="only in archives imported from the reference system")


def _dollars(name: str, *members: str, old: str, required: bool = False, about: str = "") -> Column:
    return decimal(
        name, "dollars", *(f"msg.{member}" for member in members), cents(f"msg.{old}"), required=required, about=about
    )


def _contracts(name: str, *members: str, required: bool = False, about: str = "") -> Column:
    return decimal(name, "contracts", *(f"msg.{member}" for member in members), required=required, about=about)


_TICKER_SCHEMA = Schema(
    "kalshi_ticker",
    "2.0.0",
    (
        _TICKER,
        _MARKET_ID,
        _dollars("yes_bid", "yes_bid_dollars", old="yes_bid", about="best YES bid"),
        _dollars("yes_ask", "yes_ask_dollars", old="yes_ask", about="best YES ask"),
        _dollars("no_bid", "no_bid_dollars", old="no_bid", about="best NO bid, where sent"),
        _dollars("no_ask", "no_ask_dollars", old="no_ask", about="best NO ask, where sent"),
        _dollars("last_price", "price_dollars", old="price", about="price of the last trade; null if never traded"),
        _contracts("yes_bid_size", "yes_bid_size_fp", about="size at the best YES bid (since 2026-02-12)"),
        _contracts("yes_ask_size", "yes_ask_size_fp", about="size at the best YES ask (since 2026-02-12)"),
        _contracts("last_trade_size", "last_trade_size_fp", about="size of the last trade (since 2026-02-12)"),
        _contracts("volume", "volume_fp", "volume", about="cumulative volume"),
        _contracts("open_interest", "open_interest_fp", "open_interest"),
        decimal("dollar_volume", "dollars", "msg.dollar_volume", about="cumulative; sent in whole dollars"),
        decimal("dollar_open_interest", "dollars", "msg.dollar_open_interest", about="sent in whole dollars"),
        moment("ts", milliseconds("msg.ts_ms"), iso("msg.time"), seconds("msg.ts"), required=True, about="venue time"),
        integer("exchange_clock", "msg.Clock", about="undocumented counter, 2025-11 to 2026-03-12"),
        _SID,
        _SHARD,
    ),
)

_TRADE_SCHEMA = Schema(
    "kalshi_trade",
    "2.0.0",
    (
        _TICKER,
        decimal(
            "price",
            "dollars",
            "msg.yes_price_dollars",
            cents("msg.yes_price"),
            cents("msg.price"),
            required=True,
            about="YES price",
        ),
        _dollars("no_price", "no_price_dollars", old="no_price", about="NO price"),
        _contracts("count", "count_fp", "count", required=True, about="size of the trade, often fractional"),
        text(
            "side",
            "msg.taker_outcome_side",
            "msg.taker_side",
            "msg.side",
            required=True,
            about="outcome that the taker bought, yes or no",
        ),
        text("taker_side", "msg.taker_side", about="deprecated since 2026-05-08"),
        text("taker_outcome_side", "msg.taker_outcome_side", about="yes or no (since 2026-05-08)"),
        text("taker_book_side", "msg.taker_book_side", about="bid: the taker bought YES; or ask (since 2026-05-08)"),
        flag("is_block_trade", "msg.is_block_trade", about="since 2026-08-13"),
        moment("ts", milliseconds("msg.ts_ms"), seconds("msg.ts"), required=True, about="venue time"),
        text("trade_id", "msg.trade_id", distinct=True, about="uuid, equal to REST trade_id (since 2026-01-31)"),
        _SEQ,
        _SID,
        _SHARD,
    ),
)


def _bids(side: str) -> Column:
    return levels_decimal(
        f"{side}_bids",
        "dollars, contracts",
        Source(f"msg.{side}_dollars_fp", "pairs"),
        Source(f"msg.{side}_dollars", "pairs"),
        Source(f"msg.{side}", "cents_pairs"),
        about=f"{side.upper()} bids, prices ascending; the venue leaves the member out when the side is empty",
    )


_SNAPSHOT_SCHEMA = Schema(
    "kalshi_orderbook_snapshot",
    "1.0.0",
    (
        _TICKER,
        _MARKET_ID,
        _bids("yes"),
        _bids("no"),
        integer("command_id", "id", about="id of the get_snapshot command that this answers"),
        _SEQ,
        _SID,
    ),
)

_DELTA_SCHEMA = Schema(
    "kalshi_orderbook_delta",
    "1.0.0",
    (
        _TICKER,
        _MARKET_ID,
        text("side", "msg.side", required=True, about="yes or no; both sides are bids"),
        _dollars("price", "price_dollars", old="price", required=True, about="price of the level"),
        _contracts("delta", "delta_fp", "delta", required=True, about="signed change of the level's size"),
        moment("ts", milliseconds("msg.ts_ms"), iso("msg.ts"), about="venue's time (since 2026-01-31)"),
        text("client_order_id", "msg.client_order_id", about="only if the order is yours"),
        text("subaccount", "msg.subaccount", about="only if the order is yours"),
        _SEQ,
        _SID,
    ),
)

_LIFECYCLE_SCHEMA = Schema(
    "kalshi_lifecycle",
    "2.0.0",
    (
        _TICKER,
        text(
            "event_type",
            "msg.event_type",
            required=True,
            about="created, activated, deactivated, close_date_updated, determined, settled, …; unknown words are kept",
        ),
        moment("open_ts", seconds("msg.open_ts")),
        moment("close_ts", seconds("msg.close_ts")),
        text("result", "msg.result", about="yes, no, scalar or empty; when determined"),
        moment("determination_ts", seconds("msg.determination_ts")),
        decimal(
            "settlement_value",
            "dollars",
            Source("msg.settlement_value", "cents_or_dollars"),
            about="per YES contract, when determined",
        ),
        moment("settled_ts", seconds("msg.settled_ts")),
        flag("is_deactivated", "msg.is_deactivated"),
        text("price_level_structure", "msg.price_level_structure"),
        json("price_ranges", "msg.price_ranges", about="array of {start, end, step} (since 2026-07-01)"),
        integer("exchange_index", "msg.exchange_index", about="since 2026-07-29"),
        text("event_ticker", "msg.event_ticker", "msg.additional_metadata.event_ticker"),
        text("yes_sub_title", "msg.yes_sub_title", "msg.additional_metadata.yes_sub_title"),
        text("no_sub_title", "msg.no_sub_title", "msg.additional_metadata.no_sub_title"),
        text("strike_type", "msg.strike_type", "msg.additional_metadata.strike_type"),
        text("floor_strike", "msg.floor_strike", "msg.additional_metadata.floor_strike", about="as written"),
        text("cap_strike", "msg.cap_strike", "msg.additional_metadata.cap_strike", about="as written"),
        json("custom_strike", "msg.custom_strike", "msg.additional_metadata.custom_strike"),
        moment(
            "expected_expiration_ts",
            seconds("msg.expected_expiration_ts"),
            seconds("msg.additional_metadata.expected_expiration_ts"),
        ),
        json("additional_metadata", "msg.additional_metadata", about="whole, when created"),
        _SEQ,
        _SID,
    ),
)

_EVENT_SCHEMA = Schema(
    "kalshi_event_lifecycle",
    "1.0.0",
    (
        text("event_ticker", "msg.event_ticker", required=True),
        text("title", "msg.title"),
        text("subtitle", "msg.subtitle", "msg.sub_title", about="sub_title on the wire before 2026-01-31"),
        text("collateral_return_type", "msg.collateral_return_type", about="MECNET, DIRECNET or empty"),
        text("series_ticker", "msg.series_ticker"),
        moment("strike_date", seconds("msg.strike_date")),
        text("strike_period", "msg.strike_period"),
        integer("exchange_index", "msg.exchange_index", about="since 2026-07-29"),
        _SEQ,
        _SID,
    ),
)

_FEE_SCHEMA = Schema(
    "kalshi_event_fee_update",
    "1.0.0",
    (
        text("event_ticker", "msg.event_ticker", required=True),
        text("fee_type_override", "msg.fee_type_override", about="null: the override was removed"),
        decimal("fee_multiplier_override", "", "msg.fee_multiplier_override", about="null: the override was removed"),
        _SEQ,
        _SID,
    ),
)

MESSAGE_TYPES: dict[str, MessageType] = {
    kind.name: kind
    for kind in (
        MessageType(
            "ticker", "ticker", _TICKER_SCHEMA, "Best quotes, last trade and volume of a market.", "ts", "market_ticker"
        ),
        MessageType("trade", "trade", _TRADE_SCHEMA, "One public trade.", "ts", "market_ticker"),
        MessageType(
            "orderbook_snapshot",
            "orderbook",
            _SNAPSHOT_SCHEMA,
            "The whole book; replaces what was known of it.",
            instrument="market_ticker",
        ),
        MessageType(
            "orderbook_delta", "orderbook", _DELTA_SCHEMA, "A signed change of one price level.", "ts", "market_ticker"
        ),
        MessageType("market_lifecycle_v2", "lifecycle", _LIFECYCLE_SCHEMA, "What happens to a market but for trading."),
        MessageType("event_lifecycle", "event_lifecycle", _EVENT_SCHEMA, "A new event."),
        MessageType("event_fee_update", "event_fee", _FEE_SCHEMA, "A fee override of an event (since 2026-05-29)."),
        MessageType("subscribed", "control", description="A subscription is accepted."),
        MessageType("unsubscribed", "control", description="A subscription has ended; takes a sequence number."),
        MessageType("ok", "control", description="Answer to update and list commands; an update takes a number."),
        MessageType("error", "control", description="A command or a subscription failed."),
    )
}
