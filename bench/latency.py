"""Latency: from the moment a frame was due at the venue to a subscriber's callback, at a steady pace.

Two subscribers, one after the other. `stored` is a JetStream push consumer: it gets a message when it is on disk, and
this is the promise. `published` is a plain NATS subscription on the same subjects: it gets a message when the server
has read it, before it is stored, and may lose it; it tells how much of the latency is the disk's.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from bench.cores import on_core, other_core
from bench.result import Result
from bench.rig import Source, bench_rig, check, source, start_connector, stream_name, wait_for
from bench.source import sent_ns
from ssmd_core.feeds.subjects import StreamName
from ssmd_stream import jetstream
from ssmd_stream.archive.pull import PullClient
from ssmd_stream.rehearsal.rig import Rig

RATE = 5_000
SECONDS = 8.0
P50_MS = 5.0
P99_MS = 20.0
# The first second opens the connection, fills caches and imports.
_WARM_UP_S = 1.0
_TIMEOUT_S = 60.0


async def run(rate: int = RATE, seconds: float = SECONDS, feed: str = "kalshi") -> list[Result]:
    """Percentiles for both subscribers, one after the other."""
    count = int(rate * (seconds + _WARM_UP_S))
    results = []
    async with bench_rig() as rig, source(rig, feed, count, rate) as venue:
        for subscriber in ("stored", "published"):
            disk_ms = fsync_ms(rig.data)
            waits_ms = await measure(rig, stream_name(feed, subscriber), venue, count, subscriber)
            points = statistics.quantiles(waits_ms[int(rate * _WARM_UP_S) :], n=100)
            disk = statistics.quantiles(disk_ms, n=100)
            for percent, target in ((50, P50_MS), (99, P99_MS)):
                results.append(
                    Result(
                        f"latency: socket to subscriber ({subscriber}), {rate:,}/s, p{percent}",
                        round(points[percent - 1], 2),
                        "ms",
                        f"one fsync of this disk: {disk[percent - 1]:.2f}",
                        target=target if subscriber == "stored" else None,
                        sense="<=",
                    )
                )
    return results


def fsync_ms(folder: Path, times: int = 200) -> list[float]:
    """Milliseconds that appending 4 kB and fsync take: the floor, of which nats-server needs six for a batch."""
    found = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            found.append((time.perf_counter() - start) * 1e3)
    return found


async def measure(rig: Rig, name: StreamName, venue: Source, count: int, subscriber: str) -> list[float]:
    """Milliseconds of every frame, in the order of arrival."""
    waits_ms: list[float] = []

    def on_message(_subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        due_ns = sent_ns(payload)
        if due_ns is not None:
            waits_ms.append((time.time_ns() - due_ns) / 1e6)

    async def all_arrived() -> bool:
        check(connector)
        return len(waits_ms) >= count - 1  # the first frame carries no time

    with on_core(other_core()):
        # Messages are taken before nats-py wraps them in objects: the reader shares its core with the server.
        client = PullClient()
        await client.connect(rig.nats.url)
        await jetstream.ensure_stream(client, name)
        if subscriber == "stored":
            inbox = client.new_inbox()
            await client.subscribe_raw(inbox, on_message)
            config = {"deliver_subject": inbox, "deliver_policy": "all", "ack_policy": "none", "mem_storage": True}
            request = {"stream_name": name.jetstream, "config": config}
            await jetstream.api(client, f"CONSUMER.CREATE.{name.jetstream}", request)
        else:
            await client.subscribe_raw(name.filter, on_message)
        connector = start_connector(rig, name, venue)
        try:
            await wait_for(all_arrived, "the last frame", _TIMEOUT_S)
        finally:
            connector.kill()
            await client.close()
    return waits_ms
