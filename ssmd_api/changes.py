"""Word of committed changes, and answers kept until there is some.

Postgres tells on one channel which table a committed transaction has changed (`ssmd_core.db.triggers`). An answer that
was computed from tables whose generation has not moved since is what the database would give now. While nobody
listens, nothing is kept.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import structlog

from ssmd_core.db.connect import DatabaseError, check_url
from ssmd_core.db.triggers import CHANGES

log = structlog.get_logger()

_RETRY_S = 1.0
_LOOK_S = 5.0
# A peer that vanished without a word is noticed within about 10 s.
_KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

Generation = tuple[int, ...]

# Key, tuple and dictionary entry beside a body: of answers with 30 bytes, a million would fit otherwise.
_ENTRY_BYTES = 1024


class Changes:
    """Listens; `generation` says whether something moved.

    Attributes:
        listening: whether a session listens now.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._moved: Counter[str] = Counter()
        self._sessions = 0
        self.listening = False

    def generation(self, tables: Iterable[str]) -> Generation | None:
        """What stays equal while none of the tables changes; None while nobody listens."""
        if not self.listening:
            return None
        return (self._sessions, *(self._moved[table] for table in tables))

    def bump(self, table: str) -> None:
        """Somebody knows of a change: the process's own writer, before the database tells."""
        self._moved[table] += 1

    async def run(self) -> None:
        """Listen until cancelled; a lost session is replaced."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, DatabaseError, OSError, TimeoutError) as error:
                log.warning("changes_lost", error=str(error).strip())
            finally:
                self.listening = False
            await asyncio.sleep(_RETRY_S)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            check_url(self._database_url), autocommit=True, application_name="ssmd api changes", connect_timeout=10,
            **_KEEPALIVE,
        )  # fmt: skip
        async with connection:
            await connection.execute(f"LISTEN {CHANGES}".encode())
            self._sessions += 1  # what was told between two sessions is not known
            self.listening = True
            while True:
                async for told in connection.notifies(timeout=_LOOK_S):
                    self.bump(told.payload)
                async with asyncio.timeout(_LOOK_S):
                    await connection.execute("SELECT 1")


class Answers:
    """Answers by key, least recently used out first, none older than its tables.

    Args:
        max_bytes: of all bodies together, with what it takes to keep each.
    """

    def __init__(self, changes: Changes, max_bytes: int, monotonic: Callable[[], float]) -> None:
        self._changes = changes
        self._max_bytes = max_bytes
        self._monotonic = monotonic
        self._kept: OrderedDict[object, tuple[bytes, tuple[str, ...], Generation, float, int]] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0

    def find(self, key: object) -> bytes | None:
        """The answer, if it is still what the database would give."""
        found = self._kept.get(key)
        if found is not None:
            body, tables, generation, until_s, _ = found
            if self._changes.generation(tables) == generation and self._monotonic() < until_s:
                self._kept.move_to_end(key)
                self.hits += 1
                return body
            self._drop(key)
        self.misses += 1
        return None

    def keep(
        self, key: object, body: bytes, tables: tuple[str, ...], generation: Generation | None, max_age_s: float
    ) -> None:
        """Keep an answer.

        Args:
            generation: `Changes.generation(tables)` from before the query began.
            max_age_s: for answers that also depend on the time.
        """
        if generation is None or generation != self._changes.generation(tables) or len(body) > self._max_bytes // 8:
            return
        self._drop(key)
        # A key holds a stranger's parameters: 20 kB of them may stand before an answer of 20 bytes.
        size_bytes = len(body) + len(repr(key)) + _ENTRY_BYTES
        self._kept[key] = (body, tables, generation, self._monotonic() + max_age_s, size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: object) -> None:
        if (found := self._kept.pop(key, None)) is not None:
            self.size_bytes -= found[-1]
