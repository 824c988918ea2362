"""What a connector tells people at once: conditions that begin and end, each under a key of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal, Protocol

from ssmd_core.alerts import Alert

Severity = Literal["info", "warning", "critical"]


class Alerts(Protocol):
    """The part of `Alerter` that capture uses; it neither blocks nor raises."""

    def raise_(self, alert: Alert) -> None:
        """The condition holds."""

    def clear(self, key: str) -> None:
        """It no longer does."""


class Alarms:
    """Conditions of one stream.

    Args:
        alerts: tells people; None: nobody is told.
        now_s: monotonic time.
    """

    def __init__(
        self, feed: str, stream: str, alerts: Alerts | None = None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._feed = feed
        self._stream = stream
        self._alerts = alerts
        self._now_s = now_s
        # Where a condition is, and when it is over by itself, by key; one that nobody clears outlives its connection.
        self._raised: dict[str, tuple[str, float]] = {}

    def raise_(self, what: str, where: str, text: str, severity: Severity = "warning", for_s: float = math.inf) -> None:
        """A condition holds.

        Args:
            what: in two or three words, e.g. `mute`; with `where` it identifies the condition.
            where: connection, or what else it is about.
            for_s: it is over if it is not raised again within that time.
        """
        key = self._key(what, where)
        self._raised[key] = (where, self._now_s() + for_s)
        if self._alerts is not None:
            title = f"{self._feed}/{self._stream} {where}: {what}"
            self._alerts.raise_(Alert(key, title, text, severity, self._feed, self._stream))

    def clear(self, what: str, where: str) -> None:
        """A condition is over; one that was never raised is left alone."""
        self._clear(self._key(what, where))

    def lapse(self, what: str, where: str, for_s: float) -> None:
        """A condition that holds is over if it is not raised again within that time."""
        key = self._key(what, where)
        if key in self._raised:
            self._raised[key] = (where, self._now_s() + for_s)

    def expire(self) -> None:
        """End what has not been raised again in its time; to be called every now and then."""
        now_s = self._now_s()
        for key in [key for key, (_, until_s) in self._raised.items() if until_s <= now_s]:
            self._clear(key)

    def gone(self, where: str) -> None:
        """What these conditions were about is no longer there."""
        for key in [key for key, (place, _) in self._raised.items() if place == where]:
            self._clear(key)

    def _clear(self, key: str) -> None:
        if self._raised.pop(key, None) is not None and self._alerts is not None:
            self._alerts.clear(key)

    def _key(self, what: str, where: str) -> str:
        return f"{what}:{self._feed}/{self._stream}/{where}"
