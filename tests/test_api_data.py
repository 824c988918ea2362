"""Questions about captured data: answers against the files themselves, what is missing, bounds, hostile input."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from api_rig import ApiRig, api_settings
from hypothesis import given, settings
from hypothesis import strategies as st
from installation import CLOCK, DAY, Installation
from little_archive import BAD_TRADE, TICKER, TRADE, LittleArchive

from ssmd_api.auth.access import Principal
from ssmd_api.data import event_volume, sql
from ssmd_api.data.engine import Engine, connect
from ssmd_api.data.holdings import recent_days
from ssmd_api.errors import TookTooLongError, TooLargeError, UnavailableError
from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.manifest import FileEntry, ParquetManifest, Stats, load_parquet_manifest
from ssmd_core.feeds import FEEDS, get
from ssmd_core.feeds.base import Feed
from ssmd_core.sealed_json import save_sealed

EVERY_FEED = pytest.mark.parametrize("feed", FEEDS.values(), ids=list(FEEDS))
ROUTES = ("trades", "prices", "events", "volume", "day", "coverage", "freshness", "schemas")
BEFORE = ["0000", "0100", "0200", "0300", "0400", "0500", "0600", "0700", "0800", "0900", "1000"]
AFTER = [f"{hour}00" for hour in range(14, 24)]


@pytest.fixture(scope="module")
def reader(installation: Installation) -> Iterator[ApiRig]:
    """An API on the installation, for tests that only ask."""
    with (
        installation.copy(f"data_{os.getpid()}") as url,
        ApiRig(api_settings(url, installation.data, SSMD_CLOCK=CLOCK)).running() as rig,
    ):
        yield rig


@pytest.fixture(scope="module")
def key(reader: ApiRig) -> str:
    return reader.key("datasets:read")


def stored(installation: Installation, feed: Feed, message_type: str) -> list[dict[str, Any]]:
    """Every row of a message type that the installation has datasets of."""
    folder = installation.data / "datasets" / feed.name / feed.streams[0] / str(DAY)
    return [
        row for path in sorted(folder.glob(f"{message_type}_[0-9]*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


@EVERY_FEED
def test_the_registry_names_columns_that_there_are(feed: Feed) -> None:
    traded = sql.columns_of(feed.required_schema(feed.trades.message_type))
    assert {feed.trades.instrument, feed.trades.price, feed.trades.size, feed.trades.event} <= set(traded)
    assert not feed.trades.repeats or traded[feed.trades.repeats].type == "bool"
    assert traded[feed.trades.size].unit
    assert feed.trades.master in event_volume._SHOWN
    quoted = sql.columns_of(feed.required_schema(feed.quotes.message_type))
    assert {feed.quotes.instrument, feed.quotes.rank, *feed.quotes.columns} <= set(quoted)
    assert quoted[feed.quotes.time].type == "timestamp" or quoted[feed.quotes.time].unit == "ms since 1970"


@EVERY_FEED
def test_answers_are_what_the_files_say(installation: Installation, reader: ApiRig, key: str, feed: Feed) -> None:
    chosen = feed.trades
    of_ticker: dict[str, list[dict[str, Any]]] = {}
    for row in stored(installation, feed, chosen.message_type):
        if not (chosen.repeats and row[chosen.repeats]):
            of_ticker.setdefault(row[chosen.instrument], []).append(row)
    answer = reader.json("/v1/data/trades", key, feed=feed.name, date=str(DAY), limit=1000)
    assert answer["count"] == len(answer["trades"]) == len(of_ticker) > 1
    for row in answer["trades"]:
        rows = of_ticker[row["ticker"]]
        prices = [each[chosen.price] for each in rows]
        assert row["trade_count"] == len(rows)
        assert (number(row["min_price"]), number(row["max_price"])) == (min(prices), max(prices))
        exact = isinstance(prices[0], Decimal)
        size = sum(each[chosen.size] for each in rows)
        assert number(row["total_volume"]) == (size if exact else pytest.approx(size, rel=1e-12))
        assert isinstance(row["min_price"], str if exact else float)
        mean = sum(prices) / len(prices)
        assert number(row["avg_price"]) == (mean.quantize(Decimal("0.000001")) if exact else pytest.approx(mean))

    newest: dict[str, dict[str, Any]] = {}
    quotes = feed.quotes
    for row in stored(installation, feed, quotes.message_type):
        order = (row[quotes.time], row["_received_at"], row["_nats_seq"])
        old = newest.get(row[quotes.instrument])
        if old is None or order > (old[quotes.time], old["_received_at"], old["_nats_seq"]):
            newest[row[quotes.instrument]] = row
    answer = reader.json("/v1/data/prices", key, feed=feed.name, date=str(DAY), limit=1000)
    assert {row["ticker"] for row in answer["prices"]} == set(newest)
    for row in answer["prices"]:
        expected = newest[row["ticker"]]
        assert datetime.fromisoformat(row["received_at"]) == expected["_received_at"]
        for name in quotes.columns:
            if not isinstance(expected[name], datetime):
                assert row[name] == (str(expected[name]) if isinstance(expected[name], Decimal) else expected[name])


def number(value: str | float) -> Decimal | float:
    return Decimal(value) if isinstance(value, str) else value


def test_what_is_missing_is_said_and_never_a_zero(reader: ApiRig, key: str) -> None:
    def ask(feed: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = reader.json("/v1/data/trades", key, feed=feed, date=str(DAY), **more)
        return found

    kalshi, kraken, futures = ask("kalshi"), ask("kraken"), ask("kraken-futures")
    assert (kalshi["complete"], kalshi["missingHours"], kalshi["notBuilt"]) == (False, [*BEFORE, "1300"], [])
    assert kalshi["futureHours"] == AFTER
    assert kalshi["sources"] == [f"kalshi/crypto/{DAY}/trade_{hour}.parquet" for hour in ("1100", "1200")]
    assert kraken["missingHours"] == [*BEFORE, "1200", "1300"]
    assert (kraken["notBuilt"], kraken["partialHours"]) == (["1200"], ["1200"])
    assert (futures["notBuilt"], futures["partialHours"]) == (["1200"], [])
    # Nothing is known to be missing of a built hour without a ledger; that it is complete is not said either.
    built = ask("kraken-futures", hour="1100")
    assert (built["complete"], built["missingHours"], built["count"] > 0) == (None, [], True)
    proved = ask("kraken", hour="1100")
    assert (proved["complete"], proved["degradedHours"], proved["missingHours"]) == (False, ["1100"], [])
    nothing = ask("kraken", hour="1000")
    assert (nothing["count"], nothing["trades"], nothing["missingHours"], nothing["sources"]) == (0, [], ["1000"], [])
    volume = reader.json("/v1/data/volume", key, feed="kraken", date="2026-11-19")["feeds"][0]
    assert (volume["totalTradeCount"], volume["totalVolume"], volume["activeTickers"]) == (None, None, None)
    assert len(volume["missingHours"]) == 24
    for path in ("prices", "events", "day"):
        empty = reader.json(f"/v1/data/{path}", key, feed="polymarket", date="2026-11-19")
        assert len(empty["missingHours"]) == 24 and empty["complete"] is False
    assert len(reader.json("/v1/data/trades", key, feed="kalshi", date="2027-01-01")["futureHours"]) == 24


def test_volume_and_events(reader: ApiRig, key: str) -> None:
    answer = reader.json("/v1/data/volume", key, date=str(DAY))
    units = {one["feed"]: one["volumeUnit"] for one in answer["feeds"]}
    assert units == {"kalshi": "contracts", "kraken": "base units", "kraken-futures": "contracts or base units",
                     "polymarket": "shares"}  # fmt: skip
    assert answer["failed"] == []
    for one in answer["feeds"]:
        feed = one["feed"]
        trades = reader.json("/v1/data/trades", key, feed=feed, date=str(DAY), limit=1000)["trades"]
        assert one["totalTradeCount"] == sum(row["trade_count"] for row in trades)
        assert one["activeTickers"] == len(trades) and len(one["topTickers"]) == min(5, len(trades))
        # Bitcoins and dogecoins have no sum.
        summed = sum(Decimal(row["total_volume"]) for row in trades) if feed in ("kalshi", "polymarket") else None
        assert (one["totalVolume"] and Decimal(one["totalVolume"])) == summed
        events = reader.json("/v1/data/events", key, feed=feed, date=str(DAY), limit=100)
        assert sum(row["totalTradeCount"] for row in events["events"]) == one["totalTradeCount"]
        assert sum(row["marketCount"] for row in events["events"]) == len(trades)
        known = [row for row in events["events"] if row["metadata"]]
        assert known, feed
        for row in known:
            match feed:
                case "kalshi":
                    assert row["metadata"]["title"] and row["metadata"]["category"]
                    assert all(top["ticker"].startswith(row["eventId"]) for top in row["topMarkets"])
                case "polymarket":
                    assert row["metadata"]["question"]
                case "kraken":
                    assert row["metadata"]["symbol"] == row["eventId"]
                    assert row["metadata"]["pairId"].startswith("kraken:")
                case _:
                    assert row["metadata"]["pairId"] == f"kraken:{row['eventId']}"


def test_metadata_costs_one_statement_and_ends_with_the_keys_days(reader: ApiRig, key: str) -> None:
    def statements(limit: int) -> int:
        pool = reader.services.pool
        before = pool.get_stats()["requests_num"]
        found = reader.run(event_volume.events(reader.services, "polymarket", DAY, limit=limit))
        assert found.count == limit
        return int(pool.get_stats()["requests_num"] - before)

    assert statements(1) == statements(5) == 1
    # What was known at the end of yesterday: nothing, the venues were first asked today.
    earlier = datetime(2026, 11, 19, 23, 59, tzinfo=UTC)
    past = reader.run(event_volume.events(reader.services, "kalshi", DAY, moment=earlier))
    assert past.events and all(one.metadata is None for one in past.events)
    today = datetime(2026, 11, 20, 13, tzinfo=UTC)
    assert event_volume.metadata_moment(principal(date(2026, 11, 20)), today) == today
    assert event_volume.metadata_moment(principal(date(2026, 11, 19)), today).date() == date(2026, 11, 19)


def principal(last_day: date) -> Principal:
    return Principal(
        "sk_test_12345678", "a", "a", frozenset(), "standard", frozenset("*"), date(2026, 1, 1), last_day, None
    )


def test_a_day_its_coverage_freshness_and_schemas(installation: Installation, reader: ApiRig, key: str) -> None:
    found = reader.json("/v1/data/day", key, feed="kraken", date=str(DAY))
    [contents] = found["contents"]
    states = {hour["hour"]: hour["state"] for hour in contents["hours"]}
    assert [states[hour] for hour in ("1000", "1100", "1200", "1300", "1400")] == [
        "missing", "built", "partial", "missing", "future"]  # fmt: skip
    manifest = load_parquet_manifest(installation.data / "datasets" / "kraken" / "spot" / str(DAY))
    assert manifest is not None
    assert [file["sha256"] for file in contents["files"]] == [file.sha256 for file in manifest.files]
    for file in contents["files"]:
        content = (installation.data / "datasets" / file["path"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert contents["totalRows"] == sum(file["rows"] for file in contents["files"]) > 0

    coverage = reader.json("/v1/data/coverage", key)
    assert (coverage["from"], coverage["to"]) == ("2026-11-14", "2026-11-20")
    assert [one["feed"] for one in coverage["feeds"]] == list(FEEDS)
    [stream] = coverage["feeds"][1]["streams"]
    assert len(stream["days"]) == 7 and stream["days"][-1]["hours"] == contents["hours"]

    fresh = reader.json("/v1/data/freshness", key)
    assert fresh["stale_threshold_hours"] == 7
    kalshi, kraken = fresh["feeds"][:2]
    assert (kalshi["status"], kalshi["newest_date"], kalshi["newest_hour"]) == ("fresh", str(DAY), "1200")
    assert (kraken["age_hours"], kraken["stale"]) == (2.3, False)
    before = reader.json("/v1/data/freshness", key, to="2026-11-19")["feeds"][0]
    assert (before["status"], before["stale"], before["age_hours"]) == ("no_data", True, None)

    [schema] = reader.json("/v1/data/schemas", key, feed="kalshi", type="trade")["schemas"]
    assert (schema["schemaName"], schema["messageType"]) == ("kalshi_trade", "trade")
    types = {column["name"]: (column["type"], column["nullable"], column["unit"]) for column in schema["columns"]}
    assert types["price"] == ("decimal128(18, 6)", False, "dollars") and "_nats_seq" in types


def test_parts_of_a_list(reader: ApiRig, key: str) -> None:
    whole = reader.json("/v1/data/trades", key, feed="kalshi", date=str(DAY), limit=1000)
    assert whole["nextCursor"] is None
    rows, cursor = [], {}
    while True:
        page = reader.json("/v1/data/trades", key, feed="kalshi", date=str(DAY), limit=3, **cursor)
        rows += page["trades"]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert rows == whole["trades"]
    two = [row["ticker"] for row in rows[1:3]]
    for path in ("trades", "prices"):
        found = reader.json(
            f"/v1/data/{path}", key, feed="kalshi", date=str(DAY), instruments=",".join([*two, "nobody"])
        )
        assert sorted(row["ticker"] for row in found[path]) == sorted(two)


def test_access_is_by_scope_feed_and_day_and_is_written_down(installed_api: ApiRig) -> None:
    narrow = installed_api.key("datasets:read", feeds=("kraken",), days=(date(2026, 11, 20), date(2026, 11, 20)))
    other = installed_api.key("secmaster:read")
    for path in ROUTES:
        day = {"date": str(DAY)} if path in ("trades", "prices", "events", "volume", "day") else {}
        allowed = installed_api.get(f"/v1/data/{path}", narrow, feed="kraken", **day)
        assert allowed.status_code == 200, allowed.text
        assert installed_api.get(f"/v1/data/{path}", other, feed="kraken", **day).status_code == 403
        assert installed_api.get(f"/v1/data/{path}", narrow, feed="kalshi", **day).status_code == 403
        if path != "schemas":
            past = {"date": "2026-11-19"} if day else {"from": "2026-11-19"}
            assert installed_api.get(f"/v1/data/{path}", narrow, feed="kraken", **past).status_code == 403, path
    assert [one["feed"] for one in installed_api.json("/v1/data/volume", narrow)["feeds"]] == ["kraken"]
    logged = installed_api.sql(
        "SELECT route, feed, msg_type, files_count, date_from FROM data_access_log WHERE key_prefix = %s ORDER BY id",
        (narrow[:16],),
    )
    assert {row[1] for row in logged} == {"kraken"} and {row[4] for row in logged} == {DAY}
    found = {route: (kind, files) for route, _, kind, files, _ in logged}
    assert found.pop("/v1/data/day")[1] > 3
    assert found == {"/v1/data/trades": ("trade", 1), "/v1/data/prices": ("ticker", 1),
                     "/v1/data/events": ("trade", 1), "/v1/data/volume": ("trade", 1)}  # fmt: skip
    metrics = installed_api.get("/metrics").text
    assert 'ssmd_data_datasets_scanned_total{feed="kraken"} 5.0' in metrics
    assert 'ssmd_data_records_served_total{feed="kraken"}' in metrics
    assert 'ssmd_data_datasets_scanned_total{feed="kalshi"}' not in metrics


@pytest.mark.parametrize(
    ("path", "parameters", "field"),
    [
        ("trades", {}, "feed"),
        ("trades", {"feed": "nasdaq"}, "feed"),
        ("trades", {"feed": "kraken-spot"}, "feed"),
        ("trades", {"feed": "kraken", "date": "2026-13-45"}, "date"),
        ("trades", {"feed": "kraken", "hour": "11"}, "hour"),
        ("prices", {"feed": "kraken", "hour": "2400"}, "hour"),
        ("prices", {"feed": "kraken", "hour": "1130"}, "hour"),
        ("prices", {"feed": "kraken", "hour": "../1"}, "hour"),
        ("prices", {"feed": "kraken", "stream": "../../etc"}, "stream"),
        ("trades", {"feed": "kraken", "limit": "0"}, "limit"),
        ("trades", {"feed": "kraken", "limit": "1001"}, "limit"),
        ("trades", {"feed": "kraken", "limit": "NaN"}, "limit"),
        ("trades", {"feed": "kraken", "cursor": "-1"}, "cursor"),
        ("trades", {"feed": "kraken", "cursor": "٣"}, "cursor"),
        ("trades", {"feed": "kraken", "instruments": ""}, "instruments"),
        ("trades", {"feed": "kraken", "instruments": ",".join(["x"] * 101)}, "instruments"),
        ("trades", {"feed": "kraken", "format": "csv"}, "format"),
        ("events", {"feed": "kraken", "limit": "101"}, "limit"),
        ("volume", {"hour": "x"}, "hour"),
        ("coverage", {"from": "2026-10-01", "to": "2026-11-20"}, "from"),
        ("coverage", {"from": "2026-11-20", "to": "2026-11-19"}, "from"),
        ("schemas", {"type": "nothing"}, "type"),
    ],
)
def test_bad_input_is_refused_with_its_field(
    reader: ApiRig, key: str, path: str, parameters: dict[str, str], field: str
) -> None:
    answer = reader.get(f"/v1/data/{path}", key, **parameters)
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text


EVIL = st.sampled_from(
    ["'; DROP TABLE x; --", "' OR '1'='1", "$files", "read_csv('/etc/passwd')", "]) UNION ALL SELECT 1 --", "\\", "%",
     '"', "*", "../../etc/passwd", "{{7*7}}", "1100'", "NULL", "?"]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    text=EVIL | st.text(max_size=50),
    parameter=st.sampled_from(["instruments", "hour", "stream", "cursor", "feed", "date", "limit"]),
    path=st.sampled_from(["trades", "prices", "events", "volume"]),
)
def test_whatever_is_sent_is_only_a_value(reader: ApiRig, key: str, text: str, parameter: str, path: str) -> None:
    parameters = {"feed": "kalshi", "date": str(DAY)} | {parameter: text}
    answer = reader.get(f"/v1/data/{path}", key, **parameters)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200 and parameter == "instruments":
        assert answer.json()[path] == []


# -- a day of one's own


def write_hour(api: ApiRig, feed: Feed, message_type: str, hour: str, version: str, rows: list[dict[str, Any]],
               without: tuple[str, ...] = (), types: dict[str, pa.DataType] | None = None) -> None:  # fmt: skip
    """A parquet file as some version of ssmd may have written it, and the day's manifest."""
    schema = feed.required_schema(message_type)
    fields = [field for field in arrow_schema(schema) if field.name not in without]
    fields = [field.with_type((types or {}).get(field.name, field.type)).with_nullable(True) for field in fields]
    filled = [dict.fromkeys((field.name for field in fields), None) | row for row in rows]
    stream = feed.streams[0]
    folder = api.data / "datasets" / feed.name / stream / str(DAY)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{message_type}_{hour}.parquet"
    pq.write_table(pa.Table.from_pylist(filled, schema=pa.schema(fields)), path)
    manifest = load_parquet_manifest(folder) or ParquetManifest(feed.name, stream, str(DAY))
    manifest.hours[hour] = Stats(sources={f"{hour[:2]}{slot}.jsonl.gz": "" for slot in ("00", "15", "30", "45")})
    manifest.files.append(
        FileEntry("../../../../etc/passwd", message_type, hour, 1, len(rows), "", schema.name, version)
    )
    save_sealed(folder / "parquet-manifest.json", manifest)


