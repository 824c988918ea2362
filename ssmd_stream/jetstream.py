"""What every daemon needs of JetStream: a connection, its stream made or checked, a fast read of what is stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ssmd_core.errors import PublishError, SsmdError, StreamMismatchError
from ssmd_core.feeds.subjects import StreamName

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # one frame, the largest that a feed accepts (feeds.base.Limits)
HEADER_BYTES = 4096  # room for the headers of one message; ssmd's take about 200
NO_MESSAGES = "404"  # status of a pull that found nothing
API_TIMEOUT_S = 5.0


class ApiError(SsmdError):
    """JetStream answered a request with an error.

    Attributes:
        code: HTTP-like status.
        err_code: JetStream's own number, e.g. 10059 for a stream that does not exist.
    """

    def __init__(self, subject: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{subject}: {description} (code {code}, err_code {err_code})")
        self.code = code
        self.err_code = err_code


STREAM_NOT_FOUND = 10059


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of a stream that ssmd makes; a stream that exists keeps its own.

    Attributes:
        max_age_s: messages older than this are removed; the archiver must not be away longer.
        max_bytes: the oldest messages are removed above it; -1 is no limit, the default on purpose: a full disk
            is refused loudly and spooled, a size limit silently removes what is not yet archived.
        duplicate_window_s: for how long the server refuses a `Nats-Msg-Id` that it has stored.
    """

    max_age_s: float = 48 * 3600.0
    max_bytes: int = -1
    duplicate_window_s: float = 120.0


class StreamState(msgspec.Struct, frozen=True):
    """State of a stream.

    Attributes:
        created: when the stream was made, RFC 3339 with nanoseconds; another stream of the same name has another.
        first_seq: first sequence still stored.
        last_seq: last sequence given out; 0 if none was.
    """

    created: str
    first_seq: int
    last_seq: int


async def connect(
    nats_url: str,
    *,
    name: str,
    reconnect: bool = True,
    timeout_s: float = 3.0,
    on_closed: Callable[[], None] | None = None,
) -> Client:
    """Connect to NATS.

    Args:
        nats_url: `nats://[user:password@]host:port`, several separated by commas.
        name: what the server's monitoring shows.
        reconnect: whether the client comes back on its own for ever. A publisher must not use it: the client then
            sends what stood in its buffer before the loss, behind the publisher's back.
        timeout_s: for the first connection, over all attempts.
        on_closed: called when the connection is lost (reconnect=False) or closed.

    Raises:
        ConnectionError: no server could be reached in time; the message names the last reason.
    """
    client = Client()
    last_error: Exception | None = None

    async def on_error(error: Exception) -> None:
        nonlocal last_error
        last_error = error
        if client.is_connected:
            log.warning("nats_error", connection=name, error=repr(error))

    async def closed() -> None:
        if on_closed is not None:
            on_closed()

    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(
                servers=nats_url.split(","),
                name=name,
                allow_reconnect=reconnect,
                max_reconnect_attempts=-1,
                # The server may be back within a second; 0.1 s costs one refused SYN per attempt.
                reconnect_time_wait=0.1,  # type: ignore[arg-type]  # declared int, given to asyncio.sleep
                connect_timeout=2,
                ping_interval=10,
                max_outstanding_pings=2,
                # One batch goes in as one blob; the default of 2 MiB would wait for a flush inside the call.
                pending_size=256 * 1024 * 1024,
                error_cb=on_error,
                closed_cb=closed,
                disconnected_cb=closed if not reconnect else None,
            )
    except (TimeoutError, OSError, NatsError) as error:
        await abort(client)
        reason = last_error if isinstance(error, TimeoutError) and last_error is not None else error
        raise ConnectionError(f"NATS at {redact(nats_url)} cannot be reached: {reason!r}") from error
    return client


def redact(nats_url: str) -> str:
    """The URL without user, password or token."""
    return ",".join(
        f"{head}{tail.rpartition('@')[2]}" for head, tail in (_split_scheme(url) for url in nats_url.split(","))
    )


