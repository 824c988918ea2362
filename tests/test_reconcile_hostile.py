"""Reconciliation of archives that lack numbers, with venues that answer what nobody asked, leap or stall."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reconcile_rig import HOUR, playing
from test_reconcile_venues import TRADES, kalshi_trade

from ssmd_core.settings import Settings
from ssmd_stream.reconcile import rows as rows_module
from ssmd_stream.reconcile import run as run_module
from ssmd_stream.replay.rest_faults import RestFault

TICKER = "KXA-1-T1.5"


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def dataset(settings: Settings, feed: str, stream: str, message_type: str) -> Path:
    return settings.dataset_root / feed / stream / f"{HOUR:%Y-%m-%d}" / f"{message_type}_{HOUR:%H}00.parquet"


def kalshi_row(number: int, at: str, **members: Any) -> dict[str, Any]:
    return {
        "trade_id": f"{number:032x}", "ticker": TICKER, "created_time": f"2026-11-22T{at}Z", "count_fp": "1.00",
        "yes_price_dollars": "0.0800", "taker_side": "yes", **members,
    }  # fmt: skip


def answer(*rows: Any) -> RestFault:
    return RestFault("body", TRADES["kalshi"], count=None, body=json.dumps({"trades": rows, "cursor": ""}).encode())


@pytest.mark.parametrize("feed", ["kalshi", "kraken"])
def test_a_column_that_turned_null_differs_and_stops_nothing(feed: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with playing(feed, tmp_path) as world:
            path = dataset(world.settings, feed, world.stream, "trade")
            table = pq.read_table(path)
            place = table.schema.get_field_index("price")
            kind = table.schema.field(place).type
            nothing: list[Any] = [None] * len(table)
            if pa.types.is_floating(kind):
                nothing[::2] = [float("nan")] * len(nothing[::2])
            pq.write_table(table.set_column(place, pa.field("price", kind), pa.array(nothing, kind)), path)
            report = await world.reconcile()
            assert set(report.statuses) == {"differing"}
            assert all(one.missing == one.matched == one.extra == 0 for one in report.results)
            assert {item["archive"]["price"] for one in report.results for item in one.sample} == {None}
            json.dumps(report.as_dict(), allow_nan=False)

    run(work)


def test_rows_that_nobody_asked_for_are_neither_missing_nor_kept(tmp_path: Path) -> None:
    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=[kalshi_trade(1, "12:01:00")]) as world:
            others = [kalshi_row(n, "12:02:00", ticker="KXB-2") for n in range(5, 9)]
            (one,) = (await world.reconcile(answer(kalshi_row(1, "12:01:00"), *others))).results
            assert (one.status, one.matched, one.missing, one.backfilled) == ("partial", 1, 0, 0)
            assert "'KXB-2' was not asked for" in one.detail
            assert not world.settings.backfill_root.exists()

    run(work)


def test_a_trade_whose_row_cannot_be_read_is_not_called_extra(tmp_path: Path) -> None:
    frames = [kalshi_trade(1, "12:01:00"), kalshi_trade(2, "12:02:00")]

    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=frames) as world:
            bad = kalshi_row(2, "12:02:00", count_fp="many")
            (one,) = (await world.reconcile(answer(kalshi_row(1, "12:01:00"), bad))).results
            assert (one.status, one.matched, one.extra) == ("partial", 1, 0)
            assert "1 archived trades may be the venue's that cannot be read" in one.detail

    run(work)


def test_krakens_last_may_leap_and_no_trade_is_leapt_over(tmp_path: Path) -> None:
    async def work() -> None:
        async with playing("kraken", tmp_path, drop=4) as world:
            quiet = await world.reconcile(instruments=["BTC/USD"])
            async with aiohttp.ClientSession() as session:
                query = next(query for path, query in world.faults.requests if path == "/Trades")
                async with session.get(f"{world.server.rest_url}/Trades", params=query) as response:
                    document = json.loads(await response.read(), parse_float=str)
            (name,) = set(document["result"]) - {"last"}
            # One microsecond later than it was captured, which is no later beginning.
            rows = [[*row[:2], float(row[2]), *row[3:]] for row in document["result"][name]]
            assert len(rows) > 4
            late = str(int((HOUR + timedelta(days=1)).timestamp()) * 10**9)
            body = json.dumps({"error": [], "result": {name: rows[:3], "last": late}}).encode()
            leap = await world.reconcile(RestFault("body", "/Trades", body=body), instruments=["BTC/USD"])
            assert [one.as_dict() for one in leap.results] == [one.as_dict() for one in quiet.results]

    run(work)


def test_a_venue_that_stalls_costs_so_long_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with playing("kraken", tmp_path) as world:
            slow = RestFault("slow", "/", count=None, delay_s=1.0)
            monkeypatch.setattr(run_module, "MAX_INSTRUMENT_S", 0.1)
            report = await world.reconcile(slow)
            assert set(report.statuses) == {"unavailable"}
            assert [one.detail for one in report.results][:3] == [
                "no whole answer within 0 s", "no whole answer within 0 s",
                "not asked: the venue did not answer for those before",
            ]  # fmt: skip
            monkeypatch.setattr(run_module, "MAX_RUN_S", 0.0)
            report = await world.reconcile()
            assert {one.detail for one in report.results} == {"not asked: the run took longer than 0 s"}
            assert report.requests == 0

    run(work)


def test_a_page_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_PAGE_ROWS", 3)

    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=[kalshi_trade(1, "12:01:00")]) as world:
            (one,) = (await world.reconcile(answer(*(kalshi_row(n, "12:02:00") for n in range(4))))).results
            assert (one.status, one.venue_trades) == ("unavailable", 0)
            assert "a page of 4 rows, more than 3" in one.detail

    run(work)


STRANGE = [
    "../../etc/passwd",
    "A'; DROP TABLE reports;--",
    "*",
    "%",
    "A,B",
    "A&ticker=B",
    "\u202eX",
    "a b",
    "\x00",
    "Ü" * 300,
]


@pytest.mark.parametrize("feed", ["kalshi", "kraken", "kraken-futures", "polymarket"])
def test_strange_names_are_only_names(feed: str, tmp_path: Path, database_url: str) -> None:
    async def work() -> None:
        async with playing(feed, tmp_path, database_url=database_url) as world:
            report = await world.reconcile(instruments=STRANGE)
            assert len(report.results) == len(STRANGE)
            assert not report.wrong and not any(one.matched for one in report.results)
            asked = [query for _, query in world.faults.requests]
            assert not any(query.get("ticker") == "B" for query in asked)
        assert {path.name for path in tmp_path.iterdir()} == {"data"}

    run(work)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM trade_reconciliations").fetchone() == (len(STRANGE),)


def test_two_runs_at_once_and_one_that_was_killed_give_the_same(tmp_path: Path, database_url: str) -> None:
    async def work() -> None:
        async with playing("kraken", tmp_path, drop=6, database_url=database_url) as world:
            day = world.settings.backfill_root / "kraken" / world.stream / f"{HOUR:%Y-%m-%d}"
            day.mkdir(parents=True)
            (day / f".trade_{HOUR:%H}00.parquet.part").write_bytes(b"PAR1 cut short")
            both = await asyncio.gather(world.reconcile(), world.reconcile(instruments=["ETH/USD", "BTC/USD"]))
            lost = len([row for report in both for one in report.results for row in one.sample])
            assert lost
            file = day / f"trade_{HOUR:%H}00.parquet"
            kept = pq.read_table(file)
            assert len(kept) == sum(one.missing for one in both[0].results) == sum(r.backfill_added for r in both)
            before = file.read_bytes()
            assert (await world.reconcile()).backfill_added == 0
            assert file.read_bytes() == before
            assert [path.name for path in day.glob("*.parquet")] == [file.name]

    run(work)
