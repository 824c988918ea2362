"""Kraken Futures, WebSocket v1."""

from __future__ import annotations

from ssmd_core.feeds.base import Feed, Limits, Liveness, Quotes, Trades
from ssmd_core.feeds.kraken_futures.routing import route
from ssmd_core.feeds.kraken_futures.schemas import MESSAGE_TYPES

KRAKEN_FUTURES = Feed(
    name="kraken-futures",
    display_name="Kraken Futures",
    websocket_urls={
        "prod": "wss://futures.kraken.com/ws/v1",
        "demo": "wss://demo-futures.kraken.com/ws/v1",
    },
    rest_url="https://futures.kraken.com/derivatives/api/v3",
    auth="none",
    type_key=("event", "feed"),
    default_stream="futures",
    streams=("futures",),
    default_channels=("ticker", "trade", "book", "ticker_lite"),
    default_instruments=("PF_XBTUSD", "PF_ETHUSD", "PF_SOLUSD", "PF_XRPUSD"),
    message_types=MESSAGE_TYPES,
    route=route,
    limits=Limits(instruments_per_connection=500, instruments_per_command=100, commands_per_s=50),
    liveness=Liveness(ping_interval_s=15, ping_text=None, pong_timeout_s=45, data_timeout_s=60, group_timeout_s=300),
    integrity_rule="kraken_futures_seq",
    quality_weight=0.2,
    trades=Trades(
        message_type="trade",
        instrument="product_id",
        price="price",
        size="qty",
        additive=False,
        event="product_id",
        master=("pairs", "native_id"),
    ),
    quotes=Quotes(
        message_type="ticker",
        instrument="product_id",
        time="time",
        columns=("bid", "ask", "last", "volume", "funding_rate", "mark_price"),
        rank="volume",
    ),
)
