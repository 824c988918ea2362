"""A durable pull consumer with an acknowledgement for every message.

For streams of some hundreds of messages a second whose messages fail one by one; the archive's `PullConsumer` is for
tens of thousands that succeed together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import nats.errors
import orjson
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ssmd_core.errors import SsmdError, StreamMismatchError
from ssmd_core.messages.headers import RECV_NS
from ssmd_stream.jetstream import STREAM_NOT_FOUND, ApiError, api, connect, covers, redact

log = structlog.get_logger()

EXPIRES_S = 5.0
# A request that has neither delivered nor been answered for so long was lost with its connection.
REQUEST_LOST_S = EXPIRES_S + 3.0
# Far above the time that a batch takes; after a crash what was delivered and not acknowledged comes again then.
ACK_WAIT_S = 5.0
RETRY_S = 1.0
CONSUMER_NOT_FOUND = 10014
_OVER = frozenset({"404", "408"})
_EPOCH = datetime.fromtimestamp(0, UTC)


class PullError(SsmdError):
    """NATS did not do what was asked of it; it is worth trying again."""


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery.

    Attributes:
        subject: where it was published.
        payload: its bytes.
        headers: its headers.
        stream_seq: its sequence in the stream.
        deliveries: how often it has been delivered, this time included.
        received_at: when it came from the venue's socket; when the stream stored it, if its publisher did not say.
        pending: messages of the consumer that come after it.
        reply: where the acknowledgement goes.
    """

    subject: str
    payload: bytes
    headers: Mapping[str, str]
    stream_seq: int
    deliveries: int
    received_at: datetime
    pending: int
    reply: str