def at(second: int) -> datetime:
    return datetime(2026, 11, 20, 11, 0, second, tzinfo=UTC)


def test_schema_versions_of_one_day_are_read_together(api: ApiRig) -> None:
    kalshi = get("kalshi")
    trade = {"market_ticker": "A-B-C", "ts": at(1), "_received_at": at(1), "_nats_seq": 1}
    write_hour(api, kalshi, "trade", "1000", "2.0.0", [trade | {"price": Decimal("0.1"), "count": Decimal(1)}])
    coarse = {"price": pa.decimal128(10, 4), "count": pa.int64()}
    write_hour(api, kalshi, "trade", "1100", "2.1.0", [trade | {"price": Decimal("0.3"), "count": 2}],
               without=("taker_side", "no_price"), types=coarse)  # fmt: skip
    # Another major version: cents, which no column's name tells.
    write_hour(api, kalshi, "trade", "1200", "1.3.0", [trade | {"price": 30, "count": 2}],
               types={"price": pa.int64(), "count": pa.int64()})  # fmt: skip
    key = api.key("datasets:read")
    found = api.json("/v1/data/trades", key, feed="kalshi", date=str(DAY))
    assert found["trades"] == [{"ticker": "A-B-C", "trade_count": 2, "total_volume": "3.000000",
                                "min_price": "0.100000", "max_price": "0.300000", "avg_price": "0.200000"}]  # fmt: skip
    assert (found["otherSchemaHours"], found["complete"]) == (["1200"], False)
    assert [source[-12:-8] for source in found["sources"]] == ["1000", "1100"]
    [unknown] = api.json("/v1/data/volume", key, feed="kalshi", date=str(DAY), hour="1200")["feeds"]
    assert (unknown["totalTradeCount"], unknown["totalVolume"], unknown["activeTickers"]) == (None, None, None)
    # A column that none of the files has: nothing is taken for a repeat.
    kraken = get("kraken")
    row = {"symbol": "BTC/USD", "price": 5.0, "qty": 2.0}
    write_hour(api, kraken, "trade", "1100", "2.0.0", [row], without=("is_snapshot",))
    assert api.json("/v1/data/trades", key, feed="kraken", date=str(DAY))["trades"][0]["trade_count"] == 1
    write_hour(api, kraken, "trade", "1200", "2.0.0", [row | {"is_snapshot": True}, row | {"is_snapshot": False}])
    assert api.json("/v1/data/trades", key, feed="kraken", date=str(DAY))["trades"][0]["trade_count"] == 2


