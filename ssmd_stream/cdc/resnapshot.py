"""After a loss: a new slot, and every difference between the tables at that moment and what the stream says of them.

The stream is folded to the last known state of every key and compared with the tables in the snapshot that the new slot
exports, so nothing can fall between the two. What differs is published as events of the position just before the slot's
first one; then the slot goes on from there.

The stream forgets (`MAX_AGE_S`), so a row of which it holds no event is one of two:

- Its `updated_at` is before the time up to which nothing can have been lost: its last change was in the stream once, or
  came before CDC began, and followers know it from there or from reading the tables. It is left alone (`aged_out`).
- It is later, or no such time is known: it is published as an insert (`lost`).

That time is the earlier of two, less `MARGIN`: when the stream's first event was committed, and the time on record up
to which the stream holds all (`Record.known_at`). A row's `updated_at` is when it was written, which is before its
commit: a transaction may be open for `MARGIN`.
No such time is known if there is no record, if it speaks of another stream or another database cluster, or if Postgres
went back in time.

A row that was deleted outright, and whose last event has aged out, leaves no trace but in the table's history: from
there its delete is published if it became known after that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import structlog
from nats.aio.client import Client
from psycopg import sql

from ssmd_core.clock import rfc3339_us
from ssmd_core.db import connect as db
from ssmd_core.db.tables import SYNCED
from ssmd_core.db.values import Column, RowEncoder, text_session
from ssmd_stream import jetstream
from ssmd_stream.cdc import slot as slots
from ssmd_stream.cdc.changes import resnapshot_event
from ssmd_stream.cdc.consume import ChangeError
from ssmd_stream.cdc.errors import SlotBusyError
from ssmd_stream.cdc.names import STREAM, Position, lsn_text, parse_lsn
from ssmd_stream.cdc.publish import ChangePublisher
from ssmd_stream.cdc.replication import Replication
from ssmd_stream.cdc.rows import EncodedRow
from ssmd_stream.cdc.stream import Record, Tail, ensure_streams, read_record, read_tail, write_record

log = structlog.get_logger()

MARGIN = timedelta(hours=1)
_ROWS = 2_000
_DELETED = b""
_UNSURE = b"?"  # an update left out a large column: what the row held before may have aged out
_KEYS = """
SELECT a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_index i ON i.indrelid = c.oid
  AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
WHERE c.oid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
  AND (c.relreplident = 'f' OR c.relreplident IN ('d', 'i') AND a.attnum = ANY (i.indkey)) ORDER BY a.attnum
