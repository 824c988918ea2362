"""NATS, a source of frames, a connector and an archiver as processes, each on its core."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.cores import measured_core, on_core, other_core
from ssmd_core import feeds
from ssmd_core.clock import Clock
from ssmd_core.errors import SsmdError
from ssmd_core.feeds.subjects import StreamName
from ssmd_stream.rehearsal.rig import Daemon, Rig
from ssmd_stream.replay.generator.frames import ALL_CHANNELS
from ssmd_stream.replay.venues.kalshi import make_test_key
from ssmd_stream.servers.process import Process

ENV = "bench"
INSTRUMENTS = {"kalshi": ("KXBTCD-BENCH-T1",), "kraken": ("BTC/USD",), "kraken-futures": ("PF_XBTUSD",)}
_READY_S = 30.0
_ALTERNATIVE_S = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """A running source.

    Attributes:
        url, rest_url: where it serves.
    """

    url: str
    rest_url: str


@asynccontextmanager
async def bench_rig() -> AsyncIterator[Rig]:
    """NATS on the other core, in a temporary folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as folder:
        rig = Rig(Path(folder), env=ENV, clock=Clock())
        with on_core(other_core()):
            await rig.__aenter__()
        try:
            yield rig
        finally:
            await rig.__aexit__(None, None, None)


@asynccontextmanager
async def source(rig: Rig, feed: str, count: int, frames_per_s: float | None = None) -> AsyncIterator[Source]:
    """A source of generated frames on the other core; it sends once a client has subscribed."""
    ready = rig.data / f"source-{time.monotonic_ns()}"
    argv = [sys.executable, "-m", "bench.source", "--feed", feed, "--count", str(count), "--ready", str(ready)]
    if frames_per_s is not None:
        argv += ["--frames-per-s", str(frames_per_s)]
    with on_core(other_core()):
        process = Process.start(argv, log_path=rig.logs / "source.log")
    try:
        await wait_for(lambda: _exists(ready), "the source of frames", _READY_S)
        url, rest_url = ready.read_text().splitlines()
        yield Source(url, rest_url)
    finally:
        process.kill()


def start_connector(rig: Rig, name: StreamName, venue: Source) -> Daemon:
    """A connector, as `python -m ssmd_stream.capture` runs it, on the measured core."""
    key = make_test_key() if name.feed.auth == "kalshi_rsa_pss" else None
    secrets = {"KALSHI_API_KEY": key.access_key, "KALSHI_PRIVATE_KEY": key.private_pem} if key else {}
    with on_core(measured_core()):
        return rig.start_connector(
            name,
            url=venue.url,
            rest_url=venue.rest_url,
            instruments=INSTRUMENTS.get(name.feed.name, ()),
            channels=ALL_CHANNELS[name.feed.name][:1],
            secrets=secrets,
        )


def stream_name(feed: str, stream: str) -> StreamName:
    """A stream of its own for each measurement."""
    return StreamName(ENV, feeds.get(feed), stream)


def check(daemon: Daemon) -> None:
    """Raise `SsmdError` if a daemon has ended by itself."""
    code = daemon.ended()
    if code is not None:
        raise SsmdError(f"{daemon.name} ended with code {code}: {daemon.log_path.read_text()[-500:]}")


async def wait_for(
    condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float, *, every_s: float = 0.02
) -> None:
    """Wait until the condition holds.

    Raises:
        SsmdError: not in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline_s:
            raise SsmdError(f"{what}: not within {timeout_s:.0f} s")
        await asyncio.sleep(every_s)


async def run_alternative(*arguments: str) -> tuple[float, float]:
    """Wall and CPU seconds that one of `bench.alternatives` takes on the measured core.

    Raises:
        SsmdError: it failed, or took more than a minute.
    """
    with on_core(measured_core()):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.alternatives", *arguments), stdout=asyncio.subprocess.PIPE
        )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _ALTERNATIVE_S)
    except TimeoutError as error:
        raise SsmdError(f"{arguments[0]} took more than {_ALTERNATIVE_S:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise SsmdError(f"{arguments[0]} ended with code {process.returncode}")
    wall_s, cpu_s = map(float, out.split())
    return wall_s, cpu_s


def cpu_s(daemon: Daemon) -> float:
    """CPU seconds that a process has used."""
    assert daemon.process is not None
    times = psutil.Process(daemon.process.pid).cpu_times()
    return float(times.user + times.system)


def rss_mb(daemon: Daemon) -> float:
    """Resident memory of a process in MB (10^6 bytes)."""
    assert daemon.process is not None
    return float(psutil.Process(daemon.process.pid).memory_info().rss) / 1e6


async def _exists(path: Path) -> bool:
    return path.exists()
