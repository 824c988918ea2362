"""Connections to ssmd's Postgres."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ssmd_core.clock import NS_PER_US, Clock, rfc3339_us
from ssmd_core.errors import ConfigError, SsmdError

CONNECT_TIMEOUT_S = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SCHEMES = ("postgresql", "postgres")
_UNREADABLE = "DATABASE_URL cannot be read: not of the form postgresql://user:password@host:port/database"


class DatabaseError(SsmdError):
    """The database cannot be reached, or refused what ssmd asked of it; the text carries its reason."""


def check_url(database_url: str) -> str:
    """A URL that psycopg takes.

    Raises:
        ConfigError: there is none, it is not Postgres's, or it cannot be read. The URL is not repeated, nor what a
            parser says of it: it holds a password.
    """
    if not database_url:
        raise ConfigError(
            "DATABASE_URL is not set, and no `ssmd up` runs on this data folder (`ssmd up --no-capture` starts one)"
        )
    try:
        parts = urlsplit(database_url)
    except ValueError:
        raise ConfigError(_UNREADABLE) from None
    scheme = parts.scheme.partition("+")[0]
    if scheme not in _SCHEMES:
        raise ConfigError(f"DATABASE_URL has scheme {parts.scheme!r}, not postgresql")
    _, separator, rest = database_url.partition("://")
    if not separator:
        raise ConfigError(_UNREADABLE)
    url = f"postgresql://{rest}"
    try:
        # libpq's own parser: it takes lists of hosts and ports, and looks at the ports only when it connects.
        parsed = conninfo_to_dict(url)
    except (psycopg.ProgrammingError, ValueError):
        raise ConfigError(_UNREADABLE) from None
    if "@" in str(parsed.get("host")):
        # An @ in the password that is not written %40: the rest of the password would be named as the host.
        raise ConfigError(_UNREADABLE)
    ports = str(parsed.get("port") or "").split(",")
    if not all(port == "" or (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65_536) for port in ports):
        raise ConfigError("DATABASE_URL has a port that is not a number between 1 and 65535")
    return url


def sqlalchemy_url(database_url: str) -> str:
    """The URL as SQLAlchemy 2.1 must have it: `postgresql+psycopg://…`.

    Raises:
        ConfigError: see `check_url`; or SQLAlchemy cannot read it, e.g. a list of hosts.
    """
    from sqlalchemy import make_url  # only migrations need it
    from sqlalchemy.exc import ArgumentError

    url = check_url(database_url).replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(_UNREADABLE) from None
    return url


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
    return _EPOCH + timedelta(microseconds=clock.now_ns() // NS_PER_US)
