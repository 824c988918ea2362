"""What should lie in the object store: every file that a manifest names, then the manifest, at last the catalog."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssmd_core.archive.manifest import load_manifest
from ssmd_core.datasets.catalog import CATALOG, load_catalog
from ssmd_core.datasets.manifest import load_parquet_manifest
from ssmd_core.errors import ArchiveError, ConfigError
from ssmd_core.storage.layout import CATALOG_NAME, Day, Kind, is_day, is_rejects_file

_JSON = "application/json"
_GZIP = "application/gzip"


class Item(NamedTuple):
    """One object that should be there.

    Attributes:
        path: its name, and its place below the data folder.
        sha256, size_bytes: by the manifest.
        content: what to upload, where it is not the file: the bytes of a manifest as they were planned, so that it
            names nothing that came after.
        final: whether it may never change: an archive file once sealed.
    """

    path: str
    sha256: str
    size_bytes: int
    content_type: str
    content: bytes | None = None
    final: bool = False

    @property
    def attributes(self) -> dict[str, str]:
        """Metadata of the object."""
        folder, _, name = self.path.rpartition("/")
        day = folder.rpartition("/")[2]
        shown = f"{day}-{name}" if is_day(day) else name
        return {
            "Content-Type": self.content_type,
            "Content-Disposition": f'attachment; filename="{shown}"',
            "sha256": self.sha256,
        }


class DayPlan(NamedTuple):
    """A day's folder: its files, and its manifest that goes last."""

    day: Day
    files: tuple[Item, ...]
    manifest: Item


def find_days(data: Path, streams: Sequence[str]) -> list[Day]:
    """Days with a manifest, of all streams or of those named `FEED/STREAM`; the archive's before the datasets'.

    Raises:
        ConfigError: a stream that has none.
    """
    found = []
    for kind in Kind:
        for path in sorted((data / kind).glob(f"*/*/*/{kind.manifest}")):
            day = Day(kind, *path.parent.parts[-3:])
            if is_day(day.date):
                found.append(day)
    there = {f"{day.feed}/{day.stream}" for day in found}
    if missing := [name for name in streams if name not in there]:
        raise ConfigError(f"nothing of {', '.join(missing)} is there; there are: {', '.join(sorted(there)) or 'none'}")
    return [day for day in found if not streams or f"{day.feed}/{day.stream}" in streams]


def plan_day(data: Path, day: Day) -> DayPlan:
    """The objects of one day, as its manifest says now.

    Raises:
        ArchiveError: the manifest is damaged, or names what cannot be a file of that day.
    """
    folder = data / day.folder
    content = (folder / day.kind.manifest).read_bytes()
    files = _raw_files(folder, day) if day.kind is Kind.RAW else _dataset_files(folder, day)
    return DayPlan(day, files, _document(day.manifest, content))


def plan_catalog(data: Path) -> Item | None:
    """The catalog as it is now; None if there is none.

    Raises:
        ArchiveError: it is damaged.
    """
    root = data / Kind.PARQUET
    if load_catalog(root) is None:
        return None
    return _document(CATALOG_NAME, (root / CATALOG).read_bytes())


def _document(path: str, content: bytes) -> Item:
    return Item(path, hashlib.sha256(content).hexdigest(), len(content), _JSON, content)


def _raw_files(folder: Path, day: Day) -> tuple[Item, ...]:
    manifest = load_manifest(folder)
    if manifest is None:
        raise ArchiveError(f"{folder}: the manifest has gone")
    return tuple(
        Item(day.file(entry.name), entry.sha256, entry.bytes, day.kind.content_type, final=True)
        for entry in manifest.files
    )


def _dataset_files(folder: Path, day: Day) -> tuple[Item, ...]:
    manifest = load_parquet_manifest(folder)
    if manifest is None:
        raise ArchiveError(f"{folder}: the manifest has gone")
    items = []
    for entry in manifest.files:
        path = day.file(entry.path.rpartition("/")[2])
        if path != f"{day.kind}/{entry.path}":
            raise ArchiveError(f"{folder}: the manifest names {entry.path!r}, which lies elsewhere")
        items.append(Item(path, entry.sha256, entry.bytes, day.kind.content_type))
    for hour in manifest.hours.values():
        if hour.rejects_file is None:
            continue
        name = hour.rejects_file.rpartition("/")[2]
        if not is_rejects_file(name):
            raise ArchiveError(f"{folder}: the manifest names {hour.rejects_file!r} as a rejects file")
        # The manifest has no hash of it: what is there now is what has to arrive.
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            items.append(Item(f"{day.folder}/{name}", digest, file.tell(), _GZIP))
    return tuple(items)
