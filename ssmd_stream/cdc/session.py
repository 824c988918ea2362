"""One session of CDC: one connection to NATS and one to Postgres, from the comparison at its start to its end.

Whatever breaks ends the session, and the next one starts from what the stream holds. So there is one way to recover,
and it is the way of every start: read the stream's last message, let Postgres send again what it was not told to
forget, leave out what is stored. It does not depend on JetStream's duplicate window.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from ssmd_core.clock import rfc3339_us
from ssmd_core.db import connect as db
from ssmd_core.errors import SsmdError
from ssmd_stream import jetstream
from ssmd_stream.cdc import slot as slots
from ssmd_stream.cdc.changes import ChangeEncoder, Done
from ssmd_stream.cdc.errors import LinkLostError
from ssmd_stream.cdc.names import Position, lsn_text, parse_lsn, parse_message_id
from ssmd_stream.cdc.publish import ChangePublisher
from ssmd_stream.cdc.replication import Replication
from ssmd_stream.cdc.stats import CdcStats
from ssmd_stream.cdc.stream import Record, Tail, ensure_streams, read_record, read_tail, write_record

log = structlog.get_logger()

READ_MESSAGES = 500  # about 8 ms of work between two looks at what NATS answered
WATCH_S = 0.25
RECORD_S = 1.0
#: Without changes of published tables the log still grows; to confirm that now and then is enough.
IDLE_RECORD_S = 10.0
STOP_GRACE_S = 5.0
LAG_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things are done.

    Attributes:
        record_s: between two confirmations to Postgres.
        idle_record_s: the same without changes.
        lag_s: between two looks at the slot.
    """

    record_s: float = RECORD_S
    idle_record_s: float = IDLE_RECORD_S
    lag_s: float = LAG_EVERY_S


