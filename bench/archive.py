"""Archive: from JetStream into fsynced `.jsonl.gz`, against a loop over nats-py's `fetch`."""

from __future__ import annotations

import itertools
import time

from bench.cores import measured_core, on_core
from bench.result import Result
from bench.rig import bench_rig, check, run_alternative, stream_name, wait_for
from ssmd_core.errors import SsmdError
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.frames import split_frame
from ssmd_core.messages.headers import Stamp
from ssmd_stream import jetstream
from ssmd_stream.capture.publisher import Publisher
from ssmd_stream.rehearsal.rig import Rig
from ssmd_stream.replay.generator.frames import generate_frames

MESSAGES = 200_000
PLAIN_MESSAGES = 30_000
TARGET_PER_S = 40_000
_EPOCH = "c0-20261122T120000000-0001"
_BACKLOG_BYTES = 8_000_000
_TIMEOUT_S = 60.0


async def run(messages: int = MESSAGES, plain: int = PLAIN_MESSAGES, feed: str = "kalshi") -> list[Result]:
    """Messages a second of wall time on one core."""
    async with bench_rig() as rig:
        name = stream_name(feed, "archive")
        await fill(rig, name, messages)
        other_s, _ = await run_alternative(
            *("fetch", "--url", rig.nats.url, "--count", str(plain), "--stream", name.jetstream),
            *("--subject", name.filter, "--file", str(rig.data / "plain.jsonl.gz")),
        )
        value = await measure(rig, name, messages)
    other = plain / other_s
    return [
        Result(
            f"archive: {feed}, NATS to fsynced .jsonl.gz",
            round(value),
            "messages/s",
            f"nats-py fetch(500), gzip, fsync, ack: {other:,.0f}",
            round(value / other, 2),
            TARGET_PER_S,
        )
    ]


async def fill(rig: Rig, name: StreamName, messages: int) -> None:
    """Publish generated messages, stamped now."""
    pool = [message for frame in generate_frames(name.feed.name, 20_000) for message in split_frame(frame)]
    routes = [name.feed.route(message) for message in pool]
    subjects = [name.subject(name.feed.message_types[route.type].token, route.id or "none") for route in routes]
    publisher = Publisher(nats_url=rig.nats.url, stream=name, spool=rig.data / "spool")
    await publisher.start()
    pairs = itertools.cycle(zip(subjects, pool, strict=True))
    for ordinal, (subject, message) in enumerate(itertools.islice(pairs, messages)):
        publisher.publish(subject, message, Stamp(_EPOCH, ordinal, time.time_ns()))
        if ordinal % 500 == 0:
            await wait_for(lambda: _below(publisher), "room in the publisher", _TIMEOUT_S, every_s=0.001)
    if not await publisher.drain(_TIMEOUT_S):
        raise SsmdError(f"{name.jetstream} could not be filled: {publisher.problem}")
    await publisher.close()


async def measure(rig: Rig, name: StreamName, messages: int) -> float:
    """Messages a second from the archiver's first acknowledgement to its last; both come after an fsync."""
    with on_core(measured_core()):
        archiver = rig.start_archiver([name])
    client = await jetstream.connect(rig.nats.url, name="bench")
    seen: list[tuple[float, int]] = []

    async def all_archived() -> bool:
        check(archiver)
        try:
            # Asked of the server, so that the archiver's core is left alone.
            info = await jetstream.api(client, f"CONSUMER.INFO.{name.jetstream}.archiver")
        except jetstream.ApiError:
            return False
        floor = int(info["ack_floor"]["stream_seq"])
        if floor and (not seen or floor > seen[-1][1]):
            seen.append((time.perf_counter(), floor))
        return floor >= messages

    try:
        await wait_for(all_archived, f"{messages} messages archived", _TIMEOUT_S)
    finally:
        archiver.kill()
        await client.close()
    (start_s, first), (end_s, last) = seen[0], seen[-1]
    return (last - first) / (end_s - start_s)


async def _below(publisher: Publisher) -> bool:
    return publisher.backlog_bytes < _BACKLOG_BYTES
