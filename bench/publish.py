"""Durable messages a second into JetStream: ssmd's publisher against nats-py's own ways, latency and memory.

Run `python bench/publish.py`; client on core 0, server on the last core. Ratios of one run count, not the figures.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import structlog
from nats.aio.client import Client

from ssmd_core.feeds import get
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.headers import RECV_NS, Stamp, stamp_headers
from ssmd_stream.capture.publisher import Publisher
from ssmd_stream.jetstream import connect, ensure_stream
from ssmd_stream.servers.nats import NatsServer

PAYLOAD = (
    b'{"type":"ticker","sid":1,"seq":7,"msg":{"market_ticker":"KXBTCD-26FEB0620-T72999.99","pad":"'
    + b"x" * 170
    + b'"}}'
)
EPOCH = "c0-20261122T121602123-9f3a"


def make_name(stream: str) -> StreamName:
    """A stream of its own for each measurement."""
    return StreamName("bench", get("kalshi"), stream)


async def measure_publisher(url: str, spool: Path, stream: str, messages: int, window: int) -> float:
    """Messages a second, from the first `publish` to the last acknowledgement; backlog held at 8 MB."""
    name = make_name(stream)
    subjects = [name.subject("ticker", f"KX-{i}") for i in range(500)]
    publisher = Publisher(nats_url=url, stream=name, spool=spool, window=window)
    await publisher.start()
    start = time.perf_counter()
    for n in range(messages):
        publisher.publish(subjects[n % 500], PAYLOAD, Stamp(EPOCH, n, time.time_ns()))
        if n % 200 == 199:
            await asyncio.sleep(0)
            while publisher.backlog_bytes > 8_000_000:
                await asyncio.sleep(0.001)
    if not await publisher.drain(120):
        raise SystemExit(f"not acknowledged: {publisher.problem}")
    seconds = time.perf_counter() - start
    await publisher.close()
    return messages / seconds


async def measure_js(url: str, stream: str, messages: int, in_flight: int) -> float:
    """Messages a second with nats-py's `js.publish`."""
    name = make_name(stream)
    client = await connect(url, name="bench")
    await ensure_stream(client, name)
    js, subject, gate = client.jetstream(), name.subject("ticker", "KX"), asyncio.Semaphore(in_flight)

    async def one(n: int) -> None:
        async with gate:
            await js.publish(subject, PAYLOAD, headers=stamp_headers(Stamp(EPOCH, n, time.time_ns())), timeout=30)

    start = time.perf_counter()
    await asyncio.gather(*(one(n) for n in range(messages)))
    seconds = time.perf_counter() - start
    await client.close()
    return messages / seconds


async def measure_latency(url: str, spool: Path, stream: str, rate: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds from `publish` to an ordered consumer's callback at `rate` messages a second; client CPU share."""
    name = make_name(stream)
    subject = name.subject("ticker", "KX")
    publisher = Publisher(nats_url=url, stream=name, spool=spool)
    await publisher.start()
    reader: Client = await connect(url, name="reader")
    waits: list[float] = []

    async def on_message(message: object) -> None:
        waits.append((time.time_ns() - int(message.headers[RECV_NS])) / 1e6)  # type: ignore[attr-defined]

    # A plain subscription would see a message when it is published; a consumer sees it when it is stored.
    await reader.jetstream().subscribe(subject, ordered_consumer=True, cb=on_message)
    cpu, start, done = time.process_time(), time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < seconds:
        due = int(rate * elapsed)
        for n in range(done, due):
            publisher.publish(subject, PAYLOAD, Stamp(EPOCH, n, time.time_ns()))
        done = due
        await asyncio.sleep(0.001)
    cpu = (time.process_time() - cpu) / seconds
    await publisher.drain(10)
    await asyncio.sleep(0.2)
    await reader.close()
    await publisher.close()
    return waits, cpu


async def measure_memory(url: str, spool: Path, rate: int, seconds: float) -> list[float]:
    """RSS in MB, sampled each second, at `rate` messages a second."""
    name = make_name("memory")
    subjects = [name.subject("ticker", f"KX-{i}") for i in range(500)]
    publisher = Publisher(nats_url=url, stream=name, spool=spool)
    await publisher.start()
    process, samples = psutil.Process(), []
    start, done, sampled = time.monotonic(), 0, 0.0
    while (elapsed := time.monotonic() - start) < seconds:
        due = int(rate * elapsed)
        for n in range(done, due):
            publisher.publish(subjects[n % 500], b"%s" % PAYLOAD, Stamp(EPOCH, n, time.time_ns()))
        done = due
        if elapsed - sampled > 1:
            sampled = elapsed
            samples.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(0.002)
    await publisher.drain(10)
    await publisher.close()
    return samples


async def main() -> None:
    """Run all and print a table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        server = NatsServer(root / "nats", port=None, monitor_port=None)
        os.sched_setaffinity(0, {cores[-1]})  # the server inherits it
        await server.start()
        os.sched_setaffinity(0, {cores[0]})
        try:
            rates = await measure_memory(server.url, root / "spool-memory", 10_000, 20)
            print(f"RSS at 10 k/s, s 1, 5, 10, last: {[round(rates[i]) for i in (0, 4, 9, -1)]} MB")
            for in_flight, count in ((1, 1000), (1000, 5000)):
                rate = await measure_js(server.url, f"js{in_flight}", count, in_flight)
                print(f"js.publish, {in_flight:4} in flight: {rate:8,.0f}/s")
            for repeat in range(2):
                for window in (1, 2, 4, 8):
                    name = f"w{window}-{repeat}"
                    rate = await measure_publisher(server.url, root / name, name, 100_000, window=window)
                    print(f"publisher, window {window}: {rate:8,.0f}/s")
            for rate in (1000, 5000):
                waits, cpu = await measure_latency(server.url, root / f"l{rate}", f"l{rate}", rate, 5)
                points = statistics.quantiles(waits, n=100)
                print(f"latency at {rate}/s: p50 {points[49]:.1f} ms, p99 {points[98]:.1f} ms, client CPU {cpu:.0%}")
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
