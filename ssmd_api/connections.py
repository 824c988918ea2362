"""One connection of the API: uvicorn's, with an end to clients that send or take next to nothing.

uvicorn reads a request's head for as long as it comes and however long it is, and keeps a connection for as long as its
client does not take what was written. A thousand such clients, without any key, would use up all connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: Seconds for the head of a request, or for what is left of a body that nobody waits for.
HEAD_TIMEOUT_S = 10.0
#: Of one request, beside its body. A head that arrives in one read (256 KiB) is taken all the same.
MAX_HEAD_BYTES = 64 * 1024
#: Who takes less than 32 KiB in that time, about 1 KiB/s, does not read.
STUCK_S = 30.0
_MIN_TAKEN_BYTES = 32 * 1024

_TOO_LARGE = b'{"error":"the head of the request has more than %d bytes","code":"too_large"}' % MAX_HEAD_BYTES
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
)


class Connection(HttpToolsProtocol):
    """See module."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._unset_head_timer()
        self._unset_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            if self._is_idle():
                self.transport.write(_REFUSAL)
            self.transport.close()
        # uvicorn has just stopped its own timer for idle connections, whatever the client has sent.
        elif self._head_timer is None and self._is_idle():
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        self._unset_head_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See `httptools`."""
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools`."""
        self._head_bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._unset_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close; what the client has not taken by then is waited for only while it takes any."""
        super().timeout_keep_alive_handler()
        self._watch_writing()

    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _too_slow(self) -> None:
        self._head_timer = None
        self.transport.close()
        self._watch_writing()

    def _unset_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _unset_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _watch_writing(self) -> None:
        if self._write_timer is None and (waiting := self.transport.get_write_buffer_size()):
            self._write_timer = self.loop.call_later(STUCK_S, self._look_at_writing, waiting)

    def _look_at_writing(self, waited: int) -> None:
        self._write_timer = None
        waiting = self.transport.get_write_buffer_size()
        if waiting > max(0, waited - _MIN_TAKEN_BYTES):
            self.transport.abort()
        else:
            self._watch_writing()
