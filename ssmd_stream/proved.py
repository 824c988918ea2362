"""A proved hour into Postgres: its ledger, and what the sentinel saw in it."""

from __future__ import annotations

from datetime import datetime

import psycopg

from ssmd_core.db.connect import now_of
from ssmd_core.proof.ledger import proof_file
from ssmd_core.proof.load import load_ledger
from ssmd_core.settings import Settings
from ssmd_stream.drift.store import store_hour


async def load_hour(
    connection: psycopg.AsyncConnection, settings: Settings, feed: str, stream: str, hour: datetime
) -> bool:
    """Load an hour; what was loaded of it before is replaced. False if it is not proved.

    Raises:
        ArchiveError: a file of the proof is damaged.
        psycopg.Error: Postgres refused or went away.
    """
    now = now_of(settings.clock)
    if not await load_ledger(connection, settings.proof_root, feed, stream, hour, now=now):
        return False
    shapes = proof_file(settings.proof_root, feed, stream, hour, "shapes")
    await store_hour(connection, feed, stream, hour, shapes.read_bytes())
    return True
