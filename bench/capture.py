"""Capture: from the socket to the acknowledgement after fsync, against a loop that merely receives."""

from __future__ import annotations

import statistics
import time

from bench.result import Result
from bench.rig import Source, bench_rig, check, run_alternative, source, start_connector, stream_name, wait_for
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.control import is_control
from ssmd_core.messages.headers import read_stamp
from ssmd_stream import jetstream
from ssmd_stream.rehearsal.rig import Rig

FRAMES = 150_000
REPEATS = 3
_TIMEOUT_S = 60.0


async def run(frames: int = FRAMES, repeats: int = REPEATS, feed: str = "kalshi") -> list[Result]:
    """Frames a second of wall time, median of the repeats; the two alternate."""
    ours, bare = [], []
    async with bench_rig() as rig, source(rig, feed, frames) as venue:
        for repeat in range(repeats):
            arguments = ("receive", "--url", venue.url, "--feed", feed, "--count", str(frames - 1))
            bare.append((frames - 1) / await run_alternative(*arguments))
            ours.append(await measure(rig, stream_name(feed, f"capture{repeat}"), venue, frames))
    value, other = statistics.median(ours), statistics.median(bare)
    return [
        Result(
            f"capture: {feed}, socket to fsynced ack",
            round(value),
            "frames/s",
            f"websockets loop that only receives: {other:,.0f}",
            round(value / other, 2),
            1.0,
            judged="ratio",
        )
    ]


async def measure(rig: Rig, name: StreamName, venue: Source, frames: int) -> float:
    """Frames a second from the first one's receive time to the moment when all are stored."""
    connector = start_connector(rig, name, venue)
    client = await jetstream.connect(rig.nats.url, name="bench")

    async def all_stored() -> bool:
        check(connector)
        try:
            return (await jetstream.stream_state(client, name.jetstream)).last_seq >= frames
        except jetstream.ApiError:
            return False

    try:
        await wait_for(all_stored, f"{frames} frames of {name.folder}", _TIMEOUT_S)
        end_ns = time.time_ns()
        async for _, message in jetstream.read_stored(client, name.jetstream, after_seq=0, batch=50):
            if not is_control(message.data) and b'"subscribed"' not in message.data[:40]:
                start_ns = read_stamp(message.headers).recv_ns
                break
    finally:
        connector.kill()
        await client.close()
    return frames / ((end_ns - start_ns) / 1e9)
