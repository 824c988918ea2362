"""What a venue's integrity rule is: over an archived hour, over a live connection, and over one instrument's book.

Each feed's `ssmd_core/feeds/<venue>/integrity.py` provides three functions, found here by the feed's name:

* `hour_rule(state)`: checks an hour of the archive, from what the hour before handed on;
* `live_check()`: the cheap part of it, message by message, while a connection is open (5 µs a frame at most);
* `book_replay(instrument, state)`: the full-depth book of one instrument at any moment of an hour;

and `BOOKS`, its word for the check of order books.

A state that a rule cannot read (of another version of it, or damaged) is none: the hour begins without one, and a line
of the log says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import Line

Numbers = npt.NDArray[np.int32]
_T = TypeVar("_T")

#: The instrument of an interval that speaks of all instruments of its check: which ones are concerned is not known.
ALL_INSTRUMENTS: Final = "*"
#: The check of an interval that speaks of a subscription whose channel is not known.
ALL_CHECKS: Final = "*"

_US = pa.timestamp("us", tz="UTC")

INTEGRITY_SCHEMA = pa.schema(
    [
        pa.field("instrument", pa.string(), nullable=False),
        pa.field("check", pa.string(), nullable=False),
        pa.field("epoch", pa.string(), nullable=False),
        pa.field("from", _US, nullable=False),
        pa.field("to", _US, nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("messages", pa.int64(), nullable=False),
        pa.field("passed", pa.int64(), nullable=False),
        pa.field("failed", pa.int64(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)
"""Per instrument and minute, neighbouring minutes of one verdict in one row; sorted by all columns up to `from`.

`check`: `book`, `trade`, …; what was checked, in the venue's word for the message type or channel.
`from`, `to`: whole minutes, `to` exclusive. `verdict`: `verified`, `broken` or `unverifiable`.
`messages`: of the instrument and check in these minutes; `passed`, `failed`: comparisons made.
`reason`: null where verified; else one of `REASONS`.
"""

UNTRUSTED_SCHEMA = pa.schema(
    [
        pa.field("instrument", pa.string(), nullable=False),
        pa.field("check", pa.string(), nullable=False),
        pa.field("epoch", pa.string(), nullable=False),
        pa.field("from", _US, nullable=False),
        pa.field("to", _US),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("nats_seq", pa.uint64(), nullable=False),
    ]
)
"""Intervals in which what was captured of an instrument must not be trusted; sorted by all columns up to `from`.

`from`: receive time of the last message that was still good (the damage is behind it; the hour's start where it began
earlier). `to`: receive time of the message that restored trust; null where nothing did until the hour's end.
`nats_seq`: the message at which it was found. `detail`: one sentence with the numbers, e.g. `seq 41 after 38 on sid 2`.
"""

#: Why something is broken (the first six) or unverifiable.
REASONS = (
    "sequence_gap",  # the venue's own counter has a hole
    "checksum",  # the venue's checksum or hash of the book is not ours
    "negative_level",  # a level of the book fell below nothing
    "touch",  # the best bid and ask that the venue states are not those of the book
    "archive_hole",  # the epoch's ordinals have a hole: a message was received and is not in the archive
    "disorder",  # the venue's counter ran backwards without a new snapshot
    "no_snapshot",  # deltas of a book whose snapshot was never seen
    "no_check",  # the venue gives nothing to check by
)


class Hole(NamedTuple):
    """Ordinals of an epoch that the archive lacks.

    Attributes:
        epoch: connection.
        after_ordinal: last one before the hole; -1 if the epoch's first ones are missing.
        missing: how many.
        nats_seq: first message of the epoch behind the hole.
        before_us, after_us: receive times of the neighbours; `before_us` is the hour's start if there is none.
    """

    epoch: str
    after_ordinal: int
    missing: int
    nats_seq: int
    before_us: int
    after_us: int


@dataclass(frozen=True, slots=True)
class HourChunk:
    """Some tens of thousands of neighbouring archive lines, in the order of `_nats_seq`.

    Attributes:
        tables: rows by message type, as in the parquet files (with `_nats_seq`, `_received_at`, `_epoch`, `_ordinal`);
            messages that break their schema are in none of them.
        numbers: by message type, the line number of each row of its table.
        data, offsets: the lines themselves: line i is `data[offsets[i]:offsets[i + 1]]`, with its line break.
        others: messages that have no schema, parsed: replies of the venue, and ssmd's own control events.
        holes: ordinals missing between messages of this chunk, or before them.
    """

    tables: Mapping[str, pa.Table]
    numbers: Mapping[str, Numbers]
    data: bytes
    offsets: npt.NDArray[np.int64]
    others: Sequence[Line]
    holes: Sequence[Hole]

    def line(self, i: int) -> bytes:
        """One archive line, without its line break."""
        return self.data[self.offsets[i] : self.offsets[i + 1] - 1]


class Counter(NamedTuple):
    """One of the venue's counters in one epoch and minute.

    Attributes:
        name: e.g. `sid 2`, `book PF_XBTUSD`, `trade BTC/USD`.
        first, last: the numbers seen.
        gaps, missing: holes found in this minute, and how many numbers are in them.
        repeats: numbers that came again.
    """

    name: str
    first: int
    last: int
    gaps: int
    missing: int
    repeats: int


@dataclass(slots=True)
class MinuteChecks:
    """What a rule saw on one epoch in one minute.

    Attributes:
        passed, failed: comparisons.
        unverifiable: messages that could have been checked but were not, e.g. before a snapshot.
        counters: of the venue; at most `MAX_COUNTERS`, those with gaps first.
    """

    MAX_COUNTERS = 100

    passed: int = 0
    failed: int = 0
    unverifiable: int = 0
    counters: list[Counter] = field(default_factory=list)


@dataclass(slots=True)
class Findings:
    """What a rule found in an hour.

    Attributes:
        integrity: of `INTEGRITY_SCHEMA`.
        untrusted: of `UNTRUSTED_SCHEMA`.
        minutes: by (epoch, start of the minute in µs).
    """

    integrity: pa.Table
    untrusted: pa.Table
    minutes: dict[tuple[str, int], MinuteChecks]


class HourRule(Protocol):
    """A venue's rule over one hour of the archive."""

    def take(self, chunk: HourChunk) -> None:
        """The next lines of the hour."""

    def finish(self, start_us: int, end_us: int) -> Findings:
        """What was found; after the last chunk. The hour's bounds are in epoch µs."""

    def state(self) -> bytes:
        """What the next hour's rule begins with: books and last numbers of the epochs still open. Same hour, same
        bytes."""


