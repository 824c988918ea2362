"""Changes of the security master for those who follow it: the cache, connectors that subscribe what becomes active.

    async with ChangeFeed(nats_url, name="cache", after_seq=seq) as feed:
        async for changes in feed.batches():
            ...

In commit order, each once, from a sequence or a time on, for ever: what breaks is made again behind the scenes. Only
what cannot be mended is raised: `ChangesLostError` says that changes are gone and the tables must be read again.

To start without a gap: the stream's last sequence first (`jetstream.stream_state`), then read the tables, then follow
from that sequence. What changed in between comes twice, the second time as an event, and events say everything of a
row: apply insert and update alike, as a row to put in the place of the one before. Columns in `unchanged` keep their
value and are not in `data`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import nats.errors
import orjson
import structlog

from ssmd_core.clock import NS_PER_S
from ssmd_core.errors import SsmdError
from ssmd_stream import jetstream
from ssmd_stream.archive.pull import PullClient
from ssmd_stream.cdc.names import STREAM

log = structlog.get_logger()

Op = Literal["insert", "update", "delete", "truncate"]

BATCH = 1_000
MAX_BATCH_BYTES = 16 * 1024 * 1024
EXPIRES_S = 5.0
SILENCE_S = EXPIRES_S + 3.0  # a request that was neither answered nor ended for so long was lost
REMEMBERED_IDS = 65_536
BACKOFF_S = (0.1, 5.0)

_STATUS = re.compile(rb"NATS/1\.0 ([0-9]{3}) ?([^\r\n]*)")
_MSG_ID = re.compile(rb"\r\nNats-Msg-Id: ?([^\r\n]+)")
_CONSUMER_KEPT_S = 60


class ChangesLostError(SsmdError):
    """Changes after the wanted one are no longer, or never were, in the stream: read the tables again."""


class ChangeError(SsmdError):
    """A message of the stream is not a change."""


class Change(msgspec.Struct, frozen=True):
    """One change of one row, or the emptying of a table.

    Attributes:
        table: without schema.
        op: what happened. `truncate` has no key and no data: every row of the table is gone.
        key: the columns of the replica identity (the primary key), by name.
        data: JSON object of all columns after the change but for those in `unchanged`; `null` for delete and
            truncate. `values()` decodes it.
        commit_lsn, ordinal: place in the order of changes.
        lsn: position of the change itself in Postgres's log; rows of one COPY share it.
        xid: transaction.
        commit_ts: when it was committed, RFC 3339 UTC.
        timestamp: when it was published, RFC 3339 UTC.
        unchanged: large columns that the update did not touch; Postgres does not send them.
        stream_seq: place in the stream; to go on after a restart, ask for what comes after it.
    """

    table: str
    op: Op
    key: dict[str, Any]
    data: msgspec.Raw
    commit_lsn: str
    ordinal: int
    lsn: str
    xid: int
    commit_ts: str
    timestamp: str
    unchanged: tuple[str, ...] = ()
    stream_seq: int = 0

    def values(self) -> dict[str, Any] | None:
        """The row's columns: NUMERIC as text, times as RFC 3339 text; None for delete and truncate."""
        decoded: dict[str, Any] | None = orjson.loads(bytes(self.data))
        return decoded


_DECODER = msgspec.json.Decoder(Change)


class _Interrupted(Exception):
    """The consumer must be made again; the text says why."""


