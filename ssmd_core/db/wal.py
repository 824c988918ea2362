"""What a piece of work wrote to the WAL for the synced tables: the proof that an unchanged sync writes nothing."""

from __future__ import annotations

import psycopg

from ssmd_core.db.tables import SYNCED

_OURS = ", ".join(f"'{name}', '{one.history}'" for name, one in SYNCED.items())
# Heap, indexes and TOAST. Full-page images of hint bits are left out: a mere SELECT writes those after a checkpoint.
_RECORDS = f"""
WITH ours AS (
  SELECT c.oid FROM pg_class c WHERE c.relname IN ({_OURS})
  UNION SELECT i.indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname IN ({_OURS})
  UNION SELECT c.reltoastrelid FROM pg_class c WHERE c.relname IN ({_OURS}))
SELECT count(DISTINCT start_lsn) FROM pg_get_wal_block_info(%s::pg_lsn, pg_current_wal_flush_lsn())
WHERE relfilenode IN (SELECT pg_relation_filenode(oid) FROM ours)
  AND reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND record_type <> 'FPI_FOR_HINT'
"""


async def wal_position(connection: psycopg.AsyncConnection) -> str:
    """Where the WAL ends now, as text.

    Args:
        connection: of a superuser; makes the extension pg_walinspect if it is absent.
    """
    await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
    row = await (await connection.execute("SELECT pg_current_wal_insert_lsn()::text")).fetchone()
    return str(row[0]) if row else ""


async def wal_records(connection: psycopg.AsyncConnection, since: str) -> int:
    """How many WAL records since then touch a synced table, its history, their indexes or their TOAST."""
    # Everything up to here is flushed once a commit that follows is.
    await connection.execute("SELECT pg_logical_emit_message(true, 'ssmd', '')")
    row = await (await connection.execute(_RECORDS.encode(), (since,))).fetchone()
    return int(row[0]) if row else 0
