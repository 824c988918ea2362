"""`ssmd rehearse`: play recordings through everything, kill what is asked for, and count what came out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import structlog

from ssmd_core.archive.verify import day_folders, verify_archive
from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.datasets.build import HourReport, build_hour
from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.feeds.base import Feed
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.frames import split_frame
from ssmd_stream.rehearsal.compare import compare
from ssmd_stream.rehearsal.rig import Daemon, Rig
from ssmd_stream.replay.recording import RecordedFrame, Recording
from ssmd_stream.replay.server import DEFAULT_PACE, ReplayServer
from ssmd_stream.replay.venues.kalshi import make_test_key

log = structlog.get_logger()

Target = Literal["connector", "archiver", "nats"]
TARGETS: tuple[Target, ...] = ("connector", "archiver", "nats")
ENV = "rehearsal"
# The connector has read everything once its frame count has stood still for so long.
QUIET_S = 1.0
# A killed connector is back after one to two seconds.
S_PER_KILL = 2.0
MIN_PACE = 200.0
MAX_WAIT_S = 600.0
# A recording at its own speed may be quiet for a while.
STANDSTILL_S = 300.0


@dataclass
class Report:
    """What a rehearsal saw; see `Comparison` for the counts.

    Attributes:
        unparsed: archived messages without a type.
        rejects: messages that break their type's schema.
        rows: rows by message type.
        no_schema: archived messages of types without a dataset.
        gap_messages: what died on the socket with the connector (only with `--kill connector`).
        kills: how often each process was killed.
        verified: whether `verify` holds on the archive; `problems` says what does not.
        seconds: from the first frame to everything archived.
        frames_per_s: frames served over these seconds.
        out: the data folder.
    """

    frames_served: int = 0
    messages_expected: int = 0
    messages_archived: int = 0
    lost: int = 0
    duplicated: int = 0
    altered: int = 0
    unparsed: int = 0
    rejects: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    no_schema: dict[str, int] = field(default_factory=dict)
    gap_messages: int = 0
    gaps: list[str] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=dict)
    verified: bool = False
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    frames_per_s: int = 0
    out: str = ""

    @property
    def passed(self) -> bool:
        """Nothing lost, nothing twice, nothing altered, and the archive proves it."""
        return not (self.lost or self.duplicated or self.altered) and self.verified

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "passed": self.passed}


def parse_kills(texts: Sequence[str]) -> dict[Target, int]:
    """`["archiver:5", …]` as counts.

    Raises:
        ConfigError: not TARGET:N.
    """
    kills: dict[Target, int] = {}
    for text in texts:
        name, _, count = text.partition(":")
        target = next((known for known in TARGETS if known == name), None)
        if target is None or not count.isdigit():
            raise ConfigError(f"--kill {text!r} is not one of {', '.join(TARGETS)} with a count, e.g. archiver:5")
        kills[target] = kills.get(target, 0) + int(count)
    return kills


def past_hour(now: datetime) -> datetime:
    """The hour that is over by now: a rehearsal plays it, so that its partition exists."""
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


async def rehearse(
    feed: Feed,
    stream: str,
    files: Sequence[Path],
    out: Path,
    *,
    speed: float | None = None,
    kills: Mapping[Target, int] | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Play `files` through replay, connector, NATS and archiver; seal, build parquet, compare.

    Args:
        out: data folder, must be empty or absent.
        speed: see `ReplayServer`.
        kills: SIGKILLs by process, at random moments chosen by `seed`, each followed by a restart.
        progress: told what is going on.

    Raises:
        ConfigError: a file or the folder cannot be used.
        SsmdError: a process did not come up or stood still.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty")
    for path in files:
        if not path.is_file():
            raise ConfigError(f"{path} is not a file")
    frames, instruments, channels = _survey(feed, files)
    if not frames:
        raise ConfigError(f"no frames in {', '.join(map(str, files))}")
    hour = past_hour(datetime.now(UTC))
    clock = Clock(int(hour.timestamp()) * NS_PER_S)
    name = StreamName(ENV, feed, stream)
    report = Report(out=str(out))
    sent_log = out / "sent.log"
    key = make_test_key() if feed.auth == "kalshi_rsa_pss" else None
    secrets = {"KALSHI_API_KEY": key.access_key, "KALSHI_PRIVATE_KEY": key.private_pem} if key else {}
    recording = Recording.from_files(files)
    pace = DEFAULT_PACE
    if kills and speed is None:
        # At full speed everything is sent before the second kill: spread the frames so that each kill meets traffic.
        recording, speed = Recording(_Untimed(recording)), 1.0
        pace = max(frames / (S_PER_KILL * sum(kills.values())), MIN_PACE)
    server = ReplayServer(feed, recording, speed=speed, frames_per_s=pace, sent_log=sent_log, key=key)
    async with Rig(out, env=ENV, clock=clock) as rig, server:
        started_s = time.monotonic()
        archiver = rig.start_archiver([name])
        connector = rig.start_connector(
            name, url=server.url, rest_url=server.rest_url, instruments=instruments, channels=channels, secrets=secrets
        )
        await asyncio.gather(rig.wait_until_up(archiver), rig.wait_until_up(connector))
        progress(f"playing {frames} frames")
        killer = asyncio.create_task(_kill(rig, connector, archiver, server, frames, kills or {}, seed, report))
        try:
            await _finished(server, connector)
            await killer
        finally:
            killer.cancel()
        await wait_until_read(rig, connector, server)
        progress("draining")
        code = await connector.stop()
        if code != 0:
            report.problems.append(f"the connector ended with code {code}; see {connector.log_path}")
        await rig.seal([name])
        await rig.wait_until_archived([name])
        report.seconds = round(time.monotonic() - started_s, 2)
        code = await archiver.stop()
        if code != 0:
            report.problems.append(f"the archiver ended with code {code}; see {archiver.log_path}")
        server.flush_log()
    progress("comparing")
    _judge(report, rig, name, sent_log, (kills or {}).get("connector", 0))
    return report


def judge_gaps(report: Report, connector_kills: int) -> None:
    """Excuse what died with a killed connector, and nothing else: without a kill a missing end is a loss."""
    if not connector_kills:
        report.lost, report.gap_messages = report.lost + report.gap_messages, 0
    elif len(report.gaps) > connector_kills:
        report.problems.append(f"{len(report.gaps)} connections end in a gap after {connector_kills} kills")
        report.verified = False


def _judge(report: Report, rig: Rig, name: StreamName, sent_log: Path, connector_kills: int) -> None:
    """Compare what was sent with the archive, derive its manifests again, build its hours."""
    for counted, value in asdict(compare(sent_log, rig.archive_root / name.folder)).items():
        setattr(report, counted, value)
    judge_gaps(report, connector_kills)
    report.frames_per_s = int(report.frames_served / report.seconds) if report.seconds else 0
    checked = verify_archive(rig.archive_root)
    report.problems += checked.problems
    for built in _build(rig, name.feed, name.stream):
        _add_hour(report, built)
    report.verified = not report.problems and not checked.lost


class _Untimed:
    """The frames of a recording without their receive times, so that they are played at a steady pace."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def __iter__(self) -> Iterator[RecordedFrame]:
        for frame in self._recording:
            yield RecordedFrame(frame.payload, None)


