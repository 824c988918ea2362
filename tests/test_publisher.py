"""The publisher against real servers: durable, in order, exactly once, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from ssmd_core.errors import PublishError, StreamMismatchError
from ssmd_core.feeds import get
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.headers import Stamp, read_stamp
from ssmd_stream.capture.publisher import Landed, Publisher
from ssmd_stream.capture.spool import open_segment
from ssmd_stream.jetstream import StreamLimits, api, connect, covers, ensure_stream, read_stored
from ssmd_stream.servers.nats import NatsServer

EPOCH = "c0-20261122T121602123-9f3a"
PAYLOAD = b'{"type":"ticker","msg":{"market_ticker":"KXBTCD-26FEB0620-T72999.99","n":%d,"pad":"' + b"x" * 150 + b'"}}'


def name_of(stream: str) -> StreamName:
    return StreamName("test", get("kalshi"), stream)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


class Source:
    """Publishes numbered messages of one epoch and remembers how many."""

    def __init__(self, publisher: Publisher, name: StreamName, epoch: str = EPOCH) -> None:
        self.publisher, self.epoch, self.count = publisher, epoch, 0
        self.subjects = [name.subject("ticker", f"KX-{i}.5") for i in range(50)]

    def send(self, messages: int) -> None:
        for _ in range(messages):
            n = self.count
            stamp = Stamp(self.epoch, n, 1_700_000_000_000_000_000 + n)
            self.publisher.publish(self.subjects[n % 50], PAYLOAD % n, stamp)
            self.count += 1

    async def run(self, rate: int, seconds: float) -> None:
        """Send at `rate` messages a second."""
        start, done = time.monotonic(), 0
        while (elapsed := time.monotonic() - start) < seconds:
            due = int(rate * elapsed)
            self.send(due - done)
            done = due
            await asyncio.sleep(0.002)


async def stored(url: str, name: StreamName) -> dict[str, list[int]]:
    """Ordinals in the stream by epoch, in stream order; every message must be intact."""
    client = await connect(url, name="checker")
    found: dict[str, list[int]] = {}
    async for _, message in read_stored(client, name.jetstream, after_seq=0):
        stamp = read_stamp(message.headers)
        assert message.data == PAYLOAD % stamp.ordinal
        assert stamp.recv_ns == 1_700_000_000_000_000_000 + stamp.ordinal
        found.setdefault(stamp.epoch, []).append(stamp.ordinal)
    await client.close()
    return found


async def until(condition: Any, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition not reached in time"
        await asyncio.sleep(0.01)


class Line:
    """A TCP line to the server that can be cut, or made to swallow one direction."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self.swallow_requests = self.swallow_answers = self.refuse = False
        self.held: list[tuple[asyncio.StreamWriter, bytes]] = []

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += (writer, up_writer)
        for pump in (self._pump(reader, up_writer, requests=True), self._pump(up_reader, writer, requests=False)):
            self._pumps.add(asyncio.create_task(pump))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, requests: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if requests and self.swallow_requests:
                    self.held.append((writer, data))
                elif not (not requests and self.swallow_answers):
                    writer.write(data)
            if not self.held:
                writer.close()

    def deliver_held(self) -> None:
        """Requests that were swallowed arrive after all, each on its old connection."""
        for writer, data in self.held:
            writer.write(data)
        self.held.clear()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.close()


@contextlib.asynccontextmanager
async def publishing(url: str, name: StreamName, spool: Path, **options: Any) -> AsyncIterator[Publisher]:
    publisher = Publisher(nats_url=url, stream=name, spool=spool, **options)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.close()


@asynchronous
async def test_publishes_in_order_with_headers_and_subjects(nats_url: str, tmp_path: Path) -> None:
    name = name_of("plain")
    async with publishing(nats_url, name, tmp_path / "spool") as publisher:
        source = Source(publisher, name)
        source.send(12_345)
        assert await publisher.drain(20)
        assert publisher.stats.acknowledged == 12_345
        assert publisher.last_acked_seq == 12_345
        assert publisher.backlog_bytes == 0
        assert publisher.problem is None
    assert await stored(nats_url, name) == {EPOCH: list(range(12_345))}
    client = await connect(nats_url, name="checker")
    async for seq, message in read_stored(client, name.jetstream, after_seq=12_344):
        assert (seq, message.subject) == (12_345, source.subjects[12_344 % 50])
    await client.close()


