"""The full-depth order book of an instrument at a moment, from the archive; refused where it must not be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow.parquet as pq

from ssmd_core.archive.members import iter_lines
from ssmd_core.archive.paths import day_folder, hour_files
from ssmd_core.archive.tally import classify
from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import Line, parse_line
from ssmd_core.proof.ledger import proof_file, read_ledger, read_state
from ssmd_core.proof.rules import Book, book_replay
from ssmd_core.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_INSTRUMENT_CHARS = 256
# Several connections share a stream: their receive times interleave by what the publisher holds back, 5 ms as a rule.
_INTERLEAVED_US = 60_000_000
# A rule speaks of all instruments so, where it cannot say which ones are concerned.
_ALL = "*"


class NoBookError(SsmdError):
    """There is no book at that moment: nothing is archived of it, or no snapshot came before."""


class UntrustedBookError(SsmdError):
    """There is a book, but it must not be trusted; the text says why and until when."""


class Doubt(NamedTuple):
    """Why a book must not be trusted.

    Attributes:
        reason: one of `rules.REASONS`, or `not_proved` for an hour without a ledger.
        detail: a sentence.
        since, until: the interval; None where it is open, or not known.
    """

    reason: str
    detail: str
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class BookAt:
    """A book as it was.

    Attributes:
        feed, stream, at: what was asked.
        book: the book.
        doubts: why it must not be trusted; empty if it may be.
    """

    feed: str
    stream: str
    at: datetime
    book: Book
    doubts: tuple[Doubt, ...]

    @property
    def changed_at(self) -> datetime:
        """When the last message that changed it was received."""
        return _EPOCH + timedelta(microseconds=self.book.recv_us)


def book_at(
    settings: Settings, feed: Feed, stream: str, instrument: str, at: datetime, *, untrusted: bool = False
) -> BookAt:
    """The book after the last message received at or before a moment.

    Args:
        instrument: as the venue names it in its book messages: market ticker, symbol, product or token id.
        untrusted: answer also where the book must not be trusted, and say why.

    Raises:
        NoBookError: see there.
        UntrustedBookError: it must not be trusted, and `untrusted` is not set.
        ConfigError: the instrument is no such name.
        ArchiveError: a file is damaged.
    """
    if not instrument or len(instrument) > _MAX_INSTRUMENT_CHARS or not instrument.isprintable():
        raise ConfigError(f"{instrument[:_MAX_INSTRUMENT_CHARS]!r} is not the name of an instrument")
    at = at.astimezone(UTC)
    hour = at.replace(minute=0, second=0, microsecond=0)
    at_us = (at - _EPOCH) // timedelta(microseconds=1)
    state = read_state(settings.proof_root, feed.name, stream, hour - timedelta(hours=1))
    replay = book_replay(feed, instrument, state)
    lines = 0
    for line in _lines(settings, feed, stream, hour):
        if line.recv_us > at_us + _INTERLEAVED_US:
            break
        if line.recv_us > at_us:
            continue
        lines += 1
        replay.take(classify(feed, line.payload)[0], line)
    book = replay.book()
    if book is None:
        what = f"{lines:,} messages are archived from {hour:%Y-%m-%d %H:%M} to then" if lines else "nothing is archived"
        raise NoBookError(
            f"{feed.name}/{stream}: no book of {instrument} at {at.isoformat()}: {what}, and no snapshot of it came before"
        )
    doubts = tuple(_doubts(settings, feed, stream, hour, instrument, at))
    if doubts and not untrusted:
        first = doubts[0]
        raise UntrustedBookError(
            f"{feed.name}/{stream}: the book of {instrument} at {at.isoformat()} must not be trusted ({first.reason}): "
            f"{first.detail}"
        )
    return BookAt(feed.name, stream, at, book, doubts)


def _lines(settings: Settings, feed: Feed, stream: str, hour: datetime) -> Iterator[Line]:
    """Lines of an hour by receive time; an hour's sealed files are in the order of their slots."""
    folder = day_folder(settings.archive_root, feed.name, stream, f"{hour:%Y-%m-%d}")
    for path in hour_files(folder, hour):
        for raw in iter_lines(path):
            yield parse_line(raw)


def _doubts(
    settings: Settings, feed: Feed, stream: str, hour: datetime, instrument: str, at: datetime
) -> Iterator[Doubt]:
    if read_ledger(settings.proof_root, feed.name, stream, hour) is None:
        yield Doubt("not_proved", f"the hour of {hour:%Y-%m-%d %H:%M} has no ledger yet; `ssmd ledger prove` makes one")
        return
    path = proof_file(settings.proof_root, feed.name, stream, hour, "untrusted")
    table = pq.read_table(path, filters=[("instrument", "in", [instrument, _ALL])])
    for row in table.to_pylist():
        if row["from"] <= at and (row["to"] is None or at < row["to"]) and row["check"] != "trade":
            yield Doubt(row["reason"], row["detail"], row["from"], row["to"])
