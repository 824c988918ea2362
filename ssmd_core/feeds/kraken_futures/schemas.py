"""Message types and parquet schemas."""

from __future__ import annotations

from ssmd_core.feeds.base import MessageType

MESSAGE_TYPES: dict[str, MessageType] = {
    kind.name: kind
    for kind in (
        MessageType("ticker", "ticker"),
        MessageType("ticker_lite", "ticker"),
        MessageType("trade", "trade"),
        MessageType("trade_snapshot", "trade"),
        MessageType("book", "book"),
        MessageType("book_snapshot", "book"),
        MessageType("heartbeat", "control"),
        MessageType("info", "control"),
        MessageType("subscribed", "control"),
        MessageType("subscribed_failed", "control"),
        MessageType("unsubscribed", "control"),
        MessageType("unsubscribed_failed", "control"),
        MessageType("alert", "control"),
        MessageType("error", "control"),
        MessageType("challenge", "control"),
    )
}
