"""The ledger of an hour: a document that names what was captured, what of it holds, and the files that show it.

`{data}/proof/{feed}/{stream}/{YYYY-MM-DD}/{kind}_{HH}00.…`: see `FILES`. The same archive gives the same bytes: there
is no clock in any of them. An hour is proved if its ledger is the one that the stream's chain names last for it.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from ssmd_core.archive.paths import day_folder
from ssmd_core.errors import ArchiveError
from ssmd_core.proof.chain import newest

#: Kinds of files of an hour's proof, with their endings. The ledger names the hashes of all others.
FILES: Final[Mapping[str, str]] = {
    "coverage": ".parquet",
    "integrity": ".parquet",
    "untrusted": ".parquet",
    "shapes": ".json",
    "state": ".bin.gz",
    "ledger": ".json",
}
VERSION: Final = "1.0.0"
_HOUR = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}\Z")


class Reason(msgspec.Struct):
    """Why an hour is not complete, or what a reader should know of it.

    Attributes:
        code: one of `word.CODES`.
        detail: one sentence with the numbers.
        from_, to: RFC 3339, where it can be told ("from" in JSON).
        count: of what the code is about: messages, seconds, instruments, …
        evidence: where to look, see `word`.
    """

    code: str
    detail: str
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    count: int = 1
    evidence: list[str] = []


class SourceRef(msgspec.Struct):
    """An archive file that was read."""

    name: str
    sha256: str
    records: int


class Carried(msgspec.Struct):
    """What was taken over from the hour before.

    Attributes:
        hour: which.
        ledger, state: SHA-256 of its ledger and of its file of state.
    """

    hour: str
    ledger: str
    state: str


class EpochRef(msgspec.Struct):
    """One connection epoch, as far as the hour shows it.

    Attributes:
        connection: its name within the connector.
        first_ordinal, last_ordinal: archived in this hour; null where messages have none.
        missing_ordinals: between them, or before the first.
        messages: archived.
        opened, closed: whether the hour holds its opening and its closing event.
        open: whether it was open when the hour ended.
        known: whether its opening is proved, in this hour or in one that this hour stands on.
        open_s: how long it was open in the hour.
        offset_ms: smallest receive time minus venue time.
    """

    connection: str
    messages: int
    first_ordinal: int | None = None
    last_ordinal: int | None = None
    missing_ordinals: int = 0
    opened: bool = False
    closed: bool = False
    open: bool = False
    known: bool = False
    open_s: float = 0.0
    offset_ms: float | None = None


class Totals(msgspec.Struct):
    """Sums of the hour.

    Attributes:
        messages: archived ones, `market_messages` and `control_messages` (ssmd's and the venue's own talk) among them.
        unparsed: without a type; in none of the two.
        bytes: of the venue's messages.
        asked, acknowledged, refused: different instruments that were so at some time of the hour, on any channel.
        delivered: different instruments of which at least one message came.
        passed, failed, unverifiable, gaps, missing: of the venue's rule.
        untrusted: intervals.
        not_connected_s: over all connections.
    """

    messages: int = 0
    market_messages: int = 0
    control_messages: int = 0
    unparsed: int = 0
    bytes: int = 0
    rejects: int = 0
    asked: int = 0
    acknowledged: int = 0
    refused: int = 0
    delivered: int = 0
    passed: int = 0
    failed: int = 0
    unverifiable: int = 0
    gaps: int = 0
    missing: int = 0
    missing_ordinals: int = 0
    untrusted: int = 0
    connections: int = 0
    opens: int = 0
    reconnects: int = 0
    resubscribes: int = 0
    errors: int = 0
    not_connected_s: float = 0.0


class Ledger(msgspec.Struct):
    """An hour's ledger.

    Attributes:
        hour: `YYYY-MM-DDTHH`, UTC.
        word: `complete`, `degraded` or `empty`.
        sources: archive files, by name.
        outputs: SHA-256 of the proof's and of the datasets' files, by path relative to the data folder.
        carried: null if the hour before was not proved.
        epochs: by name.
        rows, null_rates: by type, and by type and column: of this hour, or the last one that had enough of them.
        shapes_changed: structural differences from the hour before.
    """

    feed: str
    stream: str
    hour: str
    word: str
    reasons: list[Reason]
    sources: list[SourceRef]
    outputs: dict[str, str]
    carried: Carried | None
    totals: Totals
    epochs: dict[str, EpochRef]
    rows: dict[str, int] = {}
    null_rates: dict[str, dict[str, float]] = {}
    shapes_changed: int = 0
    version: str = VERSION


def hour_id(hour: datetime) -> str:
    """`YYYY-MM-DDTHH`, as the chain and citations name an hour."""
    return f"{hour:%Y-%m-%dT%H}"


def parse_hour_id(text: str) -> datetime:
    """The hour of such a name.

    Raises:
        ValueError: it is none.
    """
    if not _HOUR.match(text):
        raise ValueError(f"{text[:40]!r} is not YYYY-MM-DDTHH")
    return datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC)


def proof_folder(proof_root: Path, feed: str, stream: str, hour: datetime) -> Path:
    """Where the files of the hour's day lie."""
    return day_folder(proof_root, feed, stream, f"{hour:%Y-%m-%d}")


def proof_file(proof_root: Path, feed: str, stream: str, hour: datetime, kind: str) -> Path:
    """One of the hour's files; `kind` is a key of `FILES`."""
    return proof_folder(proof_root, feed, stream, hour) / f"{kind}_{hour:%H}00{FILES[kind]}"


def as_dict(ledger: Ledger) -> dict[str, Any]:
    """For JSON."""
    found: dict[str, Any] = msgspec.to_builtins(ledger)
    return found


def encode(ledger: Ledger) -> bytes:
    """The bytes of the ledger's file: sorted members, one form for one content."""
    return orjson.dumps(as_dict(ledger), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def decode(content: bytes, where: str) -> Ledger:
    """The ledger in a file's bytes.

    Raises:
        ArchiveError: they are none.
    """
    try:
        return msgspec.json.decode(content, type=Ledger)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArchiveError(f"{where}: not a ledger: {error}") from error


def read_ledger(proof_root: Path, feed: str, stream: str, hour: datetime) -> Ledger | None:
    """The hour's ledger; None if the hour is not proved: there is no file, or not the one that the chain names last.

    Raises:
        ArchiveError: the file is damaged.
    """
    path = proof_file(proof_root, feed, stream, hour, "ledger")
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    entry = newest(proof_root, feed, stream).get(hour_id(hour))
    if entry is None or entry.ledger != hashlib.sha256(content).hexdigest():
        return None
    return decode(content, str(path))


def read_state(proof_root: Path, feed: str, stream: str, hour: datetime) -> bytes | None:
    """What the venue's rule left at the end of the hour; None if there is nothing.

    Raises:
        ArchiveError: the file is damaged.
    """
    path = proof_file(proof_root, feed, stream, hour, "state")
    try:
        return gzip.decompress(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{path}: {error}") from error