class Trouble(NamedTuple):
    """Something that a live check found.

    Attributes:
        channel: whose subscription must be made anew; "" if that would not help.
        instruments: of it; empty: all of the channel.
        reason: one of `REASONS`.
        detail: one sentence with the numbers.
    """

    channel: str
    instruments: tuple[str, ...]
    reason: str
    detail: str


@dataclass(slots=True)
class LiveCounts:
    """What a live check has seen since it was made.

    Attributes:
        passed, failed, unverifiable: comparisons, and messages that could not be compared.
        gaps, missing: holes in the venue's counters, and how many numbers are in them.
    """

    passed: int = 0
    failed: int = 0
    unverifiable: int = 0
    gaps: int = 0
    missing: int = 0


class LiveCheck(Protocol):
    """The part of a rule that is cheap enough for every message of a live connection. One per connection epoch."""

    counts: LiveCounts

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        """Look at the next message of the connection, of message type `kind` (control replies among them).

        Never raises: what cannot be read is unverifiable. After a `Trouble` the same one is not told again for the
        instruments concerned until a snapshot has restored them.
        """


class Book(NamedTuple):
    """A full-depth order book.

    Attributes:
        instrument: whose.
        bids, asks: price and size, both text as the venue wrote them (Kalshi: dollars and contracts; its NO bids stand
            in `asks` as they are on the wire where the venue has two bid sides, see `sides`), best first.
        sides: what the venue calls the two, e.g. `("bids", "asks")`, `("yes", "no")`.
        epoch: connection it was built on.
        recv_us: receive time of the last message that changed it.
        nats_seq: of that message.
    """

    instrument: str
    bids: tuple[tuple[str, str], ...]
    asks: tuple[tuple[str, str], ...]
    sides: tuple[str, str]
    epoch: str
    recv_us: int
    nats_seq: int


class BookReplay(Protocol):
    """Follows one instrument's book through archive lines."""

    def take(self, kind: str, line: Line) -> None:
        """The next message of the archive, of any instrument and type; control events and replies among them."""

    def book(self) -> Book | None:
        """The book as it is now; None before a snapshot."""


def _of(feed: Feed) -> Any:
    return import_module(f"ssmd_core.feeds.{feed.name.replace('-', '_')}.integrity")


def hour_rule(feed: Feed, state: bytes | None) -> HourRule:
    """The feed's rule for an hour.

    Args:
        state: what the rule of the hour before left; None if that hour was not proved.
    """
    make: Callable[[bytes | None], HourRule] = _of(feed).hour_rule
    return _with_state(feed, make, state)


def live_check(feed: Feed) -> LiveCheck:
    """The feed's check for one connection."""
    check: LiveCheck = _of(feed).live_check()
    return check


def book_replay(feed: Feed, instrument: str, state: bytes | None) -> BookReplay:
    """A replay of the instrument's book, from the state that an hour's rule left."""
    make = _of(feed).book_replay

    def made(state: bytes | None) -> BookReplay:
        replay: BookReplay = make(instrument, state)
        return replay

    return _with_state(feed, made, state)


def books_check(feed: Feed) -> str:
    """The feed's word for the check of order books, as in `INTEGRITY_SCHEMA` and `UNTRUSTED_SCHEMA`."""
    check: str = _of(feed).BOOKS
    return check


def _with_state(feed: Feed, make: Callable[[bytes | None], _T], state: bytes | None) -> _T:
    if state is not None:
        try:
            return make(state)
        except (ArchiveError, ValueError) as error:
            # Imported here: with rich behind it, structlog costs 0.13 s of every cold build.
            import structlog

            structlog.get_logger().warning("proof.state_unreadable", feed=feed.name, reason=str(error))
    return make(None)
