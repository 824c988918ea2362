"""`parquet-manifest.json`: what a day's folder of datasets holds, and the sums of each hour."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.datasets.report import HourReport
from ssmd_core.feeds.base import Feed
from ssmd_core.sealed_json import load_sealed, save_sealed

PARQUET_MANIFEST = "parquet-manifest.json"
VERSION = "3.0.0"
_LOCK = ".lock"


class FileEntry(msgspec.Struct):
    """One parquet file.

    Attributes:
        path: relative to the dataset root.
        hour: `HH00`.
        message_type, bytes, row_count, sha256, schema_name, schema_version: see `report.OutputFile`.
    """

    path: str
    message_type: str
    hour: str
    bytes: int
    row_count: int
    sha256: str
    schema_name: str
    schema_version: str


class Stats(msgspec.Struct):
    """Sums of an hour or a day.

    Attributes:
        files_read: archive files.
        messages, accepted, rejects, no_schema, duplicate_seqs, missing_seqs: see `report.HourReport`.
        records_written: rows by type.
        rejects_file: path relative to the dataset root.
        sources: archive files with their hashes.
    """

    files_read: int = 0
    messages: int = 0
    accepted: dict[str, int] = {}
    rejects: dict[str, int] = {}
    no_schema: dict[str, int] = {}
    records_written: dict[str, int] = {}
    duplicate_seqs: int = 0
    missing_seqs: int = 0
    rejects_file: str | None = None
    sources: dict[str, str] = {}


class ParquetManifest(msgspec.Struct):
    """A day's folder.

    Attributes:
        hours: by `HH00`.
        totals: of the day; without sources and rejects_file.
        files: by path, sorted.
        schemas: by message type: name, version and columns.
        sha256: of the file with this member empty.
    """

    feed: str
    stream: str
    date: str
    generated_at: str = ""
    version: str = VERSION
    hours: dict[str, Stats] = {}
    totals: Stats = msgspec.field(default_factory=Stats)
    files: list[FileEntry] = []
    schemas: dict[str, dict[str, Any]] = {}
    sha256: str = ""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: hours of one day may be built by several processes."""
    with (folder / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load_parquet_manifest(folder: Path) -> ParquetManifest | None:
    """The folder's manifest, None if there is none.

    Raises:
        ArchiveError: it cannot be read as one, or its content is not what was written.
    """
    return load_sealed(folder / PARQUET_MANIFEST, ParquetManifest)


def update_manifest(folder: Path, feed: Feed, report: HourReport, date: str, hour: str) -> None:
    """Replace what the manifest says of one hour; hold the folder's lock."""
    manifest = load_parquet_manifest(folder) or ParquetManifest(feed.name, report.stream, date)
    manifest.version = VERSION
    manifest.generated_at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    manifest.hours[hour] = Stats(
        files_read=len(report.sources),
        messages=report.messages,
        accepted=report.accepted,
        rejects=report.rejects,
        no_schema=report.no_schema,
        records_written=report.rows,
        duplicate_seqs=report.duplicate_seqs,
        missing_seqs=sum(missing for _, missing in report.seq_gaps),
        rejects_file=report.rejects_file,
        sources={source.name: source.sha256 for source in report.sources},
    )
    manifest.hours = dict(sorted(manifest.hours.items()))
    manifest.totals = _total(list(manifest.hours.values()))
    new = [
        FileEntry(
            path=output.path,
            message_type=output.message_type,
            hour=hour,
            bytes=output.bytes,
            row_count=output.rows,
            sha256=output.sha256,
            schema_name=output.schema_name,
            schema_version=output.schema_version,
        )
        for output in report.outputs
    ]
    kept = [entry for entry in manifest.files if entry.hour != hour]
    manifest.files = sorted([*kept, *new], key=lambda entry: entry.path)
    for entry in new:
        manifest.schemas[entry.message_type] = _schema_entry(feed, entry.message_type)
    present = {entry.message_type for entry in manifest.files}
    manifest.schemas = {name: schema for name, schema in sorted(manifest.schemas.items()) if name in present}
    save_sealed(folder / PARQUET_MANIFEST, manifest)


def _schema_entry(feed: Feed, message_type: str) -> dict[str, Any]:
    schema = feed.schema_of(message_type)
    assert schema is not None
    columns = [
        {"name": field.name, "arrow_type": str(field.type), "nullable": field.nullable}
        for field in arrow_schema(schema)
    ]
    return {"schema_name": schema.name, "schema_version": schema.version, "columns": columns}


def _total(hours: list[Stats]) -> Stats:
    return Stats(
        files_read=sum(hour.files_read for hour in hours),
        messages=sum(hour.messages for hour in hours),
        accepted=_merged(hour.accepted for hour in hours),
        rejects=_merged(hour.rejects for hour in hours),
        no_schema=_merged(hour.no_schema for hour in hours),
        records_written=_merged(hour.records_written for hour in hours),
        duplicate_seqs=sum(hour.duplicate_seqs for hour in hours),
        missing_seqs=sum(hour.missing_seqs for hour in hours),
    )


def _merged(counts: Iterator[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))
