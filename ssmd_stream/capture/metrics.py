"""Prometheus metrics of a connector, read from its counts when they are scraped: the receive path knows nothing of it.

Every series is there from the first scrape, at 0: a rate over a counter that appears with its first event misses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ssmd_core.proof.rules import REASONS
from ssmd_stream.capture.publisher import Publisher
from ssmd_stream.capture.stats import CONTROL, UNPARSED, ShardStats

PREFIX = "ssmd_connector"


class ShardView(Protocol):
    """What the metrics read of a shard."""

    name: str
    stats: ShardStats

    @property
    def requested(self) -> int:
        """Instruments asked for."""

    @property
    def subscribed(self) -> int:
        """Instruments acknowledged, or sent where the venue does not acknowledge."""

    @property
    def refused(self) -> int:
        """(channel, instrument) pairs that the venue refused."""

    @property
    def idle_s(self) -> float:
        """Seconds since the last market data, or since the connection opened."""


class Subscriptions(NamedTuple):
    """What a connector should capture and what it does; zeros where the security master does not decide.

    Attributes:
        wanted: instruments that should be subscribed.
        subscribed: instruments acknowledged, or sent where the venue does not acknowledge.
        overflow: wanted instruments for which no shard has room.
        waiting: markets of which something is not known yet, so that the filter cannot be applied.
        healed: instruments whose state a read of the security master had to correct.
        pending_changes: changes that have not been read yet.
        change_lag_s: from commit to arrival of the last change.
        read_age_s: since the security master was read.
        bad_changes: changes that could not be understood.
        cdc_silent_s: since CDC was heard of.
    """

    wanted: int
    subscribed: int
    overflow: int
    waiting: int
    healed: int
    pending_changes: int
    change_lag_s: float
    read_age_s: float
    bad_changes: int
    cdc_silent_s: float


class ConnectorCollector(Collector):
    """Yields the metrics of a connector.

    Args:
        feed, category: labels; category is the stream's name.
        refresh: called first, to bring the shards' times up to date.
        subscriptions: of the whole connector.
    """

    def __init__(
        self,
        feed: str,
        category: str,
        shards: Callable[[], Sequence[ShardView]],
        publisher: Publisher,
        capacity: int,
        *,
        refresh: Callable[[], None],
        healthy: Callable[[], bool],
        subscriptions: Callable[[], Subscriptions],
    ) -> None:
        self._base = (feed, category)
        self._shards = shards
        self._publisher = publisher
        self._capacity = capacity
        self._refresh = refresh
        self._healthy = healthy
        self._subscriptions = subscriptions

    def register(self, registry: CollectorRegistry) -> None:
        """Add this collector to a registry."""
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        self._refresh()
        yield from self._shard_metrics(self._shards())
        yield from self._connector_metrics()

    def _shard_metrics(self, shards: Sequence[ShardView]) -> Iterable[Metric]:
        messages = CounterMetricFamily(
            f"{PREFIX}_messages", "Messages received", labels=["feed", "category", "shard", "message_type"]
        )
        for shard in shards:
            stats = shard.stats
            kinds = {name: count.messages for name, count in stats.by_type.items()}
            kinds[CONTROL] = stats.keepalives.messages
            kinds[UNPARSED] = stats.unparsed.messages
            for kind, value in kinds.items():
                messages.add_metric([*self._base, shard.name, kind], value)
        yield messages
        troubles = CounterMetricFamily(
            f"{PREFIX}_troubles", "Findings of live checks and drift", labels=["feed", "category", "shard", "reason"]
        )
        for shard in shards:
            for reason in (*REASONS, "drift"):
                troubles.add_metric([*self._base, shard.name, reason], shard.stats.troubles[reason])
        yield troubles
        counters: dict[str, tuple[str, Callable[[ShardView], float]]] = {
            "frames": ("WebSocket frames received", lambda s: s.stats.frames),
            "bytes": ("Bytes of WebSocket frames received", lambda s: s.stats.bytes),
            "unparsed": ("Messages whose type could not be told", lambda s: s.stats.unparsed.messages),
            "parse_errors": ("Messages whose type could not be told", lambda s: s.stats.unparsed.messages),
            "unmapped": ("Subjects made of a symbol that the pair map lacks", lambda s: s.stats.unmapped.messages),
            "oversized_frames": ("Frames larger than accepted; each ended its connection", lambda s: s.stats.oversized),
            "reconnects": ("Connections opened after the first", lambda s: max(s.stats.connects - 1, 0)),
            "connect_failures": ("Attempts to connect that failed", lambda s: s.stats.connect_failures),
            "resubscribes": ("Channels asked for again on a live connection", lambda s: s.stats.resubscribes),
            "venue_errors": ("Errors that the venue sent", lambda s: s.stats.venue_errors),
            "markets_unsubscribed": ("Unsubscribe requests, channel by instrument", lambda s: s.stats.unsubscribed),
            "checks_passed": ("Comparisons with the venue's own checks that held", lambda s: s.stats.checks.passed),
            "checks_failed": ("Comparisons with them that did not", lambda s: s.stats.checks.failed),
            "sequence_gaps": ("Holes in the venue's counters", lambda s: s.stats.checks.gaps),
            "sequence_missing": ("Numbers in those holes", lambda s: s.stats.checks.missing),
            "paused_seconds": ("Time with reading paused by back-pressure", lambda s: s.stats.paused_s),
        }
        gauges: dict[str, tuple[str, Callable[[ShardView], float]]] = {
            "websocket_connected": ("1 while a connection is open", lambda s: int(s.stats.connected)),
            "last_activity_timestamp": ("Last market data, epoch seconds, 0 for never", lambda s: s.stats.last_data_ts),
            "last_frame_timestamp": ("Last frame, epoch seconds, 0 for never", lambda s: s.stats.last_frame_ts),
            "last_pong_timestamp": ("Last pong, epoch seconds, 0 for never", lambda s: s.stats.last_pong_ts),
            "idle_seconds": ("Since the last market data or the connection's opening", lambda s: s.idle_s),
            "markets_requested": ("Instruments asked for", lambda s: s.requested),
            "markets_subscribed": ("Instruments subscribed", lambda s: s.subscribed),
            "refused_instruments": ("Refused subscriptions, channel by instrument", lambda s: s.refused),
            "shard_capacity": ("Instruments that the shard may carry", lambda _: self._capacity),
        }
        labels = ["feed", "category", "shard"]
        for name, (text, value_of) in counters.items():
            family: Metric = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
            yield self._filled(family, shards, value_of)
        for name, (text, value_of) in gauges.items():
            family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
            yield self._filled(family, shards, value_of)

    def _filled(self, family: Metric, shards: Sequence[ShardView], value_of: Callable[[ShardView], float]) -> Metric:
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        for shard in shards:
            family.add_metric([*self._base, shard.name], value_of(shard))
        return family

    def _connector_metrics(self) -> Iterable[Metric]:
        stats, subscriptions = self._publisher.stats, self._subscriptions()
        counters = {
            "reconcile_healed": ("Instruments that a read of the security master corrected", subscriptions.healed),
            "changes_bad": ("Changes of the security master not understood", subscriptions.bad_changes),
            "published": ("Messages handed to the publisher", stats.published),
            "acknowledged": ("Messages acknowledged by JetStream", stats.acknowledged),
            "publish_resent": ("Messages sent a second time", stats.resent),
            "publish_refused": ("Batches refused by JetStream", stats.refused),
            "spool_errors": ("Failed writes to the spool", stats.spool_errors),
        }
        gauges: dict[str, tuple[str, float]] = {
            "wanted": ("Instruments that should be subscribed", subscriptions.wanted),
            "subscribed": ("Instruments subscribed on every channel", subscriptions.subscribed),
            "overflow": ("Wanted instruments without room on a shard", subscriptions.overflow),
            "waiting": ("Markets whose event or series is not known yet", subscriptions.waiting),
            "changes_pending": ("Changes of the security master not yet read", subscriptions.pending_changes),
            "change_lag_seconds": ("Commit to arrival of the last change", subscriptions.change_lag_s),
            "secmaster_age_seconds": ("Since the security master was read", subscriptions.read_age_s),
            "cdc_silent_seconds": ("Since CDC was heard of", subscriptions.cdc_silent_s),
            "shards_total": ("Shards", len(self._shards())),
            "healthy": ("1 if /health answers 200", int(self._healthy())),
            "nats_connected": ("1 while batches can go to NATS", int(stats.connected)),
            "backlog_bytes": ("Bytes in memory not yet acknowledged", self._publisher.backlog_bytes),
            "publish_inflight": ("Batches sent and not yet acknowledged", stats.in_flight),
            "spool_bytes": ("Bytes in the spool", stats.spool_bytes),
            "spooled_messages": ("Messages in the spool", stats.spooled_messages),
        }
        for name, (text, total) in counters.items():
            counter = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["feed", "category"])
            counter.add_metric(self._base, total)
            yield counter
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["feed", "category"])
            gauge.add_metric(self._base, value)
            yield gauge
