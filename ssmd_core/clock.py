"""The wall clock, passed in so that a test, a rehearsal or the demo can choose the hour.

Timeouts and watchdogs use `time.monotonic`; only receive times, slots and partitions use a `Clock`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from ssmd_core.errors import ConfigError

NS_PER_S = 1_000_000_000
NS_PER_US = 1_000


class Clock:
    """A wall clock, optionally shifted and sped up.

    Args:
        start_ns: epoch nanoseconds that the clock shows when it is made; None follows the system clock.
        rate: seconds of this clock per second of real time; only with `start_ns`.

    Receive times decide archive slots, so a small step back of the system clock is clamped: `now_ns` repeats its last
    value until real time has caught up. A larger step is followed and counted in `steps_back`: to repeat one value for
    an hour would hide when messages came, and the archive keeps what arrives for a sealed slot in a late file.
    """

    MAX_CLAMPED_STEP_NS = 2 * NS_PER_S

    def __init__(self, start_ns: int | None = None, rate: float = 1.0) -> None:
        self._start_ns = start_ns
        self._rate = rate
        self._made_ns = time.monotonic_ns()
        self._last_ns = 0
        self.steps_back = 0

    def now_ns(self) -> int:
        """Epoch nanoseconds; not less than the value returned before, but for steps back of more than two seconds."""
        if self._start_ns is None:
            now = time.time_ns()
        else:
            now = self._start_ns + int((time.monotonic_ns() - self._made_ns) * self._rate)
        if now < self._last_ns:
            if self._last_ns - now <= self.MAX_CLAMPED_STEP_NS:
                return self._last_ns
            self.steps_back += 1
        self._last_ns = now
        return now

    def stop(self) -> None:
        """Show the present moment from now on."""
        self._start_ns, self._made_ns, self._rate = self.now_ns(), time.monotonic_ns(), 0.0

    @classmethod
    def parse(cls, text: str | None) -> Clock:
        """Read `START[@RATE]`, e.g. `2026-11-22T11:00:00Z@180`; None or "" is the system clock.

        START may also be `epoch nanoseconds~monotonic nanoseconds`, which several processes of one machine use
        to share one shifted clock (see `shared_text`).

        Raises:
            ConfigError: the text is neither.
        """
        if not text:
            return cls()
        start_text, _, rate_text = text.partition("@")
        try:
            rate = float(rate_text) if rate_text else 1.0
            if "~" in start_text:
                epoch_text, _, monotonic_text = start_text.partition("~")
                clock = cls(int(epoch_text), rate)
                clock._made_ns = int(monotonic_text)
                return clock
            moment = datetime.fromisoformat(start_text)
        except ValueError as error:
            raise ConfigError(f"clock {text!r} is not START[@RATE]: {error}") from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return cls(int(moment.timestamp()) * NS_PER_S, rate)

    @property
    def is_system(self) -> bool:
        """Whether it shows the system's time."""
        return self._start_ns is None

    def shared_text(self) -> str:
        """Text from which `parse` makes the same clock in another process of this machine; "" for the system clock."""
        if self._start_ns is None:
            return ""
        return f"{self._start_ns}~{self._made_ns}@{self._rate}"


def rfc3339_us(epoch_us: int) -> str:
    """Epoch microseconds as RFC 3339 UTC with microseconds, e.g. `2026-11-22T11:15:00.000000Z`."""
    moment = datetime.fromtimestamp(epoch_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{epoch_us % 1_000_000:06d}Z"
