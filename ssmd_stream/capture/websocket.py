"""WebSocket client port: what a connection needs of a transport, and the two transports that provide it.

`picows` receives several times as many frames a second as `websockets` on one core; `websockets` is the second,
kept honest by running the same tests. Neither compresses (picows has no permessage-deflate), neither pings by
itself: keepalive is the connection's business because liveness is what was received.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import picows
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from ssmd_core.errors import ConnectError

TransportName = Literal["picows", "websockets"]
TOO_BIG = 1009
ABNORMAL = 1006
INTERNAL_ERROR = 1011

# A half-open TCP connection is found by the watchdogs; keepalive probes let the kernel find it as well when nothing
# is being sent at all (30 s of silence, then a probe every 10 s).
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


# How long the peer may take to answer a Close frame. What it sent before the answer is data like any other.
CLOSE_WAIT_S = 3.0


class Socket(Protocol):
    """An open WebSocket. Every method is synchronous and does nothing once the socket is closed."""

    local: str
    remote: str

    def send(self, text: str) -> None:
        """Send one text frame."""

    def ping(self) -> None:
        """Send a Ping frame; the Pong arrives at `Receiver.on_pong`."""

    def pause_reading(self) -> None:
        """Stop reading from the network; what has been read already is still delivered."""

    def resume_reading(self) -> None:
        """Read again."""

    def close(self, code: int, reason: str) -> None:
        """Send a Close frame; what the peer sent before its answer is still delivered, for `CLOSE_WAIT_S` at most."""

    def abort(self) -> None:
        """Drop the connection at once, for a peer that no longer answers."""


class Receiver(Protocol):
    """What a transport calls, always from the event loop, `on_open` first and `on_close` last, once each."""

    def on_open(self, socket: Socket) -> None:
        """The handshake is complete; called before the first message."""

    def on_message(self, message: bytes) -> None:
        """One whole message, text or binary, put together from its fragments."""

    def on_ping(self) -> None:
        """The peer sent a Ping; the transport has answered it."""

    def on_pong(self) -> None:
        """The peer sent a Pong."""

    def on_close(self, code: int, reason: str) -> None:
        """The connection is gone. `code` is 1006 if no Close frame was exchanged."""


async def open_websocket(
    transport: TransportName,
    url: str,
    receiver: Receiver,
    *,
    headers: Mapping[str, str],
    max_message_bytes: int,
    timeout_s: float,
) -> Socket:
    """Open a connection.

    Args:
        max_message_bytes: a larger message closes the connection with code 1009.
        timeout_s: for name look-up, TCP, TLS and the WebSocket handshake together.

    Raises:
        ConnectError: the name, the port, TLS or the HTTP answer is at fault; the text says which.
    """
    opener = _OPENERS[transport]
    try:
        async with asyncio.timeout(timeout_s):
            return await opener(url, receiver, headers, max_message_bytes)
    except TimeoutError as error:
        raise ConnectError(f"{url}: no WebSocket within {timeout_s:g} s") from error
    except picows.WSHandshakeError as error:
        response = error.response
        body = (error.raw_body or b"")[:200].decode(errors="replace")
        status = f"HTTP {int(response.status)} {body}".strip() if response is not None else str(error)
        raise ConnectError(f"{url}: {status}") from error
    except InvalidStatus as error:
        body = (error.response.body or b"")[:200].decode(errors="replace")
        raise ConnectError(f"{url}: {f'HTTP {error.response.status_code} {body}'.strip()}") from error
    except Exception as error:
        raise ConnectError(f"{url}: {type(error).__name__}: {error}") from error


class _Assembler:
    """Puts fragmented messages together; whole ones do not come here."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes, final: bool) -> bytes | None:
        """The message if `part` completes it.

        Raises:
            OverflowError: the message would exceed the limit.
        """
        self._size += len(part)
        if self._size > self._max_bytes:
            raise OverflowError(f"message of more than {self._max_bytes} bytes in fragments")
        self._parts.append(part)
        if not final:
            return None
        message = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return message