"""


@dataclass(slots=True)
class TableDifference:
    """What a resnapshot found in one table.

    Attributes:
        rows: in the table.
        same: the stream's last event says the same.
        changed: it says something else: an update was published.
        lost: the stream has no event of it, or a delete: an insert was published.
        aged_out: the stream has no event of it and need not: nothing was published.
        extra: rows that the stream knows and the table does not hold: a delete was published.
    """

    rows: int = 0
    same: int = 0
    changed: int = 0
    lost: int = 0
    aged_out: int = 0
    extra: int = 0


@dataclass(slots=True)
class ResnapshotReport:
    """Attributes:
    slot: that was made.
    lsn: where it begins.
    events: that the stream held.
    published: events that say what differed.
    known_until: rows written before this and without an event count as aged out, RFC 3339; None: no row does.
    tables: differences by table.
    """

    slot: str
    lsn: str
    events: int
    published: int
    known_until: str | None
    tables: dict[str, TableDifference] = field(default_factory=dict)


class _Event(msgspec.Struct):
    table: str
    op: str
    key: msgspec.Raw
    data: msgspec.Raw
    commit_ts: str
    unchanged: tuple[str, ...] = ()


_EVENT = msgspec.json.Decoder(_Event)


class _Fold:
    """Last known state of every key: 16 bytes of it, so that a million rows take about 200 MB."""

    def __init__(self) -> None:
        self.states: dict[str, dict[bytes, bytes]] = {}
        self.truncated: set[str] = set()
        self.first_commit = ""
        self.events = 0

    def add(self, payload: bytes, seq: int) -> None:
        try:
            event = _EVENT.decode(payload)
        except msgspec.DecodeError as error:
            raise ChangeError(f"{STREAM} {seq}: {error}: {payload[:200]!r}") from error
        self.events += 1
        self.first_commit = self.first_commit or event.commit_ts
        states = self.states.setdefault(event.table, {})
        if event.op == "truncate":
            self.truncated.add(event.table)
            states.update(dict.fromkeys(states, _DELETED))
        elif event.op == "delete":
            states[bytes(event.key)] = _DELETED
        else:
            states[bytes(event.key)] = _UNSURE if event.unchanged else digest(bytes(event.data))


def digest(data: bytes) -> bytes:
    """16 bytes that tell one row's JSON from another's."""
    return hashlib.blake2b(data, digest_size=16).digest()


async def resnapshot(slot: str, nats_url: str, database_url: str) -> ResnapshotReport:
    """Make a new slot and publish what differs. If it is cut short, CDC does not start until it was run again.

    Raises:
        SlotBusyError: CDC is running.
        ConfigError, StreamMismatchError, PublishError: a server is not what CDC needs.
        ChangeError: the stream holds something else than changes.
        ReplicationError, DatabaseError, LinkLostError, SsmdError, OSError: a server is away or failed; run it again.
    """
    async with contextlib.AsyncExitStack() as stack:
        client = await jetstream.connect(nats_url, name="ssmd-cdc-resnapshot", reconnect=False)
        stack.push_async_callback(jetstream.abort, client)
        await ensure_streams(client)
        connection = await db.connect(database_url, name="cdc resnapshot")
        stack.push_async_callback(connection.close)
        server = await slots.read_server(connection)
        found = await slots.read_slot(connection, slot)
        if found is not None and found.active_pid is not None:
            busy = f"in use by server process {found.active_pid}: stop `ssmd cdc run` first"
            if found.confirmed is None:
                busy = f"being made by server process {found.active_pid}: stop that, or what it waits for"
            raise SlotBusyError(f"slot {slot} is {busy}")
        record = await read_record(client, slot)
        tail = await read_tail(client)
        # The old record's time and identity are kept: a second attempt needs them too.
        unfinished = record or Record("resnapshot", slot, "", "", 0)
        if server.end_lsn < parse_lsn(unfinished.lsn):  # Postgres went back in time: see `RewoundError`
            unfinished = msgspec.structs.replace(unfinished, known_at=None)
        await write_record(client, msgspec.structs.replace(unfinished, phase="resnapshot"))
        if found is not None:
            await slots.drop_slot(connection, slot)
        replication = await Replication.connect(database_url)
        stack.callback(replication.close)
        known_at = datetime.now(UTC)
        snapshot = await slots.create_slot(replication, connection, slot)

        fold = _Fold()
        async for seq, message in jetstream.read_stored(client, STREAM, after_seq=0):
            fold.add(message.data, seq)
        same_places = record is not None and (record.stream_created, record.system_id) == (
            tail.created,
            server.system_id,
        )
        known_until = _known_until(unfinished.known_at, fold.first_commit) if same_places else None
        work = _Resnapshot(client, connection, slot, snapshot.lsn, tail, fold, known_until)
        await work.publisher.open()
        tables = await work.compare(snapshot.name)
        publisher = work.publisher
        await work.drain()
        await write_record(
            client,
            Record(
                "running",
                slot,
                server.system_id,
                tail.created,
                from_seq=publisher.last_seq,
                lsn=lsn_text(snapshot.lsn),
                seq=publisher.last_seq,
                known_at=known_at,
                publication=server.publication,
            ),
        )
    report = ResnapshotReport(slot, lsn_text(snapshot.lsn), fold.events, publisher.added, None, tables)
    if known_until is not None:
        report.known_until = known_until.isoformat()
    log.info("resnapshot_done", slot=slot, lsn=report.lsn, published=report.published)
    return report


def _known_until(known_at: datetime | None, first_commit: str) -> datetime | None:
    if known_at is None:
        return None
    return min(known_at, datetime.fromisoformat(first_commit) if first_commit else known_at) - MARGIN


class _Resnapshot:
    """The comparison of all tables."""

    def __init__(
        self,
        client: Client,
        connection: psycopg.AsyncConnection[Any],
        slot: str,
        lsn: int,
        tail: Tail,
        fold: _Fold,
        known_until: datetime | None,
    ) -> None:
        self._connection = connection
        self._slot = slot
        # Just before the slot's first position: no commit record begins there, so no id is used twice.
        self._lsn = lsn - 1
        self._ordinal = 0
        self._fold = fold
        self._known_until = known_until
        self._at = _now()
        self._wake = asyncio.Event()
        self.publisher = ChangePublisher(client, tail.last_seq, self._wake.set)

    async def compare(self, snapshot: str) -> dict[str, TableDifference]:
        """Publish what differs in every published table."""
        connection = self._connection
        try:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
            published = await slots.read_published(connection)
            keys = {table: await self._key_columns(table) for table in published}
            await text_session(connection)
            found = {table: await self._table(table, columns, keys[table]) for table, columns in published.items()}
            await connection.execute("COMMIT")
        except psycopg.Error as error:
            raise db.DatabaseError(f"Postgres: {str(error).strip()}") from error
        return found

    async def _key_columns(self, table: str) -> set[str]:
        cursor = await self._connection.execute(_KEYS, (table,))
        return {str(name) for (name,) in await cursor.fetchall()}

    async def _table(self, table: str, columns: list[str], key_columns: set[str]) -> TableDifference:
        found = TableDifference()
        known = self._fold.states.pop(table, {})
        limit = None
        if self._known_until is not None and "updated_at" in columns:
            limit = f"{self._known_until.astimezone(UTC):%Y-%m-%d %H:%M:%S}".encode()
        stamp = columns.index("updated_at") if limit is not None else 0
        keys = [index for index, name in enumerate(columns) if name in key_columns]
        encoders: tuple[RowEncoder, RowEncoder] | None = None
        async for description, values in self._rows(table, columns):
            if encoders is None:
                whole = RowEncoder.of(description)
                encoders = RowEncoder([Column(*whole.columns[index]) for index in keys]), whole
            row = EncodedRow(encoders[0].row([values[index] for index in keys]), encoders[1].row(values), b"")
            found.rows += 1
            state = known.pop(row.key, None)
            if state is None and table in self._fold.truncated:
                state = _DELETED
            if state is None and limit is not None and (values[stamp] or b"~") < limit:
                found.aged_out += 1
            elif not state:
                found.lost += 1
                await self._publish(table, "insert", row)
            elif state == digest(row.data):
                found.same += 1
            else:
                found.changed += 1
                await self._publish(table, "update", row)
        gone = [key for key, state in known.items() if state]
        gone += [key for key in await self._deleted(table) if key not in known]
        for key in gone:
            found.extra += 1
            await self._publish(table, "delete", EncodedRow(key, b"null", b""))
        return found

    async def _rows(self, table: str, columns: list[str]) -> AsyncIterator[tuple[Any, tuple[Any, ...]]]:
        query = sql.SQL("SELECT {} FROM {}").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
        )
        async with self._connection.cursor(name="resnapshot") as cursor:
            cursor.itersize = _ROWS
            await cursor.execute(query)
            async for values in cursor:
                yield cursor.description, values

    async def _deleted(self, table: str) -> list[bytes]:
        """Keys of rows that are no more, and whose history ends after `known_until`."""
        synced = SYNCED.get(table)
        if synced is None or table in self._fold.truncated:
            return []
        query = sql.SQL(
            "SELECT DISTINCT h.{key} FROM {history} h WHERE h.known_from >= {since}::timestamptz "
            "AND NOT EXISTS (SELECT FROM {table} t WHERE t.{key} = h.{key})"
        ).format(
            key=sql.Identifier(synced.key),
            history=sql.Identifier(synced.history),
            table=sql.Identifier(table),
            since="-infinity" if self._known_until is None else self._known_until.isoformat(),
        )
        cursor = await self._connection.execute(query)
        assert cursor.description is not None
        encoder = RowEncoder.of(cursor.description)
        return [encoder.row(values) for values in await cursor.fetchall()]

    async def _publish(self, table: str, op: str, row: EncodedRow) -> None:
        position = Position(self._lsn, self._ordinal)
        self._ordinal += 1
        event = resnapshot_event(self._slot, position, table, op, row, commit_ts=self._at, timestamp=_now())
        self.publisher.add([event])
        if self._ordinal % 1000 == 0:
            await self._wait(lambda: self.publisher.has_room)

    async def drain(self) -> None:
        """Wait until everything is stored."""
        await self._wait(lambda: not self.publisher.unacknowledged)

    async def _wait(self, done: Any) -> None:
        while True:
            self._wake.clear()
            self.publisher.check()
            await self.publisher.send()
            if done():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25):
                    await self._wake.wait()


def _now() -> str:
    return rfc3339_us(time.time_ns() // 1000)
