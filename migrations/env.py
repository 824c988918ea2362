"""alembic's entry: the URL comes from `ssmd db upgrade`, or from DATABASE_URL for alembic's own command line."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, pool

from ssmd_core.db.connect import sqlalchemy_url
from ssmd_core.db.tables import metadata
from ssmd_core.settings import Settings


def run(connection: Connection) -> None:
    """Migrate over one connection, each revision in its own transaction."""
    context.configure(
        connection=connection, target_metadata=metadata, compare_type=True, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    engine = create_engine(sqlalchemy_url(Settings.from_environment().database_url), poolclass=pool.NullPool)
    with engine.connect() as own:
        run(own)
