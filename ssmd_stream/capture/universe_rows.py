"""The security master's rows that decide what a stream wants, read from Postgres: all of one moment, nothing cut."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row

from ssmd_core.clock import Clock
from ssmd_core.db.connect import DatabaseError, connect
from ssmd_stream.capture.universe import Row, Universe

# Applied between two looks at the sockets: 500 rows take about 2 ms.
_ROWS_AT_ONCE = 500
STATEMENT_TIMEOUT_S = 60
# All of it: a server or a network that has gone silent ends no statement.
READ_TIMEOUT_S = 90.0

# Events and conditions that are not active yet are read as well: when they become so, a change event tells of their
# own row only. Deleted series still describe the markets that are left.
_SELECTS: Mapping[str, str] = {
    "series": "SELECT ticker AS key, category, is_game, volume::text FROM series",
    "events": """
        SELECT event_ticker AS key, series_ticker, category FROM events e
        WHERE (deleted_at IS NULL AND status <> 'settled') OR EXISTS (
          SELECT FROM markets m WHERE m.event_ticker = e.event_ticker
          AND m.deleted_at IS NULL AND m.status IN ('initialized', 'active'))""",
    "markets": """
        SELECT ticker AS key, event_ticker, status, close_time::text FROM markets
        WHERE deleted_at IS NULL AND status = 'active'""",
    "polymarket_conditions": """
        SELECT condition_id AS key, category, status, volume::text, end_date::text FROM polymarket_conditions
        WHERE deleted_at IS NULL AND status = 'active'""",
    "polymarket_tokens": """
        SELECT token_id AS key, t.condition_id FROM polymarket_tokens t
        JOIN polymarket_conditions c USING (condition_id)
        WHERE t.deleted_at IS NULL AND c.deleted_at IS NULL AND c.status IN ('active', 'suspended', 'inactive')""",
}


async def read_rows(database_url: str, universe: Universe, *, name: str, clock: Clock) -> None:
    """Apply every row to an empty universe, from one snapshot of the database.

    Args:
        name: what `pg_stat_activity` shows.

    Raises:
        ConfigError: the URL is none of Postgres's.
        DatabaseError: Postgres cannot be reached, refused, or has not sent everything within `READ_TIMEOUT_S`.
        RowError: a row is not what its table holds.
    """
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            await _read(database_url, universe, name=name, clock=clock)
    except TimeoutError as error:
        raise DatabaseError(f"Postgres: not read within {READ_TIMEOUT_S:.0f} s") from error


async def _read(database_url: str, universe: Universe, *, name: str, clock: Clock) -> None:
    connection = await connect(database_url, name=name, clock=clock)
    try:
        await connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        async with connection.transaction():
            for table in universe.columns:
                await _read_table(connection, table, universe)
    except psycopg.Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error
    finally:
        await connection.close()


async def _read_table(connection: psycopg.AsyncConnection[Any], table: str, universe: Universe) -> None:
    async with connection.cursor(name=f"ssmd_{table}", row_factory=dict_row) as cursor:
        await cursor.execute(_SELECTS[table])
        while rows := await cursor.fetchmany(_ROWS_AT_ONCE):
            for values in rows:
                universe.apply(Row(table, values["key"], values))