def _address(transport: asyncio.BaseTransport, name: str) -> str:
    address = transport.get_extra_info(name)
    if not address:
        return ""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    raw: socket.socket = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        raw.setsockopt(socket.IPPROTO_TCP, option, value)


_TEXT = picows.WSMsgType.TEXT
_WHOLE = (_TEXT, picows.WSMsgType.BINARY)
_PARTS = (*_WHOLE, picows.WSMsgType.CONTINUATION)
_PING = picows.WSMsgType.PING
_PONG = picows.WSMsgType.PONG


class _PicowsSocket(picows.WSListener):
    def __init__(self, receiver: Receiver, max_bytes: int) -> None:
        self._receiver = receiver
        self._on_message = receiver.on_message
        self._max_bytes = max_bytes
        self._assembler = _Assembler(max_bytes)
        self._transport: Any = None
        self._closing: tuple[int, str] | None = None
        self._watch: asyncio.Task[None] | None = None
        self.local = ""
        self.remote = ""

    def on_ws_connected(self, transport: Any) -> None:
        self._transport = transport
        self.local = _address(transport.underlying_transport, "sockname")
        self.remote = _address(transport.underlying_transport, "peername")
        _keep_alive(transport.underlying_transport)
        self._watch = asyncio.get_running_loop().create_task(self._wait_closed())
        self._receiver.on_open(self)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.payload_size > self._max_bytes:
            # picows has sent Close 1009, but goes on for 10 ms, in which the rest of the frame may arrive.
            return
        kind = frame.msg_type
        if kind in _WHOLE and frame.fin:
            self._on_message(frame.get_payload_as_bytes())
        elif kind in _PARTS:
            try:
                message = self._assembler.add(frame.get_payload_as_bytes(), frame.fin)
            except OverflowError as error:
                self.close(TOO_BIG, str(error))
                return
            if message is not None:
                self._on_message(message)
        elif kind == _PING:
            transport.send_pong(frame.get_payload_as_bytes())
            self._receiver.on_ping()
        elif kind == _PONG:
            self._receiver.on_pong()
        else:
            if self._closing is None:
                transport.send_close(frame.get_close_code())
            transport.disconnect()

    async def _wait_closed(self) -> None:
        failure = ""
        try:
            await self._transport.wait_disconnected()
        except picows.WSProtocolError as error:
            failure = str(error)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        code, reason = self._closing or self._close_code(failure)
        self._receiver.on_close(code, reason)

    def _close_code(self, failure: str) -> tuple[int, str]:
        handshake = self._transport.close_handshake
        if handshake is None:
            return ABNORMAL, failure or "connection lost without a Close frame"
        if handshake.recv is not None:
            return int(handshake.recv.code), handshake.recv.reason or "closed by the peer"
        return int(handshake.sent.code), failure or handshake.sent.reason

    def send(self, text: str) -> None:
        if not self._transport.is_disconnected:
            self._transport.send(_TEXT, text.encode())

    def ping(self) -> None:
        if not self._transport.is_disconnected:
            self._transport.send_ping()

    def pause_reading(self) -> None:
        self._transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.underlying_transport.resume_reading()

    def close(self, code: int, reason: str) -> None:
        if self._closing is None and not self._transport.is_disconnected:
            self._closing = (code, reason)
            self._transport.send_close(code, reason.encode()[:120])
            self.resume_reading()
            asyncio.get_running_loop().call_later(CLOSE_WAIT_S, self._transport.disconnect)

    def abort(self) -> None:
        if not self._transport.is_disconnected:
            self._closing = self._closing or (ABNORMAL, "aborted")
            self._transport.disconnect(False)


async def _open_picows(url: str, receiver: Receiver, headers: Mapping[str, str], max_bytes: int) -> Socket:
    _, listener = await picows.ws_connect(
        lambda: _PicowsSocket(receiver, max_bytes),
        url,
        extra_headers=dict(headers),
        max_frame_size=max_bytes,
        enable_auto_pong=False,
        websocket_handshake_timeout=None,
    )
    assert isinstance(listener, _PicowsSocket)
    return listener


