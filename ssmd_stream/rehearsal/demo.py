"""`ssmd demo`: four generated venues through everything, in the hour that is just over, and proof of it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ssmd_core import config
from ssmd_core.archive.paths import SLOT_FILE, hour_key
from ssmd_core.archive.verify import verify_archive
from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.datasets.manifest import load_parquet_manifest
from ssmd_core.datasets.verify import verify_datasets
from ssmd_core.db.connect import now_of
from ssmd_core.db.migrate import migrate
from ssmd_core.feeds import FEEDS
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.proof.hour import archived_hours, prove_hour
from ssmd_core.settings import Settings
from ssmd_stream.rehearsal.compare import Comparison, compare
from ssmd_stream.rehearsal.quality import QualityResult, quality_of
from ssmd_stream.rehearsal.rehearse import past_hour, wait_until_read
from ssmd_stream.rehearsal.rig import Daemon, Rig
from ssmd_stream.rehearsal.secmaster import SecmasterResult, sync_again
from ssmd_stream.replay.generator.frames import ALL_CHANNELS
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.replay.venues.kalshi import ClientKey, make_test_key
from ssmd_stream.servers.postgres import PostgresServer
from ssmd_stream.servers.stack import ServerUrls
from ssmd_stream.stack import dagster_home

MARKER = ".ssmd-demo"
ENV = "demo"
FRAMES_PER_S = 1_000.0
SEED = 20_261_122
# Starting nine processes on two cores takes up to so long; the clock runs meanwhile, so it starts before the hour.
START_S = 10.0
# After the hour's end connections stay open for so long: an hour that is not watched to its end is not complete.
AFTER_S = 1.0
# Drained and sealed, the clock has run on for an hour or two at the most; it must not overtake the real one.
HOURS_AGO = 3
DAGSTER_S = 300.0
SECMASTER = "group:secmaster"
DATASETS = f"* and not {SECMASTER} and not group:storage and not group:quality"


@dataclass
class FeedResult:
    """One feed's line of the table.

    Attributes:
        stream: `{feed}/{stream}`.
        sent: frames the venue sent.
        captured: messages that JetStream acknowledged, ssmd's own events left out.
        archived: messages in sealed files, likewise.
        rejected: messages that break their schema.
        lost, duplicated: against the frames sent; anything altered counts as lost.
        rows: parquet rows.
        archive_files, parquet_files: how many.
    """

    stream: str
    sent: int
    captured: int
    archived: int
    rejected: int
    lost: int
    duplicated: int
    rows: int
    archive_files: int
    parquet_files: int


@dataclass
class DemoResult:
    """What the demo saw; `problems` is empty if everything holds."""

    hour: str
    feeds: list[FeedResult] = field(default_factory=list)
    secmaster: SecmasterResult | None = None
    quality: QualityResult | None = None
    problems: list[str] = field(default_factory=list)
    total_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Everything that was sent is there, once, the files prove it, and a second sync found nothing to do."""
        whole = all(feed.lost == 0 and feed.duplicated == 0 for feed in self.feeds)
        synced = self.secmaster is not None and self.secmaster.quiet
        return not self.problems and whole and synced and self.quality is not None and not self.quality.problems


