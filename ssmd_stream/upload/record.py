"""What has been proved to lie in an object store, so that the next run need not read it all back again.

An object counts as proved while its version (ETag) is the one that was read back; the record may be lost at any time,
which costs reading. SQLite, because a kill -9 leaves the rows that were committed.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from ssmd_core.errors import SsmdError

_FILE = "uploads.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS proved (
  storage TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, version TEXT NOT NULL,
  PRIMARY KEY (storage, path)
) WITHOUT ROWID
"""


class Proof(NamedTuple):
    """An object that was read back.

    Attributes:
        version: of the object at that time.
    """

    sha256: str
    version: str


class Record:
    """The proofs of one store; used by one thread."""

    def __init__(self, connection: sqlite3.Connection, storage_url: str) -> None:
        self._connection = connection
        self._url = storage_url

    def below(self, folder: str) -> dict[str, Proof]:
        """By path, those of a folder."""
        rows = self._connection.execute(
            "SELECT path, sha256, version FROM proved WHERE storage = ? AND path >= ? AND path < ?",
            (self._url, f"{folder}/", f"{folder}0"),  # "0" is the character after "/"
        )
        return {path: Proof(sha256, version) for path, sha256, version in rows}

    def find(self, path: str) -> Proof | None:
        """Of one object."""
        row = self._connection.execute(
            "SELECT sha256, version FROM proved WHERE storage = ? AND path = ?", (self._url, path)
        ).fetchone()
        return Proof(*row) if row else None

    def keep(self, path: str, proof: Proof) -> None:
        """Write a proof down, durably."""
        self._connection.execute(
            "INSERT OR REPLACE INTO proved VALUES (?, ?, ?, ?)", (self._url, path, proof.sha256, proof.version)
        )


@contextmanager
def open_record(data: Path, storage_url: str) -> Iterator[Record]:
    """The record in the data folder; one run at a time.

    Raises:
        SsmdError: another run holds it, or it cannot be used.
    """
    data.mkdir(parents=True, exist_ok=True)
    with (data / f"{_FILE}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SsmdError(f"another upload from {data} is running") from None
        try:
            with closing(sqlite3.connect(data / _FILE, isolation_level=None)) as connection:
                connection.execute(_SCHEMA)
                yield Record(connection, storage_url)
        except sqlite3.Error as error:
            raise SsmdError(f"{data / _FILE}: {error}; it may be removed, then all is read back again") from error
