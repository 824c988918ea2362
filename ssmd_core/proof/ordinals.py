"""Holes in the ordinals of connections: a message that was received and is not in the archive."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np

from ssmd_core.proof.lines import Lines, Longs, Reader
from ssmd_core.proof.rules import Hole

#: Messages imported from elsewhere have no ordinals of a connection.
UNSTAMPED: Final = "unstamped"
_MADE_AT = re.compile(r"-([0-9]{8}T[0-9]{6})([0-9]{3})-[0-9a-f]{4}\Z")


def made_at_us(epoch: str) -> int | None:
    """When a connection epoch was made, as its name says; None if it does not."""
    found = _MADE_AT.search(epoch)
    if found is None:
        return None
    try:
        moment = datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000 + int(found[2]) * 1000


@dataclass(slots=True)
class _Missing:
    """A hole: its first and last ordinal, and the minute of the message behind it."""

    first: int
    last: int
    minute: int


@dataclass(slots=True)
class EpochOrdinals:
    """What was seen of one epoch's ordinals.

    Attributes:
        first, last: seen in this hour; -1 before anything was.
    """

    expected: int | None
    first: int = -1
    last: int = -1
    last_recv_us: int = 0
    holes: list[_Missing] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Ordinals that did not come."""
        return sum(hole.last - hole.first + 1 for hole in self.holes)

    def missing_by_minute(self) -> dict[int, int]:
        """The same, by minute of the hour."""
        found: dict[int, int] = {}
        for hole in self.holes:
            found[hole.minute] = found.get(hole.minute, 0) + hole.last - hole.first + 1
        return found


class Ordinals:
    """Follows the ordinals of every epoch through an hour.

    Args:
        carried: last ordinal of the epochs that the hour before has seen; None if it is not proved.

    Attributes:
        epochs: by number, see `Reader`.
    """

    def __init__(self, reader: Reader, start_us: int, carried: Mapping[str, int] | None) -> None:
        self.epochs: dict[int, EpochOrdinals] = {}
        self._reader = reader
        self._start_us = start_us
        self._carried = carried

    def take(self, lines: Lines) -> list[Hole]:
        """Follow a chunk.

        Returns:
            The holes between its messages or before them. One that a later chunk fills is no longer counted, but has
            been told: batches that are sent again may overtake others.
        """
        found: list[Hole] = []
        for epoch, chosen in lines.epochs():
            if self._reader.epochs.names[epoch] != UNSTAMPED:
                self._follow(epoch, lines, chosen, found)
        return sorted(found, key=lambda hole: hole.nats_seq)

    def lacks(self, epoch: int, first: int, last: int) -> bool:
        """Whether some of these ordinals of an epoch have not come."""
        state = self.epochs.get(epoch)
        return state is None or any(hole.first <= last and hole.last >= first for hole in state.holes)

    def _follow(self, epoch: int, lines: Lines, chosen: Longs, found: list[Hole]) -> None:
        state = self.epochs.get(epoch)
        if state is None:
            state = self.epochs[epoch] = EpochOrdinals(self._first_expected(self._reader.epochs.names[epoch]))
        ordinals = lines.ordinal[chosen]
        steps = np.diff(ordinals)
        if (steps != 1).any():
            order = np.argsort(ordinals, kind="stable")
            chosen, ordinals = chosen[order], ordinals[order]
            steps = np.diff(ordinals)
        expected = state.expected
        if expected is not None and int(ordinals[0]) < expected:
            late = int(np.searchsorted(ordinals, expected))
            for ordinal in ordinals[:late].tolist():
                _fill(state.holes, ordinal)
            chosen, ordinals, steps = chosen[late:], ordinals[late:], steps[late:]
        if state.first < 0:
            state.first = int(ordinals[0]) if len(ordinals) else 0
        if not len(ordinals):
            return
        if expected is not None and int(ordinals[0]) > expected:
            self._note(state, epoch, expected, lines, int(chosen[0]), state.last_recv_us or self._start_us, found)
        for at in np.flatnonzero(steps > 1).tolist():
            before_us = int(lines.recv_us[chosen[at]])
            self._note(state, epoch, int(ordinals[at]) + 1, lines, int(chosen[at + 1]), before_us, found)
        state.expected = int(ordinals[-1]) + 1
        state.last = int(ordinals[-1])
        state.last_recv_us = int(lines.recv_us[chosen[-1]])

    def _note(
        self,
        state: EpochOrdinals,
        epoch: int,
        first: int,
        lines: Lines,
        behind: int,
        before_us: int,
        found: list[Hole],
    ) -> None:
        last = int(lines.ordinal[behind]) - 1
        state.holes.append(_Missing(first, last, int(lines.minute[behind])))
        found.append(
            Hole(
                epoch=self._reader.epochs.names[epoch],
                after_ordinal=first - 1,
                missing=last - first + 1,
                nats_seq=int(lines.nats_seq[behind]),
                before_us=before_us,
                after_us=int(lines.recv_us[behind]),
            )
        )

    def _first_expected(self, name: str) -> int | None:
        if self._carried is not None:
            # One that the hour before has not seen begins here, whatever its name says of its age.
            return self._carried.get(name, -1) + 1
        made_us = made_at_us(name)
        return 0 if made_us is not None and made_us >= self._start_us else None


def _fill(holes: list[_Missing], ordinal: int) -> None:
    """An ordinal has come after all."""
    for i, hole in enumerate(holes):
        if hole.first <= ordinal <= hole.last:
            parts = [
                _Missing(first, last, hole.minute)
                for first, last in ((hole.first, ordinal - 1), (ordinal + 1, hole.last))
                if first <= last
            ]
            holes[i : i + 1] = parts
            return
