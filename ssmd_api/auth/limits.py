"""Rate limits: so many requests of a key in a sliding window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

WINDOW_S = 60.0
_MAX_NAMES = 10_000


class Allowance(NamedTuple):
    """What is left of a window.

    Attributes:
        allowed: whether this request is.
        limit: requests per window.
        remaining: further ones that would be allowed now.
        reset_s: until one more would be allowed than now.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_s: float


class Limiter(Protocol):
    """Counts requests; one that is refused does not count, so that a client that hammers recovers."""

    @property
    def where(self) -> str:
        """Where it counts, for `/health`."""

    async def take(self, name: str, limit: int) -> Allowance:
        """Count a request of `name`, if it is allowed."""

    async def used(self, names: Sequence[str]) -> dict[str, int]:
        """Requests in the window now."""


class MemoryLimiter:
    """Counts in this process.

    At most 10,000 names are known at a time; beyond that those that asked longest ago are forgotten.
    """

    where = "in this process"

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._taken: dict[str, deque[float]] = {}

    async def take(self, name: str, limit: int) -> Allowance:
        """See `Limiter`."""
        return self.count(name, limit)

    async def used(self, names: Sequence[str]) -> dict[str, int]:
        """See `Limiter`."""
        oldest = self._monotonic() - WINDOW_S
        return {name: sum(moment > oldest for moment in self._taken.get(name, ())) for name in names}

    def count(self, name: str, limit: int) -> Allowance:
        """What `take` does, at once."""
        now = self._monotonic()
        if (taken := self._taken.get(name)) is None:
            if len(self._taken) >= _MAX_NAMES:
                self._forget(now)
            taken = self._taken[name] = deque()
        while taken and taken[0] <= now - WINDOW_S:
            taken.popleft()
        allowed = len(taken) < limit
        if allowed:
            taken.append(now)
        # Where a limit was lowered, several must leave before one may come.
        leaves = taken[max(0, len(taken) - limit)]
        return Allowance(allowed, limit, max(0, limit - len(taken)), leaves + WINDOW_S - now)

    def give_back(self, name: str) -> None:
        """Take one request back: the newest, which is as good as another of the same moment."""
        if taken := self._taken.get(name):
            taken.pop()

    def _forget(self, now: float) -> None:
        live = {name: taken for name, taken in self._taken.items() if taken and taken[-1] > now - WINDOW_S}
        if len(live) >= _MAX_NAMES:
            newest = sorted(live, key=lambda name: live[name][-1])[_MAX_NAMES // 2 :]
            live = {name: live[name] for name in newest}
        self._taken = live
