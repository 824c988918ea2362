"""From JetStream to sealed files: every stored message becomes one line, on disk before it is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog
from nats.errors import Error as NatsError

from ssmd_core.archive.manifest import Gap
from ssmd_core.archive.paths import Slot
from ssmd_core.archive.tally import UNPARSED_TYPE, classify, is_closed_event
from ssmd_core.errors import ArchiveError, SsmdError, StreamMismatchError
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.lines import format_line, needs_wrapping
from ssmd_stream.archive.folder import MAX_MEMBER_BYTES, Folder
from ssmd_stream.archive.pull import Delivery, PullClient, PullConsumer, StreamState
from ssmd_stream.jetstream import abort, covers, redact

log = structlog.get_logger()

COMMIT_INTERVAL_S = 1.0
RETRY_S = 1.0
CONNECT_S = 3.0
# A message that ssmd did not publish is archived under this epoch, with its stream sequence as ordinal.
UNSTAMPED_EPOCH = "unstamped"
_UNSTAMPED = UNSTAMPED_EPOCH.encode()
_REFUSED = "cannot write"
_T = TypeVar("_T")
_MSG_ID = re.compile(rb"\r\nNats-Msg-Id: ?([A-Za-z0-9_-]{1,80}):([0-9]{1,19})\r\n")
_RECV_NS = re.compile(rb"\r\nSsmd-Recv-Ns: ?([0-9]{1,19})\r\n")


@dataclass
class ArchiveStats:
    """What one stream's archiving has done since the process started.

    Attributes:
        archived: lines committed.
        archived_by_type: the same by message type.
        raw_bytes: decompressed bytes committed.
        duplicates: messages dropped because the archive held them already.
        redelivered: messages seen again by stream sequence.
        unstamped: messages that ssmd did not publish.
        lost: stream sequences that are gone for good (expired or deleted).
        late: lines in files for what came after its slot was sealed.
        files_sealed: files.
        commit_failures: writes or fsyncs that failed.
        last_seq: highest stream sequence committed.
        stream_last_seq: newest sequence of the stream, as of the last delivery.
        last_message_s: monotonic time of the newest delivery.
        problem: why the stream cannot be archived right now; "" if it can.
    """

    archived: int = 0
    archived_by_type: dict[str, int] = field(default_factory=dict)
    raw_bytes: int = 0
    duplicates: int = 0
    redelivered: int = 0
    unstamped: int = 0
    lost: int = 0
    late: int = 0
    files_sealed: int = 0
    commit_failures: int = 0
    last_seq: int = 0
    stream_last_seq: int = 0
    last_message_s: float = field(default_factory=time.monotonic)
    problem: str = "starting"


class StreamArchiver:
    """Archives one stream into its folder.

    Args:
        name: the stream.
        root: archive root.
        nats_url: server.
        durable: consumer name.
        on_sealed: called with each sealed file.
    """

    def __init__(
        self,
        name: StreamName,
        root: Path,
        nats_url: str,
        *,
        durable: str = "archiver",
        on_sealed: Callable[[Path], None] | None = None,
    ) -> None:
        self.name = name
        self.folder = Folder(root, name.feed, name.stream)
        self.stats = ArchiveStats()
        self._nats_url = nats_url
        self._durable = durable
        self._on_sealed = on_sealed
        self._stop = asyncio.Event()
        self._replace = asyncio.Event()
        self._first_seq = 0
        self._placed_behind = -1
        self._uncommitted: list[tuple[str, int]] = []
        self._last_delivery: Delivery | None = None
        self._commit_due_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Archive until `stop` is set; then commit what has arrived and leave open slots as `.part`.

        It ends within about six seconds of `stop`, also while NATS or the disk is away (one request's timeout, one
        attempt to commit); what could not be committed was not acknowledged and comes again.

        Raises:
            ArchiveError: the folder is damaged, in use, or of another stream.
            StreamMismatchError: the stream does not hold the feed's subjects, or holds others too.
            OSError: the disk refused the last commit.
            SsmdError: NATS closed the connection for good, e.g. the credentials are no longer good.
        """
        self._stop = stop
        self.folder.lock()
        try:
            await asyncio.to_thread(self.folder.recover)
            self.stats.last_seq = self.folder.last_seq
            client = await self._connect()
            if client is not None:
                try:
                    await self._consume(client)
                finally:
                    await abort(client)
        finally:
            self.folder.close()

    async def _consume(self, client: PullClient) -> None:
        consumer = PullConsumer(client, self.name.jetstream, self._durable, self.name.filter)
        await self._place(consumer)
        await self._loop(consumer)
        await self._commit(consumer)
        with contextlib.suppress(TimeoutError, OSError, NatsError):
            await asyncio.wait_for(client.flush(1), 1.5)  # the last acknowledgement

    async def _connect(self) -> PullClient | None:
        """Connect, however long it takes; None if the archiver is to stop."""
        last_error = ""

        async def reconnected() -> None:
            nonlocal last_error
            last_error = ""
            self._replace.set()

        async def disconnected() -> None:
            self.stats.problem = f"connection to NATS at {redact(self._nats_url)} lost"

        async def failed(error: Exception) -> None:
            nonlocal last_error
            text = str(error) or type(error).__name__
            if text != last_error:  # a server that is away fails twice a second
                last_error = text
                log.warning("nats", stream=self.name.jetstream, error=text)

        while not self._stop.is_set():
            client = PullClient()
            try:
                # With endless reconnection the first connect does not end by itself either.
                async with asyncio.timeout(CONNECT_S):
                    await client.connect(
                        self._nats_url.split(","),
                        name=f"archiver {self.name.folder}",
                        max_reconnect_attempts=-1,
                        reconnect_time_wait=0.5,  # type: ignore[arg-type]  # declared int, given to asyncio.sleep
                        reconnected_cb=reconnected,
                        disconnected_cb=disconnected,
                        error_cb=failed,
                        pending_size=64 * 1024 * 1024,
                    )
                return client
            except (TimeoutError, OSError, NatsError) as error:
                await abort(client)
                reason = last_error or str(error) or type(error).__name__
                self.stats.problem = f"NATS at {redact(self._nats_url)} cannot be reached: {reason}"
                log.warning("waiting for NATS", stream=self.name.jetstream, problem=self.stats.problem)
                await _sleep_or_stop(self._stop, RETRY_S)
        return None

    async def _place(self, consumer: PullConsumer) -> None:
        """Put the consumer behind the archive's last sequence, as often as it takes."""
        while not self._stop.is_set():
            try:
                state = await consumer.state()
                self._check(state)
                await self._on_disk(partial(self.folder.belong_to, state.created))
                self._replace.clear()
                consumer.last_error = ""
                await consumer.place(self.folder.last_seq + 1)
            except (StreamMismatchError, ArchiveError):
                raise
            except SsmdError as error:
                if consumer.closed:
                    raise
                self.stats.problem = str(error)
                await _sleep_or_stop(self._stop, RETRY_S)
                continue
            self.stats.stream_last_seq = state.last_seq
            self.stats.problem = ""
            self._first_seq = state.first_seq
            self._placed_behind = self.folder.last_seq
            if state.first_seq > self.folder.last_seq + 1:
                log.error(
                    "messages expired before they were archived",
                    stream=self.name.jetstream,
                    after_seq=self.folder.last_seq,
                    first_seq=state.first_seq,
                )
            return

    def _check(self, state: StreamState) -> None:
        """Whether every sequence of the stream is a message for this folder, and the archive is not ahead of it."""
        whole = f"{self.name.prefix}.>"
        if not any(covers(subject, self.name.filter) for subject in state.subjects) or not all(
            covers(whole, subject) for subject in state.subjects
        ):
            raise StreamMismatchError(
                f"stream {self.name.jetstream} holds {state.subjects}; it must hold {self.name.filter} and no other's"
            )
        if state.last_seq < self.folder.last_seq:
            raise ArchiveError(
                f"stream {self.name.jetstream} ends at sequence {state.last_seq}, but {self.folder.path} holds "
                f"{self.folder.last_seq}: the stream was recreated or has lost its end. Move the archive folder aside, "
                "or restore the stream, before archiving goes on"
            )

    async def _loop(self, consumer: PullConsumer) -> None:
        folder = self.folder
        while not self._stop.is_set():
            if self._replace.is_set() or consumer.last_error:
                log.warning("placing the consumer again", stream=self.name.jetstream, reason=consumer.last_error)
                await self._commit(consumer)
                await self._place(consumer)
            try:
                deliveries = await consumer.take(timeout_s=0.1)
            except SsmdError as error:
                self.stats.problem = str(error)
                self._replace.set()
                await _sleep_or_stop(self._stop, RETRY_S)
                continue
            for index, delivery in enumerate(deliveries):
                seq = delivery.stream_seq
                if seq <= folder.last_seq or (folder.ahead is not None and seq in folder.ahead):
                    self.stats.redelivered += 1
                    continue
                if seq != folder.last_seq + 1 and self._placed_behind != folder.last_seq:
                    # Either a delivery was lost on the way, then it comes now, or it is gone from the stream.
                    self._replace.set()
                    break
                await self._archive(consumer, delivery)
                if index % 1024 == 1023:
                    await asyncio.sleep(0)
            if self._commit_due_s and (
                time.monotonic() >= self._commit_due_s
                or sum(opened.buffered_bytes for opened in folder.open.values()) >= MAX_MEMBER_BYTES
            ):
                await self._commit(consumer)

    async def _archive(self, consumer: PullConsumer, delivery: Delivery) -> None:
        epoch, ordinal, recv_us = self._identify(delivery)
        folder = self.folder
        seq = delivery.stream_seq
        slot = Slot.of(recv_us)
        if seq != folder.last_seq + 1:
            for first, last in folder.missing_before(seq):
                self._note_lost(first, last, slot.date)
        if folder.seen_before(epoch, ordinal):
            self.stats.duplicates += 1
            folder.note_gap(slot.date, Gap(seq - 1, 1, "duplicate", _now()))
            self._to_commit(delivery)
            return
        opened = folder.open.get(slot.start_us)
        if opened is None:
            if folder.starts_new(slot):
                await self._seal(consumer, slot)
            opened = await self._on_disk(partial(folder.slot_for, recv_us))
        payload = delivery.payload
        message_type, ticker = classify(self.name.feed, payload)
        line = format_line(
            payload,
            recv_us,
            seq,
            epoch,
            ordinal,
            wrapped=message_type == UNPARSED_TYPE or needs_wrapping(payload),
        )
        if opened.late:
            self.stats.late += 1
        opened.append(line)
        opened.tally.add(
            message_type=message_type,
            ticker=ticker,
            nats_seq=seq,
            epoch=epoch,
            ordinal=ordinal,
            line_bytes=len(line),
            closes=is_closed_event(payload),
        )
        self._uncommitted.append((message_type, len(line) + 1))
        self._to_commit(delivery)

    def _to_commit(self, delivery: Delivery) -> None:
        """What is done with the delivery is in memory: the next commit makes it durable and acknowledges it."""
        self.folder.note_archived(delivery.stream_seq)
        self._last_delivery = delivery
        self.stats.last_message_s = time.monotonic()
        if not self._commit_due_s:
            self._commit_due_s = self.stats.last_message_s + COMMIT_INTERVAL_S

    def _identify(self, delivery: Delivery) -> tuple[str, int, int]:
        """Epoch, ordinal and receive time in µs; for what ssmd did not publish, its sequence and storage time."""
        identity = _MSG_ID.search(delivery.headers)
        received = _RECV_NS.search(delivery.headers)
        if identity and received and identity[1] != _UNSTAMPED:
            return identity[1].decode(), int(identity[2]), int(received[1]) // 1000
        self.stats.unstamped += 1
        return UNSTAMPED_EPOCH, delivery.stream_seq, delivery.stored_ns // 1000

    def _note_lost(self, first: int, last: int, date: str) -> None:
        """Sequences that the stream no longer had when the consumer was placed right before them."""
        expired = min(last, self._first_seq - 1) - first + 1
        if expired > 0:
            self.folder.note_gap(date, Gap(first - 1, expired, "expired", _now()))
            first += expired
        if first <= last:
            self.folder.note_gap(date, Gap(first - 1, last - first + 1, "deleted", _now()))
        missing = max(expired, 0) + max(last - first + 1, 0)
        self.stats.lost += missing
        log.error("messages are missing from the stream", stream=self.name.jetstream, last_seq=last, missing=missing)

    async def _seal(self, consumer: PullConsumer, slot: Slot) -> None:
        await self._commit(consumer)
        for path in await self._on_disk(partial(self.folder.seal_before, slot)):
            self.stats.files_sealed += 1
            log.info("sealed", file=str(path))
            if self._on_sealed:
                self._on_sealed(path)

    async def _commit(self, consumer: PullConsumer) -> None:
        await self._on_disk(self.folder.commit)
        for message_type, line_bytes in self._uncommitted:
            self.stats.archived_by_type[message_type] = self.stats.archived_by_type.get(message_type, 0) + 1
            self.stats.raw_bytes += line_bytes
        self.stats.archived += len(self._uncommitted)
        self._uncommitted.clear()
        self.stats.last_seq = self.folder.last_seq
        self._commit_due_s = 0.0
        if self._last_delivery is not None:
            self.stats.stream_last_seq = self._last_delivery.stream_seq + self._last_delivery.pending
            # A lost acknowledgement costs a redelivery, which is recognised by its sequence.
            with contextlib.suppress(SsmdError):
                await consumer.acknowledge(self._last_delivery)
            self._last_delivery = None

    async def _on_disk(self, work: Callable[[], _T]) -> _T:
        """Do disk work in a thread. While the disk refuses, nothing is acknowledged and nothing more is taken.

        Raises:
            OSError: the disk refused and the archiver is to stop.
        """
        while True:
            try:
                result = await asyncio.to_thread(work)
            except OSError as error:
                self.stats.commit_failures += 1
                self.stats.problem = f"{_REFUSED} {self.folder.path}: {error}"
                with contextlib.suppress(OSError):  # the log may lie on the same disk
                    log.error("disk refused, will retry", folder=str(self.folder.path), error=str(error))
                if self._stop.is_set():
                    raise
                await _sleep_or_stop(self._stop, RETRY_S)
            else:
                if self.stats.problem.startswith(_REFUSED):
                    self.stats.problem = ""
                return result


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


async def _sleep_or_stop(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
