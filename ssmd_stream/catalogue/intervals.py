"""Sets of time as sorted, disjoint, half-open intervals of epoch microseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

_US_PER_MINUTE = 60_000_000
_US_PER_HOUR = 60 * _US_PER_MINUTE


class Interval(NamedTuple):
    """From `start` on, up to but without `end`."""

    start: int
    end: int


Intervals: TypeAlias = tuple[Interval, ...]


def union(intervals: Iterable[tuple[int, int]]) -> Intervals:
    """Everything that is in one of them; empty and reversed ones count for nothing."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if merged and start <= merged[-1].end:
            merged[-1] = Interval(merged[-1].start, max(merged[-1].end, end))
        else:
            merged.append(Interval(start, end))
    return tuple(merged)


def intersection(left: Sequence[Interval], right: Sequence[Interval]) -> Intervals:
    """What is in both."""
    found: list[Interval] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i].start, right[j].start), min(left[i].end, right[j].end)
        if start < end:
            found.append(Interval(start, end))
        if left[i].end < right[j].end:
            i += 1
        else:
            j += 1
    return tuple(found)


def without(whole: Sequence[Interval], part: Sequence[Interval]) -> Intervals:
    """What is in `whole` and not in `part`."""
    left: list[Interval] = []
    for start, end in whole:
        reached = start
        for from_, to in part:
            if to <= reached or from_ >= end:
                continue
            if from_ > reached:
                left.append(Interval(reached, from_))
            reached = max(reached, to)
        if reached < end:
            left.append(Interval(reached, end))
    return tuple(left)


def length_s(intervals: Iterable[Interval]) -> float:
    """Seconds in all of them."""
    return sum(end - start for start, end in intervals) / 1e6


def minutes(intervals: Iterable[Interval]) -> list[int]:
    """Minutes of the hour, 0 to 59, that the intervals touch; they lie within one hour."""
    touched: set[int] = set()
    for start, end in intervals:
        first = start // _US_PER_MINUTE
        touched.update(minute % 60 for minute in range(first, (end - 1) // _US_PER_MINUTE + 1))
    return sorted(touched)
