"""A server that plays one venue over that venue's own WebSocket and REST protocols."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import picows
import structlog
from aiohttp import web

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.errors import SsmdError
from ssmd_core.feeds.base import Feed
from ssmd_stream.replay.connection import Connection
from ssmd_stream.replay.faults import Fault, Faults, Injector
from ssmd_stream.replay.generator.kalshi_calendar import ScheduledMarket
from ssmd_stream.replay.protocol import Exchange, Session, Traffic
from ssmd_stream.replay.recording import RecordedFrame, Recording
from ssmd_stream.replay.rest_faults import RestFaults
from ssmd_stream.replay.sent_log import SentLog
from ssmd_stream.replay.venues.kalshi import PATH, ClientKey, handshake_error
from ssmd_stream.replay.venues.registry import make_exchange, make_session
from ssmd_stream.replay.venues_rest import rest_app
from ssmd_stream.replay.venues_rest.source import RestSource
from ssmd_stream.replay.venues_rest.tape import Tape

_log = structlog.get_logger()

# Frames are written in batches that keep the event loop responsive: at most so many frames or bytes between two looks
# at the sockets.
BATCH_FRAMES = 256
BATCH_BYTES = 256 * 1024
DEFAULT_PACE = 1_000.0
_TICK_S = 0.1
_IDLE_S = 5.0


class Generated:
    """A source that makes its frames up; see `ssmd_stream.replay.generator`.

    Args:
        seed: same seed and same clock, same traffic.
        frames_per_s: data frames a second, over all connections; None: as fast as the readers take them.
        limit: how many data frames to send, None: no end. May be lowered while it talks: what is sent is enough then.
        markets, calendar: see `make_exchange`.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        frames_per_s: float | None = 1_000.0,
        limit: int | None = None,
        markets: int = 8,
        calendar: Sequence[ScheduledMarket] = (),
    ) -> None:
        self.seed = seed
        self.frames_per_s = frames_per_s
        self.limit = limit
        self.markets = markets
        self.calendar = calendar


