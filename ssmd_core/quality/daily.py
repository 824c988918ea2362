"""Scores of a day: of each feed, and the composite of all. Pure: everything that counts is in the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from ssmd_core.quality import formulas
from ssmd_core.quality.formulas import DAILY_WEIGHTS, Gap, Status, grade_of, half_up

FORMULA_VERSION = "1"
_FUNDING_LATE_INTERVALS = 12
_LEAST_COMPLETENESS = 25
_LEAST_SLA = 25
_LEAST_COVERAGE = 50


@dataclass(frozen=True, slots=True)
class FundingInputs:
    """Snapshots of funding rates; see `formulas.funding`."""

    age_s: float | None
    snapshots: int
    products: int
    interval_s: float


@dataclass(frozen=True, slots=True)
class DayInputs:
    """What is known of one feed on one day.

    Attributes:
        feed, day: which.
        began: first hour of the day that counts; above 0 only on the day on which the capture of the feed began.
        hours: hours of the day that are over, 24 for a day that is.
        present: those of them that have data, or whose ledger proves that there was none to have.
        messages: archived ones.
        expected: median of the seven days before, not scaled; None without history.
        elapsed: share of the day that is over.
        message_age_s: age of the newest message of the venue at the day's end, or now; None without one.
        archive_age_h: likewise of the end of the newest sealed archive file.
        flowing: whether the last slot that is over was sealed.
        coverage, integrity: means of the hourly components over the hours that are over; None where none is known.
        expected_types, seen_types: message types that had a file on the days before, and those of them seen.
        files, empty_files, invalid_files: parquet files.
        null_violations, duplicates: of them, in sum.
        age_ms: mean of the messages' ages; None where nothing is known.
        words: hours by word.
        untrusted: intervals.
        unproved: hours that are archived, and over, and have no ledger.
        unbuilt: whether messages of an hour that should have datasets by now have none, or were rejected.
        funding: None for a feed without funding rates, and where no daemon has ever written any.
        problems: other sentences that must be read, e.g. of manifests that cannot be.
    """

    feed: str
    day: date
    began: int
    hours: int
    present: frozenset[int]
    messages: int
    expected: float | None
    elapsed: float
    message_age_s: float | None
    archive_age_h: float | None
    flowing: bool
    coverage: float | None
    integrity: float | None
    expected_types: int
    seen_types: int
    files: int
    empty_files: int
    invalid_files: int
    null_violations: int
    duplicates: int
    age_ms: float | None
    words: Mapping[str, int]
    untrusted: int
    unproved: int = 0
    unbuilt: bool = False
    funding: FundingInputs | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedScore:
    """One feed's day.

    Attributes:
        score, grade, status: of the feed itself.
        components: by name; None where nothing is known.
        issues: what is wrong, a sentence each.
        gaps: hours without data.
        coverage_pct: share of hours with data.
        expected_messages, actual_messages: the former scaled to the elapsed part of the day.
        details: components, inputs and formula, for the table.
    """

    feed: str
    day: date
    score: int
    grade: str
    status: Status
    components: Mapping[str, int | None]
    issues: tuple[str, ...]
    gaps: tuple[Gap, ...]
    coverage_pct: Decimal
    expected_messages: int | None
    actual_messages: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DayScore:
    """All feeds' day.

    Attributes:
        feeds: those that are captured.
        composite: their mean by the registry's weights; None without any.
        status: the composite's, RED if any feed is; UNKNOWN if none is captured.
        not_captured: feeds that have no data at all and are not scored.
    """

    day: date
    feeds: tuple[FeedScore, ...]
    composite: int | None
    status: Status | Literal["UNKNOWN"]
    issues: tuple[str, ...]
    not_captured: tuple[str, ...] = ()


def score_feed(inputs: DayInputs) -> FeedScore:
    """Score one feed."""
    gaps = formulas.gaps_of(inputs.present, inputs.hours, inputs.began)
    expected_hours = max(inputs.hours - inputs.began, 0)
    coverage_pct = formulas.coverage_pct(len(inputs.present), expected_hours)
    expected = inputs.expected * inputs.elapsed if inputs.expected else None
    freshness_minutes = None if inputs.archive_age_h is None else inputs.archive_age_h * 60
    funding = inputs.funding
    # In the first hour of a day nothing can be said of its hours, and nothing of its datasets until one is due.
    judgeable = expected_hours > 0
    parquet = formulas.parquet(
        inputs.expected_types, inputs.seen_types, inputs.files, inputs.empty_files, inputs.invalid_files
    )
    components: dict[str, int | None] = {
        "connector": formulas.connector(inputs.messages, inputs.message_age_s, flowing=inputs.flowing),
        "coverage": _rounded(inputs.coverage),
        "integrity": _rounded(inputs.integrity),
        "completeness": formulas.completeness(inputs.messages, expected, gaps, coverage_pct) if judgeable else None,
        "parquet": parquet if inputs.files or inputs.unbuilt else None,
        "sla": formulas.sla(len(inputs.present), expected_hours, freshness_minutes) if judgeable else None,
        "archive": formulas.archive(inputs.archive_age_h),
        "funding": formulas.funding(funding.age_s, funding.snapshots, funding.products, funding.interval_s)
        if funding
        else None,
    }
    score = formulas.weighted(components, DAILY_WEIGHTS) or 0
    red, issues = _issues(inputs, components, gaps)
    judged = formulas.judge(score, [*red, *issues], red)
    details: dict[str, Any] = {
        "formula": FORMULA_VERSION,
        "status": judged.status,
        "issues": list(judged.issues),
        "components": components,
        "weights": dict(DAILY_WEIGHTS),
        "gaps": [gap._asdict() for gap in gaps],
        "freshness_minutes": None if freshness_minutes is None else round(freshness_minutes, 1),
        "avg_latency_ms": None if inputs.age_ms is None else round(inputs.age_ms, 1),
        "inputs": {
            "began": inputs.began,
            "hours": inputs.hours,
            "hours_present": sorted(inputs.present),
            "elapsed": round(inputs.elapsed, 4),
            "words": dict(inputs.words),
            "untrusted_intervals": inputs.untrusted,
            "hours_not_proved": inputs.unproved,
            "message_age_s": _one_decimal(inputs.message_age_s),
            "archive_age_h": _one_decimal(inputs.archive_age_h),
            "flowing": inputs.flowing,
            "coverage": _one_decimal(inputs.coverage),
            "integrity": _one_decimal(inputs.integrity),
            "expected_types": inputs.expected_types,
            "seen_types": inputs.seen_types,
            "files": inputs.files,
            "empty_files": inputs.empty_files,
            "invalid_files": inputs.invalid_files,
            "null_violations": inputs.null_violations,
            "duplicates": inputs.duplicates,
        },
    }
    return FeedScore(
        feed=inputs.feed,
        day=inputs.day,
        score=score,
        grade=grade_of(score),
        status=judged.status,
        components=components,
        issues=judged.issues,
        gaps=tuple(gaps),
        coverage_pct=coverage_pct,
        expected_messages=None if expected is None else half_up(expected),
        actual_messages=inputs.messages,
        details=details,
    )


def score_day(
    day: date, inputs: Sequence[DayInputs], weights: Mapping[str, float], not_captured: Sequence[str] = ()
) -> DayScore:
    """Score all feeds.

    Args:
        weights: share of each feed in the composite, from the registry.
        not_captured: feeds that are left out.
    """
    feeds = tuple(score_feed(one) for one in inputs)
    composite = formulas.weighted({one.feed: one.score for one in feeds}, weights)
    issues = tuple(f"{one.feed}: {issue}" for one in feeds for issue in one.issues)
    if composite is None:
        return DayScore(day, feeds, None, "UNKNOWN", (), tuple(not_captured))
    red = [f"{one.feed}: {one.issues[0]}" for one in feeds if one.status == "RED"]
    judged = formulas.judge(composite, issues, red)
    return DayScore(day, feeds, composite, judged.status, issues, tuple(not_captured))


def _issues(
    inputs: DayInputs, components: Mapping[str, int | None], gaps: Sequence[Gap]
) -> tuple[list[str], list[str]]:
    """What makes the feed RED, and what else is wrong."""
    red = []
    silent = formulas.silent_and_stale(components["connector"] or 0, inputs.archive_age_h)
    if silent:
        red.append(silent)
    funding = inputs.funding
    if funding and (funding.age_s is None or funding.age_s > _FUNDING_LATE_INTERVALS * funding.interval_s):
        age = "none at all" if funding.age_s is None else f"the newest is {funding.age_s / 60:.0f} minutes old"
        red.append(f"funding snapshots: {age}")
    if components["archive"] == 0 and not silent:
        red.append("nothing was archived for hours before the day's end")
    for name, least in (("completeness", _LEAST_COMPLETENESS), ("sla", _LEAST_SLA), ("coverage", _LEAST_COVERAGE)):
        value = components[name]
        if value is not None and value < least:
            red.append(f"{name} is {value} (at least {least})")
    if inputs.unbuilt and components["parquet"] == 0:
        red.append("messages were archived, but there is no dataset of them")

    issues = list(inputs.problems)
    if gaps:
        spans = ", ".join(f"{gap.start} to {gap.end}" for gap in gaps[:5])
        issues.append(f"no data in {sum(gap.duration_minutes for gap in gaps) // 60} hours: {spans}")
    degraded = inputs.words.get("degraded", 0)
    counted = (
        (degraded, f"{degraded} of {inputs.hours} hours are degraded"),
        (inputs.unproved, f"{inputs.unproved} archived hours are not proved yet"),
        (inputs.untrusted, f"{inputs.untrusted:,} intervals must not be trusted"),
        (inputs.invalid_files, f"{inputs.invalid_files} of {inputs.files} parquet files do not fit their schema"),
        (inputs.null_violations, f"{inputs.null_violations} columns are null that used to be filled"),
    )
    issues += [text for count, text in counted if count]
    if inputs.seen_types < inputs.expected_types:
        issues.append(f"{inputs.expected_types - inputs.seen_types} message types of the days before did not come")
    return red, issues


def _rounded(value: float | None) -> int | None:
    """Half up, but 100 only for 100."""
    return None if value is None else min(half_up(value), 99) if value < 100 else half_up(value)


def _one_decimal(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
