"""Kraken's listings, spot and futures, become pairs; a listing that is not whole changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.db.merge import SyncReport, SyncRun, TableReport
from ssmd_core.errors import ConfigError
from ssmd_core.feeds import get
from ssmd_core.settings import Settings
from ssmd_stream.replay.generator.kraken import KrakenExchange, asset_pairs
from ssmd_stream.replay.generator.kraken_futures import KrakenFuturesExchange, instrument_listing
from ssmd_stream.replay.rest_faults import RestFault, RestFaults
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.secmaster import kraken, kraken_futures
from ssmd_stream.secmaster.fields import FieldError, Record
from ssmd_stream.secmaster.kraken_names import canonical_of_raw
from ssmd_stream.secmaster.rest import RestClient, RestError, RestNotFoundError, Timing, decode
from ssmd_stream.secmaster.sync import Mode, run_sync

WORK = {"kraken": kraken.sync_pairs, "kraken-futures": kraken_futures.sync_pairs}
NOISE: list[Any] = [
    "",
    None,
    "NaN",
    "1e400",
    1e308,
    -1,
    True,
    [],
    {},
    "x" * 300,
    "a\u202eb",
    "'; DROP TABLE pairs; --",
    "\x00",
]


async def sync(feed: str, url: str, database_url: str, clock: Clock | None = None) -> SyncReport:
    """One full run; what would wait between attempts does not."""
    timing = Timing(sleep=lambda _: asyncio.sleep(0))
    async with (
        RestClient.for_feed(feed, url, timing) as rest,
        await SyncRun.begin(database_url, f"{feed}/pairs", "full", clock or Clock()) as run,
    ):
        return await WORK[feed](rest, run, "full")


async def synced(feed: str, database_url: str, listing: Any = None, *faults: RestFault) -> SyncReport:
    """One full run against a replay server."""
    async with ReplayServer(get(feed), Generated(limit=0), listing=listing, rest_faults=RestFaults(*faults)) as server:
        return await sync(feed, server.rest_url, database_url)


def pairs(database_url: str) -> dict[str, dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return {row["pair_id"]: row for row in connection.execute("SELECT * FROM pairs").fetchall()}


def live(database_url: str) -> set[str]:
    return {pair_id for pair_id, row in pairs(database_url).items() if row["deleted_at"] is None}


def changes(database_url: str) -> tuple[int, int]:
    """History rows and finished runs: what a run that must do nothing leaves as they are."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM pairs_history), (SELECT count(*) FROM sync_runs)"
        ).fetchone()
        assert row is not None
        return row


def read(path: Path) -> Any:
    return decode(path.read_bytes())


# -- spot


def test_spot_names_and_statuses() -> None:
    listed = asset_pairs() | asset_pairs(aclass_base="tokenized_asset")
    rows = {key: kraken.map_pair(key, Record(pair)) for key, pair in listed.items()}
    names = ("pair_id", "base", "quote", "base_raw", "quote_raw", "ws_name", "symbol", "altname")
    assert [[rows[key][name] for name in names] for key in ("XDGUSD", "XAUTUSD", "AAPLxUSD")] == [
        ["kraken:XDGUSD", "DOGE", "USD", "XXDG", "ZUSD", "XDG/USD", "DOGE/USD", "XDGUSD"],
        ["kraken:XAUTUSD", "XAUT", "USD", "XAUT", "ZUSD", "XAUT/USD", "XAUT/USD", "XAUTUSD"],
        ["kraken:AAPLxUSD", "AAPLx", "USD", "AAPLx", "ZUSD", "AAPLx/USD", "AAPLx/USD", "AAPLxUSD"],
    ]
    assert rows["XXBTZUSD"]["tick_size"] == Decimal("0.1")
    assert rows["XXBTZUSD"]["fee_schedule"] is None
    words = (None, "online", "cancel_only", "reduce_only", "work_in_progress", "halted")
    assert [kraken.status_of(word) for word in words] == [
        ("active", True), ("active", True), ("cancel_only", False), ("reduce_only", True),
        ("work_in_progress", False), ("inactive", False),
    ]  # fmt: skip


