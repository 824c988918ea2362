"""One file of the data folder, served to whoever has a signed URL.

What is served is what was signed: the file's content is hashed once per state of the file, and a URL whose SHA-256 is
not that of the content is answered 410, so that a download that is resumed never mixes two builds.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections import OrderedDict
from datetime import UTC, date, datetime
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from starlette.responses import Response, StreamingResponse

from ssmd_api.auth.access import Principal, Scope
from ssmd_api.auth.audit import record
from ssmd_api.auth.authenticator import principal_of
from ssmd_api.errors import ApiError, ForbiddenError, NotFoundError
from ssmd_api.files.content import content_response
from ssmd_api.files.holdings import Holdings
from ssmd_api.files.proofs import named_sha256
from ssmd_api.files.signing import Grant, check
from ssmd_core.storage.layout import Kind, StoredFile, parse_path

if TYPE_CHECKING:
    from ssmd_api.changes import Generation
    from ssmd_api.routing import Call
    from ssmd_api.services import Services

_MAX_KEPT = 10_000
# The rest of the process's threads are for others.
_HASHED_AT_ONCE = 2
_OWNER = (
    "SELECT key_prefix, user_id, user_email, scopes, rate_limit_tier, allowed_feeds, date_range_start, "
    "date_range_end, expires_at FROM api_keys WHERE key_prefix = %s AND revoked_at IS NULL"
)


class GoneError(ApiError):
    """What was signed is not there any more."""

    status, code = 410, "gone"


class SignedQuery(msgspec.Struct):
    """Parameters of a signed URL.

    Attributes:
        key: id of the key that signed it.
        expires: epoch seconds.
        for_: public part of the API key that it was made for.
        sha256: of the content.
        signature: over all of this, path and host.
    """

    key: str
    expires: int
    for_: str = msgspec.field(name="for")
    sha256: str
    signature: str


class _State(NamedTuple):
    """What changes when a file's content does."""

    device: int
    inode: int
    mtime_ns: int
    size: int


