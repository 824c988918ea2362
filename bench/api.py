"""The API's front door under load: one market by GraphQL, a list of 50 by REST; one worker on one core.

The database and the load share the other core. Requests carry a key and pass its check, its limit and its counters.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path

import msgspec
import orjson
import psycopg
from psycopg.types.json import Jsonb

from bench.cores import measured_core, on_core, other_core
from bench.http_load import Load, Plan
from bench.result import Result
from bench.secmaster import sync_markets
from ssmd_api.auth.keys import make_key
from ssmd_core.db.migrate import migrate
from ssmd_core.errors import SsmdError
from ssmd_stream.servers.http import health_reason
from ssmd_stream.servers.ports import choose_port
from ssmd_stream.servers.postgres import embedded_postgres

MARKETS_COUNT = 10_000
CONNECTIONS = 32
KEYS = 20
SECONDS = 5.0
TARGET_PER_S = 5_000.0
TARGET_RATIO = 5.0
TARGET_P99_MS = 25.0
_UP_S = 30.0
_QUERY = "query Point($ticker: String!) { market(ticker: $ticker) { ticker title status yesBid yesAsk } }"


async def run(markets: int = MARKETS_COUNT, seconds: float = SECONDS) -> list[Result]:
    """Both questions at full speed and at half of it, and the alternative."""
    with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as folder, on_core(other_core()):
        async with embedded_postgres(Path(folder) / "postgres") as server:
            await asyncio.to_thread(migrate, server.url)
            await sync_markets(server.url, markets, "0.40")
            keys = cycle(_make_keys(server.url))
            environment = {"DATABASE_URL": server.url, "SSMD_DATA": folder, "SSMD_SCHEDULES": "off"}
            tickers = [f"KXBENCH-{n // 20}-T{n}" for n in random.Random(1).sample(range(markets), markets)]
            async with _serving(["-m", "ssmd_api", "--port"], environment, "/health") as port:
                points = [_post(port, next(keys), ticker) for ticker in tickers]
                point, point_half = await _both(port, points, seconds)
                listing, listing_half = await _both(
                    port, [_get(port, next(keys), "/v1/markets?limit=50") for _ in range(KEYS)], seconds
                )
            async with _serving(["-m", "bench.api_alternative"], environment, "") as port:
                plain = await _load(port, [_post(port, "", ticker) for ticker in tickers], seconds, None)
    return [
        Result(
            f"api: GraphQL, one of {markets:,} markets, one worker", point.per_second, "requests/s",
            f"{TARGET_PER_S:,.0f} requests/s", None, TARGET_PER_S,
        ),
        Result(
            "api: GraphQL against the same question to starlette-graphene without keys and limits",
            point.per_second, "requests/s", f"{plain.per_second:,.0f} requests/s",
            point.per_second / plain.per_second, TARGET_RATIO, judged="ratio",
        ),
        Result(
            f"api: GraphQL at half load, p99 (p50 {point_half.p50_ms:.1f} ms)", point_half.p99_ms, "ms", "",
            None, TARGET_P99_MS, "<=",
        ),
        Result(
            "api: REST, a list of 50 markets, one worker", listing.per_second, "requests/s",
            f"{TARGET_PER_S:,.0f} requests/s", None, TARGET_PER_S,
        ),
        Result(
            f"api: REST at half load, p99 (p50 {listing_half.p50_ms:.1f} ms)", listing_half.p99_ms, "ms", "",
            None, TARGET_P99_MS, "<=",
        ),
    ]  # fmt: skip


def _make_keys(database_url: str) -> list[str]:
    """Keys that together have no limit that the load reaches: one has 100,000 requests a minute at most."""
    keys = [make_key("test") for _ in range(KEYS)]
    with psycopg.connect(database_url, autocommit=True) as connection:
        for key in keys:
            connection.execute(
                "INSERT INTO api_keys (id, user_id, user_email, key_prefix, key_hash, name, scopes, rate_limit_tier, "
                "allowed_feeds, date_range_start, date_range_end) VALUES (gen_random_uuid()::text, 'bench', "
                "'bench@example.com', %s, %s, 'bench', '{secmaster:read}', 'internal', '{kalshi}', '2020-01-01', "
                "'2099-12-31')",
                (key.prefix, key.digest),
            )
        tiers = {"internal": 100_000}
        connection.execute("INSERT INTO settings (key, value) VALUES ('rate_limit_tiers', %s)", (Jsonb(tiers),))
    return [key.text for key in keys]


def _post(port: int, key: str, ticker: str) -> str:
    body = orjson.dumps({"query": _QUERY, "variables": {"ticker": ticker}}).decode()
    return (
        f"POST /graphql{'' if key else '/'} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-API-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )


def _get(port: int, key: str, path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-API-Key: {key}\r\n\r\n"


async def _both(port: int, requests: Sequence[str], seconds: float) -> tuple[Load, Load]:
    full = await _load(port, requests, seconds, None)
    return full, await _load(port, requests, seconds, full.per_second / 2)


async def _load(port: int, requests: Sequence[str], seconds: float, per_second: float | None) -> Load:
    """Load from a process of its own.

    Raises:
        SsmdError: an answer was not 200, or there was none.
    """
    plan = Plan("127.0.0.1", port, list(requests), CONNECTIONS, seconds, per_second=per_second)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.http_load", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    answer, _ = await process.communicate(msgspec.json.encode(plan))
    load = msgspec.json.decode(answer, type=Load)
    if load.refused or not load.answers:
        raise SsmdError(f"{load.refused} of {load.answers} answers were refused: {load.first_refusal}")
    return load


@asynccontextmanager
async def _serving(argv: Sequence[str], environment: Mapping[str, str], health: str) -> AsyncIterator[int]:
    """A server on the measured core, and its port.

    Raises:
        SsmdError: it does not come up.
    """
    port = choose_port(None)
    with on_core(measured_core()):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *argv, str(port), env={**os.environ, **environment}, stderr=subprocess.DEVNULL
        )
    try:
        async with asyncio.timeout(_UP_S):
            while not await _answers(port, health):
                if process.returncode is not None:
                    raise SsmdError(f"{argv} ended with code {process.returncode}")
                await asyncio.sleep(0.05)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(port: int, health: str) -> bool:
    if health:
        return await health_reason(f"http://127.0.0.1:{port}{health}") is None
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
