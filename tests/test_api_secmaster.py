"""The routes of the security master, on a small one with a past (`tests/secmaster_rows.py`)."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import jsonschema
import psycopg
from secmaster_rig import IDS, READ, REQUESTS, ROUTES, Told, changing, request_of, told
from secmaster_rows import CONDITION, TOKENS

from ssmd_api.params import parse_moment
from ssmd_api.secmaster.reach import FEEDS_OF
from ssmd_core.db.connect import connect
from ssmd_core.db.tables import SYNCED
from ssmd_core.secmaster.as_of import as_of

__all__ = ["changing", "told"]  # fixtures

THEN = "2026-11-18T14:00Z"


def test_answers_are_what_the_schemas_say(told: Told) -> None:
    for route in ROUTES:
        path, parameters = request_of(route)
        asked = [parameters]
        if "as_of" in route.query.__struct_fields__:
            asked += [parameters | {"as_of": "2026-11-22T10:00Z"}]
        for each in asked:
            answer = told.ask(path, **each)
            jsonschema.validate(answer, route.answer, format_checker=jsonschema.FormatChecker())
            rows = next(iter(answer.values()))
            assert rows or "nextCursor" not in answer, f"{route.path} {each} shows nothing"


def test_lists_and_filters(told: Told) -> None:
    newest_first = [f"KXBTC-1-{number}" for number in (0, 4, 3, 2, 1)]
    for filters, expected in (
        ({}, newest_first),
        ({"status": "Settled"}, newest_first[:1]),
        ({"series": "kxbtc", "category": "CRYPTO"}, newest_first),
        ({"category": "Economics"}, []),
        ({"event": "KXNFL-1"}, []),
        ({"games_only": "true"}, []),
        ({"closing_before": "2026-11-22T11:30Z"}, ["KXBTC-1-0"]),  # strictly
        ({"closing_after": "2026-11-22T13:30Z"}, ["KXBTC-1-4"]),
        ({"close_within_hours": 1}, ["KXBTC-1-1"]),  # 11:30; 10:30 is past, 12:30 too far
        ({"order": "key", "limit": 2}, ["KXBTC-1-0", "KXBTC-1-1"]),
        # Then the settled one was active, and the deleted one was there.
        ({"as_of": THEN, "status": "active", "order": "key"}, [*sorted(newest_first), "KXNFL-1-X"]),
        ({"as_of": THEN, "games_only": "true"}, ["KXNFL-1-X"]),
        ({"as_of": THEN, "series": "kxnfl", "category": "sports"}, ["KXNFL-1-X"]),
        ({"as_of": "2026-11-17T11:02:30Z"}, ["KXBTC-1-2", "KXBTC-1-1", "KXBTC-1-0"]),
        ({"as_of": "2026-11-01"}, []),
    ):
        assert told.keys("/v1/markets", **filters) == expected, filters
    assert told.keys("/v1/events", games_only="true") == ["KXNFL-1"]
    assert [row["marketCount"] for row in told.ask("/v1/events", order="key")["events"]] == [5, 0]
    assert [row["marketCount"] for row in told.ask("/v1/events", order="key", as_of=THEN)["events"]] == [5, 1]
    assert told.ask("/v1/events/KXNFL-1", as_of=THEN)["marketCount"] == 1
    assert told.keys("/v1/series", tag="btc") == told.keys("/v1/series", category="crypto") == ["KXBTC"]
    assert told.keys("/v1/series", games_only="true") == ["KXNFL"]
    assert told.keys("/v1/pairs", base="btc", quote="Usd", market_type="SPOT") == ["kraken:XXBTZUSD"]
    assert told.keys("/v1/conditions", category="Up-Or-Down") == [CONDITION]
    assert told.ask("/v1/conditions", category="crypto")["conditions"][0]["tokenCount"] == 2


def test_what_a_connector_asks_for(told: Told) -> None:
    answer = told.ask("/v1/markets", status="active", limit=10_000, include_snapshot="true")
    assert {row["ticker"] for row in answer["markets"]} == {f"KXBTC-1-{n}" for n in range(1, 5)}
    market = answer["markets"][0]
    assert (market["yesBid"], market["floorStrike"], market["closeTime"]) == (
        "0.4300",
        "90000",
        "2026-11-22T14:30:00.000Z",
    )
    assert answer["snapshot_time"] == "2026-11-22T11:00:00.000Z"
    # The LSN is from before the rows were read: what is written from then on lies behind it.
    assert told.sql("SELECT pg_current_wal_lsn() >= %s::pg_lsn", (answer["snapshot_lsn"],)) == [(True,)]
    tokens = "/v1/polymarket/tokens"
    assert told.ask(tokens, category="sports, CRYPTO") == {"tokens": list(TOKENS), "nextCursor": None}
    for filters, found in (
        ({"q": "eth,btc RISE"}, True),
        ({"q": "0%"}, True),
        ({"q": "0_"}, False),  # no wildcards
        ({"minVolume": "1500.25"}, True),
        ({"minVolume": "1500.26"}, False),
        ({"status": "closed"}, False),
        ({"as_of": "2026-11-20T11:00Z"}, False),
    ):
        assert bool(told.ask(tokens, category="crypto", **filters)["tokens"]) is found, filters
    for wrong in ({}, {"category": ","}, {"category": "a", "q": "a," * 21}, {"category": "a", "minVolume": "1e9999"}):
        assert told.status(tokens, **wrong) == 400


def test_lookup(told: Told) -> None:
    ids = [TOKENS[1], "nothing", "kraken:PF_XBTUSD", CONDITION, "KXBTC-1-0", "kraken:XXBTZUSD", "KXNFL-1-X"]
    path, found = "/v1/markets/lookup", {}
    for one in told.ask(path, ids=",".join(ids))["markets"]:
        found[one["id"]] = one
    assert list(found) == [key for key in ids if key not in {"nothing", "KXNFL-1-X"}]
    assert found["KXBTC-1-0"] == {
        "id": "KXBTC-1-0", "feed": "kalshi", "name": "Up?", "event": "KXBTC-1", "series": "KXBTC", "status": "settled",
        "closeTime": "2026-11-22T10:30:00.000Z", "volume": "17.50", "volumeUnit": "contracts", "openInterest": None,
    }  # fmt: skip
    assert (found[TOKENS[1]]["name"], found[TOKENS[1]]["event"]) == ("Will BTC rise 100%? [Down]", CONDITION)
    assert (found[CONDITION]["volume"], found[CONDITION]["volumeUnit"]) == ("1500.25", "usd")
    assert [found[f"kraken:{key}"]["feed"] for key in ("XXBTZUSD", "PF_XBTUSD")] == ["kraken", "kraken-futures"]
    then = told.ask(path, ids=",".join(ids), as_of=THEN, feed="kalshi")["markets"]
    assert [(one["id"], one["status"]) for one in then] == [("KXBTC-1-0", "active"), ("KXNFL-1-X", "active")]
    spot = told.key(*READ, feeds=["kraken"])
    assert [one["id"] for one in told.json(path, spot, ids=",".join(ids))["markets"]] == ["kraken:XXBTZUSD"]
    for wrong, status in (
        ({"ids": ""}, 400),
        ({"ids": ",".join(map(str, range(101)))}, 400),
        ({"ids": "a", "feed": "x"}, 400),
    ):
        assert told.status(path, **wrong) == status
    assert told.status(path, spot, ids="a", feed="kalshi") == 403


def test_fees(told: Told) -> None:
    assert [(one["seriesTicker"], one["feeMultiplier"]) for one in told.ask("/v1/fees")["fees"]] == [
        ("KXBTC", "0.5"),
        ("KXNFL", "1"),
    ]
    first = told.ask("/v1/fees", limit=1)
    assert [one["seriesTicker"] for one in told.ask("/v1/fees", limit=1, cursor=first["nextCursor"])["fees"]] == [
        "KXNFL"
    ]
    assert told.ask("/v1/fees/KXBTC", as_of=THEN)["sourceId"] == "seed:KXBTC"
    assert told.ask("/v1/fees/stats") == {"total": 4, "active": 2, "future": 1, "historical": 1}
    calculate = "/v1/fees/KXBTC/calculate"
    now = told.ask(calculate, price="0.50", contracts="100")
    # 0.07 × 0.5 × 100 × 0.25 = 0.875
    assert (now["modelFeeDollars"], now["feeDollars"]) == ("0.8750000", "0.875000")
    assert now["feeDollarsByRounding"] == {"cent": "0.88", "centicent": "0.8750", "microdollar": "0.875000"}
    assert told.ask(calculate, price="0.50", contracts="100", event="KXBTC-1", rounding="cent")["feeDollars"] == "3.50"
    assert told.ask(calculate, price="0.50", contracts="100", as_of=THEN, rounding="cent")["feeDollars"] == "1.75"
    for path, parameters, status, field in (
        ("/v1/fees/KXNO", {}, 404, ""),
        ("/v1/fees/KXBTC", {"as_of": "2020-01-01", "known_at": "2026-11-17T09:00Z"}, 404, ""),
        (calculate, {"price": "1e400", "contracts": "1"}, 400, "price"),
        (calculate, {"price": "0.5", "contracts": "NaN"}, 400, "contracts"),
        (calculate, {"price": "0.5", "contracts": "1", "event": "KXNFL-1"}, 400, "event"),
        (calculate, {"price": "0.5", "contracts": "1", "role": "guest"}, 400, "role"),
        (calculate, {"contracts": "1"}, 400, "price"),
        ("/v1/fees/KXNFL/calculate", {"price": "0.5", "contracts": "1"}, 400, "flat_dollars"),
        ("/v1/fees/KXNO/calculate", {"price": "0.5", "contracts": "1"}, 404, ""),
    ):
        answer = told.get(path, told.everything, **parameters)
        assert (answer.status_code, answer.json().get("field", "")) == (status, field), (path, parameters, answer.text)


def test_counts(told: Told) -> None:
    stats = told.ask("/v1/secmaster/stats")
    assert stats["markets"] == {"total": 5, "by_status": {"active": 4, "settled": 1}}
    assert stats["events"]["by_category"] == {"Crypto": 1, "Sports": 1}
    assert stats["pairs"]["by_market_type"] == {"spot": 1, "perpetual": 1, "future": 1}
    assert stats["conditions"]["by_tag"] == {"crypto": 1, "up-or-down": 1}
    assert told.ask("/v1/secmaster/stats", as_of=THEN)["markets"] == {"total": 6, "by_status": {"active": 6}}
    assert told.ask("/v1/series/stats")["stats"] == [
        {"category": "Crypto", "total": 1, "games": 0},
        {"category": "Sports", "total": 1, "games": 1},
    ]
    by_day = told.ask("/v1/secmaster/markets/timeseries", days=5)["timeseries"]
    assert [day["date"] for day in by_day] == [f"2026-11-{day}" for day in range(17, 23)]
    assert [(day["added"], day["closed"], day["settled"]) for day in by_day] == [
        (5, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0), (0, 0, 0),
    ]  # fmt: skip
    assert (
        told.ask("/v1/secmaster/markets/timeseries", days=1, as_of="2026-11-17T13:00Z")["timeseries"][1]["added"] == 6
    )
    active = told.ask("/v1/secmaster/markets/active-by-category", days=5, as_of="2026-11-19T13:00Z")["timeseries"]
    assert [(day["date"][-2:], day["categories"]) for day in active] == [
        *((day, {}) for day in ("14", "15", "16")),
        ("17", {"Crypto": 5}),
        *((day, {"Crypto": 5, "Sports": 1}) for day in ("18", "19")),
    ]
    short = told.key(*READ, days=(date(2026, 11, 21), date(2026, 11, 30)))
    told_short = told.json("/v1/secmaster/markets/timeseries", short)["timeseries"]
    assert [day["date"] for day in told_short] == ["2026-11-21", "2026-11-22"]


def test_history_ends_where_the_key_ends(told: Told) -> None:
    path = "/v1/markets/KXBTC-1-0/history"
    whole = told.ask(path)["history"]
    assert [(one["status"], one["yesBid"], one["knownFrom"], one["knownTo"]) for one in whole] == [
        ("settled", None, "2026-11-19T12:00:00.000Z", None),
        ("active", "0.4300", "2026-11-17T11:00:00.000Z", "2026-11-19T12:00:00.000Z"),
    ]
    early = told.key(*READ, days=(date(2026, 11, 17), date(2026, 11, 18)))
    assert [(one["status"], one["knownTo"]) for one in told.json(path, early)["history"]] == [("active", None)]
    assert told.ask(path, from_="2026-11-20")["history"] == whole[:1]
    assert told.status(path, to="2026-11-16") == 404
    assert told.status(path, early, to="2026-11-19") == 403
    first = told.ask(path, limit=1)
    assert told.ask(path, limit=1, cursor=first["nextCursor"]) == {"history": whole[1:], "nextCursor": None}
    fees = told.ask("/v1/fees/KXBTC/history")["history"]
    assert {one["sourceId"] for one in fees} == {"seed:KXBTC", "f1", "f2"}


def test_as_of_is_what_the_history_says(told: Told) -> None:
    async def known(table: str, moment: str) -> dict[str, Any]:
        connection = await connect(told.database_url, name="test")
        async with connection:
            rows = as_of(connection, table, parse_moment(moment, "as_of"))
            return {row[SYNCED[table].key]: row async for row in rows}

    paths = {"series": "series", "events": "events", "markets": "markets", "pairs": "pairs",
             "polymarket_conditions": "conditions"}  # fmt: skip
    for moment in ("2026-11-17T09:59Z", "2026-11-17T11:02:00Z", THEN, "2026-11-19T12:00Z", "2026-11-22T10:00Z"):
        for table, name in paths.items():
            rows = asyncio.run(known(table, moment))
            for order in ("key", "updated"):
                listed = told.ask(f"/v1/{name}", as_of=moment, order=order)[name]
                found = {row[IDS[name]]: row for row in listed}
                assert found.keys() == rows.keys()
            for key, row in rows.items():
                assert (found[key]["version"], found[key].get("yesBid")) == (
                    row["version"],
                    None if row.get("yes_bid") is None else str(row["yes_bid"]),
                )
                assert told.status(f"/v1/{name}/{key}", as_of=moment) == 200
    assert told.status("/v1/markets/KXNFL-1-X", as_of=THEN) == 200
    assert told.status("/v1/markets/KXNFL-1-X") == told.status("/v1/markets/KXNFL-1-X", as_of="2026-11-01") == 404


def test_as_of_now_is_what_there_is_now_also_below_a_deleted_event(changing: Told) -> None:
    """Kalshi no longer lists an event whose markets it still has."""
    told = changing
    with psycopg.connect(told.database_url, autocommit=True) as connection:
        connection.execute("SELECT set_config('ssmd.now', '2026-11-22T10:59Z', false)")
        connection.execute("UPDATE events SET deleted_at = ssmd_now() WHERE event_ticker = 'KXBTC-1'")
    now = told.services.now.isoformat()
    for asked in ({"category": "crypto"}, {"series": "KXBTC"}, {"event": "KXBTC-1"}, {"status": "active"}, {}):
        markets = told.keys("/v1/markets", order="key", **asked)
        assert len(markets) >= 4 and told.keys("/v1/markets", order="key", as_of=now, **asked) == markets, asked
    path = "/v1/secmaster/markets/active-by-category"
    assert told.ask(path, days=1, as_of=now) == told.ask(path, days=1)


def test_no_category_is_counted_however_it_is_written(changing: Told) -> None:
    for n, category in enumerate(("''", "NULL", "NULL")):
        changing.sql(
            "INSERT INTO polymarket_conditions (condition_id, question, status, category) "
            f"VALUES ('0x{n}', 'Will it?', 'active', {category})"
        )
    conditions = changing.ask("/v1/secmaster/stats")["conditions"]
    assert (conditions["total"], conditions["by_category"]) == (4, {"": 3, "Crypto": 1})


def test_ids_are_taken_as_paths_have_them(told: Told) -> None:
    for path in ("/v1/pairs/kraken%3AXXBTZUSD", "/v1/pairs/kraken:XXBTZUSD"):
        assert told.ask(path)["volume24h"] == "12.50"
    found = told.ask("/v1/pairs/kraken%3APF_XBTUSD/snapshots", from_="2026-11-21", to="2026-11-21", limit=2)
    assert [one["snapshotAt"][11:16] for one in found["snapshots"]] == ["12:10", "12:05"]
    assert found["snapshots"][0]["markPrice"] == "90000.50"
    rest = told.ask("/v1/pairs/kraken%3APF_XBTUSD/snapshots", from_="2026-11-21", to="2026-11-21", limit=2,
                    cursor=found["nextCursor"])  # fmt: skip
    assert [one["snapshotAt"][11:16] for one in rest["snapshots"]] == ["12:00"]
    assert told.ask("/v1/pairs/kraken:PF_XBTUSD/snapshots", to="2026-11-20")["snapshots"] == []
    for path in (
        "/v1/pairs/kraken:NO",
        "/v1/pairs/kraken:NO/snapshots",
        "/v1/markets/%00",
        "/v1/markets/..%2f..%2fetc",
    ):
        assert told.status(path) == 404, path


def test_quality_is_told_as_it_was_scored(told: Told) -> None:
    scores = told.ask("/v1/health/daily")["scores"]
    assert [(one["date"], one["feed"], one["grade"], one["score"]) for one in scores] == [
        ("2026-11-21", "kalshi", "A", 99.0),  # its own, though the composite score is 0
        ("2026-11-21", "kraken", "F", 50.0),
        ("2026-11-20", "kalshi", "A", 91.5),
    ]
    first = told.ask("/v1/health/daily", limit=2)
    assert told.ask("/v1/health/daily", limit=2, cursor=first["nextCursor"])["scores"] == scores[2:]
    assert told.ask("/v1/health/daily", feed="kraken", to="2026-11-20")["scores"] == []
    gaps = told.ask("/v1/health/gaps", feed="kalshi")["gaps"]
    assert [(one["start"], one["duration_minutes"], one["date"]) for one in gaps] == [
        ("c", 30.0, "2026-11-21"),
        ("a", 15.0, "2026-11-20"),
    ]
    page = told.ask("/v1/health/gaps", feed="kalshi", limit=1)
    assert told.ask("/v1/health/gaps", feed="kalshi", limit=1, cursor=page["nextCursor"])["gaps"] == gaps[1:]
    levels = {one["feed"]: one for one in told.ask("/v1/health/sla")["metrics"]}
    assert (levels["kalshi"]["coverage_pct"], levels["kalshi"]["freshness_minutes"]) == ((97.25 + 99) / 2, 6.0)
    assert (levels["kalshi"]["gap_count"], levels["kraken"]["avg_latency_ms"]) == (1, None)
    assert told.ask("/v1/health/sla", window_days=1)["metrics"] == []
    assert told.status("/v1/health/gaps") == 400


def test_a_key_sees_its_feeds_and_its_days(told: Told) -> None:
    futures = told.key(*READ, feeds=["kraken-futures"])
    both = told.json("/v1/pairs", futures)["pairs"]
    assert {row["marketType"] for row in both} == {"perpetual", "future"}
    assert told.json("/v1/pairs/stats", futures)["stats"]["total"] == 2
    assert told.json("/v1/secmaster/stats", futures).keys() == {"pairs"}
    for path in (
        "/v1/pairs/kraken:XXBTZUSD",
        "/v1/pairs/kraken:XXBTZUSD/history",
        "/v1/pairs/kraken:XXBTZUSD/snapshots",
    ):
        assert told.status(path) == 200 and told.status(path, futures) == 404
    kalshi = told.key(*READ, feeds=["kalshi"], days=(date(2026, 11, 17), date(2026, 11, 18)))
    for route in ROUTES:
        path, parameters = request_of(route)
        if isinstance(route.feeds, tuple) and "kalshi" not in route.feeds:
            assert told.status(path, kalshi, **parameters) == 403, path
        elif "as_of" in route.query.__struct_fields__:
            # Now is not one of its days.
            assert told.status(path, kalshi, **parameters) == 403, path
            assert told.status(path, kalshi, **parameters, as_of=THEN) in {200, 404}, path
        else:
            assert told.status(path, kalshi, **parameters, to="2026-11-19") == 403, path
    assert told.status("/v1/fees", kalshi, as_of=THEN, known_at="2026-11-20") == 403
    assert told.json("/v1/secmaster/stats", kalshi, as_of=THEN).keys() == {"series", "events", "markets", "fees"}


def test_kept_answers_are_as_true_as_new_ones(changing: Told) -> None:
    told = changing

    def bid() -> str:
        return str(told.ask("/v1/markets", event="KXBTC-1")["markets"][-1]["yesBid"])

    assert bid() == bid() == "0.4300"
    assert told.services.answers.hits >= 1
    generation = told.services.changes.generation(("markets",))
    told.sql("UPDATE markets SET yes_bid = 0.44 WHERE event_ticker = 'KXBTC-1'")
    for _ in range(200):
        if told.services.changes.generation(("markets",)) != generation:
            break
        told.run(asyncio.sleep(0.01))
    assert bid() == "0.44"
    hits = told.services.answers.hits
    assert told.json("/v1/pairs", told.key(*READ, feeds=["kraken"]))["pairs"] != told.ask("/v1/pairs")["pairs"]
    assert told.services.answers.hits == hits, "what one key sees is not kept for another that reaches less"


def test_every_table_with_history_has_a_feed() -> None:
    assert FEEDS_OF.keys() == SYNCED.keys()
    assert REQUESTS.keys() == {route.path for route in ROUTES}
