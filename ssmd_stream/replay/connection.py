"""One client of a replay server: frames in both directions, written in batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import picows

from ssmd_stream.replay.faults import Binary, Spoiler
from ssmd_stream.replay.protocol import Session
from ssmd_stream.replay.sent_log import SentLog
from ssmd_stream.replay.venues_rest.tape import Tape

# Above this the server stops until the client has read: a reader that is slow is not run over.
HIGH_WATER_BYTES = 1024 * 1024
_CLOSE_WAIT_S = 2.0
_SHORT = [bytes((0x81, size)) for size in range(126)]
_BINARY = b"\x82"


def encode_frame(payload: bytes) -> tuple[bytes, bytes]:
    """Header and payload of a whole frame from server to client (unmasked): text, unless it is `Binary`."""
    size = len(payload)
    if size < 126:
        header = _SHORT[size]
    elif size < 65_536:
        header = b"\x81\x7e" + size.to_bytes(2, "big")
    else:
        header = b"\x81\x7f" + size.to_bytes(8, "big")
    return (_BINARY + header[1:] if type(payload) is Binary else header), payload


class Connection(picows.WSListener):
    """A client's connection.

    Args:
        ordinal: number of the connection on this server, from 0.
        session: the venue's protocol.
        log: where sent frames are noted, or None.
        on_change: called when the connection opened, closed or changed its subscriptions.
        muted: snapshots are withheld (a fault on demand).
        spoiler: what else is done wrong with its subscriptions.
        tape: where the trades of snapshots are noted, or None.
    """

    def __init__(
        self,
        ordinal: int,
        session: Session,
        log: SentLog | None,
        on_change: Callable[[], None],
        *,
        muted: bool,
        spoiler: Spoiler,
        tape: Tape | None = None,
    ) -> None:
        self.ordinal = ordinal
        self.session = session
        self.muted = muted
        self.spoiler = spoiler
        self.frames_sent = 0
        self.peer_port = 0
        self.open = False
        self.half_open = False
        self.silent_until = 0.0
        self.last_sent = time.monotonic()
        self.last_ping = self.last_sent
        self.writable = asyncio.Event()
        self._log = log
        self._tape = tape
        self._on_change = on_change
        self._transport: picows.WSTransport | None = None
        self._fragments: list[bytes] = []

    @property
    def wants_data(self) -> bool:
        """Whether data may be sent now."""
        return (
            self.open
            and not self.half_open
            and not self.muted
            and time.monotonic() >= self.silent_until
            and self.session.subscribed
        )

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait for the client to read."""
        if self._transport is None or not self.open:
            return 0
        return self._transport.underlying_transport.get_write_buffer_size()

    def write(self, frames: list[bytes]) -> None:
        """Send frames; those for a dead or half-open connection are lost and not noted."""
        if not frames or not self.open or self.half_open or self._transport is None:
            return
        if self._log is not None:
            self._log.write(self.ordinal, self.peer_port, frames)
        self.frames_sent += len(frames)
        self.last_sent = time.monotonic()
        # One write per batch: picows writes one frame per system call, which costs more than everything else here.
        parts: list[bytes] = []
        for frame in frames:
            parts.extend(encode_frame(frame))
        self._transport.underlying_transport.write(b"".join(parts))

    def tick(self) -> None:
        """Heartbeats and pings that are due; called a few times a second."""
        if not self.open or self.half_open or self._transport is None:
            return
        now = time.monotonic()
        self.write(self.session.idle(now - self.last_sent))
        if self.session.ping_body is not None and now - self.last_ping >= self.session.ping_interval_s:
            self.last_ping = now
            self._transport.send_ping(self.session.ping_body)

    def silence(self, duration_s: float | None) -> None:
        """Withhold data; heartbeats and replies go on. None: as long as the connection lives."""
        self.silent_until = float("inf") if duration_s is None else time.monotonic() + duration_s

    def freeze(self) -> None:
        """Neither read nor write any more, and do not close."""
        self.half_open = True
        if self._transport is not None:
            self._transport.underlying_transport.pause_reading()
        self.writable.set()
        self._on_change()

    def close(self, code: int, reason: str) -> None:
        """Send a Close frame; the TCP connection is dropped if the client does not answer."""
        if self._transport is None or not self.open:
            return
        self._transport.send_close(cast("picows.WSCloseCode", code), reason.encode())
        self._gone()
        asyncio.get_running_loop().call_later(_CLOSE_WAIT_S, self._transport.disconnect, False)

    def reset(self) -> None:
        """Drop the TCP connection without a Close frame."""
        if self._transport is not None:
            self._transport.underlying_transport.abort()
        self._gone()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport
        underlying = transport.underlying_transport
        underlying.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.peer_port = underlying.get_extra_info("peername")[1]
        self.open = True
        self.writable.set()
        self.write(self.session.opening())
        self._on_change()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            code = frame.get_close_code() if frame.payload_size >= 2 else picows.WSCloseCode.OK
            transport.send_close(code, frame.get_close_message())
            transport.disconnect()
            self._gone()
        elif frame.msg_type in (picows.WSMsgType.TEXT, picows.WSMsgType.BINARY, picows.WSMsgType.CONTINUATION):
            self._fragments.append(frame.get_payload_as_bytes())
            if frame.fin:
                message = self.spoiler.command(b"".join(self._fragments))
                self._fragments.clear()
                version = self.session.version
                replies = self.session.receive(message)
                if self._tape is not None:
                    self._tape.take(replies.data)
                self.write(self.spoiler.replies(replies.control))
                if not self.muted and time.monotonic() >= self.silent_until:
                    self.write(self.spoiler.data(replies.data))
                if self.session.version != version:
                    self._on_change()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        del transport
        self._gone()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def _gone(self) -> None:
        if self.open:
            self.open = False
            self.writable.set()
            self._on_change()
