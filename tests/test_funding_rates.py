"""Samples of Kraken Futures tickers, through a real NATS server into a real Postgres."""

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
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from psycopg.rows import dict_row

from ssmd_core.clock import Clock
from ssmd_core.errors import ConfigError
from ssmd_core.feeds import get
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.headers import Stamp, stamp_headers
from ssmd_core.settings import Settings
from ssmd_stream import jetstream
from ssmd_stream.consumers import database, funding_daemon, funding_rates
from ssmd_stream.consumers.funding_daemon import FundingSampler
from ssmd_stream.consumers.funding_rates import COLUMNS, Sampler, Ticker, read_ticker
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.secmaster.fields import FieldError
from ssmd_stream.servers.ports import choose_port

FUTURES = get("kraken-futures")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
_NUMBERS = itertools.count(1)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


def ticker(product_id: str = "PF_XBTUSD", **members: object) -> bytes:
    return json.dumps({"feed": "ticker", "product_id": product_id, "time": 1786046338005, **members}).encode()


def read(payload: bytes, at: datetime = NOW) -> Ticker:
    found = read_ticker(payload, at)
    assert found is not None
    return found


# -- reading


def test_real_tickers_old_and_new(samples: Path) -> None:
    folder = samples / "kraken-futures" / "ws"
    lines = [line for name in ("live_oneliners_2026.jsonl", "ticker_fixtures_2021.jsonl", "fixtures.jsonl")
             for line in (folder / name).read_bytes().splitlines()]  # fmt: skip
    found = [one for line in lines if (one := read_ticker(line, NOW)) is not None]
    assert [one.product_id for one in found] == ["PF_XBTUSD", "FI_ETHUSD_210730", "PI_XBTUSD", "PI_XBTUSD"]
    live, future, old, exponents = (one.values for one in found)
    assert not any(one.problems for one in found)
    assert live == {
        "mark_price": Decimal("64399.68035588646"),
        "index_price": Decimal("64401.07"),
        "last_price": Decimal("64403.0"),
        "bid": Decimal("64401.0"),
        "ask": Decimal("64402.0"),
        "funding_rate": Decimal("0.1767923925826881"),
        "funding_rate_prediction": Decimal("-0.045351956680625"),
        "relative_funding_rate": Decimal("2.747066666667e-6"),
        "relative_funding_rate_prediction": Decimal("-7.043125e-7"),
        "open_interest": Decimal("2157.6281"),
        "volume_24h": Decimal("3669.9134"),
        "next_funding_time": datetime(2026, 8, 6, 20, tzinfo=UTC),
        "source_time": datetime(2026, 8, 6, 19, 58, 58, 5000, tzinfo=UTC),
        "suspended": False,
    }
    # A dated future has no funding: unknown, not zero.
    assert {name for name, value in future.items() if value is None} == {
        name for name in COLUMNS if "funding" in name
    }  # fmt: skip
    assert (old["funding_rate"], old["open_interest"]) == (Decimal("2.1914353639e-8"), 32093438)
    assert exponents["relative_funding_rate_prediction"] == Decimal("-8.047629166667e-6")


def test_both_spellings_and_what_is_left_out() -> None:
    camel = read(
        b'{"feed":"ticker","product_id":"pf_xbtusd","time":"1786046338005","mark_price":1.50,"indexPrice":2,'
        b'"fundingRate":"3e-9","fundingRatePrediction":4,"relativeFundingRate":5,"nextFundingRateTime":1786046400000,'
        b'"open_interest":0,"vol24h":0.10,"suspended":true}'
    )
    assert (camel.product_id, str(camel.values["mark_price"]), camel.values["funding_rate"]) == (
        "PF_XBTUSD", "1.50", Decimal("3e-9"),
    )  # fmt: skip
    assert (camel.values["open_interest"], camel.values["volume_24h"], camel.values["suspended"]) == (
        Decimal(0), Decimal("0.10"), True,
    )  # fmt: skip
    assert camel.values["next_funding_time"] == datetime(2026, 8, 6, 20, tzinfo=UTC)
    zero = read(ticker(markPrice=1, next_funding_rate_time=1786046400000))
    assert (zero.values["funding_rate"], zero.values["relative_funding_rate"]) == (None, None)
    assert zero.values["next_funding_time"] is not None
    assert not read(ticker(bid=1, ask=2, suspended=False)).tells
    assert read(ticker(relative_funding_rate=0)).tells
    broken = read(ticker(markPrice="much", last=1e300, bid=[1], funding_rate=True, suspended="maybe"))
    assert len(broken.problems) == 5
    for other in (b'{"feed":"ticker_lite","product_id":"A"}', b'{"event":"subscribed","feed":"ticker"}', b"{}"):
        assert read_ticker(other, NOW) is None


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", b'{"feed":"ticker"}', ticker("A" * 129), b" " * 70_000])
def test_what_is_no_ticker_is_refused(payload: bytes) -> None:
    with pytest.raises(FieldError):
        read_ticker(payload, NOW)


