"""What JetStream says of a captured stream, asked for without leaving anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Feed
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.control import CONTROL_TYPE
from ssmd_core.messages.headers import read_stamp
from ssmd_stream.jetstream import STREAM_NOT_FOUND, ApiError, abort, api, connect

log = structlog.get_logger()

RATE_WINDOW_S = 10
_ANSWER_S = 0.8
_CONNECT_S = 2.0
_RETRY_S = 5.0
# A consumer is deleted as soon as it has answered; one that a crash leaves is removed by the server after this time.
_CONSUMER_LIFE_NS = 5_000_000_000
_MAX_BATCH_BYTES = 8 * 1024 * 1024


class AwayError(Exception):
    """NATS cannot be asked now; the text says why, without secrets."""


class StreamLook(NamedTuple):
    """What JetStream holds of one stream.

    Attributes:
        last_seq: last sequence given out.
        market_ns: receive time of the newest market message, epoch ns; None if none is held.
        sign_ns: receive time of the newest of ssmd's own events, by which its connector shows that it lives.
        market_per_s: market messages a second over the last `RATE_WINDOW_S`.
    """

    last_seq: int
    market_ns: int | None
    sign_ns: int | None
    market_per_s: float


class Streams:
    """One connection to NATS, opened when first needed; afterwards the client comes back on its own.

    Args:
        nats_url: see `ssmd_stream.jetstream.connect`.
    """

    def __init__(self, nats_url: str) -> None:
        self._url = nats_url
        self._client: Client | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._retry_at_s = 0.0
        self._reason = ""

    async def look(self, name: StreamName) -> StreamLook | None:
        """Look at one stream.

        Returns:
            None if there is no such stream.

        Raises:
            AwayError: no answer within a second.
        """
        nc = await self._connected()
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await _look(nc, name)
        except ApiError as error:
            if error.err_code == STREAM_NOT_FOUND:
                return None
            raise AwayError(f"NATS refuses to tell: error {error.err_code}") from error
        except (NatsError, TimeoutError, OSError) as error:
            raise AwayError(f"NATS does not answer: {type(error).__name__}") from error

    async def newest(self, name: StreamName, tokens: Sequence[str], after_seq: int, most: int) -> list[Msg]:
        """Stored messages of some types behind a sequence, in order.

        Args:
            most: how many at most.

        Raises:
            AwayError: no answer within a second.
        """
        nc = await self._connected()
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await _newest(nc, name, tokens, after_seq, most)
        except (ApiError, NatsError, TimeoutError, OSError) as error:
            raise AwayError(f"NATS does not answer: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close the connection."""
        if (connecting := self._connecting) is not None:
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connecting
        if self._client is not None:
            await abort(self._client)

    async def _connected(self) -> Client:
        if self._client is not None:
            if not self._client.is_connected:
                raise AwayError("the connection to NATS is lost")
            return self._client
        if self._connecting is None and time.monotonic() >= self._retry_at_s:
            self._connecting = asyncio.create_task(self._connect())
        if self._connecting is not None and not self._reason:
            await asyncio.wait({self._connecting}, timeout=_ANSWER_S)
        if self._client is None:
            # After a first failure nobody waits for the next attempt.
            raise AwayError(self._reason or "NATS does not answer yet")
        return self._client

    async def _connect(self) -> None:
        try:
            self._client = await connect(self._url, name="ssmd api status", timeout_s=_CONNECT_S)
        except ConnectionError as error:
            if not self._reason:
                log.warning("nats_away", error=str(error))
            self._reason = "NATS cannot be reached"
            self._retry_at_s = time.monotonic() + _RETRY_S
        finally:
            self._connecting = None


def market_tokens(feed: Feed) -> tuple[str, ...]:
    """Subject tokens of what is about the market rather than the connection."""
    return tuple(dict.fromkeys(kind.token for kind in feed.message_types.values() if kind.token != CONTROL_TYPE))


async def _look(nc: Client, name: StreamName) -> StreamLook:
    stream, tokens = name.jetstream, market_tokens(name.feed)
    info = await api(nc, f"STREAM.INFO.{stream}")
    # By the server's clock: ours may be another machine's, or that of a rehearsal.
    server_now = datetime.fromisoformat(info["ts"])
    since = server_now - timedelta(seconds=RATE_WINDOW_S)
    count, sign, *market = await asyncio.gather(
        _count(nc, name, tokens, since),
        *(_last_ns(nc, stream, name.subject(token, ">")) for token in (CONTROL_TYPE, *tokens)),
    )
    return StreamLook(
        last_seq=info["state"]["last_seq"],
        market_ns=max((ns for ns in market if ns is not None), default=None),
        sign_ns=sign,
        market_per_s=(count or 0) / RATE_WINDOW_S,
    )


async def _last_ns(nc: Client, stream: str, subject: str) -> int | None:
    request = orjson.dumps({"last_by_subj": subject})
    found = await nc.request(f"$JS.API.DIRECT.GET.{stream}", request, timeout=_ANSWER_S)
    try:
        return read_stamp(found.headers).recv_ns
    except FrameError:  # none on that subject, or a stranger's
        return None


async def _count(nc: Client, name: StreamName, tokens: Sequence[str], since: datetime) -> int:
    """How many messages of these types the stream has taken since then: what a consumer from there would have ahead."""
    start = {"deliver_policy": "by_start_time", "opt_start_time": since.isoformat()}
    consumer = await _consumer(nc, name, tokens, start)
    await _forget(nc, name, consumer)
    pending: int = consumer["num_pending"]
    return pending


async def _newest(nc: Client, name: StreamName, tokens: Sequence[str], after_seq: int, most: int) -> list[Msg]:
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": after_seq + 1}
    consumer = await _consumer(nc, name, tokens, start)
    found: list[Msg] = []
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    try:
        batch = min(most, consumer["num_pending"])
        if batch:
            request = orjson.dumps({"batch": batch, "no_wait": True, "max_bytes": _MAX_BATCH_BYTES})
            await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{name.jetstream}.{consumer['name']}", request, reply=inbox)
        while len(found) < batch:
            message = await subscription.next_msg(timeout=_ANSWER_S)
            if not message.reply:  # a status: nothing left
                break
            found.append(message)
    finally:
        with contextlib.suppress(NatsError, OSError):
            await subscription.unsubscribe()
            await _forget(nc, name, consumer)
    return found


async def _consumer(nc: Client, name: StreamName, tokens: Sequence[str], start: dict[str, Any]) -> dict[str, Any]:
    config = {
        **start,
        "filter_subjects": [name.subject(token, ">") for token in tokens],
        "ack_policy": "none",
        "mem_storage": True,
        "inactive_threshold": _CONSUMER_LIFE_NS,
    }
    return await api(nc, f"CONSUMER.CREATE.{name.jetstream}", {"stream_name": name.jetstream, "config": config})


async def _forget(nc: Client, name: StreamName, consumer: dict[str, Any]) -> None:
    # Without waiting for the answer: the server removes it anyhow, soon.
    await nc.publish(f"$JS.API.CONSUMER.DELETE.{name.jetstream}.{consumer['name']}")
