"""Which feed a row of the security master belongs to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ssmd_core.secmaster.selections import Selection

KALSHI = ("kalshi",)
KRAKEN = ("kraken", "kraken-futures")
POLYMARKET = ("polymarket",)

#: Feeds of which a table holds rows.
FEEDS_OF: dict[str, tuple[str, ...]] = {
    "series": KALSHI,
    "events": KALSHI,
    "markets": KALSHI,
    "series_fees": KALSHI,
    "pairs": KRAKEN,
    "polymarket_conditions": POLYMARKET,
    "polymarket_tokens": POLYMARKET,
}
#: A pair's feed, by its market type.
PAIR_FEEDS = {"spot": "kraken", "perpetual": "kraken-futures", "future": "kraken-futures"}


def market_types_of(feeds: Collection[str]) -> tuple[str, ...]:
    """Market types of the pairs that belong to the feeds."""
    return tuple(kind for kind, feed in PAIR_FEEDS.items() if feed in feeds)


def within(table: str, selection: Selection, feeds: Collection[str]) -> Selection:
    """The selection, without the pairs of other feeds."""
    if table != "pairs" or set(KRAKEN) <= set(feeds):
        return selection
    return replace(selection, market_types=market_types_of(feeds))
