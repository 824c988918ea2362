"""Connections to ssmd's Postgres."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit, urlunsplit

import psycopg

from ssmd_core.clock import NS_PER_US, Clock, rfc3339_us
from ssmd_core.errors import ConfigError, SsmdError

CONNECT_TIMEOUT_S = 10
_SCHEMES = ("postgresql", "postgres")


class DatabaseError(SsmdError):
    """The database cannot be reached, or refused what ssmd asked of it; the text carries its reason."""


def check_url(database_url: str) -> str:
    """A URL that psycopg takes.

    Raises:
        ConfigError: there is none, or it is not Postgres's. The URL is not repeated: it holds a password.
    """
    if not database_url:
        raise ConfigError(
            "DATABASE_URL is not set, and no `ssmd up` runs on this data folder (`ssmd up --no-capture` starts one)"
        )
    parts = urlsplit(database_url)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in _SCHEMES:
        raise ConfigError(f"DATABASE_URL has scheme {parts.scheme!r}, not postgresql")
    return urlunsplit(("postgresql", *parts[1:]))


def sqlalchemy_url(database_url: str) -> str:
    """The URL as SQLAlchemy 2.1 must have it: `postgresql+psycopg://…`."""
    return check_url(database_url).replace("postgresql://", "postgresql+psycopg://", 1)


async def connect(
    database_url: str, *, name: str, clock: Clock | None = None, autocommit: bool = True
) -> psycopg.AsyncConnection:
    """One session.

    Args:
        name: what `pg_stat_activity` shows.
        clock: if it is not the system's, `ssmd_now()` follows it: see `set_now`.

    Raises:
        ConfigError: see `check_url`.
        DatabaseError: no connection.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            check_url(database_url),
            autocommit=autocommit,
            application_name=f"ssmd {name}",
            connect_timeout=CONNECT_TIMEOUT_S,
        )
    except psycopg.Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error
    if clock is not None:
        await set_now(connection, clock)
    return connection


async def set_now(connection: psycopg.AsyncConnection, clock: Clock) -> None:
    """Make the session's `ssmd_now()` what the clock shows now, if that clock is not the system's."""
    if clock.is_system:
        return
    await connection.execute("SELECT set_config('ssmd.now', %s, false)", (rfc3339_us(clock.now_ns() // NS_PER_US),))


def now_of(clock: Clock) -> datetime:
    """The clock's time, UTC, to the microsecond."""
    us = clock.now_ns() // NS_PER_US
    return datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000)
