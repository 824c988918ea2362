"""Kalshi: a regulated exchange of event contracts."""

from __future__ import annotations

from ssmd_core.feeds.base import Feed, Limits, Liveness, Quotes, Trades
from ssmd_core.feeds.kalshi.routing import route
from ssmd_core.feeds.kalshi.schemas import MESSAGE_TYPES

KALSHI = Feed(
    name="kalshi",
    display_name="Kalshi",
    websocket_urls={
        "prod": "wss://external-api-ws.kalshi.com/trade-api/ws/v2",
        "demo": "wss://external-api-ws.demo.kalshi.co/trade-api/ws/v2",
    },
    rest_url="https://external-api.kalshi.com/trade-api/v2",
    auth="kalshi_rsa_pss",
    type_key=("type",),
    default_stream="all",
    streams=("crypto",),
    default_channels=("ticker", "trade", "market_lifecycle_v2"),
    default_instruments=(),
    message_types=MESSAGE_TYPES,
    route=route,
    # 200 connections a user and 10,000 commands/s are the venue's limits; 256 markets a command is measured caution.
    # Fifty connections leave room for other streams of the same user.
    limits=Limits(instruments_per_connection=10_000, instruments_per_command=256, commands_per_s=20, connections=50),
    # The server pings every 10 s; quiet markets may be silent for minutes, so data is watched more patiently.
    liveness=Liveness(ping_interval_s=10, ping_text=None, pong_timeout_s=30, data_timeout_s=300, group_timeout_s=900),
    integrity_rule="kalshi_seq",
    quality_weight=0.35,
    trades=Trades(
        message_type="trade",
        instrument="market_ticker",
        price="price",
        size="count",
        additive=True,
        # A market's ticker is its event's and one more part: KXBTCD-26FEB28-T105249.99.
        event="market_ticker",
        event_parts=2,
        master=("events", "event_ticker"),
    ),
    quotes=Quotes(
        message_type="ticker",
        instrument="market_ticker",
        time="ts",
        columns=("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price", "volume", "open_interest", "ts"),
        rank="volume",
    ),
)