@asynchronous
async def test_a_lone_message_goes_out_at_once(nats_url: str, tmp_path: Path) -> None:
    name = name_of("lone")
    async with publishing(nats_url, name, tmp_path / "spool") as publisher:
        source = Source(publisher, name)
        source.send(1)
        start = time.monotonic()
        await until(lambda: publisher.stats.acknowledged == 1)
        assert time.monotonic() - start < 1.0


@asynchronous
async def test_a_batch_that_waited_goes_out_with_the_answer(nats_url: str, tmp_path: Path) -> None:
    # Once it was only looked at when the watch came round, every 250 ms: four batches a second.
    async with publishing(nats_url, name_of("waiting"), tmp_path / "spool") as publisher:
        await Source(publisher, name_of("waiting")).run(rate=3000, seconds=1.5)
        assert publisher.stats.batches >= 20


@asynchronous
async def test_largest_messages_and_refused_ones(nats_url: str, tmp_path: Path) -> None:
    name = name_of("large")
    subject = name.subject("book", "X")
    async with publishing(nats_url, name, tmp_path / "spool") as publisher:
        for ordinal in range(3):
            publisher.publish(subject, bytes([65 + ordinal]) * (16 * 1024 * 1024), Stamp(EPOCH, ordinal, 1))
        publisher.publish(subject, b"", Stamp(EPOCH, 3, 1))
        with pytest.raises(PublishError, match="16777217 bytes"):
            publisher.publish(subject, b"x" * (16 * 1024 * 1024 + 1), Stamp(EPOCH, 4, 1))
        for bad in ("other.json.x.y", subject + " 5\r\nPUB a", subject + ".>", subject + "..a", subject + ".é", "test"):
            with pytest.raises(PublishError, match="is not one of"):
                publisher.publish(bad, b"{}", Stamp(EPOCH, 4, 1))
        assert await publisher.drain(30)
    client = await connect(nats_url, name="checker")
    sizes = [len(message.data) async for _, message in read_stored(client, name.jetstream, after_seq=0, batch=1)]
    await client.close()
    assert sizes == [16 * 1024 * 1024] * 3 + [0]


async def survive_kills(
    server: NatsServer, spool: Path, kills: int, seed: int, *, window_s: float, away_s: float
) -> None:
    """Kill the server at random moments under load; everything must be stored once and in order."""
    chance = random.Random(seed)
    name = name_of("kills")
    limits = StreamLimits(duplicate_window_s=window_s)
    async with publishing(server.url, name, spool, limits=limits) as publisher:
        sources = [Source(publisher, name, f"c{i}-20261122T121602123-9f3a") for i in range(2)]
        load = asyncio.gather(*(source.run(2500, 1e9) for source in sources))
        for _ in range(kills):
            await until(lambda: publisher.connected)
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            server.kill()
            await asyncio.sleep(away_s)
            await server.start()
        load.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await load
        assert await publisher.drain(30)
        stats = publisher.stats
        assert stats.acknowledged + stats.landed_before == stats.published
        assert stats.incidents == 0
    assert await stored(server.url, name) == {source.epoch: list(range(source.count)) for source in sources}


@pytest.mark.timeout(180)
@asynchronous
async def test_server_killed_while_publishing(nats_server: NatsServer, tmp_path: Path) -> None:
    await survive_kills(nats_server, tmp_path / "spool", 10, seed=20261122, window_s=120.0, away_s=0.0)


@asynchronous
async def test_server_away_longer_than_the_duplicate_window(nats_server: NatsServer, tmp_path: Path) -> None:
    await survive_kills(nats_server, tmp_path / "spool", 4, seed=3, window_s=0.1, away_s=0.4)


