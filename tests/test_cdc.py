"""CDC from a real Postgres into a real NATS: what comes, in which order, and what survives which accident."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from ssmd_core.db.connect import connect
from ssmd_core.db.values import RowEncoder, text_session
from ssmd_core.errors import ConfigError
from ssmd_stream import jetstream
from ssmd_stream.cdc.consume import ChangeFeed, ChangesLostError
from ssmd_stream.cdc.errors import OversizedChangeError, ResnapshotNeededError, SlotBusyError
from ssmd_stream.cdc.names import STATE_STREAM, STREAM
from ssmd_stream.cdc.resnapshot import resnapshot
from ssmd_stream.cdc.stats import CdcCollector
from ssmd_stream.cdc.status import cdc_status
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.postgres import PostgresServer
from ssmd_stream.servers.process import Process
from tests.cdc_rig import (
    add_series,
    check_order,
    count,
    database,
    events,
    fold,
    running,
    slot_name,
    start_process,
    until,
)


async def table_json(database_url: str, table: str, key: str) -> dict[str, bytes]:
    """Rows as the cache's warm-up reads them, by key."""
    connection = await connect(database_url, name="test")
    try:
        await text_session(connection)
        cursor = await connection.execute(f"SELECT * FROM {table}".encode())
        assert cursor.description is not None
        encoder = RowEncoder.of(cursor.description)
        names = [column.name for column in cursor.description]
        return {json.dumps({key: row[names.index(key)].decode()}): encoder.row(row) for row in await cursor.fetchall()}
    finally:
        await connection.close()


def data_of(raw: bytes) -> bytes:
    match = re.search(rb'"data":(\{.*\})(?:,"unchanged".*)?,"commit_ts":"[^"]*","timestamp":"[^"]*"\}\Z', raw)
    assert match is not None
    return match[1]


async def equal(nats_url: str, database_url: str, table: str = "series", key: str = "ticker") -> None:
    """A fold of the stream is the table, byte for byte where nothing was left out."""
    found = await events(nats_url)
    check_order(found)
    rows = await table_json(database_url, table, key)
    assert fold(found, table) == {name: orjson.loads(row) for name, row in rows.items()}


