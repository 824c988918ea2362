"""Capture: from the socket to the acknowledgement after fsync, against a loop that merely receives."""

from __future__ import annotations

import statistics
import time

from bench.result import Result
from bench.rig import Source, bench_rig, check, cpu_s, run_alternative, source, start_connector, stream_name, wait_for
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.control import is_control
from ssmd_core.messages.headers import read_stamp
from ssmd_stream import jetstream
from ssmd_stream.rehearsal.rig import Rig

FRAMES = 150_000
REPEATS = 3
_FIRST_EVENTS = 50
_TIMEOUT_S = 60.0


async def run(frames: int = FRAMES, repeats: int = REPEATS, feed: str = "kalshi") -> list[Result]:
    """Frames a second of wall time, and of the one core's time; medians of the repeats, the two alternate.

    The wall time has NATS and its disk in it, which a loop that only receives does not wait for; the core's time is
    what the connector itself costs.
    """
    ours, bare = [], []
    async with bench_rig() as rig, source(rig, feed, frames) as venue:
        for repeat in range(repeats):
            arguments = ("receive", "--url", venue.url, "--feed", feed, "--count", str(frames - 1))
            seconds = await run_alternative(*arguments)
            bare.append([(frames - 1) / each for each in seconds])
            ours.append(await measure(rig, stream_name(feed, f"capture{repeat}"), venue, frames))
    results = []
    for index, what in enumerate(("", ", per second of its core")):
        value = statistics.median(each[index] for each in ours)
        other = statistics.median(each[index] for each in bare)
        results.append(
            Result(
                f"capture: {feed}, socket to fsynced ack{what}",
                round(value),
                "frames/s",
                f"websockets loop that only receives: {other:,.0f}",
                round(value / other, 2),
                1.0,
                judged="ratio",
            )
        )
    return results


async def measure(rig: Rig, name: StreamName, venue: Source, frames: int) -> tuple[float, float]:
    """Frames a second of wall time, from the first one's receive time to all stored, and of the connector's CPU."""
    connector = start_connector(rig, name, venue)
    client = await jetstream.connect(rig.nats.url, name="bench")
    seen: list[tuple[int, float]] = []

    async def all_stored() -> bool:
        check(connector)
        try:
            stored = (await jetstream.stream_state(client, name.jetstream)).last_seq
        except jetstream.ApiError:
            return False
        # ssmd's own first events come before the frames.
        if stored > _FIRST_EVENTS:
            seen.append((stored, cpu_s(connector)))
        return stored >= frames

    try:
        await wait_for(all_stored, f"{frames} frames of {name.folder}", _TIMEOUT_S)
        end_ns = time.time_ns()
        async for _, message in jetstream.read_stored(client, name.jetstream, after_seq=0, batch=_FIRST_EVENTS):
            if not is_control(message.data):
                start_ns = read_stamp(message.headers).recv_ns
                break
    finally:
        connector.kill()
        await client.close()
    (first, first_s), (last, last_s) = seen[0], seen[-1]
    return frames / ((end_ns - start_ns) / 1e9), (last - first) / (last_s - first_s)
