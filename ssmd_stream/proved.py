"""Proved hours into Postgres: their ledgers, and what the sentinel saw in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import psycopg
import structlog

from ssmd_core.db.connect import now_of
from ssmd_core.drift.findings import Finding
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds import FEEDS
from ssmd_core.proof.chain import newest
from ssmd_core.proof.ledger import hour_id, proof_file
from ssmd_core.proof.load import load_ledger
from ssmd_core.settings import Settings
from ssmd_stream.drift.store import store_hour

log = structlog.get_logger()

_LOADED = "SELECT hour, ledger_sha256 FROM ledger_hours WHERE feed = %s AND stream = %s AND hour >= %s AND hour < %s"


async def load_hour(
    connection: psycopg.AsyncConnection,
    settings: Settings,
    feed: str,
    stream: str,
    hour: datetime,
    nulls: Sequence[Finding] = (),
) -> bool:
    """Load an hour, all or nothing; what was loaded of it before is replaced. False if it is not proved.

    Args:
        nulls: columns that turned null, which the shapes do not know.

    Raises:
        ArchiveError: a file of the proof is damaged or missing.
        psycopg.Error: Postgres refused or went away.
    """
    now = now_of(settings.clock)
    shapes = proof_file(settings.proof_root, feed, stream, hour, "shapes")
    try:
        async with connection.transaction():
            if not await load_ledger(connection, settings.proof_root, feed, stream, hour, now=now):
                return False
            await store_hour(connection, feed, stream, hour, shapes.read_bytes(), nulls)
    except FileNotFoundError as error:
        raise ArchiveError(f"{error.filename} is missing: prove {feed}/{stream} {hour_id(hour)} again") from error
    return True


async def load_missing(connection: psycopg.AsyncConnection, settings: Settings, first: date, last: date) -> int:
    """Load the proved hours of some days that Postgres does not hold as they are on disk: those that were proved while
    it was away, or that were proved anew. One that is damaged is logged and left out.

    Returns:
        How many were loaded.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    start = datetime.combine(first, time(), UTC)
    end = datetime.combine(last, time(), UTC) + timedelta(days=1)
    loaded = 0
    for feed in FEEDS.values():
        folder = settings.proof_root / feed.name
        for stream in sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else ():
            proved = newest(settings.proof_root, feed.name, stream)
            rows = await (await connection.execute(_LOADED, (feed.name, stream, start, end))).fetchall()
            there = {hour_id(hour.astimezone(UTC)): digest for hour, digest in rows}
            for number in range(int((end - start) / timedelta(hours=1))):
                hour = start + timedelta(hours=number)
                entry = proved.get(hour_id(hour))
                if entry is None or there.get(hour_id(hour)) == entry.ledger:
                    continue
                try:
                    loaded += await load_hour(connection, settings, feed.name, stream, hour)
                except ArchiveError as error:
                    log.error("ledger_not_loaded", feed=feed.name, stream=stream, hour=hour_id(hour), error=str(error))
    return loaded
