"""Check parquet files against their manifests and sources, and that a rebuild gives the same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec

from ssmd_core import feeds
from ssmd_core.archive.paths import parse_hour
from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.catalog import CATALOG, Catalog, list_catalog, load_catalog
from ssmd_core.datasets.manifest import PARQUET_MANIFEST, ParquetManifest, load_parquet_manifest
from ssmd_core.datasets.order import file_sha256
from ssmd_core.datasets.report import HourReport
from ssmd_core.errors import SsmdError
from ssmd_core.feeds.base import Feed


@dataclass
class DatasetCheck:
    """What verification saw.

    Attributes:
        hours: hours built again.
        files: parquet and reject files compared.
        problems: what does not hold, each naming the file.
    """

    hours: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: DatasetCheck) -> None:
        """Take in what was seen elsewhere."""
        self.hours += other.hours
        self.files += other.files
        self.problems += other.problems


#: Builds an hour: archive root, dataset root, feed, stream, hour.
Build = Callable[[Path, Path, Feed, str, datetime], HourReport]


def verify_datasets(dataset_root: Path, archive_root: Path, build: Build = build_hour) -> DatasetCheck:
    """Build every hour again from the archive into a temporary folder and compare byte for byte.

    Args:
        build: what builds an hour; one that looks at more than the datasets while it does.
    """
    check = DatasetCheck()
    for manifest_path in sorted(dataset_root.rglob(PARQUET_MANIFEST)):
        folder = manifest_path.parent
        try:
            _verify_day(folder, dataset_root, archive_root, check, build)
        except SsmdError as error:
            check.problems.append(f"{folder}: {error}")
    try:
        catalog = load_catalog(dataset_root)
        if catalog is None or _derived(catalog) != _derived(list_catalog(dataset_root)):
            check.problems.append(f"{dataset_root / CATALOG}: does not list what is there")
    except SsmdError as error:
        check.problems.append(str(error))
    return check


def _verify_day(folder: Path, dataset_root: Path, archive_root: Path, check: DatasetCheck, build: Build) -> None:
    manifest = load_parquet_manifest(folder)
    if manifest is None:
        return
    expected: set[str] = {PARQUET_MANIFEST}
    with tempfile.TemporaryDirectory(prefix="ssmd-verify-") as temporary:
        for hour in sorted(manifest.hours):
            report = build(
                archive_root,
                Path(temporary),
                feeds.get(manifest.feed),
                manifest.stream,
                parse_hour(f"{manifest.date}-{hour[:2]}:00"),
            )
            check.hours += 1
            if not report.balanced:
                check.problems.append(f"{folder}: hour {hour}: {report.messages} messages are not all accounted for")
            expected |= _compare_files(report, dataset_root, Path(temporary), check)
        rebuilt = load_parquet_manifest(Path(temporary) / folder.relative_to(dataset_root))
        if rebuilt is None or _derived(rebuilt) != _derived(manifest):
            check.problems.append(f"{folder / PARQUET_MANIFEST}: says something else than its sources give")
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name not in expected:
            check.problems.append(f"{path}: no source of the archive gives this file")


def _derived(document: ParquetManifest | Catalog) -> ParquetManifest | Catalog:
    """What of a document can be derived again."""
    return msgspec.structs.replace(document, generated_at="", sha256="")


def _compare_files(report: HourReport, dataset_root: Path, rebuilt_root: Path, check: DatasetCheck) -> set[str]:
    names = [output.path for output in report.outputs] + ([report.rejects_file] if report.rejects_file else [])
    for relative in names:
        stored = dataset_root / relative
        check.files += 1
        if not stored.is_file():
            check.problems.append(f"{stored}: the archive gives this file, but it is not there")
        elif file_sha256(stored) != file_sha256(rebuilt_root / relative):
            check.problems.append(f"{stored}: differs from what its sources give")
    return {Path(relative).name for relative in names}