def test_every_kind_of_change(nats_server: NatsServer, database_url: str) -> None:
    slot = slot_name()
    big = "x" * 9_000 + "".join(random.Random(1).choices("abcdefghij", k=9_000))

    async def go() -> None:
        async with running(slot, nats_server.url, database_url) as cdc:
            with database(database_url) as db:
                db.execute("ALTER TABLE series ALTER title SET STORAGE EXTERNAL")
                with db.transaction():
                    db.execute(
                        "INSERT INTO series (ticker, title, tags, volume) VALUES ('A', %s, '{a,\"b c\"}', 1.50)", (big,)
                    )
                    db.execute("UPDATE series SET volume = 2.50 WHERE ticker = 'A'")
                    db.execute("UPDATE series SET volume = 2.50 WHERE ticker = 'A'")  # changes nothing
                # With a statement trigger or a volatile default COPY writes row by row.
                db.execute("DROP TRIGGER series_keep_insert ON series")
                db.execute("ALTER TABLE series ALTER created_at SET DEFAULT now(), ALTER updated_at SET DEFAULT now()")
                with db.cursor().copy("COPY series (ticker, title) FROM STDIN") as copy:
                    for n in range(3):
                        copy.write_row((f"C{n}", f'title "{n}"\n\\'))
                db.execute("DELETE FROM series WHERE ticker = 'C0'")
                with db.transaction(force_rollback=True):
                    db.execute("INSERT INTO series (ticker, title) VALUES ('never', '')")
                db.execute("INSERT INTO events (event_ticker, title) VALUES ('E', 'e')")
                db.execute("TRUNCATE events, markets")
            await until(lambda: cdc.stats.transactions == 5, "five transactions")
            found = await events(nats_server.url)
            await equal(nats_server.url, database_url)
            metrics = {s.name: s for metric in CdcCollector(cdc.stats).collect() for s in metric.samples}
            assert metrics["ssmd_cdc_transactions_total"].value == 5
            assert cdc.stats.health()[:2] == (True, True)
        ops = [event["subject"] for event in found]
        assert ops[:6] == ["cdc.series.insert", "cdc.series.update", *["cdc.series.insert"] * 3, "cdc.series.delete"]
        assert ops[6] == "cdc.events.insert"
        assert sorted(ops[7:]) == ["cdc.events.truncate", "cdc.markets.truncate"]
        first, second, *copied = found[:5]
        assert (first["key"], first["data"]["title"], first["data"]["volume"]) == ({"ticker": "A"}, big, "1.50")
        assert first["data"]["tags"] == ["a", "b c"]
        assert second["unchanged"] == ["title"]
        assert "title" not in second["data"]
        assert second["data"]["volume"] == "2.50"
        assert [event["ordinal"] for event in copied] == [0, 1, 2]
        assert len({event["lsn"] for event in copied}) == 1  # of one COPY: only the ordinal tells them apart
        assert found[5]["data"] is None
        assert set(first) == {
            *("lsn", "commit_lsn", "ordinal", "xid", "table", "op", "key", "data", "commit_ts", "timestamp"),
            *("id", "subject", "raw"),
        }

    asyncio.run(go())


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9)
MOMENTS = st.datetimes().map(lambda moment: f"{moment:%Y-%m-%d %H:%M:%S.%f}+00".rjust(29, "0"))
ROWS = st.fixed_dictionaries(
    {
        "title": TEXTS,
        "functional_strike": st.none() | TEXTS,
        "status": st.sampled_from(["active", "closed"]),
        "open_time": st.none() | MOMENTS,
        "custom_strike": st.none() | st.dictionaries(TEXTS, TEXTS | st.integers() | st.none()).map(Jsonb),
        "yes_bid": st.none() | NUMBERS | st.just("NaN"),
        "can_close_early": st.none() | st.booleans(),
        "exchange_index": st.none() | st.integers(-(2**31), 2**31 - 1),
    }
)


def test_events_and_queries_give_the_same_bytes(nats_server: NatsServer, database_url: str) -> None:
    """What the cache reads at its start and what CDC tells it later are the same JSON."""
    slot = slot_name()
    rows: list[dict[str, Any]] = []

    @hypothesis_settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(ROWS)
    def collect(row: dict[str, Any]) -> None:
        rows.append(row)

    collect()

    async def go() -> None:
        async with running(slot, nats_server.url, database_url) as cdc:
            with database(database_url) as db:
                db.execute("INSERT INTO events (event_ticker, title) VALUES ('E', 'e')")
                names = list(rows[0])
                places = ", %s" * len(names)
                into = f"INSERT INTO markets (ticker, event_ticker, {', '.join(names)}) VALUES (%s, 'E'{places})"
                for number, row in enumerate(rows * 3):  # three times: so that common shapes go the fast way
                    db.execute(into.encode(), (f"M{number}", *(row[name] for name in names)))
            await until(lambda: cdc.stats.transactions == 1 + 3 * len(rows), "all rows")
        found = {json.dumps(event["key"]): data_of(event["raw"]) for event in await events(nats_server.url)}
        found = {key: data for key, data in found.items() if '"ticker"' in key}
        assert found == await table_json(database_url, "markets", "ticker")

    asyncio.run(go())


