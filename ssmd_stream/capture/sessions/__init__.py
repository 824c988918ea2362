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

SESSIONS: dict[str, type[Session]] = {
    "kalshi": KalshiSession,
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
    *,
    takes_all: bool = True,
) -> Callable[[], Session]:
    """What makes the session of a fresh connection. Credentials are read once, here.

    Args:
        environment: holds the credentials; None: the process's.
        takes_all: see `Session`.

    Raises:
        ConfigError: a credential is missing or cannot be used.
        UnknownFeedError: the feed has no session module.
    """
    signer = KalshiSigner.from_environment(environment) if feed.name == "kalshi" else None
    if feed.name not in SESSIONS:
        raise UnknownFeedError(f"feed {feed.name!r} has no session; known: {', '.join(SESSIONS)}")

    def make() -> Session:
        if signer is not None:
            session: Session = KalshiSession(feed, channels, options, signer, url)
        else:
            session = SESSIONS[feed.name](feed, channels, options)
        session.takes_all = takes_all
        return session

    return make
