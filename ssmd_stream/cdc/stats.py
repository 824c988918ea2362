"""What CDC counts and shows: health and metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ssmd_stream.cdc.names import lsn_text
from ssmd_stream.health import Health

OPS = ("insert", "update", "delete", "truncate")
#: How long NATS or Postgres may be away before /health says so: a restart of either takes less.
GRACE_S = 10.0
#: Held back in Postgres's log before /health says so; the local server gives a slot up at 8 GiB.
MAX_LAG_BYTES = 1024**3
MAX_LAG_S = 60.0


@dataclass(slots=True)
class CdcStats:
    """Counters and gauges of one process.

    Attributes:
        tables: published tables.
        stored: events acknowledged by JetStream, by subject.
        transactions: transactions whose last event was acknowledged; those that came again are not among them.
        skipped: changes that came again and were in the stream already.
        batches: batches acknowledged.
        sessions: times that streaming began; each but the first is a reconnection.
        unacknowledged: events read and not acknowledged (gauge).
        last_lsn: commit of the last transaction acknowledged (gauge).
        confirmed_lsn: what Postgres was last told (gauge).
        lag_bytes: Postgres's log beyond that; None until it was asked (gauge).
        oldest_us: commit time of the oldest transaction read and not yet acknowledged, epoch µs; 0 if none (gauge).
        last_commit_us: commit time of the last transaction acknowledged, epoch µs; 0 before the first (gauge).
        keep_bytes: log that the slot may hold back; None if there is no limit (gauge).
        nats_away_s, postgres_away_s: monotonic time since when each cannot be used; None if it can.
        problem: why nothing is streamed; "" if it is.
    """

    tables: list[str] = field(default_factory=list)
    stored: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    skipped: int = 0
    batches: int = 0
    sessions: int = 0
    unacknowledged: int = 0
    last_lsn: int = 0
    confirmed_lsn: int = 0
    lag_bytes: int | None = None
    oldest_us: int = 0
    last_commit_us: int = 0
    keep_bytes: int | None = None
    nats_away_s: float | None = field(default_factory=time.monotonic)
    postgres_away_s: float | None = field(default_factory=time.monotonic)
    problem: str = "starting"

    @property
    def lag_s(self) -> float:
        """Age of the oldest commit that was read and is not yet in the stream; 0 if there is none."""
        return max(0.0, time.time() - self.oldest_us / 1e6) if self.oldest_us else 0.0

    def all_well(self) -> None:
        """Both servers can be used."""
        self.nats_away_s = self.postgres_away_s = None
        self.problem = ""

    def health(self) -> Health:
        """What /health and /ready say."""
        now_s = time.monotonic()
        problems = []
        for name, since_s in (("NATS", self.nats_away_s), ("Postgres", self.postgres_away_s)):
            if since_s is not None and now_s - since_s > GRACE_S:
                problems.append(f"{name} away for {now_s - since_s:.0f} s: {self.problem}")
        if self.lag_bytes is not None and self.lag_bytes > MAX_LAG_BYTES:
            problems.append(f"{self.lag_bytes} bytes of Postgres's log are not confirmed")
        if self.lag_s > MAX_LAG_S:
            problems.append(f"a commit is {self.lag_s:.0f} s old and not in the stream")
        ready = not problems and not self.problem
        body: dict[str, Any] = {
            "status": "ok" if not problems else "bad",
            "reason": "; ".join(problems) or self.problem,
            "last_commit_lsn": lsn_text(self.last_lsn),
            "confirmed_lsn": lsn_text(self.confirmed_lsn),
            "lag_bytes": self.lag_bytes,
            "lag_s": round(self.lag_s, 3),
            "unacknowledged": self.unacknowledged,
            "slot_may_fill_the_disk": self.keep_bytes is None and not self.postgres_away_s,
        }
        return Health(ok=not problems, ready=ready, body=body)


class CdcCollector(Collector):
    """Metrics; every series is there from the first scrape on, at 0."""

    def __init__(self, stats: CdcStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        stats = self._stats
        events = CounterMetricFamily("ssmd_cdc_events", "Changes stored in the stream", labels=["table", "op"])
        known = {f"cdc.{table}.{op}": 0 for table in stats.tables for op in OPS}
        for subject, count in (known | stats.stored).items():
            _, table, op = subject.split(".")
            events.add_metric([table, op], count)
        yield events
        for name, text, value in (
            ("ssmd_cdc_transactions", "Transactions stored whole", stats.transactions),
            ("ssmd_cdc_skipped", "Changes that came again and were in the stream", stats.skipped),
            ("ssmd_cdc_batches", "Batches stored", stats.batches),
            ("ssmd_cdc_sessions", "Times that streaming began", stats.sessions),
        ):
            yield CounterMetricFamily(name, text, value=value)
        unknown = float("nan")
        for name, text, number in (
            ("ssmd_cdc_lag_bytes", "Postgres's log that is not confirmed", _or(stats.lag_bytes, unknown)),
            ("ssmd_cdc_lag_seconds", "Age of the oldest commit read and not stored", stats.lag_s),
            ("ssmd_cdc_unacknowledged_events", "Changes read and not stored", stats.unacknowledged),
            (
                "ssmd_cdc_last_commit_timestamp_seconds",
                "Commit time of the last change stored",
                stats.last_commit_us / 1e6,
            ),
            ("ssmd_cdc_last_commit_lsn", "Its position in the log, bytes", stats.last_lsn),
            ("ssmd_cdc_confirmed_lsn", "Position that Postgres was told, bytes", stats.confirmed_lsn),
            ("ssmd_cdc_slot_keep_bytes", "Log a slot may hold back; -1 without limit", _or(stats.keep_bytes, -1)),
            ("ssmd_cdc_nats_connected", "Whether NATS can be used", stats.nats_away_s is None),
            ("ssmd_cdc_postgres_connected", "Whether changes are streamed", stats.postgres_away_s is None),
        ):
            yield GaugeMetricFamily(name, text, value=float(number))


def _or(value: int | None, otherwise: float) -> float:
    return otherwise if value is None else value