def test_large_transactions_and_restarts(nats_server: NatsServer, database_url: str) -> None:
    """A transaction of 5,000 rows is cut into batches; stopping and starting leaves out and repeats nothing."""
    slot = slot_name()

    async def go() -> None:
        for round_ in range(3):
            async with running(slot, nats_server.url, database_url) as cdc:
                with database(database_url) as db:
                    with db.transaction():
                        add_series(db, round_ * 5_000 + 1, round_ * 5_000 + 5_000)
                    db.execute("UPDATE series SET volume = volume + 1 WHERE ticker IN ('S1', 'S2')")
                if round_ < 2:
                    await until(lambda: cdc.stats.transactions > 0, "a transaction")  # and stop under way
                else:
                    await until(lambda: cdc.stats.unacknowledged == 0 and cdc.stats.transactions, "the rest")
                    await until(lambda: reached(nats_server.url, 15_006), "the rest")
        await equal(nats_server.url, database_url)
        with database(database_url) as db:
            confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
            (before,) = db.execute(confirmed, (slot,)).fetchone() or ("",)
        async with running(slot, nats_server.url, database_url) as cdc:
            await asyncio.sleep(0.2)
            assert cdc.stats.skipped == 0  # all was confirmed at the stop
        assert (await cdc_status(slot, nats_server.url, database_url))["problem"] == ""
        assert before

    asyncio.run(go())


async def reached(nats_url: str, seq: int) -> bool:
    return await count(nats_url) >= seq


def test_nothing_lost_and_nothing_twice_over_kills(nats_server: NatsServer, database_url: str, tmp_path: Path) -> None:
    """Eight kill -9 while 10,000 changes come in transactions of every size."""
    slot = slot_name()
    chance = random.Random(7)

    async def go() -> None:
        async with running(slot, nats_server.url, database_url):
            pass  # the slot is there from now on
        done, kills = 0, 0

        async def write() -> None:
            nonlocal done
            connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
            async with connection:
                while done < 10_000 or kills < 8:
                    size = chance.choice((1, 1, 1, 3, 10, 200, 1_500))
                    await connection.execute(
                        "INSERT INTO series (ticker, title) SELECT 'S' || n, '' FROM generate_series(%s::int, %s) n",
                        (done, done + size - 1),
                    )
                    await connection.execute("UPDATE series SET volume = %s WHERE ticker = 'S0'", (done,))
                    done += size + 1
                    await asyncio.sleep(0.02)

        writer = asyncio.create_task(write())
        while kills < 8:
            process = start_process(slot, nats_server.url, database_url, tmp_path / "cdc.log")
            before = await count(nats_server.url)
            await until(lambda before=before: reached(nats_server.url, before + 1), "something new", 30)
            await asyncio.sleep(chance.random() * 0.05)
            process.kill()
            kills += 1
        await writer
        async with running(slot, nats_server.url, database_url) as cdc:
            with database(database_url) as db:
                db.execute("INSERT INTO series (ticker, title) VALUES ('last', '')")
            await until(lambda: fold_has(nats_server.url, "last"), "the last change")
            assert cdc.stats.problem == ""
        await equal(nats_server.url, database_url)

    asyncio.run(go())


async def fold_has(nats_url: str, ticker: str) -> bool:
    return json.dumps({"ticker": ticker}) in fold(await events(nats_url), "series")


def test_nats_restarts(nats_server: NatsServer, database_url: str) -> None:
    slot = slot_name()

    async def go() -> None:
        async with running(slot, nats_server.url, database_url) as cdc:
            with database(database_url) as db:
                for round_ in range(3):
                    add_series(db, round_ * 100, round_ * 100 + 49)
                    nats_server.kill()
                    add_series(db, round_ * 100 + 50, round_ * 100 + 99)
                    await until(lambda: cdc.stats.problem, "the loss noticed")
                    assert not cdc.stats.health().ready
                    await nats_server.start()
                    await until(lambda: not cdc.stats.problem, "NATS back")
                await until(lambda: reached(nats_server.url, 300), "everything")
        await equal(nats_server.url, database_url)

    asyncio.run(go())


