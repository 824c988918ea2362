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
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

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
from ssmd_stream.cdc.errors import LinkLostError, RewoundError
from ssmd_stream.cdc.names import RECORD_EVERY_S, Position, lsn_text, parse_lsn, parse_message_id
from ssmd_stream.cdc.publish import ChangePublisher
from ssmd_stream.cdc.replication import Replication, hang_up
from ssmd_stream.cdc.stats import CdcStats
from ssmd_stream.cdc.stream import Record, Tail, ensure_streams, read_record, read_tail, write_record
from ssmd_stream.tasks import end_tasks

log = structlog.get_logger()

READ_MESSAGES = 500  # about 8 ms of work between two looks at what NATS answered
WATCH_S = 0.25
RECORD_S = 1.0
#: Without changes of published tables the log still grows; to confirm that now and then is enough. It is written even
#: if nothing did, for those who ask whether CDC is alive: twice as often as they were promised.
IDLE_RECORD_S = RECORD_EVERY_S / 2
STOP_GRACE_S = 5.0
LAG_EVERY_S = 5.0
#: Between two sessions. One that lasted longer than the longest pause, or had a batch stored, is proof that all is
#: well; one that merely begins is not, e.g. if the stream is full and refuses every batch.
BACKOFF_S = (0.1, 5.0)


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


class _Links(NamedTuple):
    client: Client
    connection: psycopg.AsyncConnection[Any]
    replication: Replication
    publisher: ChangePublisher
    encoder: ChangeEncoder


