"""The word of an hour for those who show many: read from the chain and checked against the ledger's file, kept while
neither changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final

from ssmd_core.datasets.coverage import HourCoverage, HourState
from ssmd_core.proof.chain import Entry, chain_path, newest
from ssmd_core.proof.ledger import hour_id, proof_file

MISSING: Final = "missing"
# States in which a ledger speaks of what lies there; a stale hour was archived anew since.
_SPEAKS = frozenset({HourState.BUILT, HourState.PARTIAL})
# A month of four feeds is 2,976 ledgers; an entry takes some 200 bytes.
_MAX_LEDGERS = 50_000
_Stat = tuple[int, int, int]


class Words:
    """Words of hours. May be used from several threads.

    Args:
        proof_root: whose.
    """

    def __init__(self, proof_root: Path) -> None:
        self._root = proof_root
        self._chains: dict[tuple[str, str], tuple[_Stat, dict[str, Entry]]] = {}
        self._ledgers: dict[Path, tuple[_Stat, str]] = {}
        self._lock = Lock()

    def word(self, feed: str, stream: str, day: date, number: int, covered: HourCoverage) -> str | None:
        """`complete`, `degraded`, `empty` or `missing`; None for an hour that is not proved, or not over.

        Args:
            number: of the hour, 0 to 23.
            covered: what the manifests say of it.
        """
        if covered.state is HourState.MISSING:
            return MISSING
        if covered.state not in _SPEAKS:
            return None
        hour = datetime.combine(day, time(), UTC) + timedelta(hours=number)
        entry = self._entries(feed, stream).get(hour_id(hour))
        if entry is None or self._hash(proof_file(self._root, feed, stream, hour, "ledger")) != entry.ledger:
            return None
        return entry.word

    def _entries(self, feed: str, stream: str) -> dict[str, Entry]:
        state = _stat(chain_path(self._root, feed, stream))
        if state is None:
            return {}
        with self._lock:
            kept = self._chains.get((feed, stream))
        if kept is not None and kept[0] == state:
            return kept[1]
        found = newest(self._root, feed, stream)
        with self._lock:
            self._chains[feed, stream] = (state, found)
        return found

    def _hash(self, path: Path) -> str:
        """Of a ledger's file; "" if it is not there."""
        state = _stat(path)
        if state is None:
            return ""
        with self._lock:
            kept = self._ledgers.get(path)
        if kept is not None and kept[0] == state:
            return kept[1]
        digest = sha256(path.read_bytes()).hexdigest()
        with self._lock:
            if len(self._ledgers) >= _MAX_LEDGERS:
                self._ledgers.clear()
            self._ledgers[path] = (state, digest)
        return digest


def _stat(path: Path) -> _Stat | None:
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size
