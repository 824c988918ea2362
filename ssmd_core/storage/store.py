"""A port on object stores: a local folder, Google Cloud Storage, S3, memory. Nothing here deletes.

All of it is obstore's work; what is added is one kind of error, times within which an answer must come, and reading
back with a digest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import GCSStore, LocalStore, MemoryStore, S3Store, from_url

from ssmd_core.errors import ConfigError, SsmdError

if TYPE_CHECKING:
    from obstore import Attributes, ObjectMeta
    from obstore.store import ClientConfig, GCSConfig, ObjectStore, RetryConfig

SCHEMES = ("gs", "s3", "file", "memory")
# Parts of 8 MB, two at a time: eight files together take 128 MB, whatever their size.
PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 2
SIGNED_AT_ONCE = 16
_CONNECT_S = 5
_RETRIES = 5


class StorageError(SsmdError):
    """The object store cannot be reached, or refused; the text carries its reason."""


class Stored(NamedTuple):
    """An object as it is listed.

    Attributes:
        path: below the store's prefix.
        version: changes whenever the object's content may have: its ETag, without quotes.
    """

    path: str
    size_bytes: int
    version: str


class Digest(NamedTuple):
    """An object that has been read to its end.

    Attributes:
        stated_sha256: what its metadata says; "" if nothing, as always in a local folder.
    """

    sha256: str
    size_bytes: int
    version: str
    stated_sha256: str


class Storage:
    """Objects below one prefix.

    Attributes:
        url: for people and logs; holds no secret.
        signs: whether it can sign URLs.
    """

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self.url = url
        self.signs = isinstance(store, (GCSStore, S3Store))

    @classmethod
    def open(
        cls, url: str, environment: Mapping[str, str], *, timeout_s: float = 600.0, retry_s: float = 180.0
    ) -> Storage:
        """The store at a URL: `gs://bucket/prefix`, `s3://bucket/prefix`, `file:///folder`, `memory://`, or a folder.

        Args:
            environment: of `GOOGLE_APPLICATION_CREDENTIALS` (a service account's key file; without it the instance's
                metadata are asked) and `STORAGE_EMULATOR_HOST`; S3's own variables are read from the process.
            timeout_s: for one request with its whole body.
            retry_s: how long one request is repeated.

        Raises:
            ConfigError: no such store.
        """
        try:
            store = _open(url, environment, timeout_s, retry_s)
            # A folder is named in full: what is remembered of it must not hold for another.
            return cls(store, f"file://{store.prefix}" if isinstance(store, LocalStore) else url)
        except (BaseError, ValueError, OSError) as error:
            raise ConfigError(f"storage {url!r} cannot be used: {_reason(error)}") from error

    def objects(self, folder: str) -> Iterator[Stored]:
        """All objects below a folder, in no order.

        Raises:
            StorageError: see there.
        """
        with _errors(f"{self.url}/{folder}"):
            for page in obstore.list(self._store, folder):
                for meta in page:
                    yield Stored(meta["path"], meta["size"], _version(meta))

    def head(self, path: str) -> Stored | None:
        """One object as it is listed; None if there is none.

        Raises:
            StorageError: see there.
        """
        with _errors(f"{self.url}/{path}"):
            try:
                meta = obstore.head(self._store, path)
            except FileNotFoundError:
                return None
            return Stored(path, meta["size"], _version(meta))

    def put(self, path: str, content: Path | bytes, attributes: Mapping[str, str]) -> None:
        """Write one object whole: a reader sees the one before or the new one, never a part.

        Args:
            attributes: metadata; a local folder has no place for them.

        Raises:
            StorageError: see there.
        """
        given: Attributes | None = None if isinstance(self._store, (LocalStore, MemoryStore)) else dict(attributes)
        with _errors(f"{self.url}/{path}"):
            obstore.put(
                self._store, path, content, attributes=given, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
            )

    def digest(self, path: str) -> Digest | None:
        """Read an object to its end; None if there is none.

        Raises:
            StorageError: see there.
        """
        with _errors(f"{self.url}/{path}"):
            try:
                got = obstore.get(self._store, path)
            except FileNotFoundError:
                return None
            found, size = hashlib.sha256(), 0
            for part in got.stream(min_chunk_size=1024 * 1024):
                found.update(part)
                size += len(part)
            stated = {name.lower(): value for name, value in got.attributes.items()}.get("sha256", "")
            return Digest(found.hexdigest(), size, _version(got.meta), stated)

    async def read(self, path: str, *, known: str = "", most_bytes: int) -> tuple[bytes, str] | Literal["same"] | None:
        """A small object and its version; "same" if it is still of the known version, None if there is none.

        Raises:
            StorageError: see there; or it has more than `most_bytes`.
        """
        with _errors(f"{self.url}/{path}"):
            try:
                meta = await obstore.head_async(self._store, path)
                if known and _version(meta) == known:
                    return "same"
                if meta["size"] > most_bytes:
                    raise StorageError(f"{self.url}/{path} has {meta['size']} bytes, {most_bytes} is the most")
                got = await obstore.get_async(self._store, path)
                return bytes(await got.bytes_async()), _version(got.meta)
            except FileNotFoundError:
                return None

    async def sign(self, paths: Sequence[str], expires_in: timedelta) -> list[str]:
        """URLs with which anybody may GET the objects for that time; key files sign without a request.

        Raises:
            StorageError: see there; or this kind of store has no signed URLs.
        """
        store = self._store
        if not isinstance(store, (GCSStore, S3Store)):
            raise StorageError(f"{self.url} has no signed URLs")
        gate = asyncio.Semaphore(SIGNED_AT_ONCE)

        async def one(path: str) -> str:
            async with gate:
                return await obstore.sign_async(store, "GET", path, expires_in)

        with _errors(self.url):
            return list(await asyncio.gather(*map(one, paths)))


def _open(url: str, environment: Mapping[str, str], timeout_s: float, retry_s: float) -> ObjectStore:
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme == "memory":
        return MemoryStore()
    if scheme in {"", "file"}:
        folder = Path(urlsplit(url).path if scheme else url)
        if not url or (scheme and not folder.is_absolute()):
            raise ConfigError(f"storage {url!r} names no folder; file:///folder does")
        folder.mkdir(parents=True, exist_ok=True)
        return LocalStore(folder.absolute())
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=_CONNECT_S),
        "timeout": timedelta(seconds=timeout_s),
    }
    retry: RetryConfig = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=retry_s)}
    if scheme == "gs":
        config: GCSConfig = {}
        if key_file := environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
            config["application_credentials"] = key_file
        if emulator := environment.get("STORAGE_EMULATOR_HOST"):
            config["base_url"] = emulator if "://" in emulator else f"http://{emulator}"
            client["allow_http"] = True
        return GCSStore.from_url(url, config=config, client_options=client, retry_config=retry)
    if scheme == "s3":
        return from_url(url, client_options=client, retry_config=retry)
    raise ConfigError(f"storage {url!r}: {scheme!r} is none of {', '.join(SCHEMES)}")


def _version(meta: ObjectMeta) -> str:
    # GCS quotes the ETag in an answer, and not in a listing.
    return (meta["e_tag"] or "").strip('"')


def _reason(error: BaseException) -> str:
    """The first line: the rest is a dump of the request."""
    return str(error).split("\n", 1)[0].strip() or type(error).__name__


@contextmanager
def _errors(what: str) -> Iterator[Any]:
    try:
        yield
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        raise StorageError(f"{what}: {_reason(error)}") from error
