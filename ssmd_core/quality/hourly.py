"""Scores of an hour: of each message type, and of the stream. They are the truth that days and checks are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ssmd_core.datasets.coverage import SLOTS, HourCoverage, HourState
from ssmd_core.datasets.manifest import Stats
from ssmd_core.quality.formulas import HOURLY_WEIGHTS, TYPE_WEIGHTS, half_up, parquet_problems, share, weighted
from ssmd_core.quality.parquet_stats import FileStats

#: Stands for the stream as a whole among message types.
STREAM = "*"


@dataclass(frozen=True, slots=True)
class LedgerHour:
    """What the ledger of an hour says, in sums.

    Attributes:
        word: `complete`, `degraded` or `empty`.
        reasons: codes, in order.
        asked, held: instrument-seconds that were asked for, and those of them that were acknowledged on an open
            connection; minutes without a row of the ledger are asked for and not held.
        passed, failed: comparisons of the integrity rule.
        missing: numbers that the venue's counters lack.
        untrusted: intervals.
        messages: of the venue, in the ledger.
        last_minute: start of the last minute with a message of the venue; None without one.
        age_ms: mean of the minutes' median ages; None where the venue states no time.
    """

    word: str
    reasons: tuple[str, ...] = ()
    asked: float = 0.0
    held: float = 0.0
    passed: int = 0
    failed: int = 0
    missing: int = 0
    untrusted: int = 0
    messages: int = 0
    last_minute: datetime | None = None
    age_ms: float | None = None


@dataclass(frozen=True, slots=True)
class HourScore:
    """One row of `dq_hourly_scores`."""

    feed: str
    stream: str
    hour: datetime
    message_type: str
    score: int
    components: Mapping[str, int | None]
    inputs: Mapping[str, Any] = field(default_factory=dict)


def score_hour(
    feed: str,
    stream: str,
    hour: datetime,
    covered: HourCoverage,
    ledger: LedgerHour | None,
    stats: Stats | None,
    files: Sequence[FileStats],
) -> list[HourScore]:
    """Scores of one hour that is over; nothing for one that is archived but not proved yet.

    Args:
        covered: what the manifests say.
        ledger: None without one.
        stats: the build's sums; None without a build.
        files: datasets of the hour.
    """
    if ledger is None:
        if covered.slots or covered.state in (HourState.FUTURE, HourState.DAMAGED):
            return []
        nothing = {"coverage": 0, "integrity": None, "archive": 0, "parquet": None}
        return [HourScore(feed, stream, hour, STREAM, 0, nothing, {"word": "missing", "slots": 0})]
    by_type = [_of_type(feed, stream, hour, one, stats) for one in files]
    by_type += _rejected_only(feed, stream, hour, stats, {one.message_type for one in files})
    components: dict[str, int | None] = {
        "coverage": share(ledger.held, ledger.asked),
        "integrity": integrity(ledger),
        "archive": _archive(covered),
        "parquet": half_up(sum(one.score for one in by_type) / len(by_type)) if by_type else None,
    }
    inputs = {
        "word": ledger.word,
        "reasons": list(ledger.reasons),
        "asked_instrument_s": round(ledger.asked, 1),
        "held_instrument_s": round(ledger.held, 1),
        "checks_passed": ledger.passed,
        "checks_failed": ledger.failed,
        "sequence_missing": ledger.missing,
        "untrusted_intervals": ledger.untrusted,
        "slots": covered.slots,
        "records": covered.records,
        "lost": covered.lost,
    }
    score = weighted(components, HOURLY_WEIGHTS)
    return [HourScore(feed, stream, hour, STREAM, score or 0, components, inputs), *by_type]


def integrity(ledger: LedgerHour) -> int | None:
    """Comparisons that held among all, numbers that the venue's counters lack counting as failed ones; None if nothing
    could be compared. An untrusted interval alone keeps it below 100."""
    compared = ledger.passed + ledger.failed + ledger.missing
    found = share(ledger.passed, compared)
    return min(found, 99) if found is not None and ledger.untrusted else found


def _archive(covered: HourCoverage) -> int | None:
    """Sealed slots, less the messages that are known to be lost."""
    kept = covered.records / (covered.records + covered.lost) if covered.records + covered.lost else 1.0
    return share(covered.slots * kept, SLOTS)


def _of_type(feed: str, stream: str, hour: datetime, one: FileStats, stats: Stats | None) -> HourScore:
    accepted = stats.accepted.get(one.message_type, 0) if stats else 0
    rejected = stats.rejects.get(one.message_type, 0) if stats else 0
    worst_null = max(one.null_violations.values(), default=0.0)
    components = {
        "schema": (share(accepted, accepted + rejected) or 0) if one.schema_valid else 0,
        "nulls": 0 if parquet_problems(worst_null, 0) else 100,
        "duplicates": share(stats.messages, stats.messages + one.duplicates) if stats else None,
    }
    inputs = {
        "rows": one.rows,
        "accepted": accepted,
        "rejected": rejected,
        "duplicates": one.duplicates,
        "null_violations": dict(one.null_violations),
        "problem": one.problem,
    }
    score = weighted(components, TYPE_WEIGHTS)
    return HourScore(feed, stream, hour, one.message_type, score or 0, components, inputs)


def _rejected_only(feed: str, stream: str, hour: datetime, stats: Stats | None, seen: set[str]) -> list[HourScore]:
    """Types of which every message was rejected: there is no file to speak for them."""
    found = []
    for message_type, rejected in sorted(stats.rejects.items() if stats else ()):
        if message_type not in seen and not (stats and stats.accepted.get(message_type)):
            components = {"schema": 0, "nulls": None, "duplicates": None}
            inputs = {"rows": 0, "accepted": 0, "rejected": rejected}
            found.append(HourScore(feed, stream, hour, message_type, 0, components, inputs))
    return found
