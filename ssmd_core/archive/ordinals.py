"""Sets of ordinals as ranges: a connection without loss is one range, however long it lives."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class OrdinalSet:
    """A set of non-negative integers, kept as ascending, disjoint, non-adjacent ranges."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(ranges):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def add(self, ordinal: int) -> bool:
        """Add one; False if it was there already. Appending the next ordinal, the normal case, is O(1)."""
        lasts = self._lasts
        if lasts and ordinal == lasts[-1] + 1:
            lasts[-1] = ordinal
            return True
        index = bisect_right(self._firsts, ordinal) - 1
        if index >= 0 and ordinal <= lasts[index]:
            return False
        joins_left = index >= 0 and lasts[index] + 1 == ordinal
        joins_right = index + 1 < len(lasts) and self._firsts[index + 1] == ordinal + 1
        if joins_left and joins_right:
            lasts[index] = lasts.pop(index + 1)
            del self._firsts[index + 1]
        elif joins_left:
            lasts[index] = ordinal
        elif joins_right:
            self._firsts[index + 1] = ordinal
        else:
            self._firsts.insert(index + 1, ordinal)
            lasts.insert(index + 1, ordinal)
        return True

    def __contains__(self, ordinal: int) -> bool:
        index = bisect_right(self._firsts, ordinal) - 1
        return index >= 0 and ordinal <= self._lasts[index]

    def overlaps(self, first: int, last: int) -> bool:
        """Whether any of `first` to `last`, both included, is in the set."""
        index = bisect_right(self._firsts, last) - 1
        return index >= 0 and self._lasts[index] >= first

    def run_end(self, first: int) -> int:
        """Last of the integers that are in the set without a hole from `first` on; `first - 1` if it is not."""
        index = bisect_right(self._firsts, first) - 1
        return self._lasts[index] if index >= 0 and self._lasts[index] >= first else first - 1

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges, both ends included."""
        return list(zip(self._firsts, self._lasts, strict=True))
