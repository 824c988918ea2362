"""The life of one WebSocket connection: everything it receives and says gets an ordinal and is published."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.drift.findings import Finding
from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Feed, Liveness
from ssmd_core.messages.control import INSTRUMENTS_PER_EVENT
from ssmd_core.messages.frames import split_frame
from ssmd_core.messages.headers import Stamp
from ssmd_core.proof.rules import LiveCheck, live_check
from ssmd_stream.capture.alarms import Alarms
from ssmd_stream.capture.epoch import Epoch, Publish
from ssmd_stream.capture.sessions.base import ALL, Command, Notice, Session, chunks
from ssmd_stream.capture.stats import Router, ShardStats
from ssmd_stream.capture.venue_time import VenueTime
from ssmd_stream.capture.watch import Sentinel, Watch
from ssmd_stream.capture.watchdogs import Watchdogs
from ssmd_stream.capture.websocket import TOO_BIG, Socket, TransportName, open_websocket

log = structlog.get_logger()

GOING_AWAY = 1001
NORMAL = 1000
# A close that cannot be flushed because the peer no longer reads must not hold up the reconnect.
_CLOSE_GRACE_S = 3.5


@dataclass(frozen=True, slots=True)
class Setting:
    """What all connections of a connector share.

    Attributes:
        group_timeouts_s: silence after which a channel is resubscribed, None for never.
        open_timeout_s: for opening a connection.
        alarms: tells people.
        sentinel: sees every message of the venue; None: nobody looks for drift.
        times: readers of the venue's time, by message type.
        make_check: makes the live check of a connection.
    """

    feed: Feed
    url: str
    transport: TransportName
    clock: Clock
    publish: Publish
    liveness: Liveness
    group_timeouts_s: Mapping[str, float | None]
    open_timeout_s: float = 15.0
    alarms: Alarms = field(default_factory=lambda: Alarms("", ""))
    sentinel: Sentinel | None = None
    times: Mapping[str, VenueTime] = field(default_factory=dict)
    make_check: Callable[[Feed], LiveCheck] = live_check


def _unseen(kind: str, payload: bytes, recv_ns: int) -> tuple[Finding, ...]:
    """Stands for a sentinel where there is none."""
    del kind, payload, recv_ns
    return ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended."""

    code: int
    reason: str
    lasted_s: float


