"""The full-depth order book of an instrument at a moment, from the archive; refused where it must not be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssmd_core.archive.members import iter_lines
from ssmd_core.archive.paths import SLOT_S, day_folder, hour_files
from ssmd_core.archive.tally import classify
from ssmd_core.datasets.order import file_sha256
from ssmd_core.errors import ArchiveError, ConfigError, SsmdError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import Line, parse_line
from ssmd_core.proof.ledger import Ledger, proof_file, read_ledger, read_state
from ssmd_core.proof.rules import ALL_CHECKS, ALL_INSTRUMENTS, Book, book_replay, books_check
from ssmd_core.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_INSTRUMENT_CHARS = 256
# Several connections share a stream: their receive times interleave by what the publisher holds back, 5 ms as a rule.
_INTERLEAVED_US = 60_000_000
_OLDEST_YEAR = 2000
# Some 50 ms of work.
_ASK_EVERY_LINES = 5_000


class NoBookError(SsmdError):
    """There is no book at that moment: nothing is archived of it, or no snapshot came before."""


class UntrustedBookError(SsmdError):
    """There is a book, but it must not be trusted; the text says why and until when."""


class BookStoppedError(SsmdError):
    """Nobody waits for the answer any more."""


class Doubt(NamedTuple):
    """Why a book must not be trusted, or cannot be checked.

    Attributes:
        reason: one of `rules.REASONS`; `not_proved` for an hour without a ledger of what lies there; `slots_missing`
            and `not_connected` where what changed it may not have been captured.
        detail: a sentence.
        since, until: the interval; None where it is open, or not known.
    """

    reason: str
    detail: str
    since: datetime | None = None
    until: datetime | None = None

    @property
    def refuses(self) -> bool:
        """Whether the book must not be trusted; that the venue gives nothing to check it by only informs."""
        return self.reason != "no_check"


@dataclass(frozen=True, slots=True)
class BookAt:
    """A book as it was.

    Attributes:
        feed, stream, at: what was asked.
        book: the book.
        doubts: why it must not be trusted, or cannot be checked; empty if everything that was compared is right.
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


def _always() -> bool:
    return True


def book_at(
    settings: Settings,
    feed: Feed,
    stream: str,
    instrument: str,
    at: datetime,
    *,
    untrusted: bool = False,
    wanted: Callable[[], bool] = _always,
) -> BookAt:
    """The book after the last message received at or before a moment.

    Args:
        instrument: as the venue names it in its book messages: market ticker, symbol, product or token id.
        untrusted: answer also where the book must not be trusted, and say why.
        wanted: asked now and then whether somebody still waits: a busy hour takes a minute.

    Raises:
        NoBookError: see there.
        BookStoppedError: it is not wanted any more.
        UntrustedBookError: it must not be trusted, and `untrusted` is not set.
        ConfigError: the instrument is no such name.
        ArchiveError: a file is damaged.
    """
    if not instrument or len(instrument) > _MAX_INSTRUMENT_CHARS or not instrument.isprintable():
        raise ConfigError(f"{instrument[:_MAX_INSTRUMENT_CHARS]!r} is not the name of an instrument")
    at = at.astimezone(UTC)
    if at.year < _OLDEST_YEAR:
        raise NoBookError(f"{feed.name}/{stream}: nothing is archived of {at.isoformat()}")
    hour = at.replace(minute=0, second=0, microsecond=0)
    at_us = (at - _EPOCH) // timedelta(microseconds=1)
    state = read_state(settings.proof_root, feed.name, stream, hour - timedelta(hours=1))
    replay = book_replay(feed, instrument, state)
    lines = 0
    for number, line in enumerate(_lines(settings, feed, stream, hour)):
        if number % _ASK_EVERY_LINES == 0 and not wanted():
            raise BookStoppedError(f"the book of {instrument} is not wanted any more")
        if line.recv_us > at_us + _INTERLEAVED_US:
            break
        if line.recv_us > at_us:
            continue
        lines += 1
        replay.take(classify(feed, line.payload)[0], line)
    book = replay.book()
    if book is None:
        what = f"{lines:,} messages are archived from {hour:%Y-%m-%d %H:%M} to then" if lines else "nothing is archived"
        where = f"{feed.name}/{stream}: no book of {instrument} at {at.isoformat()}"
        raise NoBookError(f"{where}: {what}, and no snapshot of it came before")
    doubts = tuple(_doubts(settings, feed, stream, hour, book, at))
    first = next((doubt for doubt in doubts if doubt.refuses), None)
    if first is not None and not untrusted:
        raise UntrustedBookError(
            f"{feed.name}/{stream}: the book of {instrument} at {at.isoformat()} must not be trusted ({first.reason}): "
            f"{first.detail}"
        )
    return BookAt(feed.name, stream, at, book, doubts)


