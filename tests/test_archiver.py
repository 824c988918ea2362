"""The archiver against a real NATS server: killed, restarted, deceived, with its stream changed under it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from nats.aio.client import Client

from ssmd_core.archive.manifest import load_manifest
from ssmd_core.archive.members import iter_lines
from ssmd_core.archive.paths import SLOT_US, Slot
from ssmd_core.archive.verify import verify_archive
from ssmd_core.errors import ArchiveError, StreamMismatchError
from ssmd_core.feeds import get
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.control import control_event
from ssmd_core.messages.headers import MSG_ID, RECV_NS, Stamp, stamp_headers
from ssmd_core.messages.lines import Line, parse_line
from ssmd_stream import jetstream
from ssmd_stream.archive import folder as folder_module
from ssmd_stream.archive.archiver import StreamArchiver
from ssmd_stream.archive.pull import Delivery
from ssmd_stream.capture.publisher import Publisher
from ssmd_stream.servers.http import health_reason
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.ports import choose_port

TRADE = b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":86210.2,"n":%d}]}'
START_NS = 1_795_000_000_000_000_000 // (SLOT_US * 1000) * (SLOT_US * 1000)
SLOT_NS = SLOT_US * 1000


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


class Feeder:
    """Publishes straight to a stream, one acknowledged message after the other."""

    def __init__(self, client: Client, name: StreamName) -> None:
        self.client, self.name, self.sent = client, name, 0

    async def put(self, payload: bytes, headers: dict[str, str] | None) -> int:
        """Publish one message; returns its sequence."""
        ack = await self.client.jetstream().publish(self.name.subject("trade", "XXBTZUSD"), payload, headers=headers)
        return int(ack.seq)

    async def trades(self, count: int, recv_ns: int = START_NS, epoch: str = "c0-a") -> None:
        """Publish numbered trades."""
        for _ in range(count):
            stamp = Stamp(epoch, self.sent, recv_ns + self.sent)
            await self.put(TRADE % self.sent, stamp_headers(stamp))
            self.sent += 1

    async def tick(self, recv_ns: int) -> None:
        """Close every slot before this moment."""
        stamp = Stamp(f"c9-{recv_ns}", 0, recv_ns)
        await self.put(control_event("closed", "c9"), stamp_headers(stamp))


@contextlib.asynccontextmanager
async def feeder(nats_url: str, stream: str) -> AsyncIterator[Feeder]:
    """A feeder of a new stream."""
    name = StreamName("test", get("kraken"), stream)
    client = await jetstream.connect(nats_url, name="test")
    try:
        await jetstream.ensure_stream(client, name)
        yield Feeder(client, name)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def archiving(name: StreamName, root: Path, nats_url: str) -> AsyncIterator[StreamArchiver]:
    """An archiver in this process; what it raises is raised at the end."""
    archiver = StreamArchiver(name, root, nats_url)
    stop = asyncio.Event()
    task = asyncio.create_task(archiver.run(stop))
    try:
        yield archiver
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)


async def until(condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        await asyncio.sleep(0.02)


def archived(root: Path) -> list[Line]:
    """Every line of every file, sealed or not, by sequence."""
    paths = [*root.rglob("*.jsonl.gz"), *root.rglob("*.jsonl.gz.part")]
    return sorted((parse_line(line) for path in paths for line in iter_lines(path)), key=lambda line: line.nats_seq)


def assert_complete(root: Path, sent: int, *, lost: int = 0) -> None:
    """Every trade is in a sealed file, once, and verify holds."""
    check = verify_archive(root)
    assert check.problems == []
    assert check.lost == lost
    assert not list(root.rglob("*.tmp"))
    payloads = [line.payload for line in archived(root) if line.payload.startswith(TRADE[:60])]
    assert sorted(payloads) == sorted(TRADE % number for number in range(sent))


@asynchronous
async def test_what_is_stored_is_sealed_with_its_bytes(tmp_path: Path, nats_url: str) -> None:
    strange = [
        b"PONG",
        b"{}",
        b"{ }",
        b"\xff\x00\n\r",
        b"",
        b'{"a":"' + b"[" * 100_000 + b'"}',
        b'{"channel":"trade","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"channel":"trade","_nats_seq":1}',
        b'{"channel":"trade","x":"' + b"\x7f" * (16 * 1024 * 1024 - 40) + b'"}',
        b"\x00" * (16 * 1024 * 1024),
    ]
    async with feeder(nats_url, "bytes") as feed, archiving(feed.name, tmp_path, nats_url) as archiver:
        await feed.trades(3)
        for ordinal, payload in enumerate(strange):
            await feed.put(payload, stamp_headers(Stamp("c1-a", ordinal, START_NS + ordinal)))
        await feed.tick(START_NS + SLOT_NS)
        await until(lambda: archiver.stats.files_sealed == 1)
    lines = archived(tmp_path)
    assert [line.payload for line in lines if line.epoch == "c1-a"] == strange
    assert [line.nats_seq for line in lines] == list(range(1, len(lines) + 1))
    assert {line.recv_us for line in lines if line.epoch == "c0-a"} == {START_NS // 1000}
    assert_complete(tmp_path, 3)


@asynchronous
async def test_messages_that_ssmd_did_not_publish_are_archived_too(tmp_path: Path, nats_url: str) -> None:
    async with feeder(nats_url, "foreign") as feed, archiving(feed.name, tmp_path, nats_url) as archiver:
        headers: Sequence[dict[str, str] | None] = [
            None,
            {"X-Other": "1"},
            {MSG_ID: "unstamped:4", RECV_NS: str(START_NS)},
            {MSG_ID: "not an epoch:1"},
            {MSG_ID: "c0-a:1"},
            {MSG_ID: "c0-a:2", RECV_NS: "soon"},
        ]
        for number, header in enumerate(headers):
            await feed.put(TRADE % number, header)
        await feed.tick(time.time_ns() + SLOT_NS)
        await until(lambda: archiver.stats.files_sealed > 0)
        assert archiver.stats.unstamped == len(headers)
    assert_complete(tmp_path, len(headers))


@asynchronous
async def test_a_message_under_two_sequences_is_archived_once(tmp_path: Path, nats_url: str) -> None:
    """After more than the server's duplicate window a batch that was sent again is stored again."""
    async with feeder(nats_url, "twice") as feed:
        stream = feed.name.jetstream
        config = (await jetstream.api(feed.client, f"STREAM.INFO.{stream}"))["config"]
        await jetstream.api(feed.client, f"STREAM.UPDATE.{stream}", {**config, "duplicate_window": 100_000_000})
        async with archiving(feed.name, tmp_path, nats_url) as archiver:
            await feed.trades(5)
            await asyncio.sleep(0.4)
            feed.sent = 2
            await feed.trades(2)
            await feed.trades(1)  # number 4, the third one again
            feed.sent = 5
            await feed.trades(2)
            await until(lambda: archiver.stats.last_seq == 10)
            assert archiver.stats.duplicates == 3
        async with archiving(feed.name, tmp_path, nats_url) as archiver:  # and a restart knows them still
            feed.sent = 0
            await feed.trades(1)
            feed.sent = 7
            await feed.tick(START_NS + SLOT_NS)
            await until(lambda: archiver.stats.files_sealed == 1)
            assert archiver.stats.duplicates == 1
    assert_complete(tmp_path, 7)
    manifest = load_manifest(next(tmp_path.rglob("manifest.json")).parent)
    assert manifest is not None
    assert [(gap.after_seq, gap.missing, gap.reason) for gap in manifest.gaps] == [
        (5, 3, "duplicate"),
        (10, 1, "duplicate"),
    ]
    assert not manifest.has_gaps


