"""The formulas of `docs/quality.md`, pure. Every component is 0 to 100, or None where nothing is known.

The shapes of the components are those of the reference system, whose users have dashboards on them; what was wrong in
them is mended: slots are hours, expectations grow with the elapsed part of the day, thresholds follow the schedules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

Status = Literal["GREEN", "YELLOW", "RED"]

GRADES: tuple[tuple[int, str], ...] = ((90, "A"), (80, "B"), (70, "C"), (60, "D"))
GREEN_FROM, YELLOW_FROM = 85, 60
#: Share of a feed's daily score; a component that is not known leaves its share to the others.
DAILY_WEIGHTS: Mapping[str, float] = {
    "connector": 0.15,
    "coverage": 0.20,
    "integrity": 0.20,
    "completeness": 0.15,
    "parquet": 0.10,
    "sla": 0.10,
    "archive": 0.05,
    "funding": 0.05,
}
#: Likewise of a stream's hour, and of a message type in it.
HOURLY_WEIGHTS: Mapping[str, float] = {"coverage": 0.35, "integrity": 0.25, "archive": 0.25, "parquet": 0.15}
TYPE_WEIGHTS: Mapping[str, float] = {"schema": 0.50, "nulls": 0.30, "duplicates": 0.20}

#: A stream that is older than this is stale whatever its score: two hours of build and five missed hourly runs.
STALE_AFTER_H = 7
#: Of a column, above which a null is a violation; of a sequence that comes twice, none is allowed.
MAX_NULL_SHARE = 0.05
_MINUTES_PER_HOUR = 60


class Gap(NamedTuple):
    """Neighbouring hours of a day without data.

    Attributes:
        start, end: `HH:MM`; `end` is exclusive and `24:00` at the day's end.
        duration_minutes: its length.
    """

    start: str
    end: str
    duration_minutes: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What a score means.

    Attributes:
        status: GREEN from 85, YELLOW from 60, RED below, or where a RED rule holds; never RED without evidence.
        issues: why, a sentence each.
    """

    status: Status
    issues: tuple[str, ...]


def half_up(value: float) -> int:
    """The nearest whole number, halves upwards: 72.5 is 73, where Python's `round` says 72.

    What 0.1 + 0.2 leaves behind the ninth decimal does not count.
    """
    return math.floor(round(value, 9) + 0.5)


def weighted(components: Mapping[str, float | None], weights: Mapping[str, float]) -> int | None:
    """The mean of the components that are known, by weight, rounded half up; None if none is known."""
    known = {name: value for name, value in components.items() if value is not None and name in weights}
    total = sum(weights[name] for name in known)
    if not total:
        return None
    return half_up(sum(value * weights[name] for name, value in known.items()) / total)


def grade_of(score: Decimal | float) -> str:
    """A to F, of a feed's own score."""
    return next((grade for least, grade in GRADES if score >= least), "F")


def by_steps(value: float | None, steps: Sequence[tuple[float, int]]) -> int:
    """The points of the first step that the value is below; 0 above all of them, and for None."""
    if value is None:
        return 0
    return next((points for below, points in steps if value < below), 0)


# -- components


def connector(messages: int, age_s: float | None, *, flowing: bool) -> int:
    """40 % has data, 40 % freshness, 20 % flow.

    Args:
        messages: market messages of the day.
        age_s: of the newest one, at the day's end or now; None without one.
        flowing: whether the archive takes them from the stream.
    """
    fresh = by_steps(age_s, ((300, 100), (900, 75), (3600, 50)))
    return half_up(0.40 * (100 if messages else 0) + 0.40 * fresh + 0.20 * (100 if messages and flowing else 0))


def funding(age_s: float | None, snapshots: int, products: int, interval_s: float) -> int:
    """40 % recency, 35 % count of 24 hours, 25 % products, against the daemon's own interval.

    With the interval of 300 s these are the reference system's thresholds: 30, 60 and 120 minutes; 540 and 200 rows
    of the 576 that two products give.

    Args:
        age_s: of the newest snapshot.
        snapshots: rows of the last 24 hours.
        products: distinct ones of the last hour.
        interval_s: of the daemon.
    """
    recency = by_steps(age_s, ((6 * interval_s, 100), (12 * interval_s, 75), (24 * interval_s, 50)))
    expected = 2 * 86_400 / interval_s
    many, some = expected * 540 / 576, expected * 200 / 576
    count = 100 if snapshots >= many else 50 if snapshots >= some else half_up(snapshots / some * 100)
    return half_up(0.40 * recency + 0.35 * count + 0.25 * (100 if products >= 2 else 50 * products))


