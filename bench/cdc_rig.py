"""Postgres with 50,000 realistic markets, NATS and CDC as a process, for the lines that measure CDC."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.rig import wait_for
from ssmd_core.db.migrate import migrate
from ssmd_core.errors import SsmdError
from ssmd_stream import jetstream
from ssmd_stream.cdc.names import SLOT, STREAM
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.postgres import PostgresServer
from ssmd_stream.servers.process import Process

MARKETS = 50_000
_READY_S = 60.0
_STOP_S = 15.0
_FILL = """
INSERT INTO markets (ticker, event_ticker, title, yes_sub_title, no_sub_title, market_type, status, venue_status,
  open_time, close_time, expected_expiration_time, expiration_time, latest_expiration_time, strike_type, floor_strike,
  yes_bid, yes_ask, no_bid, no_ask, last_price, volume, volume_24h, open_interest, can_close_early,
  price_level_structure, price_ranges, exchange_index, venue_created_at, venue_updated_at)
SELECT 'KXBTCD-26NOV2217-T' || n || '.99', 'KXBTCD-26NOV2217', 'Bitcoin price on Nov 22, 2026 at 5pm EST?',
  '$' || n || ' or above', '$' || n || ' or above', 'binary', 'active', 'active', now(), now() + '1h', now() + '2h',
  now() + '7d', now() + '7d', 'greater', n + 0.99, 0.55, 0.56, 0.44, 0.45, 0.5501, 1234.5, 200, 5000, true,
  'linear_cent', '[{"start": "0.0000", "end": "1.0000", "step": "0.0100"}]', 0, now(), now()
FROM generate_series(1, %s::int) n
"""
_UPDATE = """
UPDATE markets SET yes_bid = yes_bid + 0.0001, last_price = 0.56, volume = volume + 1, venue_updated_at = now()
"""


@dataclass(slots=True)
class CdcRig:
    """Running servers.

    Attributes:
        nats, postgres: the servers.
        folder: for logs.
    """

    nats: NatsServer
    postgres: PostgresServer
    folder: Path

    def start(self) -> Process:
        """CDC as `python -m ssmd_stream.cdc` runs it."""
        env = {**os.environ, "NATS_URL": self.nats.url, "DATABASE_URL": self.postgres.url}
        return Process.start([sys.executable, "-m", "ssmd_stream.cdc"], log_path=self.folder / "cdc.log", env=env)

    async def stop(self, process: Process) -> None:
        """SIGTERM, and wait.

        Raises:
            SsmdError: it did not end with 0.
        """
        if not await process.stop(signal.SIGTERM, _STOP_S) or process.poll() != 0:
            raise SsmdError(f"CDC ended with {process.poll()}: {self.log_tail()}")

    def log_tail(self) -> str:
        """The end of CDC's log."""
        return (self.folder / "cdc.log").read_text()[-500:]

    async def make_slot(self) -> None:
        """Run CDC for the first time, so that it publishes all that is committed from now on."""
        process = self.start()
        await wait_for(self._has_slot, "the slot", _READY_S)
        await self.stop(process)

    async def _has_slot(self) -> bool:
        async with await self.connect() as connection:
            query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
            return await (await connection.execute(query, (SLOT,))).fetchone() is not None

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """A session in autocommit."""
        return await psycopg.AsyncConnection.connect(self.postgres.url, autocommit=True)

    async def update_all(self) -> None:
        """Change every market, in one transaction."""
        async with await self.connect() as connection:
            await connection.execute(_UPDATE.encode())

    async def last_seq(self) -> int:
        """Where the stream ends; 0 if there is none yet."""
        client = await jetstream.connect(self.nats.url, name="bench")
        try:
            return (await jetstream.stream_state(client, STREAM)).last_seq
        except jetstream.ApiError:
            return 0
        finally:
            await client.close()


@asynccontextmanager
async def cdc_rig(markets: int = MARKETS) -> AsyncIterator[CdcRig]:
    """Servers in a temporary folder that is removed; `markets` rows are in the table before CDC's slot is made."""
    with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as name:
        folder = Path(name)
        rig = CdcRig(NatsServer(folder / "nats", None, None), PostgresServer(folder / "postgres", None), folder)
        await rig.nats.start()
        try:
            await rig.postgres.start()
            await asyncio.to_thread(migrate, rig.postgres.url)
            async with await rig.connect() as connection:
                event = "INSERT INTO events (event_ticker, series_ticker, title) VALUES (%s, 'KXBTCD', 'Bitcoin price')"
                await connection.execute(event, ("KXBTCD-26NOV2217",))
                await connection.execute(_FILL.encode(), (markets,))
            await rig.make_slot()
            yield rig
        finally:
            await rig.postgres.stop()
            await rig.nats.stop()
