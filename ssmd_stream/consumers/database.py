"""A consumer's session with Postgres: comes back when the database does, and says what kind of trouble there was."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import structlog

from ssmd_core.clock import Clock
from ssmd_core.db.connect import DatabaseError, connect, set_now
from ssmd_core.errors import SsmdError
from ssmd_stream.consumers.pull import sleep_or_stop

log = structlog.get_logger()

T = TypeVar("T")

# More than any batch takes by far; a server that has stopped answering is as good as away.
WORK_TIMEOUT_S = 30.0
MAX_ERRORS = 5
# Some ten seconds: no merge takes that long, somebody holds a transaction open.
BUSY_IS_PROBLEM = 5
RETRY_S = (0.5, 1.0, 2.0, 5.0)
# Classes of SQLSTATE. Connection lost, server shut down or not yet up: nothing that the work could be blamed for.
_AWAY = ("08", "57P")
# Data that a column cannot hold, a constraint broken, a limit of the program: the work itself cannot be done.
_WORK = ("21", "22", "23", "54")
# Deadlocks, and locks that were not had in time.
_BUSY = ("40", "55P03")
# A sync's merge holds its rows for about a second. Whoever waits for them gives up before Postgres sees a deadlock
# (after 1 s) and picks a victim: the sync would have to list the venue again, a consumer just repeats.
LOCK_TIMEOUT = "400ms"


class Trouble(enum.Enum):
    """What an error of the database means for the work that met it."""

    AWAY = "away"
    BUSY = "busy"
    WORK = "work"
    DATABASE = "database"


class BusyError(SsmdError):
    """Another session is in the way for a moment: do it again."""


class BadWorkError(SsmdError):
    """The database is well and refuses this work for what it holds; trying again does not help."""


class DatabaseBrokenError(SsmdError):
    """The database answered with errors several times in a row; somebody must look."""


def trouble_of(error: BaseException, connection: psycopg.AsyncConnection | None) -> Trouble:
    """Whose fault an error is."""
    if isinstance(error, DatabaseError) or connection is None or connection.closed:
        return Trouble.AWAY
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith(_AWAY):
        return Trouble.AWAY
    if isinstance(error, BusyError) or state.startswith(_BUSY):
        return Trouble.BUSY
    if state.startswith(_WORK) or (not state and isinstance(error, psycopg.DataError | psycopg.ProgrammingError)):
        return Trouble.WORK
    return Trouble.DATABASE


class Session:
    """One session at a time, opened when there is work.

    Args:
        database_url: Postgres.
        name: what `pg_stat_activity` shows.
        clock: `ssmd_now()` follows it.

    Attributes:
        problem: why the last attempt failed; "" if it did not.
        errors: errors of the database in a row while it was connected.
        failures: the same since the start, failed attempts to connect included.
        waits: how often in a row another session was in the way.
    """

    def __init__(self, database_url: str, name: str, clock: Clock) -> None:
        self._url = database_url
        self._name = name
        self._clock = clock
        self._connection: psycopg.AsyncConnection | None = None
        self.problem = "not connected yet"
        self.errors = 0
        self.failures = 0
        self.waits = 0

    async def run(self, work: Callable[[psycopg.AsyncConnection], Awaitable[T]], stop: asyncio.Event) -> T | None:
        """Do the work in a transaction, however long the database is away; None if `stop` was set first.

        Raises:
            BadWorkError: see there; nothing of the work is done.
            DatabaseBrokenError: the fifth error in a row with a database that is there.
            ConfigError: the URL is none.
        """
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(WORK_TIMEOUT_S):
                    result = await self._once(work)
            except TimeoutError:
                await self._after(DatabaseError(f"no answer in {WORK_TIMEOUT_S:.0f} s"))
            except (psycopg.Error, DatabaseError, BusyError) as error:
                await self._after(error)
            else:
                if self.problem and self.failures:
                    log.info("database is back", session=self._name)
                self.problem, self.errors, self.waits = "", 0, 0
                return result
            await sleep_or_stop(stop, RETRY_S[min(attempt, len(RETRY_S) - 1)])
            if stop.is_set():
                return None
            attempt += 1

    async def close(self) -> None:
        """End the session."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()

    async def _once(self, work: Callable[[psycopg.AsyncConnection], Awaitable[T]]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(self._url, name=self._name, clock=self._clock)
            await self._connection.execute("SELECT set_config('lock_timeout', %s, false)", (LOCK_TIMEOUT,))
        await set_now(self._connection, self._clock)
        async with self._connection.transaction():
            return await work(self._connection)

    async def _after(self, error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        trouble = trouble_of(error, self._connection)
        if trouble is Trouble.WORK:
            raise BadWorkError(reason) from error
        if trouble is Trouble.BUSY:
            self.waits += 1
            if self.waits >= BUSY_IS_PROBLEM:
                self.problem = reason
            return
        self.failures += 1
        if reason != self.problem:
            log.warning("database", session=self._name, trouble=trouble.value, error=reason)
        self.problem = reason
        if trouble is Trouble.AWAY:
            await self.close()
            return
        self.errors += 1
        if self.errors >= MAX_ERRORS:
            raise DatabaseBrokenError(f"{self.errors} errors of the database in a row, the last: {reason}") from error


async def hello(connection: psycopg.AsyncConnection) -> bool:
    """Work that finds out whether the database is there."""
    await connection.execute("SELECT 1")
    return True
