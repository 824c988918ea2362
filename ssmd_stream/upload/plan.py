"""What should lie in the object store: every file that a manifest names, then the manifest; every file that a ledger
names, then the ledger, then the chain that names it; backfills; at last the catalog.

Of a proof all is taken that its ledger names, the rule's state at the hour's end too: without it nobody could derive
the next hour again from a copy, and `ssmd verify` would miss it. It is small, some kilobytes an hour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssmd_core.archive.manifest import load_manifest
from ssmd_core.datasets.catalog import CATALOG, load_catalog
from ssmd_core.datasets.manifest import load_parquet_manifest
from ssmd_core.errors import ArchiveError, ConfigError
from ssmd_core.proof.chain import CHAIN, Entry, chain_path, parse_entry, writing
from ssmd_core.proof.ledger import decode, parse_hour_id, proof_file
from ssmd_core.storage.layout import (
    CATALOG_NAME,
    MANIFESTS,
    Day,
    Kind,
    chain_file,
    content_type,
    is_data_file,
    is_day,
    is_rejects_file,
)


class Item(NamedTuple):
    """One object that should be there.

    Attributes:
        path: its name, and its place below the data folder.
        sha256, size_bytes: by the manifest, or the ledger.
        content: what to upload, where it is not the file: the bytes of a manifest, a ledger or a chain as they were
            planned, so that it names nothing that came after.
        final: whether it may never change: an archive file once sealed.
        grows: whether every state of it begins with the one before: a chain.
    """

    path: str
    sha256: str
    size_bytes: int
    content: bytes | None = None
    final: bool = False
    grows: bool = False

    @property
    def attributes(self) -> dict[str, str]:
        """Metadata of the object."""
        folder, _, name = self.path.rpartition("/")
        day = folder.rpartition("/")[2]
        shown = f"{day}-{name}" if is_day(day) else name
        return {
            "Content-Type": content_type(self.path),
            "Content-Disposition": f'attachment; filename="{shown}"',
            "sha256": self.sha256,
        }


class DayPlan(NamedTuple):
    """A day's folder: its files, and what names them and goes last: the manifest, or ledgers; nothing of a backfill."""

    day: Day
    files: tuple[Item, ...]
    naming: tuple[Item, ...]


class ProofPlan(NamedTuple):
    """A stream's proof.

    Attributes:
        chain: goes after all days.
        problems: hours whose ledger is not what the chain says.
    """

    days: tuple[DayPlan, ...]
    chain: Item
    problems: tuple[str, ...]


def find_days(data: Path, streams: Sequence[str]) -> list[Day]:
    """Days with a manifest, of all streams or of those named `FEED/STREAM`, the archive's before the datasets'; then
    those of backfills.

    Raises:
        ConfigError: a stream that has none.
    """
    found = []
    for kind, manifest in MANIFESTS.items():
        for path in sorted((data / kind).glob(f"*/*/*/{manifest}")):
            day = Day(kind, *path.parent.parts[-3:])
            if is_day(day.date):
                found.append(day)
    for path in sorted((data / Kind.BACKFILL).glob("*/*/*/")):
        day = Day(Kind.BACKFILL, *path.parts[-3:])
        if is_day(day.date):
            found.append(day)
    there = {f"{day.feed}/{day.stream}" for day in found}
    if missing := [name for name in streams if name not in there]:
        raise ConfigError(f"nothing of {', '.join(missing)} is there; there are: {', '.join(sorted(there)) or 'none'}")
    return [day for day in found if not streams or f"{day.feed}/{day.stream}" in streams]


def find_proofs(data: Path, streams: Sequence[str]) -> list[tuple[str, str]]:
    """Feed and stream of every proof, of all streams or of those named."""
    root = data / Kind.PROOF
    found = {path.parent.parts[-2:] for path in root.glob(f"*/*/{CHAIN}")}
    found |= {path.parts[-4:-2] for path in root.glob("*/*/*/ledger_*.json")}
    return sorted((feed, stream) for feed, stream in found if not streams or f"{feed}/{stream}" in streams)


