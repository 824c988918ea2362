"""Rate limits: exact in memory and in Valkey, shared by processes, and never the end of an answer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import redis
from api_rig import ApiRig, api_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmd_api.auth.limits import WINDOW_S, Allowance, MemoryLimiter
from ssmd_api.auth.redis_limits import _PREFIX, RedisLimiter
from ssmd_core.errors import ConfigError
from ssmd_stream.servers.valkey import ValkeyServer


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), port=None)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


class Hand:
    """A monotonic clock that is set by hand, in whole seconds."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def memory() -> MemoryLimiter:
    return MemoryLimiter(time.monotonic)


@asynccontextmanager
async def limiter_on(url: str) -> AsyncIterator[RedisLimiter]:
    limiter = RedisLimiter(url, memory())
    await limiter.start()
    try:
        yield limiter
    finally:
        await limiter.close()


#: A request of a name, or seconds that pass.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 1)),
        st.tuples(st.just("pass"), st.integers(1, 45)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, limits=st.tuples(st.integers(1, 4), st.integers(1, 4)), processes=st.integers(1, 3))
def test_no_window_holds_more_than_the_limit_and_valkey_agrees_with_memory(
    valkey: ValkeyServer, steps: list[tuple[str, int]], limits: tuple[int, int], processes: int
) -> None:
    """Several processes on one Valkey decide like one process in memory. Time passes by moving what Valkey holds."""

    async def run() -> None:
        hand = Hand()
        alone = MemoryLimiter(hand)
        allowed: defaultdict[str, list[float]] = defaultdict(list)
        store = redis.Redis.from_url(valkey.url)
        store.flushall()
        limiters = [RedisLimiter(valkey.url, MemoryLimiter(hand)) for _ in range(processes)]
        try:
            for number, (what, amount) in enumerate(steps):
                if what == "pass":
                    hand.now_s += amount
                    for key in store.keys(_PREFIX + "*"):
                        for member, score in store.zrange(key, 0, -1, withscores=True):
                            store.zadd(key, {member: score - amount * 1_000_000})
                    continue
                name, limit = f"key{amount}", limits[amount]
                reference = alone.count(name, limit)
                found = await limiters[number % processes].take(name, limit)
                assert found.allowed == reference.allowed and found.limit == limit
                assert found.remaining == reference.remaining
                assert found.reset_s == pytest.approx(reference.reset_s, abs=1)
                if found.allowed:
                    allowed[name].append(hand.now_s)
                    assert sum(moment > hand.now_s - WINDOW_S for moment in allowed[name]) <= limit
                assert (await limiters[0].used([name]))[name] == (await alone.used([name]))[name]
        finally:
            for limiter in limiters:
                assert limiter.where == "in Redis"
                await limiter.close()
            store.close()

    asyncio.run(run())


@given(st.lists(st.floats(0, 40), max_size=80), st.integers(1, 5))
def test_in_memory_no_window_holds_more_than_the_limit(pauses: list[float], limit: int) -> None:
    hand = Hand()
    limiter, allowed = MemoryLimiter(hand), list[float]()
    for pause in pauses:
        hand.now_s += pause
        allowance = limiter.count("key", limit)
        if allowance.allowed:
            allowed.append(hand.now_s)
        window = [moment for moment in allowed if moment > hand.now_s - WINDOW_S]
        assert len(window) <= limit and allowance.remaining == limit - len(window)
        # One that was refused may come when it was told to.
        if not allowance.allowed:
            assert allowance.reset_s == window[-limit] + WINDOW_S - hand.now_s


def test_a_client_that_hammers_recovers() -> None:
    hand = Hand()
    limiter = MemoryLimiter(hand)
    for _ in range(600):
        hand.now_s += 0.5
        limiter.count("key", 10)
    assert limiter.count("key", 10).reset_s < WINDOW_S
    hand.now_s += WINDOW_S
    assert limiter.count("key", 10).remaining == 9


def test_two_processes_share_a_limit_to_the_last_request(valkey: ValkeyServer) -> None:
    async def run() -> None:
        async with limiter_on(valkey.url) as one, limiter_on(valkey.url) as other:
            found: list[Allowance] = await asyncio.gather(
                *(limiter.take("shared", 500) for _ in range(400) for limiter in (one, other))
            )
            assert sum(allowance.allowed for allowance in found) == 500
            assert (await one.used(["shared", "nobody"])) == {"shared": 500, "nobody": 0}
            # The one that had fewer takes what the other leaves; refused requests have left no trace in its count.
            assert not (await one.take("shared", 500)).allowed
            assert (await one.take("shared", 501)).allowed

    asyncio.run(run())


def test_without_redis_it_counts_itself_and_returns(tmp_path: Path) -> None:
    async def run() -> None:
        server = ValkeyServer(tmp_path / "valkey", port=None)
        await server.start()
        try:
            async with limiter_on(server.url) as limiter:
                assert [(await limiter.take("key", 3)).allowed for _ in range(2)] == [True, True]
                server.kill()
                # One process alone keeps the limit across the change.
                began_s = time.monotonic()
                assert [(await limiter.take("key", 3)).allowed for _ in range(3)] == [True, False, False]
                assert time.monotonic() - began_s < 1
                assert limiter.where == "in this process: Redis does not answer"
                await server.start()
                await until(lambda: limiter.where == "in Redis")
                assert not (await limiter.take("key", 3)).allowed
                assert (await limiter.take("other", 3)).allowed
                # A server that hangs: the request that finds out waits half a second, no other does.
                hang(server, signal.SIGSTOP)
                found = await asyncio.gather(*(limiter.take("third", 100) for _ in range(50)))
                assert all(allowance.allowed for allowance in found)
                began_s = time.monotonic()
                for _ in range(20):
                    await limiter.take("third", 100)
                assert time.monotonic() - began_s < 0.1 and limiter.where != "in Redis"
                hang(server, signal.SIGCONT)
                await until(lambda: limiter.where == "in Redis")
        finally:
            await server.stop()

    asyncio.run(run())


