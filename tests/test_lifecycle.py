"""Lifecycle messages into a real Postgres, through a real NATS server: late, again, broken, killed, restarted."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from psycopg.rows import dict_row

from ssmd_core.clock import Clock
from ssmd_core.db.connect import connect, now_of
from ssmd_core.db.migrate import migrate
from ssmd_core.errors import StreamMismatchError
from ssmd_core.feeds import get
from ssmd_core.feeds.subjects import StreamName, subject_id
from ssmd_core.messages.headers import Stamp, stamp_headers
from ssmd_core.settings import Settings
from ssmd_stream import jetstream
from ssmd_stream.consumers import database, lifecycle_daemon, pull
from ssmd_stream.consumers.database import DatabaseBrokenError
from ssmd_stream.consumers.lifecycle import LifecycleMessage, read_message
from ssmd_stream.consumers.lifecycle_daemon import LifecycleFollower, run_lifecycle
from ssmd_stream.consumers.lifecycle_store import Applied, apply
from ssmd_stream.consumers.pull import DurableConsumer
from ssmd_stream.consumers.service import HealthPort
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.secmaster.fields import FieldError
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.ports import choose_port
from ssmd_stream.servers.postgres import PostgresServer

KALSHI = get("kalshi")
CLOCK = Clock.parse("2026-11-22T12:00:00Z@0")
NOW = now_of(CLOCK)
NOW_S = int(NOW.timestamp())
_NUMBERS = itertools.count(1)
BOOKKEEPING = ("created_at", "updated_at", "venue_updated_at")


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


def frame(ticker: str, event_type: str, **members: object) -> bytes:
    body = {"market_ticker": ticker, "event_type": event_type, **members}
    return json.dumps({"type": "market_lifecycle_v2", "sid": 1, "seq": 7, "msg": body}).encode()


def created(ticker: str, *, opens: int = -60, closes: int = 900, **metadata: object) -> bytes:
    """`opens` and `closes` are seconds from now."""
    more = {"event_ticker": ticker.rpartition("-")[0], "title": "Will it rise?", "yes_sub_title": "Up", **metadata}
    return frame(
        ticker, "created", open_ts=NOW_S + opens, close_ts=NOW_S + closes, exchange_index=1, additional_metadata=more
    )


def message(payload: bytes, seq: int, *, stream: str = "S", at: datetime = NOW) -> LifecycleMessage:
    return read_message(payload, stream=stream, nats_seq=seq, received_at=at)


async def applied(database_url: str, *batches: Sequence[LifecycleMessage], clock: Clock = CLOCK) -> Applied:
    """Apply each batch in a transaction of its own; what the last one did."""
    done = Applied()
    connection = await connect(database_url, name="test", clock=clock)
    async with connection:
        for batch in batches:
            async with connection.transaction():
                done = await apply(connection, batch, clock)
    return done


def rows(database_url: str, statement: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute(statement.encode(), values or None).fetchall()


def row(database_url: str, table: str, key: str) -> dict[str, Any]:
    column = {"markets": "ticker", "events": "event_ticker"}[table]
    return rows(database_url, f"SELECT * FROM {table} WHERE {column} = %s", (key,))[0]


# -- what a message says


@asynchronous
async def test_a_market_from_its_creation_to_its_settlement(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO series (ticker, title, category) VALUES ('KXBTC', 't', 'Crypto')")
    ticker = "KXBTC-26NOV22-T1"
    story = [
        (created(ticker, opens=60, floor_strike=84_000.5, custom_strike={"a": 0.10}), "initialized"),
        (frame(ticker, "activated", is_deactivated=False), "active"),
        (frame(ticker, "metadata_updated", yes_sub_title="above", cap_strike="85000.25"), "active"),
        (frame(ticker, "price_level_structure_updated", price_level_structure="deci_cent",
               price_ranges=[{"start": "0.0000", "end": "1.0000", "step": "0.0010"}]), "active"),
        (frame(ticker, "close_date_updated", close_ts=NOW_S + 1800), "active"),
        (frame(ticker, "deactivated", is_deactivated=True), "closed"),
        (frame(ticker, "activated", is_deactivated=False), "active"),
        (frame(ticker, "close_date_updated", close_ts=NOW_S), "closed"),
        (frame(ticker, "determined", result="yes", settlement_value="1.0000", determination_ts=NOW_S - 2), "settled"),
        (frame(ticker, "settled", settled_ts=NOW_S - 1), "settled"),
        (frame(ticker, "invented_in_2027", anything={"x": 1}), "settled"),
        (frame(ticker, "activated", is_deactivated=False), "settled"),
    ]  # fmt: skip
    for seq, (payload, status) in enumerate(story, 1):
        done = await applied(database_url, [message(payload, seq, at=NOW + timedelta(milliseconds=seq))])
        assert row(database_url, "markets", ticker)["status"] == status, payload
        assert done.kept.total() == 1
    found = row(database_url, "markets", ticker)
    assert (
        found
        | {
            "event_ticker": "KXBTC-26NOV22",
            "title": "Will it rise?",
            "yes_sub_title": "above",
            "floor_strike": Decimal("84000.5"),
            "cap_strike": Decimal("85000.25"),
            "custom_strike": {"a": 0.1},
            "open_time": NOW + timedelta(seconds=60),
            "close_time": NOW,
            "result": "yes",
            "settlement_value": Decimal("1.0000"),
            "settled_at": NOW - timedelta(seconds=1),
            "price_level_structure": "deci_cent",
            "exchange_index": 1,
            "venue_status": "finalized",
        }
        == found
    )
    event = row(database_url, "events", "KXBTC-26NOV22")
    assert (event["category"], event["series_ticker"], event["status"]) == ("Crypto", "KXBTC", "settled")
    kept = rows(database_url, "SELECT * FROM market_lifecycle_events ORDER BY nats_seq")
    assert [one["event_type"] for one in kept] == [json.loads(payload)["msg"]["event_type"] for payload, _ in story]
    assert kept[10]["metadata"]["anything"] == {"x": 1}
    assert (kept[8]["settled_ts"], kept[8]["settlement_value"]) == (NOW - timedelta(seconds=2), Decimal(1))
    # Every state in between is in the history, with the clock's time.
    history = rows(database_url, "SELECT status FROM markets_history WHERE ticker = %s ORDER BY version", (ticker,))
    assert (history[0]["status"], history[-1]["status"]) == ("initialized", "settled")


@asynchronous
async def test_an_event_and_its_fee_overrides(database_url: str) -> None:
    def about(type_: str, **members: object) -> bytes:
        return json.dumps({"type": type_, "sid": 5, "msg": {"event_ticker": "KXA-1", **members}}).encode()

    fee = about("event_fee_update", fee_type_override="quadratic", fee_multiplier_override=0.5)
    early = await applied(database_url, [message(fee, 1, at=NOW)])
    assert (early.written["events"], rows(database_url, "SELECT * FROM events")) == (0, [])
    done = await applied(database_url, [message(created("KXA-1-T1"), 2)])
    assert done.unknown_series == 1
    event = row(database_url, "events", "KXA-1")
    assert (event["title"], event["category"], event["series_ticker"]) == ("Will it rise?", "", "KXA")
    assert (event["fee_type_override"], event["fee_multiplier_override"]) == ("quadratic", Decimal("0.5"))
    life = about("event_lifecycle", title="A", subtitle="a", series_ticker="KXAA", strike_date=NOW_S, strike_period="h")
    await applied(database_url, [message(life, 3, at=NOW + timedelta(seconds=1))])
    old = about("event_lifecycle", title="old", sub_title="b", collateral_return_type="MECNET")
    await applied(database_url, [message(old, 4, at=NOW - timedelta(seconds=1))])
    event = row(database_url, "events", "KXA-1")
    assert (event["title"], event["sub_title"], event["series_ticker"]) == ("A", "a", "KXAA")
    assert (event["collateral_return_type"], event["strike_date"]) == ("MECNET", NOW)
    removed = about("event_fee_update", fee_type_override=None, fee_multiplier_override=None)
    silent = about("event_fee_update")
    await applied(
        database_url,
        [message(removed, 5, at=NOW + timedelta(seconds=2)), message(silent, 6, at=NOW + timedelta(seconds=3))],
        [message(fee, 7, at=NOW + timedelta(seconds=1))],  # older than the removal, delivered after it
    )
    event = row(database_url, "events", "KXA-1")
    assert (event["fee_type_override"], event["fee_multiplier_override"]) == (None, None)


@asynchronous
async def test_known_values_survive_and_unreadable_ones_are_counted(database_url: str) -> None:
    ticker = "KXA-1-T1"
    await applied(database_url, [message(created(ticker, floor_strike="4487"), 1)])
    with psycopg.connect(database_url) as connection:  # a sync has been there
        connection.execute("UPDATE markets SET yes_bid = 0.41, title = 'From the sync' WHERE ticker = %s", (ticker,))
    before = row(database_url, "markets", ticker)
    broken = frame(
        ticker, "metadata_updated", floor_strike={"no": 1}, cap_strike="many", yes_sub_title="", no_sub_title="N\x00o",
        custom_strike="x", close_ts="soon", price_level_structure="p" * 65, exchange_index=10**12, result=None,
    )  # fmt: skip
    done = await applied(database_url, [message(broken, 2, at=NOW + timedelta(seconds=1))])
    assert done.unreadable == 6
    after = row(database_url, "markets", ticker)
    assert after["no_sub_title"] == "N\ufffdo"
    same = set(after) - {"no_sub_title", *BOOKKEEPING}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    cents = frame(ticker, "determined", result="no", settlement_value=50)
    settled = frame(ticker, "settled")
    await applied(database_url, [message(cents, 3, at=NOW)], [message(settled, 4, at=NOW)])
    after = row(database_url, "markets", ticker)
    assert (after["result"], after["settlement_value"], after["settled_at"]) == ("no", Decimal("0.5"), None)
    assert (after["yes_bid"], after["title"]) == (Decimal("0.41"), "From the sync")


@asynchronous
async def test_messages_about_an_unknown_market_count_once_it_is_known(database_url: str) -> None:
    ticker = "KXA-1-T1"
    done = await applied(
        database_url, [message(frame(ticker, "determined", result="yes", settlement_value="1.0"), 9, at=NOW)]
    )
    assert (done.unknown_markets, rows(database_url, "SELECT * FROM markets")) == (1, [])
    await applied(database_url, [message(created(ticker), 1, at=NOW - timedelta(hours=1))])
    market = row(database_url, "markets", ticker)
    assert (market["status"], market["result"], market["settlement_value"]) == ("settled", "yes", Decimal(1))
    # Deleted by a sync, then heard of again.
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE markets SET deleted_at = %s", (NOW,))
    await applied(database_url, [message(frame(ticker, "settled", settled_ts=NOW_S), 10, at=NOW - timedelta(days=1))])
    assert row(database_url, "markets", ticker)["deleted_at"] is not None
    await applied(database_url, [message(frame(ticker, "settled"), 11, at=NOW + timedelta(seconds=1))])
    assert row(database_url, "markets", ticker)["deleted_at"] is None


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"null", b"[]", b"\xff", b"{", b"[" * 100_000, b'{"type":"market_lifecycle_v2"}',
        b'{"type":"market_lifecycle_v2","msg":[]}', b'{"type":"ticker","msg":{"market_ticker":"A"}}',
        b'{"type":"market_lifecycle_v2","msg":{"event_type":"created"}}',
        b'{"type":"market_lifecycle_v2","msg":{"market_ticker":"A"}}',
        b'{"type":"market_lifecycle_v2","msg":{"market_ticker":"A","event_type":"event_lifecycle"}}',
        b'{"type":"market_lifecycle_v2","msg":{"market_ticker":"A\\u0000","event_type":"created"}}',
        frame("A" * 129, "created"), frame("A", "e" * 65), frame("A", "created", more="m" * 100_000),
        frame("A", "created", more=functools.reduce(lambda inner, _: [inner], range(40), [])),
    ],
)  # fmt: skip
def test_what_is_no_lifecycle_message_is_refused(payload: bytes) -> None:
    with pytest.raises(FieldError):
        message(payload, 1)


@given(
    st.dictionaries(
        st.sampled_from(["open_ts", "close_ts", "result", "settlement_value", "floor_strike", "custom_strike", "title",
                         "additional_metadata", "exchange_index", "can_close_early", "settled_ts", "event_ticker"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("1e999999"),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
    )
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_member_breaks_the_reader(members: dict[str, Any]) -> None:
    with contextlib.suppress(FieldError):
        found = message(frame("A", "created", **members), 1)
        assert all(value is not None for value in found.values.values())


# -- order and repetition


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, dict[str, object], int]]:
    """Messages of a market that ends: event type, members, second of reception."""
    more = draw(
        st.lists(
            st.sampled_from(
                [
                    ("activated", {}),
                    ("deactivated", {}),
                    ("close_date_updated", {"close_ts": NOW_S + 1800}),
                    ("close_date_updated", {"close_ts": NOW_S - 5}),
                    ("metadata_updated", {"yes_sub_title": "A", "floor_strike": 1.5}),
                    ("metadata_updated", {"yes_sub_title": "B", "custom_strike": {"x": [0.10, None]}}),
                    ("price_level_structure_updated", {"price_level_structure": "p", "price_ranges": [{"step": "1"}]}),
                    ("determined", {"result": "no", "settlement_value": "0.0000", "determination_ts": NOW_S}),
                    ("unheard_of", {"yes_sub_title": "never"}),
                ]
            ),
            max_size=6,
        )
    )
    last = draw(
        st.sampled_from(
            [
                ("determined", {"result": "yes", "settlement_value": "1.0000", "determination_ts": NOW_S}),
                ("settled", {"settled_ts": NOW_S}),
            ]
        )
    )
    opens = NOW_S + draw(st.sampled_from([-60, 60]))
    start = ("created", {"open_ts": opens, "close_ts": NOW_S + 900, "title": "t"})
    moments = draw(st.lists(st.integers(0, 5), min_size=len(more) + 2, max_size=len(more) + 2))
    return [(kind, dict(members), at) for (kind, members), at in zip([start, *more, last], moments, strict=True)]


@given(story=stories(), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_and_any_repetition_end_in_the_same_row(
    database_url: str, story: list[tuple[str, dict[str, object], int]], seed: int
) -> None:
    rng = Random(seed)
    number = next(_NUMBERS)
    # One market hears the story once and in order; the other in any order, in pieces, again and again.
    markets = [f"KXA-{number}-{name}" for name in ("ORDERLY", "CHAOTIC")]
    told = [
        [
            message(frame(ticker, kind, **members), seq, stream=ticker, at=NOW + timedelta(seconds=at))
            for seq, (kind, members, at) in enumerate(story, 1)
        ]
        for ticker in markets
    ]
    chaos = told[1] + rng.choices(told[1], k=rng.randrange(6))
    rng.shuffle(chaos)
    cuts = sorted(rng.sample(range(len(chaos)), k=min(3, len(chaos))))
    pieces = [chaos[a:b] for a, b in itertools.pairwise([0, *cuts, len(chaos)]) if a < b]
    asyncio.run(applied(database_url, *([one] for one in told[0])))
    asyncio.run(applied(database_url, *pieces, told[1]))
    orderly, chaotic = (row(database_url, "markets", ticker) for ticker in markets)
    for left_out in ("ticker", *BOOKKEEPING):
        orderly.pop(left_out)
        chaotic.pop(left_out)
    assert chaotic == orderly
    assert orderly["status"] == "settled"


@asynchronous
async def test_a_repeated_message_writes_nothing(database_url: str) -> None:
    ticker = "KXA-1-T1"
    batch = [message(created(ticker), 1), message(frame(ticker, "settled", settled_ts=NOW_S), 2)]
    await applied(database_url, batch)
    count = "SELECT (SELECT count(*) FROM markets_history) + (SELECT count(*) FROM events_history) AS n"
    before = rows(database_url, count), row(database_url, "markets", ticker)
    done = await applied(database_url, batch, clock=Clock(CLOCK.now_ns() + 10**10, 0))
    assert (done.duplicates, done.written.total(), done.kept.total()) == (2, 0, 0)
    assert (rows(database_url, count), row(database_url, "markets", ticker)) == before
    # The same news on another stream, a little later, is kept but changes nothing.
    copies = [message(created(ticker), 5, stream="T", at=NOW + timedelta(seconds=1))]
    done = await applied(database_url, copies)
    assert (done.kept.total(), done.written.total()) == (1, 0)


@asynchronous
async def test_two_writers_at_once(database_url: str) -> None:
    """Several consumers and their own order: nothing is lost and nothing hangs."""
    tickers = [f"KXA-{n % 3}-T{n}" for n in range(12)]
    told = [
        message(payload, seq, stream="S")
        for seq, payload in enumerate((p for t in tickers for p in (created(t), frame(t, "settled"))), 1)
    ]
    stop = asyncio.Event()

    async def writer(seed: int) -> None:
        session = database.Session(database_url, "test", CLOCK)
        mine = told[:]
        Random(seed).shuffle(mine)
        for start in range(0, len(mine), 5):
            await session.run(functools.partial(apply, batch=mine[start : start + 5], clock=CLOCK), stop)
        await session.close()

    await asyncio.wait_for(asyncio.gather(*map(writer, range(3))), 30)
    assert {one["status"] for one in rows(database_url, "SELECT status FROM markets")} == {"settled"}
    assert len(rows(database_url, "SELECT 1 FROM market_lifecycle_events")) == len(told)


@asynchronous
async def test_a_locked_row_is_waited_for(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "RETRY_S", (0.01,))
    ticker = "KXA-1-T1"
    await applied(database_url, [message(created(ticker), 1)])
    session, stop = database.Session(database_url, "test", CLOCK), asyncio.Event()
    work = functools.partial(apply, batch=[message(frame(ticker, "settled"), 2)], clock=CLOCK)
    with psycopg.connect(database_url) as other:
        other.execute("UPDATE markets SET yes_bid = 0.5")
        task = asyncio.create_task(session.run(work, stop))
        await until(lambda: session.problem.startswith("canceling statement due to lock timeout"))
        assert session.errors == 0
    assert await task is not None
    assert (session.problem, row(database_url, "markets", ticker)["status"]) == ("", "settled")
    await session.close()


# -- recorded and generated traffic


def test_documented_and_real_frames_of_every_generation(samples: Path, database_url: str) -> None:
    count = 0
    for path in sorted((samples / "kalshi" / "ws").glob("*.jsonl")):
        batch = []
        for line in path.read_bytes().splitlines():
            kind = json.loads(line).get("type", "") if line.startswith(b"{") else ""
            if kind in ("market_lifecycle_v2", "event_lifecycle", "event_fee_update"):
                batch.append(message(line, len(batch) + 1, stream=path.stem, at=NOW + timedelta(seconds=len(batch))))
        if batch:
            count += len(batch)
            assert asyncio.run(applied(database_url, batch)).unreadable == 0
    assert count >= 18
    market = row(database_url, "markets", "INXD-23SEP14-B4487")
    assert (market["event_ticker"], market["status"]) == ("INXD-23SEP14", "closed")
    assert (market["floor_strike"], market["price_level_structure"]) == (Decimal(4487), "deci_cent")
    assert market["close_time"] == datetime.fromtimestamp(1694721600, UTC)
    event = row(database_url, "events", "INXD-23SEP14")
    assert (event["title"], event["sub_title"]) == ("INX title", "INX subtitle")
    assert row(database_url, "events", "KXQUICKSETTLE-26JAN25H2150")["sub_title"] == "Jan 25 at 21:50"


# -- the daemon


def config(database_url: str, nats_url: str, tmp_path: Path) -> Settings:
    return Settings(tmp_path, "test", nats_url, database_url, "", Clock())


class Feeder:
    """Publishes frames to a stream as a connector does."""

    def __init__(self, client: Client, name: StreamName) -> None:
        self.client, self.name, self.sent = client, name, 0

    async def put(self, *payloads: bytes) -> None:
        for payload in payloads:
            route_type, route_id = "market_lifecycle_v2", "unknown"
            with contextlib.suppress(Exception):
                route_type, route_id = KALSHI.route(payload)
            kind = KALSHI.message_types.get(route_type) or KALSHI.message_types["market_lifecycle_v2"]
            stamp = Stamp("c0-a", self.sent, time.time_ns())
            subject = self.name.subject(kind.token, subject_id(route_id))
            await self.client.jetstream().publish(subject, payload, headers=stamp_headers(stamp))
            self.sent += 1


@contextlib.asynccontextmanager
async def feeder(nats_url: str) -> AsyncIterator[Feeder]:
    name = StreamName("test", KALSHI, f"life{next(_NUMBERS)}")
    client = await jetstream.connect(nats_url, name="test")
    try:
        await jetstream.ensure_stream(client, name)
        yield Feeder(client, name)
    finally:
        with contextlib.suppress(Exception):
            await jetstream.api(client, f"STREAM.DELETE.{name.jetstream}")
        await jetstream.abort(client)


@contextlib.asynccontextmanager
async def following(feed: Feeder, settings: Settings) -> AsyncIterator[LifecycleFollower]:
    """A follower in this process; what it raises is raised at the end."""
    follower = LifecycleFollower(feed.name, settings)
    stop = asyncio.Event()
    task = asyncio.create_task(follower.run(stop))
    try:
        yield follower
    finally:
        stop.set()
        await asyncio.wait_for(task, 15)


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        await asyncio.sleep(0.02)


async def settled_consumer(feed: Feeder, timeout_s: float = 20.0) -> None:
    """Wait until every message is acknowledged."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        info = await jetstream.api(feed.client, f"CONSUMER.INFO.{feed.name.jetstream}.lifecycle")
        if not info["num_pending"] and not info["num_ack_pending"]:
            return
        assert time.monotonic() < deadline_s, info
        await asyncio.sleep(0.05)


