"""Which session and which exchange belong to a feed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from ssmd_core.errors import ConfigError, UnknownFeedError
from ssmd_stream.replay.generator.kalshi import KalshiExchange
from ssmd_stream.replay.generator.kalshi_calendar import ScheduledMarket
from ssmd_stream.replay.generator.kraken import KrakenExchange
from ssmd_stream.replay.generator.kraken_futures import KrakenFuturesExchange
from ssmd_stream.replay.generator.polymarket import PolymarketExchange
from ssmd_stream.replay.protocol import Exchange, Session
from ssmd_stream.replay.venues.kalshi import KalshiSession
from ssmd_stream.replay.venues.kraken import KrakenSession
from ssmd_stream.replay.venues.kraken_futures import KrakenFuturesSession
from ssmd_stream.replay.venues.polymarket import PolymarketSession


def make_exchange(
    feed: str, seed: int, now_ns: Callable[[], int], markets: int = 8, calendar: Sequence[ScheduledMarket] = ()
) -> Exchange:
    """A seeded market of the feed; `markets` counts Kalshi's and Polymarket's, the others have a fixed list.

    Args:
        calendar: Kalshi only: markets that open and close by the clock.

    Raises:
        UnknownFeedError: no venue of this name can be played.
    """
    match feed:
        case "kalshi":
            return KalshiExchange(seed, now_ns, markets, calendar)
        case "kraken":
            return KrakenExchange(seed, now_ns)
        case "kraken-futures":
            return KrakenFuturesExchange(seed, now_ns)
        case "polymarket":
            return PolymarketExchange(seed, now_ns, markets)
    raise UnknownFeedError(f"no venue to play for feed {feed!r}")


def make_session(
    feed: str, exchange: Exchange | None, now_ns: Callable[[], int], refuses: Callable[[str], bool]
) -> Session:
    """The venue's end of one connection.

    Raises:
        UnknownFeedError: no venue of this name can be played.
        ConfigError: the exchange is another venue's.
    """
    match feed, exchange:
        case "kalshi", None | KalshiExchange():
            return KalshiSession(exchange, now_ns, refuses)
        case "kraken", None | KrakenExchange():
            return KrakenSession(exchange, now_ns, refuses)
        case "kraken-futures", None | KrakenFuturesExchange():
            return KrakenFuturesSession(exchange, now_ns, refuses)
        case "polymarket", None | PolymarketExchange():
            return PolymarketSession(exchange, now_ns, refuses)
        case "kalshi" | "kraken" | "kraken-futures" | "polymarket", _:
            raise ConfigError(f"{type(exchange).__name__} is not an exchange of feed {feed!r}")
    raise UnknownFeedError(f"no venue to play for feed {feed!r}")


def subscribe_commands(feed: str, channels: Sequence[str], instruments: Sequence[str]) -> list[bytes]:
    """What a client sends to subscribe to these channels of these instruments."""
    ids = list(instruments)
    match feed:
        case "kalshi":
            return [
                orjson.dumps(
                    {
                        "id": number,
                        "cmd": "subscribe",
                        "params": {"channels": [channel]}
                        | ({} if channel == "market_lifecycle_v2" else {"market_tickers": ids}),
                    }
                )
                for number, channel in enumerate(channels, 1)
            ]
        case "kraken":
            return [
                orjson.dumps(
                    {
                        "method": "subscribe",
                        "params": {"channel": channel} | ({} if channel == "instrument" else {"symbol": ids}),
                        "req_id": number,
                    }
                )
                for number, channel in enumerate(channels, 1)
            ]
        case "kraken-futures":
            return [orjson.dumps({"event": "subscribe", "feed": each, "product_ids": ids}) for each in channels]
        case "polymarket":
            return [
                orjson.dumps(
                    {"type": "market", "assets_ids": ids, "custom_feature_enabled": True, "initial_dump": True}
                )
            ]
    raise UnknownFeedError(f"no venue to play for feed {feed!r}")
