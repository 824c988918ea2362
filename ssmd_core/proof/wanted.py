"""What the connector wanted, against what it asked for: an instrument without room on any connection is asked for
nowhere, and no connection's own story shows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: Stands for everything where a channel was asked for without a list.
ALL: Final = "*"
# 30,000 instruments on sixty connections, two seconds apart, are asked for by then.
PATIENCE_US: Final = 120_000_000
# Ids come off the wire: nonsense must not fill the memory.
_MOST: Final = 200_000


class Wanted:
    """Follows the `wanted` events of an hour.

    Attributes:
        said: whether anybody said what is wanted, be it nothing.
        anything: whether something was.
        late: instruments that were asked for too late, with when they came to be wanted and when they were asked for.
    """

    def __init__(self) -> None:
        self.said = False
        self.anything = False
        self.late: dict[str, tuple[int, int]] = {}
        self._waiting: dict[str, int] = {}
        self._asked: set[str] = set()

    def want(self, instruments: Iterable[str], at_us: int) -> None:
        """They are wanted from now; those that are known already are left alone."""
        self.said = True
        for name in instruments:
            self.anything = True
            if name not in self._asked and len(self._waiting) < _MOST:
                self._waiting.setdefault(name, at_us)

    def unwant(self, instruments: Iterable[str]) -> None:
        """They are wanted no longer."""
        for name in instruments:
            self._waiting.pop(name, None)
            self._asked.discard(name)

    def ask(self, name: str, at_us: int) -> None:
        """One is asked for, on any connection and channel."""
        since_us = self._waiting.pop(name, None)
        if since_us is not None and at_us - since_us > PATIENCE_US:
            self.late[name] = (since_us, at_us)
        if len(self._asked) < _MOST:
            self._asked.add(name)

    def never(self, end_us: int) -> dict[str, int]:
        """Instruments that are asked for nowhere, with when they came to be wanted."""
        if self._asked:
            self._waiting.pop(ALL, None)
        return {name: at_us for name, at_us in sorted(self._waiting.items()) if end_us - at_us > PATIENCE_US}
