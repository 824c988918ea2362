"""What one connection delivers against what it should: live checks, drift, openings, suspicious silence.

Whatever is found stands in the archive as a `trouble` event, is counted, told to people, and asked for again where
that can help.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from ssmd_core.drift.findings import Finding
from ssmd_core.messages.control import INSTRUMENTS_PER_EVENT
from ssmd_core.proof.rules import LiveCheck, LiveCounts, Trouble
from ssmd_stream.capture.alarms import Alarms
from ssmd_stream.capture.epoch import Epoch
from ssmd_stream.capture.openings import PATIENCE_S, Openings, Renewals
from ssmd_stream.capture.sessions.base import ALL, Command, Notice, Session
from ssmd_stream.capture.silence import Silence
from ssmd_stream.capture.stats import ShardStats, Target
from ssmd_stream.capture.venue_time import VenueTime

log = structlog.get_logger()

# 50 a minute and type tell clock and age.
SAMPLE_NS = 1_200_000_000
# A reason that has not come again for so long is over.
QUIET_S = 60.0
DRIFT_QUIET_S = 3600.0
# An opening message that is still missing after so many requests will not come.
MAX_OPENING_REQUESTS = 5
# A venue that breaks in every message must not fill the archive with it: so many events of a reason in a minute.
MAX_EVENTS = 60
# Instruments of the latest messages, which are asked for when a connection is suspiciously silent.
_RECENT = 3
_MAX_FAILURES_TOLD = 20


class Sentinel(Protocol):
    """The part of the drift sentinel that capture uses."""

    def look(self, kind: str, payload: bytes, recv_ns: int) -> tuple[Finding, ...]:
        """What a message reveals; never raises."""


@dataclass(slots=True)
class _Told:
    """Events of one reason: in the minute since `since_s`, and those left out since the last one."""

    since_s: float = -math.inf
    events: int = 0
    left_out: int = 0


class Watch:
    """Watches one connection.

    Args:
        check: the venue's live check; None: there is none.
        times: readers of the venue's time, by message type.
        queue: sends commands.
        idle: whether none waits to be sent.
        now_s: monotonic time.
    """

    def __init__(
        self,
        session: Session,
        stats: ShardStats,
        epoch: Epoch,
        alarms: Alarms,
        *,
        check: LiveCheck | None,
        times: Mapping[str, VenueTime],
        queue: Callable[[Iterable[Command]], None],
        idle: Callable[[], bool],
        now_s: Callable[[], float],
    ) -> None:
        self._session = session
        self._stats = stats
        self._epoch = epoch
        self._alarms = alarms
        self._check = check
        self._times = times
        self._queue = queue
        self._idle = idle
        self._now_s = now_s
        self._where = epoch.connection
        self._openings = Openings(session.openings)
        self._renewals = Renewals()
        self._unopened: dict[tuple[str, str], int] = {}
        self._recent: list[str] = []
        self._looked_ns = 0
        self._failures: set[str] = set()
        self._counted = LiveCounts()
        self._told: dict[str, _Told] = {}
        self.silence = Silence(stats.rhythm, asks=bool(session.asks), now_s=now_s())
        self._log = log.bind(feed=session.feed.name, connection=self._where, epoch=epoch.name)
        epoch.minutes.checks = None if check is None else check.counts

    # -- the receive path

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        """Every message that has been published; never raises."""
        if self._check is None:
            return None
        try:
            return self._check.check(kind, payload)
        except Exception as error:
            self._fail("live check", error)
            self._check = None
            return None

    def touch(self, target: Target) -> None:
        """The first message of a target in this minute."""
        target.fresh = False
        self._epoch.minutes.touched.append(target)

    def look(self, target: Target, kind: str, payload: bytes, recv_ns: int) -> None:
        """A message of a type that is due for a closer look: for its age, or because it may open an instrument."""
        count = target.count
        if self._openings.waits_for(kind):
            channel = self._openings.kinds[kind]
            self._opened(channel, self._session.opened(kind, payload, target.id))
        if recv_ns >= count.sample_ns:
            count.sample_ns = recv_ns + SAMPLE_NS
            read = self._times.get(kind)
            at_ns = read(payload) if read is not None else None
            if at_ns is not None:
                self._epoch.minutes.ages_ns.append(recv_ns - at_ns)
        count.due_ns = 0 if self._openings.waits_for(kind) else count.sample_ns

    def drift(self, findings: Iterable[Finding]) -> None:
        """The sentinel found that messages look different."""
        for finding in findings:
            self.trouble(Trouble("", (), "drift", finding.detail))

    def failed(self, error: Exception) -> None:
        """Something that looks at messages broke over one; a failure of one kind is told once."""
        what = f"{type(error).__name__}: {error}"[:200]
        if what not in self._failures and len(self._failures) < _MAX_FAILURES_TOLD:
            self._failures.add(what)
            self._log.error("a message could not be looked at", error=repr(error), exc_info=error)
            self._epoch.control("error", reason=f"a message could not be looked at: {what}")

    def _fail(self, what: str, error: Exception) -> None:
        self._log.error(f"{what} failed, this connection goes on without it", error=repr(error), exc_info=error)
        self._epoch.control("error", reason=f"{what} failed: {type(error).__name__}: {error}"[:500])

    # -- trouble

    def trouble(self, trouble: Trouble) -> None:
        """Archive, count and tell it, and ask again for what it is about."""
        now_s = self._now_s()
        self._stats.troubles[trouble.reason] += 1
        self._tell(trouble, now_s)
        if trouble.channel in self._session.subscriptions:
            self._renewals.ask(trouble.channel, trouble.instruments or (ALL,), now_s)

    def _tell(self, trouble: Trouble, now_s: float) -> None:
        # All connections share the sentinel: which of them showed it a change says nothing.
        drift = trouble.reason == "drift"
        where, for_s = (trouble.detail[:80], DRIFT_QUIET_S) if drift else (self._where, QUIET_S)
        told = self._told.setdefault(trouble.reason, _Told())
        if now_s - told.since_s >= QUIET_S:
            told.since_s, told.events = now_s, 0
        told.events += 1
        if told.events > MAX_EVENTS:
            told.left_out += 1
            return
        names = trouble.instruments[:INSTRUMENTS_PER_EVENT]
        more = {"left_out": told.left_out} if told.left_out else {}
        told.left_out = 0
        said: dict[str, Any] = {"channel": trouble.channel, "reason": trouble.reason, "detail": trouble.detail, **more}
        self._epoch.control("trouble", instruments=names, **said)
        self._log.warning("trouble", instruments=len(trouble.instruments), first=names[:5], **said)
        text = trouble.detail
        if names:
            text += f" ({len(trouble.instruments)} instruments, {names[0]} first)"
        if trouble.reason == "no_snapshot":
            # Only their opening, not time, ends that.
            self._alarms.raise_("undelivered", where, text)
        else:
            self._alarms.raise_(trouble.reason, where, text, for_s=for_s)

    def _renew(self, now_s: float) -> None:
        # 500 books that break at once are asked for in a few commands, not in 500 that take minutes to go out.
        if not self._idle():
            return
        for (channel, times), names in self._renewals.take(now_s).items():
            self._stats.resubscribes += 1
            instruments = () if ALL in names else tuple(names)
            self._queue(self._session.renew(channel, instruments, times))

    # -- openings

    def sent(self, command: Command, now_s: float) -> None:
        """A command went out: what it subscribes must open."""
        channel = command.channel
        if not self._openings.watches(channel) or not command.instruments:
            return
        if command.action == "unsubscribe":
            asked = self._session.subscriptions[channel].asked
            self._openings.forget(channel, [name for name in command.instruments if name not in asked])
            return
        due_s = math.inf if self._session.awaits(command.id) else now_s + PATIENCE_S
        self._openings.expect(channel, command.instruments, due_s)
        for kind, opened in self._openings.kinds.items():
            if opened == channel:
                self._stats.by_type[kind].due_ns = 0

    def noticed(self, notice: Notice, now_s: float) -> None:
        """The venue said something about a subscription."""
        if notice.event == "acknowledged":
            self._openings.acknowledged(notice.channel, notice.instruments, now_s)
        elif notice.event == "refused":
            self._openings.forget(notice.channel, notice.instruments)
            names = ", ".join(notice.instruments[:5]) or "everything"
            text = f"{notice.channel}: {len(notice.instruments) or 'all'} not subscribed ({names}): {notice.reason}"
            self._alarms.raise_("refused", self._where, text)

    def gone(self, instruments: Sequence[str]) -> None:
        """Instruments are no longer wanted."""
        self._renewals.forget(instruments)
        for channel in self._session.channels:
            self._openings.forget(channel, instruments)
            self._no_longer_unopened(channel, instruments)

    def _opened(self, channel: str, instruments: Sequence[str]) -> None:
        self._openings.forget(channel, instruments)
        self._no_longer_unopened(channel, instruments)

    def _no_longer_unopened(self, channel: str, instruments: Sequence[str]) -> None:
        if self._unopened:
            for name in instruments:
                self._unopened.pop((channel, name), None)
            if not self._unopened:
                self._alarms.clear("undelivered", self._where)

    def _late(self, channel: str, late: tuple[str, ...], now_s: float) -> None:
        fresh = tuple(name for name in late if (channel, name) not in self._unopened)
        again = []
        for name in late:
            times = self._unopened[channel, name] = self._unopened.get((channel, name), 0) + 1
            if times <= MAX_OPENING_REQUESTS:
                again.append(name)
        if fresh:
            asked = len(self._session.subscriptions[channel].asked)
            detail = f"{channel}: {len(fresh)} of {asked} instruments without an opening message in {PATIENCE_S:g} s"
            self._stats.troubles["no_snapshot"] += 1
            self._tell(Trouble(channel, fresh, "no_snapshot", detail), now_s)
        self._renewals.ask(channel, again, now_s)

    # -- looks

    def supervise(self, moved: Iterable[str], due: bool, now_s: float) -> str:
        """A look, some times a second.

        Args:
            moved: channels that got data since the last one.
            due: whether market data is due at all.

        Returns:
            Why the connection must be given up; "" if it need not.
        """
        for channel, late in self._openings.overdue(now_s).items():
            self._late(channel, late, now_s)
        self._renew(now_s)
        self._count()
        return self._listen(set(moved), due, now_s)

    def paused(self, for_s: float, now_s: float) -> None:
        """Instead of a look, while reading is paused."""
        self._openings.shift(for_s)
        self.silence.restart(now_s)

    def _listen(self, moved: set[str], due: bool, now_s: float) -> str:
        if not due:
            self.silence.restart(now_s)
            return ""
        if moved:
            touched = self._epoch.minutes.touched[-_RECENT:]
            self._recent = [target.id for target in touched if target.id] or self._recent
            self.silence.data(now_s)
            self._alarms.clear("mute", self._where)
            return ""
        verdict, why = self.silence.look(now_s)
        if verdict == "ask" and self._idle():
            commands = self._session.ask(self._recent)
            if commands:
                self._log.info("asking for data", reason=why)
                self._queue(commands)
                self.silence.asked(now_s)
        elif verdict == "mute":
            self.silence.given_up(now_s)
            return why
        return ""

    def _count(self) -> None:
        """Add what the check has counted since the last look to the shard's counts."""
        now = self._epoch.minutes.checks
        if now is None:
            return
        total, seen = self._stats.checks, self._counted
        for name in LiveCounts.__slots__:
            value = getattr(now, name)
            setattr(total, name, getattr(total, name) + value - getattr(seen, name))
            setattr(seen, name, value)

    def ended(self) -> None:
        """The connection is gone; what it would have cleared later is over."""
        self._count()
        # The next connection finds out anew; what opens there, or is not asked for, is over.
        self._alarms.lapse("undelivered", self._where, QUIET_S)

    def minute(self, recv_ns: int) -> None:
        """Tell the minute that is over."""
        self._epoch.turn(recv_ns)
        if recv_ns < self._looked_ns:
            # The clock was set back: what is due after a moment of it is due now.
            for count in self._stats.by_type.values():
                count.due_ns = count.sample_ns = 0
        self._looked_ns = recv_ns
        if not self._session.refused and not self._session.outstanding:
            self._alarms.clear("refused", self._where)
