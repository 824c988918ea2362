"""Memory of the connector and the archiver while messages flow; that of parquet stands with its speed."""

from __future__ import annotations

import asyncio

from bench.result import Result
from bench.rig import bench_rig, check, rss_mb, source, start_connector, stream_name
from ssmd_core.errors import SsmdError

RATE = 10_000
SAMPLES_S = (10.0, 30.0)
DAEMON_MB = 150.0
FLAT = 1.1  # allocators and caches settle by a few per cent


async def run(rate: int = RATE, samples_s: tuple[float, float] = SAMPLES_S, feed: str = "kalshi") -> list[Result]:
    """Resident memory of both, early and late, at a steady pace."""
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
        archived = await rig.metric(archiver, "ssmd_archiver_last_sequence")
    if archived < rate * samples_s[1] / 2:
        raise SsmdError(f"only {archived:.0f} messages in {samples_s[1]:g} s at {rate} a second: nothing is proved")
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


def _pair(name: str, value: float, limit: float, now: str, before: float, then: str) -> list[Result]:
    ratio = round(value / before, 2)
    return [
        Result(f"{name}, {now}", round(value, 1), "MB", "", target=limit, sense="<="),
        Result(
            f"{name}, growth", round(value - before, 1), "MB", f"{before:.1f} MB, {then}", ratio, FLAT, "<=", "ratio"
        ),
    ]
