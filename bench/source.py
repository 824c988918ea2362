"""`python -m bench.source`: a venue that sends generated frames, as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from ssmd_core import feeds
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.replay.recording import RecordedFrame, Recording
from ssmd_stream.replay.server import ReplayServer

# Repeated as often as needed: making a frame takes 10-40 µs, longer than capturing it.
POOL = 20_000
SENT_NS = b'"_bench_sent_ns":'


class Frames:
    """Generated frames without receive times: the server sends them as fast as they are read, or at a pace.

    Args:
        feed: whose.
        count: how many.
        frames_per_s: if given, frames come in bursts, one a millisecond, and every frame carries the time at which it
            was due (not at which it left: a source that falls behind must not hide it), in a member `_bench_sent_ns`.
            Frame by frame the source alone would keep a third of its core busy with timers at 5,000 a second.
    """

    def __init__(self, feed: str, count: int, frames_per_s: float | None = None) -> None:
        self._pool = [RecordedFrame(frame, None) for frame in generate_frames(feed, min(POOL, count))]
        self._count = count
        self._frames_per_s = frames_per_s

    def __iter__(self) -> Iterator[RecordedFrame]:
        frames = itertools.islice(itertools.cycle(self._pool), self._count)
        return frames if self._frames_per_s is None else self._timed(frames, self._frames_per_s)

    def _timed(self, frames: Iterator[RecordedFrame], frames_per_s: float) -> Iterator[RecordedFrame]:
        yield RecordedFrame(next(frames).payload, 0)
        # The server reads one frame ahead: this is when the first one leaves.
        start_ns = time.time_ns()
        for number, frame in enumerate(frames, 1):
            after_ns = (int(number * 1000 / frames_per_s) + 1) * 1_000_000
            yield RecordedFrame(b"%b,%b%d}" % (frame.payload[:-1], SENT_NS, start_ns + after_ns), after_ns)


def sent_ns(payload: bytes) -> int | None:
    """When the frame was due, epoch nanoseconds; None if it does not say."""
    _, found, tail = payload.rpartition(SENT_NS)
    return int(tail[:-1]) if found else None


async def serve(feed: str, count: int, frames_per_s: float | None, ready: Path) -> None:
    """Serve until SIGTERM; `ready` gets the URL and the REST base, a line each."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with ReplayServer(
        feeds.get(feed),
        Recording(Frames(feed, count, frames_per_s)),
        speed=None if frames_per_s is None else 1.0,
        frames_per_s=frames_per_s or 1.0,
        on_reconnect="restart",
    ) as server:
        part = ready.with_suffix(".part")
        part.write_text(f"{server.url}\n{server.rest_url}\n")
        part.replace(ready)
        await stop.wait()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feed", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--frames-per-s", type=float)
    parser.add_argument("--ready", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.feed, arguments.count, arguments.frames_per_s, arguments.ready))


if __name__ == "__main__":
    main()
