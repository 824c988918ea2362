"""What an hour's proof costs: build with proof against build alone, per venue, on generated hours."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench.hours import seal_hour
from bench.result import Result
from ssmd_core import feeds
from ssmd_core.datasets.build import build_hour
from ssmd_core.feeds.base import Feed
from ssmd_core.proof.derive import MakeRule, derive_hour
from ssmd_core.proof.rules import INTEGRITY_SCHEMA, UNTRUSTED_SCHEMA, Findings, HourChunk, hour_rule

HOUR = datetime(2026, 11, 20, 11, tzinfo=UTC)
STREAM = "bench"
#: Fewer, and what an hour costs whatever is in it would be most of it.
MESSAGES = 40_000
REPEATS = 2
TARGET = 1.3


class _NoRule:
    """Looks at nothing: what is left is counting and shapes."""

    def take(self, chunk: HourChunk) -> None:
        """See `HourRule`."""
        del chunk

    def finish(self, start_us: int, end_us: int) -> Findings:
        """See `HourRule`."""
        del start_us, end_us
        return Findings(INTEGRITY_SCHEMA.empty_table(), UNTRUSTED_SCHEMA.empty_table(), {})

    def state(self) -> bytes:
        """See `HourRule`."""
        return b""


def run(messages: int = MESSAGES, repeats: int = REPEATS) -> list[Result]:
    """Seconds per venue; the best of the repeats, which take turns so that a busy moment meets all alike."""
    results = []
    for feed in feeds.FEEDS.values():
        with tempfile.TemporaryDirectory() as folder:
            results += _lines(feed, Path(folder), messages, repeats)
    return results


def _lines(feed: Feed, folder: Path, messages: int, repeats: int) -> list[Result]:
    archive, datasets = folder / "archive", folder / "datasets"
    seal_hour(archive, feed.name, STREAM, HOUR, messages)

    def build() -> None:
        build_hour(archive, datasets, feed, STREAM, HOUR)

    def prove(make_rule: MakeRule) -> None:
        derive_hour(archive, datasets, feed, STREAM, HOUR, None, make_rule=make_rule)

    alone, without, whole = [], [], []
    for _ in range(repeats):
        alone.append(_seconds(build))
        without.append(_seconds(lambda: prove(lambda _feed, _state: _NoRule())))
        whole.append(_seconds(lambda: prove(hour_rule)))
    alone_s, without_s, whole_s = min(alone), min(without), min(whole)
    against = f"build alone: {alone_s:.2f} s for {messages:,} messages"
    # The rule alone beside the build, then all of the proof.
    return [
        _result(feed, "rule", alone_s + max(whole_s - without_s, 0.0), alone_s, against),
        _result(feed, "whole proof", whole_s, alone_s, against),
    ]


def _result(feed: Feed, what: str, value_s: float, alone_s: float, against: str) -> Result:
    name = f"integrity: build with {what}, {feed.name}"
    target = TARGET if what == "rule" else None
    return Result(name, round(value_s, 3), "s", against, round(value_s / alone_s, 2), target, "<=", "ratio")


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
