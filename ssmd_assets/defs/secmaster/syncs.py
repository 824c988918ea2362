"""Which syncs are assets, and how often each runs.

The list is static, because the syncs themselves import database drivers and HTTP clients, which loading the
definitions must not pay for. `tests/test_assets_secmaster.py` compares it with `ssmd_stream.secmaster.sync.tasks()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import dagster as dg

from ssmd_assets.lib.keys import identifier, secmaster_key
from ssmd_core.feeds import get
from ssmd_core.feeds.base import Feed

Mode = Literal["full", "incremental"]


@dataclass(frozen=True, slots=True)
class Sync:
    """One sync, one step.

    Attributes:
        feed, name: which; its scope is `{feed}/{name}`.
        tables: the assets that it makes. A table belongs to one sync of a feed; that markets and fees bring events
            that were missing shows in their own metadata.
        every: time between two runs by schedule.
        after: names of the feed's syncs that bring what this one refers to.
        part: SQL, rows of the tables that are this feed's.
    """

    feed: Feed
    name: str
    tables: tuple[str, ...]
    every: timedelta
    after: tuple[str, ...] = ()
    part: str = "true"

    @property
    def scope(self) -> str:
        """`{feed}/{name}`."""
        return f"{self.feed.name}/{self.name}"

    @property
    def step(self) -> str:
        """Name of Dagster's step."""
        return f"sync_{identifier(self.feed.name)}_{self.name}"

    @property
    def keys(self) -> list[dg.AssetKey]:
        """Its assets."""
        return [secmaster_key(self.feed, table) for table in self.tables]


_KALSHI, _KRAKEN, _FUTURES, _POLYMARKET = map(get, ("kalshi", "kraken", "kraken-futures", "polymarket"))
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)

SYNCS: dict[str, Sync] = {
    one.scope: one
    for one in (
        Sync(_KALSHI, "series", ("series",), _DAY),
        Sync(_KALSHI, "series_fees", ("series_fees",), _DAY, after=("series",)),
        Sync(_KALSHI, "events", ("events",), _HOUR, after=("series",)),
        Sync(_KALSHI, "markets", ("markets",), _HOUR, after=("series", "events")),
        # Both of Kraken's interfaces fill one table; what is not spot comes from the futures one.
        Sync(_KRAKEN, "pairs", ("pairs",), 6 * _HOUR, part="market_type = 'spot'"),
        Sync(_FUTURES, "pairs", ("pairs",), 6 * _HOUR, part="market_type <> 'spot'"),
        Sync(_POLYMARKET, "conditions", ("polymarket_conditions", "polymarket_tokens"), _HOUR / 2),
    )
}


@dataclass(frozen=True, slots=True)
class SyncJob:
    """Syncs that run together, in one run a tick, and when.

    Attributes:
        name: of the job.
        scopes: of the syncs.
        mode: of all of them.
        cron: UTC. No job begins at a quarter of an hour: venues open and close markets then, and slots are sealed.
        description: for the UI.
    """

    name: str
    scopes: tuple[str, ...]
    mode: Mode
    cron: str
    description: str

    @property
    def syncs(self) -> list[Sync]:
        """The syncs themselves."""
        return [SYNCS[scope] for scope in self.scopes]


JOBS: tuple[SyncJob, ...] = (
    SyncJob(
        "secmaster_kalshi_incremental",
        ("kalshi/events", "kalshi/markets"),
        "incremental",
        "7 * * * *",
        "Open events and markets of Kalshi and what has lately closed or settled; deletes nothing.",
    ),
    # Series apart from the full listing: where Kalshi's series fail, its events and markets are listed all the same.
    SyncJob(
        "secmaster_kalshi_series",
        ("kalshi/series", "kalshi/series_fees"),
        "full",
        "20 3 * * *",
        "Series of Kalshi and the changes of their fees.",
    ),
    SyncJob(
        "secmaster_kalshi_full",
        ("kalshi/events", "kalshi/markets"),
        "full",
        "40 3 * * *",
        "Every event and market that Kalshi lists; deletes what two such listings in a row do not show.",
    ),
    SyncJob(
        "secmaster_kraken",
        ("kraken/pairs", "kraken-futures/pairs"),
        "full",
        "25 */6 * * *",
        "Spot pairs of Kraken and instruments of Kraken Futures.",
    ),
    SyncJob(
        "secmaster_polymarket",
        ("polymarket/conditions",),
        "full",
        "12,42 * * * *",
        "Conditions and tokens of Polymarket.",
    ),
)