class DurableConsumer:
    """A durable consumer of one stream.

    Args:
        client: connected, and coming back by itself.
        stream: JetStream name.
        durable: consumer name.
        filters: the subjects to consume.
        deliver: for a consumer that does not exist yet: `all` that is stored, or only what is `new`.

    Attributes:
        created: when the stream was made, RFC 3339; a stream that is made anew counts from 1 again. "" until placed.
        problem: why nothing can be taken right now, "" if it can.
    """

    def __init__(
        self, client: Client, stream: str, durable: str, filters: Sequence[str], deliver: Literal["all", "new"]
    ) -> None:
        self._client = client
        self._stream = stream
        self._durable = durable
        self._filters = sorted(filters)
        self._deliver = deliver
        self._subscription: Any = None
        self._inbox = ""
        self._outstanding = 0
        self._asked_s = 0.0
        self._reconnects = 0
        self._placed = False
        self.created = ""
        self.problem = "starting"

    async def place(self) -> None:
        """Make the consumer if there is none, check it if there is one.

        Raises:
            StreamMismatchError: the stream holds none of the subjects, or the consumer is not of this kind; says how.
            PullError: there is no such stream yet, or NATS does not answer.
        """
        with _translated("look at the stream"):
            try:
                info = await api(self._client, f"STREAM.INFO.{self._stream}")
            except ApiError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    raise PullError(f"there is no stream {self._stream} yet; its connector makes it") from error
                raise PullError(str(error)) from error
        self._check_stream(info["config"].get("subjects") or [])
        with _translated("make the consumer"):
            try:
                known = await api(self._client, f"CONSUMER.INFO.{self._stream}.{self._durable}")
            except ApiError as error:
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise PullError(str(error)) from error
                known = await self._create()
            self._check_consumer(known["config"])
            if self._subscription is not None:
                await self._subscription.unsubscribe()
            self._inbox = self._client.new_inbox()
            self._subscription = await self._client.subscribe(self._inbox)
        self._outstanding = 0
        self._placed = True
        self.created = info["created"]
        self.problem = ""

    async def take(self, count: int, timeout_s: float) -> list[Message]:
        """Up to `count` messages that have arrived, waiting up to `timeout_s` for the first.

        Raises:
            StreamMismatchError: see `place`.
            PullError: nothing can be taken now; `problem` says so too. Call again later.
        """
        try:
            if not self._placed:
                await self.place()
            await self._ask(count)
            return await self._collect(count, timeout_s)
        except PullError as error:
            self.problem = str(error)
            raise

    async def ack(self, message: Message) -> None:
        """The message is done. A lost acknowledgement costs a redelivery.

        Raises:
            PullError: the connection is closed.
        """
        await self._answer(message, b"+ACK")

    async def nak(self, message: Message, delay_s: float) -> None:
        """The message is to come again after `delay_s`.

        Raises:
            PullError: the connection is closed.
        """
        await self._answer(message, b"-NAK " + orjson.dumps({"delay": int(delay_s * 1e9)}))

    def _check_stream(self, subjects: Sequence[str]) -> None:
        missing = [wanted for wanted in self._filters if not any(covers(subject, wanted) for subject in subjects)]
        if missing:
            raise StreamMismatchError(
                f"stream {self._stream} holds {list(subjects)}: nothing would ever come for {missing}"
            )

    def _check_consumer(self, config: dict[str, Any]) -> None:
        have = sorted(config.get("filter_subjects") or [config.get("filter_subject") or ">"])
        where = f"consumer {self._durable} of stream {self._stream}"
        if have != self._filters:
            raise StreamMismatchError(f"{where} exists and filters {have}, not {self._filters}: delete it to go on")
        if config.get("ack_policy") != "explicit" or config.get("deliver_subject"):
            raise StreamMismatchError(
                f"{where} exists and is not a pull consumer with ack_policy 'explicit' but {config.get('ack_policy')!r}"
            )

    async def _create(self) -> dict[str, Any]:
        config = {
            "durable_name": self._durable,
            "deliver_policy": self._deliver,
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * 1e9),
            "max_ack_pending": 20_000,  # room for what waits between two tries; more would hold the stream up
            "max_deliver": -1,  # the server would drop without a word; who gives up here writes a dead letter
            "filter_subjects": self._filters,
        }
        try:
            return await api(
                self._client,
                f"CONSUMER.CREATE.{self._stream}.{self._durable}",
                {"stream_name": self._stream, "config": config, "action": "create"},
            )
        except ApiError as error:
            raise PullError(str(error)) from error

    async def _ask(self, count: int) -> None:
        if not self._client.is_connected:
            raise PullError(f"connection to NATS lost ({self._stream})")
        now_s = time.monotonic()
        reconnects = self._client.stats["reconnects"]
        if reconnects != self._reconnects or now_s - self._asked_s > REQUEST_LOST_S:
            self._reconnects = reconnects
            self._outstanding = 0
        if self._outstanding > 0:
            return
        request = orjson.dumps({"batch": count, "expires": int(EXPIRES_S * 1e9)})
        with _translated("ask for messages"):
            await self._client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}", request, reply=self._inbox
            )
        self._outstanding, self._asked_s = count, now_s

    async def _collect(self, count: int, timeout_s: float) -> list[Message]:
        messages: list[Message] = []
        while len(messages) < count and (not messages or self._subscription.pending_msgs):
            try:
                with _translated("take"):
                    message = await self._subscription.next_msg(timeout=timeout_s)
            except PullError as error:
                if isinstance(error.__cause__, TimeoutError):
                    break
                raise
            if message.reply:
                self._outstanding -= 1
                with _translated("read a delivery"):
                    messages.append(_message(message))
                continue
            self._outstanding = 0
            self._judge(message)
            break
        if self._client.is_connected:
            self.problem = ""
        return messages

    def _judge(self, message: Msg) -> None:
        """The request is over: nothing left, expired, or the consumer is gone."""
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status not in _OVER:
            log.warning("consumer is looked at again", stream=self._stream, durable=self._durable, answer=dict(headers))
            self._placed = False

    async def _answer(self, message: Message, answer: bytes) -> None:
        with _translated("acknowledge"):
            await self._client.publish(message.reply, answer)


def _message(message: Msg) -> Message:
    metadata = message.metadata
    headers = message.headers or {}
    received = headers.get(RECV_NS, "")
    received_at = metadata.timestamp
    if received.isascii() and received.isdigit() and len(received) <= 19:
        received_at = _EPOCH + timedelta(microseconds=int(received) // 1000)
    return Message(
        message.subject,
        message.data,
        headers,
        metadata.sequence.stream,
        metadata.num_delivered,
        received_at,
        metadata.num_pending,
        message.reply,
    )


async def connect_patiently(nats_url: str, name: str, stop: asyncio.Event) -> Client | None:
    """A connection that comes back by itself, however long the first one takes; None if `stop` was set first."""
    said = ""
    while not stop.is_set():
        try:
            return await connect(nats_url, name=name)
        except ConnectionError as error:
            if (text := str(error)) != said:
                said = text
                log.warning("waiting for NATS", connection=name, url=redact(nats_url), error=text)
            await sleep_or_stop(stop, RETRY_S)
    return None


async def flush(client: Client) -> None:
    """Send what is still in the client's buffer, the last acknowledgements; a second at most."""
    with contextlib.suppress(NatsError, TimeoutError, OSError):
        await asyncio.wait_for(client.flush(1), 1.5)


async def sleep_or_stop(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not beyond the stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Errors of nats-py, but for a refusal by JetStream, as `PullError`."""
    try:
        yield
    except (NatsError, nats.errors.TimeoutError, TimeoutError, OSError) as error:
        raise PullError(f"NATS: {what}: {error or type(error).__name__}") from error
