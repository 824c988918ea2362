"""A little installation that many tests look at and none changes: archives, datasets, a synced security master.

The hour 11 of 2026-11-20 is there for every feed; of the hour 12 kalshi has all and is built, kraken has three slots,
kraken-futures four that nobody has built, polymarket nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
from little_archive import LittleArchive

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.catalog import write_catalog
from ssmd_core.feeds import FEEDS, get
from ssmd_core.messages.frames import split_frame
from ssmd_core.settings import Settings
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.secmaster.sync import run_sync, tasks
from ssmd_stream.servers.postgres import PostgresServer

DAY = date(2026, 11, 20)
HOUR = datetime(2026, 11, 20, 11, tzinfo=UTC)
SEED = 20_261_120
#: When the venues were asked what exists, and when the API starts: so `as_of` 13:15 and later finds all of it.
SYNC_CLOCK = "2026-11-20T13:10:00Z"
CLOCK = "2026-11-20T13:20:00Z"
FRAMES_PER_SLOT = 150
#: Slots of the second hour, and whether it is built.
SECOND_HOUR = {"kalshi": (4, True), "kraken": (3, False), "kraken-futures": (4, False), "polymarket": (0, False)}


@dataclass(frozen=True, slots=True)
class Installation:
    """What there is.

    Attributes:
        data: data folder.
        database_url: of a database that is nobody's to change; `copy` gives one that is.
    """

    data: Path
    database_url: str
    database: str
    postgres: PostgresServer

    @contextmanager
    def copy(self, name: str) -> Iterator[str]:
        """URL of a copy of the database."""
        with psycopg.connect(self.postgres.url_of("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {self.database} STRATEGY FILE_COPY".encode())
            try:
                yield self.postgres.url_of(name)
            finally:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def install(data: Path, postgres: PostgresServer) -> Installation:
    """Make it."""
    database = "installed"
    with psycopg.connect(postgres.url_of("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {database} TEMPLATE migrated STRATEGY FILE_COPY".encode())
    url = postgres.url_of(database)
    for feed in FEEDS.values():
        for stream in feed.streams:
            _capture(data, feed.name, stream)
    write_catalog(data / "datasets")
    asyncio.run(_sync(data, url))
    return Installation(data, url, database, postgres)


def _capture(data: Path, feed: str, stream: str) -> None:
    archive = LittleArchive(data / "archive", feed, stream)
    slots, built = SECOND_HOUR[feed]
    frames = generate_frames(feed, FRAMES_PER_SLOT * (4 + slots), seed=SEED, start_ns=int(HOUR.timestamp()) * NS_PER_S)
    for slot in range(4 + slots):
        part = frames[slot * FRAMES_PER_SLOT : (slot + 1) * FRAMES_PER_SLOT]
        archive.seal(HOUR + timedelta(minutes=15 * slot), [message for frame in part for message in split_frame(frame)])
    hours = [HOUR, HOUR + timedelta(hours=1)] if built else [HOUR]
    for hour in hours:
        report = build_hour(data / "archive", data / "datasets", get(feed), stream, hour)
        assert report.balanced


async def _sync(data: Path, url: str) -> None:
    clock = Clock.parse(SYNC_CLOCK)
    settings = Settings.from_environment({"SSMD_DATA": str(data), "DATABASE_URL": url, "SSMD_CLOCK": SYNC_CLOCK})
    for feed in FEEDS.values():
        async with ReplayServer(feed, Generated(seed=SEED, limit=1), clock=clock) as server:
            for scope, task in tasks().items():
                if task.feed == feed.name:
                    await run_sync(scope, settings, rest_url=server.rest_url)
