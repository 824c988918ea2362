"""Message types and parquet schemas."""

from __future__ import annotations

from ssmd_core.feeds.base import MessageType

MESSAGE_TYPES: dict[str, MessageType] = {
    kind.name: kind
    for kind in (
        MessageType("ticker", "ticker"),
        MessageType("trade", "trade"),
        MessageType("book", "book"),
        MessageType("instrument", "instrument"),
        MessageType("status", "control"),
        MessageType("heartbeat", "control"),
        MessageType("subscribe", "control"),
        MessageType("unsubscribe", "control"),
        MessageType("ping", "control"),
        MessageType("pong", "control"),
    )
}