class ChangeFeed:
    """Follows the stream of changes.

    Args:
        nats_url: see `jetstream.connect`.
        name: of the follower, for NATS's monitoring and logs.
        after_seq: deliver what comes after this sequence; 0 for all that the stream holds.
        since_ns: instead: deliver what was stored at or after this time, epoch nanoseconds.
        created: of the stream in which `after_seq` was seen, if known: another stream is then refused.
        tables: only changes of these tables; empty for all.

    Attributes:
        connected: whether changes can arrive now.
        problem: why not; "" if they can.
        pending: changes in the stream that had not arrived with the last one.
        duplicates: changes left out because their id had come before.
        interruptions: times that the connection or the consumer had to be made again.
    """

    def __init__(
        self,
        nats_url: str,
        *,
        name: str,
        after_seq: int | None = None,
        since_ns: int | None = None,
        created: str = "",
        tables: Sequence[str] = (),
    ) -> None:
        if (after_seq is None) == (since_ns is None):
            raise ValueError("either after_seq or since_ns")
        self._nats_url = nats_url
        self._name = name
        self._since_ns = since_ns
        self._created = created
        self._subjects = [f"cdc.{table}.>" for table in tables]
        self._client: PullClient | None = None
        self._ids: set[bytes] = set()
        self._ids_in_order: deque[bytes] = deque()
        self._arrived: list[tuple[int, bytes, bytes]] = []
        self._wake = asyncio.Event()
        self._expected = 1
        self._outstanding = 0
        self._heard_s = 0.0
        self._broken = ""
        self._seq = after_seq
        self.connected = False
        self.problem = ""
        self.pending = 0
        self.duplicates = 0
        self.interruptions = 0

    @property
    def seq(self) -> int | None:
        """Sequence of the last change handed out, or where the feed starts; None before the first of `since_ns`."""
        return self._seq

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connection; the consumer on the server ends by itself a minute later."""
        self.connected = False
        if self._client is not None:
            client, self._client = self._client, None
            await jetstream.abort(client)

    async def __aiter__(self) -> AsyncIterator[Change]:
        """Every change, one by one."""
        async for changes in self.batches():
            for change in changes:
                yield change

    async def batches(self) -> AsyncIterator[list[Change]]:
        """What has arrived, at once, never empty; waits for more for ever.

        Raises:
            ChangesLostError: the stream no longer holds what comes after `seq`, or is another one.
            ChangeError: a message of the stream is not a change.
        """
        backoff_s, most_s = BACKOFF_S
        while True:
            try:
                await self._open()
                backoff_s = BACKOFF_S[0]
                while True:
                    if changes := await self._take():
                        yield changes
            except (_Interrupted, nats.errors.Error, jetstream.ApiError, OSError, TimeoutError) as error:
                self.interruptions += 1
                if self.problem != (reason := str(error) or repr(error)):
                    log.warning("change_feed_interrupted", follower=self._name, reason=reason)
                self.problem = reason
            finally:
                await self.close()
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, most_s)

    async def _open(self) -> None:
        self._arrived, self._outstanding, self._broken, self._expected = [], 0, "", 1
        client = self._client = PullClient()
        async with asyncio.timeout(3.0):
            await client.connect(
                self._nats_url.split(","), name=f"ssmd-{self._name}", allow_reconnect=False, closed_cb=self._on_closed
            )
        state = await jetstream.stream_state(client, STREAM)
        self._check(state)
        config: dict[str, Any] = {
            "ack_policy": "none",
            "inactive_threshold": _CONSUMER_KEPT_S * NS_PER_S,
            "mem_storage": True,
            "filter_subjects": self._subjects,
        }
        if self._seq is None:
            assert self._since_ns is not None
            start = datetime.fromtimestamp(self._since_ns / NS_PER_S, UTC).isoformat()
            config |= {"deliver_policy": "by_start_time", "opt_start_time": start}
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._seq + 1}
        consumer = await jetstream.api(client, f"CONSUMER.CREATE.{STREAM}", {"stream_name": STREAM, "config": config})
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer['name']}"
        self._inbox = client.new_inbox()
        await client.subscribe_raw(self._inbox, self._on_message)
        self.pending = consumer.get("num_pending", 0)
        self._heard_s = time.monotonic()
        self.connected, self.problem = True, ""

    def _check(self, state: jetstream.StreamState) -> None:
        if self._created and state.created != self._created:
            raise ChangesLostError(f"{STREAM} was made anew at {state.created} (before: {self._created})")
        self._created = state.created
        if self._seq is None:
            return
        if self._seq > state.last_seq:
            raise ChangesLostError(f"{STREAM} ends at {state.last_seq}, before {self._seq}: it lost messages")
        if self._seq and self._seq + 1 < state.first_seq:
            raise ChangesLostError(f"{STREAM} begins at {state.first_seq}: what follows {self._seq} has aged out")

    async def _on_closed(self) -> None:
        self._broken = self._broken or "connection to NATS lost"
        self._wake.set()

    async def _take(self) -> list[Change]:
        client = self._client
        assert client is not None
        if self._outstanding <= BATCH // 2 and len(self._arrived) <= BATCH:
            request = {"batch": BATCH, "max_bytes": MAX_BATCH_BYTES, "expires": int(EXPIRES_S * NS_PER_S)}
            await client.publish(self._next, orjson.dumps(request), reply=self._inbox)
            self._outstanding += BATCH
        if not self._arrived:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), EXPIRES_S)
        if not self._arrived:
            if self._broken:
                raise _Interrupted(self._broken)
            if time.monotonic() - self._heard_s > SILENCE_S:
                raise _Interrupted(f"nothing heard from NATS for {SILENCE_S:.0f} s")
        arrived, self._arrived = self._arrived, []
        changes = [self.decode(seq, payload) for seq, headers, payload in arrived if self._is_new(headers)]
        self._seq = arrived[-1][0] if arrived else self._seq
        return changes

    def decode(self, seq: int, payload: bytes) -> Change:
        """One message. To be overridden by who would rather do something else with one that is not a change.

        Args:
            seq: of the message in the stream.
            payload: its body.

        Raises:
            ChangeError, RecursionError: it is not a change; `batches` passes that on.
        """
        try:
            change = _DECODER.decode(payload)
        except msgspec.DecodeError as error:
            raise ChangeError(f"{STREAM} {seq}: {error}: {payload[:200]!r}") from error
        return msgspec.structs.replace(change, stream_seq=seq)

    def _on_message(self, _subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self._heard_s = time.monotonic()
        if not reply.startswith(b"$JS.ACK."):
            self._on_status(headers)
            return
        if self._broken:
            return
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>; servers with a domain
        # put domain and account in front of the stream and a token at the end.
        fields = reply.split(b".")
        first = 2 if len(fields) == 9 else 4
        seq, consumer_seq, self.pending = int(fields[first + 3]), int(fields[first + 4]), int(fields[first + 6])
        self._outstanding -= 1
        if consumer_seq != self._expected:
            self._broken = f"delivery {consumer_seq} came instead of {self._expected}"
            self._wake.set()
            return
        self._expected += 1
        self._arrived.append((seq, headers, payload))
        self._wake.set()

    def _is_new(self, headers: bytes) -> bool:
        found = _MSG_ID.search(headers)
        if found is None:
            return True
        id_ = found[1]
        if id_ in self._ids:
            self.duplicates += 1
            return False
        self._ids.add(id_)
        self._ids_in_order.append(id_)
        if len(self._ids_in_order) > REMEMBERED_IDS:
            self._ids.discard(self._ids_in_order.popleft())
        return True

    def _on_status(self, headers: bytes) -> None:
        status = _STATUS.match(headers)
        code, text = (status[1], status[2]) if status else (b"", headers[:100])
        if code == b"100":
            return
        if code in (b"404", b"408") or text == b"Batch Completed":
            self._outstanding = 0
        else:  # the consumer or the server has gone
            self._broken = self._broken or f"NATS said {code.decode()} {text.decode(errors='replace')}"
        self._wake.set()
