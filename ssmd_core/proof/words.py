"""The word of an hour for those who show many: read from the chain and checked against the ledger's file, kept while
neither changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec

from ssmd_core.datasets.coverage import HourCoverage, HourState
from ssmd_core.proof.chain import Entry, chain_path, newest
from ssmd_core.proof.ledger import hour_id, proof_file

MISSING: Final = "missing"
DEGRADED: Final = "degraded"
# States in which a ledger speaks of what lies there, and what it may say then; a stale hour was archived anew since.
_SPEAKS: Final = {
    HourState.BUILT: frozenset({"complete", DEGRADED, "empty"}),
    HourState.PARTIAL: frozenset({DEGRADED}),
}
# A month of four feeds is 2,976 ledgers; an entry takes some 200 bytes.
_MAX_LEDGERS = 50_000
_Stat = tuple[int, int, int]


class _Totals(msgspec.Struct):
    """How many messages it stands on."""

    messages: int


class _Head(msgspec.Struct):
    """What of a ledger is kept."""

    feed: str
    stream: str
    hour: str
    word: str
    totals: _Totals


class Words:
    """Words of hours. May be used from several threads.

    Args:
        proof_root: whose.
    """

    def __init__(self, proof_root: Path) -> None:
        self._root = proof_root
        self._chains: dict[tuple[str, str], tuple[_Stat, dict[str, Entry]]] = {}
        self._ledgers: dict[Path, tuple[_Stat, str, _Head | None]] = {}
        self._lock = Lock()

    def word(self, feed: str, stream: str, day: date, number: int, covered: HourCoverage, now: datetime) -> str | None:
        """`complete`, `degraded`, `empty` or `missing`; None for an hour that is not proved, or not over.

        The word is the ledger's own, if its bytes are those that the chain names last; whether the chain's signatures
        hold is for `ssmd verify`.

        Args:
            number: of the hour, 0 to 23.
            covered: what the manifests say of it.
        """
        hour = datetime.combine(day, time(number), UTC)
        if now - hour < timedelta(hours=1):
            return None
        entry = self._entries(feed, stream).get(hour_id(hour))
        if covered.state is HourState.MISSING:
            # Where a ledger speaks of files that no longer lie here, it is not known what is missing.
            return MISSING if entry is None else None
        if entry is None or covered.state not in _SPEAKS:
            return None
        digest, head = self._ledger(proof_file(self._root, feed, stream, hour, "ledger"))
        if head is None or digest != entry.ledger or (head.feed, head.stream, head.hour) != (feed, stream, entry.hour):
            return None
        if head.totals.messages != covered.records:
            # Datasets were built anew from a file that was sealed after the hour was proved.
            return None
        return head.word if head.word in _SPEAKS[covered.state] else None

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

    def _ledger(self, path: Path) -> tuple[str, _Head | None]:
        """Hash of a ledger's file, and what it says; "" and None if there is none that can be read."""
        state = _stat(path)
        if state is None:
            return "", None
        with self._lock:
            kept = self._ledgers.get(path)
        if kept is not None and kept[0] == state:
            return kept[1:]
        try:
            content = path.read_bytes()
            head = msgspec.json.decode(content, type=_Head)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return "", None
        digest = sha256(content).hexdigest()
        with self._lock:
            if len(self._ledgers) >= _MAX_LEDGERS:
                self._ledgers.clear()
            self._ledgers[path] = (state, digest, head)
        return digest, head


def _stat(path: Path) -> _Stat | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size