def hang(server: ValkeyServer, number: signal.Signals) -> None:
    assert server.pid is not None
    os.kill(server.pid, number)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("url", ["http://x", "redis://host:port", "redis://host/zero"])
def test_a_url_that_is_not_rediss_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL"):
        RedisLimiter(url, memory())


def test_password_and_database_of_the_url_count(valkey: ValkeyServer) -> None:
    async def where(url: str) -> str:
        async with limiter_on(url) as limiter:
            await limiter.take("key", 5)
            return limiter.where

    with redis.Redis.from_url(valkey.url) as store:
        store.config_set("requirepass", "p@ss/word")
    try:
        address = valkey.url.removeprefix("redis://")
        assert asyncio.run(where(f"redis://:p%40ss%2Fword@{address}/3")) == "in Redis"
        assert asyncio.run(where(f"redis://:wrong@{address}")).startswith("in this process")
        with redis.Redis.from_url(f"redis://:p%40ss%2Fword@{address}/3") as third:
            assert third.exists(_PREFIX + "key")
    finally:
        with redis.Redis.from_url(valkey.url, password="p@ss/word") as store:
            store.config_set("requirepass", "")


def test_a_server_whose_clock_was_set_back_locks_nobody_out(valkey: ValkeyServer) -> None:
    async def take(name: str, later_s: float) -> bool:
        with redis.Redis.from_url(valkey.url) as store:
            then_us = int((time.time() + later_s) * 1e6)
            store.zadd(_PREFIX + name, {f"{later_s} {number}": then_us + number for number in range(5)})
        async with limiter_on(valkey.url) as limiter:
            return (await limiter.take(name, 5)).allowed

    assert not asyncio.run(take("a", -WINDOW_S / 2))
    assert asyncio.run(take("b", 3600.0))


# -- through the API


def test_two_apis_share_limits_and_every_answer_tells_them(
    database_url: str, tmp_path: Path, valkey: ValkeyServer
) -> None:
    with redis.Redis.from_url(valkey.url) as store:
        store.flushall()
    one, other = (ApiRig(api_settings(database_url, tmp_path / "data", REDIS_URL=valkey.url)) for _ in range(2))
    with one.running(), other.running():
        key = one.key("datasets:read", "admin:write", tier="tiny")
        one.sql("INSERT INTO settings (key, value) VALUES ('rate_limit_tiers', '{\"tiny\": 9}')")
        assert one.json("/health")["limits"] == "in Redis"
        answers = [
            one.get("/v1/keys/me", key),
            other.get("/v1/keys/me", key),
            one.get("/v1/keys/me", key, surprise="1"),
            other.get("/v1/keys/sk_live_nobodyXX", key),
            one.http.post("/v1/keys", headers={"X-API-Key": key}, content=b"{"),
            other.http.post("/v1/chat/completions", headers={"X-API-Key": key}, json={}),
            one.http.put("/v1/settings/x", headers={"X-API-Key": key}, json={"value": "x" * 20_000}),
            broken(other, key),
            one.get("/v1/keys", key),
            other.get("/v1/keys/me", key),
            one.get("/v1/keys/me", key),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 400, 404, 400, 403, 413, 500, 200, 429, 429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == [*"876543210", "0", "0"]
        for answer in answers:
            assert answer.headers["x-ratelimit-limit"] == "9"
            assert 0 < int(answer.headers["x-ratelimit-reset"]) / 1000 - time.time() <= WINDOW_S
        assert 0 < int(answers[-1].headers["retry-after"]) <= WINDOW_S
        assert "x-ratelimit-limit" not in one.get("/v1/keys/me").headers
        with redis.Redis.from_url(valkey.url) as store:
            held = str([(name, store.zrange(name, 0, -1)) for name in store.keys("*")])
        hashes = [digest for (digest,) in one.sql("SELECT key_hash FROM api_keys")]
        assert held and not any(digest in held for digest in hashes)


def broken(api: ApiRig, key: str) -> httpx2.Response:
    """The answer of a route whose handler fails."""
    usage = api.services.usage
    real = usage.flush

    async def fail() -> None:
        raise ZeroDivisionError("a defect")

    usage.flush = fail  # type: ignore[method-assign]
    try:
        answer = api.get("/v1/keys/usage", key)
    finally:
        usage.flush = real  # type: ignore[method-assign]
    assert "defect" not in answer.text
    return answer


def test_an_api_without_its_redis_answers(database_url: str, tmp_path: Path) -> None:
    with ApiRig(api_settings(database_url, tmp_path / "data", REDIS_URL="redis://127.0.0.1:1")).running() as api:
        assert api.get("/v1/keys/me", api.key("datasets:read")).status_code == 200
        assert api.json("/health")["limits"] == "in this process: Redis does not answer"
