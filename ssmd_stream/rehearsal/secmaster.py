"""The security master's part of the demo: every sync twice, and what the second one wrote."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import psycopg

from ssmd_core.db.connect import connect
from ssmd_core.db.wal import wal_position, wal_records
from ssmd_core.errors import SsmdError
from ssmd_core.settings import Settings
from ssmd_stream import jetstream
from ssmd_stream.cdc.names import STREAM
from ssmd_stream.secmaster.sync import run_sync, tasks

_EVENTS = "kalshi/events"
CAUGHT_UP_S = 30.0


@dataclass
class VenueRows:
    """What one venue brought into the security master.

    Attributes:
        feed: which.
        listed: records that the venue listed, over all its tables.
        inserted: rows of the first sync.
        rejected: records that could not be taken.
        changed_again: rows that the second sync of the same data wrote.
    """

    feed: str
    listed: int = 0
    inserted: int = 0
    rejected: int = 0
    changed_again: int = 0


@dataclass
class SecmasterResult:
    """What the demo saw of the security master.

    Attributes:
        venues: a line each.
        cdc_events: published after the first sync.
        wal_records_again: WAL records of the second sync that touch the synced tables.
        cdc_events_again: published because of the second sync.
    """

    venues: list[VenueRows] = field(default_factory=list)
    cdc_events: int = 0
    wal_records_again: int = 0
    cdc_events_again: int = 0

    @property
    def quiet(self) -> bool:
        """Whether the second sync wrote nothing at all."""
        return not (self.wal_records_again or self.cdc_events_again or any(each.changed_again for each in self.venues))


async def sync_again(settings: Settings) -> SecmasterResult:
    """Read what the first syncs reported, run all of them a second time, count what that wrote.

    Raises:
        SsmdError: a sync failed, or CDC does not catch up.
    """
    result = SecmasterResult()
    venues = {task.feed: VenueRows(task.feed) for task in tasks().values()}
    async with await connect(settings.database_url, name="demo") as connection:
        for feed, venue in venues.items():
            rows = await connection.execute(
                "SELECT report->'tables' FROM sync_runs WHERE starts_with(scope, %s)", (f"{feed}/",)
            )
            for (reports,) in await rows.fetchall():
                for report in reports.values():
                    venue.listed += report["fetched"]
                    venue.inserted += report["inserted"]
                    venue.rejected += report["rejected"]
        # Events are listed before their markets: one whose last market is determined, but not paid out yet, is known
        # to be settled only at the next listing.
        await run_sync(_EVENTS, settings)
        await _wait_for_cdc(connection)
        result.cdc_events = await _published(settings)
        before = await wal_position(connection)
        for scope, task in tasks().items():
            venues[task.feed].changed_again += (await run_sync(scope, settings)).touched
        result.wal_records_again = await wal_records(connection, before)
        await _wait_for_cdc(connection)
        result.cdc_events_again = await _published(settings) - result.cdc_events
    result.venues = list(venues.values())
    return result


async def _wait_for_cdc(connection: psycopg.AsyncConnection) -> None:
    """Until CDC has confirmed everything that is committed now."""
    row = await (await connection.execute("SELECT pg_current_wal_insert_lsn()::text")).fetchone()
    deadline_s = time.monotonic() + CAUGHT_UP_S
    query = (
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn >= %s"
    )
    while time.monotonic() < deadline_s:
        found = await (await connection.execute(query, row)).fetchone()
        if found and found[0]:
            return
        await asyncio.sleep(0.05)
    raise SsmdError(f"CDC has not confirmed {row} after {CAUGHT_UP_S:.0f} s")


async def _published(settings: Settings) -> int:
    client = await jetstream.connect(settings.nats_url, name="demo")
    try:
        return (await jetstream.stream_state(client, STREAM)).last_seq
    finally:
        await client.close()