def test_postgres_restarts(nats_server: NatsServer, tmp_path: Path) -> None:
    from ssmd_core.db.migrate import migrate

    server = PostgresServer(tmp_path / "postgres", port=None)
    slot = slot_name()

    async def go() -> None:
        await server.start()
        try:
            await asyncio.to_thread(migrate, server.url)
            async with running(slot, nats_server.url, server.url) as cdc:
                for round_ in range(2):
                    with database(server.url) as db:
                        add_series(db, round_ * 100, round_ * 100 + 99)
                    server.kill()
                    await until(lambda: cdc.stats.problem, "the loss noticed")
                    await server.start()
                    await until(lambda: not cdc.stats.problem, "Postgres back")
                await until(lambda: reached(nats_server.url, 200), "everything")
            await equal(nats_server.url, server.url)
        finally:
            await server.stop()

    asyncio.run(go())


def test_an_idle_slot_moves_on(nats_server: NatsServer, database_url: str) -> None:
    """Log that holds no published change is confirmed too, or it would be kept for ever."""
    slot = slot_name()

    async def go() -> None:
        async with running(slot, nats_server.url, database_url) as cdc:
            with database(database_url) as db:
                for _ in range(5):
                    db.execute("CREATE TABLE IF NOT EXISTS other (n int)")
                    db.execute("INSERT INTO other SELECT generate_series(1, 1000)")
                    await asyncio.sleep(0.1)
                (end,) = db.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone() or (0,)
            await until(lambda: cdc.stats.confirmed_lsn >= end, "the end of the log confirmed")
            await until(lambda: cdc.stats.lag_bytes is not None and cdc.stats.lag_bytes < 10_000, "no lag")
        assert await count(nats_server.url) == 0

    asyncio.run(go())


async def lose(what: str, slot: str, nats_url: str, database_url: str) -> None:
    """Between two runs of CDC."""
    if what.startswith("stream"):
        client = await jetstream.connect(nats_url, name="test", reconnect=False)
        await jetstream.api(client, f"STREAM.DELETE.{STREAM}")
        if what == "streams deleted":
            await jetstream.api(client, f"STREAM.DELETE.{STATE_STREAM}")
        await jetstream.abort(client)
    if what == "stranger in the stream":
        client = await jetstream.connect(nats_url, name="test", reconnect=False)
        await client.request("cdc.series.insert", b"{}")
        await jetstream.abort(client)
    with database(database_url) as db:
        add_series(db, 100, 104)
        if what == "slot advanced":
            db.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", (slot,))
        elif what == "slot dropped":
            db.execute("SELECT pg_drop_replication_slot(%s)", (slot,))


@pytest.mark.parametrize("what", ["slot advanced", "slot dropped", "stream deleted", "streams deleted"])
def test_losses_are_loud_and_a_resnapshot_mends_them(what: str, nats_server: NatsServer, database_url: str) -> None:
    slot = slot_name()

    async def go() -> None:
        with database(database_url) as db:
            db.execute("SET ssmd.now = '2026-01-01'")
            add_series(db, -5, -1)  # long before CDC: followers know them from reading the table
        async with running(slot, nats_server.url, database_url) as cdc:
            with database(database_url) as db:
                add_series(db, 1, 20)
                db.execute("DELETE FROM series WHERE ticker = 'S20'")
            await until(lambda: cdc.stats.transactions == 2, "the rows")
        await lose(what, slot, nats_server.url, database_url)
        with database(database_url) as db:
            db.execute("UPDATE series SET title = 'another' WHERE ticker IN ('S1', 'S2')")
            db.execute("DELETE FROM series WHERE ticker = 'S3'")
        if what != "slot dropped":
            with database(database_url) as db:
                if what == "slot advanced":
                    db.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", (slot,))
        for _ in range(2):
            with pytest.raises(ResnapshotNeededError, match="ssmd cdc resnapshot"):
                async with running(slot, nats_server.url, database_url):
                    pass
        assert "resnapshot" in (await cdc_status(slot, nats_server.url, database_url))["problem"]
        report = await resnapshot(slot, nats_server.url, database_url)
        series = report.tables["series"]
        assert series.rows == 28
        if what.startswith("stream"):
            assert (series.lost, series.extra) == (28, 2)
        else:
            assert (series.same, series.changed, series.lost, series.aged_out, series.extra) == (16, 2, 5, 5, 1)
        assert (await cdc_status(slot, nats_server.url, database_url))["problem"] == ""
        async with running(slot, nats_server.url, database_url) as cdc:
            with database(database_url) as db:
                add_series(db, 200, 210)
            await until(lambda: cdc.stats.transactions == 1, "the rows")
        found = await events(nats_server.url)
        check_order(found)
        rows = {k: orjson.loads(row) for k, row in (await table_json(database_url, "series", "ticker")).items()}
        if not what.startswith("stream"):
            for n in range(1, 6):
                del rows[json.dumps({"ticker": f"S-{n}"})]
        assert fold(found, "series") == rows
        again = await resnapshot(slot, nats_server.url, database_url)
        assert again.published == 0
        assert again.tables["series"].same == len(rows)

    asyncio.run(go())


