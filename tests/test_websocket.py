"""Both transports behind the port, through the same tests, against a real server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve

from ssmd_core.errors import ConnectError
from ssmd_stream.capture.websocket import Socket, TransportName, open_websocket

MAX_BYTES = 1_000_000
BOTH = pytest.mark.parametrize("transport", ["picows", "websockets"])


class Recorder:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.pings = self.pongs = 0
        self.opened: Socket | None = None
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def on_open(self, socket: Socket) -> None:
        assert not self.messages
        self.opened = socket

    def on_message(self, message: bytes) -> None:
        assert self.opened is not None
        self.messages.append(message)

    def on_ping(self) -> None:
        self.pings += 1

    def on_pong(self) -> None:
        self.pongs += 1

    def on_close(self, code: int, reason: str) -> None:
        self.closed.set_result((code, reason))


async def _open(transport: TransportName, url: str, recorder: Recorder, timeout_s: float = 5.0) -> Socket:
    return await open_websocket(
        transport, url, recorder, headers={"X-Test": "1"}, max_message_bytes=MAX_BYTES, timeout_s=timeout_s
    )


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def _served(handler: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, max_size=None, compression=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/feed?x=1"


@BOTH
def test_messages_arrive_whole_and_unchanged(transport: TransportName) -> None:
    sent = [b"{}", b'{"p":"\xc3\xa9"}', b"x" * 70_000, b"PONG", b""]

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.headers["X-Test"] == "1"
        for frame in sent:
            await connection.send(frame, text=True)
        await connection.send(b"\xff\x00")
        await connection.send(["a", "b", "", "c"])
        assert await connection.recv() == "hello"
        await (await connection.ping("heartbeat"))
        await connection.close(1013, "slow consumer")

    async def run() -> None:
        recorder = Recorder()
        async with _served(handler) as url:
            socket = await _open(transport, url, recorder)
            assert socket.remote == url.split("/")[2]
            assert socket.local.startswith("127.0.0.1:")
            socket.send("hello")
            socket.ping()
            assert await asyncio.wait_for(recorder.closed, 5) == (1013, "slow consumer")
        assert recorder.messages == [*sent, b"\xff\x00", b"abc"]
        assert (recorder.pings, recorder.pongs) == (1, 1)
        socket.send("late")
        socket.ping()
        socket.close(1000, "")
        socket.abort()

    asyncio.run(run())


@BOTH
@pytest.mark.parametrize("fragments", [False, True])
def test_too_large_a_message_ends_the_connection_with_1009(transport: TransportName, fragments: bool) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send("x" * MAX_BYTES)
        await connection.send(["x" * (MAX_BYTES // 4)] * 5 if fragments else "x" * (MAX_BYTES + 1))
        await connection.wait_closed()
        codes.append(connection.close_code)

    async def run() -> None:
        recorder = Recorder()
        async with _served(handler) as url:
            await _open(transport, url, recorder)
            code, reason = await asyncio.wait_for(recorder.closed, 5)
            assert code == 1009
            assert str(MAX_BYTES) in reason
            assert [len(message) for message in recorder.messages] == [MAX_BYTES]

    codes: list[int | None] = []
    asyncio.run(run())
    assert codes == [1009]


@BOTH
def test_frames_in_the_same_packet_as_the_handshake_are_not_lost(transport: TransportName) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line.split(b":", 1)[1].strip()
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        frames = b"".join(b"\x81" + bytes([len(text)]) + text for text in (b"first", b"second"))
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + frames
        )
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()

    async def run() -> None:
        recorder = Recorder()
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            await _open(transport, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", recorder)
            code, _ = await asyncio.wait_for(recorder.closed, 5)
        assert recorder.messages == [b"first", b"second"]
        assert code == 1006

    asyncio.run(run())


@BOTH
def test_pause_stops_reading_and_resume_loses_nothing(transport: TransportName) -> None:
    total = 300

    async def handler(connection: ServerConnection) -> None:
        for number in range(total):
            await connection.send(f"{number:05d}" + "x" * 50_000)
        await connection.close()

    async def run() -> None:
        recorder = Recorder()
        async with _served(handler) as url:
            socket = await _open(transport, url, recorder)
            await _until(lambda: recorder.messages)
            socket.pause_reading()
            await asyncio.sleep(0.05)
            paused_at = len(recorder.messages)
            await asyncio.sleep(0.2)
            assert len(recorder.messages) == paused_at < total
            socket.resume_reading()
            assert (await asyncio.wait_for(recorder.closed, 10))[0] == 1000
        assert [int(message[:5]) for message in recorder.messages] == list(range(total))

    asyncio.run(run())


@BOTH
def test_our_close_and_abort_are_reported_once(transport: TransportName) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.append(connection.close_code)

    async def run() -> None:
        async with _served(handler) as url:
            recorder = Recorder()
            socket = await _open(transport, url, recorder)
            socket.close(1000, "done")
            socket.abort()
            assert await asyncio.wait_for(recorder.closed, 5) == (1000, "done")
            recorder = Recorder()
            socket = await _open(transport, url, recorder)
            socket.abort()
            assert (await asyncio.wait_for(recorder.closed, 5))[0] == 1006
            await _until(lambda: len(codes) == 2)

    codes: list[int | None] = []
    asyncio.run(run())


@BOTH
def test_what_is_wrong_with_an_endpoint_is_said(transport: TransportName) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\nclock off")
        await writer.drain()
        writer.close()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectError, match="HTTP 401 clock off"):
                await _open(transport, f"ws://127.0.0.1:{port}/", Recorder())
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1"):
            await _open(transport, f"ws://127.0.0.1:{port}/", Recorder())
        with pytest.raises(ConnectError, match=r"nowhere\.invalid"):
            await _open(transport, "ws://nowhere.invalid/", Recorder())
        async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectError, match=r"within 0\.3 s"):
                await _open(transport, f"ws://127.0.0.1:{port}/", Recorder(), timeout_s=0.3)

    asyncio.run(run())