def lives(count: int, prefix: str = "KXL") -> Iterable[bytes]:
    for number in range(count):
        ticker = f"{prefix}-{number // 10}-T{number}.5"
        yield created(ticker)
        yield frame(ticker, "determined", result="yes", settlement_value="1.0000", determination_ts=NOW_S)
        yield frame(ticker, "settled", settled_ts=NOW_S)


def check_lives(database_url: str, count: int) -> None:
    found = rows(database_url, "SELECT status, result, settlement_value FROM markets WHERE ticker LIKE 'KXL-%'")
    assert len(found) == count
    assert {tuple(one.values()) for one in found} == {("settled", "yes", Decimal("1.0000"))}
    kept = rows(database_url, "SELECT stream, nats_seq FROM market_lifecycle_events WHERE market_ticker LIKE 'KXL-%'")
    assert len(kept) == 3 * count


@asynchronous
async def test_generated_traffic(nats_url: str, database_url: str, tmp_path: Path) -> None:
    frames = generate_frames("kalshi", 60, channels=["market_lifecycle_v2"])
    async with feeder(nats_url) as feed:
        await feed.put(*frames)
        async with following(feed, config(database_url, nats_url, tmp_path)) as follower:
            await until(lambda: follower.stats.kept.total() == len(frames))
            assert follower.problem == ""
            await settled_consumer(feed)
        assert (follower.stats.unreadable, follower.stats.retried, follower.stats.dead) == (0, 0, 0)
    whole = [one for one in rows(database_url, "SELECT * FROM markets") if one["settled_at"]]
    assert len(whole) >= 4
    for market in whole:
        assert (market["status"], market["result"], market["price_level_structure"]) == ("settled", "yes", "deci_cent")
        assert (market["yes_sub_title"], market["floor_strike"]) == ("above $84,000.50", Decimal("84000.5"))
        event = row(database_url, "events", market["event_ticker"])
        assert (event["title"], event["sub_title"], event["status"]) == ("BTC in 15 minutes", "Nov 23", "settled")
        assert (event["series_ticker"], event["fee_type_override"]) == ("KXBTC15M", None)


