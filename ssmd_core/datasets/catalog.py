"""`catalog.json`: what the dataset root holds, found by listing it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ssmd_core.datasets.manifest import PARQUET_MANIFEST, FileEntry
from ssmd_core.errors import DatasetError
from ssmd_core.sealed_json import load_sealed, save_sealed

CATALOG = "catalog.json"
VERSION = "1.0.0"


class _Day(msgspec.Struct):
    """The members of a day's manifest that the catalog needs."""

    files: list[FileEntry] = []
    schemas: dict[str, dict[str, Any]] = {}


class StreamEntry(msgspec.Struct):
    """One stream.

    Attributes:
        prefix: its folder below the dataset root.
        message_types: with at least one file.
        date_min, date_max: first and last day with a file; "" if there is none.
        dates: all of them.
        schemas: by message type, as in the last day's manifest.
    """

    feed: str
    stream: str
    prefix: str
    message_types: list[str] = []
    date_min: str = ""
    date_max: str = ""
    total_files: int = 0
    total_bytes: int = 0
    total_rows: int = 0
    dates: list[str] = []
    schemas: dict[str, dict[str, Any]] = {}


class Catalog(msgspec.Struct):
    """A dataset root."""

    feeds: list[StreamEntry]
    generated_at: str = ""
    version: str = VERSION
    sha256: str = ""


def list_catalog(dataset_root: Path) -> Catalog:
    """Read every day's manifest below the root.

    Raises:
        DatasetError: one of them cannot be read.
    """
    entries = []
    for stream in sorted(path for path in dataset_root.glob("*/*") if path.is_dir()):
        entry = StreamEntry(stream.parent.name, stream.name, f"{stream.parent.name}/{stream.name}")
        types: set[str] = set()
        for date, day in _days(stream):
            if not day.files:
                continue
            entry.dates.append(date)
            entry.total_files += len(day.files)
            entry.total_bytes += sum(file.bytes for file in day.files)
            entry.total_rows += sum(file.row_count for file in day.files)
            entry.schemas.update(day.schemas)
            types.update(file.message_type for file in day.files)
        if entry.dates:
            entry.message_types = sorted(types)
            entry.date_min, entry.date_max = entry.dates[0], entry.dates[-1]
            entries.append(entry)
    return Catalog(entries, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")


def write_catalog(dataset_root: Path) -> None:
    """Write `catalog.json`; hold the root's lock."""
    save_sealed(dataset_root / CATALOG, list_catalog(dataset_root))


def load_catalog(dataset_root: Path) -> Catalog | None:
    """The root's catalog, None if there is none.

    Raises:
        ArchiveError: it cannot be read as one, or its content is not what was written.
    """
    return load_sealed(dataset_root / CATALOG, Catalog)


def _days(stream: Path) -> Iterator[tuple[str, _Day]]:
    for path in sorted(stream.glob(f"*/{PARQUET_MANIFEST}")):
        try:
            yield path.parent.name, msgspec.json.decode(path.read_bytes(), type=_Day)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: {error}") from error