@pytest.mark.parametrize("lost", ["requests", "answers"])
@asynchronous
async def test_unanswered_batches_are_resolved_by_reading_the_stream(
    nats_server: NatsServer, tmp_path: Path, lost: str
) -> None:
    name = name_of("unsure")
    line = Line(nats_server.port)
    url = await line.open()
    options: dict[str, Any] = {"ack_timeout_s": 0.3, "limits": StreamLimits(duplicate_window_s=0.1)}
    async with publishing(url, name, tmp_path / "spool", **options) as publisher:
        source = Source(publisher, name)
        source.send(100)
        await until(lambda: publisher.stats.acknowledged == 100)
        setattr(line, f"swallow_{lost}", True)
        source.send(3000)
        await asyncio.sleep(0.1)
        line.refuse = True
        await until(lambda: publisher.stats.losses == 1)
        source.send(500)
        await until(lambda: publisher.backlog_bytes == 0)
        assert publisher.stats.spooled_messages == 3500
        assert publisher.problem is not None
        line.held.clear()
        line.refuse = line.swallow_requests = line.swallow_answers = False
        assert await publisher.drain(20)
        assert publisher.problem is None
        assert publisher.stats.landed_before == (3000 if lost == "answers" else 0)
        assert publisher.stats.resent == (3000 if lost == "requests" else 0)
        assert publisher.stats.spool_bytes == publisher.stats.spooled_messages == 0
    assert await stored(nats_server.url, name) == {EPOCH: list(range(3600))}
    await line.close()


