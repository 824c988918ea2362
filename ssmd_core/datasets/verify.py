"""Check parquet files against their manifests and sources, and that a rebuild gives the same bytes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ssmd_core import feeds
from ssmd_core.archive.paths import parse_hour
from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.manifest import PARQUET_MANIFEST, load_parquet_manifest
from ssmd_core.datasets.order import file_sha256
from ssmd_core.datasets.report import HourReport
from ssmd_core.errors import SsmdError


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


def verify_datasets(dataset_root: Path, archive_root: Path, below: Path | None = None) -> DatasetCheck:
    """Build every hour again from the archive into a temporary folder and compare byte for byte.

    Args:
        below: only days at or below this folder; default all.
    """
    check = DatasetCheck()
    for manifest_path in sorted((below or dataset_root).rglob(PARQUET_MANIFEST)):
        folder = manifest_path.parent
        try:
            _verify_day(folder, dataset_root, archive_root, check)
        except SsmdError as error:
            check.problems.append(f"{folder}: {error}")
    return check


def _verify_day(folder: Path, dataset_root: Path, archive_root: Path, check: DatasetCheck) -> None:
    manifest = load_parquet_manifest(folder)
    if manifest is None:
        return
    expected: set[str] = {PARQUET_MANIFEST}
    with tempfile.TemporaryDirectory(prefix="ssmd-verify-") as temporary:
        for hour in sorted(manifest.hours):
            report = build_hour(
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
    stated = {Path(entry.path).name: entry for entry in manifest.files}
    for name, entry in stated.items():
        path = folder / name
        if not path.is_file():
            check.problems.append(f"{path}: in the manifest but not there")
        elif path.stat().st_size != entry.bytes:
            check.problems.append(f"{path}: {path.stat().st_size} bytes, the manifest says {entry.bytes}")
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name not in expected:
            check.problems.append(f"{path}: no source of the archive gives this file")


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