def archive(age_h: float | None) -> int:
    """How old the newest sealed archive file is, at the day's end or now: 100 below 1 h, 50 while not stale, else 0.

    A slot is a quarter of an hour, so a file older than an hour means that three of them were not sealed.
    """
    return by_steps(age_h, ((1, 100), (STALE_AFTER_H, 50)))


def gaps_of(present: Collection[int], hours: int = 24, began: int = 0) -> list[Gap]:
    """Runs of missing hours of a day, from `began` to before `hours`."""
    gaps: list[Gap] = []
    start: int | None = None
    for hour in range(began, hours + 1):
        missing = hour < hours and hour not in present
        if missing and start is None:
            start = hour
        elif not missing and start is not None:
            gaps.append(Gap(f"{start:02d}:00", f"{hour:02d}:00", (hour - start) * _MINUTES_PER_HOUR))
            start = None
    return gaps


def coverage_pct(present: int, hours: int = 24) -> Decimal:
    """Share of the hours that have data, in percent, with two decimals; 0 if no hour is over yet."""
    return Decimal(half_up(present / hours * 10_000)) / 100 if hours else Decimal(0)


def completeness(actual: int, expected: float | None, gaps: Sequence[Gap], coverage: Decimal) -> int:
    """35 % messages against what is usual, 35 % number of gaps, 30 % hours with data.

    Args:
        expected: the median of the seven days before, scaled to the elapsed part of the day; None without history.
    """
    if not actual:
        messages = 0
    elif not expected:
        messages = 75
    else:
        ratio = actual / expected
        messages = 100 if ratio >= 0.9 else 75 if ratio >= 0.7 else 50 if ratio >= 0.5 else 25
    gap_score = by_steps(len(gaps), ((1, 100), (3, 75), (6, 50), (11, 25)))
    return half_up(0.35 * messages + 0.35 * gap_score + 0.30 * half_up(float(coverage)))


def parquet(expected_types: int, seen_types: int, files: int, empty_files: int, invalid_files: int) -> int:
    """40 % expected message types that have a file, 30 % files with rows, 30 % files that fit their schema; 0 without a
    file."""
    if not files:
        return 0
    types = half_up(100 * seen_types / expected_types) if expected_types else 100
    sizes = half_up(100 * (files - empty_files) / files)
    valid = half_up(100 * (files - invalid_files) / files)
    return half_up(0.40 * types + 0.30 * sizes + 0.30 * valid)


def sla(hours_with_data: int, hours: int, freshness_minutes: float | None) -> int:
    """60 % hours with data, 40 % freshness at the day's end or now."""
    uptime = half_up(100 * hours_with_data / hours) if hours else 0
    fresh = by_steps(freshness_minutes, ((60, 100), (180, 75), (360, 50), (720, 25)))
    return half_up(0.60 * uptime + 0.40 * fresh)


def share(good: float, all_: float) -> int | None:
    """`good` of `all_` in percent, rounded half up, but 100 only if nothing is missing; None of nothing."""
    if all_ <= 0:
        return None
    rounded = half_up(100 * good / all_)
    return min(rounded, 99) if good < all_ else rounded


# -- what it means


def judge(score: float, evidence: Sequence[str], red: Sequence[str] = ()) -> Judged:
    """Status of a score.

    Args:
        evidence: what is known to be wrong, a sentence each.
        red: those of them that make it RED whatever the score says.
    """
    if red or (score < YELLOW_FROM and evidence):
        return Judged("RED", (*red, *(line for line in evidence if line not in red)))
    return Judged("GREEN" if score >= GREEN_FROM else "YELLOW", tuple(evidence))


def silent_and_stale(score: float, age_h: float | None) -> str | None:
    """Why a feed without a score is RED: only if its archive agrees; a sparse market may be silent.

    Args:
        age_h: of the newest archive file; None if there is none.
    """
    if score > 0:
        return None
    if age_h is None:
        return "no data, and nothing is archived"
    if age_h > STALE_AFTER_H:
        return f"no data, and the newest archive file is {age_h:.1f} h old (at most {STALE_AFTER_H} h)"
    return None


def parquet_problems(
    null_share: float, duplicates: int, *, max_null_share: float = MAX_NULL_SHARE, max_duplicates: int = 0
) -> list[str]:
    """What is wrong with a file's nulls and duplicates."""
    problems = []
    if null_share > max_null_share:
        problems.append(f"{100 * null_share:.1f} % nulls (at most {100 * max_null_share:g} %)")
    if duplicates > max_duplicates:
        problems.append(f"{duplicates:,} duplicates (at most {max_duplicates:,})")
    return problems
