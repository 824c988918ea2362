"""What answers are made from: the database, caches, limits, storage. One per process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
import structlog
from prometheus_client import CollectorRegistry
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ssmd_api.auth.authenticator import Authenticator
from ssmd_api.auth.limits import Limiter, MemoryLimiter
from ssmd_api.auth.redis_limits import RedisLimiter
from ssmd_api.auth.tiers import Tiers
from ssmd_api.auth.usage import Usage
from ssmd_api.auth.wrong_keys import WrongKeys
from ssmd_api.changes import Answers, Changes
from ssmd_api.data.captured import Captured
from ssmd_api.files.resource import Files
from ssmd_api.llm.upstreams import Upstream, open_upstream
from ssmd_api.loaders import Loaders
from ssmd_api.metrics import Metrics
from ssmd_api.settings import ApiSettings
from ssmd_api.status.board import Board
from ssmd_core.clock import Clock
from ssmd_core.db.connect import CONNECT_TIMEOUT_S, DatabaseError, check_url, now_of, set_now
from ssmd_core.db.migrate import head, revision_of

log = structlog.get_logger()

_POOL_MAX = 8
_POOL_WAIT_S = 5.0
_STATEMENT_TIMEOUT_MS = 15_000
_ANSWERS_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class Services:
    """Everything that a handler may use.

    Attributes:
        pool: sessions that may only read, see `writing`.
        changes: word of committed changes.
        answers: bodies kept until there is some.
        tiers: requests per window.
        usage: counts what each key does.
        board: what every stream does now.
        files: downloads and signed URLs.
        captured: archives and datasets.
        llm: who answers chats; None if nobody does.
    """

    settings: ApiSettings
    clock: Clock
    pool: AsyncConnectionPool
    changes: Changes
    answers: Answers
    authenticator: Authenticator
    limiter: Limiter
    tiers: Tiers
    usage: Usage
    registry: CollectorRegistry
    metrics: Metrics
    captured: Captured
    llm: Upstream | None
    loaders: Loaders = field(init=False)
    board: Board = field(init=False)
    files: Files = field(init=False)

    def __post_init__(self) -> None:
        self.loaders = Loaders(self)
        self.board = Board(self)
        self.files = Files(self.settings)

    @property
    def now(self) -> datetime:
        """The clock's time, UTC."""
        return now_of(self.clock)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """A session that cannot write.

        Raises:
            psycopg.Error: Postgres refused or went away, or no session was free for five seconds.
        """
        async with self.pool.connection() as connection:
            await set_now(connection, self.clock)
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """A transaction that may write; committed at the end.

        Raises:
            psycopg.Error: see `reading`.
        """
        async with self.reading() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION READ WRITE")
            yield connection

    async def rows(self, statement: str, values: Any = ()) -> list[DictRow]:
        """All rows of one query; parameters only, never a stranger's text in the statement.

        Raises:
            psycopg.Error: see `reading`.
        """
        async with self.reading() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement.encode(), values)
            return await cursor.fetchall()


@asynccontextmanager
async def open_services(settings: ApiSettings) -> AsyncIterator[Services]:
    """Connect to everything.

    Raises:
        ConfigError: a setting cannot be used.
        DatabaseError: Postgres cannot be reached, or its schema is not the one of this version.
    """
    url = check_url(settings.core.database_url)
    revision = await asyncio.to_thread(revision_of, url)
    if revision != head():
        raise DatabaseError(
            f"the database is at revision {revision or 'none'}, this ssmd needs {head()}: run `ssmd db upgrade`"
        )
    async with AsyncExitStack() as stack:
        pool = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=_POOL_MAX,
            timeout=_POOL_WAIT_S,
            open=False,
            kwargs={
                "autocommit": True,
                "application_name": "ssmd api",
                "connect_timeout": CONNECT_TIMEOUT_S,
                "options": f"-c default_transaction_read_only=on -c statement_timeout={_STATEMENT_TIMEOUT_MS}",
            },
            check=AsyncConnectionPool.check_connection,
        )
        try:
            await pool.open(wait=True, timeout=CONNECT_TIMEOUT_S)
        except PoolTimeout as error:
            await pool.close()
            raise DatabaseError(f"Postgres: {error}") from error
        stack.push_async_callback(pool.close)
        changes = Changes(url)
        listening = asyncio.create_task(changes.run())
        stack.callback(listening.cancel)
        usage = Usage(pool, settings.core.clock)
        usage.start()
        stack.push_async_callback(usage.close)
        limiter: Limiter = (memory := MemoryLimiter(time.monotonic))
        if settings.core.redis_url:
            limiter = shared = RedisLimiter(settings.core.redis_url, memory)
            stack.push_async_callback(shared.close)
            await shared.start()
        registry = CollectorRegistry()
        captured = Captured(settings.core)
        stack.callback(captured.close)
        wrong = WrongKeys(pool, changes, time.monotonic)
        services = Services(
            settings=settings,
            clock=settings.core.clock,
            pool=pool,
            changes=changes,
            answers=Answers(changes, _ANSWERS_BYTES, time.monotonic),
            authenticator=Authenticator(pool, changes, settings.core.clock, wrong),
            limiter=limiter,
            tiers=Tiers(pool, changes),
            usage=usage,
            registry=registry,
            metrics=Metrics(registry),
            captured=captured,
            llm=await stack.enter_async_context(open_upstream(settings.environment)),
        )
        stack.push_async_callback(services.board.close)
        yield services
