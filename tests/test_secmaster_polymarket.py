"""Gamma's events become conditions and tokens; winners are found; a listing that is not whole changes nothing."""

from __future__ import annotations

import asyncio
import gzip
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.db.merge import SyncReport, SyncRun
from ssmd_core.feeds import get
from ssmd_core.settings import Settings
from ssmd_stream.replay.generator.gamma import gamma_events, gamma_market
from ssmd_stream.replay.generator.polymarket import LIFECYCLE_EVERY, PolymarketExchange
from ssmd_stream.replay.rest_faults import RestFault, RestFaults
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.secmaster import polymarket
from ssmd_stream.secmaster.fields import FieldError, Record
from ssmd_stream.secmaster.polymarket_mapping import (
    CONDITION_COLUMNS,
    TOKEN_COLUMNS,
    Event,
    Market,
    category_of,
    map_event,
    map_market,
    winner_of,
)
from ssmd_stream.secmaster.rest import RestClient, RestError, Timing, decode
from ssmd_stream.secmaster.sync import Mode, run_sync

NOON_S = 1_795_348_800  # 2026-11-22T12:00:00Z
DAY_S = 86_400
# Runs that are not told otherwise follow each other by a minute: a run leaves alone what changed after it had asked.
MINUTES = itertools.count(1)
NO_EVENT = Event("1", "An event", [], None, None)


async def sync(url: str, database_url: str, mode: Mode = "full", now_s: int | None = None) -> SyncReport:
    """One run at a moment; what would wait between attempts does not."""
    timing = Timing(sleep=lambda _: asyncio.sleep(0))
    clock = Clock((now_s or NOON_S + 60 * next(MINUTES)) * NS_PER_S)
    async with (
        RestClient.for_feed("polymarket", url, timing) as rest,
        await SyncRun.begin(database_url, "polymarket/conditions", mode, clock) as run,
    ):
        return await polymarket.sync_conditions(rest, run, mode)


async def synced(database_url: str, listing: Any, *faults: RestFault) -> SyncReport:
    """One run against a replay server."""
    rest_faults = RestFaults(*faults)
    async with ReplayServer(get("polymarket"), Generated(limit=0), listing=listing, rest_faults=rest_faults) as server:
        return await sync(server.rest_url, database_url)