class Connection:
    """One connection. Implements `websocket.Receiver`.

    Args:
        name: connection name.
        session: fresh session of the venue.
        instruments: what to subscribe once it is open; the owner may change it until then.
        router, stats: of the shard, shared by its successive connections.
        paused: whether reading starts paused.
    """

    def __init__(
        self,
        name: str,
        session: Session,
        instruments: Collection[str],
        setting: Setting,
        *,
        router: Router,
        stats: ShardStats,
        paused: bool,
    ) -> None:
        self.name = name
        self.session = session
        self._instruments = instruments
        self._setting = setting
        self._router = router
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._socket: Socket | None = None
        self._epoch = Epoch(
            name,
            router.control_subject,
            setting.clock,
            setting.publish,
            stats=stats,
            subscriptions=session.subscriptions,
            groups=session.groups,
            covered=session.covered,
        )
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self._why: tuple[int, str] | None = None
        self._opened_s = 0.0
        self._log = log.bind(feed=setting.feed.name, connection=name, epoch=self._epoch.name)
        timeouts_s = setting.group_timeouts_s
        self._dogs = Watchdogs(session, stats, setting.liveness, timeouts_s, setting.clock, paused=paused)
        self._watch = Watch(
            session,
            stats,
            self._epoch,
            setting.alarms,
            check=setting.make_check(setting.feed),
            times=setting.times,
            queue=self._queue,
            idle=self._commands.empty,
            now_s=self._loop.time,
        )
        self.on_message = self._receive_path()
        self._resubscribed: set[str] = set()
        self._moved: set[str] = set()

    # -- life

    async def run(self) -> Ended:
        """Open, capture until the connection ends, and say how it ended.

        Raises:
            ConnectError: it could not be opened.
            ConfigError: a credential cannot be used.
        """
        setting = self._setting
        await open_websocket(
            setting.transport,
            setting.url,
            self,
            # The system's time, not the capture's clock: a rehearsal shifts that one, and the venue checks a signature.
            headers=self.session.headers(time.time_ns()),
            max_message_bytes=setting.feed.limits.max_frame_bytes,
            timeout_s=setting.open_timeout_s,
        )
        tasks = [self._loop.create_task(self._send_commands()), self._loop.create_task(self._supervise())]
        try:
            waited: list[asyncio.Future[Any]] = [self._ended, *tasks]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            return await self._ended
        finally:
            for task in tasks:
                task.cancel()
            if not self._ended.done():
                self.end(GOING_AWAY, "cancelled")
                self.on_close(GOING_AWAY, "cancelled")

    def end(self, code: int, reason: str) -> None:
        """Close the connection for our own reason; `run` returns soon after."""
        if self._socket is None or self._ended.done():
            return
        self._why = self._why or (code, reason)
        self._socket.close(code, reason)
        self._loop.call_later(_CLOSE_GRACE_S, self._socket.abort)

    def _give_up(self, reason: str) -> None:
        """Drop a connection that is dead or deaf; no Close frame would get through."""
        if self._why is not None:
            return
        self._log.warning("connection given up", reason=reason)
        self._epoch.control("error", reason=reason)
        self._setting.alarms.raise_("mute", self.name, f"connection given up: {reason}")
        self._why = (GOING_AWAY, reason)
        assert self._socket is not None
        self._socket.abort()

    # -- websocket.Receiver

    def on_open(self, socket: Socket) -> None:
        """See `Receiver`."""
        now_s = self._loop.time()
        self._socket = socket
        self._opened_s = now_s
        stats = self._stats
        stats.connected, stats.up_since_s, stats.failing = True, now_s, False
        stats.connects += 1
        stats.connect_failures_in_a_row = 0
        self._epoch.control("open", url=self._setting.url, local=socket.local, remote=socket.remote)
        self._log.info("connection open", url=self._setting.url, local=socket.local, remote=socket.remote)
        self._queue(self.session.open(tuple(self._instruments)))
        self.sample(now_s)
        self._watch.silence.restart(now_s)
        self._setting.alarms.clear("down", self.name)
        if self._dogs.paused:
            socket.pause_reading()

    def on_ping(self) -> None:
        """See `Receiver`."""
        self._dogs.alive += 1

    def on_pong(self) -> None:
        """See `Receiver`."""
        self._dogs.alive += 1
        self._stats.last_pong_ts = self._setting.clock.now_ns() / NS_PER_S

    def on_close(self, code: int, reason: str) -> None:
        """See `Receiver`."""
        if self._ended.done():
            return
        now_s = self._loop.time()
        code, reason = self._why or (code, reason)
        self.sample(now_s)
        if code == TOO_BIG:
            self._stats.oversized += 1
            self._epoch.control("error", reason=reason, code=code)
        self._watch.ended()
        self._epoch.close(reason=reason, code=code)
        self._log.info("connection closed", code=code, reason=reason)
        stats = self._stats
        stats.connected, stats.down_since_s, stats.last_error = False, now_s, f"closed: {code} {reason}"
        self._ended.set_result(Ended(code, reason, now_s - self._opened_s))

    def _receive_path(self) -> Callable[[bytes], None]:
        """The function that every frame goes through; a closure, because attribute look-ups cost a fifth of it."""
        stats, router = self._stats, self._router
        targets, resolve, unroutable = router.targets, router.resolve, router.unroutable
        route, now_ns, publish = self._setting.feed.route, self._setting.clock.now_ns, self._setting.publish
        epoch, next_ordinal, on_control = self._epoch.name, self._epoch.next_ordinal, self._on_control
        watch, minutes = self._watch, self._epoch.minutes
        touch, look, check = watch.touch, watch.look, watch.check
        sentinel = self._setting.sentinel
        seen = sentinel.look if sentinel is not None else _unseen

        def receive(frame: bytes) -> None:
            recv_ns = now_ns()
            if recv_ns >= minutes.end_ns:
                watch.minute(recv_ns)
            stats.frames += 1
            stats.bytes += len(frame)
            for payload in (frame,) if frame[:1] == b"{" else split_frame(frame):
                kind = ""
                try:
                    found = route(payload)
                except FrameError:
                    target = unroutable(payload)
                else:
                    kind = found.type
                    target = targets.get(found) or resolve(found)
                count = target.count
                count.messages += 1
                count.bytes += len(payload)
                publish(target.subject, payload, Stamp(epoch, next_ordinal(), recv_ns))
                # Everything below must not delay or lose what has been published above, nor what comes after it.
                try:
                    if target.fresh:
                        touch(target)
                    if recv_ns >= count.due_ns:
                        look(target, kind, payload, recv_ns)
                    if target.control:
                        on_control(kind, payload)
                    trouble = check(kind, payload)
                    if trouble is not None:
                        watch.trouble(trouble)
                    findings = seen(kind, payload, recv_ns)
                    if findings:
                        watch.drift(findings)
                except Exception as error:
                    watch.failed(error)

        return receive

    def _on_control(self, kind: str, payload: bytes) -> None:
        reaction = self.session.on_message(kind, payload)
        if reaction.pong:
            self._stats.last_pong_ts = self._setting.clock.now_ns() / NS_PER_S
        for notice in reaction.notices:
            self._on_notice(notice)
        self._queue(reaction.commands)

    def _on_notice(self, notice: Notice) -> None:
        stats = self._stats
        self._watch.noticed(notice, self._loop.time())
        instruments = notice.instruments or ((ALL,) if notice.channel else ())
        if notice.event == "acknowledged":
            stats.acknowledged += len(instruments)
            self._epoch.control("acknowledged", channel=notice.channel, instruments=instruments)
            return
        self._log.warning(
            "subscription " + notice.event,
            channel=notice.channel,
            instruments=len(instruments),
            first=instruments[:5],
            reason=notice.reason,
        )
        if notice.event == "refused":
            self._epoch.control("refused", channel=notice.channel, instruments=instruments, reason=notice.reason)
        elif notice.event == "error":
            stats.venue_errors += 1
            self._epoch.control("error", channel=notice.channel, instruments=instruments, reason=notice.reason)
        else:
            self._resubscribe(notice.channel, notice.reason)

    # -- what others may ask of a live connection

    def add(self, instruments: Sequence[str]) -> None:
        """Subscribe more instruments; until the connection is open, it is enough that they are among its own."""
        if self._socket is not None:
            self._queue(self.session.add(instruments))

    def remove(self, instruments: Sequence[str]) -> None:
        """Unsubscribe instruments; see `add`."""
        self._watch.gone(instruments)
        if self._socket is not None:
            self._queue(self.session.remove(instruments))

    def retry(self) -> None:
        """Ask again for what the venue refused."""
        if self._socket is not None:
            self._queue(self.session.retry())

    def _queue(self, commands: Iterable[Command]) -> None:
        for command in commands:
            self._commands.put_nowait(command)

    def note_coverage(self) -> None:
        """Say in the archive what is asked for and acknowledged now, so that no reader needs what came before."""
        if self._socket is None or self._ended.done():
            return
        for channel, state in self.session.subscriptions.items():
            waiting = [name for name in state.asked if name not in state.accepted and name not in state.refused]
            accepted = [name for name in state.asked if name in state.accepted]
            for kind, names in (("asked", waiting), ("acknowledged", accepted), ("refused", list(state.refused))):
                for chunk in chunks(names, INSTRUMENTS_PER_EVENT):
                    self._epoch.control("coverage", channel=channel, state=kind, instruments=chunk)

    def pause(self, paused: bool) -> None:
        """Stop reading, or read again; no watchdog runs meanwhile."""
        self._dogs.paused = paused
        if self._socket is not None and not self._ended.done():
            if paused:
                self._socket.pause_reading()
            else:
                self._socket.resume_reading()

    # -- commands, keepalive, watchdogs

    async def _send_commands(self) -> None:
        pause_s = 1.0 / self._setting.feed.limits.commands_per_s
        while True:
            command = await self._commands.get()
            assert self._socket is not None
            self._socket.send(command.text)
            now_s = self._loop.time()
            self.session.sent(command, now_s)
            self._watch.sent(command, now_s)
            instruments = command.instruments or (ALL,)
            self._epoch.control(command.action, channel=command.channel, instruments=instruments)
            if command.action == "unsubscribe":
                self._stats.unsubscribed += len(instruments)
            await asyncio.sleep(pause_s)

    async def _supervise(self) -> None:
        liveness, dogs = self._setting.liveness, self._dogs
        look_s = dogs.look_s
        next_ping_s = self._loop.time() + liveness.ping_interval_s
        last_s = self._loop.time()
        while True:
            await asyncio.sleep(look_s)
            now_s = self._loop.time()
            self._watch.minute(self._setting.clock.now_ns())
            if dogs.paused:
                self._stats.paused_s += now_s - last_s
                self._watch.paused(now_s - last_s, now_s)
            last_s = now_s
            if now_s >= next_ping_s:
                next_ping_s = max(next_ping_s + liveness.ping_interval_s, now_s)
                self._send_keepalive()
            if self._is_dead(now_s):
                return await self._forever()
            for notice in self.session.overdue(now_s):
                self._on_notice(notice)
            # Where instruments come and go, others may follow: the refused ones are asked for again later.
            if self.session.all_refused and self.session.takes_all:
                self.end(NORMAL, "every subscription was refused")
                return await self._forever()

    async def _forever(self) -> None:
        await self._ended

    def _send_keepalive(self) -> None:
        assert self._socket is not None
        text = self._setting.liveness.ping_text
        if text is None:
            self._socket.ping()
        else:
            self._socket.send(text)

    def sample(self, now_s: float) -> None:
        """See which counts have moved since the last look."""
        moved = self._dogs.sample(now_s)
        self._resubscribed.difference_update(moved)
        self._moved.update(moved)

    def _is_dead(self, now_s: float) -> bool:
        self.sample(now_s)
        moved, self._moved = self._moved, set()
        if self._dogs.paused:
            return False
        reason = self._dogs.dead(now_s) or self._watch.supervise(moved, bool(self._dogs.watched), now_s)
        if not reason and (reason := self._dogs.starved(now_s)):
            self._watch.silence.given_up(now_s)
        if reason:
            self._give_up(reason)
            return True
        for channel, timeout_s in self._dogs.silent_channels(now_s):
            if not self._resubscribe(channel, f"no {channel} data for {timeout_s:g} s"):
                return True
        return False

    def _resubscribe(self, channel: str, reason: str) -> bool:
        """Ask for a channel again; False if that was done before and brought no data, so the connection is dropped."""
        if channel in self._resubscribed:
            self._stats.rhythm.channel_given_up(channel)
            self._give_up(f"{reason}, again after resubscribing")
            return False
        self._resubscribed.add(channel)
        self._stats.resubscribes += 1
        self._log.warning("resubscribing", channel=channel, reason=reason)
        self._epoch.control("error", channel=channel, reason=reason)
        self._queue(self.session.resubscribe(channel))
        return True