def test_a_cursor_ends_when_the_files_change_and_with_its_question(api: ApiRig) -> None:
    """A new hour changes the order: going on at the same place would skip rows or show them twice."""
    kraken = get("kraken")
    rows = [{"symbol": name, "price": 5.0, "qty": 2.0, "is_snapshot": False} for name in "AABBC"]
    write_hour(api, kraken, "trade", "1100", "2.0.0", rows)
    key = api.key("datasets:read")
    asked = {"feed": "kraken", "date": str(DAY), "limit": 2}
    first = api.json("/v1/data/trades", key, **asked)
    assert [row["ticker"] for row in first["trades"]] == ["A", "B"]
    behind = asked | {"cursor": first["nextCursor"]}
    assert [row["ticker"] for row in api.json("/v1/data/trades", key, **behind)["trades"]] == ["C"]
    assert api.get("/v1/data/trades", key, **behind, hour="1100").json()["field"] == "cursor"
    assert api.get("/v1/data/prices", key, **behind).json()["field"] == "cursor"
    write_hour(api, kraken, "trade", "1200", "2.0.0", rows[-1:] * 9)
    refused = api.get("/v1/data/trades", key, **behind)
    assert (refused.status_code, refused.json()["field"]) == (400, "cursor")


def test_messages_that_break_their_schema_are_known_to_be_missing(api: ApiRig) -> None:
    archive = LittleArchive(api.data / "archive")
    for minute in (0, 15, 30, 45):
        archive.seal(datetime(2026, 11, 20, 11, minute, tzinfo=UTC), [TICKER, TRADE, BAD_TRADE])
    build_hour(api.data / "archive", api.data / "datasets", get("kraken"), "spot", at(0))
    key = api.key("datasets:read")
    asked = {"feed": "kraken", "date": str(DAY), "hour": "1100"}
    trades, prices = (api.json(f"/v1/data/{path}", key, **asked) for path in ("trades", "prices"))
    assert (trades["rejectedHours"], trades["complete"]) == (["1100"], False)
    assert (prices["rejectedHours"], prices["complete"]) == ([], None)
    assert api.json("/v1/data/day", key, feed="kraken", date=str(DAY))["rejectedHours"] == ["1100"]