class Session:
    """See the module. Use `run` once.

    Args:
        slot: name of the slot.
        nats_url, database_url: of the servers.
        stats: kept up to date.
        pace: see `Pace`.
        doubtful: the session before streamed and proved nothing: only a proof ends the time that a server is away.

    Attributes:
        streamed: whether streaming began.
        proven: whether it did any good: see `BACKOFF_S`.
    """

    def __init__(
        self, slot: str, nats_url: str, database_url: str, stats: CdcStats, pace: Pace, *, doubtful: bool = False
    ) -> None:
        self.streamed = self.proven = False
        self._doubtful = doubtful
        self._slot = slot
        self._nats_url = nats_url
        self._database_url = database_url
        self._stats = stats
        self._pace = pace
        self._wake = asyncio.Event()
        self._marks: deque[tuple[int, Done]] = deque()
        self._flushed = 0
        self._known_us = 0  # commit time of the last transaction that is in the stream, if one was seen
        self._start_s = 0.0
        self._ended = asyncio.Event()
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
            try:
                links = await _unless(stop, self._open(stack))
                if links is None:
                    return
                watcher = asyncio.create_task(self._watch(links.connection))
                try:
                    await self._stream(links, watcher, stop)
                finally:
                    self._ended.set()
                    hang_up(links.connection)
                    await end_tasks(self._recording)
                    await asyncio.gather(watcher, return_exceptions=True)
            except RewoundError:
                await self._note_rewound()
                raise

    async def _open(self, stack: contextlib.AsyncExitStack) -> _Links:
        client = await jetstream.connect(self._nats_url, name="ssmd-cdc", reconnect=False, on_closed=self._wake.set)
        stack.push_async_callback(jetstream.abort, client)
        await ensure_streams(client)
        if not self._doubtful:
            self._stats.nats_away_s = None
        connection = await db.connect(self._database_url, name="cdc control")
        stack.push_async_callback(connection.close)
        tail, after = await self._compare(client, connection)
        replication = await Replication.connect(self._database_url)
        stack.callback(replication.close)
        await replication.start(self._slot)
        publisher = ChangePublisher(client, tail.last_seq, self._wake.set)
        await publisher.open()
        slot = await slots.read_slot(connection, self._slot)  # now that nobody else can move it
        encoder = ChangeEncoder(
            self._slot,
            after,
            after_commit_ts=tail.last_commit_ts,
            confirmed=slot.confirmed or 0 if slot is not None else 0,
            known_lsn=self._flushed,
        )
        self.streamed, self._start_s = True, time.monotonic()
        if not self._doubtful:
            self._stats.all_well()
        self._stats.sessions += 1
        log.info("cdc_streams", slot=self._slot, after=after and f"{lsn_text(after.commit_lsn)}:{after.ordinal}")
        return _Links(client, connection, replication, publisher, encoder)

    async def _compare(self, client: Client, connection: psycopg.AsyncConnection[Any]) -> tuple[Tail, Position | None]:
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
            record = Record("creating", self._slot, server.system_id, tail.created, tail.last_seq)
        if not record.publication or slot is None:
            # Before the slot is made: what is changed from here on is noticed.
            record = msgspec.structs.replace(record, publication=server.publication)
        if record.phase == "creating":
            record = msgspec.structs.replace(record, known_at=record.known_at or datetime.now(UTC))
            record = await write_record(client, record)
        if record.phase == "creating":
            if slot is None:
                lsn = await self._create_slot(connection)
            else:
                assert slot.confirmed is not None  # `resume_after` has looked
                lsn = slot.confirmed
            record = msgspec.structs.replace(record, phase="running", lsn=lsn_text(lsn))
            record = await write_record(client, record)
        self._record = record
        self._flushed = parse_lsn(record.lsn)
        if after is not None:
            self._stats.last_lsn = max(self._stats.last_lsn, after.commit_lsn)
        self._last = after or Position(parse_lsn(record.commit_lsn), record.ordinal)
        self._last_seq = tail.last_seq
        return tail, after

    async def _create_slot(self, connection: psycopg.AsyncConnection[Any]) -> int:
        def waits(reason: str) -> None:
            self._stats.problem = reason

        replication = await Replication.connect(self._database_url)
        try:
            snapshot = await slots.create_slot(replication, connection, self._slot, waits)
        finally:
            replication.close()
        log.info("slot_made", slot=self._slot, lsn=lsn_text(snapshot.lsn))
        return snapshot.lsn

    async def _stream(self, links: _Links, watcher: asyncio.Task[None], stop: asyncio.Event) -> None:
        client, _, replication, publisher, encoder = links
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._wake.set())
        give_up_at = 0.0
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
            await self._last_record(client, replication, encoder)
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
            self._known_us = max(self._known_us, done.commit_us)
            if not done.stored:
                self._stats.transactions += 1
                self._stats.last_lsn, self._stats.last_commit_us = done.position.commit_lsn, done.commit_us
        if not encoder.in_transaction:
            encoder.check_reached(replication.server_lsn)
        idle = not self._marks and not publisher.unacknowledged and not encoder.in_transaction
        if idle and encoder.agrees:
            self._flushed = max(self._flushed, replication.server_lsn)
        self._note(publisher, encoder)
        if self._recording is not None:
            if not self._recording.done():
                return
            self._recording.result()
            self._recording = None
        pause_s = self._pace.idle_record_s if self._last_seq == self._record.seq else self._pace.record_s
        if time.monotonic() - self._recorded_at >= pause_s:
            self._recorded_at = time.monotonic()
            self._recording = asyncio.create_task(self._write_record(client, replication, encoder))

    def _note(self, publisher: ChangePublisher, encoder: ChangeEncoder) -> None:
        stats = self._stats
        if publisher.last is not None:
            _, self._last = parse_message_id(publisher.last.id)
            self._last_seq = publisher.last_seq
            publisher.last = None
        stats.stored.update(publisher.stored)
        publisher.stored.clear()
        stats.batches += publisher.batches
        if not self.proven and (publisher.batches or time.monotonic() - self._start_s > BACKOFF_S[1]):
            self.proven = True
            stats.all_well()
        publisher.batches = 0
        stats.skipped += encoder.skipped
        encoder.skipped = 0
        stats.unacknowledged = publisher.unacknowledged
        stats.oldest_us = self._marks[0][1].commit_us if self._marks else encoder.open_commit_us

    async def _write_record(self, client: Client, replication: Replication, encoder: ChangeEncoder) -> None:
        """First JetStream, then Postgres: so Postgres is never told more than is on record."""
        known_at = datetime.fromtimestamp(self._known_us // 1_000_000, UTC) if self._known_us else None
        lsn = self._flushed
        record = msgspec.structs.replace(
            self._record,
            lsn=lsn_text(lsn),
            seq=self._last_seq,
            commit_lsn=lsn_text(self._last.commit_lsn),
            ordinal=self._last.ordinal,
            known_at=known_at or self._record.known_at,
        )
        try:
            self._record = await write_record(client, record)
        except (NatsError, TimeoutError, jetstream.ApiError) as error:
            raise LinkLostError(f"the record was not taken: {error or type(error).__name__}") from error
        if encoder.agrees:
            replication.confirm(lsn)
            self._stats.confirmed_lsn = lsn

    async def _last_record(self, client: Client, replication: Replication, encoder: ChangeEncoder) -> None:
        if self._recording is not None:
            await self._recording
        if self._flushed != parse_lsn(self._record.lsn) or self._last_seq != self._record.seq:
            await self._write_record(client, replication, encoder)

    async def _note_rewound(self) -> None:
        """So that it is not forgotten when Postgres's log has grown further, nor how little is known of the stream."""
        client = await jetstream.connect(self._nats_url, name="ssmd-cdc-rewound", reconnect=False)
        try:
            if record := await read_record(client, self._slot):
                await write_record(client, msgspec.structs.replace(record, phase="resnapshot", known_at=None))
        finally:
            await jetstream.abort(client)

    async def _watch(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Look how far the slot is behind, and whether the publication is still the same."""
        while not self._ended.is_set():
            server = await slots.read_server(connection)
            slots.check_publication(self._record, server)
            slot = await slots.read_slot(connection, self._slot)
            if slot is not None and slot.confirmed is not None:
                self._stats.lag_bytes = max(0, server.end_lsn - slot.confirmed)
            self._stats.keep_bytes = server.keep_bytes
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), self._pace.lag_s)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, _Links]) -> _Links | None:
    """Do something; None if the stop comes first, and it was broken off."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        stopping.cancel()
        working.cancel()
        # A server that hangs does not cancel what it does: told twice, psycopg does not wait for it.
        if not (await asyncio.wait({working}, timeout=STOP_GRACE_S / 2))[0]:
            working.cancel()
        await end_tasks(working)


def _now() -> str:
    return rfc3339_us(time.time_ns() // 1000)