def table(database_url: str, name: str) -> dict[str, dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        rows = connection.execute(f"SELECT * FROM polymarket_{name}".encode()).fetchall()
    return {row[{"conditions": "condition_id", "tokens": "token_id"}[name]]: row for row in rows}


def changes(database_url: str) -> tuple[int, ...]:
    """History rows, watermarks and finished runs."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM polymarket_conditions_history), (SELECT count(*) FROM "
            "polymarket_tokens_history), (SELECT count(*) FROM sync_watermarks), (SELECT count(*) FROM sync_runs)"
        ).fetchone()
        assert row is not None
        return row


def watermarks(database_url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute("SELECT name, value FROM sync_watermarks ORDER BY 1").fetchall()


def events_of(
    count: int, *, closed_s: Callable[[int], int] = lambda _: 0, made_s: int = NOON_S
) -> list[dict[str, Any]]:
    """That many events of two markets each; `closed_s` of the event's number: when both of them closed, 0: not yet."""
    return gamma_events(
        [
            gamma_market(
                index, f"0x{index:064x}", (f"{index}1", f"{index}2"), tick=0.01, timestamp_ms=made_s * 1000,
                made_ms=(made_s + index // 2 * 60) * 1000, closed_ms=closed_s(index // 2) * 1000,
            )
            for index in range(2 * count)
        ]
    )  # fmt: skip


# -- what the objects mean


@pytest.mark.parametrize(
    ("prices", "winner"),
    [
        (["0", "1"], 1),
        (["1", "0"], 0),
        (["0.99995", "0.00005"], 0),
        (["0.0000001", "0.9999999"], 1),
        (["0", "0"], None),
        (["0.5", "0.5"], None),
        (["0.9995", "0.0005"], None),
        (["0.5843311669077693146635445446077281", "0.4156688330922306853364554553922719"], None),
        (["1", "1"], None),
        (["1", None], None),
        (["0", "0", "1"], 2),
        (["2", "0"], None),
        ([], None),
    ],
)
def test_winner(prices: list[str | None], winner: int | None) -> None:
    numbers = [None if price is None else Decimal(price) for price in prices]
    assert winner_of(True, numbers) == winner
    assert winner_of(False, numbers) is None


def test_category_is_the_most_telling_tag() -> None:
    assert category_of(["Bitcoin", "Weekly", "Crypto", "Sports"]) == "Crypto"
    assert category_of(["NBA", "pop culture", "sports"]) == "Sports"
    assert category_of(["Sweeden", "Madrid Open"]) == "Sweeden"
    assert category_of([]) is None


def _mapped(**members: Any) -> Market:
    market = gamma_market(1, "0xabc", ("11", "22"), tick=0.001, timestamp_ms=0, made_ms=NOON_S * 1000)
    return map_market(Record(market | members), NO_EVENT)


def test_status_of_flags() -> None:
    flags: list[dict[str, Any]] = [
        {}, {"acceptingOrders": None}, {"acceptingOrders": False}, {"active": False}, {"closed": True},
        {"closed": True, "acceptingOrders": True, "outcomePrices": '["1", "0"]'},
    ]  # fmt: skip
    assert [_mapped(**each).condition["status"] for each in flags] == [
        "active", "active", "suspended", "inactive", "closed", "settled",
    ]  # fmt: skip


def test_tokens_belong_to_outcomes_by_place() -> None:
    tokens = _mapped(outcomes='["Up","Down"]', outcomePrices='["0.48","0.52"]').tokens
    assert [(token["token_id"], token["outcome"], token["price"], token["winner"]) for token in tokens] == [
        ("11", "Up", Decimal("0.48"), None), ("22", "Down", Decimal("0.52"), None),
    ]  # fmt: skip
    assert [token["outcome"] for token in _mapped(outcomes=None).tokens] == ["Yes", "No"]
    # One price too few: which one is missing is unknown.
    assert [token["price"] for token in _mapped(outcomePrices='["0.48"]').tokens] == [None, None]
    refused = {
        '["11"]': "1 tokens for 2 outcomes", '["11", "11"]': "twice", '["11", "../x"]': "not a number",
        '["11", "' + "2" * 200 + '"]': "200 characters",
    }  # fmt: skip
    for text, reason in refused.items():
        market = _mapped(clobTokenIds=text)
        assert reason in market.no_tokens
        assert not market.tokens
        assert market.condition["condition_id"] == "0xabc"
    assert _mapped(clobTokenIds=None) == (_mapped().condition, [], "")
    # Names that cannot be read are not Yes and No.
    assert _mapped(outcomes='["' + "x" * 300 + '", "y"]').no_tokens == "clobTokenIds: 2 tokens for 0 outcomes"


def test_event_facts() -> None:
    tags = [{"label": "Weekly", "slug": "Weekly"}, {"slug": "x"}, {"label": "Crypto"}, None, {"slug": "weekly"}]
    record = Record({"id": 185377, "title": "T", "tags": tags, "negRisk": True})
    assert map_event(record) == Event("185377", "T", ["weekly", "x"], "Crypto", True)
    assert record.problems == ["tags: None is not an object"]
    market = map_market(Record({"conditionId": "0xa"}), map_event(record)).condition
    assert (market["question"], market["neg_risk"], market["tags"]) == ("T", True, ["weekly", "x"])


# -- samples


def test_samples(database_url: str, samples: Path) -> None:
    folder = samples / "polymarket" / "rest"
    listing: list[dict[str, Any]] = []
    for path in (*sorted(folder.glob("gamma_event*.json")), folder / "gamma_search_2026-03.json"):
        document = orjson.loads(path.read_bytes())
        found = document if isinstance(document, list) else document.get("events", [document])
        listing += found
    lines = gzip.decompress((folder / "gamma_markets_btc5m_part.jsonl.gz").read_bytes()).splitlines()
    markets = [orjson.loads(path.read_bytes()) for path in sorted(folder.glob("gamma_market_*.json"))]
    markets += [orjson.loads(line) for line in lines]
    for market in markets:
        event = market.get("events", [{"id": f"9{market['id']}", "title": "x"}])[0]
        listing.append(event | {"markets": [market], "closed": False})
    report = asyncio.run(synced(database_url, listing))
    assert report.rejects == []
    conditions, tokens = table(database_url, "conditions"), table(database_url, "tokens")
    assert len(conditions) == 146 + len(list(folder.glob("gamma_market_*.json"))) + 3 + 3 + 2 + 1
    # Eight of the events' fixtures name no tokens.
    assert len(tokens) == 2 * (len(conditions) - 6)
    by_slug = {row["slug"]: row for row in conditions.values()}
    five = [row for slug, row in by_slug.items() if slug and slug.startswith("btc-updown-5m-17848")]
    assert {row["status"] for row in five} == {"settled"}
    assert {row["winning_outcome"] for row in five} == {"Up", "Down"}
    old = by_slug["will-joe-biden-get-coronavirus-before-the-election"]
    assert (old["status"], old["winning_outcome"], old["category"]) == ("closed", None, "US-current-affairs")
    handicap = by_slug["cs2-faze-ill-2026-04-05-map-handicap-away-1pt5"]
    assert (handicap["winning_outcome"], handicap["event_id"]) == ("FaZe", "346898")
    assert handicap["resolution_date"] == datetime(2026, 4, 5, 19, 38, 35, tzinfo=UTC)
    nominee = by_slug["will-stephen-a-smith-win-the-2028-democratic-presidential-nomination-914"]
    assert (nominee["category"], nominee["neg_risk"], nominee["status"]) == ("Politics", True, "active")
    assert nominee["tags"][:2] == ["world-elections", "global-elections"]
    assert nominee["volume"] == Decimal("12232699.615479222")
    token = tokens["60590045489347122735554346200880179420435533609307820342798544098823516727807"]
    assert (token["price"], token["outcome"], token["winner"]) == (Decimal("0.0105"), "Yes", None)


# -- syncs


def test_full_then_nothing_then_two_sweeps(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polymarket, "PAGE", 7)
    listing = events_of(20)

    async def run() -> None:
        async with ReplayServer(get("polymarket"), Generated(limit=0), listing=listing) as server:

            async def again() -> SyncReport:
                return await sync(server.rest_url, database_url)

            assert [each.inserted for each in (await again()).tables.values()] == [40, 80]
            with psycopg.connect(database_url) as connection:
                connection.execute("SELECT set_config('ssmd.now', '2026-11-22T12:00:00Z', false)")
                connection.execute("UPDATE polymarket_tokens SET bid = 0.25 WHERE token_id = '31'")
            before = changes(database_url)
            assert [each.unchanged for each in (await again()).tables.values()] == [40, 80]
            assert changes(database_url) == (*before[:3], before[3] + 1)
            listing[1]["markets"][1]["outcomePrices"] = '["0.125", "0.875"]'
            assert [each.changed for each in (await again()).tables.values()] == [0, 2]
            row = table(database_url, "tokens")["31"]
            assert (row["bid"], row["price"]) == (Decimal("0.25"), Decimal("0.125"))

            gone = listing.pop(3)
            assert [(await again()).tables["polymarket_conditions"].deleted for _ in range(3)] == [0, 2, 0]
            deleted = {key for key, row in table(database_url, "conditions").items() if row["deleted_at"]}
            assert deleted == {market["conditionId"] for market in gone["markets"]}
            listing.insert(0, gone)
            assert (await again()).tables["polymarket_conditions"].resurrected == 2

            del listing[5:10]
            report = (await again()).tables["polymarket_conditions"]
            assert (report.missing, report.deleted) == (10, 0)
            assert "30 of 40" in report.refused

    asyncio.run(run())


def test_winners_come_from_the_closed_listing(database_url: str) -> None:
    """An exchange goes on trading between runs: markets appear and are resolved, and none of them is deleted."""
    now_ns = NOON_S * NS_PER_S
    exchange = PolymarketExchange(3, lambda: now_ns, markets=8)
    listing = exchange.events()

    async def run(mode: Mode) -> SyncReport:
        listing[:] = exchange.events()
        async with ReplayServer(get("polymarket"), Generated(limit=0), listing=listing) as server:
            return await sync(server.rest_url, database_url, mode, now_ns // NS_PER_S + 60)

    assert asyncio.run(run("full")).tables["polymarket_conditions"].inserted == 8
    inserted = deleted = 0
    for round_ in range(4):
        for _ in range(LIFECYCLE_EVERY * 6):
            exchange.step(frozenset({"market"}), exchange.instruments)
            now_ns += NS_PER_S
        report = asyncio.run(run("incremental" if round_ % 2 else "full"))
        inserted += report.tables["polymarket_conditions"].inserted
        deleted += report.tables["polymarket_conditions"].deleted
    rows, closed = table(database_url, "conditions"), [each for each in exchange.markets.values() if each.closed]
    assert (inserted, deleted) == (8, 0)
    assert closed
    assert all(event["closed"] == all(market["closed"] for market in event["markets"]) for event in exchange.events())
    for market in exchange.markets.values():
        row = rows[market.condition]
        assert (row["status"], row["winning_outcome"]) == (("settled", "Up") if market.closed else ("active", None))
    winners = {key: row["winner"] for key, row in table(database_url, "tokens").items()}
    assert [winners[token] for token in closed[0].tokens] == [True, False]


def test_what_no_listing_shows_is_asked_for_by_id(database_url: str) -> None:
    """Closed events without an end date do not pass `end_date_min`."""
    listing = events_of(3)
    asyncio.run(synced(database_url, listing))
    closed = events_of(3, closed_s=lambda _: NOON_S + 60)
    listing[0] = closed[0] | {"endDate": None}
    faults = RestFaults()

    async def run() -> SyncReport:
        async with ReplayServer(get("polymarket"), Generated(limit=0), listing=listing, rest_faults=faults) as server:
            return await sync(server.rest_url, database_url)

    report = asyncio.run(run()).tables["polymarket_conditions"]
    assert (report.changed, report.missing, report.deleted) == (2, 0, 0)
    assert [path for path, _ in faults.requests] == ["/events/keyset", "/events/keyset", "/markets"]
    row = table(database_url, "conditions")[f"0x{0:064x}"]
    assert (row["status"], row["winning_outcome"], row["tags"], row["event_id"], row["category"]) == (
        "settled", "Up", ["weekly", "crypto"], "200000", "Crypto",
    )  # fmt: skip
    del listing[1]
    with pytest.raises(RestError, match="GET /markets"):
        asyncio.run(synced(database_url, listing, RestFault("body", "/markets", count=None, body=b'{"a":1}')))


def test_closed_listing_is_read_as_far_as_needed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polymarket, "PAGE", 5)
    closed = events_of(60, closed_s=lambda number: NOON_S - number * DAY_S, made_s=NOON_S - 30 * DAY_S)
    listing = closed + [event | {"id": f"9{event['id']}"} for event in events_of(1)]
    faults = RestFaults()

    async def run(mode: Mode, now_s: int) -> int:
        async with ReplayServer(get("polymarket"), Generated(limit=0), listing=listing, rest_faults=faults) as server:
            before = len(faults.requests)
            await sync(server.rest_url, database_url, mode, now_s)
            return sum(query["closed"] == "true" for _, query in list(faults.requests)[before:])

    # Seven days and three for late ones the first time, which is the page of the twelfth; then what is left of three.
    assert asyncio.run(run("full", NOON_S + 60)) == 3
    assert asyncio.run(run("incremental", NOON_S + 120)) == 1
    assert asyncio.run(run("full", NOON_S + 5 * DAY_S)) == 1
    assert all(query["order"] == "closedTime" for _, query in faults.requests if query["closed"] == "true")

    def unordered(item: dict[str, Any]) -> dict[str, Any]:
        return item | {"closedTime": f"2026-11-{1 + int(item['id']) * 7 % 22:02d}T00:00:00Z"}

    # A venue that does not sort is read to the end of what `end_date_min` leaves.
    monkeypatch.setattr("ssmd_stream.replay.venues_rest.polymarket._chosen", lambda request, found: [
        unordered(item) if item["closed"] else item for item in found
        if item["closed"] == (request.query["closed"] == "true")
    ])  # fmt: skip
    assert asyncio.run(run("full", NOON_S + 6 * DAY_S)) == 12
    with psycopg.connect(database_url) as connection:
        (warnings,) = connection.execute(
            "SELECT report->'warnings' FROM sync_runs ORDER BY id DESC LIMIT 1"
        ).fetchone() or ({},)
    assert "events: not in the order of closedTime, read to the end" in warnings


def test_a_closing_time_at_the_end_of_time(database_url: str) -> None:
    listing = events_of(3) + [
        event | {"id": f"9{event['id']}", "closedTime": closed_time}
        for event, closed_time in zip(
            events_of(5, closed_s=lambda _: NOON_S)[3:],
            ("9999-12-31 23:59:59+00", "2026-11-22 11:00:00+00"),
            strict=True,
        )
    ]
    assert asyncio.run(synced(database_url, listing)).tables["polymarket_conditions"].inserted == 10


def test_what_cannot_be_read_is_not_missing(database_url: str) -> None:
    listing: list[Any] = events_of(20)
    asyncio.run(synced(database_url, listing))
    none_closed = RestFault("body", "/markets", count=None, body=b"[]")
    for market in listing[0]["markets"]:
        market["conditionId"] = ["?"]
    listing[1]["markets"] = "?"
    for _ in range(3):
        report = asyncio.run(synced(database_url, listing, none_closed)).tables["polymarket_conditions"]
        assert (report.rejected, report.missing, report.deleted, report.refused) == (2, 0, 0, "")
    # Of which event these would be nobody knows.
    del listing[2]
    for strange in (None, {"id": None, "markets": "?"}, {"id": "7", "markets": [7]}):
        page = RestFault("body", "/events", count=None, body=orjson.dumps({"events": [*listing, strange]}))
        for _ in range(3):
            report = asyncio.run(synced(database_url, listing, page, none_closed)).tables["polymarket_conditions"]
            assert report.deleted == 0
            assert "cannot be read" in report.refused
    reports = [asyncio.run(synced(database_url, listing, none_closed)) for _ in range(2)]
    assert [report.tables["polymarket_conditions"].deleted for report in reports] == [0, 2]


def test_more_have_vanished_than_can_be_asked_for(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = events_of(40)
    asyncio.run(synced(database_url, listing))
    monkeypatch.setattr(polymarket, "MAX_VANISHED", 2)
    marks = watermarks(database_url)
    del listing[1:3]
    for _ in range(3):
        report = asyncio.run(synced(database_url, listing))
        assert report.warnings == {"conditions: 4 have vanished, 2 were asked for, nothing deleted": 1}
    assert all(row["deleted_at"] is None for row in table(database_url, "conditions").values())
    assert watermarks(database_url) == marks


def test_long_condition_ids_fit_into_urls(database_url: str) -> None:
    listing = events_of(40)
    # A euro is nine characters of a URL.
    for market in (market for event in listing for market in event["markets"]):
        market["conditionId"] = "€" * 110 + market["conditionId"][-18:]
    asyncio.run(synced(database_url, listing))
    del listing[1:5]
    assert asyncio.run(synced(database_url, listing)).tables["polymarket_conditions"].missing == 8


def test_incremental_reads_new_events_only(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polymarket, "PAGE", 10)
    listing = events_of(100, made_s=NOON_S - 20 * DAY_S)
    asyncio.run(synced(database_url, listing))
    listing += [event | {"id": f"9{event['id']}"} for event in events_of(103)[100:]]
    for market in (market for event in listing[100:] for market in event["markets"]):
        market["createdAt"] = "2026-11-22T12:00:00Z"
    faults = RestFaults()

    async def run() -> SyncReport:
        async with ReplayServer(get("polymarket"), Generated(limit=0), listing=listing, rest_faults=faults) as server:
            return await sync(server.rest_url, database_url, "incremental", NOON_S + 600)

    report = asyncio.run(run()).tables["polymarket_conditions"]
    assert (report.inserted, report.missing, report.deleted) == (6, 0, 0)
    assert len(faults.requests) == 2


FAULTS = [
    RestFault("status", count=None),
    RestFault("status", count=None, status=451),
    RestFault("html", count=None, at=1),
    RestFault("error_inside", count=None, at=2),
    RestFault("truncate", count=None, at=1),
    RestFault("reset", count=None),
    RestFault("repeat", at=1),
    RestFault("repeat"),
    RestFault("endless", count=None),
    *(
        RestFault("body", at=1, count=None, body=body)
        for body in (b"[]", b"{}", b'{"events":{}}', b'{"events":[],"next_cursor":5}', b'{"type":"validation error"}')
    ),
    RestFault("body", count=None, body=b'{"events":[]}'),
]


def test_gamma_by_limit_and_offset() -> None:
    listing = events_of(12, closed_s=lambda number: NOON_S if number > 9 else 0)

    async def ids(path: str, **params: str) -> list[str]:
        async with (
            ReplayServer(get("polymarket"), Generated(limit=0), listing=listing) as server,
            RestClient.for_feed("polymarket", server.rest_url) as rest,
        ):
            return [item["id"] for item in await rest.get(path, params)]

    assert asyncio.run(ids("/events", limit="3", offset="8")) == ["200008", "200009"]
    assert asyncio.run(ids("/events", closed="true", ascending="false")) == ["200011", "200010"]
    assert asyncio.run(ids("/markets", condition_ids=f"0x{7:064x}")) == ["3000007"]
    assert asyncio.run(ids("/markets", volume_num_min="102500")) == ["3000019"]


def test_through_the_front_door(database_url: str, tmp_path: Path) -> None:
    settings = Settings.from_environment({"SSMD_DATA": str(tmp_path), "DATABASE_URL": database_url})

    async def run(mode: Mode) -> SyncReport:
        async with ReplayServer(get("polymarket"), Generated(limit=0, markets=6)) as server:
            return await run_sync("polymarket/conditions", settings, mode=mode, rest_url=server.rest_url)

    assert [asyncio.run(run(mode)).tables["polymarket_tokens"].inserted for mode in ("incremental", "full")] == [12, 0]
    row = min(table(database_url, "conditions").values(), key=lambda row: row["market_id"])
    assert (row["category"], row["tags"], row["min_order_size"]) == ("Crypto", ["weekly", "crypto"], 5)


def test_a_listing_that_is_not_whole_changes_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polymarket, "PAGE", 5)
    asyncio.run(synced(database_url, events_of(20)))
    before = table(database_url, "conditions"), table(database_url, "tokens"), changes(database_url)
    changed = events_of(20, made_s=NOON_S + 7)
    for fault in FAULTS:
        with pytest.raises(RestError, match="GET /events/keyset"):
            asyncio.run(synced(database_url, changed, fault))
    assert (table(database_url, "conditions"), table(database_url, "tokens"), changes(database_url)) == before


def test_pages_that_shift_or_fail_once_lose_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polymarket, "PAGE", 5)
    faults = (RestFault("status", at=0), RestFault("shift", at=2, by=2), RestFault("html", at=3))
    report = asyncio.run(synced(database_url, events_of(20), *faults)).tables["polymarket_conditions"]
    assert report.repeated == 4
    shown = len(table(database_url, "conditions"))
    assert shown >= 36
    # What a shift hid is not deleted, and comes with the next run.
    report = asyncio.run(synced(database_url, events_of(20))).tables["polymarket_conditions"]
    assert (report.deleted, len(table(database_url, "conditions"))) == (0, 40)
    # Nor does a listing that ends early delete anything, however often.
    for _ in range(3):
        report = asyncio.run(synced(database_url, events_of(20), RestFault("end_early"))).tables[
            "polymarket_conditions"
        ]
        assert (report.deleted, bool(report.refused)) == (0, True)


def test_hostile_values(database_url: str) -> None:
    good = gamma_market(1, "0xabc", ("11", "22"), tick=0.001, timestamp_ms=0, made_ms=NOON_S * 1000)
    noise: list[Any] = [
        "", None, "NaN", "1e400", "123", 5, True, [], {"a": [{}]}, "x" * 20_000, "a\u202eb\x00c", "'; DROP TABLE x; --",
        '["1"', '[["0.5"]]', "[" * 5000, '["\\ud800"]',
    ]  # fmt: skip
    markets: list[Any] = [
        good | {"conditionId": f"0x{number}{name}", "clobTokenIds": f'["{number}{index}1", "{number}{index}2"]'}
        | {name: each}
        for number, each in enumerate(noise)
        for index, name in enumerate(good)
    ]  # fmt: skip
    markets += [None, 5, [], {}, good | {"conditionId": "y" * 200}, good | {"conditionId": "nul\x00"}]
    listing: list[Any] = [
        {"id": str(number), "title": each, "tags": each, "negRisk": each, "markets": markets if not number else each}
        for number, each in enumerate(noise)
    ]
    listing += [{"id": "t", "tags": [{"slug": each, "label": each} for each in noise], "markets": [good]}]
    report = asyncio.run(synced(database_url, listing))
    table_ = report.tables["polymarket_conditions"]
    assert table_.inserted + table_.rejected + table_.repeated == len(markets) + 1
    rows = table(database_url, "conditions")
    assert len(rows) == table_.inserted
    assert rows["0x10question"]["question"] == "a\u202eb\ufffdc"
    assert rows["0x11slug"]["slug"] == "'; DROP TABLE x; --"
    assert rows["0x3volume"]["volume"] is None
    assert rows["0x4volume"]["volume"] == 123
    assert any("volume: number '1e400' is out of bounds" in text for text in report.warnings)
    again = asyncio.run(synced(database_url, listing))
    assert (again.touched, again.tables["polymarket_conditions"].unchanged) == (0, table_.inserted)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False) | st.text(max_size=40)
    | st.sampled_from(['["1", "0"]', '["0.9999999", "0"]', '["11", "22"]', "2026-01-01"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
MEMBERS = dict.fromkeys(gamma_market(1, "0xabc", ("11", "22"), tick=0.01, timestamp_ms=0, closed_ms=1), JSON)


@given(market=st.fixed_dictionaries({}, optional=MEMBERS), event=st.fixed_dictionaries({}, optional=dict.fromkeys(
    ("id", "title", "tags", "negRisk"), JSON)))  # fmt: skip
def test_any_market_is_taken_or_refused(market: dict[str, Any], event: dict[str, Any]) -> None:
    try:
        mapped = map_market(Record({"conditionId": "0xabc"} | market), map_event(Record(event)))
    except FieldError:
        return
    assert set(mapped.condition) == {"condition_id", *CONDITION_COLUMNS}
    assert all(set(token) == {"token_id", *TOKEN_COLUMNS} for token in mapped.tokens)
    assert (mapped.condition["winning_outcome"] is not None) == (mapped.condition["status"] == "settled")
    assert sum(token["winner"] is True for token in mapped.tokens) <= 1


def test_pages_are_read_as_decimals() -> None:
    market = map_market(Record(decode(b'{"conditionId":"0xa","volume":35522.40303099994}')), NO_EVENT)
    assert market.condition["volume"] == Decimal("35522.40303099994")