def test_spot_samples(samples: Path) -> None:
    folder = samples / "kraken" / "rest"
    old = kraken.pairs_of(read(folder / "AssetPairs_full_2021-04-17.json"))
    rows = {key: kraken.map_pair(key, Record(pair)) for key, pair in old.items()}
    assert len(rows) == 304
    # The names of REST's assets and those of wsname are told apart by two rules; they agree on all pairs.
    for key, row in rows.items():
        if "wsname" in old[key]:
            assert (row["base"], row["quote"]) == tuple(
                canonical_of_raw(row[name]) for name in ("base_raw", "quote_raw")
            ), key
    dark = rows["XXBTZUSD.d"]
    assert (dark["symbol"], dark["ws_name"], dark["status"]) == ("BTC/USD", "XBTUSD.d", "active")
    tiers = json.loads(bytes(rows["XXBTZUSD"]["fee_schedule"]))
    assert len(tiers) == 9
    assert tiers[1] == {"volume": 50000, "taker": 0.24, "maker": 0.14}
    for name, key, status in (
        ("AssetPairs_XXBTZUSD_2026-09-25.json", "XXBTZUSD", "active"),
        ("asset_pairs.json", "XBTUSDT", "active"),
        ("asset_pairs_tokenized.json", "AAPLxUSD", "active"),
    ):
        row = kraken.map_pair(key, Record(kraken.pairs_of(read(folder / name))[key]))
        assert (row["status"], row["order_min"] is None) == (status, False)
    with pytest.raises(RestError, match="Unknown asset pair"):
        kraken.pairs_of(read(folder / "error_unknown_pair.json"))


def test_spot_full_then_nothing_then_two_sweeps(database_url: str) -> None:
    listing = {str(n): asset_pairs()["XXBTZUSD"] | {"wsname": f"A{n}/USD"} for n in range(20)}
    listing |= asset_pairs(aclass_base="tokenized_asset")

    async def run() -> None:
        async with ReplayServer(get("kraken"), Generated(limit=0), listing=listing) as server:

            async def again() -> SyncReport:
                return await sync("kraken", server.rest_url, database_url)

            report = (await again()).tables["pairs"]
            assert (report.fetched, report.inserted, report.rejected) == (21, 21, 0)
            with psycopg.connect(database_url) as connection:
                connection.execute("UPDATE pairs SET bid = 1.5 WHERE pair_id = 'kraken:3'")
            before = changes(database_url)
            assert (await again()).touched == 0
            assert changes(database_url) == (before[0], before[1] + 1)
            assert pairs(database_url)["kraken:3"]["bid"] == Decimal("1.5")

            gone = listing.pop("3")
            listing["4"] |= {"status": "cancel_only", "tick_size": "0.25"}
            report = (await again()).tables["pairs"]
            assert (report.changed, report.missing, report.deleted) == (1, 1, 0)
            row = pairs(database_url)["kraken:4"]
            assert (row["status"], row["venue_status"], row["tradeable"]) == ("cancel_only", "cancel_only", False)
            assert (await again()).tables["pairs"].deleted == 1
            assert "kraken:3" not in live(database_url)
            listing["3"] = gone
            assert (await again()).tables["pairs"].resurrected == 1

            for key in ("5", "6", "7"):
                del listing[key]
            report = (await again()).tables["pairs"]
            assert (report.missing, report.deleted) == (3, 0)
            assert "18 of 21" in report.refused
            assert len(live(database_url)) == 21

    asyncio.run(run())


def test_spot_without_the_tokenised_listing_deletes_nothing(database_url: str) -> None:
    asyncio.run(synced("kraken", database_url))
    fault = RestFault("error_inside", at=1, count=None)
    for _ in range(3):
        report = asyncio.run(synced("kraken", database_url, None, fault))
        assert report.warnings == {"pairs: no listing of tokenised assets, nothing deleted": 1}
    assert "kraken:AAPLxUSD" in live(database_url)


