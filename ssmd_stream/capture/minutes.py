"""What an epoch published in each minute of the capture's clock, told in the archive when the minute is over.

With it the archive proves itself: what the socket delivered and what the files hold can be compared, minute by minute.
The counts are differences of those that the receive path keeps anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any

from ssmd_core.clock import NS_PER_S
from ssmd_core.messages.control import CONTROL_TYPE
from ssmd_core.proof.rules import LiveCounts
from ssmd_stream.capture.sessions.base import Subscriptions
from ssmd_stream.capture.stats import UNPARSED, Count, ShardStats, Target

MINUTE_NS = 60 * NS_PER_S
NS_PER_MS = 1_000_000
_CHECKS = ("passed", "failed", "unverifiable", "gaps", "missing")


class Minutes:
    """Counts of one epoch since its present minute began.

    Args:
        stats: of the shard; counts of other epochs in it are left out.
        subscriptions: by channel; see `Session.subscriptions`.
        groups: channel of each message type; see `Session.groups`.
        covered: how many instruments some ids of messages stand for; see `Session.covered`.
        now_ns: the first minute begins here.

    Attributes:
        start_ns: the minute began here, or the epoch did.
        end_ns: the first moment after the minute.
        touched: targets that got a message in this minute; the receive path adds to it.
        ages_ns: receive time minus the venue's time, of some messages.
        errors: events of that name.
        checks: what the live check has counted so far; None: there is none.
    """

    def __init__(
        self,
        stats: ShardStats,
        subscriptions: Mapping[str, Subscriptions],
        groups: Mapping[str, str],
        covered: Callable[[set[str]], int],
        now_ns: int,
    ) -> None:
        self._stats = stats
        self._subscriptions = subscriptions
        self._groups = groups
        self._covered = covered
        self.touched: list[Target] = []
        self.ages_ns: list[int] = []
        self.checks: LiveCounts | None = None
        self.errors = 0
        self._own = Count()
        self._seen_checks: tuple[int, ...] = (0,) * len(_CHECKS)
        self._seen_types = self._by_type()
        self._seen = (stats.frames, stats.resubscribes)
        self._first_ordinal = 0
        self._begin(now_ns)

    def _begin(self, now_ns: int) -> None:
        self.start_ns = now_ns
        self.end_ns = now_ns - now_ns % MINUTE_NS + MINUTE_NS

    def note_own(self, payload: bytes) -> None:
        """One of ssmd's own events is published."""
        self._own.messages += 1
        self._own.bytes += len(payload)

    def over(self, now_ns: int) -> bool:
        """Whether the minute is over; a clock that was set back by more than a minute ends it too."""
        return now_ns >= self.end_ns or now_ns < self.start_ns - MINUTE_NS

    def turn(self, now_ns: int, ordinal: int) -> dict[str, Any]:
        """End the minute and begin the next one.

        Args:
            ordinal: of the event that will tell it; the event itself belongs to the next minute.

        Returns:
            The event's fields. `types` adds up to the ordinals: all that was published is in it. Messages of a type
            that the registry does not know and texts like `PONG` are among the `unparsed`; where a channel is asked
            for without a list, that counts as one instrument.
        """
        fields: dict[str, Any] = {
            "minute": f"{datetime.fromtimestamp((self.end_ns - MINUTE_NS) // NS_PER_S, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "ordinals": [self._first_ordinal, ordinal - 1],
            "types": self._types(),
            "asked": {name: len(state.asked) for name, state in self._subscriptions.items()},
            "acknowledged": {name: len(state.accepted) for name, state in self._subscriptions.items()},
            "refused": {name: len(state.refused) for name, state in self._subscriptions.items()},
            "delivered": self._delivered(),
            "errors": self.errors,
            "checks": self._checks(),
            **_ages(self.ages_ns),
        }
        seen = (self._stats.frames, self._stats.resubscribes)
        fields["frames"], fields["resubscribes"] = (new - old for new, old in zip(seen, self._seen, strict=True))
        self._seen = seen
        self._first_ordinal = ordinal
        self.errors = 0
        self.ages_ns = []
        self._begin(now_ns)
        return fields

    def _by_type(self) -> dict[str, tuple[int, int]]:
        stats = self._stats
        counts = {name: (count.messages, count.bytes) for name, count in stats.by_type.items()}
        without = (stats.unparsed, stats.keepalives)
        counts[UNPARSED] = (sum(each.messages for each in without), sum(each.bytes for each in without))
        return counts

    def _types(self) -> dict[str, list[int]]:
        now, before = self._by_type(), self._seen_types
        types = {
            name: [messages - before[name][0], size - before[name][1]]
            for name, (messages, size) in now.items()
            if messages != before[name][0]
        }
        if self._own.messages:
            types[CONTROL_TYPE] = [self._own.messages, self._own.bytes]
        self._seen_types = now
        self._own = Count()
        return types

    def _delivered(self) -> dict[str, int]:
        ids: dict[str, set[str]] = {channel: set() for channel in self._subscriptions}
        for target in self.touched:
            target.fresh = True
            channel = self._groups.get(target.kind, "")
            if channel in ids and target.id:
                ids[channel].add(target.id)
        # The receive path holds this very list.
        self.touched.clear()
        return {channel: self._covered(names) for channel, names in ids.items()}

    def _checks(self) -> dict[str, int]:
        now = astuple(self.checks) if self.checks is not None else self._seen_checks
        since = {name: new - old for name, new, old in zip(_CHECKS, now, self._seen_checks, strict=True)}
        self._seen_checks = now
        return since


def _ages(ages_ns: Sequence[int]) -> dict[str, Any]:
    """`offset_ms` and `age_ms` [p50, p99, max]; null without venue times."""
    if not ages_ns:
        return {"offset_ms": None, "age_ms": None}
    ordered = sorted(ages_ns)
    last = len(ordered) - 1
    picked = (ordered[last // 2], ordered[-(-last * 99 // 100)], ordered[last])
    return {
        "offset_ms": round(ordered[0] / NS_PER_MS, 3),
        "age_ms": [round(age / NS_PER_MS, 3) for age in picked],
    }