@asynchronous
async def test_killed_between_commit_and_acknowledgement(
    nats_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "ACK_WAIT_S", 0.5)

    async def lost(self: DurableConsumer, message: object) -> None:
        """As if the process had died."""

    async with feeder(nats_url) as feed:
        await feed.put(*lives(5))
        settings = config(database_url, nats_url, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(DurableConsumer, "ack", lost)
            async with following(feed, settings) as follower:
                await until(lambda: follower.stats.kept.total() == 15)
        history = rows(database_url, "SELECT * FROM markets_history ORDER BY version")
        async with following(feed, settings) as follower:
            await settled_consumer(feed)
            assert (follower.stats.duplicates >= 15, follower.stats.written.total()) == (True, 0)
    assert rows(database_url, "SELECT * FROM markets_history ORDER BY version") == history
    check_lives(database_url, 5)


@asynchronous
async def test_a_message_that_cannot_be_used_becomes_a_dead_letter_after_five_tries(
    nats_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle_daemon, "NAK_DELAYS_S", (0.05, 0.05, 0.05, 0.05))
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE markets ADD CHECK (title <> 'refused')")
    poison = [b"\xff not JSON \r\n", created("KXP-1-T1", title="refused"), frame("", "created")]
    async with feeder(nats_url) as feed:
        async with following(feed, config(database_url, nats_url, tmp_path)) as follower:
            await feed.put(*lives(2), *poison, *lives(2, prefix="KXM"))
            await until(lambda: follower.stats.dead == 3)
            await settled_consumer(feed)
            assert (follower.stats.kept.total(), follower.stats.retried) == (12, 12)
            assert follower.problem == ""
        letters = [
            letter
            async for _, letter in jetstream.read_stored(feed.client, "DEAD_LETTERS", after_seq=0)
            if (letter.headers or {}).get("Ssmd-Stream") == feed.name.jetstream
        ]
        await jetstream.api(feed.client, "STREAM.DELETE.DEAD_LETTERS")
    assert sorted(letter.data for letter in letters) == sorted(poison)
    for letter in letters:
        headers = letter.headers or {}
        assert letter.subject == f"deadletter.lifecycle.{headers['Ssmd-Subject']}"
        assert headers["Ssmd-Subject"].startswith(f"{feed.name.prefix}.json.lifecycle.")
        assert (headers["Ssmd-Deliveries"], headers["Ssmd-Stream-Seq"] in ("7", "8", "9")) == ("5", True)
        assert headers["Ssmd-Msg-Id"].startswith("c0-a:")
    reasons = {letter.data: (letter.headers or {})["Ssmd-Reason"] for letter in letters}
    assert "not JSON" in reasons[poison[0]]
    assert "markets_title_check" in reasons[poison[1]]
    assert "market_ticker: is missing" in reasons[poison[2]]
    check_lives(database_url, 2)


@asynchronous
async def test_postgres_restarts_in_the_middle(nats_url: str, tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", port=None)
    await server.start()
    try:
        await asyncio.to_thread(migrate, server.url)
        async with feeder(nats_url) as feed:
            payloads = list(lives(20))
            async with following(feed, config(server.url, nats_url, tmp_path)) as follower:
                await feed.put(*payloads[:20])
                await until(lambda: follower.stats.kept.total() == 20)
                await server.stop()
                await feed.put(*payloads[20:])
                await until(lambda: "database" in follower.problem)
                await server.start()
                await until(lambda: follower.stats.kept.total() == len(payloads))
                await settled_consumer(feed)
                assert (follower.problem, follower.stats.retried, follower.stats.dead) == ("", 0, 0)
            check_lives(server.url, 20)
    finally:
        await server.stop()


@asynchronous
async def test_nats_restarts_and_loses_the_stream(
    nats_server: NatsServer, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = list(lives(10))
    settings = config(database_url, nats_server.url, tmp_path)
    async with feeder(nats_server.url) as feed, following(feed, settings) as follower:
        await feed.put(*payloads[:10])
        await until(lambda: follower.stats.kept.total() == 10)
        nats_server.kill()
        await until(lambda: follower.problem)
        await nats_server.start()
        await until(lambda: feed.client.is_connected)
        await feed.put(*payloads[10:20])
        await until(lambda: follower.stats.kept.total() == 20)
        # A stream made anew counts from 1 again: its messages are not those that were kept.
        await jetstream.api(feed.client, f"STREAM.DELETE.{feed.name.jetstream}")
        await asyncio.sleep(1.1)
        await jetstream.ensure_stream(feed.client, feed.name)
        await feed.put(*payloads[20:])
        await until(lambda: follower.stats.kept.total() == 30)
        assert follower.problem == ""
    check_lives(database_url, 10)
    assert len(rows(database_url, "SELECT DISTINCT stream FROM market_lifecycle_events")) == 2


@asynchronous
async def test_a_consumer_with_another_filter_is_refused(nats_url: str, database_url: str, tmp_path: Path) -> None:
    settings = config(database_url, nats_url, tmp_path)
    async with feeder(nats_url) as feed:
        stream = feed.name.jetstream
        wrong = {"durable_name": "lifecycle", "ack_policy": "explicit", "filter_subjects": ["test.kalshi.lifecycle.>"]}
        request = {"stream_name": stream, "config": wrong}
        await jetstream.api(feed.client, f"CONSUMER.CREATE.{stream}.lifecycle", request)
        with pytest.raises(StreamMismatchError, match=r"filters \['test\.kalshi\.lifecycle\.>'\], not"):
            await LifecycleFollower(feed.name, settings).run(asyncio.Event())
        consumer = DurableConsumer(feed.client, stream, "other", ["test.kraken.json.>"], "all")
        with pytest.raises(StreamMismatchError, match="nothing would ever come"):
            await consumer.place()


@asynchronous
async def test_a_stream_that_is_not_there_yet_is_waited_for(nats_url: str, database_url: str, tmp_path: Path) -> None:
    async with feeder(nats_url) as feed:
        await jetstream.api(feed.client, f"STREAM.DELETE.{feed.name.jetstream}")
        async with following(feed, config(database_url, nats_url, tmp_path)) as follower:
            await until(lambda: "no stream" in follower.problem)
            await jetstream.ensure_stream(feed.client, feed.name)
            await feed.put(*lives(1))
            await until(lambda: follower.stats.kept.total() == 3)


def test_a_database_that_answers_with_errors_ends_the_process(
    nats_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "RETRY_S", (0.01,))
    monkeypatch.setattr(pull, "ACK_WAIT_S", 0.5)
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP TABLE market_lifecycle_events")
    settings = config(database_url, nats_url, tmp_path)

    async def run() -> int:
        async with feeder(nats_url) as feed:
            await feed.put(*lives(1))
            with pytest.raises(DatabaseBrokenError, match=r"5 errors of the database in a row.*does not exist"):
                await LifecycleFollower(feed.name, settings).run(asyncio.Event())
            return await run_lifecycle([feed.name], settings, HealthPort())

    assert asyncio.run(run()) == 1


@asynchronous
async def test_the_process_survives_a_kill_and_tells_how_it_is(
    nats_url: str, database_url: str, tmp_path: Path
) -> None:
    port = choose_port(None)
    environment = {
        **os.environ, "SSMD_ENV": "test", "NATS_URL": nats_url, "DATABASE_URL": database_url,
        "SSMD_DATA": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent),
    }  # fmt: skip
    log_path = tmp_path / "log"

    def start(name: StreamName) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "ssmd_stream.consumers", "lifecycle", name.folder, "--health-port", str(port)]
        with log_path.open("ab") as log:
            return subprocess.Popen(argv, env=environment, stderr=log, stdout=log)

    def get_page(path: str) -> str:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    async with feeder(nats_url) as feed:
        await feed.put(*lives(300))
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("INSERT INTO events (event_ticker, series_ticker, title) VALUES ('KXS-1', 'KXS', 't')")
            connection.execute(
                "INSERT INTO markets (ticker, event_ticker, title, status, open_time, close_time) VALUES "
                "('KXS-1-T1', 'KXS-1', 't', 'initialized', now() - interval '1 s', now() + interval '1 h')"
            )
        process = start(feed.name)
        try:
            await until(lambda: rows(database_url, "SELECT count(*) AS n FROM market_lifecycle_events")[0]["n"] > 0)
            process.kill()
            process.wait()
            process = start(feed.name)
            await until(lambda: rows(database_url, "SELECT count(*) AS n FROM market_lifecycle_events")[0]["n"] == 900)
            await settled_consumer(feed)
            await until(lambda: '"status":"ok"' in get_page("/health"))
            metrics = await asyncio.to_thread(get_page, "/metrics")
            assert 'ssmd_lifecycle_messages_total{event_type="settled",feed="kalshi",stream=' in metrics
            assert "ssmd_lifecycle_opening_late_seconds_count" in metrics
            assert row(database_url, "markets", "KXS-1-T1")["status"] == "active"
            process.terminate()
            assert process.wait(10) == 0, log_path.read_text()
        finally:
            process.kill()
            process.wait()
    check_lives(database_url, 300)
