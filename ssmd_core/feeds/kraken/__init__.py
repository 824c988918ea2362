"""Kraken spot, WebSocket v2."""

from __future__ import annotations

from ssmd_core.feeds.base import Feed, Limits, Liveness, Quotes, Trades
from ssmd_core.feeds.kraken.routing import route
from ssmd_core.feeds.kraken.schemas import MESSAGE_TYPES

KRAKEN = Feed(
    name="kraken",
    display_name="Kraken",
    websocket_urls={"prod": "wss://ws.kraken.com/v2"},
    rest_url="https://api.kraken.com/0/public",
    auth="none",
    type_key=("channel", "method"),
    default_stream="spot",
    streams=("spot",),
    default_channels=("ticker", "trade", "book", "instrument"),
    default_instruments=("BTC/USD", "ETH/USD", "SOL/USD", "XRP/USD", "DOGE/USD"),
    message_types=MESSAGE_TYPES,
    route=route,
    limits=Limits(instruments_per_connection=250, instruments_per_command=100, commands_per_s=5, connect_spacing_s=1.0),
    # Heartbeats come every second once a subscription lives; 5 s without any message is the venue's own limit, and
    # 15 s between pings because 30 s still caused dozens of restarts.
    liveness=Liveness(
        ping_interval_s=15, ping_text='{"method":"ping"}', pong_timeout_s=10, data_timeout_s=60, group_timeout_s=300
    ),
    integrity_rule="kraken_crc32",
    quality_weight=0.25,
    trades=Trades(
        message_type="trade",
        instrument="symbol",
        price="price",
        size="qty",
        additive=False,
        event="symbol",
        master=("pairs", "symbol"),
        # A subscription may begin with the last 50 trades.
        repeats="is_snapshot",
    ),
    quotes=Quotes(
        message_type="ticker",
        instrument="symbol",
        time="timestamp",
        columns=("bid", "ask", "last", "volume"),
        rank="volume",
    ),
    aliases=("kraken-spot",),
)
