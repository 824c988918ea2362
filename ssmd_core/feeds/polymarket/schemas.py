"""Message types and parquet schemas."""

from __future__ import annotations

from ssmd_core.feeds.base import MessageType

MESSAGE_TYPES: dict[str, MessageType] = {
    kind.name: kind
    for kind in (
        MessageType("book", "book"),
        MessageType("price_change", "price_change"),
        MessageType("last_trade_price", "last_trade_price"),
        MessageType("best_bid_ask", "best_bid_ask"),
        MessageType("tick_size_change", "tick_size_change"),
        MessageType("new_market", "new_market"),
        MessageType("market_resolved", "market_resolved"),
    )
}
