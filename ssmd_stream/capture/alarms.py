"""What a connector tells people at once: conditions that begin and end, each under a key of its own."""

from __future__ import annotations

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
    """

    def __init__(self, feed: str, stream: str, alerts: Alerts | None = None) -> None:
        self._feed = feed
        self._stream = stream
        self._alerts = alerts
        self._raised: set[str] = set()

    def raise_(self, what: str, where: str, text: str, severity: Severity = "warning") -> None:
        """A condition holds.

        Args:
            what: in two or three words, e.g. `mute`; with `where` it identifies the condition.
            where: connection, or what else it is about.
        """
        key = self._key(what, where)
        self._raised.add(key)
        if self._alerts is not None:
            title = f"{self._feed}/{self._stream} {where}: {what}"
            self._alerts.raise_(Alert(key, title, text, severity, self._feed, self._stream))

    def clear(self, what: str, where: str) -> None:
        """A condition is over; one that was never raised is left alone."""
        key = self._key(what, where)
        if key in self._raised:
            self._raised.discard(key)
            if self._alerts is not None:
                self._alerts.clear(key)

    def _key(self, what: str, where: str) -> str:
        return f"{what}:{self._feed}/{self._stream}/{where}"