_PRODUCTS = ("PF_A", "PF_B", "PF_C", "PF_UNKNOWN")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("take"), st.sampled_from(_PRODUCTS), st.integers(0, 50)),
            st.tuples(st.just("flush"), st.none(), st.integers(0, 50)),
        ),
        max_size=40,
    )
)
@settings(max_examples=200, deadline=None)
def test_a_flush_writes_the_newest_of_what_has_changed(steps: list[tuple[str, str | None, int]]) -> None:
    sampler, expected = Sampler(), dict[str, int]()
    pair_ids = {name: f"kraken:{name}" for name in _PRODUCTS[:3]}
    for step, product, second in steps:
        if step == "take":
            assert product is not None
            sampler.take(read(ticker(product, last=second), NOW + timedelta(seconds=second)))
            expected[product] = max(second, expected.get(product, 0))
            continue
        oldest = NOW + timedelta(seconds=second)
        rows = sampler.due(pair_ids, oldest)
        assert {pair_id: int(one.values["last_price"]) for pair_id, one in rows} == {
            f"kraken:{name}": at for name, at in expected.items() if name in pair_ids and at >= second
        }
        assert sampler.unknown == (["PF_UNKNOWN"] if "PF_UNKNOWN" in expected else [])
        sampler.forget(sampler.tickers(), oldest)
        expected.clear()
    assert len(sampler) == len(expected)


def test_what_comes_during_a_flush_is_kept_and_products_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(funding_rates, "MAX_PRODUCTS", 2)
    sampler = Sampler()
    for product in ("PF_A", "PF_B", "PF_C"):
        sampler.take(read(ticker(product, last=1)))
    assert (len(sampler), sampler.overflow) == (2, 1)
    seen = sampler.tickers()
    sampler.take(read(ticker("PF_A", last=2), NOW + timedelta(seconds=1)))
    sampler.forget(seen, NOW)
    assert [int(one.values["last_price"]) for one in sampler.tickers()] == [2]


# -- the daemon


class Feeder:
    """Publishes tickers to a stream as a connector does."""

    def __init__(self, client: Client, name: StreamName) -> None:
        self.client, self.name, self.sent = client, name, 0

    async def put(self, *payloads: bytes, at_ns: int | None = None) -> None:
        for payload in payloads:
            stamp = Stamp("c0-a", self.sent, at_ns or time.time_ns())
            await self.client.jetstream().publish(
                self.name.subject("ticker", "PF_X"), payload, headers=stamp_headers(stamp)
            )
            self.sent += 1


@contextlib.asynccontextmanager
async def feeder(nats_url: str) -> AsyncIterator[Feeder]:
    name = StreamName("test", FUTURES, f"fund{next(_NUMBERS)}")
    client = await jetstream.connect(nats_url, name="test")
    try:
        await jetstream.ensure_stream(client, name)
        yield Feeder(client, name)
    finally:
        await jetstream.api(client, f"STREAM.DELETE.{name.jetstream}")
        await jetstream.abort(client)


@contextlib.asynccontextmanager
async def sampling(feed: Feeder, database_url: str, nats_url: str, interval_s: float) -> AsyncIterator[FundingSampler]:
    """Both children of the daemon in this process; what they raise is raised at the end."""
    settings = Settings(Path("/nowhere"), "test", nats_url, database_url, "", Clock())
    sampler = FundingSampler([feed.name], settings, interval_s)
    stop = asyncio.Event()
    tasks = [asyncio.create_task(child(stop)) for child in (functools.partial(sampler.take, feed.name), sampler.write)]
    try:
        await until(lambda: not sampler.problem)  # the consumer is placed: from now on everything counts
        yield sampler
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 15)


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        await asyncio.sleep(0.02)


