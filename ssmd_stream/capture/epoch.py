"""Ordinals of one connection: everything that it publishes has the next one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.messages.control import Event, control_event
from ssmd_core.messages.headers import Stamp
from ssmd_stream.capture.minutes import Minutes
from ssmd_stream.capture.sessions.base import Subscriptions
from ssmd_stream.capture.stats import ShardStats


class Publish(Protocol):
    """`Publisher.publish`."""

    def __call__(self, subject: str, payload: bytes, stamp: Stamp, /) -> None: ...


class Epoch:
    """Gives everything that one connection publishes its ordinal, from 0, without holes.

    Args:
        connection: connection name, e.g. `c0`; the epoch's name is `{connection}-{UTC time}-{4 hex digits}`.
        control_subject: where ssmd's own events go.
        stats, subscriptions, groups, covered: what its minutes tell, see `Minutes`; nothing but the epoch's own
            events where they are left out.
    """

    def __init__(
        self,
        connection: str,
        control_subject: str,
        clock: Clock,
        publish: Publish,
        *,
        stats: ShardStats | None = None,
        subscriptions: Mapping[str, Subscriptions] | None = None,
        groups: Mapping[str, str] | None = None,
        covered: Callable[[set[str]], int] = len,
    ) -> None:
        made_ns = clock.now_ns()
        moment = datetime.fromtimestamp(made_ns // NS_PER_S, UTC)
        milliseconds = made_ns // 1_000_000 % 1000
        # Not for secrecy: two processes that open in the same millisecond must not share an epoch.
        suffix = random.SystemRandom().randrange(0x10000)
        self.name = f"{connection}-{moment:%Y%m%dT%H%M%S}{milliseconds:03d}-{suffix:04x}"
        self.connection = connection
        self.next_ordinal = itertools.count().__next__
        self.minutes = Minutes(stats or ShardStats({}, 0.0), subscriptions or {}, groups or {}, covered, made_ns)
        self._subject = control_subject
        self._clock = clock
        self._publish = publish
        self._begun = False
        self._over = False

    def control(self, event: Event, **fields: Any) -> None:
        """Publish one of ssmd's own events; none follows the last one."""
        if self._over:
            return
        now_ns = self._clock.now_ns()
        self.turn(now_ns)
        self._begun = True
        if event == "error":
            self.minutes.errors += 1
        payload = control_event(event, self.connection, **fields)
        self.minutes.note_own(payload)
        self._publish(self._subject, payload, Stamp(self.name, self.next_ordinal(), now_ns))

    def turn(self, now_ns: int) -> None:
        """Tell the minute if it is over at `now_ns`; nothing before the epoch's first event."""
        if self._begun and not self._over and self.minutes.over(now_ns):
            self._tell_minute(now_ns)

    def _tell_minute(self, now_ns: int) -> None:
        ordinal = self.next_ordinal()
        payload = control_event("minute", self.connection, **self.minutes.turn(now_ns, ordinal))
        self.minutes.note_own(payload)
        self._publish(self._subject, payload, Stamp(self.name, ordinal, now_ns))

    def close(self, **fields: Any) -> None:
        """Publish the rest of the minute and the last event; its `messages` is how many ordinals the epoch used."""
        now_ns = self._clock.now_ns()
        self.turn(now_ns)
        self._tell_minute(now_ns)
        self._over = True
        ordinal = self.next_ordinal()
        payload = control_event("closed", self.connection, messages=ordinal + 1, **fields)
        self._publish(self._subject, payload, Stamp(self.name, ordinal, now_ns))
