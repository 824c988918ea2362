"""CDC when Postgres goes back in time or hangs, transactions stay open, publications change, the stream is full."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from ssmd_core.db.migrate import migrate
from ssmd_stream import jetstream
from ssmd_stream.cdc import slot as slots
from ssmd_stream.cdc import stats as cdc_stats
from ssmd_stream.cdc.daemon import CdcOptions, keep_streaming
from ssmd_stream.cdc.errors import ResnapshotNeededError, RewoundError
from ssmd_stream.cdc.names import STREAM
from ssmd_stream.cdc.replication import Replication
from ssmd_stream.cdc.resnapshot import resnapshot
from ssmd_stream.cdc.stats import CdcStats
from ssmd_stream.cdc.stream import Record, read_record
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.postgres import PostgresServer
from ssmd_stream.servers.process import Process
from tests.cdc_rig import PACE, add_series, count, database, running, settings, slot_name, until


async def record_of(slot: str, nats_url: str) -> Record | None:
    client = await jetstream.connect(nats_url, name="test", reconnect=False)
    try:
        return await read_record(client, slot)
    finally:
        await jetstream.abort(client)


@pytest.mark.parametrize("log", ["shorter", "longer"])
def test_postgres_goes_back_in_time(log: str, nats_server: NatsServer, tmp_path: Path) -> None:
    """An older copy of the data is put back: at once, or when its log has grown beyond what was published."""
    folder, copy = tmp_path / "postgres", tmp_path / "copy"
    server = PostgresServer(folder, port=None)
    slot = slot_name()

    async def publish(first: int, last: int) -> None:
        async with running(slot, nats_server.url, server.url) as cdc:
            with database(server.url) as db:
                add_series(db, first, last)
            await until(lambda: cdc.stats.transactions == 1, "the rows")

    async def go() -> None:
        await server.start()
        try:
            await asyncio.to_thread(migrate, server.url)
            await publish(1, 10)
            await server.stop()
            shutil.copytree(folder, copy)
            shutil.chown(copy, *_owner(folder))
            for path in copy.rglob("*"):
                shutil.chown(path, *_owner(folder / path.relative_to(copy)))
            await server.start()
            await publish(11, 500)
            await server.stop()
            shutil.rmtree(folder)
            copy.rename(folder)
            await server.start()
            with database(server.url) as db:
                if log == "longer":
                    add_series(db, 1_001, 1_100)
                    add_series(db, 2_001, 4_000)
            for expected in (RewoundError, ResnapshotNeededError):
                with pytest.raises(expected):
                    async with running(slot, nats_server.url, server.url) as cdc:
                        await until(cdc.task.done, "the stop")
            report = (await resnapshot(slot, nats_server.url, server.url)).tables["series"]
            assert (report.same, report.extra, report.aged_out) == (10, 490, 0)
            assert report.lost == (2_100 if log == "longer" else 0)
        finally:
            await server.stop()

    asyncio.run(go())


def _owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def test_a_slot_waits_for_open_transactions(nats_server: NatsServer, database_url: str) -> None:
    """The stop does not; a slot that somebody is making is not taken for one that was made."""
    slot = slot_name()
    options = CdcOptions(slot=slot, pace=PACE)

    async def go() -> None:
        with psycopg.connect(database_url) as writer, database(database_url) as db:
            add_series(writer, 1, 1)
            stop, stats = asyncio.Event(), CdcStats()
            task = asyncio.create_task(keep_streaming(options, settings(nats_server.url, database_url), stats, stop))
            await until(lambda: f"pid {writer.info.backend_pid}" in stats.problem, "the reason")
            stop.set()
            await asyncio.wait_for(task, 3)
            made = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
            assert db.execute(made, (slot,)).fetchone() is None

            maker = await Replication.connect(database_url)
            making = asyncio.create_task(maker.create_slot(slot))
            await until(lambda: db.execute(made, (slot,)).fetchone() == (None,), "a slot half made")
            stop = asyncio.Event()
            task = asyncio.create_task(keep_streaming(options, settings(nats_server.url, database_url), stats, stop))
            await until(lambda: "is being made by" in stats.problem, "the reason")
            record = await record_of(slot, nats_server.url)
            assert record is not None
            assert record.phase == "creating"
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            maker.close()
            await until(lambda: f"pid {writer.info.backend_pid}" in stats.problem, "its own turn")
            writer.commit()
            await until(lambda: stats.sessions, "the first session")
            add_series(db, 2, 3)
            await until(lambda: stats.transactions == 1, "the rows")
            stop.set()
            await task

    asyncio.run(go())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_resnapshot_that_waits_can_be_stopped(
    number: signal.Signals, nats_server: NatsServer, database_url: str, tmp_path: Path
) -> None:
    slot, log = slot_name(), tmp_path / "log"

    async def go() -> None:
        async with running(slot, nats_server.url, database_url):
            pass
        with psycopg.connect(database_url) as writer:
            add_series(writer, 1, 1)
            env = {**os.environ, "NATS_URL": nats_server.url, "DATABASE_URL": database_url}
            command = [
                sys.executable,
                "-c",
                "from ssmd_api.cli.main import main; main()",
                *f"cdc resnapshot --slot {slot}".split(),
            ]
            process = Process.start(command, log_path=log, env=env)
            await until(lambda: f"open transactions of pid {writer.info.backend_pid}" in log.read_text(), "the log")
            await process.stop(number, 5)
            assert process.poll() == 128 + number
        assert (await resnapshot(slot, nats_server.url, database_url)).tables["series"].rows == 1
        async with running(slot, nats_server.url, database_url):
            pass

    asyncio.run(go())


def test_postgres_hangs(nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = PostgresServer(tmp_path / "postgres", port=None)
    monkeypatch.setattr(slots, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(cdc_stats, "GRACE_S", 0.5)

    async def go() -> None:
        await server.start()
        await asyncio.to_thread(migrate, server.url)
        pid = int(next((tmp_path / "postgres").rglob("postmaster.pid")).read_text().split()[0])
        stopped: list[psutil.Process] = []
        try:
            async with running(slot_name(), nats_server.url, server.url) as cdc:
                stopped = [psutil.Process(pid), *psutil.Process(pid).children()]
                for process in stopped:
                    process.suspend()
                await until(lambda: not cdc.stats.health().ok, "bad health", 5)
                assert "Postgres away" in str(cdc.stats.health().body["reason"])
                before_s = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - before_s < 8
        finally:
            for process in stopped:
                if process.is_running():
                    process.resume()
            await server.stop()

    asyncio.run(go())


def test_the_record_is_a_heartbeat(nats_server: NatsServer, database_url: str) -> None:
    slot = slot_name()

    async def go() -> None:
        async with running(slot, nats_server.url, database_url):
            times = set()
            for _ in range(3):
                await asyncio.sleep(0.4)
                record = await record_of(slot, nats_server.url)
                assert record is not None
                assert record.seq == 0
                times.add(record.at)
            assert len(times) == 3

    asyncio.run(go())


def test_a_table_that_leaves_the_publication_is_missed(nats_server: NatsServer, database_url: str) -> None:
    slot = slot_name()
    tables = "series, events, markets, series_fees, pairs, polymarket_conditions, polymarket_tokens"

    async def go() -> None:
        with database(database_url) as db:
            with pytest.raises(ResnapshotNeededError, match="publication"):
                async with running(slot, nats_server.url, database_url) as cdc:
                    db.execute("ALTER PUBLICATION ssmd_cdc_pub DROP TABLE series")
                    add_series(db, 1, 3)
                    db.execute("ALTER PUBLICATION ssmd_cdc_pub ADD TABLE series")
                    await until(cdc.task.done, "the stop")
            assert (await resnapshot(slot, nats_server.url, database_url)).published == 3
            async with running(slot, nats_server.url, database_url):
                pass
            db.execute("DROP PUBLICATION ssmd_cdc_pub")
            add_series(db, 4, 5)
            db.execute(f"CREATE PUBLICATION ssmd_cdc_pub FOR TABLE {tables}".encode())
            with pytest.raises(ResnapshotNeededError, match="publication"):
                async with running(slot, nats_server.url, database_url):
                    pass
            assert (await resnapshot(slot, nats_server.url, database_url)).published == 2

    asyncio.run(go())


def test_a_full_stream(nats_server: NatsServer, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again ever more seldom, and /health says so although every session begins well."""
    monkeypatch.setattr(cdc_stats, "GRACE_S", 1.0)

    async def limit(most: int) -> None:
        client = await jetstream.connect(nats_server.url, name="test", reconnect=False)
        config = (await jetstream.api(client, f"STREAM.INFO.{STREAM}"))["config"]
        config |= {"discard": "new", "max_msgs": most}
        await jetstream.api(client, f"STREAM.UPDATE.{STREAM}", config)
        await jetstream.abort(client)

    async def go() -> None:
        async with running(slot_name(), nats_server.url, database_url) as cdc:
            with database(database_url) as db:
                add_series(db, 1, 10)
                await until(lambda: cdc.stats.transactions == 1, "the rows")
                await limit(10)
                add_series(db, 11, 20)
            await asyncio.sleep(3)
            assert cdc.stats.sessions < 10
            assert not cdc.stats.health().ok
            assert "NATS away" in str(cdc.stats.health().body["reason"])
            await limit(-1)
            await until(lambda: cdc.stats.transactions == 2, "the rest")
            assert cdc.stats.health().ready
        assert await count(nats_server.url) == 20

    asyncio.run(go())


def test_a_connection_that_died_can_be_disarmed(database_url: str) -> None:
    async def go() -> None:
        replication = await Replication.connect(database_url)
        replication.arm(lambda: None)
        replication._connection.finish()
        replication.close()

    asyncio.run(go())