def _split_scheme(url: str) -> tuple[str, str]:
    scheme, separator, rest = url.partition("://")
    return (scheme + separator, rest) if separator else ("", url)


async def abort(client: Client) -> None:
    """Close a connection without sending what stands in its buffers; never waits longer than a second.

    `Client.close` writes the buffered commands and waits until the socket took them: for ever, if the server is
    stopped rather than gone, and too late to be wanted if it wakes up.
    """
    # nats-py 2.16 keeps commands in `_pending` and the stream writer in `_transport._io_writer`; both private. Its own
    # `_close` stops half-way if the socket fails under it, and then leaves the subscriptions' tasks running.
    subscriptions = list(client._subs.values())
    client._pending.clear()
    client._pending_data_size = 0
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()
    with contextlib.suppress(TimeoutError, OSError, NatsError):
        await asyncio.wait_for(client.close(), 1.0)
    for subscription in subscriptions:
        if subscription._wait_for_msgs_task is not None:
            subscription._wait_for_msgs_task.cancel()


async def api(nc: Client, subject: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to JetStream's API; `subject` without the leading `$JS.API.`.

    Raises:
        ApiError: JetStream refused it.
        NatsError: no answer in `API_TIMEOUT_S`, JetStream off, or the connection lost.
    """
    payload = b"" if request is None else orjson.dumps(request)
    answer = await nc.request(f"$JS.API.{subject}", payload, timeout=API_TIMEOUT_S)
    body: dict[str, Any] = orjson.loads(answer.data)
    if error := body.get("error"):
        raise ApiError(subject, error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
    return body


async def stream_state(nc: Client, name: str) -> StreamState:
    """State of the stream `name`.

    Raises:
        ApiError, NatsError: see `api`.
    """
    return _state(await api(nc, f"STREAM.INFO.{name}"))


def _state(info: dict[str, Any]) -> StreamState:
    return StreamState(info["created"], info["state"]["first_seq"], info["state"]["last_seq"])


async def ensure_stream(nc: Client, name: StreamName, limits: StreamLimits | None = None) -> StreamState:
    """Make the stream if it is absent, check it if it is present.

    A stream that exists keeps its limits; only `allow_atomic` is switched on where it is off.

    Raises:
        StreamMismatchError: the stream, or one that takes its subjects, is not what ssmd needs; says what differs.
        PublishError: the server's `max_payload` is too small, or it cannot publish atomically (before 2.12).
        NatsError: no answer, or the connection lost.
    """
    if nc.max_payload < MAX_MESSAGE_BYTES + HEADER_BYTES:
        raise PublishError(
            f"nats-server allows max_payload {nc.max_payload} bytes, but one frame may have "
            f"{MAX_MESSAGE_BYTES + HEADER_BYTES}: set max_payload to 32MiB"
        )
    try:
        info = await api(nc, f"STREAM.INFO.{name.jetstream}")
    except ApiError as error:
        if error.err_code != STREAM_NOT_FOUND:
            raise StreamMismatchError(f"stream {name.jetstream}: {error}") from error
        info = await _create(nc, name, limits or StreamLimits())
    config = info["config"]
    if differences := _differences(config, name):
        raise StreamMismatchError(f"stream {name.jetstream}: {'; '.join(differences)}")
    if not config.get("allow_atomic"):
        log.warning("stream_made_atomic", stream=name.jetstream)
        info = await _change(nc, "UPDATE", name, {**config, "allow_atomic": True})
    if not info["config"].get("allow_atomic"):
        raise PublishError(
            f"nats-server {nc.connected_server_version} did not accept allow_atomic on stream {name.jetstream}: "
            "atomic batches need 2.12 or later"
        )
    return _state(info)


async def _create(nc: Client, name: StreamName, limits: StreamLimits) -> dict[str, Any]:
    config = {
        "name": name.jetstream,
        "subjects": [name.filter],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": 1,
        "max_age": int(limits.max_age_s * 1e9),
        "max_bytes": limits.max_bytes,
        "max_msgs": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "duplicate_window": int(min(limits.duplicate_window_s, limits.max_age_s) * 1e9),  # JetStream asks for that
        "allow_direct": True,
        "allow_atomic": True,
    }
    log.info("stream_made", stream=name.jetstream, subjects=name.filter)
    return await _change(nc, "CREATE", name, config)


async def _change(nc: Client, verb: str, name: StreamName, config: dict[str, Any]) -> dict[str, Any]:
    try:
        return await api(nc, f"STREAM.{verb}.{name.jetstream}", config)
    except ApiError as error:
        raise StreamMismatchError(f"stream {name.jetstream} on {name.filter}: {error}") from error


def _differences(config: dict[str, Any], name: StreamName) -> list[str]:
    subjects = config.get("subjects") or []
    found = []
    if not any(covers(subject, name.filter) for subject in subjects):
        found.append(f"subjects {subjects} do not cover {name.filter}")
    if config.get("storage") != "file":
        found.append(f"storage is {config.get('storage')!r}, not 'file'")
    if config.get("retention") != "limits":
        found.append(f"retention is {config.get('retention')!r}, not 'limits'")
    if config.get("sealed"):
        found.append("it is sealed")
    if config.get("no_ack"):
        found.append("no_ack is on: nothing would be acknowledged")
    if config.get("persist_mode") == "async":
        found.append("persist_mode is 'async': acknowledgements would come before the disk")
    size = config.get("max_msg_size", -1)
    if 0 <= size < MAX_MESSAGE_BYTES + HEADER_BYTES:
        found.append(f"max_msg_size is {size}, less than {MAX_MESSAGE_BYTES + HEADER_BYTES}")
    return found


def covers(subject: str, wanted: str) -> bool:
    """Whether every subject that matches `wanted` matches `subject` too (both may hold `*` and a last `>`)."""
    have, want = subject.split("."), wanted.split(".")
    for index, part in enumerate(have):
        if part == ">":
            return len(want) > index
        if index >= len(want) or want[index] == ">":
            return False
        if part not in ("*", want[index]):
            return False
    return len(have) == len(want)


async def read_stored(
    nc: Client, stream: str, *, after_seq: int, headers_only: bool = False, batch: int = 2000
) -> AsyncIterator[tuple[int, Msg]]:
    """Stored messages of a stream with a sequence above `after_seq`, up to its present end, in order.

    Reads through an ephemeral pull consumer with its own `MSG.NEXT` requests: nats-py's `fetch` is two to four
    times slower (peers: 16-19 k against 38-90 k messages/s).

    Args:
        stream: JetStream name.
        after_seq: 0 reads from the first.
        headers_only: leave the payloads on the server.
        batch: messages asked for at a time.

    Yields:
        (sequence, message).

    Raises:
        ApiError, NatsError: see `api`; NatsError also if the answers stop.
    """
    consumer = await api(
        nc,
        f"CONSUMER.CREATE.{stream}",
        {
            "stream_name": stream,
            "config": {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": after_seq + 1,
                "ack_policy": "none",
                "headers_only": headers_only,
                "inactive_threshold": 60_000_000_000,
                "mem_storage": True,
            },
        },
    )
    next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer['name']}"
    request = orjson.dumps({"batch": batch, "no_wait": True})
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox, pending_msgs_limit=0, pending_bytes_limit=0)
    try:
        while True:
            await nc.publish(next_subject, request, reply=inbox)
            for _ in range(batch):
                message = await subscription.next_msg(timeout=API_TIMEOUT_S)
                if not message.reply:  # a status: nothing left, or fewer than asked for
                    break
                metadata = message.metadata
                yield metadata.sequence.stream, message
                if metadata.num_pending == 0:
                    return
            else:
                continue
            status = (message.headers or {}).get("Status")
            if status != NO_MESSAGES:
                raise NatsError(f"reading {stream} ended with {message.headers!r}")
            return
    finally:
        with contextlib.suppress(ApiError, NatsError, OSError):
            await subscription.unsubscribe()
            await api(nc, f"CONSUMER.DELETE.{stream}.{consumer['name']}")
