"""From JetStream to sealed files: every stored message becomes one line, on disk before it is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ssmd_core.archive.manifest import Gap
from ssmd_core.archive.paths import Slot
from ssmd_core.archive.tally import UNPARSED_TYPE, classify, is_closed_event
from ssmd_core.errors import ArchiveError, SsmdError, StreamMismatchError
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.lines import format_line, needs_wrapping
from ssmd_stream.archive.folder import MAX_MEMBER_BYTES, Folder
from ssmd_stream.archive.pull import Delivery, PullClient, PullConsumer

log = structlog.get_logger()

COMMIT_INTERVAL_S = 1.0
RETRY_S = 1.0
# A message that ssmd did not publish is archived under this epoch, with its stream sequence as ordinal.
UNSTAMPED_EPOCH = "unstamped"
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
        late: lines that came after their slot was sealed.
        files_sealed: files.
        commit_failures: writes or fsyncs that failed.
        last_seq: highest stream sequence committed.
        stream_last_seq: newest sequence of the stream when last asked.
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
    problem: str = ""


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
        self._client = PullClient()
        self._replace = asyncio.Event()
        self._uncommitted: list[tuple[str, int]] = []
        self._last_delivery: Delivery | None = None
        self._commit_due_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Archive until `stop` is set; then commit what has arrived and leave open slots as `.part`.

        Raises:
            ArchiveError: the folder is damaged, in use, or ahead of the stream.
            StreamMismatchError: the stream does not cover the feed's subjects.
        """
        self.folder.lock()
        try:
            self.folder.recover()
            self.stats.last_seq = self.folder.last_seq
            await self._connect(stop)
            if not stop.is_set():
                consumer = PullConsumer(self._client, self.name.jetstream, self._durable, self.name.filter)
                await self._place(consumer, stop)
                await self._loop(consumer, stop)
                await self._commit(consumer)
        finally:
            self.folder.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.close(), 2)

    async def _connect(self, stop: asyncio.Event) -> None:
        async def reconnected() -> None:
            self._replace.set()

        async def failed(error: Exception) -> None:
            log.warning("nats", stream=self.name.jetstream, error=str(error) or type(error).__name__)

        while not stop.is_set():
            try:
                await self._client.connect(
                    self._nats_url,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.5,
                    reconnected_cb=reconnected,
                    error_cb=failed,
                    pending_size=64 * 1024 * 1024,
                )
                return
            except Exception as error:
                self.stats.problem = f"NATS at {self._nats_url} cannot be reached: {error or type(error).__name__}"
                log.warning("waiting for NATS", stream=self.name.jetstream, error=str(error))
                await _sleep_or_stop(stop, RETRY_S)

    async def _place(self, consumer: PullConsumer, stop: asyncio.Event) -> None:
        """Put the consumer behind the archive's last sequence and account for what is gone."""
        while not stop.is_set():
            try:
                state = await consumer.state()
                if self.name.filter not in state.subjects and f"{self.name.prefix}.>" not in state.subjects:
                    raise StreamMismatchError(
                        f"stream {self.name.jetstream} holds {state.subjects}, which does not cover {self.name.filter}"
                    )
                if state.last_seq < self.folder.last_seq:
                    raise ArchiveError(
                        f"stream {self.name.jetstream} ends at sequence {state.last_seq}, but {self.folder.path} holds "
                        f"{self.folder.last_seq}: the stream was recreated. Move the archive folder aside, or restore "
                        "the stream, before archiving goes on"
                    )
                self._replace.clear()
                await consumer.place(self.folder.last_seq + 1)
            except StreamMismatchError as error:
                if "not found" not in str(error):
                    raise
                self.stats.problem = f"stream {self.name.jetstream} does not exist yet"
                await _sleep_or_stop(stop, RETRY_S)
                continue
            except SsmdError as error:
                if isinstance(error, ArchiveError):
                    raise
                self.stats.problem = str(error)
                await _sleep_or_stop(stop, RETRY_S)
                continue
            self.stats.stream_last_seq = state.last_seq
            self._account_expired(state.first_seq)
            self.stats.problem = ""
            return

    def _account_expired(self, first_seq: int) -> None:
        missing = first_seq - self.folder.last_seq - 1
        if missing > 0:
            self._note_gap(self.folder.last_seq, missing, "expired")
            log.error("messages expired before they were archived", stream=self.name.jetstream, missing=missing)

    def _note_gap(self, after_seq: int, missing: int, reason: str, date: str | None = None) -> None:
        now = datetime.now(UTC)
        gap = Gap(after_seq, missing, reason, f"{now:%Y-%m-%dT%H:%M:%SZ}")
        self.folder.note_gap(date or f"{now:%Y-%m-%d}", gap)
        self.folder.last_seq = max(self.folder.last_seq, after_seq + missing)
        if reason != "duplicate":
            self.stats.lost += missing

    async def _loop(self, consumer: PullConsumer, stop: asyncio.Event) -> None:
        placed_again_for = -1
        while not stop.is_set():
            if self._replace.is_set() or consumer.last_error:
                log.debug("placing the consumer again", stream=self.name.jetstream, reason=consumer.last_error)
                consumer.last_error = ""
                await self._commit_until_done(consumer, stop)
                await self._place(consumer, stop)
            deliveries = await consumer.take(timeout_s=0.1)
            for index, delivery in enumerate(deliveries):
                if delivery.stream_seq <= self.folder.last_seq:
                    self.stats.redelivered += 1
                    self._last_delivery = delivery
                    continue
                if delivery.stream_seq != self.folder.last_seq + 1:
                    # Either a delivery was lost on the way (place again and it comes), or it is gone from the stream.
                    if placed_again_for != self.folder.last_seq:
                        placed_again_for = self.folder.last_seq
                        self._replace.set()
                        break
                    missing = delivery.stream_seq - self.folder.last_seq - 1
                    self._note_gap(self.folder.last_seq, missing, "deleted")
                    log.error("messages are missing from the stream", stream=self.name.jetstream, missing=missing)
                await self._archive(consumer, delivery)
                if index % 1024 == 1023:
                    await asyncio.sleep(0)
            if self._commit_due_s and (
                time.monotonic() >= self._commit_due_s
                or sum(opened.buffered_bytes for opened in self.folder.open.values()) >= MAX_MEMBER_BYTES
            ):
                await self._commit_until_done(consumer, stop)

    async def _archive(self, consumer: PullConsumer, delivery: Delivery) -> None:
        identity = _MSG_ID.search(delivery.headers)
        received = _RECV_NS.search(delivery.headers)
        if identity and received:
            epoch, ordinal, recv_us = identity[1].decode(), int(identity[2]), int(received[1]) // 1000
        else:
            epoch, ordinal, recv_us = UNSTAMPED_EPOCH, delivery.stream_seq, delivery.stored_ns // 1000
            self.stats.unstamped += 1
        slot = Slot.of(recv_us)
        if self.folder.seen_before(epoch, ordinal):
            self.stats.duplicates += 1
            self._note_gap(self.folder.last_seq, 1, "duplicate", slot.date)
            self._last_delivery = delivery
            self._commit_due_s = self._commit_due_s or time.monotonic() + COMMIT_INTERVAL_S
            return
        if self.folder.starts_new(slot):
            await self._seal(consumer, slot)
        payload = delivery.payload
        message_type, ticker = classify(self.name.feed, payload)
        line = format_line(
            payload,
            recv_us,
            delivery.stream_seq,
            epoch,
            ordinal,
            wrapped=message_type == UNPARSED_TYPE or needs_wrapping(payload),
        )
        if slot.start_us < self.folder.newest_slot_us:
            self.stats.late += 1
        opened = self.folder.slot_for(recv_us)
        opened.append(line)
        opened.tally.add(
            message_type=message_type,
            ticker=ticker,
            nats_seq=delivery.stream_seq,
            epoch=epoch,
            ordinal=ordinal,
            line_bytes=len(line),
            closes=is_closed_event(payload),
        )
        self.folder.last_seq = delivery.stream_seq
        self._uncommitted.append((message_type, len(line) + 1))
        self._last_delivery = delivery
        self.stats.last_message_s = time.monotonic()
        if not self._commit_due_s:
            self._commit_due_s = self.stats.last_message_s + COMMIT_INTERVAL_S

    async def _seal(self, consumer: PullConsumer, slot: Slot) -> None:
        await self._commit_until_done(consumer, None)
        for path in await asyncio.to_thread(self.folder.seal_before, slot):
            self.stats.files_sealed += 1
            log.info("sealed", file=str(path))
            if self._on_sealed:
                self._on_sealed(path)

    async def _commit_until_done(self, consumer: PullConsumer, stop: asyncio.Event | None) -> None:
        """Commit; while the disk refuses, nothing is acknowledged and nothing more is taken."""
        while True:
            try:
                await self._commit(consumer)
            except OSError as error:
                self.stats.commit_failures += 1
                self.stats.problem = f"cannot write {self.folder.path}: {error}"
                log.error("commit failed, will retry", folder=str(self.folder.path), error=str(error))
                if stop is not None and stop.is_set():
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                if self.stats.problem.startswith("cannot write"):
                    self.stats.problem = ""
                return

    async def _commit(self, consumer: PullConsumer) -> None:
        await asyncio.to_thread(self.folder.commit)
        for message_type, line_bytes in self._uncommitted:
            self.stats.archived_by_type[message_type] = self.stats.archived_by_type.get(message_type, 0) + 1
            self.stats.raw_bytes += line_bytes
        self.stats.archived += len(self._uncommitted)
        self._uncommitted.clear()
        self.stats.last_seq = self.folder.last_seq
        self._commit_due_s = 0.0
        if self._last_delivery is not None:
            # A lost acknowledgement costs a redelivery, which is recognised by its sequence.
            with contextlib.suppress(Exception):
                await consumer.acknowledge(self._last_delivery)
            self._last_delivery = None


async def _sleep_or_stop(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
