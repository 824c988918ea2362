"""What the cache counts, and how it is shown."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ssmd_stream.cache.apply import POISON_REASONS
from ssmd_stream.cache.layout import PLACES
from ssmd_stream.cdc.consume import Op
from ssmd_stream.cdc.watch import CdcWatch
from ssmd_stream.health import Health

#: Why the cache was built anew: nothing there, lost while this process watched, another layout, changes missing from
#: the stream, keys of another type, rows evicted by Redis, columns added to or dropped from the tables.
WARM_REASONS = ("empty", "flushed", "layout", "gap", "damaged", "evicted", "columns")
BEHIND_S = 60.0  # a cache that shows what was true so long ago is not ready


@dataclass(slots=True)
class CacheStats:
    """Counts since the start of the process.

    Attributes:
        cdc: whether CDC runs.
        problem: why nothing can be done now; "" if something can.
        memory: how Redis may lose rows; "" if it may not.
        waiting: what is waited for while all is well; "" if nothing is.
        ready: whether the cache is whole, follows, and has caught up since it began to.
        sequence: last one applied.
        pending: changes in the stream that have not arrived.
        last_commit_ts: commit of the last change that arrived, RFC 3339.
        rows: in the cache, by table.
        applied: changes by table and operation.
        seen: changes that the warm-up had seen already.
        poison: changes passed over, by reason.
        expired: rows that left because they were over.
        fetched: rows read from Postgres because a change did not say all.
        warm_ups: by reason.
        warm_up_s: duration of the last one.
        interruptions: times that a server was lost.
    """

    cdc: CdcWatch
    problem: str = "not started"
    memory: str = ""
    waiting: str = ""
    ready: bool = False
    sequence: int = 0
    pending: int = 0
    last_commit_ts: str = ""
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    applied: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen: int = 0
    poison: Counter[str] = field(default_factory=Counter)
    expired: int = 0
    fetched: int = 0
    warm_ups: Counter[str] = field(default_factory=Counter)
    warm_up_s: float = 0.0
    interruptions: int = 0

    def lag_s(self) -> float:
        """Age of the last change applied while others wait, by the system's clock as Postgres's; 0 if none do."""
        if not self.pending:
            return 0.0
        try:
            committed_s = datetime.fromisoformat(self.last_commit_ts).timestamp()
        except ValueError:
            return 0.0
        return max(0.0, time.time() - committed_s)

    def health(self) -> Health:
        """For /health and /ready: well without a problem; ready if whole and less than `BEHIND_S` behind."""
        lag_s = self.lag_s()
        behind = f"{lag_s:.0f} s behind" if lag_s > BEHIND_S else ""
        problem = "; ".join(filter(None, (self.problem, self.memory, self.cdc.problem())))
        ready = self.ready and not problem and not behind
        body = {
            "status": "bad" if problem else "ok",
            "reason": problem or self.waiting or behind,
            "ready": ready,
            "sequence": self.sequence,
            "pending": self.pending,
            "lag_s": round(lag_s, 3),
            "rows": self.rows,
            "warm_ups": dict(self.warm_ups),
        }
        return Health(ok=not problem, ready=ready, body=body)


class CacheCollector(Collector):
    """Metrics; every series is there from the first scrape, at 0."""

    def __init__(self, stats: CacheStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """What Prometheus reads."""
        stats = self._stats
        rows = GaugeMetricFamily("ssmd_cache_rows", "Rows in Redis", labels=["table"])
        applied = CounterMetricFamily("ssmd_cache_changes_applied", "Changes of CDC", labels=["table", "op"])
        for table in PLACES:
            rows.add_metric([table], stats.rows[table])
            for op in get_args(Op):
                applied.add_metric([table, op], stats.applied[table, op])
        yield from (rows, applied)
        poison = CounterMetricFamily("ssmd_cache_changes_passed_over", "Messages that say nothing", labels=["reason"])
        for reason in POISON_REASONS:
            poison.add_metric([reason], stats.poison[reason])
        yield poison
        warm_ups = CounterMetricFamily("ssmd_cache_warm_ups", "Times that the cache was built anew", labels=["reason"])
        for reason in WARM_REASONS:
            warm_ups.add_metric([reason], stats.warm_ups[reason])
        yield warm_ups
        for name, text, value in (
            ("ssmd_cache_changes_seen", "Changes that a warm-up had seen already", stats.seen),
            ("ssmd_cache_rows_expired", "Rows that left because they were over", stats.expired),
            ("ssmd_cache_rows_fetched", "Rows read from Postgres because a change did not say all", stats.fetched),
            ("ssmd_cache_interruptions", "Times that a server was lost", stats.interruptions),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, text, gauge in (
            ("ssmd_cache_sequence", "Last sequence of the CDC stream that was applied", stats.sequence),
            ("ssmd_cache_lag_messages", "Changes in the stream that are not applied", stats.pending),
            ("ssmd_cache_lag_seconds", "Age of the last change applied while others wait", stats.lag_s()),
            ("ssmd_cache_warm_up_seconds", "Duration of the last warm-up", stats.warm_up_s),
            ("ssmd_cache_cdc_silent_seconds", "Since CDC was heard of", stats.cdc.silent_s),
            ("ssmd_cache_ready", "1 if /ready answers 200", stats.health().ready),
        ):
            yield GaugeMetricFamily(name, text, value=gauge)
