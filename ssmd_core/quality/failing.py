"""Hours that are still not right: what a person should mend, until it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

_HOURS = """
SELECT feed, stream, hour, word, reasons FROM ledger_hours
WHERE hour >= %s AND hour < %s AND word = 'degraded' ORDER BY hour DESC, feed, stream
"""
# What a rebuild, a mended schema or a fetched trade can still put right; a hole in the capture stays a hole.
MENDABLE = frozenset({"slots_missing", "rejects", "null_column", "drift", "carried_state_missing"})


@dataclass(frozen=True, slots=True)
class FailingHour:
    """A degraded hour.

    Attributes:
        reasons: codes, in the order of the ledger.
        mendable: whether one of them can still be put right.
    """

    feed: str
    stream: str
    hour: datetime
    reasons: tuple[str, ...]

    @property
    def mendable(self) -> bool:
        return bool(MENDABLE.intersection(self.reasons))

    @property
    def name(self) -> str:
        """`feed/stream YYYY-MM-DDTHH`."""
        return f"{self.feed}/{self.stream} {self.hour:%Y-%m-%dT%H}"


async def failing_hours(connection: psycopg.AsyncConnection, until: datetime, days: int) -> list[FailingHour]:
    """Degraded hours of the `days` days before `until`, newest first.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    rows = await (await connection.execute(_HOURS, (until - timedelta(days=days), until))).fetchall()
    return [
        FailingHour(feed, stream, hour, tuple(str(reason.get("code", "")) for reason in reasons))
        for feed, stream, hour, _, reasons in rows
    ]
