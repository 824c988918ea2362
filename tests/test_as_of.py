"""The past: rows as they were known at a moment, against a naive account of what was done to them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from ssmd_core.clock import Clock
from ssmd_core.db.connect import connect
from ssmd_core.db.merge import SyncRun
from ssmd_core.db.tables import SYNCED
from ssmd_core.errors import ConfigError
from ssmd_core.secmaster.as_of import Filter, UnknownKeyError, as_of, histories, history, open_markets

BEGIN = datetime(2026, 11, 17, 14, tzinfo=UTC)
US = timedelta(microseconds=1)
Row = dict[str, Any]

# Per table: what every row has, and two columns that vary, the second one possibly null.
PAIR = {"exchange": "kraken", "native_id": "X", "base": "BTC", "quote": "USD", "base_raw": "XBT", "quote_raw": "ZUSD",
        "ws_name": "XBT/USD", "symbol": "BTC/USD", "market_type": "spot"}  # fmt: skip
TABLES: dict[str, tuple[Row, str, str]] = {
    "series": ({"title": "Series"}, "category", "volume"),
    "events": ({"title": "Event"}, "status", "fee_multiplier_override"),
    "markets": ({"event_ticker": "E", "title": "Up?"}, "status", "yes_bid"),
    "series_fees": ({"fee_type": "quadratic", "fee_multiplier": Decimal(1), "effective_from": BEGIN},
                    "series_ticker", "effective_to"),
    "pairs": (PAIR, "status", "bid"),
    "polymarket_conditions": ({"question": "Up?"}, "status", "volume"),
    "polymarket_tokens": ({"condition_id": "C", "outcome_index": 0}, "outcome", "price"),
}  # fmt: skip
PARENTS = {
    "markets": "INSERT INTO events (event_ticker, title) VALUES ('E', 'Parent')",
    "polymarket_tokens": "INSERT INTO polymarket_conditions (condition_id, question, status) VALUES ('C', '?', 'x')",
}
REFERRED_TO = {"events", "pairs", "polymarket_conditions"}


@dataclass(frozen=True)
class Step:
    """Something that is done to a table, `wait_us` after the one before."""

    kind: str
    key: str
    first: str
    second: int | None
    wait_us: int
    joined: bool  # to the transaction of the step before


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["insert", "update", "upsert", "soft", "back", "delete", "truncate", "merge", "all"]),
        st.sampled_from(["k0", "k1", "Ж'; --"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, 1, 2]),
        st.sampled_from([0, 0, 1, 1_000_000]),
        st.booleans(),
    ),
    min_size=1,
    max_size=14,
)


@dataclass
class Account:
    """What a person would write down: rows as they are, and every change with its time."""

    rows: dict[str, Row] = field(default_factory=dict)
    log: list[tuple[datetime, str, Row]] = field(default_factory=list)

    def put(self, moment: datetime, key: str, row: Row) -> None:
        if self.rows.get(key) != row:
            self.rows[key] = row
            self.log.append((moment, key, row))

    def gone(self, moment: datetime, key: str) -> None:
        row = self.rows.pop(key, None)
        if row is not None and row["deleted_at"] is None:
            self.log.append((moment, key, {**row, "deleted_at": moment}))

    def at(self, moment: datetime) -> dict[str, Row]:
        known = {key: row for when, key, row in self.log if when <= moment}
        return {key: row for key, row in known.items() if row["deleted_at"] is None}


class Rehearsal:
    """Does steps to a real table and to an account of it."""

    def __init__(self, url: str, name: str, connection: psycopg.AsyncConnection) -> None:
        self.url, self.name, self.connection = url, name, connection
        self.synced = SYNCED[name]
        self.base, self.first, self.second = TABLES[name]
        self.account, self.now = Account(), BEGIN

    async def clear(self) -> None:
        await self.connection.execute("SET session_replication_role = replica")  # no triggers
        everything = ", ".join([*SYNCED, *(one.history for one in SYNCED.values())])
        await self.connection.execute(f"TRUNCATE {everything}, pair_snapshots RESTART IDENTITY".encode())
        for child, parent in PARENTS.items():
            if child == self.name:
                await self.connection.execute(parent.encode())
        await self.connection.execute("SET session_replication_role = origin")

    def values(self, step: Step, key: str) -> Row:
        second: Any = step.second
        if self.name == "series_fees":
            # A series of its own, so that no two intervals meet.
            second = None if second is None else BEGIN + timedelta(days=second)
            return {self.first: f"{key}-{step.first}", self.second: second}
        return {self.first: step.first, self.second: None if second is None else Decimal(second)}

    async def sql(self, text: str, values: list[Any]) -> None:
        names = {"t": sql.Identifier(self.name), "k": sql.Identifier(self.synced.key)}
        names |= {"a": sql.Identifier(self.first), "b": sql.Identifier(self.second)}
        await self.connection.execute(sql.SQL(text).format(**names), values)

    async def run(self, steps: list[Step]) -> None:
        await self.clear()
        number = 0
        while number < len(steps):
            if steps[number].kind == "merge":
                await self.merge(steps[number])
                number += 1
                continue
            async with self.connection.transaction():
                await self.write(steps[number])
                number += 1
                while number < len(steps) and steps[number].joined and steps[number].kind != "merge":
                    await self.write(steps[number])
                    number += 1

    async def write(self, step: Step) -> None:
        self.now += step.wait_us * US
        await self.connection.execute("SELECT set_config('ssmd.now', %s, false)", (self.now.isoformat(),))
        account, now, key = self.account, self.now, step.key
        present = account.rows.get(key)
        fresh = {**self.base, **self.values(step, key), "deleted_at": None}
        changed = None if present is None else {**present, **self.values(step, key)}
        varied = [*self.values(step, key).values()]
        if step.kind == "truncate" and self.name not in REFERRED_TO:
            await self.sql("TRUNCATE {t}", [])
            for each in list(account.rows):
                account.gone(now, each)
        elif step.kind == "delete":
            await self.sql("DELETE FROM {t} WHERE {k} = %s", [key])
            account.gone(now, key)
        elif step.kind == "all" and self.name != "series_fees":
            await self.sql("UPDATE {t} SET {a} = %s, {b} = %s", varied)
            for each, row in list(account.rows.items()):
                account.put(now, each, {**row, **self.values(step, each)})
        elif step.kind in {"soft", "back"}:
            marks = "ssmd_now()" if step.kind == "soft" else "NULL"
            await self.sql(f"UPDATE {{t}} SET deleted_at = {marks} WHERE {{k}} = %s", [key])
            if present is not None:
                account.put(now, key, {**present, "deleted_at": now if step.kind == "soft" else None})
        elif changed is not None and step.kind in {"update", "upsert"}:
            await self.sql("UPDATE {t} SET {a} = %s, {b} = %s WHERE {k} = %s", [*varied, key])
            account.put(now, key, changed)
        elif present is None and step.kind in {"insert", "upsert"}:
            row = {self.synced.key: key, **fresh}
            columns = sql.SQL(", ").join(map(sql.Identifier, row))
            marks = sql.SQL(", ").join(sql.Placeholder() * len(row))
            statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET deleted_at = NULL")
            parts = (sql.Identifier(self.name), columns, marks, sql.Identifier(self.synced.key))
            await self.connection.execute(statement.format(*parts), [*row.values()])
            account.put(now, key, fresh)

    async def merge(self, step: Step) -> None:
        """As a sync does it: two records, of which one comes twice."""
        self.now += step.wait_us * US
        clock = Clock(0, rate=0)
        clock._start_ns = int((self.now - datetime(1970, 1, 1, tzinfo=UTC)) / US) * 1000
        keys = sorted({"k0", step.key})
        staged = {key: {**self.base, **self.values(step, key)} for key in keys}
        names = (*self.base, self.first, self.second)
        rows = [(key, *(staged[key][name] for name in names)) for key in [*keys, keys[0]]]
        async with await SyncRun.begin(self.url, "test/rows", "full", clock) as run:
            await run.stage(self.synced, names, rows, run.now())
            await run.finish()
        for key, row in staged.items():
            self.account.put(self.now, key, {**self.account.rows.get(key, {}), **row, "deleted_at": None})

    async def compare(self) -> None:
        """Each moment at which something happened, one before it, and filters; then the histories."""
        times = sorted({when for when, _, _ in self.account.log})
        compared = [*self.base, self.first, self.second, "deleted_at"]
        for moment in [BEGIN - US, *(each for when in times for each in (when - US, when))]:
            expected = self.account.at(moment)
            rows = [row async for row in as_of(self.connection, self.name, moment)]
            found = {row[self.synced.key]: {name: row[name] for name in compared} for row in rows}
            assert found == expected, moment
            assert len(rows) == len(found)
            some = [row async for row in as_of(self.connection, self.name, moment, keys=["k0", "k0", "k9"])]
            assert [row[self.synced.key] for row in some] == [key for key in expected if key == "k0"]
            where = [Filter(self.first, "=", "a"), Filter(self.second, ">", 1)][
                : 1 if self.name == "series_fees" else 2
            ]
            chosen = {row[self.synced.key] async for row in as_of(self.connection, self.name, moment, where=where)}
            assert chosen == {
                key for key, row in expected.items() if row[self.first] == "a" and (row[self.second] or 0) > 1
            }  # fmt: skip
        for key in {key for _, key, _ in self.account.log}:
            versions = await history(self.connection, self.name, key)
            written = [(when, row) for when, each, row in self.account.log if each == key]
            assert [(v["known_from"], {name: v[name] for name in compared}) for v in versions] == written
            assert [v["known_to"] for v in versions] == [*(when for when, _ in written[1:]), None]


@pytest.mark.parametrize("name", list(SYNCED))
def test_as_of_agrees_with_a_naive_account(name: str, database_url: str) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(connect(database_url, name="test"))

        @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(STEPS)
        def check(steps: list[Step]) -> None:
            rehearsal = Rehearsal(database_url, name, connection)
            runner.run(rehearsal.run(steps))
            runner.run(rehearsal.compare())

        check()
        runner.run(connection.close())


# -- what was open, at what fee


SCRIPT = [
    (-10, "INSERT INTO series (ticker, title, category) VALUES "
          "('KXBTC', 'Bitcoin', 'Crypto'), ('KXFED', 'Fed', 'Economics')"),
    (-10, "INSERT INTO series_fees (source_id, series_ticker, fee_type, fee_multiplier, effective_from, effective_to) "
          "VALUES ('seed:KXBTC', 'KXBTC', 'quadratic', 1, '2020-01-01Z', '2026-11-17T13:30Z'), "
          "('f1', 'KXBTC', 'quadratic', 0.5, '2026-11-17T13:30Z', NULL)"),
    (-9, "INSERT INTO events (event_ticker, series_ticker, title, category) VALUES "
         "('KXBTC-1', 'KXBTC', 'Bitcoin today', 'Crypto'), ('KXFED-1', 'KXFED', 'Rates', 'Economics')"),
    (-9, "INSERT INTO markets (ticker, event_ticker, title, status, open_time, close_time, floor_strike) VALUES "
         "('KXBTC-1-A', 'KXBTC-1', 'Above A', 'active', '2026-11-17T10:00Z', '2026-11-17T15:00Z', 90000), "
         "('KXBTC-1-B', 'KXBTC-1', 'Above B', 'initialized', '2026-11-17T13:00Z', '2026-11-17T15:00Z', 91000), "
         "('KXBTC-1-C', 'KXBTC-1', 'Above C', 'initialized', '2026-11-17T16:00Z', '2026-11-17T18:00Z', 92000), "
         "('KXBTC-1-D', 'KXBTC-1', 'Above D', 'active', '2026-11-17T10:00Z', '2026-11-17T13:59Z', 93000), "
         "('KXFED-1-E', 'KXFED-1', 'Cut?', 'active', NULL, NULL, NULL)"),
    (-1, "UPDATE events SET fee_type_override = 'flat' WHERE event_ticker = 'KXFED-1'"),
    # Afterwards: settled, struck out, its strike mended, gone altogether.
    (1, "UPDATE markets SET status = 'settled', floor_strike = 1 WHERE ticker = 'KXBTC-1-A'"),
    (2, "DELETE FROM markets WHERE ticker = 'KXBTC-1-B'"),
    (3, "UPDATE events SET fee_type_override = NULL, category = 'Other' WHERE event_ticker = 'KXFED-1'"),
    (3, "UPDATE markets SET deleted_at = ssmd_now()"),
]  # fmt: skip


def play(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for hours, statement in SCRIPT:
            moment = (BEGIN + timedelta(hours=hours)).isoformat()
            connection.execute("SELECT set_config('ssmd.now', %s, false)", (moment,))
            connection.execute(statement.encode())


def test_which_markets_were_open_with_which_strikes_and_fees(database_url: str) -> None:
    play(database_url)

    async def ask(moment: datetime, **only: str) -> list[tuple[Any, ...]]:
        async with await connect(database_url, name="test") as connection:
            names = ("ticker", "floor_strike", "category", "series_title", "fee_type", "fee_multiplier")
            return sorted(
                [tuple(row[name] for name in names) async for row in open_markets(connection, moment, **only)]
            )

    bitcoin = [
        ("KXBTC-1-A", Decimal(90000), "Crypto", "Bitcoin", "quadratic", Decimal("0.5")),
        ("KXBTC-1-B", Decimal(91000), "Crypto", "Bitcoin", "quadratic", Decimal("0.5")),
    ]
    # No fees of KXFED are known, but for what its event said then.
    fed = ("KXFED-1-E", None, "Economics", "Fed", "flat", None)
    assert asyncio.run(ask(BEGIN)) == [*bitcoin, fed]
    assert asyncio.run(ask(BEGIN, series="KXBTC")) == bitcoin
    assert asyncio.run(ask(BEGIN, category="economics")) == [fed]
    assert asyncio.run(ask(BEGIN, category="other")) == []
    earlier = asyncio.run(ask(BEGIN - timedelta(hours=2), series="KXBTC"))
    assert [(row[0], row[5]) for row in earlier] == [("KXBTC-1-A", Decimal(1)), ("KXBTC-1-D", Decimal(1))]
    assert asyncio.run(ask(BEGIN - timedelta(hours=10))) == []
    assert asyncio.run(ask(BEGIN + timedelta(hours=4))) == []


def test_what_cannot_be_asked_is_said(database_url: str) -> None:
    async def ask() -> None:
        async with await connect(database_url, name="test") as connection:
            with pytest.raises(ConfigError, match="no time zone"):
                await anext(as_of(connection, "markets", datetime(2026, 11, 17)))
            with pytest.raises(ConfigError, match="no table 'api_keys'"):
                await anext(as_of(connection, "api_keys", BEGIN))
            with pytest.raises(ConfigError, match="no column 1=1; --"):
                await anext(as_of(connection, "markets", BEGIN, where=[Filter("1=1; --", "=", 1)]))
            with pytest.raises(UnknownKeyError, match="never had"):
                await history(connection, "markets", "'; DROP TABLE markets; --")
            with pytest.raises(UnknownKeyError, match="nothing has ever"):
                await histories(connection, "KXNO")

    asyncio.run(ask())


def test_rows_come_from_the_server_in_pages_and_may_be_left_there(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO series (ticker, title) SELECT 'S' || n, 'Series' FROM generate_series(1, 5000) n"
        )

    async def read() -> tuple[int, int]:
        async with await connect(database_url, name="test") as connection:
            now = datetime.now(UTC)
            async with aclosing(as_of(connection, "series", now)) as rows:
                async for _ in rows:
                    break
            some = [row async for row in as_of(connection, "series", now, keys=[f"S{n}" for n in range(10)])]
            return len(some), len([row async for row in as_of(connection, "series", now)])

    assert asyncio.run(read()) == (9, 5000)