def test_the_newest_row_is_found_by_time_then_receipt_then_sequence(api: ApiRig) -> None:
    def row(name: str, bid: float, second: int | None, received: int, seq: int) -> dict[str, Any]:
        time = None if second is None else at(second)
        return {"symbol": name, "bid": bid, "timestamp": time, "_received_at": at(received), "_nats_seq": seq}

    rows = [
        row("time", 1.0, 9, 1, 1), row("time", 2.0, 8, 9, 9), row("time", 3.0, None, 9, 9),
        row("receipt", 1.0, 5, 7, 1), row("receipt", 2.0, 5, 6, 9),
        row("sequence", 1.0, 5, 6, 10), row("sequence", 2.0, 5, 6, 9),
        row("no time", 1.0, None, 2, 2), row("no time", 2.0, None, 3, 1),
    ]  # fmt: skip
    write_hour(api, get("kraken"), "ticker", "1100", "2.0.0", rows[::2])
    write_hour(api, get("kraken"), "ticker", "1200", "2.0.0", rows[1::2])
    found = api.json("/v1/data/prices", api.key("datasets:read"), feed="kraken", date=str(DAY))["prices"]
    assert {one["ticker"]: one["bid"] for one in found} == {"time": 1, "receipt": 1, "sequence": 1, "no time": 2}
    assert {one["ticker"]: one["time"] for one in found}["no time"] is None


