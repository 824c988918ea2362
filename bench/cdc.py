"""CDC: changes of realistic markets (41 columns) a second while it catches up, and from commit to NATS at a pace.

Postgres, NATS and CDC share all cores: decoding and storing cost as much as CDC itself.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from datetime import datetime

import psutil

from bench.cdc_rig import MARKETS, CdcRig, cdc_rig
from bench.result import Result
from bench.rig import wait_for
from ssmd_core.errors import SsmdError
from ssmd_stream import jetstream
from ssmd_stream.archive.pull import PullClient
from ssmd_stream.cdc.names import STREAM
from ssmd_stream.servers.process import Process

UPDATES = 4  # of every market
RATE = 1_000
ROWS_PER_COMMIT = 10
SECONDS = 8.0
TARGET_PER_S = 50_000
P99_MS = 100.0
_TIMEOUT_S = 60.0
_WARM_UP_S = 1.0
_COMMIT_TS = re.compile(rb'"commit_ts":"([^"]+)"')


async def run(
    markets: int = MARKETS, updates: int = UPDATES, rate: int = RATE, seconds: float = SECONDS
) -> list[Result]:
    """Changes a second, CPU of a change, percentiles of the latency."""
    async with cdc_rig(markets) as rig:
        for _ in range(updates):
            await rig.update_all()
        process = rig.start()
        try:
            per_s, cpu_us = await drain(rig, process, markets * updates)
            waits_ms = await steady(rig, rate, seconds, markets)
        finally:
            process.kill()
    points = statistics.quantiles(waits_ms, n=100)
    load = f"{psutil.getloadavg()[0]:.1f} processes waiting on {psutil.cpu_count()} cores"
    return [
        Result("cdc: changes of 41 columns, catching up", round(per_s), "changes/s", load, target=TARGET_PER_S),
        Result("cdc: CPU of CDC itself", round(cpu_us, 1), "µs/change", f"{1e6 / cpu_us:,.0f}/s on one core"),
        Result(f"cdc: commit to stored, {rate:,}/s, p50", round(points[49], 2), "ms", ""),
        Result(f"cdc: commit to stored, {rate:,}/s, p99", round(points[98], 2), "ms", "", target=P99_MS, sense="<="),
    ]


async def drain(rig: CdcRig, process: Process, changes: int) -> tuple[float, float]:
    """Changes a second from the first batch stored to the last, and CDC's CPU microseconds for each."""
    watched = psutil.Process(process.pid)
    seen: list[tuple[float, int, float]] = []

    async def all_stored() -> bool:
        if process.poll() is not None:
            raise SsmdError(f"CDC ended: {rig.log_tail()}")
        last = await rig.last_seq()
        if last and (not seen or last > seen[-1][1]):
            times = watched.cpu_times()
            seen.append((time.perf_counter(), last, times.user + times.system))
        return last >= changes

    await wait_for(all_stored, f"{changes} changes", _TIMEOUT_S, every_s=0.05)
    (start_s, first, before_s), (end_s, last, after_s) = seen[0], seen[-1]
    return (last - first) / (end_s - start_s), (after_s - before_s) / (last - first) * 1e6


async def steady(rig: CdcRig, rate: int, seconds: float, markets: int) -> list[float]:
    """Milliseconds from the time in the commit record to a subscriber of what is stored, after a warm-up."""
    waits_ms: list[float] = []

    def on_message(_subject: bytes, _reply: bytes, payload: bytes, _headers: bytes) -> None:
        now_s = time.time()
        if found := _COMMIT_TS.search(payload, len(payload) - 200):
            waits_ms.append((now_s - datetime.fromisoformat(found[1].decode()).timestamp()) * 1e3)

    client = PullClient()
    await client.connect(rig.nats.url)
    inbox = client.new_inbox()
    await client.subscribe_raw(inbox, on_message)
    config = {"deliver_subject": inbox, "deliver_policy": "new", "ack_policy": "none", "mem_storage": True}
    await jetstream.api(client, f"CONSUMER.CREATE.{STREAM}", {"stream_name": STREAM, "config": config})
    commits = int(rate / ROWS_PER_COMMIT * (seconds + _WARM_UP_S))
    update = b"UPDATE markets SET volume = volume + 1 WHERE ticker = ANY (%s)"
    async with await rig.connect() as connection:
        start_s = time.perf_counter()
        for number in range(commits):
            await asyncio.sleep(max(0.0, start_s + number * ROWS_PER_COMMIT / rate - time.perf_counter()))
            rows = [number * ROWS_PER_COMMIT + row for row in range(ROWS_PER_COMMIT)]
            await connection.execute(update, ([f"KXBTCD-26NOV2217-T{row % markets + 1}.99" for row in rows],))

    async def all_seen() -> bool:
        return len(waits_ms) >= commits * ROWS_PER_COMMIT

    await wait_for(all_seen, "the last change", _TIMEOUT_S)
    await client.close()
    return waits_ms[int(rate * _WARM_UP_S) :]
