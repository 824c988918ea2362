"""Bring a database to a revision of ssmd's schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, pool, text
from sqlalchemy.exc import DBAPIError

from ssmd_core.db.connect import DatabaseError, sqlalchemy_url
from ssmd_core.errors import ConfigError

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
# Two starting processes must not migrate at once: the second waits, then finds nothing to do.
_LOCK = 7_353_331


def migrate(database_url: str, revision: str = "head") -> str:
    """Upgrade, or downgrade, to `revision`.

    Args:
        revision: an id, `head` or `base`.

    Returns:
        The revision that the database is at now, "" for none.

    Raises:
        ConfigError: no migrations beside the package, an unknown revision, or no usable URL.
        DatabaseError: Postgres cannot be reached or refused a statement.
    """
    config = _config()
    script = ScriptDirectory.from_config(config)
    order = [one.revision for one in reversed(list(script.walk_revisions()))]
    wanted = {"head": order[-1], "base": ""}.get(revision, revision)
    if wanted and wanted not in order:
        raise ConfigError(f"no revision {revision!r}; known: {', '.join(order)}")
    engine = create_engine(sqlalchemy_url(database_url), poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            connection.commit()
            config.attributes["connection"] = connection
            present = _revision(connection)
            if present and present not in order:
                raise ConfigError(f"the database is at revision {present!r}, which this version of ssmd does not know")
            if wanted and (not present or order.index(wanted) > order.index(present)):
                command.upgrade(config, wanted)
            elif wanted != present:
                command.downgrade(config, wanted or "base")
            connection.commit()
            return _revision(connection)
    except DBAPIError as error:
        raise DatabaseError(f"migration to {revision!r}: {str(error.orig).strip()}") from error


def revision_of(database_url: str) -> str:
    """The revision that a database is at, "" for none.

    Raises:
        ConfigError, DatabaseError: see `migrate`.
    """
    engine = create_engine(sqlalchemy_url(database_url), poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            return _revision(connection)
    except DBAPIError as error:
        raise DatabaseError(f"Postgres: {str(error.orig).strip()}") from error


def head() -> str:
    """The newest revision.

    Raises:
        ConfigError: no migrations beside the package.
    """
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _revision(connection: Connection) -> str:
    return MigrationContext.configure(connection).get_current_revision() or ""


def _config() -> Config:
    if not (MIGRATIONS / "env.py").is_file():
        raise ConfigError(f"{MIGRATIONS} is missing: run ssmd from its checkout")
    config = Config()
    # ConfigParser reads % as its own.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
