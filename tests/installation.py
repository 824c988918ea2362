"""A little installation that many tests look at and none changes: archives, datasets, proofs, a synced security master.

The hour 11 of 2026-11-20 is there for every feed; of the hour 12 kalshi has all and is built, kraken has three slots,
kraken-futures four that nobody has built, polymarket nothing. What is built is proved, but for kraken-futures; the day
is scored and has reports, and there is a finding of drift and a reconciliation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
from little_archive import LittleArchive

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.catalog import write_catalog
from ssmd_core.datasets.coverage import Manifests
from ssmd_core.drift.findings import new_type
from ssmd_core.feeds import FEEDS, get
from ssmd_core.messages.frames import split_frame
from ssmd_core.proof.hour import prove_hour
from ssmd_core.proof.ledger import proof_file
from ssmd_core.proof.load import load_ledger
from ssmd_core.quality.collect import score_and_store
from ssmd_core.reports.diagnosis import diagnose
from ssmd_core.reports.volume import analyze_volume
from ssmd_core.reports.volume_inputs import read_volumes
from ssmd_core.settings import Settings
from ssmd_stream.drift.store import store_hour
from ssmd_stream.reconcile.report import Reconciliation
from ssmd_stream.reconcile.store import store
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
#: Built, but not proved.
NOT_PROVED = "kraken-futures"
#: Slots of the second hour, and whether it is built.
SECOND_HOUR = {"kalshi": (4, True), "kraken": (3, False), "kraken-futures": (4, False), "polymarket": (0, False)}

DRIFT = {"polymarket": [new_type("polymarket", "market_paused", int(HOUR.timestamp()) * 1_000_000, "seq:7")]}
RECONCILED = Reconciliation(
    "kraken", "spot", "BTC/USD", HOUR, HOUR + timedelta(minutes=5), "missing",
    venue_trades=10, archived_trades=9, matched=9, missing=1, match_rate=Decimal("0.9"),
    sample=[{"what": "missing", "id": "4665906", "time": "2026-11-20T11:04:00Z", "venue": "0.01", "archive": None}],
    detail="one trade of the venue is not in the archive",
)  # fmt: skip


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
    asyncio.run(_judge(data, url))
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
        if feed == NOT_PROVED:
            report = build_hour(data / "archive", data / "datasets", get(feed), stream, hour)
        else:
            report, _ = prove_hour(_settings(data, "", CLOCK), get(feed), stream, hour)
        assert report.balanced


def _settings(data: Path, url: str, clock: str) -> Settings:
    return Settings.from_environment({"SSMD_DATA": str(data), "DATABASE_URL": url, "SSMD_CLOCK": clock})


async def _judge(data: Path, url: str) -> None:
    """Ledgers, scores, drift, a reconciliation, and reports into the database."""
    settings = _settings(data, url, CLOCK)
    now = datetime.fromtimestamp(settings.clock.now_ns() // NS_PER_S, UTC)
    manifests = Manifests(settings.archive_root, settings.dataset_root)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for feed in FEEDS.values():
            for stream in feed.streams:
                for hour in (HOUR, HOUR + timedelta(hours=1)):
                    if await load_ledger(connection, settings.proof_root, feed.name, stream, hour, now=now):
                        shapes = proof_file(settings.proof_root, feed.name, stream, hour, "shapes")
                        await store_hour(
                            connection, feed.name, stream, hour, shapes.read_bytes(), DRIFT.get(feed.name, ())
                        )
        await score_and_store(connection, manifests, DAY, now)
        await store(connection, [RECONCILED], now)
        await diagnose(connection, DAY, model=None)
        await analyze_volume(connection, DAY, read_volumes(manifests, DAY, now), model=None)


async def _sync(data: Path, url: str) -> None:
    clock = Clock.parse(SYNC_CLOCK)
    settings = _settings(data, url, SYNC_CLOCK)
    for feed in FEEDS.values():
        async with ReplayServer(feed, Generated(seed=SEED, limit=1), clock=clock) as server:
            for scope, task in tasks().items():
                if task.feed == feed.name:
                    await run_sync(scope, settings, rest_url=server.rest_url)
