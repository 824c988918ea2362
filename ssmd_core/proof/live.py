"""What a connection counted while it lived, against what the archive holds of the same ordinals."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np

from ssmd_core.feeds.base import Feed
from ssmd_core.proof.lines import MINUTE_US, Codes, Lines, Longs, Reader
from ssmd_core.proof.ordinals import Ordinals

# A minute's event follows within seconds; what waits longer belongs to a connection that tells nothing.
_KEPT_US: Final = 3 * MINUTE_US
# A database's bigint holds 9e18; a thousand such counts may be added up.
_MOST: Final = 2**53


class Difference(NamedTuple):
    """A minute of which the connection and the archive say different things.

    Attributes:
        epoch: connection.
        minute_us: start of the minute.
        detail: types and numbers.
        messages: by how many they differ.
        nats_seq: of the connection's own count.
        ordinals: first and last that the minute speaks of.
    """

    epoch: str
    minute_us: int
    detail: str
    messages: int
    nats_seq: int
    ordinals: tuple[int, int] = (0, -1)


@dataclass(slots=True)
class _Waiting:
    """Messages that no minute's event has covered yet."""

    since: int
    since_us: int
    ordinals: Longs
    kinds: Codes


class LiveCounts:
    """Compares the `minute` events of an hour.

    Attributes:
        messages: by (epoch's number, start of the minute in µs): what the connection counted.
        differences: found so far.
    """

    def __init__(self, feed: Feed, reader: Reader) -> None:
        self.messages: dict[tuple[int, int], int] = {}
        self.differences: list[Difference] = []
        self._reader = reader
        self._compared = {name for name, kind in feed.message_types.items() if kind.schema}
        self._waiting: dict[int, _Waiting] = {}
        self._unsure: list[tuple[int, Difference]] = []

    def take(self, lines: Lines) -> None:
        """The lines of a chunk, before its events."""
        for epoch, chosen in lines.epochs():
            ordinals, kinds = lines.ordinal[chosen], lines.kind[chosen]
            newest_us = int(lines.recv_us[chosen[-1]])
            held = self._waiting.get(epoch)
            if held is None or newest_us - held.since_us > _KEPT_US:
                self._waiting[epoch] = _Waiting(int(ordinals.min()), newest_us, ordinals, kinds)
            else:
                held.ordinals = np.concatenate([held.ordinals, ordinals])
                held.kinds = np.concatenate([held.kinds, kinds])

    def compare(self, epoch: int, event: dict[str, Any], nats_seq: int) -> None:
        """A connection's `minute` event; one that cannot be read is a difference too."""
        name = self._reader.epochs.names[epoch]
        try:
            minute_us = _utc_us(event["minute"])
            first, last = (_count(ordinal) for ordinal in event["ordinals"])
            counted = {str(kind): _count(sums[0]) for kind, sums in event["types"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            detail = f"a minute's event of {name} cannot be read: {type(error).__name__}: {error}"
            self.differences.append(Difference(name, 0, detail, 1, nats_seq))
            return
        key = (epoch, minute_us)
        self.messages[key] = self.messages.get(key, 0) + sum(counted.values())
        held = self._waiting.get(epoch)
        if held is None or first < held.since:
            return  # it speaks of the hour before
        within = (held.ordinals >= first) & (held.ordinals <= last)
        archived = {
            self._reader.kinds.names[kind]: int(count)
            for kind, count in zip(*np.unique(held.kinds[within], return_counts=True), strict=True)
        }
        differing = {
            kind: (counted.get(kind, 0), archived.get(kind, 0))
            for kind in sorted(self._compared & {*counted, *archived})
            if counted.get(kind, 0) != archived.get(kind, 0)
        }
        if differing:
            texts = [f"{live} {kind} counted, {there} archived" for kind, (live, there) in differing.items()]
            detail = f"{name} in the minute from {event['minute']}: " + "; ".join(texts[:5])
            count = sum(abs(live - there) for live, there in differing.values())
            difference = Difference(name, minute_us, detail, count, nats_seq, (first, last))
            if len(np.unique(held.ordinals[within])) == last - first + 1:
                self.differences.append(difference)
            else:
                self._unsure.append((epoch, difference))
        later = held.ordinals > last
        since_us = max(held.since_us, minute_us + MINUTE_US)
        self._waiting[epoch] = _Waiting(last + 1, since_us, held.ordinals[later], held.kinds[later])

    def settled(self, ordinals: Ordinals) -> list[Difference]:
        """The differences that remain at the end: what a minute lacked may have come later, in a batch sent again."""
        late = [
            difference
            for epoch, difference in self._unsure
            if ordinals.lacks(epoch, difference.ordinals[0], difference.ordinals[1])
        ]
        return sorted([*self.differences, *late], key=lambda each: each.nats_seq)


def _utc_us(text: str) -> int:
    """RFC 3339 as epoch µs."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return round(moment.timestamp()) * 1_000_000


def _count(value: Any) -> int:
    """A number of messages, or an ordinal; -1 is the one before the first."""
    if not isinstance(value, int) or not -1 <= value < _MOST:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return value
