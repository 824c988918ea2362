"""What the proof folder holds of an hour: its signed ledger, its files, an instrument's integrity, a book."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow.parquet as pq

from ssmd_api.errors import ConflictError, InvalidRequestError, NotFoundError
from ssmd_api.params import shown
from ssmd_api.services import Services
from ssmd_core.datasets.coverage import HOURS
from ssmd_core.errors import ConfigError
from ssmd_core.feeds import get
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.proof.book_at import NoBookError, UntrustedBookError, book_at
from ssmd_core.proof.chain import Entry, newest
from ssmd_core.proof.ledger import as_dict, hour_id, proof_file, read_ledger
from ssmd_core.settings import Settings

FileKind = Literal["ledger", "coverage", "integrity", "untrusted", "shapes"]
MEDIA_TYPES: dict[str, str] = {
    "ledger": "application/json",
    "shapes": "application/json",
    "coverage": "application/vnd.apache.parquet",
    "integrity": "application/vnd.apache.parquet",
    "untrusted": "application/vnd.apache.parquet",
}
MAX_INTEGRITY_ROWS = 5_000


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
    """Why a book must not be trusted."""

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
        doubts: why it must not be trusted; only with `untrusted=true`.
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


async def ledger(services: Services, feed: str, stream: str, hour: datetime) -> SignedLedger:
    """An hour's ledger.

    Raises:
        NotFoundError: it is not proved.
        ArchiveError: it is damaged.
    """
    return await asyncio.to_thread(_ledger, services.settings.core, feed, stream, hour)


def _ledger(settings: Settings, feed: str, stream: str, hour: datetime) -> SignedLedger:
    found = read_ledger(settings.proof_root, feed, stream, hour)
    entry = newest(settings.proof_root, feed, stream).get(hour_id(hour))
    if found is None or entry is None:
        raise NotFoundError(f"{feed}/{stream} has no ledger of {hour:%Y-%m-%d %H:%M}: the hour is not proved")
    return SignedLedger(
        feed=feed, stream=stream, hour=hour, word=found.word, ledger=as_dict(found), chain=_entry(entry)
    )


def _entry(entry: Entry) -> ChainEntry:
    return ChainEntry(**{name: getattr(entry, name) for name in ChainEntry.__struct_fields__})


def file_of(settings: Settings, feed: str, stream: str, hour: datetime, kind: FileKind) -> Path:
    """A file of an hour that is proved.

    Raises:
        NotFoundError: it is not proved.
    """
    _ledger(settings, feed, stream, hour)
    return proof_file(settings.proof_root, feed, stream, hour, kind)


async def integrity(
    services: Services, feed: str, stream: str, hour: datetime, instrument: str, limit: int
) -> list[IntegrityRow]:
    """Verdicts about an instrument, by minute.

    Raises:
        NotFoundError: the hour is not proved.
    """
    path = await asyncio.to_thread(file_of, services.settings.core, feed, stream, hour, "integrity")
    table = await asyncio.to_thread(pq.read_table, path, filters=[("instrument", "=", instrument)])
    return [
        IntegrityRow(**{("from_" if name == "from" else name): value for name, value in row.items()})
        for row in table.slice(0, limit).to_pylist()
    ]


async def book(
    services: Services, feed: str, stream: str, instrument: str, at: datetime, *, untrusted: bool
) -> BookAnswer:
    """An instrument's book.

    Raises:
        NotFoundError: there is none.
        ConflictError: it must not be trusted, and `untrusted` is not set.
    """
    try:
        found = await asyncio.to_thread(
            book_at, services.settings.core, get(feed), stream, instrument, at, untrusted=untrusted
        )
    except NoBookError as error:
        raise NotFoundError(str(error)) from error
    except UntrustedBookError as error:
        raise ConflictError(str(error)) from error
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
