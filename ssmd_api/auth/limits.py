"""Rate limits: so many requests of a key in a sliding window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

WINDOW_S = 60.0
#: Requests per window; an unknown tier is `standard`.
TIERS = {"standard": 120, "elevated": 1_200, "internal": 6_000}
_MAX_KEYS = 10_000


class Allowance(NamedTuple):
    """What is left of a window.

    Attributes:
        allowed: whether this request is.
        limit: requests per window.
        remaining: further ones that would be allowed now.
        reset_s: until the oldest counted request leaves the window.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_s: float


class Limiter(Protocol):
    """Counts requests; one that is refused does not count, so that a client that hammers recovers.

    Attributes:
        where: where it counts, for `/health`.
    """

    where: str

    async def take(self, name: str, limit: int) -> Allowance:
        """Count a request of `name`, if it is allowed."""


class MemoryLimiter:
    """Counts in this process."""

    where = "in this process"

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._taken: dict[str, deque[float]] = {}

    async def take(self, name: str, limit: int) -> Allowance:
        """See `Limiter`."""
        now = self._monotonic()
        if (taken := self._taken.get(name)) is None:
            if len(self._taken) >= _MAX_KEYS:
                self._forget(now)
            taken = self._taken[name] = deque()
        while taken and taken[0] <= now - WINDOW_S:
            taken.popleft()
        allowed = len(taken) < limit
        if allowed:
            taken.append(now)
        return Allowance(allowed, limit, limit - len(taken), (taken[0] if taken else now) + WINDOW_S - now)

    def _forget(self, now: float) -> None:
        """Names that have no request in the window; in the worst case the oldest half."""
        live = {name: taken for name, taken in self._taken.items() if taken and taken[-1] > now - WINDOW_S}
        if len(live) >= _MAX_KEYS:
            newest = sorted(live, key=lambda name: live[name][-1])[_MAX_KEYS // 2 :]
            live = {name: live[name] for name in newest}
        self._taken = live
