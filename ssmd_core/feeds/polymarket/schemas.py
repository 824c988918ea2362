"""Message types and parquet schemas.

The venue sends decimal text; prices are dollars (of pUSD) per share, sizes are shares. Token ids have 74 to 78 digits
and are text.
"""

from __future__ import annotations

from ssmd_core.feeds.base import MessageType, Schema
from ssmd_core.feeds.columns import decimal, flag, integer, json, levels_decimal, text

_MARKET = text("market", "market", required=True, about="condition id")
_ASSET = text("asset_id", "asset_id", required=True, about="token id")
_TIMESTAMP = integer("timestamp_ms", "timestamp", unit="ms since 1970", about="venue's time")
_LEVELS = "dollars, shares"

_BOOK_SCHEMA = Schema(
    "polymarket_book",
    "2.0.0",
    (
        _ASSET,
        _MARKET,
        integer("timestamp_ms", "timestamp", unit="ms since 1970", about="of the book's last change, may be hours old"),
        text("hash", "hash", distinct=True, about="SHA-1 of the whole book"),
        levels_decimal("bids", _LEVELS, "bids", "buys", about="prices ascending, the best is last"),
        levels_decimal("asks", _LEVELS, "asks", "sells", about="prices descending, the best is last"),
        json("bids_json", "bids", "buys", about="the bids as sent"),
        json("asks_json", "asks", "sells", about="the asks as sent"),
        decimal("tick_size", "dollars", "tick_size", about="on opening books"),
        decimal("min_order_size", "shares", "min_order_size"),
        flag("neg_risk", "neg_risk"),
        decimal("last_trade_price", "dollars", "last_trade_price", about="on opening books; null if never traded"),
    ),
)

_PRICE_CHANGE_SCHEMA = Schema(
    "polymarket_price_change",
    "3.0.0",
    (
        _MARKET,
        _TIMESTAMP,
        text("asset_id", "item.asset_id", "asset_id", required=True, about="token id"),
        decimal("price", "dollars", "item.price", required=True, about="price of the level"),
        decimal("size", "shares", "item.size", required=True, about="new size of the level; 0 removes it"),
        text("side", "item.side", required=True, about="BUY: bids, SELL: asks"),
        text("hash", "item.hash", "hash", distinct=True, about="SHA-1 of the token's whole book after the change"),
        decimal("best_bid", "dollars", "item.best_bid", about="after it; 0 if there is none (since 2025-09-15)"),
        decimal("best_ask", "dollars", "item.best_ask", about="after it; 1 if there is none (since 2025-09-15)"),
    ),
    # Since 2025-09-15 an array `price_changes`, before that `changes`, in 2024 one level in the message itself.
    explode=("price_changes", "changes", "."),
)

_TRADE_SCHEMA = Schema(
    "polymarket_trade",
    "3.0.0",
    (
        _ASSET,
        _MARKET,
        decimal("price", "dollars", "price", required=True),
        text("side", "side", about="BUY or SELL"),
        decimal("size", "shares", "size", required=True),
        decimal("fee_rate_bps", "basis points", "fee_rate_bps"),
        _TIMESTAMP,
        text("transaction_hash", "transaction_hash", distinct=True, about="not unique: one holds several fills (2026)"),
    ),
)

_BEST_SCHEMA = Schema(
    "polymarket_best_bid_ask",
    "3.0.0",
    (
        _MARKET,
        _ASSET,
        decimal("best_bid", "dollars", "best_bid"),
        decimal("best_ask", "dollars", "best_ask"),
        decimal("spread", "dollars", "spread"),
        _TIMESTAMP,
    ),
)

_TICK_SCHEMA = Schema(
    "polymarket_tick_size_change",
    "1.0.0",
    (
        _ASSET,
        _MARKET,
        decimal("old_tick_size", "dollars", "old_tick_size"),
        decimal("new_tick_size", "dollars", "new_tick_size"),
        text("side", "side", about="in old documentation only"),
        _TIMESTAMP,
    ),
)

_NEW_MARKET_SCHEMA = Schema(
    "polymarket_new_market",
    "1.0.0",
    (
        text("market", "market", "condition_id", required=True, about="condition id"),
        text("id", "id", about="Gamma's market id"),
        text("question", "question"),
        text("slug", "slug"),
        text("description", "description"),
        json("assets_ids", "assets_ids", "clob_token_ids", about="token ids, in the order of the outcomes"),
        json("outcomes", "outcomes"),
        json("event_message", "event_message"),
        json("tags", "tags"),
        flag("active", "active"),
        text("sports_market_type", "sports_market_type"),
        text("line", "line"),
        text("game_start_time", "game_start_time", about="e.g. 2026-10-04 14:25:00+00, or empty"),
        decimal("order_price_min_tick_size", "dollars", "order_price_min_tick_size"),
        text("group_item_title", "group_item_title"),
        text("taker_base_fee", "taker_base_fee"),
        flag("fees_enabled", "fees_enabled"),
        json("fee_schedule", "fee_schedule"),
        _TIMESTAMP,
    ),
)

_RESOLVED_SCHEMA = Schema(
    "polymarket_market_resolved",
    "1.0.0",
    (
        _MARKET,
        text("id", "id", about="Gamma's market id"),
        text("winning_asset_id", "winning_asset_id"),
        text("winning_outcome", "winning_outcome"),
        json("assets_ids", "assets_ids"),
        json("outcomes", "outcomes"),
        json("event_message", "event_message"),
        json("tags", "tags"),
        _TIMESTAMP,
    ),
)

MESSAGE_TYPES: dict[str, MessageType] = {
    kind.name: kind
    for kind in (
        MessageType("book", "book", _BOOK_SCHEMA, "A token's whole book.", instrument="asset_id"),
        MessageType(
            "price_change",
            "price_change",
            _PRICE_CHANGE_SCHEMA,
            "New sizes of price levels; a row per level. An order usually changes both tokens of a market.",
            "timestamp_ms",
            "asset_id",
        ),
        MessageType(
            "last_trade_price",
            "last_trade_price",
            _TRADE_SCHEMA,
            "A trade; it follows the price_change it caused.",
            "timestamp_ms",
            "asset_id",
        ),
        MessageType(
            "best_bid_ask", "best_bid_ask", _BEST_SCHEMA, "Best quotes of a token.", "timestamp_ms", "asset_id"
        ),
        MessageType(
            "tick_size_change",
            "tick_size_change",
            _TICK_SCHEMA,
            "A token's tick size changes near 0 and 1.",
            "timestamp_ms",
            "asset_id",
        ),
        MessageType("new_market", "new_market", _NEW_MARKET_SCHEMA, "A market opens; sent for all of them."),
        MessageType("market_resolved", "market_resolved", _RESOLVED_SCHEMA, "A market is resolved; may never come."),
    )
}
