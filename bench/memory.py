"""Memory: connector and archiver while messages flow, and the making of parquet as the hour grows tenfold."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench.hours import seal_hour
from bench.result import Result
from bench.rig import bench_rig, check, rss_mb, source, start_connector, stream_name
from ssmd_core.errors import SsmdError
from ssmd_stream.rehearsal.rehearse import past_hour

RATE = 10_000
SAMPLES_S = (10.0, 30.0)
DAEMON_MB = 150.0
PARQUET_MB = 512.0
FLAT = 1.1  # allocators and caches settle by a few per cent
HOURS = (50_000, 500_000)


async def run(
    rate: int = RATE, samples_s: tuple[float, float] = SAMPLES_S, hours: tuple[int, int] = HOURS, feed: str = "kalshi"
) -> list[Result]:
    """Resident memory, early and late, small and large."""
    return [*await run_daemons(rate, samples_s, feed), *await run_parquet(hours, feed)]


async def run_daemons(rate: int, samples_s: tuple[float, float], feed: str) -> list[Result]:
    """Connector and archiver at a steady pace."""
    name = stream_name(feed, "memory")
    found: dict[str, list[float]] = {"connector": [], "archiver": []}
    async with bench_rig() as rig, source(rig, feed, int(rate * (samples_s[1] + 5)), rate) as venue:
        connector = start_connector(rig, name, venue)
        await rig.wait_until_up(connector)
        archiver = rig.start_archiver([name])
        passed_s = 0.0
        for sample_s in samples_s:
            await asyncio.sleep(sample_s - passed_s)
            passed_s = sample_s
            for daemon, values in ((connector, found["connector"]), (archiver, found["archiver"])):
                check(daemon)
                values.append(rss_mb(daemon))
    early_s, late_s = samples_s
    return [
        result
        for what, (early, late) in found.items()
        for result in _pair(
            f"memory: {what} at {rate:,} frames/s",
            late,
            DAEMON_MB,
            f"after {late_s:g} s",
            early,
            f"after {early_s:g} s",
        )
    ]


async def run_parquet(hours: tuple[int, int], feed: str) -> list[Result]:
    """Peak memory of a process that makes the parquet files of an hour."""
    hour = past_hour(datetime.now(UTC))
    peaks = []
    for messages in hours:
        with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as folder:
            seal_hour(Path(folder) / "archive", feed, "crypto", hour, messages)
            arguments = ("--data", folder, "--feed", feed, "--stream", "crypto", "--hour", hour.isoformat())
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.hours", *arguments, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await process.communicate()
            if process.returncode:
                raise SsmdError(f"the hour of {messages} messages could not be built")
            peaks.append(float(out.split()[2]))
    small, large = peaks
    few, many = hours
    return _pair("memory: parquet of an hour", large, PARQUET_MB, f"{many:,} messages", small, f"{few:,} messages")


def _pair(name: str, value: float, limit: float, now: str, before: float, then: str) -> list[Result]:
    ratio = round(value / before, 2)
    return [
        Result(f"{name}, {now}", round(value, 1), "MB", "", target=limit, sense="<="),
        Result(
            f"{name}, growth", round(value - before, 1), "MB", f"{before:.1f} MB, {then}", ratio, FLAT, "<=", "ratio"
        ),
    ]
