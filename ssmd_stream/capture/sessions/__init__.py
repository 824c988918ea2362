"""One session per venue: its WebSocket protocol without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ssmd_core.errors import UnknownFeedError
from ssmd_core.feeds.base import Feed
from ssmd_stream.capture.sessions.base import Session
from ssmd_stream.capture.sessions.kalshi import KalshiSession, KalshiSigner
from ssmd_stream.capture.sessions.kraken import KrakenSession
from ssmd_stream.capture.sessions.kraken_futures import KrakenFuturesSession
from ssmd_stream.capture.sessions.polymarket import PolymarketSession

_SESSIONS: dict[str, type[Session]] = {
    "kraken": KrakenSession,
    "kraken-futures": KrakenFuturesSession,
    "polymarket": PolymarketSession,
}


def session_factory(
    feed: Feed,
    channels: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    url: str,
    environment: Mapping[str, str] | None = None,
) -> Callable[[], Session]:
    """What makes the session of a fresh connection. Credentials are read once, here.

    Raises:
        ConfigError: a credential is missing or cannot be used.
        UnknownFeedError: the feed has no session module.
    """
    if feed.name == "kalshi":
        signer = KalshiSigner.from_environment(environment)
        return lambda: KalshiSession(feed, channels, options, signer, url)
    try:
        make = _SESSIONS[feed.name]
    except KeyError:
        raise UnknownFeedError(f"feed {feed.name!r} has no session; known: kalshi, {', '.join(_SESSIONS)}") from None
    return lambda: make(feed, channels, options)
