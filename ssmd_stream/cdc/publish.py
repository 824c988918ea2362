"""Events into the stream: durable, in order, none left out, none twice.

Events travel in atomic batches of at most 1,000, several unanswered at a time. Each batch names the sequence that the
stream must end with (`Nats-Expected-Last-Sequence`): if one does not land, none of those behind it does, and if anybody
else writes to the stream, nothing of ours does. So whatever breaks, the stream holds a prefix of what was sent, and its
last message says which. Measured here: 69,000 events of 1.3 kB a second with eight batches in flight.

A batch is sent behind another only if that one is large: were it small, a stranger could have written as many messages
in its place, and the second would land without the first. For the same reason single messages are not sent in a row.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from ssmd_stream.cdc.changes import Event
from ssmd_stream.cdc.errors import LinkLostError, OversizedChangeError

MAX_BATCH = 1_000  # nats-server's own limit
MAX_BATCH_BYTES = 4 * 1024 * 1024
#: Batches unanswered at a time. One that is not full waits, and grows, for the answer to the one before.
WINDOW = 8
HIGH_WATER_BYTES = 32 * 1024 * 1024
ACK_TIMEOUT_S = 10.0
_HEADER_BYTES = 512
_LARGE = 100


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_ACK = msgspec.json.Decoder(_Ack)


@dataclass(slots=True)
class _Batch:
    events: list[Event]
    size: int
    last_seq: int
    sent_at: float = field(default_factory=time.monotonic)


class ChangePublisher:
    """Publishes events on one connection, until it is lost.

    Args:
        client: connected, without reconnecting by itself.
        last_seq: where the stream ends.
        wake: called when something was answered or lost.

    Attributes:
        added: events given to `add`.
        acknowledged: the first so many of them are stored.
        stored: events stored, by subject.
        batches: answered.
        last_seq: where the stream ends, as far as it is acknowledged.
        last: the last event acknowledged on this connection.
    """

    def __init__(self, client: Client, last_seq: int, wake: Callable[[], None]) -> None:
        self._client = client
        self._wake = wake
        self._inbox = client.new_inbox()
        self._token = secrets.token_hex(4)
        self._sent = 0
        self._sent_seq = last_seq
        self._backlog: deque[Event] = deque()
        self._backlog_bytes = 0
        self._in_flight: deque[tuple[int, _Batch]] = deque()
        self._in_flight_bytes = 0
        self._lost = ""
        self.added = 0
        self.acknowledged = 0
        self.stored: Counter[str] = Counter()
        self.batches = 0
        self.last_seq = last_seq
        self.last: Event | None = None

    async def open(self) -> None:
        """Listen for answers."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer)

    @property
    def has_room(self) -> bool:
        """Whether more events should be added now."""
        return self._backlog_bytes + self._in_flight_bytes < HIGH_WATER_BYTES

    @property
    def unacknowledged(self) -> int:
        """Events added and not acknowledged."""
        return self.added - self.acknowledged

    def add(self, events: list[Event]) -> None:
        """Take events, in order.

        Raises:
            OversizedChangeError: one is larger than the server takes; those before it are taken.
        """
        most = self._client.max_payload - _HEADER_BYTES
        for event in events:
            length = len(event.payload)
            if length > most:
                raise OversizedChangeError(
                    f"change {event.id} on {event.subject} has {length} bytes, nats-server takes {most}: raise its "
                    f"max_payload, or make the row smaller and run `ssmd cdc resnapshot`: {event.payload[:300]!r}"
                )
            self._backlog.append(event)
            self._backlog_bytes += length
            self.added += 1

    def check(self) -> None:
        """Look whether all is well.

        Raises:
            LinkLostError: the connection is lost, a batch was refused, or no answer came in time.
        """
        if self._lost:
            raise LinkLostError(self._lost)
        if not self._client.is_connected:
            raise LinkLostError("connection to NATS lost")
        if self._in_flight and time.monotonic() - self._in_flight[0][1].sent_at > ACK_TIMEOUT_S:
            raise LinkLostError(f"no answer from NATS for {ACK_TIMEOUT_S:.0f} s")

    async def send(self) -> None:
        """Send what should not wait any longer."""
        while self._backlog:
            if self._in_flight:
                full = len(self._backlog) >= MAX_BATCH or self._backlog_bytes >= MAX_BATCH_BYTES
                behind_large = len(self._in_flight[-1][1].events) >= _LARGE
                if not full or not behind_large or len(self._in_flight) >= WINDOW:
                    return
            await self._send_batch()

    async def _send_batch(self) -> None:
        events: list[Event] = []
        size = 0
        while self._backlog and len(events) < MAX_BATCH:
            length = len(self._backlog[0].payload)
            if events and size + length > MAX_BATCH_BYTES:
                break
            events.append(self._backlog.popleft())
            size += length
        self._backlog_bytes -= size
        self._in_flight_bytes += size
        self._sent += 1
        reply = f"{self._inbox}.{self._sent}"
        data = encode_batch(events, f"{self._token}{self._sent}", reply, self._sent_seq)
        self._sent_seq += len(events)
        self._in_flight.append((self._sent, _Batch(events, size, self._sent_seq)))
        # nats-py's publish builds headers line by line; this hands a batch over as one command (see capture.publisher).
        await self._client._send_command(data)
        await self._client._flush_pending()

    async def _on_answer(self, message: Msg) -> None:
        number = int(message.subject.rpartition(".")[2])
        if self._lost or not self._in_flight:
            return
        first, batch = self._in_flight[0]
        if (message.headers or {}).get("Status"):
            self._lose("no stream takes the subject, or JetStream is off")
            return
        ack = _ACK.decode(message.data)
        if ack.error is not None:
            self._lose(f"JetStream refused events: {ack.error.description} (err_code {ack.error.err_code})")
        elif number != first or ack.duplicate or ack.seq != batch.last_seq:
            self._lose(f"JetStream answered {message.data[:200]!r} to events that were to end at {batch.last_seq}")
        else:
            self._in_flight.popleft()
            self._in_flight_bytes -= batch.size
            self.acknowledged += len(batch.events)
            self.stored.update(event.subject for event in batch.events)
            self.batches += 1
            self.last_seq, self.last = batch.last_seq, batch.events[-1]
            self._wake()

    def _lose(self, reason: str) -> None:
        self._lost = reason
        self._wake()


def encode_batch(events: list[Event], batch_id: str, reply: str, last_seq: int) -> bytes:
    """HPUB commands of one atomic batch (ADR-50), only the last of which, the commit, is answered; one goes by itself.

    An atomic batch costs nats-server as much as eight to thirteen single messages.
    """
    parts: list[bytes] = []
    last = len(events)
    more = f"Nats-Expected-Last-Sequence: {last_seq}\r\n"
    for number, (subject, id_, payload) in enumerate(events, 1):
        to, place = subject, ""
        if last > 1:
            place = f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {number}\r\n"
        if number == last:
            to = f"{subject} {reply}"
            if last > 1:
                more += "Nats-Batch-Commit: 1\r\n"
        headers = f"NATS/1.0\r\nNats-Msg-Id: {id_}\r\n{place}{more}\r\n"
        more = ""
        size = len(headers)
        parts.append(f"HPUB {to} {size} {size + len(payload)}\r\n{headers}".encode())
        parts.append(payload)
        parts.append(b"\r\n")
    return b"".join(parts)
