"""Keeps a `Universe` true: the database at start and every few minutes, change events in between.

Nothing is skipped by log position. The feed of changes starts two minutes before the first read, and what has come in
the seconds before and during a read is applied once more after it: a commit can be told a moment before a new snapshot
shows it. Applying twice changes nothing. While CDC is not heard of, the database is read every ten seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

import structlog

from ssmd_core.clock import NS_PER_S
from ssmd_core.db.connect import DatabaseError
from ssmd_core.settings import Settings
from ssmd_stream.capture.universe import Change, Row, RowError, Universe
from ssmd_stream.capture.universe_rows import read_rows
from ssmd_stream.cdc import consume
from ssmd_stream.cdc.watch import CdcWatch

log = structlog.get_logger()

Cause = Literal["start", "change", "reconcile"]

OVERLAP_S = 120
# What is changed together is subscribed together; the venue's commands are fewer and nobody waits for it.
_GATHER_S = 0.2
_RECENT_S = 5.0
# Rows kept for a read at most, about 35 MB. If there are more, the oldest go and another read follows.
_RECENT_MOST = 50_000
# A market whose event is not known: the event's change is on its way, or else the database is asked.
_WAITING_PATIENCE_S = 2.0
_READ_SPACING_S = 10.0
_ON_ITS_WAY_S = 1.0
_RETRY_S = (1.0, 10.0)
# The clock may run fast (a rehearsal), so it is looked at every second.
_LOOK_S = 1.0


class Follower:
    """Follows the security master for one stream.

    Args:
        universe: empty; nobody else changes it.
        name: of the follower, for the monitoring of Postgres and NATS.
        reconcile_s: pause between two reads of the database.
        on_change: told what to subscribe and unsubscribe; the first time with everything.
        on_reconciled: called after every read.

    Attributes:
        loaded: whether the database has been read once.
        healed: instruments whose state a later read had to correct.
        bad_rows: changes that could not be understood; each brings a read of the database.
        lag_s: from commit to arrival of the last change.
        cdc: whether CDC runs.
    """

    def __init__(
        self,
        universe: Universe,
        settings: Settings,
        *,
        name: str,
        reconcile_s: float,
        on_change: Callable[[Change, Cause], None],
        on_reconciled: Callable[[], None],
    ) -> None:
        self.universe = universe
        self.loaded = False
        self.healed = 0
        self.bad_rows = 0
        self.lag_s = 0.0
        self.cdc = CdcWatch(settings.nats_url, name=name)
        self._settings = settings
        self._name = name
        self._reconcile_s = reconcile_s
        self._on_change = on_change
        self._on_reconciled = on_reconciled
        # (table, key) -> when it came, and the row; in the order of coming.
        self._recent: dict[tuple[str, str], tuple[float, Row]] = {}
        self._reading = False
        self._dirty = asyncio.Event()
        self._read_now = asyncio.Event()
        self._read_s = 0.0
        self._database_problem = ""
        self._database_bad_since_s: float | None = None
        self._feed: consume.ChangeFeed | None = None
        self._feed_bad_since_s: float | None = time.monotonic()
        self._hopeless: set[str] = set()
        self._log = log.bind(follower=name)

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._read_again_and_again())
            tasks.create_task(self._settle_when_due())
            tasks.create_task(self.cdc.run())

    # -- what health and metrics read

    @property
    def pending(self) -> int:
        """Changes that are in the stream and not here yet."""
        return self._feed.pending if self._feed is not None else 0

    @property
    def read_age_s(self) -> float | None:
        """Seconds since the database was read; None for never."""
        return time.monotonic() - self._read_s if self.loaded else None

    def problem(self, grace_s: float) -> str:
        """Why the wanted set may be out of date, "" if it is not, or not for longer than `grace_s`."""
        now_s = time.monotonic()
        problems = []
        if self._database_bad_since_s is not None and now_s - self._database_bad_since_s > grace_s:
            problems.append(f"security master not read: {self._database_problem}")
        elif self.read_age_s is not None and self.read_age_s > self._reconcile_s + grace_s:
            problems.append(f"security master not read for {self.read_age_s:.0f} s")
        if self._feed_bad_since_s is not None and now_s - self._feed_bad_since_s > grace_s:
            reason = self._feed.problem if self._feed is not None else ""
            problems.append(f"changes of the security master do not come: {reason or 'connecting'}")
        elif problem := self.cdc.problem():
            problems.append(problem)
        return "; ".join(problems)

    # -- change events

    async def _follow(self) -> None:
        since_ns = time.time_ns() - OVERLAP_S * NS_PER_S
        while True:
            feed = consume.ChangeFeed(
                self._settings.nats_url, name=self._name, since_ns=since_ns, tables=tuple(self.universe.columns)
            )
            self._feed = feed
            try:
                async with feed:
                    async for changes in feed.batches():
                        self._take(changes)
            except (consume.ChangesLostError, consume.ChangeError) as error:
                # Whatever is missed, the next read brings.
                self._log.error("changes lost, reading the security master again", reason=str(error))
                since_ns = time.time_ns()
                self._read_now.set()
                await asyncio.sleep(_RETRY_S[0])

    def _take(self, changes: Sequence[consume.Change]) -> None:
        now_s = time.monotonic()
        for change in changes:
            if change.op == "truncate":
                self._log.warning("table emptied, reading the security master again", table=change.table)
                self._read_now.set()
                continue
            key, values = str(next(iter(change.key.values()), "")), change.values()
            if values is not None:
                values = {name: values[name] for name in self.universe.columns[change.table] if name in values}
            row = Row(change.table, key, values)
            # The newest of each row is enough.
            self._recent.pop((row.table, row.key), None)
            self._recent[row.table, row.key] = (now_s, row)
            if self.loaded:
                self._apply(row)
        self._forget()
        committed_s = datetime.fromisoformat(changes[-1].commit_ts).timestamp()
        self.lag_s = max(time.time() - committed_s, 0.0)
        self._dirty.set()

    def _forget(self) -> None:
        if not self._reading:
            oldest_s = time.monotonic() - _RECENT_S
            old = itertools.takewhile(lambda item: item[1][0] < oldest_s, self._recent.items())
            for place in [place for place, _ in old]:
                del self._recent[place]
        if (excess := len(self._recent) - _RECENT_MOST) > 0:
            for place in list(itertools.islice(self._recent, excess)):
                del self._recent[place]
            self._read_now.set()

    def _apply(self, row: Row) -> None:
        try:
            self.universe.apply(row)
        except RowError as error:
            self.bad_rows += 1
            self._log.error("change not understood, reading the security master again", reason=str(error))
            self._read_now.set()

    # -- reads of the database

    async def _read_again_and_again(self) -> None:
        pause_s, longest_s = _RETRY_S
        while True:
            self._read_now.clear()
            try:
                await self._read()
            except (DatabaseError, RowError) as error:
                self._database_problem = str(error)
                self._database_bad_since_s = self._database_bad_since_s or time.monotonic()
                self._log.warning("security master cannot be read", reason=str(error), pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, longest_s)
                continue
            pause_s = _RETRY_S[0]
            self._database_problem, self._database_bad_since_s = "", None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._reconcile_s):
                    await self._read_now.wait()
                    await asyncio.sleep(_READ_SPACING_S - (time.monotonic() - self._read_s))

    async def _read(self) -> None:
        universe, fresh = self.universe, self.universe.empty()
        self._forget()
        self._reading = True
        try:
            await read_rows(self._settings.database_url, fresh, name=self._name, clock=self._settings.clock)
            if self.loaded:
                # What was committed just before the read is still on its way, and not to be counted as lost.
                await asyncio.sleep(_ON_ITS_WAY_S)
                self._settle()
        finally:
            self._reading = False
        before = universe.desired
        universe.replace(fresh)
        for _, row in self._recent.values():
            self._apply(row)
        change = universe.settle(self._now_s())
        healed = len(before ^ universe.desired) if self.loaded else 0
        self.healed += healed
        self._log.info("security master read", wanted=len(universe.wanted), healed=healed)
        if healed:
            self._log.warning("changes had been missed", instruments=healed)
        cause: Cause = "reconcile" if self.loaded else "start"
        self.loaded = True
        self._read_s = time.monotonic()
        self._hopeless = set(universe.waiting)
        self._on_change(change, cause)
        self._on_reconciled()
        self._dirty.set()

    # -- time

    def _now_s(self) -> float:
        return self._settings.clock.now_ns() / NS_PER_S

    def _settle(self) -> None:
        change = self.universe.settle(self._now_s())
        if change.added or change.removed:
            self._on_change(change, "change")

    async def _settle_when_due(self) -> None:
        waiting_since_s: float | None = None
        while True:
            due_s = self.universe.next_due_s()
            pause_s = _LOOK_S if due_s is None else min(max(due_s - self._now_s(), 0.0), _LOOK_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._dirty.wait()
            await asyncio.sleep(_GATHER_S)
            self._watch_feed()
            if not self.loaded:
                continue
            self._dirty.clear()
            self._settle()
            if self.cdc.late:
                self._read_now.set()
            if self.universe.waiting <= self._hopeless:
                waiting_since_s = None
            elif waiting_since_s is None:
                waiting_since_s = time.monotonic()
            elif time.monotonic() - waiting_since_s > _WAITING_PATIENCE_S:
                waiting_since_s = None
                self._read_now.set()

    def _watch_feed(self) -> None:
        if self._feed is not None and self._feed.connected:
            self._feed_bad_since_s = None
        elif self._feed_bad_since_s is None:
            self._feed_bad_since_s = time.monotonic()
