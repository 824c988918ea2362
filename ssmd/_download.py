"""Downloads: resumed, checked against size and SHA-256, in place only when whole."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from ssmd._http import TIMEOUT_S, error_of, unreachable, wait_before_retry_s
from ssmd.errors import ApiError, ClientError, IntegrityError
from ssmd.files import CHAIN, File, place

if sys.platform != "win32":
    import fcntl

_MAX_ERROR_BYTES = 64 * 1024
_RENEWALS = 3
_RESTARTS = 2
_LOCK_EVERY_S = 0.1
#: How stores answer to a signed URL that has expired (Google with 400), or whose signing key was replaced.
_EXPIRED = frozenset({400, 401, 403, 410})
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", re.ASCII)

Renew = Callable[[File], File]


def download(files: Sequence[File], folder: Path, renew: Renew, *, parallel: int) -> list[Path]:
    """Download what is not there yet; gives the paths in the order of the files.

    Args:
        renew: gives a file as it is now, with a fresh URL.
        parallel: connections at a time.

    Raises:
        ApiError: a file was refused, or could not be had within the retries.
        IntegrityError: a file is not what the API says.
    """
    targets = [place(folder, file.path) for file in files]
    cancelled = threading.Event()
    # No key goes along: a signed URL may lead to any host.
    http = httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False, headers={"Accept-Encoding": "identity"})
    with http, ThreadPoolExecutor(parallel, thread_name_prefix="ssmd-download") as pool:
        transfers = [
            _Transfer(http, file, target, renew, cancelled) for file, target in zip(files, targets, strict=True)
        ]
        tasks = [pool.submit(transfer.run) for transfer in transfers]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            # The first to fail says why; the others only stopped because of it.
            for task in tasks:
                problem = None if task.cancelled() else task.exception()
                if problem is not None and not isinstance(problem, _CancelledError):
                    raise problem from None
            raise
    return targets


def is_whole(path: Path, file: File) -> bool:
    """Whether a file on disk is the one that the API tells of."""
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest() == file.sha256


class _CancelledError(ClientError):
    """Another file of the same call failed."""


class _RefusedError(Exception):
    """The store answered with an error."""

    def __init__(self, error: ApiError, response: httpx2.Response) -> None:
        super().__init__(str(error))
        self.error, self.response = error, response


class _Transfer:
    """One file on its way."""

    def __init__(self, http: httpx2.Client, file: File, target: Path, renew: Renew, cancelled: threading.Event) -> None:
        self._http, self._file, self._target = http, file, target
        self._renew, self._cancelled = renew, cancelled
        self._etag = ""
        self._renewals = self._restarts = 0
        self._attempt = 1

    @property
    def _part(self) -> Path:
        # The hash is in the name, so that the part of a file that was rebuilt meanwhile is not continued.
        return self._target.with_name(f".{self._target.name}.{self._file.sha256[:16]}.part")

    def run(self) -> None:
        """Bring it, unless it is there."""
        if is_whole(self._target, self._file):
            return
        if sys.platform == "win32":  # which has no such locks
            self._bring()
            return
        lock = self._target.with_name(f".{self._target.name}.lock")
        with lock.open("wb") as held:
            while True:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._cancelled.wait(_LOCK_EVERY_S)
                    self._check_cancelled()
            # Whoever held it before, in this process or another, may have brought the file.
            if not is_whole(self._target, self._file):
                self._bring()
            # Only now: who waits for a lock that is gone finds the file whole.
            lock.unlink(missing_ok=True)

    def _bring(self) -> None:
        while True:
            had_bytes = _size_of(self._part)
            try:
                self._fetch(had_bytes)
            except httpx2.TransportError as problem:
                self._wait(unreachable(problem), None, had_bytes)
            except _RefusedError as refused:
                if refused.error.status in _EXPIRED and self._renewals < _RENEWALS:
                    self._renewals += 1
                    self._file = self._renew(self._file)
                else:
                    self._wait(refused.error, refused.response, had_bytes)
            else:
                if is_whole(self._part, self._file):
                    self._check_grown()
                    self._part.replace(self._target)
                    return
                self._start_over()

    def _fetch(self, had_bytes: int) -> None:
        """Append to the part what it lacks, as far as the connection lasts."""
        file = self._file
        if had_bytes >= file.bytes > 0:
            return
        headers = {"Range": f"bytes={had_bytes}-"} if had_bytes else {}
        if had_bytes and self._etag:
            headers["If-Range"] = self._etag
        with self._http.stream("GET", file.url, headers=headers) as response:
            if response.status_code == 416:
                return
            if response.status_code not in {200, 206}:
                raise _RefusedError(error_of(response, _beginning(response)), response)
            size = start = self._start_of(response, had_bytes)
            etag = response.headers.get("etag", "")
            self._etag = "" if etag.startswith("W/") else etag
            with self._part.open("r+b" if start else "wb") as sink:
                sink.seek(start)
                # As they come: chunks of one size would drop what came before the connection broke.
                for chunk in response.iter_raw():
                    size += len(chunk)
                    if size > file.bytes:
                        raise IntegrityError(f"{file.path}: more comes than its {file.bytes} bytes")
                    sink.write(chunk)
                    self._check_cancelled()
                sink.flush()
                os.fsync(sink.fileno())

    def _start_of(self, response: httpx2.Response, had_bytes: int) -> int:
        """Where the body belongs in the file."""
        if response.status_code == 200:
            return 0
        told = response.headers.get("content-range", "")
        found = _RANGE.fullmatch(told)
        if found is None or int(found[1]) != had_bytes or int(found[2]) != self._file.bytes:
            raise IntegrityError(f"{self._file.path}: asked for bytes from {had_bytes} on, got {told[:80]!a}")
        return had_bytes

    def _check_grown(self) -> None:
        """Refuse a chain that does not go on where the one that is there ends: its past never changes."""
        if self._file.type != CHAIN or not self._target.is_file():
            return
        there = self._target.read_bytes()
        if self._part.read_bytes()[: len(there)] != there:
            self._part.unlink()
            raise IntegrityError(
                f"{self._file.path}: what comes does not go on where the chain that is there ends: one of both was "
                f"changed; {self._target} is left as it is"
            )

    def _start_over(self) -> None:
        self._part.unlink(missing_ok=True)
        self._etag = ""
        self._restarts += 1
        if self._restarts > _RESTARTS:
            raise IntegrityError(f"{self._file.path}: what comes is not the file of SHA-256 {self._file.sha256}")
        self._file = self._renew(self._file)  # it may have been built anew since it was listed

    def _wait(self, error: ApiError, response: httpx2.Response | None, had_bytes: int) -> None:
        if _size_of(self._part) > had_bytes:
            self._attempt = 1  # while bytes come the file comes to its end
        wait_s = wait_before_retry_s(error.status, response, self._attempt)
        if wait_s is None:
            error.add_note(f"while fetching {self._file.path}")
            raise error
        self._attempt += 1
        self._cancelled.wait(wait_s)
        self._check_cancelled()

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise _CancelledError(self._file.path)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _beginning(response: httpx2.Response) -> bytes:
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > _MAX_ERROR_BYTES:
            break
    return bytes(body[:_MAX_ERROR_BYTES])
