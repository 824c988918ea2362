"""The archiver daemon: several streams in one process, with health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.settings import Settings
from ssmd_stream.archive.archiver import StreamArchiver
from ssmd_stream.health import Health, HealthServer

log = structlog.get_logger()

EXIT_DRAINED = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2
# Ticks come every few seconds while a connector lives: longer silence means that nothing is captured or delivered.
STALE_S = 60.0
RETRY_STREAM_S = 60.0


@dataclass(frozen=True, slots=True)
class ArchiverOptions:
    """What the command line says.

    Attributes:
        streams: what to archive.
        health_host, health_port: where /health, /ready and /metrics are served; port 0 takes a free one, None none.
    """

    streams: Sequence[StreamName]
    health_host: str = "127.0.0.1"
    health_port: int | None = None


async def run_archiver(options: ArchiverOptions, settings: Settings) -> int:
    """Archive until SIGTERM or SIGINT; then commit, acknowledge and end within ten seconds.

    Open slots stay `.part` files of whole members, which the next start takes up.

    Returns:
        0 after a clean stop, 1 if a stream failed, 2 for a configuration that cannot be used. A stream that fails is
        tried again every minute, and /health says why it failed, while the others go on; the process ends by itself
        only once all have failed.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    archivers = [StreamArchiver(name, settings.archive_root, settings.nats_url) for name in options.streams]
    registry = CollectorRegistry()
    registry.register(_ArchiverCollector(archivers))
    server: HealthServer | None = None
    if options.health_port is not None:
        server = HealthServer(options.health_host, options.health_port, lambda: _health(archivers), registry)
        try:
            await server.start()
        except ConfigError as error:
            log.error("cannot start", error=str(error))
            return EXIT_CONFIG
    failed: set[int] = set()

    async def keep(index: int) -> bool:
        """Archive one stream until the stop; whether it never failed."""
        clean = True
        while not stop.is_set():
            archiver = archivers[index]
            try:
                await archiver.run(stop)
                return clean
            except (SsmdError, OSError) as error:
                reason = str(error)
                log.error("stream failed", stream=archiver.name.folder, error=reason)
            except Exception as error:  # a defect of ssmd's own must not cost the other streams their messages
                reason = f"{type(error).__name__}: {error}"
                log.exception("stream failed", stream=archiver.name.folder)
            clean = False
            archiver.stats.problem = reason
            failed.add(index)
            if len(failed) == len(archivers):
                stop.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_STREAM_S)
            if not stop.is_set():
                failed.discard(index)
                archivers[index] = StreamArchiver(archiver.name, settings.archive_root, settings.nats_url)
        return clean

    clean = await asyncio.gather(*(keep(index) for index in range(len(archivers))))
    exit_code = EXIT_DRAINED if all(clean) else EXIT_FAILED
    if server is not None:
        await server.stop()
    log.info("stopped", exit_code=exit_code, archived=sum(archiver.stats.archived for archiver in archivers))
    return exit_code


def _health(archivers: Sequence[StreamArchiver]) -> Health:
    now_s = time.monotonic()
    streams = {}
    problems = []
    for archiver in archivers:
        stats = archiver.stats
        idle_s = now_s - stats.last_message_s
        problem = stats.problem
        if not problem and idle_s > STALE_S:
            # Ticks come every few seconds while a connector lives.
            problem = f"nothing delivered for {idle_s:.0f} s"
        if problem:
            problems.append(f"{archiver.name.folder}: {problem}")
        streams[archiver.name.folder] = {
            "last_seq": stats.last_seq,
            "archived": stats.archived,
            "lost": stats.lost,
            "idle_s": round(idle_s, 1),
            "problem": problem,
        }
    body = {"status": "ok" if not problems else "bad", "reason": "; ".join(problems), "streams": streams}
    return Health(ok=not problems, ready=not problems, body=body)


class _ArchiverCollector(Collector):
    """Metrics of every stream; every series is there from the first scrape, at 0."""

    def __init__(self, archivers: Sequence[StreamArchiver]) -> None:
        self._archivers = archivers

    def collect(self) -> Iterator[Metric]:
        labels = ["feed", "stream"]
        messages = CounterMetricFamily("ssmd_archiver_messages", "Lines committed", labels=[*labels, "message_type"])
        for archiver in self._archivers:
            known = dict.fromkeys([*archiver.name.feed.message_types, "control", "unparsed"], 0)
            for message_type, count in (known | archiver.stats.archived_by_type).items():
                messages.add_metric([*_labels(archiver), message_type], count)
        yield messages
        counters = {
            "ssmd_archiver_bytes": ("Decompressed bytes committed", "raw_bytes"),
            "ssmd_archiver_files_rotated": ("Files sealed", "files_sealed"),
            "ssmd_archiver_duplicates": ("Messages dropped because they were archived already", "duplicates"),
            "ssmd_archiver_redelivered": ("Messages delivered again", "redelivered"),
            "ssmd_archiver_lost": ("Sequences gone from the stream before they were archived", "lost"),
            "ssmd_archiver_late": ("Lines for a slot that was sealed already", "late"),
            "ssmd_archiver_unstamped": ("Messages that ssmd did not publish", "unstamped"),
            "ssmd_archiver_commit_failures": ("Writes that the disk refused", "commit_failures"),
        }
        for metric, (text, attribute) in counters.items():
            counter = CounterMetricFamily(metric, text, labels=labels)
            for archiver in self._archivers:
                counter.add_metric(_labels(archiver), getattr(archiver.stats, attribute))
            yield counter
        gauges = {
            "ssmd_archiver_last_sequence": ("Highest sequence committed", "last_seq"),
            "ssmd_archiver_stream_last_sequence": ("Newest sequence of the stream", "stream_last_seq"),
        }
        for metric, (text, attribute) in gauges.items():
            gauge = GaugeMetricFamily(metric, text, labels=labels)
            for archiver in self._archivers:
                gauge.add_metric(_labels(archiver), getattr(archiver.stats, attribute))
            yield gauge
        active = GaugeMetricFamily("ssmd_archiver_active_streams", "Streams without a problem")
        active.add_metric([], sum(not archiver.stats.problem for archiver in self._archivers))
        yield active


def _labels(archiver: StreamArchiver) -> list[str]:
    return [archiver.name.feed.name, archiver.name.stream]
