"""What the proof folder holds of an hour: its signed ledger, its files, an instrument's integrity, a book."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from hashlib import sha256
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import structlog

from ssmd_api.errors import ConflictError, InvalidRequestError, NotFoundError, TooLargeError, UnavailableError
from ssmd_api.params import shown
from ssmd_core.datasets.coverage import HOURS
from ssmd_core.errors import ArchiveError, ConfigError
from ssmd_core.feeds import get
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.proof.chain import Entry, newest
from ssmd_core.proof.ledger import FILES, Ledger, as_dict, hour_id, proof_file, read_ledger
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    from ssmd_api.services import Services
    from ssmd_core.proof.book_at import BookAt

log = structlog.get_logger()

T = TypeVar("T")
FileKind = Literal["ledger", "coverage", "integrity", "untrusted", "shapes"]
#: A minute, check and connection have one row at most.
MAX_INTEGRITY_ROWS = 5_000
_BOOKS = 2
_WAIT_S = 5.0


class ChainEntry(msgspec.Struct, rename="camel", kw_only=True):
    """A line of the chain; the signature is Ed25519 over the line without it, see docs/proof.md."""

    n: int
    hour: str
    word: str
    ledger: str
    previous: str
    sealed_at: str
    key: str
    signature: str


class SignedLedger(msgspec.Struct, rename="camel", kw_only=True):
    """An hour's ledger, and where it stands in the chain.

    Attributes:
        ledger: the document, as it was signed.
        chain: its newest entry.
    """

    feed: str
    stream: str
    hour: datetime
    word: str
    ledger: dict[str, Any]
    chain: ChainEntry


class IntegrityRow(msgspec.Struct, rename="camel", kw_only=True):
    """Neighbouring minutes of one verdict."""

    instrument: str
    check: str
    epoch: str
    from_: datetime = msgspec.field(name="from")
    to: datetime
    verdict: str
    messages: int
    passed: int
    failed: int
    reason: str | None


class BookLevel(msgspec.Struct):
    """A level, as the venue wrote it."""

    price: str
    size: str


class BookDoubt(msgspec.Struct):
    """Why a book must not be trusted, or (`no_check`) cannot be checked."""

    reason: str
    detail: str
    since: datetime | None
    until: datetime | None


class BookAnswer(msgspec.Struct, rename="camel", kw_only=True):
    """A full-depth order book at a moment.

    Attributes:
        sides: what the venue calls the two; Kalshi's second side are bids too, for NO.
        bids, asks: best first.
        changed_at: when the last message that changed it was received; `nats_seq` is that message.
        doubts: why it must not be trusted, only with `untrusted=true`; or why it cannot be checked.
    """

    feed: str
    stream: str
    instrument: str
    at: datetime
    sides: list[str]
    bids: list[BookLevel]
    asks: list[BookLevel]
    epoch: str
    changed_at: datetime
    nats_seq: int
    doubts: list[BookDoubt]


def moment_of(day: date, hour: str) -> datetime:
    """The hour of a day.

    Raises:
        InvalidRequestError: not `HH00`.
    """
    if hour not in HOURS:
        raise InvalidRequestError(f"hour: {shown(hour)} is not HH00, e.g. 1100", field="hour")
    return datetime.combine(day, time(int(hour[:2])), UTC)


def stream_of(feed: str, stream: str | None) -> str:
    """The stream that is meant: the feed's own if none is named.

    Raises:
        InvalidRequestError: it is no name of a stream.
    """
    entry = get(feed)
    if stream is None:
        return entry.streams[0]
    try:
        return StreamName("prod", entry, stream).stream
    except ConfigError:
        raise InvalidRequestError(f"stream: {shown(stream)} is no name of a stream", field="stream") from None


class Books:
    """Books are built from the archive, in threads: two at a time, so that everything else has threads, too."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_BOOKS)

    async def build(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run the work, which asks now and then whether it is still wanted.

        Raises:
            UnavailableError: both places stayed taken.
        """
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            raise UnavailableError("both places for order books are taken; ask again in a moment") from None
        left = Event()
        running = asyncio.ensure_future(asyncio.to_thread(work, lambda: not left.is_set()))
        running.add_done_callback(self._ended)
        try:
            return await asyncio.shield(running)
        finally:
            left.set()

    def _ended(self, running: asyncio.Future[Any]) -> None:
        """The place is free when the thread is, however the one who waited for it ended."""
        self._places.release()
        if not running.cancelled():
            running.exception()  # is told to who waits, if anybody does


async def ledger(services: Services, feed: str, stream: str, hour: datetime) -> SignedLedger:
    """An hour's ledger.

    Raises:
        NotFoundError: it is not proved.
        UnavailableError: it is damaged.
    """
    found, entry = await asyncio.to_thread(_ledger, services.settings.core, feed, stream, hour)
    return SignedLedger(
        feed=feed, stream=stream, hour=hour, word=found.word, ledger=as_dict(found), chain=_entry(entry)
    )


def _ledger(settings: Settings, feed: str, stream: str, hour: datetime) -> tuple[Ledger, Entry]:
    try:
        found = read_ledger(settings.proof_root, feed, stream, hour)
    except ArchiveError as error:
        raise _damaged(feed, stream, hour, error) from error
    entry = newest(settings.proof_root, feed, stream).get(hour_id(hour))
    if found is None or entry is None:
        raise NotFoundError(f"{feed}/{stream} has no ledger of {hour:%Y-%m-%d %H:%M}: the hour is not proved")
    return found, entry


def _damaged(feed: str, stream: str, hour: datetime, error: Exception) -> UnavailableError:
    log.error("proof_damaged", feed=feed, stream=stream, hour=hour_id(hour), error=str(error))
    return UnavailableError(f"what {feed}/{stream} has of {hour:%Y-%m-%d %H:%M} is damaged: `ssmd verify` says where")


def _entry(entry: Entry) -> ChainEntry:
    return ChainEntry(**{name: getattr(entry, name) for name in ChainEntry.__struct_fields__})


async def file(services: Services, feed: str, stream: str, hour: datetime, kind: FileKind) -> tuple[str, bytes]:
    """Name and bytes of a file of an hour that is proved, as they were hashed and signed.

    Raises:
        NotFoundError: it is not proved.
        UnavailableError: the file is not the one that the ledger names.
    """
    content = await asyncio.to_thread(_content, services.settings.core, feed, stream, hour, kind)
    return f"{feed}_{stream}_{hour_id(hour)}_{kind}{FILES[kind]}", content


def _content(settings: Settings, feed: str, stream: str, hour: datetime, kind: FileKind) -> bytes:
    from ssmd_core.proof.book_at import proved_bytes

    found, entry = _ledger(settings, feed, stream, hour)
    try:
        if kind != "ledger":
            return proved_bytes(settings, found, hour, kind)
        content = proof_file(settings.proof_root, feed, stream, hour, kind).read_bytes()
        if sha256(content).hexdigest() != entry.ledger:
            raise ArchiveError(f"{feed}/{stream} {entry.hour}: the ledger has just changed")
        return content
    except (ArchiveError, OSError) as error:
        raise _damaged(feed, stream, hour, error) from error


async def integrity(services: Services, feed: str, stream: str, hour: datetime, instrument: str) -> list[IntegrityRow]:
    """Verdicts about an instrument, by minute.

    Raises:
        NotFoundError: the hour is not proved.
        UnavailableError: its file is damaged.
        TooLargeError: more than `MAX_INTEGRITY_ROWS`.
    """
    return await asyncio.to_thread(_integrity, services.settings.core, feed, stream, hour, instrument)


def _integrity(settings: Settings, feed: str, stream: str, hour: datetime, instrument: str) -> list[IntegrityRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _content(settings, feed, stream, hour, "integrity")
    table = pq.read_table(pa.BufferReader(content), filters=[("instrument", "=", instrument)])
    if table.num_rows > MAX_INTEGRITY_ROWS:
        raise TooLargeError(
            f"{instrument} has {table.num_rows} rows in the hour, {MAX_INTEGRITY_ROWS} is the most: fetch the file"
        )
    return [
        IntegrityRow(**{("from_" if name == "from" else name): value for name, value in row.items()})
        for row in table.to_pylist()
    ]


async def book(
    services: Services, feed: str, stream: str, instrument: str, at: datetime, *, untrusted: bool
) -> BookAnswer:
    """An instrument's book.

    Raises:
        NotFoundError: there is none.
        ConflictError: it must not be trusted, and `untrusted` is not set.
        UnavailableError: the archive is damaged, or too many books are asked for.
    """
    from ssmd_core.proof.book_at import NoBookError, UntrustedBookError, book_at

    settings = services.settings.core

    def work(wanted: Callable[[], bool]) -> BookAt:
        return book_at(settings, get(feed), stream, instrument, at, untrusted=untrusted, wanted=wanted)

    try:
        found = await services.captured.books.build(work)
    except NoBookError as error:
        raise NotFoundError(str(error)) from error
    except UntrustedBookError as error:
        raise ConflictError(str(error)) from error
    except ArchiveError as error:
        raise _damaged(feed, stream, at, error) from error
    return BookAnswer(
        feed=feed,
        stream=stream,
        instrument=instrument,
        at=at,
        sides=list(found.book.sides),
        bids=[BookLevel(price, size) for price, size in found.book.bids],
        asks=[BookLevel(price, size) for price, size in found.book.asks],
        epoch=found.book.epoch,
        changed_at=found.changed_at,
        nats_seq=found.book.nats_seq,
        doubts=[BookDoubt(*doubt) for doubt in found.doubts],
    )
