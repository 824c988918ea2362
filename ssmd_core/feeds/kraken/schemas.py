"""Message types and parquet schemas. Kraken sends JSON numbers, so prices and quantities are float64.

Book checksums need the number text, with its trailing zeros: compute them from the archive, not from parquet.
"""

from __future__ import annotations

from ssmd_core.feeds.base import Column, MessageType, Schema, Source
from ssmd_core.feeds.columns import flag, integer, iso, json, levels_float, moment, number, text

_SYMBOL = text("symbol", "item.symbol", required=True, about="v2 name, e.g. BTC/USD")
_IS_SNAPSHOT = Column(
    "is_snapshot",
    "bool",
    (Source("type", "is_snapshot"),),
    True,
    "",
    "a snapshot, not an update",
)

_TICKER_SCHEMA = Schema(
    "kraken_ticker",
    "2.0.0",
    (
        _SYMBOL,
        number("bid", "item.bid", required=True, unit="quote currency", about="0 on inactive pairs"),
        number("bid_qty", "item.bid_qty", required=True, unit="base units"),
        number("ask", "item.ask", required=True, unit="quote currency", about="0 on inactive pairs"),
        number("ask_qty", "item.ask_qty", required=True, unit="base units"),
        number("last", "item.last", required=True, unit="quote currency"),
        number("volume", "item.volume", required=True, unit="base units", about="24 h"),
        number("vwap", "item.vwap", required=True, unit="quote currency", about="24 h"),
        number("high", "item.high", required=True, unit="quote currency", about="24 h"),
        number("low", "item.low", required=True, unit="quote currency", about="24 h"),
        number("change", "item.change", required=True, unit="quote currency", about="24 h"),
        number("change_pct", "item.change_pct", required=True, unit="percent", about="24 h"),
        integer("trades", "item.trades", about="24 h (since 2026)"),
        moment("timestamp", iso("item.timestamp"), about="venue's time (since 2025)"),
        _IS_SNAPSHOT,
    ),
    explode=("data",),
)

_TRADE_SCHEMA = Schema(
    "kraken_trade",
    "2.0.0",
    (
        _SYMBOL,
        text("side", "item.side", required=True, about="taker's side, buy or sell"),
        number("price", "item.price", required=True, unit="quote currency"),
        number("qty", "item.qty", required=True, unit="base units"),
        text("ord_type", "item.ord_type", required=True, about="taker's order, limit or market"),
        text("trade_id", "item.trade_id", required=True, distinct=True, about="counts up by one per symbol"),
        moment("timestamp", iso("item.timestamp"), required=True, about="venue's time"),
        _IS_SNAPSHOT,
    ),
    explode=("data",),
)

_BOOK_SCHEMA = Schema(
    "kraken_book",
    "1.0.0",
    (
        _SYMBOL,
        _IS_SNAPSHOT,
        levels_float(
            "bids", "quote currency, base units", "item.bids", about="absolute sizes, 0 removes; updates are unordered"
        ),
        levels_float(
            "asks", "quote currency, base units", "item.asks", about="absolute sizes, 0 removes; updates are unordered"
        ),
        integer("checksum", "item.checksum", about="CRC32 of the top 10 levels after the message"),
        moment("timestamp", iso("item.timestamp"), about="venue's time; on snapshots since 2026"),
    ),
    explode=("data",),
)

_INSTRUMENT_SCHEMA = Schema(
    "kraken_instrument",
    "1.0.0",
    (
        _SYMBOL,
        text("base", "item.base"),
        text("quote", "item.quote"),
        text("status", "item.status", about="online, cancel_only, post_only, limit_only, reduce_only, delisted, …"),
        integer("qty_precision", "item.qty_precision", unit="digits"),
        number("qty_increment", "item.qty_increment", unit="base units"),
        number("qty_min", "item.qty_min", unit="base units"),
        integer("price_precision", "item.price_precision", unit="digits"),
        number("price_increment", "item.price_increment", unit="quote currency"),
        number("tick_size", "item.tick_size", unit="quote currency", about="deprecated: use price_increment"),
        integer("cost_precision", "item.cost_precision", unit="digits"),
        number("cost_min", "item.cost_min", unit="quote currency"),
        integer("ws_display_price_precision", "item.ws_display_price_precision", unit="digits"),
        flag("has_index", "item.has_index"),
        flag("marginable", "item.marginable"),
        number("margin_initial", "item.margin_initial"),
        integer("position_limit_long", "item.position_limit_long"),
        integer("position_limit_short", "item.position_limit_short"),
        _IS_SNAPSHOT,
    ),
    explode=("data.pairs",),
)

_STATUS_SCHEMA = Schema(
    "kraken_status",
    "1.0.0",
    (
        text("system", "item.system", required=True, about="online, cancel_only, maintenance or post_only"),
        text("version", "item.version"),
        text("api_version", "item.api_version"),
        text("connection_id", "item.connection_id", about="unsigned, above 2^63 at times, hence text"),
        json("upcoming_maintenance", "item.upcoming_maintenance", about="since 2026-09"),
        json("emergency", "item.emergency", about="since 2026-09"),
    ),
    explode=("data",),
)

MESSAGE_TYPES: dict[str, MessageType] = {
    kind.name: kind
    for kind in (
        MessageType(
            "ticker",
            "ticker",
            _TICKER_SCHEMA,
            "Best quotes and 24 h figures; a row per element of data.",
            "timestamp",
            "symbol",
        ),
        MessageType(
            "trade",
            "trade",
            _TRADE_SCHEMA,
            "Trades; a row per trade. A snapshot repeats up to 50 of them.",
            "timestamp",
            "symbol",
        ),
        MessageType(
            "book",
            "book",
            _BOOK_SCHEMA,
            "Price levels; a row per element of data. Truncate to the subscribed depth.",
            "timestamp",
            "symbol",
        ),
        MessageType(
            "instrument",
            "instrument",
            _INSTRUMENT_SCHEMA,
            "Reference data; a row per pair. The message's assets stand in the archive only.",
        ),
        MessageType("status", "control", _STATUS_SCHEMA, "State of the trading engine, sent on connecting."),
        MessageType("heartbeat", "control", description="Sent about once a second."),
        MessageType("subscribe", "control", description="Acknowledgement or refusal, one per symbol."),
        MessageType("unsubscribe", "control", description="Acknowledgement, one per symbol."),
        MessageType("ping", "control", description="Refusal of a ping."),
        MessageType("pong", "control", description="Answer to a ping."),
    )
}
