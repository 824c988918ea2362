"""Live checks, drift and minutes: what they add to a frame on the receive path, generated and recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path

from bench.result import Result
from ssmd_core import feeds
from ssmd_core.clock import Clock
from ssmd_core.drift.baseline import Baseline
from ssmd_core.feeds.base import Feed
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.headers import Stamp
from ssmd_core.proof.rules import LiveCounts, Trouble
from ssmd_stream.capture.connection import Connection, Setting
from ssmd_stream.capture.sessions import session_factory
from ssmd_stream.capture.stats import Router, ShardStats
from ssmd_stream.capture.venue_time import venue_times
from ssmd_stream.drift.live import Sentinel
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.replay.recording import read_frames
from ssmd_stream.replay.venues.kalshi import make_test_key

FRAMES = 20_000
REPEATS = 5
TARGET_US = 5.0
_RATE = 5_000.0
_START_NS = 1_795_348_800_000_000_000
_SAMPLES = Path(os.environ.get("SSMD_SAMPLES") or Path(__file__).resolve().parents[2] / "shared" / "samples")
# Byte-exact recordings of order books.
RECORDINGS = {
    "kalshi": "gold15m_orderbook_trade_2026-08-05.jsonl.gz",
    "kraken": "book_btcusd_depth25_2026-08.jsonl.gz",
    "kraken-futures": "book_trade_tickerlite_2021-07-22.jsonl.gz",
    "polymarket": "session_btc5m_2026-08-16_excerpt.jsonl",
}


class _SteppedClock(Clock):
    """Moves on by the same step with every look, as if frames came at `_RATE`."""

    def __init__(self) -> None:
        super().__init__()
        self._now_ns = _START_NS

    def now_ns(self) -> int:
        self._now_ns += int(1e9 / _RATE)
        return self._now_ns


class _Nothing:
    """A check that does nothing, to measure against."""

    def __init__(self) -> None:
        self.counts = LiveCounts()

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        """See `LiveCheck`."""
        del kind, payload
        return None


def run(frames: int = FRAMES, repeats: int = REPEATS) -> list[Result]:
    """µs a frame: all of it, against the same receive path without check, sentinel and samples; best of the repeats."""
    results = []
    for name, feed in feeds.FEEDS.items():
        results.append(_line(feed, "generated", generate_frames(name, frames), repeats))
        path = _SAMPLES / name / "ws" / RECORDINGS[name]
        if path.exists():
            recorded = [frame.payload for frame in read_frames(path)][:frames]
            # A short recording is played over and over, as reconnects would.
            results.append(_line(feed, "recorded", recorded * max(1, 2_000 // len(recorded)), repeats))
    return results


def _line(feed: Feed, what: str, frames: Sequence[bytes], repeats: int) -> Result:
    bare, whole = [], []
    for _ in range(repeats):
        bare.append(asyncio.run(_receive_s(feed, frames, watched=False)))
        whole.append(asyncio.run(_receive_s(feed, frames, watched=True)))
    added_us = (min(whole) - min(bare)) / len(frames) * 1e6
    return Result(
        f"live: checks, drift and minutes, {feed.name} {what}",
        round(added_us, 2),
        "µs/frame",
        f"receive path without: {min(bare) / len(frames) * 1e6:.1f}",
        None,
        TARGET_US,
        "<=",
    )


async def _receive_s(feed: Feed, frames: Sequence[bytes], *, watched: bool) -> float:
    """Seconds in which a connection takes the frames; what it publishes is thrown away."""

    def publish(subject: str, payload: bytes, stamp: Stamp, /) -> None:
        del subject, payload, stamp

    key = make_test_key()
    secrets = {"KALSHI_API_KEY": key.access_key, "KALSHI_PRIVATE_KEY": key.private_pem}
    stats = ShardStats(feed.message_types, 0.0)
    setting = Setting(feed, "ws://bench", "picows", _SteppedClock(), publish, feed.liveness, {})
    if watched:
        sentinel = Sentinel(feed, Baseline())
        setting = dataclasses.replace(setting, sentinel=sentinel, times=venue_times(feed))
    else:
        setting = dataclasses.replace(setting, make_check=lambda _feed: _Nothing())
    make = session_factory(feed, feed.default_channels, {}, feed.websocket_urls["prod"], secrets)
    router = Router(StreamName("bench", feed, "live"), "c0", stats, {} if feed.name == "kraken" else None)
    connection = Connection("c0", make(), (), setting, router=router, stats=stats, paused=False)
    if not watched:
        for count in (*stats.by_type.values(), stats.unparsed, stats.keepalives):
            count.due_ns = 2**62
    receive = connection.on_message
    gc.collect()
    start_s = time.perf_counter()
    for frame in frames:
        receive(frame)
    return time.perf_counter() - start_s