def _survey(feed: Feed, files: Sequence[Path]) -> tuple[int, list[str], list[str]]:
    """Count frames and find the instruments and channels that a subscription must name."""
    frames = 0
    instruments: set[str] = set()
    for frame in Recording.from_files(files):
        frames += 1
        for message in split_frame(frame.payload):
            try:
                instruments.add(feed.route(message).id)
            except SsmdError:
                continue
    instruments.discard("")
    # A replay server acknowledges any name; a recording that names none still needs one to subscribe.
    return frames, sorted(instruments) or ["REHEARSAL"], list(feed.default_channels)


async def _finished(server: ReplayServer, connector: Daemon) -> None:
    """Wait for the last frame; a connector that ended by itself ends the rehearsal."""
    finished = asyncio.ensure_future(server.finished())
    played, deadline_s = -1, 0.0
    while not finished.done():
        await asyncio.wait({finished}, timeout=0.5)
        if server.data_frames != played:
            played, deadline_s = server.data_frames, time.monotonic() + STANDSTILL_S
        code = connector.ended()
        if code is not None and code != -9:
            finished.cancel()
            raise SsmdError(f"the connector ended with code {code}; see {connector.log_path}")
        if time.monotonic() > deadline_s:
            finished.cancel()
            raise SsmdError(f"no frame was taken for {STANDSTILL_S:.0f} s; see {connector.log_path}")
    await finished


