"""The merge: 100,000 markets that are all known, and 100,000 that all changed, against plain upserts."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg

from bench.result import Result
from ssmd_core.clock import Clock
from ssmd_core.db.merge import SyncReport, SyncRun
from ssmd_core.db.migrate import migrate
from ssmd_core.db.tables import SYNCED
from ssmd_core.db.wal import wal_position, wal_records
from ssmd_core.errors import SsmdError
from ssmd_stream.servers.postgres import embedded_postgres

MARKETS_COUNT = 100_000
# Row by row takes a minute for all of them; a tenth gives the same rate.
UPSERTS = 10_000
UNCHANGED_S = 1.0
_OPENED = datetime(2026, 11, 1, tzinfo=UTC)
_EVENTS, _MARKETS = SYNCED["events"], SYNCED["markets"]
COLUMNS = tuple(name for name in _MARKETS.columns if name != "deleted_at")


def market_rows(count: int, last_dollars: str) -> Iterator[list[object]]:
    """Rows of markets as a listing gives them, 20 to an event; only the last price differs between two listings."""
    known: dict[str, object] = {
        "yes_sub_title": "Up", "no_sub_title": "Down", "market_type": "binary", "status": "active",
        "venue_status": "active", "open_time": _OPENED, "close_time": _OPENED + timedelta(days=60),
        "expected_expiration_time": _OPENED, "expiration_time": _OPENED, "latest_expiration_time": _OPENED,
        "strike_type": "greater", "floor_strike": Decimal("84000.5"), "yes_bid": Decimal("0.4300"),
        "yes_ask": Decimal("0.4500"), "no_bid": Decimal("0.5500"), "no_ask": Decimal("0.5700"),
        "last_price": Decimal(last_dollars), "volume": Decimal("12345.67"), "volume_24h": Decimal("12.00"),
        "open_interest": Decimal("333.10"), "can_close_early": True, "price_level_structure": "linear_cent",
        "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}], "exchange_index": 0,
        "venue_created_at": _OPENED, "venue_updated_at": _OPENED,
    }  # fmt: skip
    for number in range(count):
        own = {"event_ticker": f"KXBENCH-{number // 20}", "title": f"Will bitcoin be above {number} at noon?"}
        row = known | own
        yield [f"KXBENCH-{number // 20}-T{number}", *(row.get(name) for name in COLUMNS)]


async def sync_markets(url: str, count: int, last_dollars: str) -> SyncReport:
    """One run with all markets."""
    async with await SyncRun.begin(url, "kalshi/markets", "full", Clock()) as run:
        asked = run.now()
        await run.stage(
            _EVENTS, ("title", "status"), ((f"KXBENCH-{n}", "Bench", "active") for n in range(-(-count // 20))), asked
        )
        await run.stage(_MARKETS, COLUMNS, market_rows(count, last_dollars), asked)
        return await run.finish()


async def run(count: int = MARKETS_COUNT, upserts: int = UPSERTS) -> list[Result]:
    """Insert, change everything, change nothing; then the same changes by upserts."""
    with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as folder:
        async with embedded_postgres(Path(folder) / "postgres") as server:
            await asyncio.to_thread(migrate, server.url)
            await sync_markets(server.url, count, "0.40")
            unchanged, records = await _unchanged(server.url, count)
            began_s = time.perf_counter()
            changed = await sync_markets(server.url, count, "0.41")
            ours = count / (time.perf_counter() - began_s)
            if changed.tables["markets"].changed != count:
                raise SsmdError(f"{changed.tables['markets']} instead of {count} changed")
            one_by_one = await _upserts(server.url, upserts, "0.42", many=False)
            many = await _upserts(server.url, upserts, "0.43", many=True)
    return [
        Result(
            f"secmaster: {count:,} unchanged markets, final transaction",
            unchanged.database_s,
            "s",
            f"{unchanged.seconds} s with the copy from the client",
            target=UNCHANGED_S,
            sense="<=",
        ),
        Result("secmaster: WAL records of three unchanged syncs", records, "records", "", target=0, sense="<="),
        Result("secmaster: changed markets", ours, "rows/s", f"one by one: {one_by_one:,.0f}", ours / one_by_one),
        Result("secmaster: changed markets, history kept", ours, "rows/s", f"executemany: {many:,.0f}", ours / many),
    ]


async def _unchanged(url: str, count: int) -> tuple[SyncReport, int]:
    """The median of three runs, and how many WAL records they wrote for the synced tables."""
    reports = []
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("VACUUM (ANALYZE)")
        before = await wal_position(connection)
        for _ in range(3):
            report = await sync_markets(url, count, "0.40")
            if report.touched:
                raise SsmdError(f"{report.tables} where nothing had changed")
            reports.append(report)
        records = await wal_records(connection, before)
    return sorted(reports, key=lambda report: report.database_s)[1], records


async def _upserts(url: str, count: int, last_dollars: str, *, many: bool) -> float:
    """Rows a second of `INSERT … ON CONFLICT DO UPDATE` in one transaction."""
    names = ("ticker", *COLUMNS)
    statement = (
        f"INSERT INTO markets ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))}) "
        f"ON CONFLICT (ticker) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in COLUMNS)}"
    )
    json_at = names.index("price_ranges")
    rows: list[list[object]] = []
    for row in market_rows(count, last_dollars):
        row[json_at] = psycopg.types.json.Jsonb(row[json_at])
        rows.append(row)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        began_s = time.perf_counter()
        async with connection.cursor() as cursor:
            if many:
                await cursor.executemany(statement.encode(), rows)
            else:
                for row in rows:
                    await cursor.execute(statement.encode(), row)
        await connection.commit()
        return count / (time.perf_counter() - began_s)