def test_a_time_that_no_calendar_has_is_null(api: ApiRig) -> None:
    row = {
        "asset_id": "1",
        "best_bid": Decimal("0.5"),
        "timestamp_ms": 9 * 10**18,
        "_received_at": at(1),
        "_nats_seq": 1,
    }
    write_hour(api, get("polymarket"), "best_bid_ask", "1100", "3.0.0", [row])
    [found] = api.json("/v1/data/prices", api.key("datasets:read"), feed="polymarket", date=str(DAY))["prices"]
    assert (found["time"], found["received_at"], found["best_bid"], found["spread"]) == (
        None, "2026-11-20T11:00:01.000Z", "0.500000", None)  # fmt: skip


def test_the_days_of_coverage_where_none_are_given() -> None:
    reach, today = (date(2026, 11, 1), date(2026, 11, 30)), date(2026, 11, 20)

    def days(first: date | None, last: date | None, reach: tuple[date, date] = reach) -> tuple[int, int]:
        found = recent_days(first, last, reach, today)
        return found[0].day, found[1].day

    assert days(None, None) == (14, 20)
    assert days(None, date(2026, 11, 3)) == (1, 3)
    assert days(date(2026, 11, 25), None) == (25, 25)
    assert days(None, None, (date(2026, 11, 1), date(2026, 11, 5))) == (1, 5)
    assert days(None, date(1, 1, 2), (date.min, date.max)) == (1, 2)


