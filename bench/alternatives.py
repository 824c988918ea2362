"""What a user would run instead of ssmd, as processes of their own: `python -m bench.alternatives receive|fetch`."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import time
from pathlib import Path

from nats.aio.client import Client
from websockets.asyncio.client import connect

from ssmd_stream.replay.generator.frames import ALL_CHANNELS
from ssmd_stream.replay.venues.registry import subscribe_commands


async def receive(url: str, feed: str, count: int) -> tuple[float, float]:
    """Wall and CPU seconds that a bare `websockets` loop takes for `count` frames after its first."""
    async with connect(url) as websocket:
        for command in subscribe_commands(feed, ALL_CHANNELS[feed][:1], ["X"]):
            await websocket.send(command.decode())
        left, start, cpu = count + 1, 0.0, 0.0
        async for _ in websocket:
            if not start:
                start, cpu = time.perf_counter(), time.process_time()
            left -= 1
            if not left:
                break
        seconds = time.perf_counter() - start, time.process_time() - cpu
        websocket.transport.abort()
    return seconds


async def fetch(url: str, stream: str, subject: str, count: int, file: Path) -> tuple[float, float]:
    """Wall and CPU seconds that nats-py's `fetch` takes for `count` messages: gzip, fsync, then each acknowledged."""
    client = Client()
    await client.connect(url)
    subscription = await client.jetstream().pull_subscribe(subject, durable="plain", stream=stream)
    start, cpu = time.perf_counter(), time.process_time()
    left = count
    with file.open("wb") as out:
        while left > 0:
            messages = await subscription.fetch(500, timeout=5)
            out.write(gzip.compress(b"".join(message.data + b"\n" for message in messages)))
            out.flush()
            os.fsync(out.fileno())
            for message in messages:
                await message.ack()
            left -= len(messages)
    await client.flush()
    seconds = time.perf_counter() - start, time.process_time() - cpu
    await client.close()
    return seconds


def main() -> None:
    """Run one of them and print its wall and CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    receiver = commands.add_parser("receive")
    fetcher = commands.add_parser("fetch")
    for each in (receiver, fetcher):
        each.add_argument("--url", required=True)
        each.add_argument("--count", type=int, required=True)
    receiver.add_argument("--feed", required=True)
    fetcher.add_argument("--stream", required=True)
    fetcher.add_argument("--subject", required=True)
    fetcher.add_argument("--file", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "receive":
        work = receive(given.url, given.feed, given.count)
    else:
        work = fetch(given.url, given.stream, given.subject, given.count, given.file)
    print(*asyncio.run(work))


if __name__ == "__main__":
    main()
