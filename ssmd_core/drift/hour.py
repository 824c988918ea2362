"""The shapes of an archived hour, and what changed in it: an observer of the hour's build.

Per message type and minute some 30 messages are looked at, evenly spaced: they name the minute of a change and cost an
hour of five busy types half a second. The baseline is the one that an earlier hour's document carries; without one the
hour's first 20 minutes are learned quietly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from ssmd_core.archive.tally import UNPARSED_TYPE, classify
from ssmd_core.clock import NS_PER_US
from ssmd_core.datasets.convert import Converted
from ssmd_core.drift.baseline import MESSAGES, Baseline
from ssmd_core.drift.findings import Finding
from ssmd_core.drift.kinds import decoded
from ssmd_core.drift.shapes import Shapes
from ssmd_core.drift.watch import Watch
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.control import PREFIX, is_control
from ssmd_core.messages.lines import Line, parse_line

VERSION = 1
_PER_MINUTE = 30
# A chunk that comes late in a minute is looked into as well.
_PER_MINUTE_AND_CHUNK = 5
_US_PER_MINUTE = 60_000_000
# Beyond so many findings an hour's format is not drifting but noise; the first ones say it all.
MAX_FINDINGS = 500


class _Pick(NamedTuple):
    """A message to look at."""

    i: int
    message_type: str
    line: Line


class HourDrift:
    """See module. Implements `datasets.build.Observer`.

    Args:
        before: content of an earlier hour's `shapes_HH00.json`, normally of the hour before; None if there is none.

    Attributes:
        findings: what changed, in the order of the archive.

    Raises:
        ArchiveError: `before` is no such document.
    """

    def __init__(self, feed: Feed, before: bytes | None) -> None:
        self._feed = feed
        self._shapes = Shapes()
        self._watch = Watch.of_feed(feed, _carried(before), MESSAGES)
        self._looked_at: dict[tuple[str, int], int] = {}
        self.findings: list[Finding] = []

    def take(self, converted: Converted) -> None:
        """The next lines of the hour."""
        for _, message_type, line in sorted(self._picks(converted), key=lambda pick: pick.i):
            value = decoded(line.payload)
            word = "" if message_type == UNPARSED_TYPE else message_type
            if word:
                self._shapes.add_value(word, value)
            found = self._watch.see(word, value, line.recv_us * NS_PER_US, f"seq:{line.nats_seq}")
            self.findings += found[: MAX_FINDINGS - len(self.findings)]

    def document(self) -> bytes:
        """Content of `shapes_HH00.json`: `types` (this hour's shapes), `findings`, and `baseline` for the next hour."""
        said = {
            "version": VERSION,
            "types": self._shapes.document(),
            "findings": [finding.as_dict() for finding in self.findings],
            "baseline": self._watch.baseline.document(),
        }
        return orjson.dumps(said, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)

    def _picks(self, converted: Converted) -> Iterator[_Pick]:
        chunk = converted.split.chunk
        others = np.ones(len(chunk.offsets) - 1, bool)
        for message_type, table in sorted(converted.tables.items()):
            i, first = np.unique(converted.line_numbers[message_type], return_index=True)
            others[i] = False
            received_us = table["_received_at"].to_numpy().astype("datetime64[us]").astype(np.int64)[first]
            for chosen in self._choose(message_type, received_us):
                number = int(i[chosen])
                yield _Pick(number, message_type, parse_line(chunk.line(number)))
        for number in np.flatnonzero(others).tolist():
            start = chunk.offsets[number]
            if chunk.data.startswith(PREFIX, start):
                continue
            try:
                line = parse_line(chunk.line(number))
            except ArchiveError:
                continue
            message_type, _ = classify(self._feed, line.payload)
            if not is_control(line.payload) and self._room(message_type, line.recv_us // _US_PER_MINUTE, 0):
                self._count(message_type, line.recv_us // _US_PER_MINUTE, 1)
                yield _Pick(number, message_type, line)

    def _choose(self, message_type: str, received_us: npt.NDArray[np.int64]) -> list[int]:
        """Which of a chunk's messages of one type to look at: evenly spaced ones of each minute."""
        chosen: list[int] = []
        minutes = received_us // _US_PER_MINUTE
        for minute in np.unique(minutes).tolist():
            there = np.flatnonzero(minutes == minute)
            wanted = min(len(there), self._room(message_type, minute, _PER_MINUTE_AND_CHUNK))
            self._count(message_type, minute, wanted)
            chosen += there[np.linspace(0, len(there) - 1, wanted).astype(np.int64)].tolist()
        return chosen

    def _room(self, message_type: str, minute: int, at_least: int) -> int:
        return max(at_least, _PER_MINUTE - self._looked_at.get((message_type, minute), 0))

    def _count(self, message_type: str, minute: int, messages: int) -> None:
        key = (message_type, minute)
        if key in self._looked_at or len(self._looked_at) < _MAX_COUNTED:
            self._looked_at[key] = self._looked_at.get(key, 0) + messages


# Types times minutes; only types that are ids could need more.
_MAX_COUNTED = 200 * 60


def findings_of(content: bytes) -> list[Finding]:
    """The findings of a `shapes_HH00.json`.

    Raises:
        ArchiveError: it is none.
    """
    try:
        return [Finding.from_dict(said) for said in _document(content)["findings"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"not the shapes of an hour: {error!r}: {content[:120]!r}") from error


def shapes_of(content: bytes) -> Shapes:
    """The shapes of a `shapes_HH00.json`.

    Raises:
        ArchiveError: it is none.
    """
    try:
        return Shapes.from_document(_document(content)["types"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"not the shapes of an hour: {error!r}: {content[:120]!r}") from error


def _document(content: bytes) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(content)
    if document["version"] != VERSION:
        raise ValueError(f"version {document['version']!r} instead of {VERSION}")
    return document


def _carried(before: bytes | None) -> Baseline:
    if before is None:
        return Baseline()
    try:
        return Baseline.from_document(_document(before)["baseline"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"not the shapes of an hour: {error!r}: {before[:120]!r}") from error