class ReplayServer:
    """Plays a recording or generated traffic to whoever subscribes.

    A recording is sent verbatim, every line a frame, to the first connection that has subscribed to anything and
    still takes data; other connections are answered and get heartbeats. If that connection goes, the next one gets
    what follows: a venue repeats nothing, so what was written into a dead socket is lost. After the last frame the
    connections stay open. Generated traffic goes to every connection according to its subscriptions.

    Args:
        feed: which venue.
        source: what to send.
        host, port: where to listen; 0 takes a free port.
        rest_port: likewise for REST.
        speed: of a recording, 1.0 keeps its timing; None is as fast as the reader takes it.
        frames_per_s: pace of a recording without receive times when `speed` is set (times `speed`).
        on_reconnect: `restart` plays the recording from its start to every new connection.
        faults: what to do wrong.
        sent_log: file to which every text frame that was sent is appended (`read_sent_log`).
        key: Kalshi only: accept this client key; None accepts everybody.
        clock: exchange time.
        listing: what REST answers from instead of the source; its type is the venue's, see `venues_rest`.
        rest_faults: what REST does wrong, and what it was asked.
    """

    def __init__(
        self,
        feed: Feed,
        source: Recording | Generated,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rest_port: int = 0,
        speed: float | None = None,
        frames_per_s: float = DEFAULT_PACE,
        on_reconnect: Literal["continue", "restart"] = "continue",
        faults: Faults | None = None,
        sent_log: Path | None = None,
        key: ClientKey | None = None,
        clock: Clock | None = None,
        listing: Any = None,
        rest_faults: RestFaults | None = None,
    ) -> None:
        self._feed = feed
        self._source = source
        self._host = host
        self._port = port
        self._rest_port = rest_port
        self._speed = speed
        self._pace = frames_per_s
        self._on_reconnect = on_reconnect
        self._injector = Injector(faults or Faults())
        self._log_path = sent_log
        self._log: SentLog | None = None
        self._key = key
        self._clock = clock or Clock()
        self._listing = listing
        self._tape = Tape(feed.name)
        self._rest_faults = rest_faults or RestFaults()
        self._exchange: Exchange | None = None
        if isinstance(source, Generated):
            self._exchange = make_exchange(feed.name, source.seed, self._clock.now_ns, source.markets, source.calendar)
        self._connections: list[Connection] = []
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()
        self._error: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self._rest: web.AppRunner | None = None
        #: Base of the WebSocket and of the REST interface ("" without one), as in the feed's declaration.
        self.url = ""
        self.rest_url = ""
        #: Handshakes that were answered with HTTP 401.
        self.handshakes_refused = 0

    @property
    def connections(self) -> Sequence[Connection]:
        """All connections there have been, by ordinal."""
        return self._connections

    @property
    def exchange(self) -> Exchange | None:
        """The generated market; None for a recording."""
        return self._exchange

    @property
    def instruments(self) -> tuple[str, ...]:
        """Instruments of generated traffic; empty for a recording."""
        return tuple(self._exchange.instruments) if self._exchange is not None else ()

    @property
    def frames_sent(self) -> int:
        """Text frames sent so far: data, replies and heartbeats."""
        return sum(connection.frames_sent for connection in self._connections)

    @property
    def data_frames(self) -> int:
        """Data frames of the source that have been dealt with, dropped ones included."""
        return self._injector.frames

    @property
    def struck(self) -> Sequence[Fault]:
        """Scheduled faults that have happened."""
        return self._injector.struck

    async def __aenter__(self) -> Self:
        if self._log_path is not None:
            self._log = SentLog(self._log_path)
        self._server = await picows.ws_create_server(
            self._accept, self._host, self._port, websocket_handshake_timeout=5, max_frame_size=32 * 1024 * 1024
        )
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"ws://{self._host}:{port}{urlsplit(self._feed.websocket_urls['prod']).path}"
        recording = self._source if isinstance(self._source, Recording) else None
        rest_source = RestSource(self._clock.now_ns, self._listing, self._exchange, recording, self._tape)
        rest = rest_app(self._feed.name, rest_source, self._rest_faults)
        if rest is not None:
            app, base = rest
            self._rest = web.AppRunner(app, access_log=None)
            await self._rest.setup()
            site = web.TCPSite(self._rest, self._host, self._rest_port)
            await site.start()
            self.rest_url = f"http://{self._host}:{self._rest.addresses[0][1]}{base}"
        self._tasks = [asyncio.create_task(self._play()), asyncio.create_task(self._keep_alive())]
        _log.info("replay_listening", feed=self._feed.name, url=self.url, rest_url=self.rest_url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            connection.reset()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if self._rest is not None:
            await self._rest.cleanup()
        if self._log is not None:
            self._log.close()

    async def finished(self) -> None:
        """Wait until all frames of the source have been handed to the network.

        Raises:
            ArchiveError, OSError: the recording could not be read; what was readable has been sent.
        """
        await self._finished.wait()
        for connection in self._connections:
            # A transport tells when it is below its low-water mark, not when it is empty.
            while connection.buffered_bytes and not connection.half_open:
                await asyncio.sleep(0.005)
        self.flush_log()
        if self._error is not None:
            raise self._error

    @property
    def struck_ns(self) -> Sequence[int]:
        """When each of them first did, epoch nanoseconds."""
        return self._injector.struck_ns

    def flush_log(self) -> None:
        """Make `sent_log` complete up to this moment for other readers."""
        if self._log is not None:
            self._log.flush()

    # -- connections ---------------------------------------------------------------------------------------------

    def _accept(self, request: picows.WSUpgradeRequest) -> Connection | picows.WSUpgradeResponseWithListener | None:
        if self._feed.auth == "kalshi_rsa_pss":
            path = request.path.decode("ascii", "replace")
            if path.partition("?")[0] != PATH:
                return None
            reason = None
            if self._key is not None:
                reason = handshake_error(request.headers, path, self._key, time.time_ns() // 1_000_000)
            if reason is not None:
                self.handshakes_refused += 1
                body = b'{"error":{"code":"authentication_error","message":"' + reason.encode() + b'"}}'
                return picows.WSUpgradeResponseWithListener(
                    picows.WSUpgradeResponse.create_error_response(401, body, {"Content-Type": "application/json"}),
                    None,
                )
        ordinal = len(self._connections)
        session = make_session(
            self._feed.name,
            self._exchange,
            self._clock.now_ns,
            lambda instrument: self._injector.refuses(ordinal, instrument),
        )
        connection = Connection(
            ordinal,
            session,
            self._log,
            self._changed.set,
            muted=self._injector.muted(ordinal),
            spoiler=self._injector.spoiler(ordinal),
            tape=self._tape,
        )
        self._connections.append(connection)
        return connection

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for connection in self._connections:
                connection.tick()
            self.flush_log()

    def _takers(self) -> list[Connection]:
        return [connection for connection in self._connections if connection.wants_data]

    async def _wait_for_change(self, at_most_s: float) -> None:
        """Until a connection changes; in any case not longer than given (a silence may end by itself)."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), at_most_s)

    # -- sending -------------------------------------------------------------------------------------------------

    async def _play(self) -> None:
        try:
            if isinstance(self._source, Generated):
                await self._play_generated(self._source)
            else:
                await self._play_recording(self._source)
        except Exception as error:
            _log.error("replay_failed", feed=self._feed.name, error=str(error))
            self._error = error
            self._finished.set()

    async def _play_recording(self, recording: Recording) -> None:
        reader = _Reader(recording, self._speed, self._pace)
        holder: Connection | None = None
        while True:
            takers = self._takers()
            if not takers or reader.frame is None:
                if reader.frame is None:
                    self._error = reader.error
                    self._finished.set()
                await self._wait_for_change(0.05 if self._any_silent() else _IDLE_S)
                newest = self._newest_after(holder)
                if self._on_reconnect == "restart" and newest is not None:
                    holder = newest
                    reader = _Reader(recording, self._speed, self._pace)
                reader.due_now()
                continue
            holder = takers[0]
            if not holder.writable.is_set():
                await holder.writable.wait()
                continue
            fault = self._injector.connection_fault(holder.ordinal)
            if fault is not None:
                self._break(holder, fault)
                continue
            batch: list[bytes] = []
            size = 0
            room = min(BATCH_FRAMES, self._injector.room)
            while reader.frame is not None and len(batch) < room and size < BATCH_BYTES and reader.due_s() <= 0:
                batch.append(reader.frame.payload)
                size += len(reader.frame.payload)
                reader.advance()
            self._deliver(holder, batch)
            await self._pause(reader.due_s() if reader.frame is not None else 0.0)

    def _newest_after(self, holder: Connection | None) -> Connection | None:
        if holder is None:
            return None
        return next((taker for taker in self._takers() if taker.ordinal > holder.ordinal), None)

    async def _pause(self, due_s: float) -> None:
        if due_s > 0:
            await self._wait_for_change(due_s)
        else:
            await asyncio.sleep(0)

    async def _play_generated(self, source: Generated) -> None:
        assert self._exchange is not None
        traffic = Traffic(self._exchange)
        started, made = time.monotonic(), 0
        while source.limit is None or self.data_frames < source.limit:
            takers = self._takers()
            if not takers:
                await self._wait_for_change(0.05 if self._any_silent() else _IDLE_S)
                self._exchange.due()  # what nobody heard is not told later
                started, made = time.monotonic(), 0
                continue
            faults = [(taker, self._injector.connection_fault(taker.ordinal)) for taker in takers]
            if any(fault is not None for _, fault in faults):
                for taker, fault in faults:
                    if fault is not None:
                        self._break(taker, fault)
                continue
            due = min(BATCH_FRAMES, self._injector.room)
            if source.frames_per_s is not None:
                due = min(due, int((time.monotonic() - started) * source.frames_per_s) - made)
                if due <= 0:
                    await asyncio.sleep(max(0.001, 0.5 / source.frames_per_s))
                    continue
            blocked = next((taker for taker in takers if not taker.writable.is_set()), None)
            if blocked is not None:
                await blocked.writable.wait()
                continue
            by_session = {id(taker.session): taker for taker in takers}
            count = self._generate(traffic, by_session, due, source.limit)
            made += count
            await asyncio.sleep(0 if count else 0.01)
        self._finished.set()

    def _generate(self, traffic: Traffic, takers: dict[int, Connection], due: int, limit: int | None) -> int:
        """Send about `due` frames; how many it were."""
        sessions: list[Session] = [taker.session for taker in takers.values()]
        batches: dict[int, list[bytes]] = {key: [] for key in takers}
        count = 0
        size = 0
        for _ in range(due * 4):
            for session, frame in traffic.step(sessions):
                batches[id(session)].append(frame)
                size += len(frame)
                count += 1
            if count >= due or size >= BATCH_BYTES:
                break
        for key, batch in batches.items():
            room = len(batch) if limit is None else max(0, limit - self.data_frames)
            self._deliver(takers[key], batch[:room])
        return count

    def _deliver(self, connection: Connection, frames: list[bytes]) -> None:
        self._tape.take(frames)
        injector = self._injector
        frames = connection.spoiler.data(frames)
        if injector.harmless(len(frames)):
            injector.frames += len(frames)
            connection.write(frames)
            return
        for frame in frames:
            connection.write(injector.frame(connection.ordinal, frame))

    def _break(self, connection: Connection, fault: Fault) -> None:
        _log.info("replay_fault", feed=self._feed.name, kind=fault.kind, at=fault.at, connection=connection.ordinal)
        match fault.kind:
            case "silence":
                connection.silence(fault.duration_s)
            case "half_open":
                connection.freeze()
            case "close":
                connection.close(fault.code, "on demand")
            case "reset":
                connection.reset()

    def _any_silent(self) -> bool:
        now = time.monotonic()
        return any(each.open and now < each.silent_until < float("inf") for each in self._connections)


class _Reader:
    """A recording, one frame ahead, and when that frame is due."""

    def __init__(self, recording: Recording, speed: float | None, frames_per_s: float) -> None:
        self._frames: Iterator[RecordedFrame] = iter(recording)
        self._speed = speed
        self._step_s = 1 / frames_per_s
        self._recording_s = 0.0  # time within the recording of `frame`
        self._recv_ns: int | None = None
        self._started = time.monotonic()
        #: The next frame; None at the end, or where the recording cannot be read further (`error`).
        self.frame: RecordedFrame | None = None
        self.error: Exception | None = None
        self.advance()
        self.due_now()

    def advance(self) -> None:
        """Read the frame after this one."""
        try:
            self.frame = next(self._frames, None)
        except (SsmdError, OSError) as error:
            _log.error("replay_recording_unreadable", error=str(error))
            self.frame, self.error = None, error
        if self.frame is None:
            return
        recv_ns = self.frame.recv_ns
        if recv_ns is None:
            self._recording_s += self._step_s
            return
        # Receive times that step back (a second file, a clock that was set) do not stop the playing.
        if self._recv_ns is not None:
            self._recording_s += max(0, recv_ns - self._recv_ns) / NS_PER_S
        self._recv_ns = recv_ns

    def due_s(self) -> float:
        """Seconds until the frame is due, 0 or less if it is."""
        if self._speed is None:
            return 0.0
        return self._recording_s / self._speed - (time.monotonic() - self._started)

    def due_now(self) -> None:
        """Nobody listened up to now: the recording goes on from here."""
        if self._speed is not None:
            self._started = time.monotonic() - self._recording_s / self._speed
