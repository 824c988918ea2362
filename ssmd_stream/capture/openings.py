"""What every subscription must begin with, instrument by instrument: an acknowledgement alone proves no data.

A venue may acknowledge 500 instruments and send 480 (or acknowledge nothing at all). Most send an opening message for
each (a book, a snapshot); what stays without is flagged and asked for again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

# An opening dump of 500 books takes seconds on a slow line.
PATIENCE_S = 10.0


class Openings:
    """Instruments of one connection whose opening message has not come yet.

    Args:
        kinds: message type that opens -> its channel.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = kinds
        self._waiting: dict[str, dict[str, float]] = {channel: {} for channel in kinds.values()}

    def watches(self, channel: str) -> bool:
        """Whether the channel's subscriptions begin with such a message."""
        return channel in self._waiting

    def waits_for(self, kind: str) -> bool:
        """Whether a message of this type could be one that is waited for."""
        return bool(self._waiting.get(self.kinds.get(kind, "")))

    @property
    def waiting(self) -> int:
        """How many are waited for."""
        return sum(map(len, self._waiting.values()))

    def expect(self, channel: str, instruments: Iterable[str], due_s: float = math.inf) -> None:
        """Instruments have been asked for; their message is due at monotonic time `due_s`, if that is known yet.

        What has been waited for before is not waited for any longer because it was asked for again.
        """
        waiting = self._waiting[channel]
        for name in instruments:
            waiting[name] = min(due_s, waiting.get(name, math.inf))

    def acknowledged(self, channel: str, instruments: Iterable[str], now_s: float) -> None:
        """The venue has acknowledged instruments: now their message is due."""
        waiting = self._waiting.get(channel, {})
        for name in instruments:
            if waiting.get(name) == math.inf:
                waiting[name] = now_s + PATIENCE_S

    def forget(self, channel: str, instruments: Iterable[str]) -> None:
        """The message came, or is not due: refused or unsubscribed."""
        waiting = self._waiting.get(channel, {})
        for name in instruments:
            waiting.pop(name, None)

    def shift(self, by_s: float) -> None:
        """Nothing was read for so long."""
        for waiting in self._waiting.values():
            for name, due_s in waiting.items():
                waiting[name] = due_s + by_s

    def overdue(self, now_s: float) -> dict[str, tuple[str, ...]]:
        """Channel -> instruments whose message has not come in time. They are not waited for any longer."""
        found: dict[str, tuple[str, ...]] = {}
        for channel, waiting in self._waiting.items():
            late = tuple(name for name, due_s in waiting.items() if due_s <= now_s)
            if late:
                found[channel] = late
                self.forget(channel, late)
        return found


class Renewals:
    """When instruments are asked for again: at once, then after ever longer pauses while it does not help.

    Args:
        first_s, longest_s: pause after the first renewal; it doubles each time up to the other.
        forgotten_s: so long after its last renewal an instrument begins anew.
    """

    def __init__(self, first_s: float = 1.0, longest_s: float = 300.0, forgotten_s: float = 600.0) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._forgotten_s = forgotten_s
        # Bounded by what is subscribed, but for what a venue makes up.
        self._history: dict[tuple[str, str], tuple[float, int]] = {}
        self._due: dict[tuple[str, str], float] = {}

    def ask(self, channel: str, instruments: Collection[str], now_s: float) -> None:
        """Instruments of a channel shall be asked for again, as soon as that is allowed."""
        for name in instruments:
            key = (channel, name)
            last_s, times = self._history.get(key, (-math.inf, 0))
            if now_s - last_s > self._forgotten_s:
                times = 0
            pause_s = min(self._first_s * 2.0 ** (times - 1), self._longest_s) if times else 0.0
            self._due.setdefault(key, max(now_s, last_s + pause_s))

    def take(self, now_s: float) -> dict[tuple[str, int], list[str]]:
        """(channel, times it was done before) -> instruments whose turn it is."""
        if not self._due:
            return {}
        ready: dict[tuple[str, int], list[str]] = {}
        for key in [key for key, due_s in self._due.items() if due_s <= now_s]:
            del self._due[key]
            last_s, times = self._history.get(key, (-math.inf, 0))
            if now_s - last_s > self._forgotten_s:
                times = 0
            self._history[key] = (now_s, times + 1)
            ready.setdefault((key[0], times), []).append(key[1])
        return ready

    def forget(self, instruments: Collection[str]) -> None:
        """Instruments are no longer subscribed."""
        gone = set(instruments)
        for table in (self._history, self._due):
            for key in [key for key in table if key[1] in gone]:
                del table[key]
