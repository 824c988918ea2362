"""Alerts: told once, through ntfy and mail, by daemons and by processes that live for a second."""

from __future__ import annotations

from ssmd_core.alerts.alert import Alert
from ssmd_core.alerts.sender import Alerter

__all__ = ["Alert", "Alerter"]
