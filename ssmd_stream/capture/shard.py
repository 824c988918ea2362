"""A shard: some of the instruments, on one connection after another."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog

from ssmd_core.errors import ConnectError
from ssmd_core.feeds.subjects import StreamName
from ssmd_stream.capture.connection import NORMAL, Connection, Setting
from ssmd_stream.capture.options import Backoff
from ssmd_stream.capture.sessions.base import Session
from ssmd_stream.capture.stats import Router, ShardStats

log = structlog.get_logger()

# One attempt may fail when a venue restarts a front end; with the pauses between, three take some seconds.
_FAILURES_TOLD = 3


class Shard:
    """Keeps a connection open for its instruments until told to stop.

    Args:
        name: connection name, `c0`, `c1`, …
        instruments: see `Session.takes_all` for what none means.
        delay_s: pause before the first connection.
        note_failure: told of each attempt to connect that failed; there is no epoch yet to note it in.
        changed: told whenever a connection ended.
    """

    def __init__(
        self,
        name: str,
        instruments: Iterable[str],
        setting: Setting,
        *,
        stream: StreamName,
        make_session: Callable[[], Session],
        pair_map: Mapping[str, str] | None,
        backoff: Backoff,
        note_failure: Callable[..., None],
        changed: Callable[[], None],
        delay_s: float = 0.0,
    ) -> None:
        self.name = name
        self.instruments: dict[str, None] = dict.fromkeys(instruments)
        self._setting = setting
        self._make_session = make_session
        self._takes_all = make_session().takes_all
        self._backoff = backoff
        self._note_failure = note_failure
        self._changed = changed
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self.stats = ShardStats(setting.feed.message_types, self._loop.time() + delay_s)
        # Market data is due from the moment that the first instrument is asked for.
        self._asking_since_s = 0.0
        self.router = Router(stream, name, self.stats, pair_map)
        self._connection: Connection | None = None
        self._refused: dict[tuple[str, str], str] = {}
        self._paused = False
        self._stopping = asyncio.Event()
        self._log = log.bind(feed=setting.feed.name, connection=name)

    async def run(self) -> None:
        """Connect, capture, reconnect; returns after `stop`.

        Raises:
            ConfigError: a credential cannot be used.
        """
        attempt = 0
        await self._pause(self._delay_s)
        while not self._stopping.is_set():
            lasted_s = await self._live_once()
            if self._stopping.is_set():
                return
            self._changed()
            attempt = 0 if lasted_s >= self._backoff.healthy_s else attempt + 1
            longest_s = min(self._backoff.min_s * 2.0 ** min(attempt - 1, 30), self._backoff.max_s)
            if self._takes_all and self.stats.all_refused:
                longest_s = self._backoff.max_s
            pause_s = max(longest_s, self._backoff.min_s) * random.uniform(0.5, 1.0)
            self._log.info("reconnecting", pause_s=round(pause_s, 2), attempt=attempt)
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()

    async def _live_once(self) -> float:
        session = self._make_session()
        connection = Connection(
            self.name,
            session,
            self.instruments,
            self._setting,
            router=self.router,
            stats=self.stats,
            paused=self._paused,
        )
        self._connection = connection
        try:
            ended = await connection.run()
        except ConnectError as error:
            self.stats.connect_failures += 1
            self.stats.connect_failures_in_a_row += 1
            self.stats.failing = True
            self.stats.last_error = str(error)
            self._log.warning("cannot connect", reason=str(error))
            self._note_failure(shard=self.name, url=self._setting.url, reason=str(error))
            if self.stats.connect_failures_in_a_row >= _FAILURES_TOLD:
                self._setting.alarms.raise_("down", self.name, f"cannot connect: {error}", "critical")
            return 0.0
        finally:
            self._refused = session.refused
            self.stats.all_refused = session.all_refused
            self._connection = None
        return ended.lasted_s

    def stop(self, reason: str) -> None:
        """Close the connection; `run` returns soon after."""
        self._stopping.set()
        if self._connection is not None:
            self._connection.end(NORMAL, reason)

    def retire(self, reason: str) -> None:
        """Stop for good: nothing is wrong with a shard that is no longer needed."""
        self.stop(reason)
        self._setting.alarms.gone(self.name)

    def pause(self, paused: bool) -> None:
        """Stop reading, or read again."""
        self._paused = paused
        if self._connection is not None:
            self._connection.pause(paused)

    def add(self, instruments: Sequence[str]) -> None:
        """Subscribe more, at once if a connection is open."""
        if not self.instruments:
            self._asking_since_s = self._loop.time()
        self.instruments.update(dict.fromkeys(instruments))
        if self._connection is not None:
            self._connection.add(instruments)

    def remove(self, instruments: Sequence[str]) -> None:
        """Unsubscribe, at once if a connection is open."""
        for instrument in instruments:
            self.instruments.pop(instrument, None)
        if self._connection is not None:
            self._connection.remove(instruments)

    def retry_refused(self) -> None:
        """Ask again for what the venue refused on the open connection."""
        if self._connection is not None and self.refusals:
            self._connection.retry()

    def note_coverage(self) -> None:
        """See `Connection.note_coverage`."""
        if self._connection is not None:
            self._connection.note_coverage()

    def refresh(self) -> None:
        """Bring the times in `stats` up to date."""
        if self._connection is not None and self.stats.connected:
            self._connection.sample(self._loop.time())

    # -- what health and metrics read

    @property
    def requested(self) -> int:
        """See `ShardView`."""
        return len(self.instruments)

    @property
    def subscribed(self) -> int:
        """See `ShardView`."""
        if self._connection is None or not self.stats.connected:
            return 0
        return len(self._connection.session.accepted)

    @property
    def settled(self) -> bool:
        """Whether a connection is open and no acknowledgement is awaited on it."""
        return self.stats.connected and self._connection is not None and not self._connection.session.outstanding

    @property
    def refusals(self) -> Mapping[tuple[str, str], str]:
        """(channel, instrument) -> reason, of the present or last connection."""
        return self._connection.session.refused if self._connection is not None else self._refused

    @property
    def refused(self) -> int:
        """See `ShardView`."""
        return len(self.refusals)

    @property
    def idle_s(self) -> float:
        """See `ShardView`."""
        stats = self.stats
        since_s = max(stats.last_data_s, stats.up_since_s, self._asking_since_s) if stats.connected else 0.0
        return self._loop.time() - (since_s or self.stats.down_since_s)

    def describe(self) -> dict[str, Any]:
        """What /health says of the shard."""
        stats = self.stats
        return {
            "connected": stats.connected,
            "instruments": self.requested,
            "subscribed": self.subscribed,
            "refused": {f"{channel} {name}": reason for (channel, name), reason in list(self.refusals.items())[:20]},
            "frames": stats.frames,
            "idle_s": round(self.idle_s, 1),
            "reconnects": max(stats.connects - 1, 0),
            "last_error": stats.last_error,
            "checks": dataclasses.asdict(stats.checks),
            "troubles": dict(stats.troubles),
        }

    def problem(self, data_timeout_s: float | None, down_grace_s: float) -> str:
        """Why the shard is not doing its work, "" if it is.

        Args:
            data_timeout_s: market data must have come within it, counted from the connection's opening; None if
                the shard's channels may be silent for ever.
            down_grace_s: how long a reconnect may take after a connection that worked.
        """
        stats = self.stats
        if self._takes_all and stats.all_refused:
            return f"{self.name}: every subscription was refused: {next(iter(self.refusals.values()), '')}"
        if not stats.connected:
            down_s = self._loop.time() - stats.down_since_s
            # Where instruments come and go, shards are opened at any time: that alone is no fault.
            waits = down_s < 0 or not self._takes_all or stats.connects
            if waits and not stats.failing and down_s <= down_grace_s:
                return ""
            return f"{self.name}: not connected for {down_s:.0f} s: {stats.last_error or 'connecting'}"
        asks = self._takes_all or self.instruments
        if asks and data_timeout_s is not None and self.idle_s > data_timeout_s:
            return f"{self.name}: no market data for {self.idle_s:.0f} s"
        return ""