def _files(settings: Settings, feed: Feed, stream: str, hour: datetime) -> list[Path]:
    return hour_files(day_folder(settings.archive_root, feed.name, stream, f"{hour:%Y-%m-%d}"), hour)


def _lines(settings: Settings, feed: Feed, stream: str, hour: datetime) -> Iterator[Line]:
    """Lines of an hour by receive time; an hour's sealed files are in the order of their slots."""
    for path in _files(settings, feed, stream, hour):
        for raw in iter_lines(path):
            yield parse_line(raw)


def _doubts(settings: Settings, feed: Feed, stream: str, hour: datetime, book: Book, at: datetime) -> Iterator[Doubt]:
    ledger = read_ledger(settings.proof_root, feed.name, stream, hour)
    if ledger is None:
        yield Doubt("not_proved", f"the hour of {hour:%Y-%m-%d %H:%M} has no ledger yet; `ssmd ledger prove` makes one")
        return
    files = {path.name: file_sha256(path) for path in _files(settings, feed, stream, hour)}
    if files != {source.name: source.sha256 for source in ledger.sources}:
        yield Doubt("not_proved", f"the hour of {hour:%Y-%m-%d %H:%M} was archived anew since its ledger was made")
        return
    slots = {name[:4] for name in files}
    due = [
        hour + timedelta(seconds=SLOT_S * number) for number in range(int((at - hour).total_seconds()) // SLOT_S + 1)
    ]
    if missing := [f"{slot:%H:%M}" for slot in due if f"{slot:%H%M}" not in slots]:
        yield Doubt("slots_missing", f"nothing is archived of the quarters from {', '.join(missing)}")
    names, checks = [book.instrument, ALL_INSTRUMENTS], (books_check(feed), ALL_CHECKS)
    table = _proved_table(settings, ledger, hour, "untrusted")
    # What another connection lost says nothing of the book that this one has built.
    concerned = pc.and_(pc.is_in(table["instrument"], pa.array(names)), pc.equal(table["epoch"], book.epoch))
    for row in table.filter(concerned).to_pylist():
        if row["from"] <= at and (row["to"] is None or at < row["to"]) and row["check"] in checks:
            yield Doubt(row["reason"], row["detail"], row["from"], row["to"])
    # Without control events nothing says when a connection was open; the ledger's word says so.
    if all(reason.code != "no_control_events" for reason in ledger.reasons):
        minute = at.replace(second=0, microsecond=0)
        table = _proved_table(settings, ledger, hour, "coverage").select(["minute", "epoch", "open_s"])
        of_epoch = table.filter(pc.equal(table["epoch"], book.epoch)).to_pylist()
        if not any(row["minute"] == minute and row["open_s"] for row in of_epoch):
            yield Doubt(
                "not_connected", f"the connection {book.epoch} that it was built on was not open at {minute:%H:%M}"
            )


def _proved_table(settings: Settings, ledger: Ledger, hour: datetime, kind: str) -> pa.Table:
    """A parquet file of the proof, if it is the one that the ledger names.

    Raises:
        ArchiveError: it is not, or cannot be read.
    """
    return pq.read_table(pa.BufferReader(proved_bytes(settings, ledger, hour, kind)))


def proved_bytes(settings: Settings, ledger: Ledger, hour: datetime, kind: str) -> bytes:
    """A file of the proof, if it is the one that the ledger names.

    Args:
        kind: a key of `ledger.FILES`, but for the ledger itself.

    Raises:
        ArchiveError: it is not.
    """
    path = proof_file(settings.proof_root, ledger.feed, ledger.stream, hour, kind)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{path}: {error}") from error
    if sha256(content).hexdigest() != ledger.outputs.get(path.relative_to(settings.data).as_posix()):
        raise ArchiveError(f"{path}: is not the file that the hour's ledger names")
    return content
