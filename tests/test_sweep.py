"""Markets open and close by the clock, in a real Postgres."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta

import psycopg

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.db.connect import connect, now_of
from ssmd_stream.secmaster.sweep import SweepReport, refresh_events, sweep

NOON = Clock.parse("2026-11-22T12:00:00Z@0")
NOW = now_of(NOON)
MINUTE = timedelta(minutes=1)


def later(seconds: float) -> Clock:
    return Clock(NOON.now_ns() + int(seconds * NS_PER_S), 0)


def market(
    connection: psycopg.Connection, ticker: str, status: str, opens: datetime | None, closes: datetime | None
) -> None:
    event = ticker.rpartition("-")[0]
    connection.execute(
        "INSERT INTO events (event_ticker, series_ticker, title) VALUES (%s, 'KXBTC', 't') ON CONFLICT DO NOTHING",
        (event,),
    )
    connection.execute(
        "INSERT INTO markets (ticker, event_ticker, title, status, open_time, close_time) VALUES (%s,%s,'t',%s,%s,%s)",
        (ticker, event, status, opens, closes),
    )


def swept(database_url: str, clock: Clock) -> SweepReport:
    async def once() -> SweepReport:
        connection = await connect(database_url, name="test", clock=clock)
        async with connection, connection.transaction():
            return await sweep(connection, clock)

    return asyncio.run(once())


async def refreshed(database_url: str, *events: str) -> int:
    async with await connect(database_url, name="test", clock=NOON) as connection:
        return await refresh_events(connection, events)


def statuses(connection: psycopg.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT ticker, status FROM markets").fetchall())


def test_only_what_is_due_changes(database_url: str) -> None:
    cases = {
        "E1-OPENS": ("initialized", NOW - MINUTE, NOW + MINUTE, "active"),
        "E1-OPENS_NOW": ("initialized", NOW, None, "active"),
        "E1-LATER": ("initialized", NOW + MINUTE, NOW + 2 * MINUTE, "initialized"),
        "E1-NO_TIME": ("initialized", None, None, "initialized"),
        "E1-MISSED": ("initialized", NOW - 2 * MINUTE, NOW - MINUTE, "closed"),
        "E1-CLOSES_NOW": ("active", NOW - MINUTE, NOW, "closed"),
        "E1-OPEN": ("active", NOW - MINUTE, NOW + timedelta(microseconds=1), "active"),
        "E1-ENDLESS": ("active", NOW - MINUTE, None, "active"),
        "E1-PAUSED": ("closed", NOW - MINUTE, NOW + MINUTE, "closed"),
        "E1-DONE": ("settled", NOW - MINUTE, NOW - MINUTE, "settled"),
    }
    with psycopg.connect(database_url, autocommit=True) as connection:
        for ticker, (status, opens, closes, _) in cases.items():
            market(connection, ticker, status, opens, closes)
        market(connection, "E1-DELETED", "initialized", NOW - MINUTE, None)
        connection.execute("UPDATE markets SET deleted_at = now() WHERE ticker = 'E1-DELETED'")
        report = swept(database_url, NOON)
        assert (report.opened, report.closed, sorted(report.late_s)) == (2, 2, [0.0, 60.0])
        expected = {ticker: case[3] for ticker, case in cases.items()} | {"E1-DELETED": "initialized"}
        assert statuses(connection) == expected
        # The rows and their history carry the clock that was swept by.
        rows = connection.execute("SELECT ticker, updated_at FROM markets WHERE ticker LIKE 'E1-OPENS%'").fetchall()
        assert {updated for _, updated in rows} == {NOW}
        known = connection.execute(
            "SELECT known_from FROM markets_history WHERE ticker = 'E1-OPENS' ORDER BY version DESC LIMIT 1"
        ).fetchone()
        assert known == (NOW,)
        assert swept(database_url, NOON) == SweepReport(0, 0, (), 0)
        assert swept(database_url, later(60)).opened == 1
        assert statuses(connection)["E1-LATER"] == "active"


def test_nothing_due_writes_nothing(database_url: str) -> None:
    async def quiet() -> tuple[object, ...]:
        connection = await connect(database_url, name="test", clock=NOON)
        async with connection, connection.transaction():
            await sweep(connection, NOON)
            # Postgres gives a transaction its id with the first record that it writes.
            cursor = await connection.execute("SELECT pg_current_xact_id_if_assigned()")
            row = await cursor.fetchone()
            assert row is not None
            return row

    with psycopg.connect(database_url, autocommit=True) as connection:
        market(connection, "E1-A", "active", NOW - MINUTE, NOW + MINUTE)
        market(connection, "E1-B", "initialized", NOW + MINUTE, NOW + 2 * MINUTE)
    assert asyncio.run(quiet()) == (None,)


def test_an_event_follows_its_markets(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:

        def event(ticker: str) -> str:
            row = connection.execute("SELECT status FROM events WHERE event_ticker = %s", (ticker,)).fetchone()
            assert row is not None
            return str(row[0])

        market(connection, "E1-A", "active", NOW - MINUTE, NOW)
        market(connection, "E1-B", "initialized", NOW + MINUTE, NOW + 3 * MINUTE)
        market(connection, "E2-A", "settled", None, NOW - MINUTE)
        market(connection, "E2-B", "active", None, NOW)
        assert swept(database_url, NOON).events == 1
        assert (event("E1"), event("E2")) == ("active", "closed")
        swept(database_url, later(60))
        assert event("E1") == "active"
        swept(database_url, later(180))
        assert event("E1") == "closed"
        # Deleted markets do not count, and what no sweep touches is left alone.
        connection.execute("UPDATE markets SET status = 'settled' WHERE event_ticker = 'E2'")
        market(connection, "E2-C", "active", None, NOW + 9 * MINUTE)
        connection.execute("UPDATE markets SET deleted_at = now() WHERE ticker = 'E2-C'")
        swept(database_url, later(180))
        assert event("E2") == "closed"
        assert asyncio.run(refreshed(database_url, "E1", "E2", "E3")) == 1
        assert (event("E1"), event("E2")) == ("closed", "settled")


def test_a_sweep_of_many_markets_is_quick(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO events (event_ticker, series_ticker, title) VALUES ('E', 'S', 't')")
        connection.execute(
            "INSERT INTO markets (ticker, event_ticker, title, status, open_time, close_time) SELECT 'M' || n, 'E', "
            "'t', (ARRAY['settled', 'settled', 'settled', 'active', 'initialized'])[n %% 5 + 1], "
            "%s + make_interval(mins => n), %s + make_interval(mins => n + 60) FROM generate_series(1, %s) n",
            (NOW, NOW, 100_000),
        )
        connection.execute("ANALYZE markets")
        began_s = time.monotonic()
        assert swept(database_url, NOON) == SweepReport(0, 0, (), 0)
        assert time.monotonic() - began_s < 1.0
        assert swept(database_url, later(24 * 3600)).opened > 0