@asynchronous
async def test_late_messages_and_midnight(tmp_path: Path, nats_url: str) -> None:
    day_ns = 96 * SLOT_NS
    midnight_ns = (START_NS // day_ns + 1) * day_ns
    async with feeder(nats_url, "late") as feed, archiving(feed.name, tmp_path, nats_url) as archiver:
        for recv_ns in (
            midnight_ns - SLOT_NS,
            midnight_ns - 1_000_000,
            midnight_ns,
            midnight_ns - 2_000_000,  # a straggler of yesterday
            midnight_ns + 1_000_000,
            midnight_ns + day_ns,  # the clock jumps ahead
            midnight_ns + 2_000_000,  # and back
        ):
            await feed.trades(2, recv_ns)
        await feed.tick(midnight_ns + 2 * day_ns)
        await until(lambda: archiver.stats.files_sealed == 5)
        assert archiver.stats.late == 4
    assert_complete(tmp_path, 14)
    files = sorted(str(path.relative_to(tmp_path / "kraken" / "late"))[11:] for path in tmp_path.rglob("*.jsonl.gz"))
    assert files == ["0000-01.jsonl.gz", "0000.jsonl.gz", "0000.jsonl.gz", "2345-01.jsonl.gz", "2345.jsonl.gz"]


@asynchronous
async def test_expired_and_deleted_messages_are_recorded_as_gaps(tmp_path: Path, nats_url: str) -> None:
    async with feeder(nats_url, "holes") as feed:
        stream = feed.name.jetstream
        async with archiving(feed.name, tmp_path, nats_url) as archiver:
            await feed.trades(3)
            await until(lambda: archiver.stats.last_seq == 3)
        await feed.trades(7)
        await jetstream.api(feed.client, f"STREAM.PURGE.{stream}", {"seq": 6})  # 4 and 5 have expired
        await jetstream.api(feed.client, f"STREAM.MSG.DELETE.{stream}", {"seq": 8, "no_erase": True})
        async with archiving(feed.name, tmp_path, nats_url) as archiver:
            await feed.tick(START_NS + SLOT_NS)
            await until(lambda: archiver.stats.files_sealed == 1)
            assert archiver.stats.lost == 3
    check = verify_archive(tmp_path)
    assert check.problems == []
    assert check.lost == 3
    manifest = load_manifest(next(tmp_path.rglob("manifest.json")).parent)
    assert manifest is not None
    assert [(gap.after_seq, gap.missing, gap.reason) for gap in manifest.gaps] == [(3, 2, "expired"), (7, 1, "deleted")]


@asynchronous
async def test_a_deleted_consumer_is_made_again(tmp_path: Path, nats_url: str) -> None:
    async with feeder(nats_url, "consumer") as feed, archiving(feed.name, tmp_path, nats_url) as archiver:
        for round_ in range(3):
            await feed.trades(5)
            await until(lambda seq=5 * (round_ + 1): archiver.stats.last_seq == seq)  # type: ignore[misc]
            await jetstream.api(feed.client, f"CONSUMER.DELETE.{feed.name.jetstream}.archiver", {})
        await feed.tick(START_NS + SLOT_NS)
        await until(lambda: archiver.stats.files_sealed == 1)
    assert_complete(tmp_path, 15)


@asynchronous
async def test_a_remade_stream_stops_the_archiver_even_when_it_has_outgrown_the_archive(
    tmp_path: Path, nats_url: str
) -> None:
    async with feeder(nats_url, "remade") as feed:
        async with archiving(feed.name, tmp_path, nats_url) as archiver:
            await feed.trades(5)
            await until(lambda: archiver.stats.last_seq == 5)
        await jetstream.api(feed.client, f"STREAM.DELETE.{feed.name.jetstream}")
        await jetstream.ensure_stream(feed.client, feed.name)
        await feed.trades(3)
        for _ in range(2):
            with pytest.raises(ArchiveError, match="recreated"):
                await StreamArchiver(feed.name, tmp_path, nats_url).run(asyncio.Event())
            await feed.trades(5)
    assert len(archived(tmp_path)) == 5


@asynchronous
async def test_a_stream_of_other_subjects_is_refused(tmp_path: Path, nats_url: str) -> None:
    """Sequences of a stream that holds more than the feed's subjects would jump and look like losses."""
    name = StreamName("wide", get("kraken"), "spot")
    client = await jetstream.connect(nats_url, name="test")
    try:
        config = {"name": name.jetstream, "subjects": ["wide.>"], "storage": "file"}
        await jetstream.api(client, f"STREAM.CREATE.{name.jetstream}", config)
        with pytest.raises(StreamMismatchError, match="wide"):
            await StreamArchiver(name, tmp_path, nats_url).run(asyncio.Event())
    finally:
        await client.close()


@asynchronous
async def test_nats_may_come_late_and_be_killed_under_load(tmp_path: Path, nats_server: NatsServer) -> None:
    name = StreamName("test", get("kraken"), "spot")
    root = tmp_path / "archive"
    nats_server.kill()
    chance = random.Random(7)
    async with archiving(name, root, nats_server.url) as archiver:
        await until(lambda: "cannot be reached" in archiver.stats.problem)
        await nats_server.start()
        publisher = Publisher(nats_url=nats_server.url, stream=name, spool=tmp_path / "spool")
        await publisher.start()
        sent = 0
        for _ in range(4):
            end_s = time.monotonic() + chance.uniform(0.2, 0.6)
            while time.monotonic() < end_s:
                for _ in range(100):
                    publisher.publish(name.subject("trade", "X"), TRADE % sent, Stamp("c0-a", sent, START_NS + sent))
                    sent += 1
                await asyncio.sleep(0.02)
            nats_server.kill()
            await asyncio.sleep(chance.uniform(0, 0.3))
            await nats_server.start()
        assert await publisher.drain(30)
        publisher.publish(
            name.subject("control", "c9"), control_event("closed", "c9"), Stamp("c9-z", 0, START_NS + SLOT_NS)
        )
        assert await publisher.drain(30)
        await publisher.close()
        await until(lambda: archiver.stats.files_sealed == 1, 30)
    assert_complete(root, sent)


@asynchronous
async def test_a_full_disk_stops_acknowledging_and_heals(
    tmp_path: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLIMIT_FSIZE of this process stands for the disk: a file may not grow beyond it."""
    async with feeder(nats_url, "full") as feed, archiving(feed.name, tmp_path, nats_url) as archiver:
        await feed.trades(5)
        await until(lambda: archiver.stats.last_seq == 5)
        size = next(tmp_path.rglob("*.part")).stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
        try:
            await feed.trades(5)
            await until(lambda: archiver.stats.commit_failures > 1)
            assert "cannot write" in archiver.stats.problem
            assert archiver.stats.archived == 5
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await feed.tick(START_NS + SLOT_NS)
        await until(lambda: archiver.stats.files_sealed == 1)
        assert archiver.stats.problem == ""
    assert_complete(tmp_path, 10)


# A crash at every step on the way to the disk.


class Crash(BaseException):
    """The process is gone: nothing may catch it and go on."""


class NoServer:
    """Takes acknowledgements; deliveries come from a list."""

    async def acknowledge(self, delivery: Delivery) -> None:
        self.acknowledged = delivery.stream_seq


def deliveries() -> list[Delivery]:
    """Three slots side by side, duplicates, a hole in the stream, a slot that is sealed while another is open."""
    made = []
    ordinal = 0
    for seq in range(1, 61):
        if seq in (20, 21, 50):
            continue  # gone from the stream
        late_ns = SLOT_NS if seq % 9 == 0 and seq > 12 else 0
        recv_ns = START_NS + (seq // 12) * SLOT_NS + seq - late_ns
        headers = stamp_headers(Stamp("c0-a", ordinal if seq % 13 else ordinal - 2, recv_ns))
        block = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        number = ordinal if seq % 13 else ordinal - 2
        made.append(Delivery(b"s", block.encode(), TRADE % number, seq, 0, 0, b""))
        ordinal += seq % 13 != 0
    return made


async def archive_until_the_crash(root: Path, stream: list[Delivery]) -> None:
    archiver = StreamArchiver(StreamName("test", get("kraken"), "spot"), root, "nats://nowhere")
    server = NoServer()
    archiver.folder.lock()
    try:
        archiver.folder.recover()
        for index, delivery in enumerate(stream):
            if delivery.stream_seq <= archiver.folder.last_seq:
                continue
            if archiver.folder.ahead is None or delivery.stream_seq not in archiver.folder.ahead:
                await archiver._archive(server, delivery)  # type: ignore[arg-type]
            if index % 5 == 4:
                await archiver._commit(server)  # type: ignore[arg-type]
        await archiver._commit(server)  # type: ignore[arg-type]
        archiver.folder.seal_before(Slot.of(START_NS // 1000 + 99 * SLOT_US))
    finally:
        archiver.folder.close()


@pytest.mark.parametrize("half_written", [False, True])
def test_a_crash_at_any_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half_written: bool) -> None:
    stream = deliveries()
    steps = 0
    crash_at = -1

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == crash_at:
            raise Crash

    def stepped(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            step()
            return real(*args, **options)

        monkeypatch.setattr(owner, name, call)

    real_write = folder_module._write_all

    def write(file: IO[bytes], content: bytes) -> None:
        try:
            step()
        except Crash:
            if half_written:
                real_write(file, content[: len(content) // 2])
            raise
        real_write(file, content)

    monkeypatch.setattr(folder_module, "_write_all", write)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: step())
    for name in ("rename", "replace", "mkdir", "unlink"):
        stepped(Path, name)
    asyncio.run(archive_until_the_crash(tmp_path / "whole", stream))
    expected = [(line.nats_seq, line.payload) for line in archived(tmp_path / "whole")]
    assert len(expected) == 53
    total, crash_at = steps, 0
    assert total > 100
    for crash_at in range(1 + half_written, total + 1, 2):
        root = tmp_path / str(crash_at)
        steps = 0
        with contextlib.suppress(Crash):
            asyncio.run(archive_until_the_crash(root, stream))
        # The second life may crash as well, on its own way; the third must finish.
        steps = crash_at - 7
        with contextlib.suppress(Crash):
            asyncio.run(archive_until_the_crash(root, stream))
        steps = total * 2
        asyncio.run(archive_until_the_crash(root, stream))
        check = verify_archive(root)
        assert check.problems == [], crash_at
        assert check.lost == 3
        assert [(line.nats_seq, line.payload) for line in archived(root)] == expected, crash_at
        assert not list(root.rglob("*.tmp"))
        shutil.rmtree(root)


# As a process.


class Archiver:
    """`python -m ssmd_stream.archive kraken/spot`."""

    def __init__(self, data: Path, nats_url: str, *, health_port: int | None = None) -> None:
        argv = [sys.executable, "-m", "ssmd_stream.archive", "kraken/spot"]
        argv += ["--health-port", str(health_port)] if health_port else []
        env = {**os.environ, "SSMD_DATA": str(data), "SSMD_ENV": "test", "NATS_URL": nats_url}
        with (data / "archiver.log").open("ab") as log:
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; returns the exit code and the seconds that it took."""
        started_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), time.monotonic() - started_s


async def kill_again_and_again(tmp_path: Path, nats_url: str, *, kills: int, seed: int) -> int:
    """Kill an archiver at random moments while a publisher feeds it; returns how many messages were sent.

    Receive times run 200 times as fast as the clock, back and forth over the slots' ends, so that kills meet sealing
    and slots that are open side by side.
    """
    name = StreamName("test", get("kraken"), "spot")
    chance = random.Random(seed)
    publisher = Publisher(nats_url=nats_url, stream=name, spool=tmp_path / "spool")
    await publisher.start()
    sent = 0
    started_ns = time.monotonic_ns()
    over = False

    async def feed() -> None:
        nonlocal sent
        while not over:
            for _ in range(20):
                run_ns = (time.monotonic_ns() - started_ns) * 200 - chance.choice([0, 0, 0, SLOT_NS // 20])
                stamp = Stamp("c0-a", sent, START_NS + max(run_ns, 0))
                publisher.publish(name.subject("trade", "X"), TRADE % sent, stamp)
                sent += 1
            await asyncio.sleep(0.01)

    feeding = asyncio.create_task(feed())
    try:
        for _ in range(kills):
            archiver = Archiver(tmp_path, nats_url)
            # It is up after 0.5 s; commits follow each second, seals every 4.5 s.
            await asyncio.sleep(chance.choice([chance.uniform(0.3, 0.9), chance.uniform(0.5, 2.0)]))
            archiver.kill()
    finally:
        over = True
        await feeding
    end_ns = START_NS + (time.monotonic_ns() - started_ns) * 200 + 2 * SLOT_NS
    publisher.publish(name.subject("control", "c9"), control_event("closed", "c9"), Stamp("c9-z", 0, end_ns))
    assert await publisher.drain(30)
    await publisher.close()
    archiver = Archiver(tmp_path, nats_url)
    root = tmp_path / "archive"
    await until(lambda: any(line.epoch == "c9-z" for line in archived_parts(root)), 60)
    code, seconds = await asyncio.to_thread(archiver.terminate)
    assert (code, seconds < 10) == (0, True)
    return sent


def archived_parts(root: Path) -> list[Line]:
    with contextlib.suppress(OSError):
        return [parse_line(line) for path in root.rglob("*.part") for line in iter_lines(path)]
    return []


@asynchronous
async def test_killed_twenty_times_it_loses_nothing_and_seals_nothing_twice(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    sent = await kill_again_and_again(tmp_path, nats_server.url, kills=20, seed=int(os.environ.get("SSMD_SEED", "1")))
    assert sent > 5_000
    assert len(list(tmp_path.rglob("*.jsonl.gz"))) > 3
    assert_complete(tmp_path / "archive", sent)


@asynchronous
async def test_sigterm_commits_and_ends_with_code_0(tmp_path: Path, nats_url: str) -> None:
    name = StreamName("test", get("kraken"), "spot")
    client = await jetstream.connect(nats_url, name="test")
    try:
        await jetstream.ensure_stream(client, name)
        archiver = Archiver(tmp_path, nats_url, health_port=choose_port(None))
        feed = Feeder(client, name)
        await until((tmp_path / "archive" / "kraken" / "spot" / ".stream").exists)
        await feed.trades(500)
        await asyncio.sleep(0.3)  # delivered, most of it not yet committed
        code, seconds = await asyncio.to_thread(archiver.terminate)
        assert (code, seconds < 10) == (0, True)
        assert len(archived(tmp_path)) == 500
        consumer = await jetstream.api(client, f"CONSUMER.INFO.{name.jetstream}.archiver")
        assert consumer["ack_floor"]["stream_seq"] == 500
    finally:
        await client.close()


def test_sigterm_ends_it_while_nats_is_away(tmp_path: Path) -> None:
    archiver = Archiver(tmp_path, f"nats://127.0.0.1:{choose_port(None)}")
    time.sleep(1.5)
    code, seconds = archiver.terminate()
    assert (code, seconds < 10) == (0, True)


def test_a_second_archiver_on_the_folder_fails_and_says_why(tmp_path: Path) -> None:
    url = f"nats://127.0.0.1:{choose_port(None)}"
    first = Archiver(tmp_path, url)
    lock = tmp_path / "archive" / "kraken" / "spot" / ".lock"
    while not lock.exists():
        time.sleep(0.02)
    second = Archiver(tmp_path, url)
    assert second.process.wait(20) == 1
    assert "another archiver is writing here" in (tmp_path / "archiver.log").read_text()
    first.kill()


@asynchronous
async def test_a_stream_that_fails_does_not_stop_the_others(tmp_path: Path, nats_url: str) -> None:
    root = tmp_path / "archive"
    bad = root / "kraken" / "broken" / "2026-11-18"
    bad.mkdir(parents=True)
    (bad / "manifest.json").write_text("{}")
    async with feeder(nats_url, "neighbour") as feed:
        port = choose_port(None)
        argv = [sys.executable, "-m", "ssmd_stream.archive", "kraken/broken", "kraken/neighbour"]
        env = {**os.environ, "SSMD_DATA": str(tmp_path), "SSMD_ENV": "test", "NATS_URL": nats_url}
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *argv, "--health-port", str(port), env=env, stdout=log, stderr=log
            )
        try:
            await until(lambda: b"does not end in its own sha256" in (tmp_path / "log").read_bytes())
            await feed.trades(20)
            await until(lambda: len(archived(root / "kraken" / "neighbour")) == 20)
            reason = await health_reason(f"http://127.0.0.1:{port}/health")
            assert reason is not None
            assert "kraken/broken" in reason
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 15) == 1
