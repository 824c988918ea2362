"""The Postgres side: rows as the JSON of CDC's `data`, from one snapshot or by key."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import psycopg

from ssmd_core.clock import Clock
from ssmd_core.db.connect import DatabaseError, connect, now_of
from ssmd_core.db.values import RowEncoder, text_session
from ssmd_stream.cache.layout import CONDITIONS, PLACES, TOKENS, Place

ANSWER_S = 60.0  # a Postgres that has gone silent must not stop the cache for ever
PORTION = 1000  # rows in memory at a time: about 1.2 MB of markets


# One JSON object: table to column to type.
_COLUMNS = f"""
    SELECT json_object_agg(name, columns ORDER BY name) FROM (
      SELECT relname AS name, json_object_agg(attname, format_type(atttypid, atttypmod) ORDER BY attname) AS columns
      FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
      WHERE attrelid = ANY ('{{{",".join(PLACES)}}}'::regclass[]) AND attnum > 0 AND NOT attisdropped
      GROUP BY relname) found"""
_decode = msgspec.json.Decoder(dict[str, dict[str, str]]).decode


class Columns(NamedTuple):
    """The columns of the cache's tables.

    Attributes:
        names: by table.
        fingerprint: of names and types; other columns have another.
    """

    names: Mapping[str, frozenset[str]]
    fingerprint: str


class Snapshot(NamedTuple):
    """A view of the database at one moment.

    Attributes:
        text: `pg_current_snapshot()`.
        lsn: a position of the WAL, read after the snapshot was taken.
        columns: of the tables.
    """

    text: str
    lsn: str
    columns: Columns


class Source:
    """ssmd's database as the cache reads it.

    Args:
        database_url: `DATABASE_URL`.
        clock: says which rows are over.
    """

    def __init__(self, database_url: str, clock: Clock) -> None:
        self._database_url = database_url
        self._clock = clock

    async def rows(self, place: Place, column: str, values: Sequence[str]) -> list[bytes]:
        """Rows by the value of a column, deleted ones too.

        Raises:
            DatabaseError: Postgres cannot be reached, or refused.
            TimeoutError: it does not answer.
        """
        async with self._session() as connection:
            query = f"SELECT * FROM {place.table} WHERE {column} = ANY(%s)"
            async with asyncio.timeout(ANSWER_S):
                cursor = await connection.execute(query.encode(), (list(values),))
                encoder = RowEncoder.of(cursor.description or ())
                return [encoder.row(row) for row in await cursor.fetchall()]

    async def columns(self) -> Columns:
        """The columns that the tables have now.

        Raises:
            DatabaseError, TimeoutError: see `rows`.
        """
        async with self._session() as connection, asyncio.timeout(ANSWER_S):
            return await _columns(connection)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reading]:
        """All tables as of one moment.

        Raises:
            DatabaseError: see `rows`, also from within the block.
        """
        async with self._session() as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # A statement each: what the first one sees was committed before the second reads the position.
            text = await _one(connection, "SELECT pg_current_snapshot()::text")
            lsn = await _one(connection, "SELECT pg_current_wal_insert_lsn()::text")
            columns = await _columns(connection)
            yield Reading(connection, Snapshot(text, lsn, columns), self._clock)

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        try:
            async with await connect(self._database_url, name="cache") as connection:
                await text_session(connection)
                yield connection
        except psycopg.Error as error:
            raise DatabaseError(f"Postgres: {str(error).strip()}") from error


class Reading:
    """All tables as of one moment.

    Attributes:
        snapshot: that moment.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], snapshot: Snapshot, clock: Clock) -> None:
        self._connection = connection
        self._now = now_of(clock)
        self.snapshot = snapshot

    async def rows(self, place: Place) -> AsyncIterator[list[bytes]]:
        """The rows that stand in the cache, by portions; a cursor of the server holds the rest."""
        condition = place.kept
        if place is TOKENS:
            condition += (
                f" AND EXISTS (SELECT FROM {CONDITIONS.table} WHERE {CONDITIONS.table}.{CONDITIONS.key} = "
                f"{place.table}.{place.parent} AND {CONDITIONS.kept})"
            )
        query = f"SELECT * FROM {place.table} WHERE {condition}"
        async with self._connection.cursor(f"cache_{place.table}") as cursor:
            async with asyncio.timeout(ANSWER_S):
                await cursor.execute(query.encode(), {"now": self._now})
            encoder: RowEncoder | None = None
            while True:
                async with asyncio.timeout(ANSWER_S):
                    found = await cursor.fetchmany(PORTION)
                if not found:
                    return
                encoder = encoder or RowEncoder.of(cursor.description or ())
                yield [encoder.row(row) for row in found]


async def _columns(connection: psycopg.AsyncConnection[Any]) -> Columns:
    text = await _one(connection, _COLUMNS)
    names = {table: frozenset(types) for table, types in _decode(text).items()}
    return Columns(names, hashlib.sha256(text.encode()).hexdigest()[:16])


async def _one(connection: psycopg.AsyncConnection[Any], query: str) -> str:
    row = await (await connection.execute(query.encode())).fetchone()
    return bytes(row[0]).decode() if row else ""