def test_a_file_that_is_gone_or_broken_and_a_damaged_manifest_are_503(api: ApiRig) -> None:
    key = api.key("datasets:read")
    write_hour(api, get("kraken"), "trade", "1100", "2.0.0", [{"symbol": "X", "price": 1.0, "qty": 1.0}])
    folder = api.data / "datasets" / "kraken" / "spot" / str(DAY)
    path = folder / "trade_1100.parquet"
    outside = api.data / "outside.parquet"
    shutil.copy(path, outside)
    strange = pa.table({"symbol": ["X"], "price": ["dear"], "qty": [1.0]})
    for put in (
        lambda: None,
        lambda: path.write_text("no parquet"),
        lambda: path.write_bytes(b"PAR1" + b"\xff" * 8 + outside.read_bytes()[12:]),
        lambda: path.symlink_to(outside),
        lambda: pq.write_table(strange, path),
    ):
        path.unlink()
        put()
        answer = api.get("/v1/data/trades", key, feed="kraken", date=str(DAY))
        assert answer.status_code == 503 and "/" not in answer.json()["error"]
        path.touch()
    (folder / "parquet-manifest.json").write_text("{}")
    for path in ("trades", "day"):
        answer = api.get(f"/v1/data/{path}", key, feed="kraken", date=str(DAY))
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    volume = api.json("/v1/data/volume", key, date=str(DAY))
    assert [one["feed"] for one in volume["failed"]] == ["kraken"] and len(volume["feeds"]) == 3
    assert api.json("/v1/data/freshness", key, feed="kraken")["feeds"][0]["status"] == "error"
    [day] = api.json("/v1/data/coverage", key, feed="kraken", **{"from": str(DAY), "to": str(DAY)})["feeds"][0][
        "streams"][0]["days"]  # fmt: skip
    assert {hour["state"] for hour in day["hours"]} == {"damaged"}


