"""Polymarket: the CLOB market channel."""

from __future__ import annotations

from ssmd_core.feeds.base import Feed, Limits, Liveness, Quotes, Trades
from ssmd_core.feeds.polymarket.routing import route
from ssmd_core.feeds.polymarket.schemas import MESSAGE_TYPES

POLYMARKET = Feed(
    name="polymarket",
    display_name="Polymarket",
    websocket_urls={"prod": "wss://ws-subscriptions-clob.polymarket.com/ws/market"},
    rest_url="https://gamma-api.polymarket.com",
    auth="none",
    type_key=("event_type",),
    default_stream="markets",
    streams=("markets",),
    default_channels=("market",),
    default_instruments=(),
    message_types=MESSAGE_TYPES,
    route=route,
    # No documented cap since 2025-05; 500 tokens a connection and about ten connections an address are in use.
    limits=Limits(
        instruments_per_connection=500,
        instruments_per_command=500,
        commands_per_s=5,
        connect_spacing_s=2.0,
        acknowledges=False,
    ),
    # PONG is queued behind data and came up to 9.5 s late under load, hence the patience.
    liveness=Liveness(ping_interval_s=10, ping_text="PING", pong_timeout_s=40, data_timeout_s=120, group_timeout_s=900),
    integrity_rule="polymarket_sha1",
    quality_weight=0.2,
    trades=Trades(
        message_type="last_trade_price",
        instrument="asset_id",
        price="price",
        size="size",
        additive=True,
        event="market",
        master=("polymarket_conditions", "condition_id"),
    ),
    quotes=Quotes(
        message_type="best_bid_ask",
        instrument="asset_id",
        time="timestamp_ms",
        columns=("market", "asset_id", "best_bid", "best_ask", "spread"),
        rank="spread",
        descending=False,
    ),
)
