"""Which instruments of an hour are reconciled: the busiest always, the others in turn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

BUSIEST = 20
#: Of the others at most so many in an hour: at Kraken's one request a second they take some two minutes.
MOST_IN_TURN = 60
_HOURS = 24


@dataclass(frozen=True, slots=True)
class Choice:
    """Instruments of an hour.

    Attributes:
        chosen: to be reconciled, the busiest first.
        known: how many there are.
        over: how many whose turn it was were left out, because `MOST_IN_TURN` was reached.
    """

    chosen: tuple[str, ...]
    known: int
    over: int

    @property
    def bound(self) -> str:
        """One sentence that says what was left out."""
        left = self.known - len(self.chosen)
        if not left:
            return f"all {self.known} instruments"
        return f"{len(self.chosen)} of {self.known} instruments; the others have their turn in other hours" + (
            f", but {self.over} were over the bound of {MOST_IN_TURN}" if self.over else ""
        )


def choose(trades: Mapping[str, int], hour: datetime, *, busiest: int = BUSIEST, seed: int = 0) -> Choice:
    """Choose instruments.

    Each instrument has its hour of the day, by a hash of its name, so that over a day all have their turn, whichever
    others there are. Where an hour has too many of them, the day decides who comes first.

    Args:
        trades: archived trades of the hour by instrument; 0 is an instrument without any.
        busiest: how many with the most trades are always chosen.
        seed: another one, other turns.
    """
    ordered = sorted(trades, key=lambda name: (-trades[name], name))
    first, rest = ordered[:busiest], ordered[busiest:]
    in_turn = [name for name in rest if _number(f"{seed}:{name}") % _HOURS == hour.hour]
    in_turn.sort(key=lambda name: _number(f"{seed}:{hour:%Y-%m-%d}:{name}"))
    return Choice((*first, *in_turn[:MOST_IN_TURN]), len(trades), max(0, len(in_turn) - MOST_IN_TURN))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