# -- DuckDB itself


@pytest.fixture
def engine_of(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**more: Any) -> Engine:
        made.append(Engine(tmp_path, **more))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


FORBIDDEN = (
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('{root}/../../etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM read_parquet('https://example.com/x.parquet')",
    "SELECT getenv('HOME')",
    "SELECT * FROM secret",
)
STATEMENTS = (
    "ATTACH '/tmp/ssmd-escape.db'",
    "COPY (SELECT 1) TO '/tmp/ssmd-escape.csv'",
    "EXPORT DATABASE '/tmp/ssmd-escape'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA threads = 8",
    "PRAGMA enable_profiling",
    "SET memory_limit = '100GB'",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET lock_configuration",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
)
BESIDE = (
    "CREATE TABLE t AS SELECT 1",
    "SELECT 1; SELECT 2",
    "COPY (SELECT 1) TO '{root}/escape.parquet'",
    "ATTACH '{root}/escape.db'",
    "PRAGMA database_list",
)


def test_duckdb_reaches_nothing_but_the_datasets(
    engine_of: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    secret = pa.table({"a": [1]})  # DuckDB's Python client takes variables for tables unless told not to
    pq.write_table(secret, tmp_path / "x.parquet")

    async def ask(statement: str) -> list[dict[str, Any]]:
        return await engine.rows(statement.replace("{root}", str(tmp_path)))

    assert asyncio.run(ask("SELECT a FROM read_parquet('{root}/x.parquet')")) == [{"a": 1}]
    for statement in FORBIDDEN:
        with pytest.raises((UnavailableError, duckdb.CatalogException)):
            asyncio.run(ask(statement))
    for statement in (*STATEMENTS, *BESIDE):
        with pytest.raises(ValueError, match="not a single SELECT"):
            asyncio.run(ask(statement))
    # Not only the engine refuses: the connection itself does, whatever got around it.
    connection = connect(tmp_path)
    for statement in (*FORBIDDEN, *STATEMENTS):
        with pytest.raises((duckdb.PermissionException, duckdb.CatalogException, duckdb.InvalidInputException)):
            connection.execute(statement.replace("{root}", str(tmp_path)))
    connection.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.parquet"]


FOREVER = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE (a.range * b.range) % 7 = 3"


def test_queries_are_bounded_in_time_and_number(engine_of: Callable[..., Engine]) -> None:
    async def main() -> None:
        engine = engine_of(queries=1, wait_s=0.1, timeout_s=0.5)
        long = asyncio.create_task(engine.rows(FOREVER))
        await asyncio.sleep(0.05)
        with pytest.raises(UnavailableError):
            await engine.rows("SELECT 1")
        with pytest.raises(TookTooLongError):
            await long
        assert await engine.rows("SELECT 1 AS a") == [{"a": 1}]
        # Who asked has gone: the query ends, its place is free.
        gone = asyncio.create_task(engine.rows(FOREVER))
        await asyncio.sleep(0.05)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await engine.rows("SELECT 2 AS a") == [{"a": 2}]

    asyncio.run(main())


def test_a_query_that_needs_too_much_memory_is_refused_and_others_go_on(
    engine_of: Callable[..., Engine], tmp_path: Path
) -> None:
    kraken = get("kraken")
    schema = kraken.required_schema("ticker")
    rows = 200_000
    fields = [field.with_nullable(True) for field in arrow_schema(schema)]
    columns = {field.name: pa.nulls(rows, field.type) for field in fields}
    columns["symbol"] = pa.array([f"a symbol that is long enough {n}" for n in range(rows)])
    columns["_nats_seq"] = pa.array(range(rows), pa.uint64())
    columns["_received_at"] = pa.array([at(1)] * rows, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), tmp_path / "x.parquet")
    values = {"files": [str(tmp_path / "x.parquet")] * 24, "instruments": None, "limit": 3, "offset": 0}
    statement = sql.latest(kraken.quotes, schema)

    async def main() -> None:
        small = engine_of(memory_bytes=24 * 1024**2)
        with pytest.raises(TooLargeError, match="24 MB"):
            await small.rows(statement, values)
        one = await small.rows(statement, values | {"instruments": ["a symbol that is long enough 7"]})
        assert [row["ticker"] for row in one] == ["a symbol that is long enough 7"]
        assert len(await engine_of().rows(statement, values)) == 3

    asyncio.run(main())