def test_what_cannot_be_read_is_not_missing(database_url: str) -> None:
    spot = {str(n): asset_pairs()["XXBTZUSD"] | {"wsname": f"A{n}/USD"} for n in range(20)}
    asyncio.run(synced("kraken", database_url, spot))
    spot["3"]["base"] = None
    for _ in range(3):
        report = asyncio.run(synced("kraken", database_url, spot)).tables["pairs"]
        assert (report.rejected, report.missing, report.deleted, report.refused) == (1, 0, 0, "")

    futures = [contract(f"PF_A{n}USD") for n in range(20)]
    asyncio.run(synced("kraken-futures", database_url, {"instruments": futures, "tickers": []}))
    # In the small letters of 2021, a type that is not known yet, and one that cannot be read.
    futures[3] |= {"symbol": "pf_a3usd", "type": "futures_of_the_future"}
    futures[4] |= {"contractSize": "x", "symbol": "pf_a4usd", "base": "x" * 80, "quote": "USD"}
    del futures[5]
    for _ in range(3):
        report = asyncio.run(synced("kraken-futures", database_url, {"instruments": futures, "tickers": []}))
        assert report.warnings["instruments: type 'futures_of_the_future' is no contract, not taken"] == 1
    gone = {pair_id for pair_id, row in pairs(database_url).items() if row["deleted_at"] is not None}
    assert gone == {"kraken:PF_A5USD"}


def test_spot_status_of_the_generated_exchange() -> None:
    exchange = KrakenExchange(0, lambda: 0)
    exchange.pairs["BTC/USD"].status = "cancel_only"
    assert asset_pairs(exchange)["XXBTZUSD"]["status"] == "cancel_only"


def test_spot_hostile_values(database_url: str) -> None:
    good = asset_pairs()["XXBTZUSD"]
    listing: dict[str, Any] = {f"N{n}-{name}": good | {name: noise} for n, noise in enumerate(NOISE) for name in good}
    listing |= {
        "x" * 200: good,
        "nul\x00": good,
        "": good,
        "rtl\u202e": good,
        "'; DROP": good,
        "none": None,
        "list": [],
    }
    report = asyncio.run(synced("kraken", database_url, listing)).tables["pairs"]
    rows = pairs(database_url)
    # `aclass_base` decides in which listing a pair stands, if in any.
    unlisted = sum(name.endswith("-aclass_base") for name in listing)
    assert report.inserted + report.rejected == len(listing) - unlisted
    assert {"kraken:rtl\u202e", "kraken:'; DROP"} <= set(rows)
    assert not {"kraken:N0-base", "kraken:N9-quote", "kraken:nul\ufffd"} & set(rows)
    assert all(row["tick_size"] is None or row["tick_size"].is_finite() for row in rows.values())


# -- futures


def contract(symbol: str, /, **members: Any) -> dict[str, Any]:
    return instrument_listing()[0] | {"symbol": symbol, "base": None, "quote": None} | members


