"""One session of ssmd's Postgres for a step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from ssmd_assets.lib.text import visible
from ssmd_core.errors import SsmdError
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")


def with_database(settings: Settings, what: str, work: Callable[[psycopg.AsyncConnection], Awaitable[T]]) -> T:
    """Run `work` on a session of its own.

    Args:
        what: for messages, e.g. `scores of 2026-11-20`.

    Raises:
        dg.Failure: there is no database, it cannot be reached, or it refused. An outage may be tried again.
    """
    import psycopg

    from ssmd_core.db.connect import DatabaseError, connect

    if not settings.database_url:
        raise dg.Failure(
            f"{what}: DATABASE_URL is not set where Dagster runs. `ssmd up` sets it; or start Dagster with it.",
            allow_retries=False,
        )

    async def run() -> T:
        async with await connect(settings.database_url, name="dagster", clock=settings.clock) as connection:
            return await work(connection)

    try:
        return asyncio.run(run())
    except psycopg.errors.UndefinedTable as error:
        reason = f"{what}: {str(error).splitlines()[0]}; `ssmd db upgrade` makes what is missing"
        raise dg.Failure(visible(reason), allow_retries=False) from error
    except (DatabaseError, psycopg.Error) as error:
        raise dg.Failure(f"{what}: {visible(str(error).strip())}") from error
    except SsmdError as error:
        raise dg.Failure(f"{what}: {visible(str(error))}", allow_retries=False) from error
