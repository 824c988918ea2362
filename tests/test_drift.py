"""The drift sentinel: what messages look like, what counts as a change, and what it makes of hostile input."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd_core.clock import NS_PER_S
from ssmd_core.drift import shapes as shapes_module
from ssmd_core.drift.baseline import Baseline
from ssmd_core.drift.compare import differences
from ssmd_core.drift.findings import Finding
from ssmd_core.drift.hour import HourDrift, findings_of
from ssmd_core.drift.nulls import HourNulls, null_columns
from ssmd_core.drift.shapes import Shapes
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds import get
from ssmd_stream.drift.bodies import Bodies, close_bodies, endpoint_of, observe_document, open_bodies
from ssmd_stream.drift.live import MESSAGES_PER_S, Sentinel, baseline_path, load_baseline, open_sentinel
from ssmd_stream.drift.store import store_findings, store_hour, store_shapes
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.secmaster.rest import RestClient

KRAKEN = get("kraken")
START_NS = 1_795_348_800 * NS_PER_S
HOUR = datetime(2026, 11, 22, 12, tzinfo=UTC)
TICKER = {"channel": "ticker", "type": "update", "data": [{"symbol": "BTC/USD", "bid": 86210.1, "ask": 86210.2}]}


def ticker(**members: Any) -> bytes:
    """A ticker of Kraken; a member that is `...` is left out."""
    item = TICKER["data"][0] | members  # type: ignore[operator,index]  # the message above
    return orjson.dumps(TICKER | {"data": [{key: value for key, value in item.items() if value is not ...}]})


class Stream:
    """Messages at their times, shown to a sentinel."""

    def __init__(self, sentinel: Sentinel | None = None, **usual: Any) -> None:
        self.sentinel = sentinel or Sentinel(KRAKEN, Baseline.learned(shapes_of([ticker(**usual)] * 300)))
        self.now_ns = START_NS

    def send(self, message: bytes, times: int = 1, every_s: float = 1.0, kind: str = "ticker") -> list[Finding]:
        found: list[Finding] = []
        for _ in range(times):
            self.now_ns += int(every_s * NS_PER_S)
            found += self.sentinel.look(kind, message, self.now_ns)
        return found


def shapes_of(messages: Sequence[bytes], kind: str = "ticker") -> Shapes:
    shapes = Shapes()
    for message in messages:
        shapes.add(kind, message)
    return shapes


def what(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(finding.kind, finding.path) for finding in findings]


# -- what counts


def test_paths_types_and_presence() -> None:
    shapes = Shapes()
    for raw in (
        b'{"a":1,"b":"0.48","c":[{"p":"x"},{"p":null,"q":2.5}],"d":{"XXBTZUSD":{"alt":true}}}',
        b'{"a":2.5,"b":"","d":{"XETHZUSD":{"alt":false}}}',
    ):
        shapes.add("t", raw)
    said = shapes.document()["t"]
    assert said["messages"] == 2
    assert {path: (of["types"], of["presence"]) for path, of in said["paths"].items()} == {
        "": ({"object": 2}, 1.0),
        "a": ({"int": 1, "number": 1}, 1.0),
        "b": ({"decimal text": 1, "empty text": 1}, 1.0),
        "c": ({"array": 1}, 0.5),
        "c[]": ({"object": 2}, None),
        "c[].p": ({"null": 1, "text": 1}, 0.5),
        "c[].q": ({"number": 1}, 0.5),
        "d": ({"object": 2}, 1.0),
        "d.{}": ({"object": 2}, None),
        "d.{}.alt": ({"bool": 2}, 1.0),
    }


@pytest.mark.parametrize(
    ("change", "expected", "within_s"),
    [
        ({"bid": ...}, [("dropped_field", "data[].bid")], 8),
        ({"bid": None}, [("dropped_field", "data[].bid")], 8),
        ({"bid": ..., "best_bid": 1.5}, [("new_field", "data[].best_bid"), ("dropped_field", "data[].bid")], 8),
        ({"surprise": 1}, [("new_field", "data[].surprise")], 3),
        ({"surprise": None}, [("new_field", "data[].surprise")], 3),
        ({"bid": "86210.1"}, [("retyped_field", "data[].bid")], 3),
        ({"bid": {"price": 1}}, [("retyped_field", "data[].bid")], 3),
        ({"symbol": 7}, [("retyped_field", "data[].symbol")], 3),
        # The registry reads this member already, in some generation of the format.
        ({"vwap": 1.5}, [], 0),
        ({"bid": 86210}, [], 0),
    ],
)
def test_a_lasting_change_is_told_once(change: dict[str, Any], expected: list[tuple[str, str]], within_s: int) -> None:
    stream = Stream()
    found = stream.send(ticker(**change), 10)
    assert what(found) == expected
    for finding in found:
        assert finding.at_us == START_NS // 1000 + 1_000_000
        assert finding.message_type == "ticker"
        assert finding.evidence == "received:2026-11-22T12:00:01.000000Z"
    # One message a second: so many messages, so many seconds.
    early = Stream().send(ticker(**change), within_s)
    assert len(early) == len(expected)
    assert not stream.send(ticker(**change), 1000)
    assert not stream.send(ticker(), 1000)
    assert not stream.send(ticker(**change), 1000)


def test_decimal_text_that_becomes_other_text_is_told() -> None:
    stream = Stream(bid="0.48")
    assert what(stream.send(ticker(bid="n/a"), 10)) == [("retyped_field", "data[].bid")]
    assert not Stream(bid="0.48").send(ticker(bid=""), 1000)


def test_a_new_type_is_told_at_once_and_a_known_one_is_learned() -> None:
    stream = Stream(Sentinel(KRAKEN, Baseline()))
    assert not stream.send(b'{"channel":"book","data":[]}', kind="book")
    assert not stream.send(b"pong", kind="")
    assert not stream.send(b"[]", kind="")
    found = stream.send(b'{"channel":"liquidation"}', 5, kind="liquidation")
    assert what(found) == [("new_type", "")]
    assert found[0].message_type == "liquidation"
    assert [finding.message_type for finding in stream.send(b'{"chan":"ticker"}', 5, kind="")] == ["unparsed"]
    many = [finding for n in range(1000) for finding in stream.send(b"{}", kind=f"t{n}")]
    assert len(many) < 20


def test_optional_members_and_odd_messages_raise_no_alarm() -> None:
    rng = random.Random(5)
    stream = Stream(Sentinel(KRAKEN, Baseline()))
    found: list[Finding] = []
    for n in range(8000):
        rare = {"rare": 1} if rng.random() < 0.02 else {}
        odd = {"bid": ["x", None, 5][n // 2000 % 3]} if n % 2000 == 1999 else {}
        found += stream.send(ticker(**rare, **odd))
    assert what(found) == []


def test_quiet_types_are_learned_for_longer() -> None:
    stream = Stream(Sentinel(KRAKEN, Baseline()))
    assert not stream.send(ticker(), 290, every_s=60)
    assert not stream.send(ticker(bid=..., other=1), 9, every_s=60)
    assert not stream.send(ticker(), 20, every_s=60)


def test_a_burst_without_a_member_is_not_a_change() -> None:
    stream = Stream()
    stream.send(ticker(), 100)
    assert not stream.send(ticker(bid=...), 500, every_s=0.001)
    assert not stream.send(ticker())


def test_two_generations_at_a_time_do_not_flap() -> None:
    stream = Stream(bid=..., old=1.5)
    found: list[Finding] = []
    for _ in range(200):
        found += stream.send(ticker(bid=..., old=1.5, new="1.50"), 2)
        found += stream.send(ticker(bid=..., new="1.50"), 2)
    assert what(found) == [("new_field", "data[].new")]
    for _ in range(100):
        found += stream.send(ticker(bid=..., new="1.50"), 20)
        found += stream.send(ticker(bid=..., old=1.5), 20)
    kinds = what(found[1:])
    assert len(kinds) == len(set(kinds)) <= 2


def test_a_side_of_a_book_may_be_empty() -> None:
    """Kalshi leaves the side's member out; at a market's close both, in hundreds of snapshots at a time."""
    kalshi = get("kalshi")
    full = b'{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"KX-1","yes_dollars_fp":[]}}'
    empty = full.replace(b',"yes_dollars_fp":[]', b"")
    stream = Stream(Sentinel(kalshi, Baseline.learned(shapes_of([full] * 300, "orderbook_snapshot"))))
    assert stream.send(empty, 100, kind="orderbook_snapshot") == []
    renamed = stream.send(full.replace(b"_fp", b"_q"), 10, kind="orderbook_snapshot")
    assert what(renamed) == [("new_field", "msg.yes_dollars_q")]


def test_messages_that_are_not_looked_into_are_no_change() -> None:
    stream = Stream()
    large = ticker(padding="x" * (1 << 20))
    assert stream.send(large, 20) == stream.send(b'{"a":', 20) == stream.send(ticker(), 20) == []


def test_keys_that_turn_out_to_be_data_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_module, "MAX_MEMBERS", 4)
    stream = Stream(by_id={"aa": {"x": 1}, "bb": {"x": 1}})
    names = [chr(97 + n % 26) + chr(97 + n // 26) for n in range(3, 200)]
    assert [found for name in names for found in stream.send(ticker(by_id={name: {"x": 1}}))] == []


def test_only_a_few_messages_of_a_busy_type_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream()
    seen = stream.sentinel._watch.baseline.types["ticker"].shape.messages
    stream.send(ticker(), 50_000, every_s=0.0002)
    decoded = stream.sentinel._watch.baseline.types["ticker"].shape.messages - seen
    assert 9 * MESSAGES_PER_S <= decoded <= 11 * MESSAGES_PER_S
    # Sixty times the cost promised: the machine may be busy, but decoding every message would be caught.
    started = time.perf_counter()
    stream.send(ticker(), 50_000, every_s=0.0002)
    assert (time.perf_counter() - started) / 50_000 < 60e-6


def test_a_clock_set_back_does_not_blind() -> None:
    stream = Stream()
    stream.send(ticker(), 100, every_s=0.001)
    stream.now_ns -= 3600 * NS_PER_S
    assert what(stream.send(ticker(bid=...), 100, every_s=0.1)) == [("dropped_field", "data[].bid")]


def test_what_was_learned_and_told_survives_a_restart(tmp_path: Path) -> None:
    stream = Stream(open_sentinel(KRAKEN, "spot", tmp_path))
    assert not stream.send(ticker(), 1300)
    stream.sentinel.save()
    stream.sentinel = open_sentinel(KRAKEN, "spot", tmp_path)
    assert what(stream.send(ticker(bid=...), 10)) == [("dropped_field", "data[].bid")]
    stream.sentinel.save()
    stream.sentinel = open_sentinel(KRAKEN, "spot", tmp_path)
    assert not stream.send(ticker(bid=...), 100)
    baseline_path(tmp_path, "kraken", "spot").write_bytes(b'{"version":1,"types":{"ticker":{"messages":1')
    assert load_baseline(baseline_path(tmp_path, "kraken", "spot")).types == {}
    assert not Stream(open_sentinel(KRAKEN, "spot", tmp_path)).send(ticker(), 10)


# -- shapes: invariants

names = st.sampled_from(["a", "b", "price", "PF_XBTUSD", "0x12", "bid size", "é", "yes_bid"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "1.5", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=8),
    max_leaves=20,
)
messages = st.lists(st.dictionaries(names, values, max_size=8).map(json.dumps).map(str.encode), max_size=8)


@given(messages, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_messages_changes_nothing(raw: list[bytes], rng: random.Random) -> None:
    shuffled = rng.sample(raw, len(raw))
    assert shapes_of(raw).document() == shapes_of(shuffled).document()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes_module, "MAX_MEMBERS", 2)
        one, other = shapes_of(raw), shapes_of(shuffled)
    assert one.document() == other.document()
    for shape in one.types.values():
        assert shape.document(3) == other.of("ticker").document(3)
        assert len(shape.document(3)["paths"]) <= 3


def test_keys_become_data_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_module, "MAX_MEMBERS", 2)
    raw = [b'{"p":{"a":1,"b":1,"c":1}}', b'{"q":{"a":1}}', b'{"r":{"a":"x"}}', b'{"q":{"a":[{"k":null}]}}']
    documents = [shapes_of(order).document() for order in itertools.permutations(raw)]
    assert all(document == documents[0] for document in documents)
    assert set(documents[0]["ticker"]["paths"]) == {"", "{}", "{}.{}", "{}.{}[]", "{}.{}[].k"}


@given(messages)
@settings(max_examples=25, deadline=None)
def test_a_document_survives_json_and_does_not_differ_from_itself(raw: list[bytes]) -> None:
    shapes = shapes_of(raw * 40)
    document = orjson.loads(orjson.dumps(shapes.document()))
    again = Shapes.from_document(document)
    assert again.document() == document == shapes.document()
    assert differences(KRAKEN, shapes, again) == []
    baseline = orjson.loads(orjson.dumps(Baseline.learned(shapes).document()))
    assert Baseline.from_document(baseline).document() == baseline


@given(st.binary(max_size=200) | values.map(json.dumps).map(str.encode), st.text(max_size=80))
@settings(max_examples=60, deadline=None)
def test_nothing_raises(payload: bytes, kind: str) -> None:
    shapes_of([payload], kind).document()
    Stream().send(payload, 12, kind=kind)
    Stream().send(payload, 12)


def test_differences_of_two_days() -> None:
    before = shapes_of([ticker(bid=1.5, old="0.5")] * 300)
    after = shapes_of([ticker(bid="x", fresh=1)] * 60)
    after.add("liquidation", b"{}")
    found = differences(KRAKEN, before, after)
    assert sorted(what(found)) == [
        ("dropped_field", "data[].old"),
        ("new_field", "data[].fresh"),
        ("new_type", ""),
        ("retyped_field", "data[].bid"),
    ]
    by_kind = {finding.kind: finding.detail for finding in found}
    assert by_kind["dropped_field"].startswith("ticker: member data[].old was in 300 of 300 messages and is missing")
    assert "It fills bid." in by_kind["retyped_field"]
    assert differences(KRAKEN, before, shapes_of([ticker()] * 49)) == []


# -- hostile input

HOSTILE = {
    "deep": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep arrays": b"[" * 500_000 + b"]" * 500_000,
    "100,000 keys": orjson.dumps({f"key{n}": n for n in range(60_000)}),
    "100,000 names": orjson.dumps({"".join(chr(97 + int(digit)) for digit in str(n)): n for n in range(60_000)}),
    "16 MiB": b'{"a":"' + b"x" * (16 << 20) + b'"}',
    "ones": b"[" + b"1," * 500_000 + b"1]",
    "objects": b"[" + b"{}," * 300_000 + b"{}]",
    "invalid UTF-8": b'{"a":"\xff\xfe","\xc3":1}',
    "duplicate keys": b'{"a":1,"a":"x","a":{"b":1},"a":[1]}',
    "NUL": b'{"a\\u0000b":"\\u0000","\\ud800":1}',
    "digits": b'{"a":' + b"9" * 100_000 + b"}",
    "not JSON": b'{"a":NaN}',
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_cost_little(name: str) -> None:
    payload = HOSTILE[name]
    stream = Stream()
    tracemalloc.start()
    try:
        started = time.perf_counter()
        stream.send(payload, 3)
        document = orjson.dumps(shapes_of([payload] * 2).document())
        seconds = time.perf_counter() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < 20  # traced, on a busy machine; 0.9 on a quiet one
    assert peak < 120 << 20
    assert len(document) < 64_000


def test_ever_new_names_fill_neither_memory_nor_documents() -> None:
    shapes = Shapes()
    for n in range(3_000):
        word = "".join(chr(97 + int(digit)) for digit in str(n))
        wide = {f"{word}{chr(97 + m)}": {word: {chr(97 + k): k for k in range(20)}} for m in range(20)}
        shapes.add(f"type{n % 400}", orjson.dumps(wide))
    document = shapes.document()
    assert len(document) <= shapes_module.MAX_TYPES + 1
    assert all(len(said["paths"]) <= shapes_module.MAX_PATHS for said in document.values())
    assert sum(1 for shape in shapes.types.values() for _ in shape.places()) <= shapes_module.MAX_PATHS_HELD + 400


# -- null columns


def test_a_column_that_turns_null() -> None:
    kalshi = get("kalshi")
    filled = {"last_price": 0.1, "yes_bid": 0.0, "market_id": 0.97}
    earlier = [HourNulls({"ticker": 5_000}, {"ticker": filled}), HourNulls({}, {})]
    now = HourNulls({"ticker": 4_000}, {"ticker": {"last_price": 1.0, "yes_bid": 0.5, "market_id": 1.0}})
    found = null_columns(kalshi, now, earlier)
    assert what(found) == [("null_column", "last_price")]
    assert "msg.price_dollars, msg.price" in found[0].detail
    assert null_columns(kalshi, now, []) == []
    assert null_columns(kalshi, HourNulls({"ticker": 99}, now.null_rates), earlier) == []
    assert null_columns(kalshi, HourNulls({"unheard of": 500}, {}), earlier) == []


# -- REST bodies


@pytest.mark.parametrize(
    ("path", "params", "endpoint"),
    [
        ("/markets/KXGOLD15M-26AUG05/orderbook", {"depth": "10"}, "/markets/{}/orderbook"),
        ("/markets/keyset", {"closed": "true", "limit": "1000", "after_cursor": "MTIz"}, "/markets/keyset?closed=true"),
        ("/0/public/AssetPairs", None, "/0/public/AssetPairs"),
        ("/markets", [("tickers", "A,B"), ("status", "open")], "/markets?status=open"),
        ("/a/" + "b/" * 80, None, ("/a/" + "b/" * 80)[:64]),
    ],
)
def test_endpoints_have_no_ids(path: str, params: Any, endpoint: str) -> None:
    assert endpoint_of(path, params) == endpoint


def test_bodies_are_watched_with_patience() -> None:
    bodies = Bodies("kalshi", Baseline(), None)
    now_ns = START_NS
    usual = {"markets": [{"ticker": "KX-1", "tick_size": 1, "yes_bid_dollars": Decimal("0.48")}] * 40, "cursor": ""}
    for _ in range(500):
        now_ns += 600 * NS_PER_S
        bodies.look("/markets", usual, now_ns)
        bodies.look("/markets", {"markets": [{}] * 40}, now_ns + 1)
    assert bodies.take_findings() == []
    changed = {"markets": [{"ticker": "KX-1", "price_ranges": [], "yes_bid_dollars": Decimal("0.48")}] * 40}
    told_s = []
    for n in range(20):
        now_ns += 600 * NS_PER_S
        bodies.look("/markets", changed | {"cursor": ""}, now_ns)
        told_s += [(finding.kind, finding.path, n * 600) for finding in bodies.take_findings()]
    assert told_s == [
        ("new_field", "markets[].price_ranges", 0),
        ("dropped_field", "markets[].tick_size", 4200),
    ]


def test_the_rest_client_shows_every_body(tmp_path: Path) -> None:
    async def ask() -> None:
        async with (
            ReplayServer(get("kalshi"), Generated(markets=3)) as server,
            RestClient.for_feed("kalshi", server.rest_url) as client,
        ):
            await client.get("/exchange/status")
            await client.get("/markets", {"limit": "2"})

    bodies = open_bodies("kalshi", tmp_path)
    try:
        asyncio.run(ask())
        observe_document("kalshi", "/raw", None, {"a": 1}, START_NS)
        observe_document("kraken", "/raw", None, {"a": 1}, START_NS)
        document = bodies.take_shapes().document()
        assert set(document) == {"/exchange/status", "/markets", "/raw"}
        assert "markets[].ticker" in document["/markets"]["paths"]
    finally:
        close_bodies("kalshi")
    assert set(load_baseline(baseline_path(tmp_path, "kalshi", "rest")).types) == set(document)


# -- the log in Postgres


def in_database(url: str, work: Callable[[psycopg.AsyncConnection], Awaitable[None]], query: str) -> list[Any]:
    async def run() -> list[Any]:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await work(connection)
            return await (await connection.execute(query.encode())).fetchall()

    return asyncio.run(run())


def test_the_first_seen_log(database_url: str) -> None:
    async def work(connection: psycopg.AsyncConnection) -> None:
        for hours, members in ((1, {"x": 1}), (0, {"x": 1, "y": "1.5"}), (2, {"x": 2.5})):
            shapes = shapes_of([orjson.dumps(members), b"{}"], "t")
            shapes.add("t", orjson.dumps({"a" * 48: {"b" * 48: {"c" * 48: {"d" * 48: {"e" * 48: {"f" * 48: 1}}}}}}))
            await store_shapes(connection, "kraken", "spot", shapes, HOUR + timedelta(hours=hours), f"hour:{hours}")

    query = """SELECT path, json_type, first_seen_at, last_seen_at, first_evidence, round(presence::numeric, 2)
        FROM wire_shapes WHERE length(path) < 40 ORDER BY 1, 2"""
    later = [HOUR + timedelta(hours=hours) for hours in range(3)]
    third = Decimal("0.33")
    assert in_database(database_url, work, query) == [
        ("", "object", HOUR, later[2], "hour:0", Decimal("1.00")),
        ("x", "int", HOUR, later[1], "hour:0", third),
        ("x", "number", later[2], later[2], "hour:2", third),
        ("y", "decimal text", HOUR, HOUR, "hour:0", third),
    ]


def test_findings_of_an_hour_replace_those_of_an_earlier_build(database_url: str) -> None:
    at_us = int(HOUR.timestamp() * 1_000_000)
    gone = Finding(at_us + 5, "ticker", "data[].bid", "dropped_field", "Gone.", "seq:7")
    null = Finding(0, "ticker", "bid", "null_column", "Empty.")

    def content(*findings: Finding) -> bytes:
        watch = HourDrift(KRAKEN, None)
        watch.findings += findings
        return watch.document()

    async def work(connection: psycopg.AsyncConnection) -> None:
        other = Finding(at_us + 3_600_000_000, "trade", "", "new_type", "New.", "seq:9")
        await store_findings(connection, "kraken", "spot", [other], HOUR)
        await store_hour(connection, "kraken", "spot", HOUR, content(gone, other), [null])
        await store_hour(connection, "kraken", "spot", HOUR, content(gone), [null])
        await store_hour(connection, "kraken", "futures", HOUR, content())
        with pytest.raises(ArchiveError):
            await store_hour(connection, "kraken", "spot", HOUR, b"{}")

    query = "SELECT kind, path, found_at, detail, evidence FROM drift_findings ORDER BY found_at, kind"
    assert in_database(database_url, work, query) == [
        ("null_column", "bid", HOUR, "Empty.", "hour:kraken/spot/2026-11-22T12"),
        ("dropped_field", "data[].bid", HOUR + timedelta(microseconds=5), "Gone.", "seq:7"),
        ("new_type", "", HOUR + timedelta(hours=1), "New.", "seq:9"),
    ]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"version":2,"findings":[]}', b'{"version":1,"findings":[{}]}']
)
def test_a_broken_shapes_file_is_an_error(content: bytes) -> None:
    with pytest.raises(ArchiveError):
        findings_of(content)
    with pytest.raises(ArchiveError):
        HourDrift(KRAKEN, content)