def pairs(database_url: str, *products: str) -> None:
    with psycopg.connect(database_url) as connection:
        for product in products:
            connection.execute(
                "INSERT INTO pairs (pair_id, exchange, native_id, base, quote, base_raw, quote_raw, ws_name, symbol, "
                "market_type, status) VALUES (%s, 'kraken', %s, 'X', 'USD', 'X', 'USD', %s, %s, 'perpetual', 'active')",
                (f"kraken:{product}", product, product, product),
            )


def snapshots(database_url: str) -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM pair_snapshots ORDER BY id").fetchall()


@asynchronous
async def test_generated_traffic_is_sampled_exactly(nats_url: str, database_url: str) -> None:
    frames = generate_frames("kraken-futures", 120, channels=["ticker", "ticker_lite"])
    newest = {one.product_id: one for frame in frames if (one := read_ticker(frame, NOW)) is not None}
    pairs(database_url, *(set(newest) - {"PI_XBTUSD"}))
    async with feeder(nats_url) as feed:
        async with sampling(feed, database_url, nats_url, 3600) as sampler:
            await feed.put(*frames, ticker("PF_XBTUSD")[:-1], ticker("PF_EMPTY", bid=1))
            await until(lambda: sampler.stats.messages == len(frames) + 2)
            assert (sampler.stats.unreadable, sampler.stats.snapshots) == (1, 0)
        # The stop flushes what has come.
        assert (sampler.stats.snapshots, sampler.sampler.unknown) == (len(newest) - 1, ["PF_EMPTY", "PI_XBTUSD"])
    found = snapshots(database_url)
    assert {one["pair_id"] for one in found} == {f"kraken:{name}" for name in newest if name != "PI_XBTUSD"}
    for one in found:
        values = newest[one["pair_id"].removeprefix("kraken:")].values
        assert {name: one[name] for name in COLUMNS} == values
        assert [str(one["mark_price"]), one["suspended"]] == [str(values["mark_price"]), False]
    assert len({one["snapshot_at"] for one in found}) == 1


@asynchronous
async def test_only_what_has_changed_and_is_recent_is_written(nats_url: str, database_url: str) -> None:
    pairs(database_url, "PF_A", "PF_B")
    hour_ns = 3600 * 10**9
    async with feeder(nats_url) as feed:
        await feed.put(ticker("PF_A", last=0))  # before the consumer: it delivers what is new
        async with sampling(feed, database_url, nats_url, 1.0) as sampler:
            await feed.put(
                ticker("PF_A", last=1), ticker("PF_A", last=2), ticker("PF_B", last=3), ticker("PF_C", last=4)
            )
            await until(lambda: sampler.stats.snapshots == 2)
            await feed.put(ticker("PF_B", last=5), ticker("PF_A", last=6, bid=1), ticker("PF_A", bid=7))
            await feed.put(ticker("PF_OLD", last=1), at_ns=time.time_ns() - hour_ns)
            pairs(database_url, "PF_C", "PF_OLD")  # a sync in between: the products are known from the next flush on
            await until(lambda: sampler.stats.snapshots == 3)
            await feed.put(ticker("PF_C", last=8))
            await until(lambda: sampler.stats.snapshots == 4)
            assert (sampler.sampler.empty, sampler.sampler.stale, sampler.sampler.unknown) == (1, 1, [])
    assert [(one["pair_id"], int(one["last_price"])) for one in snapshots(database_url)] == [
        ("kraken:PF_A", 2), ("kraken:PF_B", 3), ("kraken:PF_B", 5), ("kraken:PF_C", 8),
    ]  # fmt: skip