def plan_proof(data: Path, feed: str, stream: str) -> ProofPlan:
    """The objects of a stream's proof, as its chain says now; no hour is proved meanwhile.

    Raises:
        ArchiveError: a line of the chain is damaged.
        OSError: the chain is not there.
    """
    root = data / Kind.PROOF
    with writing(root, feed, stream):
        whole = chain_path(root, feed, stream).read_bytes().rpartition(b"\n")
        content = whole[0] + whole[1]  # a torn last line never was one
        entries = [parse_entry(line) for line in whole[0].split(b"\n")] if whole[1] else []
        days: dict[str, tuple[list[Item], list[Item]]] = {}
        problems = []
        for hour, entry in sorted({entry.hour: entry for entry in entries}.items()):
            try:
                day, files, ledger = _proved_hour(data, feed, stream, hour, entry)
            except (ArchiveError, OSError) as error:
                problems.append(str(error))
                continue
            of_day = days.setdefault(day.date, ([], []))
            of_day[0].extend(files)
            of_day[1].append(ledger)
    chain = chain_file(feed, stream)
    return ProofPlan(
        tuple(
            DayPlan(Day(Kind.PROOF, feed, stream, date), tuple(files), tuple(ledgers))
            for date, (files, ledgers) in days.items()
        ),
        _document(chain.day.file(chain.name), content)._replace(grows=True),
        tuple(problems),
    )


def _proved_hour(data: Path, feed: str, stream: str, hour: str, entry: Entry) -> tuple[Day, list[Item], Item]:
    """The day, the files that the hour's ledger names, and the ledger."""
    try:
        start = parse_hour_id(hour)
    except ValueError as error:
        raise ArchiveError(f"the chain names {error}") from error
    path = proof_file(data / Kind.PROOF, feed, stream, start, "ledger")
    day = Day(Kind.PROOF, feed, stream, hour[:10])
    ledger = _document(day.file(path.name), path.read_bytes())
    if ledger.sha256 != entry.ledger:
        raise ArchiveError(f"{ledger.path}: its hash is {ledger.sha256}, the chain says {entry.ledger}")
    assert ledger.content is not None
    files = []
    for name, sha256 in sorted(decode(ledger.content, str(path)).outputs.items()):
        # The datasets that it names have their own manifest.
        if name.startswith(f"{Kind.PROOF}/"):
            if name != day.file(name.rpartition("/")[2]):
                raise ArchiveError(f"{ledger.path}: names {name!r}, which lies elsewhere")
            there = data / name
            files.append(Item(name, sha256, there.stat().st_size if there.exists() else 0))
    return day, files, ledger


def plan_day(data: Path, day: Day) -> DayPlan:
    """The objects of one day, as its manifest says now; of a backfill what is there now.

    Raises:
        ArchiveError: the manifest is damaged, or names what cannot be a file of that day.
    """
    folder = data / day.folder
    if day.kind is Kind.BACKFILL:
        names = sorted(path.name for path in folder.iterdir() if is_data_file(day.kind, path.name))
        return DayPlan(day, tuple(_file_as_it_is(folder, day, name) for name in names), ())
    content = (folder / MANIFESTS[day.kind]).read_bytes()
    files = _raw_files(folder, day) if day.kind is Kind.RAW else _dataset_files(folder, day)
    return DayPlan(day, files, (_document(day.manifest, content),))


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
    return Item(path, hashlib.sha256(content).hexdigest(), len(content), content)


def _raw_files(folder: Path, day: Day) -> tuple[Item, ...]:
    manifest = load_manifest(folder)
    if manifest is None:
        raise ArchiveError(f"{folder}: the manifest has gone")
    return tuple(Item(day.file(entry.name), entry.sha256, entry.bytes, final=True) for entry in manifest.files)


def _dataset_files(folder: Path, day: Day) -> tuple[Item, ...]:
    manifest = load_parquet_manifest(folder)
    if manifest is None:
        raise ArchiveError(f"{folder}: the manifest has gone")
    items = []
    for entry in manifest.files:
        path = day.file(entry.path.rpartition("/")[2])
        if path != f"{day.kind}/{entry.path}":
            raise ArchiveError(f"{folder}: the manifest names {entry.path!r}, which lies elsewhere")
        items.append(Item(path, entry.sha256, entry.bytes))
    for hour in manifest.hours.values():
        if hour.rejects_file is None:
            continue
        name = hour.rejects_file.rpartition("/")[2]
        if not is_rejects_file(name):
            raise ArchiveError(f"{folder}: the manifest names {hour.rejects_file!r} as a rejects file")
        items.append(_file_as_it_is(folder, day, name))  # the manifest has no hash of it
    return tuple(items)


def _file_as_it_is(folder: Path, day: Day, name: str) -> Item:
    """A file that nothing gives a hash of: what is there now is what has to arrive."""
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Item(f"{day.folder}/{name}", digest, file.tell())
