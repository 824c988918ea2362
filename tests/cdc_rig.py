"""CDC on real servers: a database with one table of every kind of column, and what the stream says of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from ssmd_core.clock import Clock
from ssmd_core.settings import Settings
from ssmd_stream import jetstream
from ssmd_stream.cdc.daemon import CdcOptions, keep_streaming
from ssmd_stream.cdc.names import STREAM
from ssmd_stream.cdc.session import Pace
from ssmd_stream.cdc.stats import CdcStats
from ssmd_stream.servers.process import Process

PACE = Pace(record_s=0.05, idle_record_s=0.1, lag_s=0.1)
_NUMBERS = itertools.count(1)
_ROOT = Path(__file__).resolve().parents[1]


def slot_name() -> str:
    """A slot of one's own: slots belong to the whole server, which tests share."""
    return f"cdc_{os.getpid()}_{next(_NUMBERS)}"


def settings(nats_url: str, database_url: str) -> Settings:
    return Settings(Path("/nonexistent"), "test", nats_url, database_url, "", Clock())


@dataclasses.dataclass
class Running:
    """CDC in this process.

    Attributes:
        stats: what it counts.
        task: ends with the error that ended it.
    """

    stats: CdcStats
    task: asyncio.Task[None]


@contextlib.asynccontextmanager
async def running(slot: str, nats_url: str, database_url: str) -> AsyncIterator[Running]:
    """CDC until the block ends, stopped as SIGTERM would; its error, if any, is raised."""
    stop, stats = asyncio.Event(), CdcStats()
    options = CdcOptions(slot=slot, pace=PACE)
    task = asyncio.create_task(keep_streaming(options, settings(nats_url, database_url), stats, stop))
    try:
        await until(lambda: stats.sessions > 0 or task.done(), "the first session")
        yield Running(stats, task)
    except BaseException:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        raise
    stop.set()
    await task


async def until(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> None:
    """Wait until the condition, a function or coroutine function, holds."""
    deadline = time.monotonic() + timeout_s
    while True:
        held = condition()
        if isinstance(held, Awaitable):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        await asyncio.sleep(0.01)


async def events(nats_url: str) -> list[dict[str, Any]]:
    """Everything in the stream, with `id` and `subject`."""
    client = await jetstream.connect(nats_url, name="test", reconnect=False)
    found = []
    try:
        async for _, message in jetstream.read_stored(client, STREAM, after_seq=0):
            assert message.headers is not None
            event = json.loads(message.data)
            found.append(
                event | {"id": message.headers["Nats-Msg-Id"], "subject": message.subject, "raw": message.data}
            )
    finally:
        await jetstream.abort(client)
    return found


async def count(nats_url: str) -> int:
    """Last sequence of the stream."""
    client = await jetstream.connect(nats_url, name="test", reconnect=False)
    try:
        return (await jetstream.stream_state(client, STREAM)).last_seq
    finally:
        await jetstream.abort(client)


def fold(found: list[dict[str, Any]], table: str) -> dict[str, dict[str, Any]]:
    """The rows that a follower of the stream holds, by key."""
    rows: dict[str, dict[str, Any]] = {}
    for event in found:
        if event["table"] != table:
            continue
        key = json.dumps(event["key"])
        if event["op"] == "truncate":
            rows.clear()
        elif event["op"] == "delete":
            rows.pop(key, None)
        else:
            before = rows.get(key, {})
            kept = {name: before[name] for name in event.get("unchanged", ())}
            rows[key] = event["data"] | kept
    return rows


def check_order(found: list[dict[str, Any]]) -> None:
    """No id twice, ordinals of a transaction without a hole, transactions in order of commit."""
    ids = [event["id"] for event in found]
    assert len(set(ids)) == len(ids)
    places = []
    for event in found:
        high, low = event["commit_lsn"].split("/")
        places.append(((int(high, 16) << 32) + int(low, 16), event["ordinal"]))
        assert event["id"].endswith(f":{event['commit_lsn']}:{event['ordinal']}")
    assert places == sorted(places)
    for before, after in itertools.pairwise(places):
        assert after[1] == (before[1] + 1 if after[0] == before[0] else 0)


@contextlib.contextmanager
def database(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def add_series(connection: psycopg.Connection[Any], first: int, last: int) -> None:
    connection.execute(
        "INSERT INTO series (ticker, title, volume) "
        "SELECT 'S' || n, 'Series ' || n, n FROM generate_series(%s::int, %s::int) n",
        (first, last),
    )


def start_process(slot: str, nats_url: str, database_url: str, log: Path) -> Process:
    """`python -m ssmd_stream.cdc`, to be killed."""
    env = {**os.environ, "NATS_URL": nats_url, "DATABASE_URL": database_url}
    return Process.start([sys.executable, "-m", "ssmd_stream.cdc", "--slot", slot], log_path=log, env=env, cwd=_ROOT)