@asynchronous
async def test_the_database_is_away_for_a_while(
    nats_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funding_daemon, "CHECK_S", 0.1)
    monkeypatch.setattr(database, "RETRY_S", (0.1,))
    pairs(database_url, "PF_A")
    admin_url, _, name = database_url.rpartition("/")
    with psycopg.connect(f"{admin_url}/postgres", autocommit=True) as admin:

        def allow(yes: bool) -> None:
            admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {yes}".encode())

        async with feeder(nats_url) as feed, sampling(feed, database_url, nats_url, 0.5) as sampler:
            allow(False)
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            await until(lambda: "database" in sampler.problem)
            await feed.put(ticker("PF_A", last=1))
            await until(lambda: sampler.stats.messages == 1)
            await feed.put(ticker("PF_A", last=2))
            await until(lambda: sampler.stats.messages == 2)
            allow(True)
            await until(lambda: sampler.stats.snapshots == 1)
            assert (sampler.problem, sampler.stats.flush_errors) == ("", 0)
    assert [int(one["last_price"]) for one in snapshots(database_url)] == [2]


@asynchronous
async def test_a_row_that_the_database_refuses_costs_nobody_else(nats_url: str, database_url: str) -> None:
    pairs(database_url, "PF_A", "PF_B", "PF_C")
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE pair_snapshots ADD CHECK (last_price <> 13)")
    async with feeder(nats_url) as feed, sampling(feed, database_url, nats_url, 0.5) as sampler:
        await feed.put(*(ticker(name, last=last) for name, last in (("PF_A", 1), ("PF_B", 13), ("PF_C", 2))))
        await until(lambda: sampler.stats.snapshots == 2)
        assert (sampler.stats.refused, sampler.stats.flush_errors) == (1, 1)
        await feed.put(ticker("PF_B", last=3))
        await until(lambda: sampler.stats.snapshots == 3)
    assert [int(one["last_price"]) for one in snapshots(database_url)] == [1, 2, 3]


@asynchronous
async def test_old_snapshots_are_removed_in_small_batches(
    nats_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(funding_daemon, "CLEANUP_ROWS", 10)
    pairs(database_url, "PF_A")
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO pair_snapshots (pair_id, last_price, snapshot_at) SELECT 'kraken:PF_A', n, "
            "now() - interval '7 days' + make_interval(mins => 6 - n) FROM generate_series(1, 40) n"
        )
    async with feeder(nats_url) as feed, sampling(feed, database_url, nats_url, 3600) as sampler:
        await until(lambda: sampler.stats.deleted == 35)
    assert sorted(int(one["last_price"]) for one in snapshots(database_url)) == [1, 2, 3, 4, 5]


def test_other_feeds_and_intervals_are_refused() -> None:
    settings = Settings(Path("/nowhere"), "test", "nats://x", "postgresql://x", "", Clock())
    for feed, interval_s in (("kraken", 300.0), ("kraken-futures", 0.0), ("kraken-futures", float("nan"))):
        with pytest.raises(ConfigError):
            FundingSampler([StreamName("test", get(feed), "futures")], settings, interval_s)


@asynchronous
async def test_the_process_tells_how_it_is(nats_url: str, database_url: str, tmp_path: Path) -> None:
    port = choose_port(None)
    pairs(database_url, "PF_A")
    environment = {
        **os.environ, "SSMD_ENV": "test", "NATS_URL": nats_url, "DATABASE_URL": database_url,
        "SSMD_DATA": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent),
    }  # fmt: skip

    def start(argv: list[str]) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("wb") as log:
            return subprocess.Popen(argv, env=environment, stderr=log, stdout=log)

    def page(path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    async with feeder(nats_url) as feed:
        argv = [sys.executable, "-m", "ssmd_stream.consumers", "funding-rates", feed.name.folder]
        argv += ["--interval-s", "1", "--health-port", str(port)]
        process = start(argv)
        try:
            # Placed: a slow start may be above two intervals already.
            await until(lambda: page("/ready")[0] == 200 or "no snapshot for" in page("/ready")[1])
            await feed.put(ticker("PF_A", last=1), ticker("PF_NEW", last=1))
            await until(lambda: snapshots(database_url))
            status, health = page("/health")
            assert (status, json.loads(health)["unknown_products"]) == (200, ["PF_NEW"])
            assert "ssmd_funding_rate_snapshots_total 1.0" in page("/metrics")[1]
            await until(lambda: page("/health")[0] == 503)
            assert "no snapshot for" in json.loads(page("/health")[1])["reason"]
            process.terminate()
            assert process.wait(10) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()
