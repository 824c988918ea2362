"""Reconciliation of all four venues, from the socket to the backfill: the venue knows what the capture did not get."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pyarrow.parquet as pq
import pytest
from reconcile_rig import FEEDS, HOUR, World, playing, trades_of
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_core import config
from ssmd_core.feeds import get
from ssmd_stream.reconcile import kalshi as kalshi_client
from ssmd_stream.reconcile import kraken as kraken_client
from ssmd_stream.reconcile import polymarket as polymarket_client
from ssmd_stream.reconcile.backfill import COLUMNS as BACKFILL_COLUMNS
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.replay.rest_faults import RestFault
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.replay.venues.registry import subscribe_commands
from ssmd_stream.replay.venues_rest import kraken as kraken_rest
from ssmd_stream.replay.venues_rest import kraken_futures as futures_rest
from ssmd_stream.replay.venues_rest import polymarket_trades as polymarket_rest

TRADES = {"kalshi": "/markets/trades", "kraken": "/Trades", "kraken-futures": "/history", "polymarket": "/trades"}
ID = {"kalshi": "trade_id", "kraken": "trade_id", "kraken-futures": "uid", "polymarket": "transaction_hash"}


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def ids_in(world: World, path: Path) -> list[str]:
    """Ids of a backfill dataset, as `trades_of` gives them."""
    symbol = "{symbol} " if world.feed == "kraken" else ""
    return sorted((symbol + "{" + ID[world.feed] + "}").format(**row) for row in pq.read_table(path).to_pylist())


@pytest.mark.parametrize("feed", FEEDS)
def test_missing_are_exactly_the_dropped_ones(feed: str, tmp_path: Path, database_url: str) -> None:
    async def work() -> None:
        async with playing(feed, tmp_path, drop=7, seed=3, database_url=database_url) as world:
            end = HOUR + timedelta(hours=1)
            sent, dropped = trades_of(feed, world.frames), trades_of(feed, world.dropped)
            inside = {name for name, (_, time_us) in sent.items() if time_us < int(end.timestamp()) * 10**6}
            assert dropped
            report = await world.reconcile()
            assert {result.instrument for result in report.results} == {each[0] for each in sent.values()}
            assert (report.wrong, report.backfill_added) == (True, len(dropped))
            found = {item["id"] for result in report.results for item in result.sample if item["what"] == "missing"}
            assert found == {name.rpartition(" ")[2] for name in dropped}
            for result in report.results:
                lost = sum(instrument == result.instrument for instrument, _ in dropped.values())
                assert (result.missing, result.extra, result.differing, result.backfilled) == (lost, 0, 0, lost)
                assert result.matched == result.venue_trades - lost == result.archived_trades
                assert result.status == ("missing" if lost else "ok" if feed != "kraken-futures" else "partial")
            if feed != "kraken-futures":  # its history begins where the first trades lie, and says so
                assert sum(result.venue_trades for result in report.results) == len(inside)
            assert report.backfill_path is not None
            path = world.settings.data / report.backfill_path
            assert ids_in(world, path) == sorted(dropped)
            before = path.read_bytes()
            again = await world.reconcile()
            assert (again.backfill_added, path.read_bytes()) == (0, before)
            with psycopg.connect(database_url) as connection:
                rows = connection.execute("SELECT id, instrument, missing, backfilled FROM trade_reconciliations")
                stored = {(row[1], row[2], row[3]) for row in rows if f"reconciliation:{row[0]}"}
            assert stored == {(each.instrument, each.missing, each.backfilled) for each in again.results}
            assert [each.id for each in again.results] == [each.id for each in report.results]

    run(work)


@pytest.mark.parametrize("feed", FEEDS)
def test_short_pages_give_the_same(feed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with playing(feed, tmp_path, drop=5, seed=4) as world:
            whole = await world.reconcile(backfill=False)
            monkeypatch.setattr(kalshi_client, "TRADES_PER_PAGE", 7)
            monkeypatch.setattr(kraken_rest, "MAX_TRADES", 7)
            monkeypatch.setattr(futures_rest, "MAX_TRADES", 9)
            monkeypatch.setattr(polymarket_client, "TRADES_PER_PAGE", 4)
            monkeypatch.setattr(polymarket_client, "OVERLAP", 2)
            pages = await world.reconcile(backfill=False)
            assert pages.requests > whole.requests
            assert [each.as_dict() for each in pages.results] == [each.as_dict() for each in whole.results]
            assert sum(each.missing for each in whole.results) == len(trades_of(feed, world.dropped))
            assert not world.settings.backfill_root.exists()

    run(work)


@pytest.mark.parametrize("feed", ["kraken", "kraken-futures", "polymarket"])
def test_a_history_that_is_too_short_is_neither_missing_nor_extra(
    feed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with playing(feed, tmp_path) as world:
            half = (HOUR, HOUR + timedelta(minutes=30))
            if feed == "polymarket":
                # Nothing stands behind the cap, and what stands there is not told apart from it.
                monkeypatch.setattr(polymarket_rest, "MAX_OFFSET", 1)
                monkeypatch.setattr(polymarket_client, "TRADES_PER_PAGE", 3)
                faults = []
            else:
                faults = [RestFault("forget", TRADES[feed], count=None, by=30)]
            report = await world.reconcile(*faults)
            assert report.results
            assert set(report.statuses) == {"partial"}
            for result in report.results:
                assert (result.missing, result.extra, result.differing) == (0, 0, 0)
                assert 0 < result.matched == result.venue_trades
                assert "compared from" in result.detail
            faults = [RestFault("forget", TRADES[feed], count=None, by=1)]
            report = await world.reconcile(*faults, window=half)
            assert set(report.statuses) == {"unavailable"}
            assert {(each.venue_trades, each.extra, each.match_rate) for each in report.results} == {(0, 0, None)}
            assert all(each.detail for each in report.results)
            assert not world.settings.backfill_root.exists()

    run(work)


def test_kalshis_old_trades_are_asked_for_where_they_are_kept(tmp_path: Path) -> None:
    async def work() -> None:
        async with playing("kalshi", tmp_path, drop=4, now=HOUR + timedelta(days=90, minutes=30)) as world:
            # The cutoff lies in the middle of the hour.
            report = await world.reconcile()
            assert sum(each.missing for each in report.results) == len(trades_of("kalshi", world.dropped))
            asked = {path for path, _ in world.faults.requests}
            assert asked == {"/historical/cutoff", "/historical/trades", "/markets/trades"}
            report = await world.reconcile(RestFault("status", "/historical/trades", count=None, status=404))
            assert set(report.statuses) == {"unavailable"}
            assert "HTTP 404" in report.results[0].detail

    run(work)


@pytest.mark.parametrize("feed", FEEDS)
def test_a_venue_that_stumbles_is_asked_again(feed: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with playing(feed, tmp_path) as world:
            path = TRADES[feed]
            faults = [
                RestFault("status", path, at=0, status=429),
                RestFault("status", path, at=1, status=500),
                RestFault("html", path, at=2),
                RestFault("error_inside", path, at=3),
                RestFault("truncate", path, at=5),
                RestFault("reset", path, at=7),
            ]
            report = await world.reconcile(*faults)
            assert world.faults.struck == faults
            assert not report.wrong
            assert "unavailable" not in report.statuses

    run(work)


SILENT = (
    RestFault("status", count=None, status=503),
    RestFault("html", count=None),
    RestFault("error_inside", count=None),
    RestFault("status", count=None, status=451),
    RestFault("body", count=None, body=b'{"result":{"last":"x","A":[]},"trades":7,"history":{}}'),
    RestFault("body", count=None, body=b"[" * 100_000),
)


@pytest.mark.parametrize("feed", FEEDS)
def test_no_answer_is_unavailable_and_the_rest_is_not_asked(feed: str, tmp_path: Path) -> None:
    async def work() -> None:
        frames = generate_frames(feed, 60, start_ns=int(HOUR.timestamp()) * 10**9, frames_per_s=1.0)
        async with playing(feed, tmp_path, frames=frames) as world:
            for fault in SILENT:
                report = await world.reconcile(fault)
                assert report.results
                assert set(report.statuses) == {"unavailable"}
                assert report.backfill_path is None
                assert all(result.detail for result in report.results)
                # Six attempts for each of two instruments, not for all; a refusal is final at once.
                assert report.requests <= (2 * len(report.results) if fault.status == 451 else 12)

    run(work)


def test_pages_that_come_twice_or_never_end_are_no_history(tmp_path: Path) -> None:
    frames = [kalshi_trade(number, f"12:{number:02d}:00") for number in range(1, 8)]

    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=frames) as world:
            for kind in ("repeat", "endless"):
                report = await world.reconcile(RestFault(kind, TRADES["kalshi"], count=None))
                assert set(report.statuses) == {"unavailable"}
                assert "came before" in report.results[0].detail

    run(work)


def test_polymarkets_listing_may_grow_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with playing("polymarket", tmp_path, drop=3) as world:
            monkeypatch.setattr(polymarket_client, "TRADES_PER_PAGE", 6)
            monkeypatch.setattr(polymarket_client, "OVERLAP", 2)
            quiet = await world.reconcile()
            shifted = await world.reconcile(RestFault("shift", "/trades", at=1, count=None, by=2))
            assert [each.as_dict() for each in shifted.results] == [each.as_dict() for each in quiet.results]

    run(work)


def kalshi_trade(number: int, at: str, count: str = "1.00") -> bytes:
    ms = int(datetime.fromisoformat(f"2026-11-22T{at}+00:00").timestamp() * 1000)
    return (
        f'{{"type":"trade","sid":1,"seq":{number},"msg":{{"trade_id":"{number:032x}","market_ticker":"KXA-1-T1.5",'
        f'"yes_price_dollars":"0.0800","no_price_dollars":"0.9200","count_fp":"{count}","taker_side":"yes",'
        f'"ts":{ms // 1000},"ts_ms":{ms}}}}}'
    ).encode()


def test_the_hours_around_tell_what_lies_at_the_edges(tmp_path: Path) -> None:
    late = kalshi_trade(4, "12:59:58.5")
    frames = [kalshi_trade(1, "12:00:00"), kalshi_trade(2, "12:10:00"), kalshi_trade(3, "12:59:57"), late]

    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=frames, lost=[3]) as world:
            (one,) = (await world.reconcile()).results
            assert (one.status, one.matched, one.missing) == ("partial", 2, 0)
            assert "1 trades may stand in the hour after, which is not built" in one.detail
            # It came after the hour's end.
            world.archive.seal(HOUR + timedelta(hours=1), [late])
            world.build(HOUR + timedelta(hours=1))
            (one,) = (await world.reconcile()).results
            assert (one.status, one.matched, one.detail) == ("ok", 4, "")
            (after,) = (await world.reconcile(hour=HOUR + timedelta(hours=1))).results
            assert (after.status, after.venue_trades, after.extra) == ("ok", 0, 0)

    run(work)


def test_an_hour_that_is_not_built_is_unavailable(tmp_path: Path) -> None:
    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=[kalshi_trade(1, "12:00:30")]) as world:
            report = await world.reconcile(hour=HOUR - timedelta(hours=5), instruments=["KXA-1-T1.5"])
            assert [(each.status, each.detail) for each in report.results] == [
                ("unavailable", "no dataset has been built of this hour")
            ]
            assert report.requests == 0

    run(work)


def test_other_numbers_and_strange_trades_are_told_apart(tmp_path: Path) -> None:
    frames = [kalshi_trade(number, f"12:{number:02d}:00") for number in range(1, 11)]

    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=frames, lost=[4, 6]) as world:
            world.archive.seal(HOUR, [kalshi_trade(5, "12:05:00", "1.01"), kalshi_trade(77, "12:09:00")], late=1)
            world.build()
            (one,) = (await world.reconcile()).results
            assert (one.status, one.matched, one.missing, one.differing, one.extra) == ("missing", 8, 1, 1, 1)
            assert [item["what"] for item in one.sample] == ["missing", "differing", "extra"]
            differing = one.sample[1]
            assert (differing["venue"]["size"], differing["archive"]["size"]) == ("1.00", "1.010000")

    run(work)


def test_a_snapshot_fills_a_gap_and_repeats_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with playing("kraken", tmp_path, drop=6, seed=5) as world:
            rows = [re.search(rb'"data":\[(.*)\]', frame)[1] for frame in world.frames[:200] + world.dropped]  # type: ignore[index]
            snapshot = b'{"channel":"trade","type":"snapshot","data":[' + b",".join(rows) + b"]}"
            world.archive.seal(HOUR + timedelta(minutes=45), [snapshot], late=1)
            world.build()
            report = await world.reconcile()
            assert set(report.statuses) == {"ok"}
            assert report.backfill_path is None

    run(work)


def test_polymarkets_messages_of_before_2026_have_no_hash(tmp_path: Path) -> None:
    async def work() -> None:
        frames = generate_frames("polymarket", 400, start_ns=int(HOUR.timestamp()) * 10**9, frames_per_s=0.2)
        old = [re.sub(rb',"transaction_hash":"0x[0-9a-f]+"', b"", frame) for frame in frames]
        telling = [number for number, frame in enumerate(old) if b"last_trade_price" in frame and frame[:1] == b"{"]
        async with playing("polymarket", tmp_path, frames=old, lost=telling[4:6]) as world:
            report = await world.reconcile()
            assert sum(each.missing for each in report.results) == 2
            assert not any(each.extra or each.differing for each in report.results)

    run(work)


def test_makers_rows_are_not_missing_and_only_asked_for_where_a_trade_is_not_found(tmp_path: Path) -> None:
    async def work() -> None:
        async with playing("polymarket", tmp_path) as world:
            await world.reconcile()
            assert {query["takerOnly"] for _, query in world.faults.requests} == {"true"}
            frame = next(each for each in world.frames if b'"event_type":"last_trade_price"' in each)
            strange = re.sub(rb'"transaction_hash":"0x', b'"transaction_hash":"0xe', frame)
            world.archive.seal(HOUR, [strange], late=1)
            world.build()
            report = await world.reconcile()
            assert "false" in {query["takerOnly"] for _, query in world.faults.requests}
            assert sum(each.extra for each in report.results) == 1
            assert sum(each.missing for each in report.results) == 0

    run(work)


@pytest.mark.parametrize("feed", ["kraken", "kraken-futures"])
def test_the_played_venue_knows_what_its_snapshots_told(feed: str) -> None:
    async def work() -> None:
        async with ReplayServer(get(feed), Generated(limit=300)) as server:
            sent: set[str] = set()
            async with aiohttp.ClientSession() as session, session.ws_connect(server.url) as socket:
                for command in subscribe_commands(feed, ("trade",), server.instruments):
                    told = json.loads(command)
                    if "params" in told:
                        told["params"]["snapshot"] = True
                    await socket.send_json(told)
                await server.finished()
                async with asyncio.timeout(5):
                    while len(sent) < 200:
                        sent |= set(trades_of(feed, [(await socket.receive_str()).encode()]))
                one = server.instruments[0]
                path = f"/Trades?pair={one}&since=0" if feed == "kraken" else f"/history?symbol={one}"
                body = await (await session.get(server.rest_url + path)).json()
            if feed == "kraken":
                known = {f"{one} {row[6]}" for row in body["result"][one]}
            else:
                known = {row["uid"] for row in body["history"]}
            assert len(known) >= 20
            assert {name for name in sent if name.startswith(one) or feed != "kraken"} & known

    run(work)


def test_the_command_says_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [kalshi_trade(number, f"12:{number:02d}:30") for number in range(1, 11)]
    runner = CliRunner()

    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=frames, lost=[4]) as world:
            monkeypatch.setenv("SSMD_DATA", str(world.settings.data))
            root = world.settings.config_root

            async def ssmd(*words: str) -> Any:
                return await asyncio.to_thread(runner.invoke, app, ["health", "trades", *words])

            config.create_feed(root, get("kalshi"), date(2026, 1, 1), rest_endpoint=world.server.rest_url)
            found = await ssmd("kalshi", "--detailed")
            assert found.exit_code == 1, found.output
            assert "KXA-1-T1.5" in found.stdout
            assert "1.00 at 0.0800" in found.stdout
            assert "1 missing trades were added to backfill/kalshi/crypto/2026-11-22/trade_1200.parquet" in found.stdout
            assert "not stored" in found.stderr
            found = await ssmd("kalshi/crypto", "--hour", "2026-11-22-12:00", "--json", "--no-backfill")
            (report,) = json.loads(found.stdout)
            assert (found.exit_code, report["match_rate"], report["results"][0]["missing"]) == (1, "0.9000", 1)
            found = await ssmd("kalshi", "--from", "2026-11-22T12:06", "--to", "2026-11-22T12:30")
            assert found.exit_code == 0
            found = await ssmd("kalshi", "--hour", "2026-11-22-12:00", "--window", "5m", "--instrument", "KXNONE")
            assert found.exit_code == 0
            found = await ssmd("kalshi", "--to", "2026-11-22T11:00", "--window", "1h", "--instrument", "KXA-1-T1.5")
            assert found.exit_code == 3
            for words, reason in (
                (("kalshi/../x",), "must be lower-case"),
                (("nyse",), "unknown feed"),
                (("kraken",), "no hour of kraken/spot has been built"),
                (("kalshi", "--hour", "12"), "--hour"),
                (("kalshi", "--hour", "2026-11-22-12:00", "--to", "2026-11-22"), "neither"),
                (("kalshi", "--window", "5x"), "--window"),
                (("kalshi", "--from", "2026-11-22", "--to", "2026-11-22"), "empty"),
            ):
                found = await ssmd(*words)
                assert (found.exit_code, reason in found.stderr) == (2, True), found.output

    run(work)


def test_bounds_of_the_paging_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def kraken() -> None:
        async with playing("kraken", tmp_path / "kraken") as world:
            monkeypatch.setattr(kraken_rest, "MAX_TRADES", 9)
            monkeypatch.setattr(kraken_client, "MAX_PAGES", 3)
            (one,) = (await world.reconcile(instruments=["BTC/USD"])).results
            assert (one.status, one.missing, one.extra) == ("partial", 0, 0)
            assert 0 < one.matched < 27
            assert "3 pages do not reach the end" in one.detail
            (one,) = (await world.reconcile(instruments=["NOPE/USD"])).results
            assert (one.status, one.detail) == ("unavailable", "AssetPairs has no pair 'NOPE/USD'")

    async def polymarket() -> None:
        async with playing("polymarket", tmp_path / "polymarket") as world:
            monkeypatch.setattr(polymarket_client, "TRADES_PER_PAGE", 3)
            name = (await world.reconcile()).results[0].instrument
            refused = RestFault("status", "/trades", at=2, count=None, status=400)
            (one,) = (await world.reconcile(refused, instruments=[name])).results
            assert (one.status, one.missing, one.extra) == ("partial", 0, 0)
            assert "shows only the newest" in one.detail

    async def kalshi() -> None:
        frames = [kalshi_trade(number, f"12:{number:02d}:00") for number in range(1, 4)]
        async with playing("kalshi", tmp_path / "kalshi", frames=frames) as world:
            monkeypatch.setattr(kalshi_client, "TRADES_PER_PAGE", 1)
            monkeypatch.setattr(kalshi_client, "MAX_PAGES", 2)
            (one,) = (await world.reconcile()).results
            assert (one.status, one.detail) == (
                "unavailable", "GET /markets/trades: more than 2 pages of 'KXA-1-T1.5'"
            )  # fmt: skip

    for work in (kraken, polymarket, kalshi):
        run(work)


def test_a_row_that_cannot_be_read_leaves_the_rest(tmp_path: Path) -> None:
    row = {
        "trade_id": f"{1:032x}", "ticker": "KXA-1-T1.5", "created_time": "2026-11-22T12:01:00.000999Z",
        "count_fp": "1.00", "yes_price_dollars": "0.0800", "taker_side": "yes",
    }  # fmt: skip
    body = json.dumps({"trades": [row, {**row, "trade_id": "x", "count_fp": "many"}, 7], "cursor": ""}).encode()

    async def work() -> None:
        async with playing("kalshi", tmp_path, frames=[kalshi_trade(1, "12:01:00")]) as world:
            (one,) = (await world.reconcile(RestFault("body", TRADES["kalshi"], body=body))).results
            assert (one.status, one.matched) == ("partial", 1)
            assert "a row cannot be read: count_fp: 'many' is not a number" in one.detail

    run(work)


def test_every_feed_has_columns_for_its_backfill() -> None:
    for name, columns in BACKFILL_COLUMNS.items():
        feed = get(name)
        known = {column.name for column in feed.required_schema(feed.trades.message_type).columns}
        assert set(columns) <= known
    assert set(BACKFILL_COLUMNS) == set(FEEDS)