async def wait_until_read(rig: Rig, connector: Daemon, server: ReplayServer) -> None:
    """Wait until the connector has read everything that was sent to it and NATS has taken it.

    Raises:
        SsmdError: that does not come about.
    """
    last, since_s = -1.0, time.monotonic()
    deadline_s = time.monotonic() + MAX_WAIT_S
    while time.monotonic() < deadline_s:
        count = await rig.metric(connector, "ssmd_connector_frames_total")
        backlog = await rig.metric(connector, "ssmd_connector_backlog_bytes")
        beats = _heartbeats_per_s(server)
        if count - last > beats or backlog:
            last, since_s = count, time.monotonic()
        elif time.monotonic() - since_s >= QUIET_S:
            return
        await asyncio.sleep(0.1)
    raise SsmdError(f"the connector is still busy after {MAX_WAIT_S:.0f} s")


def _heartbeats_per_s(server: ReplayServer) -> int:
    # A finished recording is followed by heartbeats, one a second on each connection at most.
    return 2 * len(server.connections)


async def _kill(
    rig: Rig,
    connector: Daemon,
    archiver: Daemon,
    server: ReplayServer,
    frames: int,
    kills: Mapping[Target, int],
    seed: int,
    report: Report,
) -> None:
    """Kill and restart; each kill waits for its share of the frames, so that kills are spread over the recording."""
    chance = random.Random(seed)
    plan = [target for target, count in kills.items() for _ in range(count)]
    chance.shuffle(plan)
    moments = sorted(chance.uniform(0.02, 0.98) * frames for _ in plan)
    for target, moment in zip(plan, moments, strict=True):
        while server.data_frames < moment:
            await asyncio.sleep(0.005)
        await asyncio.sleep(chance.uniform(0, 0.2))
        log.info("killing", target=target, frames_sent=server.frames_sent)
        report.kills[target] = report.kills.get(target, 0) + 1
        if target == "nats":
            rig.nats.kill()
            await asyncio.sleep(chance.uniform(0, 0.5))
            await rig.restart_nats()
            continue
        daemon = connector if target == "connector" else archiver
        await rig.wait_until_up(daemon)
        daemon.kill()
        await asyncio.sleep(chance.uniform(0, 0.2))
        daemon.start()
        await rig.wait_until_up(daemon)


def _build(rig: Rig, feed: Feed, stream: str) -> list[HourReport]:
    hours = set()
    for folder in day_folders(rig.archive_root / feed.name / stream):
        for path in folder.glob("*.jsonl.gz"):
            hours.add(datetime.strptime(f"{folder.name} {path.name[:2]}", "%Y-%m-%d %H").replace(tzinfo=UTC))
    return [build_hour(rig.archive_root, rig.dataset_root, feed, stream, hour) for hour in sorted(hours)]


def _add_hour(report: Report, built: HourReport) -> None:
    if not built.balanced:
        report.problems.append(f"{built.hour}: messages do not balance")
    report.rejects += sum(built.rejects.values())
    report.unparsed += built.no_schema.get("unparsed", 0)
    for message_type, count in built.rows.items():
        report.rows[message_type] = report.rows.get(message_type, 0) + count
    for message_type, count in built.no_schema.items():
        report.no_schema[message_type] = report.no_schema.get(message_type, 0) + count
