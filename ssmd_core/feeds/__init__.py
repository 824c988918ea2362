"""The registry of feeds: one place, read by every other part."""

from __future__ import annotations

from ssmd_core.errors import UnknownFeedError
from ssmd_core.feeds.base import Feed
from ssmd_core.feeds.kalshi import KALSHI
from ssmd_core.feeds.kraken import KRAKEN
from ssmd_core.feeds.kraken_futures import KRAKEN_FUTURES
from ssmd_core.feeds.polymarket import POLYMARKET

FEEDS: dict[str, Feed] = {feed.name: feed for feed in (KALSHI, KRAKEN, KRAKEN_FUTURES, POLYMARKET)}
_BY_NAME: dict[str, Feed] = FEEDS | {alias: feed for feed in FEEDS.values() for alias in feed.aliases}


def get(name: str) -> Feed:
    """The feed with this name or alias.

    Raises:
        UnknownFeedError: there is none.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownFeedError(f"unknown feed {name!r}; known: {', '.join(sorted(FEEDS))}") from None
