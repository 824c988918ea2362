"""Message types and parquet schemas."""

from __future__ import annotations

from ssmd_core.feeds.base import MessageType

MESSAGE_TYPES: dict[str, MessageType] = {
    kind.name: kind
    for kind in (
        MessageType("ticker", "ticker"),
        MessageType("trade", "trade"),
        MessageType("orderbook_snapshot", "orderbook"),
        MessageType("orderbook_delta", "orderbook"),
        MessageType("market_lifecycle_v2", "lifecycle"),
        MessageType("event_lifecycle", "event_lifecycle"),
        MessageType("event_fee_update", "event_fee"),
        MessageType("subscribed", "control"),
        MessageType("unsubscribed", "control"),
        MessageType("ok", "control"),
        MessageType("error", "control"),
    )
}