async def run_demo(data: Path, seconds: float, progress: Callable[[str], None]) -> DemoResult:
    """Run it on an empty folder.

    Args:
        seconds: how long the hour lasts: the clock is sped up so much.

    Raises:
        SsmdError: a process did not come up or stood still.
    """
    started_s = time.monotonic()
    hour = past_hour(datetime.now(UTC)) - timedelta(hours=HOURS_AGO)
    data.mkdir(parents=True)
    (data / MARKER).touch()
    rate = 3600 / seconds
    clock = Clock((int(hour.timestamp()) - int(START_S * rate)) * NS_PER_S, rate=rate)
    names = [StreamName(ENV, feed, stream) for feed in FEEDS.values() for stream in feed.streams]
    key = make_test_key()
    result = DemoResult(hour_key(hour))
    async with _postgres(data) as postgres, Rig(data, env=ENV, clock=clock) as rig, AsyncExitStack() as venues:
        await asyncio.to_thread(migrate, postgres.url)
        rig.database_url = postgres.url
        progress("NATS and Postgres are up; starting four venues, four connectors, the archiver and CDC")
        cdc = rig.start_other("cdc", ["-m", "ssmd_stream.cdc"])
        servers = {}
        traffic = {name.folder: Generated(seed=SEED, frames_per_s=FRAMES_PER_S) for name in names}
        for name in names:
            server = _venue(data, name, traffic[name.folder], clock, key)
            servers[name.folder] = await venues.enter_async_context(server)
            _connect(rig, name, server, hour, key)
        archiver = rig.start_archiver(names)
        await asyncio.gather(*(rig.wait_until_up(daemon) for daemon in rig.daemons))
        progress(f"capturing for some {seconds + AFTER_S:.0f} s, in which the clock runs through {hour_key(hour)}")
        await _talk_until(clock, hour + timedelta(hours=1), traffic.values())
        await asyncio.gather(*(server.finished() for server in servers.values()))
        await asyncio.gather(
            *(wait_until_read(rig, rig.connectors[folder], server) for folder, server in servers.items())
        )
        progress("draining and sealing")
        codes = await asyncio.gather(*(daemon.stop() for daemon in rig.connectors.values()))
        for daemon, code in zip(rig.connectors.values(), codes, strict=True):
            result.problems += _ended(daemon, code)
        captured = {name.folder: await rig.captured(name) for name in names}
        await rig.seal(names)
        await rig.wait_until_archived(names)
        result.problems += _ended(archiver, await archiver.stop())
        progress("Dagster builds and proves the hour, and the security master from what the venues list")
        # A market that closes by the clock between two syncs would be a change.
        clock.stop()
        environment = _dagster_environment(data, postgres, clock)
        await asyncio.to_thread(_prove_before, Settings.from_environment(environment), names, hour)
        result.problems += await _materialize(data, environment, "datasets", DATASETS, hour_key(hour))
        result.problems += await _materialize(data, environment, "secmaster", SECMASTER)
        progress("syncing all four venues once more, which must write nothing")
        settings = Settings.from_environment(environment | {"NATS_URL": rig.nats.url})
        result.secmaster = await sync_again(settings)
        progress("scoring the hour, checking its signed ledgers, diagnosing")
        result.quality = await quality_of(settings, names, hour)
        result.problems += _ended(cdc, await cdc.stop())
    progress("comparing with what the venues sent, and deriving every file again")
    for name in names:
        compared = await asyncio.to_thread(compare, _sent_log(data, name), data / "archive" / name.folder)
        result.feeds.append(_feed_result(data, name, hour, compared, captured[name.folder]))
    result.problems += await asyncio.to_thread(_verified, data)
    result.total_s = time.monotonic() - started_s
    return result


def _ended(daemon: Daemon, code: int) -> list[str]:
    """What is wrong with how a daemon ended."""
    return [f"{daemon.name} ended with code {code}; see {daemon.log_path}"] if code else []


def _venue(data: Path, name: StreamName, traffic: Generated, clock: Clock, key: ClientKey) -> ReplayServer:
    return ReplayServer(
        name.feed,
        traffic,
        sent_log=_sent_log(data, name),
        key=key if name.feed.auth == "kalshi_rsa_pss" else None,
        clock=clock,
    )


