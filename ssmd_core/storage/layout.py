"""Names of stored files: below the data folder, in a bucket and in a signed URL they are the same.

`archive/{feed}/{stream}/{YYYY-MM-DD}/{HHMM}.jsonl.gz` and
`datasets/{feed}/{stream}/{YYYY-MM-DD}/{type}_{HH}00.parquet`, each folder with its manifest.
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

CATALOG_NAME = f"datasets/{CATALOG}"
MAX_PATH_CHARS = 512
_STREAM = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_PARQUET = re.compile(r"[A-Za-z0-9_]{1,64}_([01][0-9]|2[0-3])00\.parquet\Z")
_REJECTS = re.compile(r"rejects_([01][0-9]|2[0-3])00\.jsonl\.gz\Z")


class Kind(StrEnum):
    """The two trees."""

    RAW = "archive"
    PARQUET = "datasets"

    @property
    def manifest(self) -> str:
        """Name of the manifest in each day's folder."""
        return MANIFEST if self is Kind.RAW else PARQUET_MANIFEST

    @property
    def content_type(self) -> str:
        """Of its files; raw files are never sent with a Content-Encoding, because a client would unpack them."""
        return "application/gzip" if self is Kind.RAW else "application/vnd.apache.parquet"


class Day(NamedTuple):
    """One day's folder."""

    kind: Kind
    feed: str
    stream: str
    date: str

    @property
    def folder(self) -> str:
        """Relative to the data folder, or to the bucket's prefix."""
        return f"{self.kind}/{self.feed}/{self.stream}/{self.date}"

    @property
    def manifest(self) -> str:
        """Where its manifest lies."""
        return f"{self.folder}/{self.kind.manifest}"

    def file(self, name: str) -> str:
        """Where a file of it lies.

        Raises:
            ArchiveError: no name that a data file of this tree has.
        """
        if not is_data_file(self.kind, name):
            raise ArchiveError(f"{self.folder}: {name!r} is not the name of a file that belongs there")
        return f"{self.folder}/{name}"


class StoredFile(NamedTuple):
    """A path, taken apart."""

    day: Day
    name: str

    @property
    def download_name(self) -> str:
        """Name for a file that leaves its folder."""
        return f"{self.day.date}-{self.name}"


def is_data_file(kind: Kind, name: str) -> bool:
    """Whether such a name may stand in a manifest of the tree."""
    return bool(SLOT_FILE.match(name) if kind is Kind.RAW else _PARQUET.match(name))


def is_rejects_file(name: str) -> bool:
    """Whether this is what an hour's messages without a row are kept in."""
    return bool(_REJECTS.match(name))


def parse_path(path: str) -> StoredFile | None:
    """The parts of a data file's path; None for everything else, a manifest too.

    Only the exact form passes, so what looks like a path to elsewhere (`..`, an escape, a backslash, NUL, an absolute
    path, a URL) has no parts.
    """
    parts = path.split("/") if len(path) <= MAX_PATH_CHARS else []
    if len(parts) != 5 or parts[0] not in set(Kind):
        return None
    kind = Kind(parts[0])
    _, feed, stream, day, name = parts
    if not (_STREAM.match(feed) and _STREAM.match(stream) and is_day(day) and is_data_file(kind, name)):
        return None
    return StoredFile(Day(kind, feed, stream, day), name)


def is_day(text: str) -> bool:
    """Whether a folder's name is a day."""
    if not DAY_FOLDER.match(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
