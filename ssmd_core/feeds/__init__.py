"""The registry of feeds: one place, read by every other part."""

from __future__ import annotations

from ssmd_core.errors import ConfigError, UnknownFeedError
from ssmd_core.feeds.base import Feed
from ssmd_core.feeds.kalshi import KALSHI
from ssmd_core.feeds.kraken import KRAKEN
from ssmd_core.feeds.kraken_futures import KRAKEN_FUTURES
from ssmd_core.feeds.polymarket import POLYMARKET
from ssmd_core.feeds.subjects import StreamName

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


def parse_stream(text: str, env: str) -> StreamName:
    """`FEED/STREAM` as a stream of the environment.

    Raises:
        ConfigError: not of this form, or no such feed.
    """
    feed_name, separator, stream = text.partition("/")
    if not separator:
        raise ConfigError(f"{text!r} is not FEED/STREAM, e.g. kraken/spot")
    return StreamName(env, get(feed_name), stream)
