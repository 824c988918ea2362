"""What the footers of parquet files say: rows, sizes, nulls, and whether the columns are those of the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.datasets.coverage import HOURS, Manifests
from ssmd_core.datasets.manifest import FileEntry, ParquetManifest
from ssmd_core.feeds.base import Feed
from ssmd_core.quality.formulas import MAX_NULL_SHARE

# With fewer rows a column may be empty by chance.
_MIN_ROWS = 100
# Files before the one in question, against which its nulls are compared: two days of hours.
_HISTORY = 48


@dataclass(frozen=True, slots=True)
class FileStats:
    """One hourly file.

    Attributes:
        path: relative to the dataset root.
        feed, stream, message_type, date, hour: which; the hour as `HH00`.
        rows, bytes: of the file.
        compression_ratio: bytes of the columns before compression over the file's; None of an empty file.
        duplicates: archive lines of the hour that repeat another one, of all types; the file holds each once.
        schema_valid: it can be read and has the registry's columns.
        null_shares: by column, where there are nulls.
        null_violations: share of nulls by column, where it is above the allowed one in a column that must be filled,
            or was in the files before.
        problem: why the file is not valid, "" if it is.
    """

    path: str
    feed: str
    stream: str
    message_type: str
    date: date
    hour: str
    rows: int
    bytes: int
    compression_ratio: Decimal | None
    duplicates: int
    schema_valid: bool
    null_shares: Mapping[str, float] = field(default_factory=dict)
    null_violations: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


def day_stats(manifests: Manifests, feed: Feed, stream: str, day: date, before: Sequence[date]) -> list[FileStats]:
    """Every file of a day of a stream.

    Args:
        before: earlier days, nearest first, whose files tell which columns are usually filled.

    Raises:
        ArchiveError: a manifest is damaged.
    """
    built = manifests.datasets(feed.name, stream, day)
    if built is None:
        return []
    root = manifests.dataset_root
    usual = _usual(manifests, feed, stream, built, before)
    found = []
    for entry in sorted(built.files, key=lambda entry: (entry.hour, entry.message_type)):
        rates = usual.setdefault(entry.message_type, [])
        one = _file_stats(root, feed, stream, day, entry, built, rates)
        found.append(one)
        if one.schema_valid and one.rows >= _MIN_ROWS:
            rates.append(one.null_shares)
    return found


def _usual(
    manifests: Manifests, feed: Feed, stream: str, built: ParquetManifest, before: Sequence[date]
) -> dict[str, list[Mapping[str, float]]]:
    """Null shares of earlier files by message type, oldest first."""
    usual: dict[str, list[Mapping[str, float]]] = {entry.message_type: [] for entry in built.files}
    for day in before:
        earlier = manifests.datasets(feed.name, stream, day)
        for entry in sorted(earlier.files if earlier else [], key=lambda entry: entry.hour, reverse=True):
            rates = usual.get(entry.message_type)
            if rates is not None and len(rates) < _HISTORY and entry.row_count >= _MIN_ROWS:
                try:
                    rates.append(_null_shares(pq.read_metadata(manifests.dataset_root / entry.path)))
                except (OSError, pa.ArrowException):
                    continue
    return {name: rates[::-1] for name, rates in usual.items()}


def _file_stats(
    root: Path,
    feed: Feed,
    stream: str,
    day: date,
    entry: FileEntry,
    built: ParquetManifest,
    usual: Sequence[Mapping[str, float]],
) -> FileStats:
    path = root / entry.path
    hour = built.hours.get(entry.hour)
    duplicates = hour.duplicate_seqs if hour else 0
    schema = feed.schema_of(entry.message_type)
    try:
        metadata = pq.read_metadata(path)
        size = path.stat().st_size
        columns = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        return FileStats(
            entry.path, feed.name, stream, entry.message_type, day, entry.hour, 0, 0, None, duplicates,
            schema_valid=False, problem=f"cannot be read: {error}",
        )  # fmt: skip
    shares = _null_shares(metadata)
    problem = ""
    if schema is None:
        problem = f"{feed.name} has no message type {entry.message_type}"
    elif not columns.remove_metadata().equals(arrow_schema(schema)):
        problem = f"its columns are not those of {schema.name} {schema.version}"
    elif metadata.num_rows != entry.row_count:
        problem = f"it has {metadata.num_rows:,} rows, the manifest says {entry.row_count:,}"
    required = {column.name for column in schema.columns if not column.nullable} if schema else set()
    raw_bytes = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return FileStats(
        path=entry.path,
        feed=feed.name,
        stream=stream,
        message_type=entry.message_type,
        date=day,
        hour=entry.hour,
        rows=metadata.num_rows,
        bytes=size,
        compression_ratio=round(Decimal(raw_bytes) / size, 4) if size and metadata.num_rows else None,
        duplicates=duplicates,
        schema_valid=not problem,
        null_shares=shares,
        null_violations=_violations(shares, metadata.num_rows, required, usual),
        problem=problem,
    )


def _violations(
    shares: Mapping[str, float], rows: int, required: set[str], usual: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    found = {}
    for column, share in shares.items():
        if column in required:
            found[column] = share
        elif share > MAX_NULL_SHARE and rows >= _MIN_ROWS and usual:
            before = sorted(rates.get(column, 0.0) for rates in usual)
            if before[len(before) // 2] <= MAX_NULL_SHARE:
                found[column] = share
    return {column: round(share, 4) for column, share in sorted(found.items())}


def _null_shares(metadata: pq.FileMetaData) -> dict[str, float]:
    """Share of nulls of each flat column that has any; lists and their members are left out."""
    nulls: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            statistics = chunk.statistics
            if "." not in chunk.path_in_schema and statistics is not None and statistics.has_null_count:
                nulls[chunk.path_in_schema] = nulls.get(chunk.path_in_schema, 0) + statistics.null_count
    return {name: count / metadata.num_rows for name, count in nulls.items() if count}


def hours_of(files: Sequence[FileStats]) -> dict[str, list[FileStats]]:
    """Files by hour, `HH00`."""
    found: dict[str, list[FileStats]] = {hour: [] for hour in HOURS}
    for one in files:
        found.setdefault(one.hour, []).append(one)
    return found
