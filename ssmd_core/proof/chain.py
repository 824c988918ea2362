"""`chain.jsonl`: one signed line for every hour that was proved, each with the hash of the line before it.

A line is never changed: an hour whose ledger has become another one gets a new line, which supersedes the old.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from ssmd_core.errors import ArchiveError
from ssmd_core.proof.keys import LedgerKey
from ssmd_core.sealed_json import fsync_folder

CHAIN: Final = "chain.jsonl"
NOTHING_BEFORE: Final = "0" * 64
_LOCK: Final = ".lock"


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One line.

    Attributes:
        n: number of the line, from 0.
        hour: `YYYY-MM-DDTHH`.
        word: of the hour.
        ledger: SHA-256 of the ledger's file.
        previous: SHA-256 of the line before, without its line break; 64 zeros for the first.
        sealed_at: RFC 3339 UTC.
        key: public key, 32 bytes in base64.
        signature: Ed25519 over the line's canonical JSON without this member, in base64.
    """

    n: int
    hour: str
    word: str
    ledger: str
    previous: str
    sealed_at: str
    key: str
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        members: dict[str, Any] = msgspec.to_builtins(self)
        del members["signature"]
        return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)

    def line(self) -> bytes:
        """The line, without its break."""
        return orjson.dumps(msgspec.to_builtins(self), option=orjson.OPT_SORT_KEYS)


def chain_path(proof_root: Path, feed: str, stream: str) -> Path:
    """Where a stream's chain lies."""
    return proof_root / feed / stream / CHAIN


def parse_entry(line: bytes) -> Entry:
    """One line of a chain.

    Raises:
        ArchiveError: it is none.
    """
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArchiveError(f"not a line of a chain: {error}: {line[:120]!r}") from error


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a chain, without their breaks; a torn last one is left out."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return content.split(b"\n")[:-1]


def read_chain(proof_root: Path, feed: str, stream: str) -> list[Entry]:
    """The readable lines of a chain, unchecked: `verify` checks them, and names those that cannot be read."""
    return list(readable(read_lines(chain_path(proof_root, feed, stream))))


def newest(proof_root: Path, feed: str, stream: str) -> dict[str, Entry]:
    """The last line of every hour; kept while the chain does not change."""
    path = chain_path(proof_root, feed, stream)
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return dict(_newest(path, about.st_ino, about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=16)
def _newest(path: Path, *_: int) -> dict[str, Entry]:
    """The last line of every hour of a chain; a year's 8,760 lines take 20 ms to read."""
    return {entry.hour: entry for entry in readable(read_lines(path))}


@contextmanager
def writing(proof_root: Path, feed: str, stream: str) -> Iterator[None]:
    """Hold the stream's lock: of two that write, one waits."""
    folder = proof_root / feed / stream
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def append(
    proof_root: Path, feed: str, stream: str, key: LedgerKey, *, hour: str, word: str, ledger: str, sealed_at: str
) -> Entry:
    """Add an hour's line durably, unless its last one says the same already; hold the lock (`writing`).

    A torn last line, left by a crash, is cut off: it was never a line.
    """
    path = chain_path(proof_root, feed, stream)
    new = not path.exists()
    with path.open("ab+") as file:
        file.seek(0)
        content = file.read()
        lines = content.split(b"\n")
        torn = lines.pop()
        last = [entry for entry in readable(lines) if entry.hour == hour]
        if last and last[-1].ledger == ledger:
            return last[-1]
        if torn:
            file.truncate(len(content) - len(torn))
        previous = hashlib.sha256(lines[-1]).hexdigest() if lines else NOTHING_BEFORE
        entry = Entry(len(lines), hour, word, ledger, previous, sealed_at, key.public)
        entry.signature = base64.b64encode(key.sign(entry.signed_bytes())).decode()
        file.write(entry.line() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        fsync_folder(path.parent)
    return entry


def readable(lines: list[bytes]) -> Iterator[Entry]:
    """Those of the lines that are entries, unchecked."""
    for line in lines:
        try:
            yield parse_entry(line)
        except ArchiveError:
            continue