class _Connection(ClientConnection):
    """Hands frames over as they are read, before the library's own queue and its back-pressure."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.early: list[Frame] = []
        self.on_frame: Callable[[Frame], None] = self.early.append

    def process_event(self, event: Event) -> None:
        if self.response is None or not isinstance(event, Frame):
            super().process_event(event)
        else:
            self.on_frame(event)


class _WebsocketsSocket:
    def __init__(self, connection: _Connection, receiver: Receiver, max_bytes: int) -> None:
        self._connection = connection
        self._receiver = receiver
        self._assembler = _Assembler(max_bytes)
        self._closing: tuple[int, str] | None = None
        self.local = _address(connection.transport, "sockname")
        self.remote = _address(connection.transport, "peername")
        _keep_alive(connection.transport)
        self._watch = asyncio.get_running_loop().create_task(self._wait_closed())
        receiver.on_open(self)
        connection.on_frame = self._on_frame
        for frame in connection.early:
            self._on_frame(frame)
        connection.early.clear()

    def _on_frame(self, frame: Frame) -> None:
        try:
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY) and frame.fin:
                self._receiver.on_message(bytes(frame.data))
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                message = self._assembler.add(bytes(frame.data), frame.fin)
                if message is not None:
                    self._receiver.on_message(message)
            elif frame.opcode is Opcode.PING:
                self._receiver.on_ping()
            elif frame.opcode is Opcode.PONG:
                self._receiver.on_pong()
        except OverflowError as error:
            self.close(TOO_BIG, str(error))
        except Exception as error:
            self.close(INTERNAL_ERROR, f"{type(error).__name__}: {error}")

    async def _wait_closed(self) -> None:
        await self._connection.wait_closed()
        protocol = self._connection.protocol
        if self._closing is not None:
            code, reason = self._closing
        elif protocol.close_rcvd is not None:
            code, reason = protocol.close_rcvd.code, protocol.close_rcvd.reason or "closed by the peer"
        elif protocol.close_sent is not None:
            code, reason = protocol.close_sent.code, protocol.close_sent.reason
        else:
            code, reason = ABNORMAL, "connection lost without a Close frame"
        self._receiver.on_close(code, reason)

    def _is_open(self) -> bool:
        return self._connection.protocol.state is State.OPEN and not self._connection.transport.is_closing()

    def send(self, text: str) -> None:
        if self._is_open():
            self._connection.protocol.send_text(text.encode())
            self._connection.send_data()

    def ping(self) -> None:
        if self._is_open():
            self._connection.protocol.send_ping(b"")
            self._connection.send_data()

    def pause_reading(self) -> None:
        self._connection.transport.pause_reading()

    def resume_reading(self) -> None:
        self._connection.transport.resume_reading()

    def close(self, code: int, reason: str) -> None:
        if self._closing is None and self._is_open():
            self._closing = (code, reason)
            self._connection.protocol.send_close(code, reason.encode()[:120].decode(errors="ignore"))
            self._connection.send_data()
            self.resume_reading()
            asyncio.get_running_loop().call_later(CLOSE_WAIT_S, self._connection.transport.close)

    def abort(self) -> None:
        self._closing = self._closing or (ABNORMAL, "aborted")
        self._connection.transport.abort()


async def _open_websockets(url: str, receiver: Receiver, headers: Mapping[str, str], max_bytes: int) -> Socket:
    connection = await websockets_connect(
        url,
        create_connection=_Connection,
        additional_headers=dict(headers),
        compression=None,
        max_size=max_bytes,
        ping_interval=None,
        open_timeout=None,
        proxy=None,
    )
    assert isinstance(connection, _Connection)
    return _WebsocketsSocket(connection, receiver, max_bytes)


_OPENERS = {"picows": _open_picows, "websockets": _open_websockets}