class Session:
    """See the module. Use `run` once.

    Args:
        slot: name of the slot.
        nats_url, database_url: of the servers.
        stats: kept up to date.
        pace: see `Pace`.
    """

    def __init__(self, slot: str, nats_url: str, database_url: str, stats: CdcStats, pace: Pace) -> None:
        self._slot = slot
        self._nats_url = nats_url
        self._database_url = database_url
        self._stats = stats
        self._pace = pace
        self._wake = asyncio.Event()
        self._marks: deque[tuple[int, Done]] = deque()
        self._flushed = 0
        self._recorded_at = 0.0
        self._recording: asyncio.Task[None] | None = None
        self._last = Position(0, -1)
        self._last_seq = 0
        self._poison: SsmdError | None = None  # what cannot be published; all before it is, before the session ends

    async def run(self, stop: asyncio.Event) -> None:
        """Stream until something breaks or the stop; then confirm what is stored.

        Raises:
            ResnapshotNeededError: changes were lost.
            ConfigError, StreamMismatchError, PublishError: a server is not what CDC needs.
            OversizedChangeError, PgOutputError, ValueTextError: a change cannot be published.
            SlotBusyError: another process reads from the slot.
            LinkLostError, ReplicationError, DatabaseError, NatsError, OSError, ApiError: try again.
        """
        async with contextlib.AsyncExitStack() as stack:
            client = await jetstream.connect(self._nats_url, name="ssmd-cdc", reconnect=False, on_closed=self._wake.set)
            stack.push_async_callback(jetstream.abort, client)
            await ensure_streams(client)
            self._stats.nats_away_s = None
            connection = await db.connect(self._database_url, name="cdc control")
            stack.push_async_callback(connection.close)
            self._record, tail, after = await self._compare(client, connection)
            replication = await Replication.connect(self._database_url)
            stack.callback(replication.close)
            await replication.start(self._slot)
            publisher = ChangePublisher(client, tail.last_seq, self._wake.set)
            await publisher.open()
            self._stats.postgres_away_s, self._stats.problem = None, ""
            self._stats.sessions += 1
            log.info("cdc_streams", slot=self._slot, after=after and f"{lsn_text(after.commit_lsn)}:{after.ordinal}")
            watcher = asyncio.create_task(self._watch_lag(connection))
            try:
                encoder = ChangeEncoder(self._slot, after)
                await self._stream(client, replication, publisher, encoder, watcher, stop)
            finally:
                for task in filter(None, (watcher, self._recording)):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await task

    async def _compare(
        self, client: Client, connection: psycopg.AsyncConnection[Any]
    ) -> tuple[Record, Tail, Position | None]:
        """Compare Postgres, the stream and the record; make the slot if CDC has never run."""
        server = await slots.read_server(connection)
        self._stats.keep_bytes = server.keep_bytes
        self._stats.tables = sorted(await slots.read_published(connection))
        if server.keep_bytes is None:
            log.warning("slot_without_limit", setting="max_slot_wal_keep_size", slot=self._slot)
        slot = await slots.read_slot(connection, self._slot)
        record = await read_record(client, self._slot)
        tail = await read_tail(client)
        after = slots.resume_after(self._slot, server, slot, record, tail)
        if record is None:
            record = Record("creating", self._slot, server.system_id, tail.created, tail.last_seq, at=_now())
            await write_record(client, record)
        if record.phase == "creating":
            if slot is None:
                await self._create_slot()
                slot = await slots.read_slot(connection, self._slot)
                assert slot is not None
            record = msgspec.structs.replace(record, phase="running", lsn=lsn_text(slot.confirmed), at=_now())
            await write_record(client, record)
        self._flushed = parse_lsn(record.lsn)
        self._last = after or Position(parse_lsn(record.commit_lsn), record.ordinal)
        self._last_seq = tail.last_seq
        return record, tail, after

    async def _create_slot(self) -> None:
        replication = await Replication.connect(self._database_url)
        try:
            snapshot = await replication.create_slot(self._slot)
        finally:
            replication.close()
        log.info("slot_made", slot=self._slot, lsn=lsn_text(snapshot.lsn))

    async def _stream(
        self,
        client: Client,
        replication: Replication,
        publisher: ChangePublisher,
        encoder: ChangeEncoder,
        watcher: asyncio.Task[None],
        stop: asyncio.Event,
    ) -> None:
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._wake.set())
        give_up_at = 0.0
        replication.confirm(self._flushed)
        try:
            while True:
                self._wake.clear()
                busy = False
                if watcher.done():
                    watcher.result()
                if stop.is_set() or self._poison is not None:
                    give_up_at = give_up_at or time.monotonic() + STOP_GRACE_S
                    if not publisher.unacknowledged or time.monotonic() > give_up_at:
                        break
                elif publisher.has_room:
                    busy = self._read(replication, publisher, encoder)
                    if not busy:
                        replication.arm(self._wake.set)
                publisher.check()
                await publisher.send()
                self._settle(client, replication, publisher, encoder)
                replication.keep_alive()
                if busy:
                    await asyncio.sleep(0)
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(WATCH_S):
                            await self._wake.wait()
            await self._last_record(client, replication)
            if self._poison is not None:
                raise self._poison
        finally:
            stopping.cancel()
            self._note(publisher, encoder)

    def _read(self, replication: Replication, publisher: ChangePublisher, encoder: ChangeEncoder) -> bool:
        messages = replication.read(READ_MESSAGES)
        if not messages:
            return False
        encoder.timestamp = _now().encode()
        marks, events, feed, added = self._marks, encoder.events, encoder.feed, publisher.added
        try:
            for message in messages:
                done = feed(message)
                if done is not None:
                    marks.append((added + len(events), done))
        except SsmdError as error:
            self._poison = error
        if events:
            encoder.events = []
            try:
                publisher.add(events)
            except SsmdError as error:
                self._poison = error
        return len(messages) == READ_MESSAGES

    def _settle(
        self, client: Client, replication: Replication, publisher: ChangePublisher, encoder: ChangeEncoder
    ) -> None:
        """Take note of what is stored, and confirm it to Postgres now and then, once it is on record."""
        while self._marks and self._marks[0][0] <= publisher.acknowledged:
            _, done = self._marks.popleft()
            self._flushed = max(self._flushed, done.end_lsn)
            self._stats.transactions += 1
            self._stats.last_lsn, self._stats.last_commit_us = done.position.commit_lsn, done.commit_us
        idle = not self._marks and not publisher.unacknowledged and not encoder.in_transaction
        if idle:
            self._flushed = max(self._flushed, replication.server_lsn)
        self._note(publisher, encoder)
        if self._recording is not None:
            if not self._recording.done():
                return
            self._recording.result()
            self._recording = None
        if self._flushed == parse_lsn(self._record.lsn):
            return
        pause_s = self._pace.idle_record_s if self._last_seq == self._record.seq else self._pace.record_s
        if time.monotonic() - self._recorded_at >= pause_s:
            self._recorded_at = time.monotonic()
            self._recording = asyncio.create_task(self._write_record(client, replication))

    def _note(self, publisher: ChangePublisher, encoder: ChangeEncoder) -> None:
        stats = self._stats
        if publisher.last is not None:
            _, self._last = parse_message_id(publisher.last.id)
            self._last_seq = publisher.last_seq
            publisher.last = None
        stats.stored.update(publisher.stored)
        publisher.stored.clear()
        stats.batches += publisher.batches
        publisher.batches = 0
        stats.skipped += encoder.skipped
        encoder.skipped = 0
        stats.unacknowledged = publisher.unacknowledged
        stats.oldest_us = self._marks[0][1].commit_us if self._marks else encoder.open_commit_us

    async def _write_record(self, client: Client, replication: Replication) -> None:
        """First JetStream, then Postgres: so Postgres is never told more than is on record."""
        lsn = self._flushed
        record = msgspec.structs.replace(
            self._record,
            lsn=lsn_text(lsn),
            seq=self._last_seq,
            commit_lsn=lsn_text(self._last.commit_lsn),
            ordinal=self._last.ordinal,
            at=_now(),
        )
        try:
            await write_record(client, record)
        except (NatsError, TimeoutError, jetstream.ApiError) as error:
            raise LinkLostError(f"the record was not taken: {error or type(error).__name__}") from error
        self._record = record
        replication.confirm(lsn)
        self._stats.confirmed_lsn = lsn

    async def _last_record(self, client: Client, replication: Replication) -> None:
        if self._recording is not None:
            await self._recording
        if self._flushed != parse_lsn(self._record.lsn) or self._last_seq != self._record.seq:
            await self._write_record(client, replication)

    async def _watch_lag(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            server = await slots.read_server(connection)
            slot = await slots.read_slot(connection, self._slot)
            if slot is not None:
                self._stats.lag_bytes = max(0, server.end_lsn - slot.confirmed)
            self._stats.keep_bytes = server.keep_bytes
            await asyncio.sleep(self._pace.lag_s)


def _now() -> str:
    return rfc3339_us(time.time_ns() // 1000)