def test_a_slot_dropped_under_way_stops_cdc(nats_server: NatsServer, database_url: str) -> None:
    slot = slot_name()

    async def go() -> None:
        with pytest.raises(ResnapshotNeededError, match="is gone"):
            async with running(slot, nats_server.url, database_url) as cdc:
                with database(database_url) as db:
                    db.execute(
                        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s",
                        (slot,),
                    )
                    db.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
                await until(cdc.task.done, "the stop")

    asyncio.run(go())


def test_two_never_publish_at_once(nats_server: NatsServer, database_url: str) -> None:
    slot = slot_name()

    async def go() -> None:
        async with running(slot, nats_server.url, database_url) as first:
            with pytest.raises(SlotBusyError):
                await resnapshot(slot, nats_server.url, database_url)
            waiting = asyncio.create_task(wait_for_slot())
            with database(database_url) as db:
                add_series(db, 1, 10)
            await until(lambda: first.stats.transactions == 1, "the rows")
            await asyncio.sleep(0.3)
            assert not waiting.done()
        await waiting
        assert await count(nats_server.url) == 11

    async def wait_for_slot() -> None:
        async with running(slot, nats_server.url, database_url) as second:
            assert second.stats.skipped == 0
            with database(database_url) as db:
                add_series(db, 11, 11)
            await until(lambda: second.stats.transactions == 1, "the row")

    asyncio.run(go())


def test_a_stranger_in_the_stream_is_noticed(nats_server: NatsServer, database_url: str) -> None:
    slot = slot_name()

    async def go() -> None:
        with pytest.raises(ResnapshotNeededError, match="was not published by CDC"):
            async with running(slot, nats_server.url, database_url) as cdc:
                await lose("stranger in the stream", slot, nats_server.url, database_url)  # and five rows
                await until(cdc.task.done, "the stop")

    asyncio.run(go())


def test_a_row_too_large_stops_cdc_and_is_kept(nats_server: NatsServer, database_url: str) -> None:
    """What was committed before it is published; it and what follows stay in the slot."""
    slot = slot_name()

    async def go() -> None:
        with pytest.raises(OversizedChangeError, match=r"cdc\.series\.insert"):
            async with running(slot, nats_server.url, database_url) as cdc:
                with database(database_url) as db:
                    add_series(db, 1, 3)
                    db.execute("INSERT INTO series (ticker, title) VALUES ('big', repeat('x', 34000000))")
                    add_series(db, 4, 6)
                await until(cdc.task.done, "the stop")
        assert await count(nats_server.url) == 3
        with pytest.raises(OversizedChangeError):
            async with running(slot, nats_server.url, database_url) as cdc:
                await until(cdc.task.done, "the stop")

    asyncio.run(go())