def _connect(rig: Rig, name: StreamName, server: ReplayServer, hour: datetime, key: ClientKey) -> None:
    """Start a connector on a venue that has started."""
    # Dagster's syncs and the connectors find the venue where feed.yaml says.
    config.create_feed(rig.data / "config", name.feed, hour.date(), server.url, server.rest_url)
    rig.start_connector(
        name,
        url=server.url,
        rest_url=server.rest_url,
        # Polymarket's connector finds its tokens over REST, as it does against the real venue.
        instruments=() if name.feed.name == "polymarket" else server.instruments,
        channels=ALL_CHANNELS[name.feed.name],
        secrets={"KALSHI_API_KEY": key.access_key, "KALSHI_PRIVATE_KEY": key.private_pem},
    )


async def _talk_until(clock: Clock, moment: datetime, traffic: Iterable[Generated]) -> None:
    """Let the venues talk until a little after the clock shows a moment."""
    while now_of(clock) < moment:
        await asyncio.sleep(0.05)
    await asyncio.sleep(AFTER_S)
    for source in traffic:
        source.limit = 0


def _prove_before(settings: Settings, names: Sequence[StreamName], hour: datetime) -> None:
    """Prove what was captured before the hour: its connections were opened, and its books began, then."""
    for name in names:
        for earlier in archived_hours(settings.archive_root, name.feed.name, name.stream):
            if earlier < hour:
                prove_hour(settings, name.feed, name.stream, earlier)


def _verified(data: Path) -> list[str]:
    """What does not hold when every file is derived again."""
    archive = verify_archive(data / "archive")
    datasets = verify_datasets(data / "datasets", data / "archive")
    return [*archive.problems, *datasets.problems]


def _sent_log(data: Path, name: StreamName) -> Path:
    return data / "sent" / f"{name.feed.name}.log"


def _feed_result(data: Path, name: StreamName, hour: datetime, compared: Comparison, captured: int) -> FeedResult:
    day = f"{hour:%Y-%m-%d}"
    manifest = load_parquet_manifest(data / "datasets" / name.folder / day)
    stats = manifest.hours.get(f"{hour:%H}00") if manifest else None
    archive_day = data / "archive" / name.folder / day
    return FeedResult(
        stream=name.folder,
        sent=compared.frames_served,
        captured=captured,
        archived=compared.messages_archived,
        rejected=sum(stats.rejects.values()) if stats else 0,
        lost=compared.lost + compared.gap_messages + compared.altered,
        duplicated=compared.duplicated,
        rows=sum(stats.records_written.values()) if stats else 0,
        archive_files=sum(1 for path in archive_day.iterdir() if SLOT_FILE.match(path.name)),
        parquet_files=sum(file.hour == f"{hour:%H}00" for file in manifest.files) if manifest else 0,
    )


@asynccontextmanager
async def _postgres(data: Path) -> AsyncIterator[PostgresServer]:
    """The Postgres that `ssmd up` starts on this folder, so that the UI shows the demo's runs later."""
    server = PostgresServer(data / "servers" / PostgresServer.name, port=None)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def _dagster_environment(data: Path, postgres: PostgresServer, clock: Clock) -> dict[str, str]:
    urls = ServerUrls("", "", postgres.url_of("ssmd"), postgres.url_of("dagster"), "")
    own = {"SSMD_DATA": str(data), "SSMD_ENV": ENV, "SSMD_CLOCK": clock.shared_text()}
    return {**os.environ, **urls.environment(), **own, "DAGSTER_HOME": str(dagster_home(data))}


async def _materialize(
    data: Path, environment: Mapping[str, str], name: str, selection: str, partition: str = ""
) -> list[str]:
    """Let Dagster make assets in one run, as a person would from a shell; returns problems."""
    log_path = data / "logs" / f"dagster-{name}.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "dagster", "asset", "materialize", "-m", "ssmd_assets.definitions", "--select", selection),
            *(("--partition", partition) if partition else ()),
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            code = await asyncio.wait_for(process.wait(), DAGSTER_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            return [f"Dagster did not finish {name} in {DAGSTER_S:.0f} s; see {log_path}"]
    return [f"dagster asset materialize of {name} ended with code {code}; see {log_path}"] if code else []