class Server:
    """Serves files; remembers what it has hashed and whose access it has written down."""

    def __init__(self, data: Path, holdings: Holdings) -> None:
        self._data = data
        self._holdings = holdings
        self._hashes: OrderedDict[_State, str] = OrderedDict()
        self._hashing: dict[_State, asyncio.Task[str]] = {}
        self._gate = asyncio.Semaphore(_HASHED_AT_ONCE)
        self._recorded: OrderedDict[str, None] = OrderedDict()
        self._owners: dict[str, tuple[Principal, Generation]] = {}

    async def serve(self, call: Call, query: SignedQuery) -> Response:
        """The file, a part of it, or that the client has it already.

        Raises:
            ForbiddenError: the URL is not one of ours, its time is over, or its API key does not reach so far any more.
            NotFoundError: no such file is offered.
            GoneError: it has other content than was signed.
        """
        request, path = call.request, call.path["path"]
        grant = Grant(request.headers.get("host", ""), path, query.expires, query.for_, query.sha256)
        check(grant, query.key, query.signature, call.services.files.keys(), datetime.fromtimestamp(time.time(), UTC))
        stored = parse_path(path)
        if stored is None:
            raise NotFoundError("no such file")
        await self._admit(call, query.for_, stored)
        listed = await self._listed(stored)
        if listed is None:
            raise NotFoundError("no such file")
        file = await asyncio.to_thread(_open, self._data, stored)
        if file is None:
            raise GoneError("this file is not there any more; ask for a new URL")
        try:
            digest = await self._digest(file)
            if digest != query.sha256 or digest != listed:
                raise GoneError("this file has changed since its URL was made; ask for a new one")
            response = content_response(request, file, stored, digest)
            if response.status_code in {200, 206} and request.method != "HEAD":
                await self._record(call, query.signature, stored)
        except BaseException:
            file.close()
            raise
        if not isinstance(response, StreamingResponse):
            file.close()
        return response

    async def _admit(self, call: Call, key_prefix: str, stored: StoredFile) -> None:
        """Refuse what the key, as it is now, does not reach; the call is from here on in its name."""
        principal = await self._owner(call.services, key_prefix)
        if principal is None:
            raise ForbiddenError("the API key of this URL has been revoked, or has expired")
        principal.check_scope(Scope.DATASETS_READ)
        principal.check_feed(stored.day.feed)
        first, last = principal.first_day, principal.last_day
        if stored.day.date:  # a chain is of all days
            first = last = date.fromisoformat(stored.day.date)
            principal.check_days(first, last)
        call.found_principal = principal
        call.request.scope["state"]["key_prefix"] = principal.key_prefix
        call.feeds, call.first_day, call.last_day = (stored.day.feed,), first, last

    async def _owner(self, services: Services, key_prefix: str) -> Principal | None:
        generation = services.changes.generation(("api_keys",))
        kept = self._owners.get(key_prefix)
        if kept is not None and kept[1] == generation:
            principal = kept[0]
        else:
            rows = await services.rows(_OWNER, (key_prefix,))
            if not rows:
                return None
            principal = principal_of(rows[0])
            if generation is not None:
                if len(self._owners) >= _MAX_KEPT:
                    self._owners.clear()
                self._owners[key_prefix] = principal, generation
        if principal.expires_at is not None and principal.expires_at <= services.now:
            return None
        return principal

    async def _listed(self, stored: StoredFile) -> str | None:
        """The SHA-256 that the manifest or the ledger gives for the file; None if none names it."""
        day, name = stored
        if day.kind in {Kind.PROOF, Kind.BACKFILL}:
            return await named_sha256(self._holdings, stored)
        if day.kind is Kind.RAW:
            raw = await self._holdings.raw(day.feed, day.stream, day.date)
            entry = raw.file(name) if raw else None
            return entry.sha256 if entry else None
        parquet = await self._holdings.parquet(day.feed, day.stream, day.date)
        wanted = f"{day.feed}/{day.stream}/{day.date}/{name}"
        return next((file.sha256 for file in (parquet.files if parquet else []) if file.path == wanted), None)

    async def _digest(self, file: FileIO) -> str:
        """SHA-256 of the open file; read once for each state of it, however many ask meanwhile."""
        state = _state(file.fileno())
        if (kept := self._hashes.get(state)) is not None:
            return kept
        if (task := self._hashing.get(state)) is None:
            # A descriptor of its own: a request that is given up closes its file.
            task = self._hashing[state] = asyncio.create_task(self._hash(os.dup(file.fileno()), state))
            task.add_done_callback(lambda _: self._hashing.pop(state, None))
        return await asyncio.shield(task)

    async def _hash(self, descriptor: int, state: _State) -> str:
        try:
            async with self._gate:
                digest = await asyncio.to_thread(_sha256, descriptor)
            if _state(descriptor) == state:
                self._hashes[state] = digest
                while len(self._hashes) > _MAX_KEPT:
                    self._hashes.popitem(last=False)
            return digest
        finally:
            os.close(descriptor)

    async def _record(self, call: Call, signature: str, stored: StoredFile) -> None:
        """Write the access down, once for each URL: a reader of parquet asks for many ranges of one file."""
        if signature in self._recorded:
            return
        await record(call, stored.day.feed, message_type=stored.type, files=1)
        self._recorded[signature] = None
        while len(self._recorded) > _MAX_KEPT:
            self._recorded.popitem(last=False)


def _open(data: Path, stored: StoredFile) -> FileIO | None:
    """The file, opened; None if it is not there, or not a plain file below its tree."""
    tree = data / stored.day.kind
    try:
        root = tree.resolve(strict=True)
        target = (data / stored.day.folder / stored.name).resolve(strict=True)
        # The tree itself may be a link to where an operator keeps it; what lies in it may not lead out.
        if not target.is_relative_to(root):
            return None
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    file = FileIO(descriptor, closefd=True)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return file
    file.close()
    return None


def _state(descriptor: int) -> _State:
    found = os.fstat(descriptor)
    return _State(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _sha256(descriptor: int) -> str:
    digest, offset = hashlib.sha256(), 0
    while part := os.pread(descriptor, 1024 * 1024, offset):
        digest.update(part)
        offset += len(part)
    return digest.hexdigest()