def test_configuration_is_checked(nats_server: NatsServer, database_url: str) -> None:
    async def go() -> None:
        with database(database_url) as db:
            db.execute("DROP PUBLICATION ssmd_cdc_pub")
        with pytest.raises(ConfigError, match="no publication"):
            async with running(slot_name(), nats_server.url, database_url):
                pass
        with pytest.raises(ConfigError, match="DATABASE_URL"):
            async with running(slot_name(), nats_server.url, ""):
                pass

    asyncio.run(go())


def test_followers_get_every_change_once(nats_server: NatsServer, database_url: str) -> None:
    """From a sequence, over a restart of NATS; an end that is gone is an error, not a silence."""
    slot = slot_name()

    async def go() -> None:
        async with running(slot, nats_server.url, database_url):
            client = await jetstream.connect(nats_server.url, name="test", reconnect=False)
            start = await jetstream.stream_state(client, STREAM)
            await jetstream.abort(client)
            with database(database_url) as db:
                add_series(db, 1, 1_500)
            seen: list[str] = []
            feed = ChangeFeed(
                nats_server.url, name="test", after_seq=start.last_seq, created=start.created, tables=["series"]
            )

            async def follow() -> None:
                async with feed:
                    async for change in feed:
                        assert change.op == "insert"
                        values = change.values()
                        assert values is not None
                        assert values["ticker"] == change.key["ticker"]
                        seen.append(change.key["ticker"])

            follower = asyncio.create_task(follow())
            await until(lambda: len(seen) >= 1_500, "the first rows")
            nats_server.kill()
            with database(database_url) as db:
                db.execute("INSERT INTO events (event_ticker, title) VALUES ('E', '')")
                add_series(db, 1_501, 1_600)
            await nats_server.start()
            await until(lambda: len(seen) >= 1_600, "the rest")
            assert seen == [f"S{n}" for n in range(1, 1_601)]
            assert feed.seq == await count(nats_server.url)
            follower.cancel()
            async with ChangeFeed(nats_server.url, name="test", since_ns=0) as everything:
                tables = []
                async for change in everything:
                    tables.append(change.table)
                    if len(tables) == 1_601:
                        break
            assert tables.count("events") == 1
        client = await jetstream.connect(nats_server.url, name="test", reconnect=False)
        await jetstream.api(client, f"STREAM.PURGE.{STREAM}")
        await jetstream.abort(client)
        for lost in (ChangeFeed(nats_server.url, name="test", after_seq=5), another_stream(nats_server.url)):
            with pytest.raises(ChangesLostError):
                async for _ in lost:
                    pass
            await lost.close()

    asyncio.run(go())


def another_stream(nats_url: str) -> ChangeFeed:
    return ChangeFeed(nats_url, name="test", after_seq=1_601, created="2020-01-01T00:00:00Z")


def test_exit_codes(nats_server: NatsServer, database_url: str, tmp_path: Path) -> None:
    slot = slot_name()

    async def end(process: Process) -> int | None:
        assert await process.wait(20)
        return process.poll()

    async def go() -> None:
        process = start_process(slot, nats_server.url, database_url, tmp_path / "cdc.log")
        with database(database_url) as db:
            active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
            await until(lambda: (db.execute(active, (slot,)).fetchone() or (False,))[0], "the slot in use")
            before = db.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            assert before is not None
            add_series(db, 1, 3)
            await until(lambda: reached(nats_server.url, 3), "the rows")
            await process.stop(signal.SIGTERM, 10)
            assert process.poll() == 0
            confirmed = "SELECT confirmed_flush_lsn > %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
            assert db.execute(confirmed, (before[0], slot)).fetchone() == (True,)
            db.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        assert await end(start_process(slot, nats_server.url, database_url, tmp_path / "lost.log")) == 4
        assert "ssmd cdc resnapshot" in (tmp_path / "lost.log").read_text()
        assert await end(start_process("No Name", nats_server.url, database_url, tmp_path / "name.log")) == 2

    asyncio.run(go())
