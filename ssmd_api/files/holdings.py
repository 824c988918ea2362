"""What the manifests and chains say there is: in the data folder, or in the object store where downloads come from.

Only what a manifest or a ledger names is offered; nothing names a backfill. What says so is read again when it has
changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from ssmd_api.errors import UnavailableError
from ssmd_core.archive.manifest import Manifest, load_manifest
from ssmd_core.datasets.catalog import Catalog, load_catalog
from ssmd_core.datasets.manifest import ParquetManifest, load_parquet_manifest
from ssmd_core.errors import ArchiveError
from ssmd_core.proof.chain import CHAIN, readable
from ssmd_core.proof.ledger import decode
from ssmd_core.storage.layout import CATALOG_NAME, Day, Kind, chain_file
from ssmd_core.storage.store import Storage, StorageError

log = structlog.get_logger()

_MAX_KEPT = 2_000
_MAX_BYTES = 32 * 1024 * 1024
_READ_AT_ONCE = 16
_T = TypeVar("_T")


class Chain(NamedTuple):
    """A stream's chain.

    Attributes:
        ledgers: SHA-256 of each hour's newest ledger.
    """

    sha256: str
    bytes: int
    ledgers: Mapping[str, str]


class LedgerFile(NamedTuple):
    """An hour's ledger.

    Attributes:
        outputs: SHA-256 of the files that it names.
    """

    sha256: str
    outputs: Mapping[str, str]


class BackfillFile(NamedTuple):
    """A file that nothing else tells of."""

    sha256: str
    bytes: int
    rows: int


class Listed(NamedTuple):
    """A file in a folder.

    Attributes:
        version: in an object store, see there.
    """

    bytes: int
    version: str


class Holdings:
    """Manifests, the catalog, chains and ledgers.

    Args:
        data: data folder.
        storage: where to read them instead; None for the data folder.
    """

    def __init__(self, data: Path, storage: Storage | None) -> None:
        self._data = data
        self._storage = storage
        self._kept: OrderedDict[str, tuple[str, Any]] = OrderedDict()
        self._gate = asyncio.Semaphore(_READ_AT_ONCE)

    async def catalog(self) -> Catalog | None:
        """The catalog, None if there is none.

        Raises:
            UnavailableError: it is damaged, or the store is away.
        """
        return await self._load(CATALOG_NAME, load_catalog)

    async def raw(self, feed: str, stream: str, date: str) -> Manifest | None:
        """The manifest of a day of the archive.

        Raises:
            UnavailableError: see `catalog`.
        """
        return await self._load(Day(Kind.RAW, feed, stream, date).manifest, load_manifest)

    async def parquet(self, feed: str, stream: str, date: str) -> ParquetManifest | None:
        """The manifest of a day of the datasets.

        Raises:
            UnavailableError: see `catalog`.
        """
        return await self._load(Day(Kind.PARQUET, feed, stream, date).manifest, load_parquet_manifest)

    async def chain(self, feed: str, stream: str) -> Chain | None:
        """A stream's chain; lines that cannot be read name nothing.

        Raises:
            UnavailableError: see `catalog`.
        """
        stored = chain_file(feed, stream)
        return await self._load(stored.day.file(stored.name), _load_chain)

    async def ledger(self, path: str, version: str = "") -> LedgerFile | None:
        """A ledger's file.

        Args:
            version: as `listed` has told it just now, which saves asking for it.

        Raises:
            UnavailableError: see `catalog`.
        """
        kept = self._kept.get(path) if version else None
        if kept is not None and kept[0] == version:
            return cast("LedgerFile | None", kept[1])
        return await self._load(path, lambda folder: _load_ledger(folder / path.rpartition("/")[2]))

    async def backfill(self, path: str) -> BackfillFile | None:
        """A backfill's file.

        Raises:
            UnavailableError: see `catalog`.
        """
        return await self._load(path, lambda folder: _load_backfill(folder / path.rpartition("/")[2]))

    async def listed(self, folder: str) -> dict[str, Listed]:
        """The files of a folder, by name.

        Raises:
            UnavailableError: the store is away.
        """
        try:
            return await asyncio.to_thread(self._listed, folder)
        except (StorageError, OSError) as error:
            log.error("folder_unreadable", path=folder, error=str(error))
            raise UnavailableError(f"{folder} cannot be read now") from error

    def _listed(self, folder: str) -> dict[str, Listed]:
        if self._storage is not None:
            found = self._storage.objects(folder)
            return {one.path.removeprefix(f"{folder}/"): Listed(one.size_bytes, one.version) for one in found}
        here = self._data / folder
        names = [path for path in here.iterdir() if not path.name.startswith(".")] if here.is_dir() else []
        return {path.name: Listed(path.stat().st_size, "") for path in names if path.is_file()}

    async def _load(self, path: str, load: Callable[[Path], _T | None]) -> _T | None:
        try:
            if self._storage is None:
                return await self._load_file(path, load)
            async with self._gate:
                return await self._load_object(self._storage, path, load)
        except (ArchiveError, StorageError, OSError) as error:
            log.error("manifest_unreadable", path=path, error=str(error))
            raise UnavailableError(f"{path} cannot be read now") from error

    async def _load_file(self, path: str, load: Callable[[Path], _T | None]) -> _T | None:
        file = self._data / path
        try:
            found = file.stat()
        except FileNotFoundError:
            return None
        version = f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"
        kept = self._kept.get(path)
        if kept is not None and kept[0] == version:
            return cast("_T", kept[1])
        document = await asyncio.to_thread(load, file.parent)
        self._keep(path, version, document)
        return document

    async def _load_object(self, storage: Storage, path: str, load: Callable[[Path], _T | None]) -> _T | None:
        kept = self._kept.get(path)
        got = await storage.read(path, known=kept[0] if kept else "", most_bytes=_MAX_BYTES)
        if got is None:
            return None
        if got == "same":
            assert kept is not None
            return cast("_T", kept[1])
        content, version = got
        name = path.rpartition("/")[2]
        document = await asyncio.to_thread(lambda: _load_bytes(name, content, load))
        self._keep(path, version, document)
        return document

    def _keep(self, path: str, version: str, document: object) -> None:
        self._kept[path] = version, document
        self._kept.move_to_end(path)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)


def _load_chain(folder: Path) -> Chain:
    content = (folder / CHAIN).read_bytes()
    # By the same bytes as the hash: the file may grow meanwhile.
    ledgers = {entry.hour: entry.ledger for entry in readable(content.split(b"\n")[:-1])}
    return Chain(hashlib.sha256(content).hexdigest(), len(content), ledgers)


def _load_ledger(path: Path) -> LedgerFile:
    content = path.read_bytes()
    return LedgerFile(hashlib.sha256(content).hexdigest(), decode(content, path.name).outputs)


def _load_backfill(path: Path) -> BackfillFile:
    content = path.read_bytes()
    try:
        rows = pq.read_metadata(pa.BufferReader(content)).num_rows
    except pa.ArrowException as error:
        raise ArchiveError(f"{path.name}: no parquet file: {error}") from error
    return BackfillFile(hashlib.sha256(content).hexdigest(), len(content), rows)


def _load_bytes(name: str, content: bytes, load: Callable[[Path], _T | None]) -> _T | None:
    """A document of the store, checked by what checks those of the disk, which reads files."""
    with tempfile.TemporaryDirectory(prefix="ssmd-manifest-") as folder:
        (Path(folder) / name).write_bytes(content)
        return load(Path(folder))
