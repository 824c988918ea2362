"""Names of stored files: below the data folder, in a bucket and in a signed URL they are the same.

`archive/{feed}/{stream}/{YYYY-MM-DD}/{HHMM}.jsonl.gz` and
`datasets/{feed}/{stream}/{YYYY-MM-DD}/{type}_{HH}00.parquet`, each folder with its manifest;
`proof/{feed}/{stream}/{YYYY-MM-DD}/{kind}_{HH}00.…`, named by the hours' ledgers, and these by `proof/{feed}/{stream}/
chain.jsonl`; `backfill/{feed}/{stream}/{YYYY-MM-DD}/{type}_{HH}00.parquet`, which nothing names.
"""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from typing import NamedTuple

from ssmd_core.archive.paths import DAY_FOLDER, MANIFEST, SLOT_FILE
from ssmd_core.datasets.catalog import CATALOG
from ssmd_core.datasets.manifest import PARQUET_MANIFEST
from ssmd_core.errors import ArchiveError
from ssmd_core.proof.chain import CHAIN
from ssmd_core.proof.ledger import FILES

CATALOG_NAME = f"datasets/{CATALOG}"
#: What a chain is among the types of a proof's files.
CHAIN_TYPE = "chain"
MAX_PATH_CHARS = 512
_STREAM = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_PARQUET = re.compile(r"[A-Za-z0-9_]{1,64}_([01][0-9]|2[0-3])00\.parquet\Z")
_PROOF = {kind: re.compile(rf"{kind}_([01][0-9]|2[0-3])00{re.escape(ending)}\Z") for kind, ending in FILES.items()}
_CONTENT_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    # Never sent with a Content-Encoding, because a client would unpack them.
    ".gz": "application/gzip",
}
_REJECTS = re.compile(r"rejects_([01][0-9]|2[0-3])00\.jsonl\.gz\Z")


class Kind(StrEnum):
    """The trees."""

    RAW = "archive"
    PARQUET = "datasets"
    PROOF = "proof"
    BACKFILL = "backfill"


#: Trees whose days have a manifest, and its name.
MANIFESTS = {Kind.RAW: MANIFEST, Kind.PARQUET: PARQUET_MANIFEST}


class Day(NamedTuple):
    """One day's folder.

    Attributes:
        date: "" for the folder of the stream itself, where its chain lies.
    """

    kind: Kind
    feed: str
    stream: str
    date: str

    @property
    def folder(self) -> str:
        """Relative to the data folder, or to the bucket's prefix."""
        return f"{self.kind}/{self.feed}/{self.stream}/{self.date}".removesuffix("/")

    @property
    def manifest(self) -> str:
        """Where its manifest lies; of a tree that has some."""
        return f"{self.folder}/{MANIFESTS[self.kind]}"

    def file(self, name: str) -> str:
        """Where a file of it lies.

        Raises:
            ArchiveError: no name that a data file of this tree has.
        """
        if not (is_data_file(self.kind, name) if self.date else (self.kind, name) == (Kind.PROOF, CHAIN)):
            raise ArchiveError(f"{self.folder}: {name!r} is not the name of a file that belongs there")
        return f"{self.folder}/{name}"


class StoredFile(NamedTuple):
    """A path, taken apart."""

    day: Day
    name: str

    @property
    def download_name(self) -> str:
        """Name for a file that leaves its folder."""
        return f"{self.day.date or f'{self.day.feed}-{self.day.stream}'}-{self.name}"

    @property
    def type(self) -> str | None:
        """Message type of a dataset, kind of a proof's file; None for a raw file, which holds all types."""
        if not self.day.date:
            return CHAIN_TYPE
        return None if self.day.kind is Kind.RAW else self.name.partition(".")[0].rpartition("_")[0]

    @property
    def hour(self) -> str:
        """`HHMM` of its first minute; "" for a chain."""
        if not self.day.date:
            return ""
        return self.name[:4] if self.day.kind is Kind.RAW else self.name.partition(".")[0][-4:]


def chain_file(feed: str, stream: str) -> StoredFile:
    """A stream's chain of ledgers."""
    return StoredFile(Day(Kind.PROOF, feed, stream, ""), CHAIN)


def content_type(name: str) -> str:
    """By the ending of a stored file's name."""
    return _CONTENT_TYPES[name[name.rindex(".") :]]


def is_data_file(kind: Kind, name: str) -> bool:
    """Whether such a name may be that of a file in a day's folder of the tree."""
    if kind is Kind.PROOF:
        return any(pattern.match(name) for pattern in _PROOF.values())
    return bool(SLOT_FILE.match(name) if kind is Kind.RAW else _PARQUET.match(name))


def is_rejects_file(name: str) -> bool:
    """Whether this is what an hour's messages without a row are kept in."""
    return bool(_REJECTS.match(name))


def parse_path(path: str) -> StoredFile | None:
    """The parts of a data file's path, or of a chain's; None for everything else, a manifest too.

    Only the exact form passes, so what looks like a path to elsewhere (`..`, an escape, a backslash, NUL, an absolute
    path, a URL) has no parts.
    """
    parts = path.split("/") if len(path) <= MAX_PATH_CHARS else []
    if len(parts) not in {4, 5} or parts[0] not in set(Kind):
        return None
    kind, feed, stream, name = Kind(parts[0]), parts[1], parts[2], parts[-1]
    if not (_STREAM.match(feed) and _STREAM.match(stream)):
        return None
    if len(parts) == 4:
        return chain_file(feed, stream) if (kind, name) == (Kind.PROOF, CHAIN) else None
    if not (is_day(parts[3]) and is_data_file(kind, name)):
        return None
    return StoredFile(Day(kind, feed, stream, parts[3]), name)


def is_day(text: str) -> bool:
    """Whether a folder's name is a day."""
    if not DAY_FOLDER.match(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
