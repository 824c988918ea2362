"""The merge: what it changes, what it leaves alone, what it refuses, and what is left when it is interrupted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.db.connect import DatabaseError
from ssmd_core.db.merge import Reject, Sweep, SyncBusyError, SyncReport, SyncRun
from ssmd_core.db.migrate import migrate
from ssmd_core.db.tables import SYNCED
from ssmd_core.db.wal import wal_position, wal_records
from ssmd_stream.servers.postgres import embedded_postgres

EVENTS, MARKETS, PAIRS = SYNCED["events"], SYNCED["markets"], SYNCED["pairs"]
MARKET_COLUMNS = ("event_ticker", "title", "status", "close_time", "yes_bid", "price_ranges")
CLOSE = datetime(2030, 1, 1, tzinfo=UTC)
RANGES = [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}]
Row = Sequence[object]


def event(name: str = "KXBTC-1") -> Row:
    return (name, "Bitcoin 'up' \u202e; DROP TABLE markets;--", "active")


def market(number: int, bid: str = "0.4300", status: str = "active", title: str | None = "Up?") -> Row:
    return (f"KXBTC-1-{number}", "KXBTC-1", title, status, CLOSE, Decimal(bid), RANGES)


async def sync(
    url: str,
    rows: Iterable[Row],
    *,
    events: Iterable[Row] = (event(),),
    sweep: bool = False,
    clock: Clock | None = None,
    between: Callable[[], Awaitable[None]] | None = None,
) -> SyncReport:
    """One run with everything on one page."""
    async with await SyncRun.begin(url, "kalshi/markets", "full", clock or Clock()) as run:
        fetched_at = run.now()
        if between is not None:
            await between()
        await run.stage(EVENTS, ("title", "status"), events, fetched_at)
        await run.stage(MARKETS, MARKET_COLUMNS, rows, fetched_at)
        return await run.finish(sweeps=[Sweep(MARKETS)] if sweep else [])


def fetch(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_only_differences_are_written(database_url: str) -> None:
    first = asyncio.run(sync(database_url, [market(n) for n in range(50)])).tables["markets"]
    assert (first.fetched, first.inserted, first.touched) == (50, 50, 50)
    rows = [market(n, bid="0.4400" if n < 5 else "0.43") for n in range(50)]  # 0.43 is 0.4300
    second = asyncio.run(sync(database_url, rows)).tables["markets"]
    assert (second.changed, second.unchanged, second.inserted, second.touched) == (5, 45, 0, 5)
    assert fetch(database_url, "SELECT yes_bid::text, count(*) FROM markets GROUP BY 1 ORDER BY 1") == [
        ("0.4300", 45),
        ("0.4400", 5),
    ]
    assert fetch(database_url, "SELECT count(*) FROM markets_history") == [(55,)]
    assert fetch(database_url, "SELECT title FROM events") == [(event()[1],)]


def test_an_unchanged_sync_writes_no_wal_and_no_change(database_url: str) -> None:
    rows = [market(n) for n in range(2000)]

    async def scenario() -> None:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            start = await wal_position(connection)
            await sync(database_url, rows)
            assert await wal_records(connection, start) > 2000  # the count does count
            await connection.execute("SELECT pg_create_logical_replication_slot('unchanged', 'pgoutput')")
            await connection.execute("VACUUM (FREEZE, ANALYZE)")
            before = await wal_position(connection)
            report = await sync(database_url, rows, sweep=True)
            assert (report.tables["markets"].unchanged, report.touched) == (2000, 0)
            assert await wal_records(connection, before) == 0
            changes = await connection.execute(
                "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('unchanged', NULL, NULL, "
                "'proto_version', '1', 'publication_names', 'ssmd_cdc_pub')"
            )
            assert await changes.fetchone() == (0,)

    asyncio.run(scenario())


def test_a_null_does_not_erase_a_label_but_does_erase_a_price(database_url: str) -> None:
    asyncio.run(sync(database_url, [market(1)]))
    row = list(market(1, title=None))
    row[5] = None
    asyncio.run(sync(database_url, [row]))
    assert fetch(database_url, "SELECT title, yes_bid FROM markets") == [("Up?", None)]


def test_repetitions_fold_to_the_last(database_url: str) -> None:
    report = asyncio.run(sync(database_url, [market(1, "0.1"), market(2), market(1, "0.2")])).tables["markets"]
    assert (report.fetched, report.repeated, report.inserted) == (3, 1, 2)
    assert fetch(database_url, "SELECT yes_bid FROM markets WHERE ticker = 'KXBTC-1-1'") == [(Decimal("0.2"),)]


def test_a_market_without_its_event_is_rejected_by_name(database_url: str) -> None:
    stray = ("KXX-9-1", "KXX-9", "Stray", "active", CLOSE, None, None)
    report = asyncio.run(sync(database_url, [market(1), stray]))
    assert report.rejects == [Reject("markets", "KXX-9-1", "event_ticker 'KXX-9' is unknown to the venue")]
    assert report.tables["markets"].rejected == 1
    assert fetch(database_url, "SELECT ticker FROM markets") == [("KXBTC-1-1",)]


def test_a_hostile_reject_does_not_stop_the_run(database_url: str) -> None:
    async def scenario() -> SyncReport:
        async with await SyncRun.begin(database_url, "kalshi/markets", "full", Clock()) as run:
            run.reject(Reject("markets", "A\x00\ud800" + "x" * 1000, "bad \x00"))
            run.warn("odd \x00 \udfff")
            return await run.finish()

    report = asyncio.run(scenario())
    assert (len(report.rejects[0].key), report.rejects[0].reason) == (200, "bad \ufffd")
    assert fetch(database_url, "SELECT report->'tables'->'markets'->'rejected' FROM sync_runs") == [(1,)]


def test_what_changed_after_the_venue_was_asked_is_left_alone(database_url: str) -> None:
    asyncio.run(sync(database_url, [market(1)]))

    async def settle() -> None:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute("UPDATE markets SET status = 'settled', result = 'yes'")

    report = asyncio.run(sync(database_url, [market(1, "0.9")], between=settle)).tables["markets"]
    assert (report.newer, report.changed) == (1, 0)
    assert fetch(database_url, "SELECT status FROM markets") == [("settled",)]


def test_deletes_need_two_whole_sweeps_in_a_row(database_url: str) -> None:
    everything = [market(n) for n in range(20)]
    asyncio.run(sync(database_url, everything))
    gone = everything[1:]
    first = asyncio.run(sync(database_url, gone, sweep=True)).tables["markets"]
    assert (first.missing, first.deleted) == (1, 0)
    asyncio.run(sync(database_url, everything, sweep=True))  # it was there again: the count starts anew
    assert asyncio.run(sync(database_url, gone, sweep=True)).tables["markets"].deleted == 0
    asyncio.run(sync(database_url, gone))  # not a sweep: says nothing about absence
    second = asyncio.run(sync(database_url, gone, sweep=True)).tables["markets"]
    assert (second.missing, second.deleted) == (1, 1)
    assert fetch(database_url, "SELECT ticker FROM markets WHERE deleted_at IS NOT NULL") == [("KXBTC-1-0",)]
    back = asyncio.run(sync(database_url, everything, sweep=True)).tables["markets"]
    assert (back.resurrected, back.unchanged) == (1, 19)
    kept = fetch(
        database_url, "SELECT deleted_at IS NULL FROM markets_history WHERE ticker = 'KXBTC-1-0' ORDER BY version"
    )
    assert kept == [(True,), (False,), (True,)]


def test_a_sweep_that_shows_too_little_deletes_nothing(database_url: str) -> None:
    everything = [market(n) for n in range(20)]
    asyncio.run(sync(database_url, everything))
    for _ in range(3):
        report = asyncio.run(sync(database_url, everything[:17], sweep=True))
        assert report.tables["markets"].deleted == 0
        assert "17 of 20 live rows" in report.tables["markets"].refused
        assert report.warnings == {report.tables["markets"].refused: 1}
    empty = asyncio.run(sync(database_url, [], sweep=True)).tables["markets"]
    assert (empty.deleted, empty.refused[:9]) == (0, "markets: ")


def test_settled_and_past_markets_are_never_deleted(database_url: str) -> None:
    past = ("KXBTC-1-old", "KXBTC-1", "Old", "active", datetime(2020, 1, 1, tzinfo=UTC), None, None)
    asyncio.run(sync(database_url, [market(n) for n in range(20)] + [market(99, status="settled"), past]))
    for _ in range(3):
        report = asyncio.run(sync(database_url, [market(n) for n in range(20)], sweep=True)).tables["markets"]
        assert (report.missing, report.deleted, report.refused) == (0, 0, "")


def test_a_sweep_keeps_to_its_part(database_url: str) -> None:
    columns = (
        "exchange",
        "native_id",
        "base",
        "quote",
        "base_raw",
        "quote_raw",
        "ws_name",
        "symbol",
        "market_type",
        "status",
    )

    def pair(name: str, kind: str) -> Row:
        return (f"kraken:{name}", "kraken", name, "BTC", "USD", "XBT", "USD", name, name, kind, "active")

    async def run_once(rows: Iterable[Row], kind: str) -> int:
        async with await SyncRun.begin(database_url, "kraken/pairs", "full", Clock()) as run:
            await run.stage(PAIRS, columns, rows, run.now())
            report = await run.finish(sweeps=[Sweep(PAIRS, {"exchange": "kraken", "market_type": kind})])
            return report.tables["pairs"].missing

    asyncio.run(run_once([pair(f"PF_{n}", "perpetual") for n in range(5)], "perpetual"))
    assert asyncio.run(run_once([pair("XXBTZUSD", "spot")], "spot")) == 0


def test_two_syncs_of_one_scope_do_not_interleave(database_url: str) -> None:
    async def both() -> None:
        async with await SyncRun.begin(database_url, "kalshi/markets", "full", Clock()):
            with pytest.raises(SyncBusyError, match="another sync of kalshi/markets"):
                await SyncRun.begin(database_url, "kalshi/markets", "incremental", Clock())
            async with await SyncRun.begin(database_url, "kalshi/events", "full", Clock()):
                pass
        async with await SyncRun.begin(database_url, "kalshi/markets", "full", Clock()):
            pass

    asyncio.run(both())


def test_a_run_that_fails_changes_and_records_nothing(database_url: str) -> None:
    async def fail() -> None:
        async with await SyncRun.begin(database_url, "kalshi/markets", "full", Clock()) as run:
            await run.stage(EVENTS, ("title", "status"), [event()], run.now())
            raise ConnectionError("the venue went away")

    with pytest.raises(ConnectionError):
        asyncio.run(fail())
    bad_status = [("KXBTC-1-1", "KXBTC-1", "t", "x" * 17, None, None, None)]
    with pytest.raises(DatabaseError, match="value too long"):
        asyncio.run(sync(database_url, bad_status))
    for table in ("events", "markets", "events_history", "sync_runs", "sync_watermarks"):
        assert fetch(database_url, f"SELECT count(*) FROM {table}") == [(0,)], table


def test_postgres_killed_in_the_merge_leaves_nothing_half_done(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_postgres(tmp_path / "pg") as server:
            await asyncio.to_thread(migrate, server.url)
            await sync(server.url, [market(n) for n in range(10)])
            # The merge waits for this lock with its staging done and a part of the transaction behind it.
            holder = await psycopg.AsyncConnection.connect(server.url)
            await holder.execute("LOCK TABLE markets IN SHARE MODE")
            merging = asyncio.create_task(
                sync(server.url, [market(n, "0.9") for n in range(10)], events=[("KXBTC-1", "other", "active")])
            )
            for _ in range(200):
                await asyncio.sleep(0.02)
                waiting = await (await holder.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")).fetchone()
                if waiting and waiting[0]:
                    break
            server.kill()
            with pytest.raises(DatabaseError):
                await merging
            await server.start()
            assert fetch(server.url, "SELECT DISTINCT yes_bid FROM markets") == [(Decimal("0.4300"),)]
            assert fetch(server.url, "SELECT title FROM events") == [(event()[1],)]
            assert fetch(server.url, "SELECT count(*) FROM sync_runs") == [(1,)]
            again = await sync(server.url, [market(n, "0.9") for n in range(10)])
            assert again.tables["markets"].changed == 10

    asyncio.run(scenario())


def test_watermarks_move_forward_only(database_url: str) -> None:
    async def at(value: datetime, clock: Clock | None = None) -> datetime | None:
        async with await SyncRun.begin(database_url, "kalshi/markets", "incremental", clock or Clock()) as run:
            before = await run.watermark("last_settled_ts")
            await run.finish(watermarks={"last_settled_ts": value})
            return before

    past = datetime(2026, 1, 2, tzinfo=UTC)
    assert asyncio.run(at(past)) is None
    assert asyncio.run(at(past - timedelta(days=1))) == past
    assert asyncio.run(at(CLOSE)) == past
    # A clock that was ahead once: what it left is neither believed nor kept.
    assert (asyncio.run(at(past)) or CLOSE) < datetime.now(UTC)
    assert asyncio.run(at(past)) == past


def test_what_is_listed_but_not_taken_is_not_missing(database_url: str) -> None:
    everything = [market(n) for n in range(20)]
    asyncio.run(sync(database_url, everything))

    async def run_once(key: str) -> SyncReport:
        async with await SyncRun.begin(database_url, "kalshi/markets", "full", Clock()) as run:
            await run.stage(MARKETS, MARKET_COLUMNS, everything[1:], run.now())
            run.reject(Reject("markets", key, "event_ticker is null"))
            return await run.finish(sweeps=[Sweep(MARKETS)], watermarks={"w": datetime(2026, 1, 1, tzinfo=UTC)})

    for _ in range(3):
        report = asyncio.run(run_once("KXBTC-1-0")).tables["markets"]
        assert (report.rejected, report.missing, report.deleted) == (1, 0, 0)
    for unreadable in ("", "x" * 129, "KXBTC-1-\x00"):
        refused = asyncio.run(run_once(unreadable)).tables["markets"].refused
        assert refused == "markets: the venue showed a record whose id cannot be read: nothing deleted"


def test_new_rows_do_not_cover_for_missing_ones(database_url: str) -> None:
    asyncio.run(sync(database_url, [market(n) for n in range(10)]))
    others = [market(n) for n in range(100, 200)]
    first = asyncio.run(sync(database_url, others, sweep=True)).tables["markets"]
    assert (first.inserted, first.missing, first.refused[:32]) == (100, 10, "markets: the venue showed 0 of 1")
    everything = [*others, *(market(n) for n in range(1, 10))]
    assert asyncio.run(sync(database_url, everything, sweep=True)).tables["markets"].deleted == 0


def test_any_run_that_shows_a_row_starts_its_count_anew(database_url: str) -> None:
    everything = [market(n) for n in range(20)]
    asyncio.run(sync(database_url, everything))
    for _ in range(3):
        assert asyncio.run(sync(database_url, everything[1:], sweep=True)).tables["markets"].deleted == 0
        asyncio.run(sync(database_url, everything[:1]))  # an incremental run: no sweep


def test_a_refused_sweep_moves_no_watermark(database_url: str) -> None:
    asyncio.run(sync(database_url, [market(n) for n in range(20)]))

    async def scenario() -> datetime | None:
        async with await SyncRun.begin(database_url, "kalshi/markets", "full", Clock()) as run:
            await run.stage(MARKETS, MARKET_COLUMNS, [market(1)], run.now())
            await run.finish(sweeps=[Sweep(MARKETS)], watermarks={"w": datetime(2026, 1, 1, tzinfo=UTC)})
            return await run.watermark("w")

    assert asyncio.run(scenario()) is None


def test_rows_from_the_future_are_taken_over_and_told(database_url: str) -> None:
    ahead = Clock(time.time_ns() + 400 * 86_400 * NS_PER_S)
    asyncio.run(sync(database_url, [market(1, "0.6")], clock=ahead))
    report = asyncio.run(sync(database_url, [market(1, "0.72")]))
    assert (report.tables["markets"].changed, report.tables["markets"].newer) == (1, 0)
    assert asyncio.run(sync(database_url, [market(1, "0.73")])).tables["markets"].changed == 1
    kept = "SELECT yes_bid, known_from < now() + interval '1 minute' FROM markets_history ORDER BY known_from, version"
    assert fetch(database_url, kept) == [(Decimal(bid), True) for bid in ("0.6", "0.72", "0.73")]


def test_history_keeps_its_order_when_the_clock_steps_back(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for second, statement in (
            (10, "INSERT INTO series (ticker, title) VALUES ('S', 'one')"),
            (12, "UPDATE series SET title = 'two'"),
            (11, "UPDATE series SET title = 'three'"),
            (9, "DELETE FROM series"),
            (8, "INSERT INTO series (ticker, title) VALUES ('S', 'four')"),
        ):
            connection.execute("SELECT set_config('ssmd.now', %s, false)", (f"2026-11-22T12:00:{second:02}Z",))
            connection.execute(statement.encode())
        ordered = connection.execute("SELECT version FROM series_history ORDER BY known_from, version").fetchall()
        assert ordered == sorted(ordered)
        titles = connection.execute("SELECT title FROM series_history ORDER BY version").fetchall()
        assert [title for (title,) in titles] == ["one", "two", "three", "three", "four"]


def test_a_deadlock_does_not_cost_the_listing(database_url: str) -> None:
    async def scenario() -> SyncReport:
        await sync(database_url, [market(1)], events=[event("E1"), event("E2"), event()])
        other = await psycopg.AsyncConnection.connect(database_url)
        await other.execute("SET deadlock_timeout = '10s'")  # so that Postgres ends the sync, not this one
        await other.execute("UPDATE events SET title = 'x' WHERE event_ticker = 'E2'")
        changed = [(name, "y", "active") for name in ("E1", "E2", "KXBTC-1")]
        merging = asyncio.create_task(sync(database_url, [market(1, "0.9")], events=changed))
        await asyncio.sleep(0.5)
        await other.execute("UPDATE events SET title = 'x' WHERE event_ticker = 'E1'")
        await other.commit()
        await other.close()
        return await merging

    report = asyncio.run(scenario()).tables
    # Which rows the merge had locked is Postgres's choice; nothing is lost either way.
    assert report["events"].changed + report["events"].newer == 3
    assert report["markets"].changed == 1


def test_a_shifted_clock_dates_rows_and_history(database_url: str) -> None:
    start = datetime(2026, 11, 22, 11, tzinfo=UTC)
    clock = Clock(int(start.timestamp()) * NS_PER_S)
    asyncio.run(sync(database_url, [market(1)], clock=clock))
    asyncio.run(sync(database_url, [market(1, "0.9")], clock=clock))
    times = fetch(
        database_url,
        "SELECT created_at, updated_at FROM markets UNION ALL SELECT known_from, known_from FROM markets_history",
    )
    assert all(start <= one < start + timedelta(minutes=1) for row in times for one in row if isinstance(one, datetime))


def test_other_writers_are_watched_too(database_url: str) -> None:
    asyncio.run(sync(database_url, [market(1)]))
    with psycopg.connect(database_url, autocommit=True) as connection:
        before = connection.execute("SELECT xmin, ctid, updated_at FROM markets").fetchone()
        connection.execute("UPDATE markets SET yes_bid = 0.43, updated_at = '2000-01-01', created_at = '2000-01-01'")
        assert connection.execute("SELECT xmin, ctid, updated_at FROM markets").fetchone() == before
        with pytest.raises(psycopg.errors.RaiseException, match="key of markets"):
            connection.execute("UPDATE markets SET ticker = 'other'")
        connection.execute("UPDATE markets SET status = 'closed'")
        connection.execute("DELETE FROM markets")
        connection.execute(
            "INSERT INTO markets (ticker, event_ticker, title, status) VALUES ('B', 'KXBTC-1', 't', 'active')"
        )
        connection.execute("TRUNCATE markets CASCADE")
        kept = connection.execute(
            "SELECT ticker, status, deleted_at IS NULL FROM markets_history ORDER BY version"
        ).fetchall()
    one = "KXBTC-1-1"
    assert kept == [
        (one, "active", True), (one, "closed", True), (one, "closed", False),
        ("B", "active", True), ("B", "active", False),
    ]  # fmt: skip
