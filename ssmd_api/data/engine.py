"""DuckDB over the parquet datasets: it reads below one folder, within bounds of memory, time and number.

What it runs is ssmd's own text with values as parameters. Should a stranger's text ever get into a query, it can reach
neither other files nor the network, nor change a setting: external access is off but for the dataset root, the
configuration is locked, and only a single SELECT is run. The last one matters because DuckDB's allowed directories may
be written to as well as read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from ssmd_api.errors import TookTooLongError, TooLargeError, UnavailableError

if TYPE_CHECKING:
    import duckdb

log = structlog.get_logger()

Row: TypeAlias = dict[str, Any]

# For all queries together. A day of 24 million rows in 120,000 instruments takes some 120 MB.
MEMORY_BYTES = 512 * 1024 * 1024
THREADS = 2
QUERIES = 2
WAIT_S = 5.0
TIMEOUT_S = 15.0
_INTERRUPT_EVERY_S = 0.05


def connect(root: Path, memory_bytes: int = MEMORY_BYTES) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that reaches no file but those below a folder, and whose settings cannot be changed."""
    # Imported here: it takes 0.1 s, and an API that only serves the security master needs none of it.
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": THREADS,
            "memory_limit": f"{memory_bytes // 1024}KiB",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "preserve_insertion_order": "false",
            # A rebuilt file must never be answered from the pages of the one before.
            "enable_external_file_cache": "false",
        },
    )
    # In this order: each of them could not be set after the next.
    connection.execute("SET temp_directory = ''")
    connection.execute("SET allowed_directories = ?", [[f"{root.resolve()}/"]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


class Engine:
    """Runs queries in threads of its own.

    Args:
        root: the folder that may be read.
        memory_bytes: for all queries together; nothing is spilled to disk.
    """

    def __init__(
        self,
        root: Path,
        *,
        memory_bytes: int = MEMORY_BYTES,
        queries: int = QUERIES,
        wait_s: float = WAIT_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.root = root
        self._memory_bytes = memory_bytes
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(queries)
        self._threads = ThreadPoolExecutor(queries, "duckdb")
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._opening = Lock()
        self._running: set[duckdb.DuckDBPyConnection] = set()

    async def rows(self, statement: str, values: Mapping[str, object] | None = None) -> list[Row]:
        """All rows of one SELECT.

        Args:
            statement: never with a stranger's text in it.
            values: its parameters by name.

        Raises:
            UnavailableError: all slots stayed busy, or a file cannot be read.
            TooLargeError: it needs more memory than there is.
            TookTooLongError: it did.
            ValueError: not a single SELECT.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise UnavailableError("all places for queries are taken; ask again in a moment") from None
        try:
            loop = asyncio.get_running_loop()
            connection = self._connection
            if connection is None:
                connection = await loop.run_in_executor(self._threads, self._open)
            cursor = connection.cursor()
            work = loop.run_in_executor(self._threads, _run, cursor, statement, values)
        except BaseException:
            self._slots.release()
            raise
        self._running.add(cursor)
        work.add_done_callback(lambda _: self._ended(cursor))
        try:
            done, _ = await asyncio.wait({work}, timeout=self._timeout_s)
        except asyncio.CancelledError:
            await _interrupt(cursor, work)
            raise
        if not done:
            await _interrupt(cursor, work)
            raise TookTooLongError(f"the query took longer than {self._timeout_s:.0f} s; ask for one hour") from None
        return self._result(work)

    def close(self) -> None:
        """End; queries that run are interrupted."""
        for cursor in self._running:
            _interrupt_now(cursor)
        self._threads.shutdown()
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        with self._opening:
            if self._connection is None:
                self._connection = connect(self.root, self._memory_bytes)
            return self._connection

    def _ended(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """The place is free when the thread is, however the one who waited for it ended."""
        self._running.discard(cursor)
        self._slots.release()

    def _result(self, work: asyncio.Future[list[Row]]) -> list[Row]:
        import duckdb

        try:
            return work.result()
        except duckdb.OutOfMemoryException:
            megabytes = self._memory_bytes // 1024**2
            raise TooLargeError(f"the query needs more than {megabytes} MB; ask for one hour") from None
        except (
            duckdb.IOException,  # gone: an hour that is built anew
            duckdb.InvalidInputException,  # no parquet
            duckdb.ConversionException,  # values that are not of the registry's types
            duckdb.PermissionException,  # a link that leads out of the dataset root
        ) as error:
            raise _unreadable(error) from None
        except duckdb.Error as error:
            # Damaged pages of a parquet file end in an error of no class of its own: thrift's, a missing dictionary.
            if type(error) is duckdb.Error:
                raise _unreadable(error) from None
            raise


def _unreadable(error: Exception) -> UnavailableError:
    log.warning("datasets_unreadable", error=str(error))
    return UnavailableError("a dataset went away or cannot be read; ask again in a moment")


def _run(cursor: duckdb.DuckDBPyConnection, statement: str, values: Mapping[str, object] | None) -> list[Row]:
    import duckdb

    with cursor:
        found = cursor.extract_statements(statement)
        if len(found) != 1 or found[0].type != duckdb.StatementType.SELECT:
            raise ValueError("not a single SELECT")
        cursor.execute(found[0], dict(values) if values else None)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


async def _interrupt(cursor: duckdb.DuckDBPyConnection, work: asyncio.Future[list[Row]]) -> None:
    """Interrupt until it has an effect: before the query has begun there is nothing to interrupt."""
    while not work.done():
        _interrupt_now(cursor)
        await asyncio.wait({work}, timeout=_INTERRUPT_EVERY_S)
    if not work.cancelled():
        work.exception()  # asyncio complains of one that nobody looked at


def _interrupt_now(cursor: duckdb.DuckDBPyConnection) -> None:
    import duckdb

    with contextlib.suppress(duckdb.ConnectionException):  # it has just ended and is closed
        cursor.interrupt()