def test_futures_kinds_and_statuses() -> None:
    def mapped(symbol: str, ticker: Mapping[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        return kraken_futures.map_contract(
            Record(contract(symbol, **members)), None if ticker is None else Record(dict(ticker))
        )

    symbols = ("PF_XBTUSD", "PI_XBTUSD", "fi_xbtusd_210924", "FF_ETHUSD_261225", "fv_xrpxbt_180615", "PF_AAPLxUSD")
    columns = ("native_id", "market_type", "base", "quote", "base_raw")
    assert [[mapped(symbol)[name] for name in columns] for symbol in symbols] == [
        ["PF_XBTUSD", "perpetual", "BTC", "USD", "XBT"],
        ["PI_XBTUSD", "perpetual", "BTC", "USD", "XBT"],
        ["FI_XBTUSD_210924", "future", "BTC", "USD", "XBT"],
        ["FF_ETHUSD_261225", "future", "ETH", "USD", "ETH"],
        ["FV_XRPXBT_180615", "future", "XRP", "BTC", "XRP"],
        ["PF_AAPLxUSD", "perpetual", "AAPLx", "USD", "AAPLx"],
    ]
    flags: list[dict[str, Any]] = [
        {}, {"postOnly": True}, {"suspended": True, "postOnly": True}, {"tradeable": False, "suspended": True},
        {"isExpired": True, "tradeable": False},
    ]  # fmt: skip
    assert [mapped("PF_XBTUSD", None, **each)["status"] for each in flags] == [
        "active", "post_only", "suspended", "inactive", "expired",
    ]  # fmt: skip
    assert mapped("PF_XBTUSD", {"suspended": True})["status"] == "suspended"
    # Absent where it is zero, too: unknown is not zero.
    assert mapped("PF_XBTUSD", {"markPrice": Decimal("1.5")})["funding_rate"] is None
    with pytest.raises(FieldError, match="neither a perpetual's nor"):
        mapped("ZZ_XBTUSD")
    assert mapped("ZZ_XBTUSD", lastTradingTime="2026-12-25T08:00:00Z")["market_type"] == "future"


def test_futures_samples(database_url: str, samples: Path) -> None:
    folder = samples / "kraken-futures" / "rest"
    new, tickers = (read(folder / name) for name in ("instruments.json", "tickers.json"))
    old = read(folder / "instruments_full_2021-07-22.json")
    listing = {
        "instruments": json.loads(json.dumps(old["instruments"] + new["instruments"], default=float)),
        "tickers": json.loads(json.dumps(tickers["tickers"], default=float)),
    }
    report = asyncio.run(synced("kraken-futures", database_url, listing))
    # 17 contracts and 10 indices in 2021; of the four of 2025 PI_XBTUSD was there then.
    assert (report.tables["pairs"].fetched, report.tables["pairs"].repeated, report.rejects) == (21, 1, [])
    assert report.warnings["instruments: type 'spot index' is no contract, not taken"] == 10
    rows = pairs(database_url)
    kinds = [row["market_type"] for row in rows.values()]
    assert (kinds.count("perpetual"), kinds.count("future")) == (8, 12)
    perpetual = rows["kraken:PI_XBTUSD"]
    assert perpetual["mark_price"] == Decimal("91506.6009839176")
    assert perpetual["funding_rate"] == Decimal("-3.995839963e-09")
    assert perpetual["margin_levels"][1] == {"contracts": 500000, "initialMargin": 0.04, "maintenanceMargin": 0.02}
    assert (perpetual["base"], perpetual["base_raw"], perpetual["altname"]) == ("BTC", "BTC", "BTC:USD")
    assert rows["kraken:PF_PEPEUSD"]["lot_decimals"] == -3
    assert rows["kraken:PF_PEPEUSD"]["tick_size"] == Decimal("1e-10")
    dated = rows["kraken:FI_ETHUSD_210924"]
    assert (dated["base"], dated["quote"], dated["mark_price"]) == ("ETH", "USD", None)
    assert f"{dated['last_trading_time']:%F %H}" == "2021-09-24 15"
    for name in ("error_roq_1.json", "error_roq_2.json"):
        with pytest.raises(RestError, match="unexpected answer"):
            kraken_futures.listed(read(folder / name), "/instruments", "instruments")
    item = kraken_futures.map_contract(Record(read(folder / "instruments_item_roq_3.json")), None)
    assert item["native_id"] == "PI_XBTUSD"
    assert len(kraken_futures.listed(read(folder / "instruments_roq_0.json"), "", "instruments")) == 25


def test_futures_full_then_nothing_then_sweeps_of_each_kind(database_url: str) -> None:
    exchange = KrakenFuturesExchange(0, lambda: 1_795_348_800_000_000_000)
    listing: dict[str, Any] = {"instruments": instrument_listing(), "tickers": exchange.tickers()}
    instruments, tickers = listing["instruments"], listing["tickers"]
    instruments += [contract(f"PF_A{n}USD") for n in range(20)] + [contract(f"FF_A{n}USD_261225") for n in range(20)]

    asyncio.run(synced("kraken", database_url))
    spot = live(database_url)

    async def run() -> None:
        async with ReplayServer(get("kraken-futures"), Generated(limit=0), listing=listing) as server:

            async def again() -> SyncReport:
                return await sync("kraken-futures", server.rest_url, database_url)

            report = await again()
            assert (report.tables["pairs"].inserted, report.touched) == (46, 46)
            assert report.warnings["instruments: without a ticker, so without prices"] == 40
            assert (await again()).touched == 0
            tickers[0]["markPrice"] += 1
            assert (await again()).tables["pairs"].changed == 1

            del instruments[-1]
            instruments.remove(next(each for each in instruments if each["symbol"] == "PF_A7USD"))
            assert [(await again()).tables["pairs"].deleted for _ in range(2)] == [0, 1]
            gone = {"kraken:PF_A7USD", "kraken:FF_A19USD_261225"}
            assert not gone & live(database_url)
            # One kind below nine in ten is refused, whatever the other one does.
            listing["instruments"] = [each for each in instruments if not each["symbol"].startswith("FF_A")]
            assert "live rows" in (await again()).tables["pairs"].refused
            assert spot <= live(database_url)

    asyncio.run(run())


def test_futures_that_are_over_expire_and_are_not_missing(database_url: str) -> None:
    def dated(n: int) -> dict[str, Any]:
        levels = [{"contracts": 0, "initialMargin": 0.02, "maintenanceMargin": 0.01}]
        return contract(f"FF_A{n}USD_261127", lastTradingTime=f"2026-11-27T08:00:{n:02d}Z", marginLevels=levels)

    later = [contract(f"FF_B{n}USD_261225") for n in range(20)]
    listing: dict[str, Any] = {"instruments": [dated(n) for n in range(20)] + later, "tickers": []}

    async def run() -> None:
        async with ReplayServer(get("kraken-futures"), Generated(limit=0), listing=listing) as server:

            async def at(time: str) -> TableReport:
                now_s = int(datetime.fromisoformat(f"{time}Z").timestamp())
                clock = Clock(now_s * NS_PER_S)
                return (await sync("kraken-futures", server.rest_url, database_url, clock)).tables["pairs"]

            assert (await at("2026-11-26T08:00:00")).inserted == 40
            # All but one are over; the venue still lists two of these, one of them as something that is not known.
            listing["instruments"] = [dated(0), dated(1) | {"type": "x"}, dated(19), *later]
            before = pairs(database_url)
            report = await at("2026-11-27T08:00:18")
            assert (report.changed, report.missing, report.refused) == (17, 0, "")
            after = pairs(database_url)
            words = [after[f"kraken:FF_A{n}USD_261127"]["status"] for n in range(20)]
            assert words == ["active"] * 2 + ["expired"] * 17 + ["active"]
            for row in (*before.values(), *after.values()):
                del row["updated_at"], row["status"], row["tradeable"]
            assert {key: after[key] for key in before} == before
            history = changes(database_url)[0]
            assert (await at("2026-11-27T08:00:18")).touched == 0
            listing["instruments"] = later
            assert (await at("2026-11-28T08:00:00")).changed == 3
            assert (await at("2026-11-29T08:00:00")).touched == 0
            assert changes(database_url)[0] == history + 3
            assert len(live(database_url)) == 40

    asyncio.run(run())


def test_futures_generated_tickers_move(database_url: str) -> None:
    exchange = KrakenFuturesExchange(1, lambda: 1_795_348_800_000_000_000)
    before = exchange.tickers()
    for _ in range(500):
        exchange.step(frozenset(), exchange.instruments)
    assert before != exchange.tickers()
    asyncio.run(synced("kraken-futures", database_url))
    rows = pairs(database_url)
    assert rows["kraken:FF_XBTUSD_261225"]["market_type"] == "future"
    assert f"{rows['kraken:FF_XBTUSD_261225']['last_trading_time']:%F}" == "2026-12-25"
    assert rows["kraken:PF_XBTUSD"]["funding_rate"] == Decimal("0.1767923925826881")


def test_what_futures_do_not_know_is_not_found() -> None:
    async def run() -> None:
        async with (
            ReplayServer(get("kraken-futures"), Generated(limit=0)) as server,
            RestClient.for_feed("kraken-futures", server.rest_url) as rest,
        ):
            with pytest.raises(RestNotFoundError, match='"error":"Not Found"'):
                await rest.get("/nope")

    asyncio.run(run())


def test_futures_hostile_values(database_url: str) -> None:
    good = contract("PF_XBTUSD")
    instruments: list[Any] = [
        good | {"symbol": f"PF_N{n}{key}USD"} | ({key: noise} if key != "symbol" else {})
        for n, noise in enumerate(NOISE)
        for key in good
        if key != "symbol"
    ]
    instruments += [None, [], "x", {}, good | {"symbol": "PF_" + "x" * 200 + "USD"}, good | {"symbol": "PF_\x00USD"}]
    instruments += [good | {"symbol": noise} for noise in NOISE] + [good | {"type": {"a": []}}]
    tickers = [None, {}, {"symbol": 5}, *({"symbol": f"PF_N{n}isinUSD", "bid": each} for n, each in enumerate(NOISE))]
    report = asyncio.run(synced("kraken-futures", database_url, {"instruments": instruments, "tickers": tickers}))
    table = report.tables["pairs"]
    skipped = sum(count for text, count in report.warnings.items() if "is no contract" in text)
    assert table.fetched + table.rejected + skipped == len(instruments)
    assert all(row["bid"] is None or row["bid"].is_finite() for row in pairs(database_url).values())


def test_through_the_front_door(database_url: str, tmp_path: Path) -> None:
    settings = Settings.from_environment({"SSMD_DATA": str(tmp_path), "DATABASE_URL": database_url})

    async def run(feed: str, mode: Mode) -> SyncReport:
        async with ReplayServer(get(feed), Generated(limit=0)) as server:
            return await run_sync(f"{feed}/pairs", settings, mode=mode, rest_url=server.rest_url)

    assert [asyncio.run(run(feed, "full")).touched for feed in WORK] == [10, 6]
    with pytest.raises(ConfigError, match="no mode 'incremental'"):
        asyncio.run(run("kraken", "incremental"))


# -- listings that are not whole

FAULTS = [
    RestFault("status", count=None),
    RestFault("status", count=None, status=404),
    RestFault("html", count=None),
    RestFault("error_inside", count=None),
    RestFault("truncate", count=None),
    RestFault("reset", count=None),
    *(
        RestFault("body", count=None, body=body)
        for body in (
            b"[]", b"null", b'{"error":[],"result":[]}', b'{"error":[],"result":{}}', b'{"result":"success"}',
            b'{"result":"success","instruments":{}}', b'{"result":"success","instruments":[],"tickers":[]}',
            b'{"status":"BAD_REQUEST","result":"error","errors":[{"code":11,"message":"x"}]}',
            b'{"timestamp":1,"status":404,"message":""}',
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("feed", ["kraken", "kraken-futures"])
def test_an_answer_that_is_no_listing_changes_nothing(feed: str, database_url: str) -> None:
    asyncio.run(synced(feed, database_url))
    before = pairs(database_url), changes(database_url)
    for fault in FAULTS:
        with pytest.raises(RestError, match="GET /"):
            asyncio.run(synced(feed, database_url, None, fault))
    assert (pairs(database_url), changes(database_url)) == before


@pytest.mark.parametrize(
    "fault", [RestFault("body", "/tickers", count=None, body=b"{}"), RestFault("html", "/tickers")]
)
def test_futures_need_both_listings(fault: RestFault, database_url: str) -> None:
    if fault.count is None:
        with pytest.raises(RestError, match="GET /tickers"):
            asyncio.run(synced("kraken-futures", database_url, None, fault))
        assert not pairs(database_url)
    else:  # one proxy's page is asked past
        assert asyncio.run(synced("kraken-futures", database_url, None, fault)).touched


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(key=st.text(max_size=140), pair=st.fixed_dictionaries({}, optional=dict.fromkeys(asset_pairs()["ADAUSD"], JSON)))
def test_any_pair_is_taken_or_refused(key: str, pair: dict[str, Any]) -> None:
    try:
        row = kraken.map_pair(key, Record(pair))
    except FieldError:
        return
    assert set(row) == {"pair_id", *kraken.COLUMNS}


@given(
    members=st.fixed_dictionaries({}, optional=dict.fromkeys(instrument_listing()[0], JSON)),
    ticker=st.fixed_dictionaries({}, optional=dict.fromkeys(KrakenFuturesExchange(0, lambda: 0).tickers()[0], JSON)),
)
def test_any_contract_is_taken_or_refused(members: dict[str, Any], ticker: dict[str, Any]) -> None:
    try:
        row = kraken_futures.map_contract(Record(contract("PF_XBTUSD", **members)), Record(ticker))
    except FieldError:
        return
    assert set(row) == {"pair_id", *kraken_futures.COLUMNS}