@asynchronous
async def test_a_batch_that_waits_is_staged_and_counts_only_when_committed(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    name = name_of("staged")
    line = Line(nats_server.port)
    url = await line.open()
    seen: list[int] = []

    async def see(message: Any) -> None:
        seen.append(read_stamp(message.headers).ordinal)

    subscriber = await connect(nats_server.url, name="subscriber")
    async with publishing(url, name, tmp_path / "spool", ack_timeout_s=1.0) as publisher:
        await subscriber.subscribe(name.filter, cb=see)
        await subscriber.flush()
        source = Source(publisher, name)
        line.swallow_answers = True
        source.send(20)
        await until(lambda: len(seen) == 20)
        source.send(30)
        await until(lambda: len(seen) == 49)  # the last one is kept for the commit
        assert await stored(nats_server.url, name) == {EPOCH: list(range(20))}
        await until(lambda: publisher.stats.losses == 1)
        line.swallow_answers = False
        assert await publisher.drain(10)
        assert (publisher.stats.landed_before, publisher.stats.acknowledged) == (20, 30)
        assert publisher.stats.resent == 0
    assert await stored(nats_server.url, name) == {EPOCH: list(range(50))}
    assert seen == [*range(49), *range(20, 50)]
    await subscriber.close()
    await line.close()


@asynchronous
async def test_requests_that_arrive_late_are_not_stored_again(nats_server: NatsServer, tmp_path: Path) -> None:
    name = name_of("late")
    line = Line(nats_server.port)
    url = await line.open()
    async with publishing(url, name, tmp_path / "spool", ack_timeout_s=0.3) as publisher:
        source = Source(publisher, name)
        source.send(10)
        await until(lambda: publisher.stats.acknowledged == 10)
        line.swallow_requests = True
        source.send(1500)
        await until(lambda: publisher.stats.losses == 1)
        line.swallow_requests = False
        held = line.held[:]
        line.held = [item for item in held if not item[1].startswith((b"CONNECT", b"SUB"))]
        assert await publisher.drain(20)
        line.deliver_held()
        source.send(10)
        assert await publisher.drain(5)
        await asyncio.sleep(0.2)
    assert await stored(nats_server.url, name) == {EPOCH: list(range(1520))}
    await line.close()


@asynchronous
async def test_ids_that_are_stored_already_are_left_out_one_by_one(nats_url: str, tmp_path: Path) -> None:
    name = name_of("twice")
    for part, (first, last) in enumerate([(100, 200), (0, 300)]):
        async with publishing(nats_url, name, tmp_path / f"spool{part}") as publisher:
            source = Source(publisher, name)
            source.count = first
            source.send(last - first)
            assert await publisher.drain(10)
            if part:
                assert (publisher.stats.landed_before, publisher.stats.acknowledged) == (100, 200)
    found = await stored(nats_url, name)
    assert sorted(found[EPOCH]) == list(range(300))


_CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_publisher import Source, name_of
from ssmd_stream.capture.publisher import Publisher

async def main(first):
    name = name_of("child")
    publisher = Publisher(nats_url={url!r}, stream=name, spool=Path({spool!r}))
    await publisher.start()
    source = Source(publisher, name)
    source.count = first
    stats = publisher.stats
    earlier = stats.spooled_messages
    print("started", flush=True)
    while True:
        source.send(20)
        await asyncio.sleep(0.004)
        print(first + stats.acknowledged + stats.landed_before + stats.spooled_messages - earlier, flush=True)

asyncio.run(main(int(sys.argv[1])))
"""


@asynchronous
async def test_process_killed_while_spooling_and_while_draining(nats_server: NatsServer, tmp_path: Path) -> None:
    chance = random.Random(7)
    name = name_of("child")
    spool = tmp_path / "spool"
    script = _CHILD.format(tests=str(Path(__file__).parent), url=nats_server.url, spool=str(spool))

    async def run_child(first: int, seconds: float, meanwhile: Callable[[], None] | None = None) -> int:
        """Run a publisher process for a while, kill it; returns how many messages it had made durable."""
        child = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", script, str(first)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        try:
            while await asyncio.to_thread(child.stdout.readline) != "started\n":
                assert child.poll() is None
            await asyncio.sleep(seconds / 2)
            if meanwhile is not None:
                meanwhile()
            await asyncio.sleep(seconds / 2)
        finally:
            child.send_signal(signal.SIGKILL)
        rest = await asyncio.to_thread(child.stdout.read)
        child.wait()
        child.stdout.close()
        counts = [int(text) for text in rest.split("\n")[:-1] if text.isdigit()]
        return max(counts, default=first)

    durable = [await run_child(0, 1.0, nats_server.kill)]  # live, then spooling
    for life in range(1, 5, 2):
        durable.append(await run_child(life * 1_000_000, 0.3))  # spooling behind what earlier lives left
        await nats_server.start()
        # draining, for too short a time, and spooling again
        durable.append(await run_child((life + 1) * 1_000_000, chance.uniform(0.0, 0.2), nats_server.kill))
    await nats_server.start()
    async with publishing(nats_server.url, name, spool) as publisher:
        assert await publisher.drain(20)
    ordinals = (await stored(nats_server.url, name))[EPOCH]
    for life, promised in enumerate(durable):
        of_life = [ordinal for ordinal in ordinals if ordinal // 1_000_000 == life]
        assert of_life == list(range(life * 1_000_000, life * 1_000_000 + len(of_life)))
        assert life * 1_000_000 + len(of_life) >= promised
    assert ordinals == sorted(ordinals)
    assert durable[0] > 1000


class FullDisk:
    """Opens segments that have room for `room` bytes in all."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, path: Path) -> BinaryIO:
        file = open_segment(path)
        disk = self

        class Limited:
            def write(self, data: bytes) -> int:
                count = min(len(data), disk.room)
                if count == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                disk.room -= count
                return file.write(data[:count])

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

        return Limited()  # type: ignore[return-value]


@asynchronous
async def test_full_disk_pauses_and_heals(nats_server: NatsServer, tmp_path: Path) -> None:
    name = name_of("full")
    disk = FullDisk(100_000)
    pressure: list[bool] = []
    options: dict[str, Any] = {"spool_opener": disk, "on_pressure": pressure.append}
    async with publishing(nats_server.url, name, tmp_path / "spool", **options) as publisher:
        source = Source(publisher, name)
        source.send(100)
        assert await publisher.drain(10)
        nats_server.kill()
        await until(lambda: not publisher.connected)
        for _ in range(10):
            source.send(100)
            await asyncio.sleep(0.02)
        await until(lambda: publisher.stats.spool_errors > 0)
        assert pressure == [True]
        assert "No space left" in (publisher.problem or "")
        assert publisher.backlog_bytes > 0
        disk.room = 10_000_000
        await until(lambda: publisher.backlog_bytes == 0)
        assert pressure == [True, False]
        disk.room = 0  # and again, until NATS is back
        source.send(1000)
        await until(lambda: pressure == [True, False, True])
        await nats_server.start()
        assert await publisher.drain(20)
        assert pressure == [True, False, True, False]
        assert publisher.problem is None
    assert await stored(nats_server.url, name) == {EPOCH: list(range(2100))}


@asynchronous
async def test_pressure_when_the_socket_is_faster(nats_url: str, tmp_path: Path) -> None:
    name = name_of("fast")
    pressure: list[bool] = []
    options: dict[str, Any] = {"on_pressure": pressure.append, "high_water_bytes": 500_000, "low_water_bytes": 200_000}
    async with publishing(nats_url, name, tmp_path / "spool", **options) as publisher:
        Source(publisher, name).send(3000)
        assert pressure == [True]
        assert await publisher.drain(10)
        assert pressure == [True, False]


@asynchronous
async def test_full_stream_is_refused_loudly_and_heals(nats_url: str, tmp_path: Path) -> None:
    name = name_of("bounded")
    client = await connect(nats_url, name="admin")
    await ensure_stream(client, name)
    config = (await api(client, f"STREAM.INFO.{name.jetstream}"))["config"]
    await api(client, f"STREAM.UPDATE.{name.jetstream}", {**config, "max_msgs": 500, "discard": "new"})
    async with publishing(nats_url, name, tmp_path / "spool") as publisher:
        source = Source(publisher, name)
        for _ in range(10):
            source.send(100)
            await asyncio.sleep(0.02)
        await until(lambda: publisher.stats.refused > 0 and publisher.problem)
        assert "maximum messages exceeded" in (publisher.problem or "")
        await until(lambda: publisher.stats.spooled_messages + publisher.stats.acknowledged == 1000)
        await api(client, f"STREAM.UPDATE.{name.jetstream}", {**config, "max_msgs": -1})
        assert await publisher.drain(20)
        assert publisher.problem is None
    assert await stored(nats_url, name) == {EPOCH: list(range(1000))}
    await client.close()


@asynchronous
async def test_wiped_stream_is_an_incident(nats_server: NatsServer, tmp_path: Path) -> None:
    name = name_of("wiped")
    async with publishing(nats_server.url, name, tmp_path / "spool") as publisher:
        source = Source(publisher, name)
        source.send(700)
        assert await publisher.drain(10)
        client = await connect(nats_server.url, name="admin")
        await api(client, f"STREAM.DELETE.{name.jetstream}")
        await client.close()
        source.send(300)
        assert await publisher.drain(20)
        assert publisher.stats.incidents == 1
    assert await stored(nats_server.url, name) == {EPOCH: list(range(700, 1000))}


@asynchronous
async def test_starts_without_nats_and_stops_without_it(tmp_path: Path, nats_server: NatsServer) -> None:
    name = name_of("absent")
    nats_server.kill()
    async with publishing(nats_server.url, name, tmp_path / "spool") as publisher:
        assert "cannot be reached" in (publisher.problem or "")
        source = Source(publisher, name)
        source.send(1234)
        assert not await publisher.drain(0.1)
        assert publisher.stats.spooled_messages == 1234
    await nats_server.start()
    async with publishing(nats_server.url, name, tmp_path / "spool") as publisher:
        source = Source(publisher, name)
        source.count = 1234
        source.send(766)
        assert await publisher.drain(10)
    assert await stored(nats_server.url, name) == {EPOCH: list(range(2000))}


@pytest.mark.parametrize("broken", ["_pump", "_skip_landed", "_send", "_step_back", "_spool_group"])
@asynchronous
async def test_a_task_that_dies_is_heard_of_and_loses_nothing(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    name = name_of("died")
    whole = getattr(Publisher, broken)
    failures: list[str | None] = []

    def fail(*_: Any) -> None:
        monkeypatch.setattr(Publisher, broken, whole)
        raise AttributeError("no such attribute")

    async def send_and_fail(*args: Any) -> None:
        await whole(*args)
        fail()

    def note_failure() -> None:
        failures.append(publisher.problem)

    async with publishing(nats_server.url, name, tmp_path / "spool", on_failure=note_failure) as publisher:
        source = Source(publisher, name)
        source.send(100)
        if broken != "_pump":
            assert await publisher.drain(10)
        monkeypatch.setattr(Publisher, broken, send_and_fail if broken == "_send" else fail)
        source.send(1500)
        if broken in ("_step_back", "_spool_group"):
            while not publisher._in_flight:  # sent, and perhaps stored
                await asyncio.sleep(0)
            nats_server.kill()
        source.send(250)
        await until(lambda: failures)
        source.send(250)
        task = "spooler" if broken == "_spool_group" else "connection"
        assert failures == [f"publisher task {task} failed: AttributeError: no such attribute"]
        start = time.monotonic()
        assert not await publisher.drain(0.5 if broken == "_spool_group" else 10)
        assert time.monotonic() - start < 5  # the dead are not waited for
        assert publisher.backlog_bytes == 0
        stats = publisher.stats
        assert stats.acknowledged + stats.landed_before + stats.spooled_messages == source.count
        assert stats.spooled_messages >= 250
        assert publisher.problem == failures[0]
    if broken in ("_step_back", "_spool_group"):
        await nats_server.start()
    async with publishing(nats_server.url, name, tmp_path / "spool") as publisher:
        assert await publisher.drain(10)
        assert publisher.problem is None
    assert await stored(nats_server.url, name) == {EPOCH: list(range(2100))}


@asynchronous
async def test_stream_is_made_checked_and_mended(nats_url: str) -> None:
    client = await connect(nats_url, name="admin")
    made = name_of("made")
    assert await ensure_stream(client, made, StreamLimits(max_age_s=60.0)) == await ensure_stream(client, made)
    config = (await api(client, f"STREAM.INFO.{made.jetstream}"))["config"]
    assert (config["max_age"], config["allow_atomic"], config["storage"]) == (60_000_000_000, True, "file")

    plain = name_of("before")
    await api(client, f"STREAM.CREATE.{plain.jetstream}", {"name": plain.jetstream, "subjects": [plain.prefix + ".>"]})
    await ensure_stream(client, plain)
    assert (await api(client, f"STREAM.INFO.{plain.jetstream}"))["config"]["allow_atomic"]

    wrong = name_of("wrong")
    config = {"name": wrong.jetstream, "subjects": ["elsewhere.*"], "storage": "memory", "max_msg_size": 1000}
    await api(client, f"STREAM.CREATE.{wrong.jetstream}", config)
    with pytest.raises(
        StreamMismatchError, match=r"elsewhere.*do not cover.*storage is 'memory'.*max_msg_size is 1000"
    ):
        await ensure_stream(client, wrong)
    await client.close()


def test_covers() -> None:
    assert covers("a.>", "a.b.>")
    assert covers("a.*.c", "a.b.c")
    assert covers("a.b.>", "a.b.>")
    assert not covers("a.*", "a.>")
    assert not covers("a.b", "a.b.c")
    assert not covers("a.b.c.>", "a.b.c")
    assert not covers("a.b", "a.*")


def test_landed_keeps_ranges() -> None:
    landed = Landed()
    numbers = [*range(10), *range(20, 30), 15, 14, 16, 3, 19, 18, 17, *range(10, 14)]
    for number in numbers:
        landed.add("e", number)
    assert landed._ranges == {"e": [[0, 30]]}
    landed.add("e", 40)
    assert [landed.holds("e", n) for n in (0, 29, 30, 39, 40, 41)] == [True, True, False, False, True, False]
    assert not landed.holds("f", 0)
