"""Migrations: from empty, from every revision, down again; and the models, triggers and lists agree with them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ssmd_core.db.connect import DatabaseError, sqlalchemy_url
from ssmd_core.db.migrate import MIGRATIONS, head, migrate, revision_of
from ssmd_core.db.tables import PUBLISHED, SYNCED, metadata
from ssmd_core.db.triggers import history_function, row_triggers
from ssmd_core.errors import ConfigError
from ssmd_stream.servers.postgres import PostgresServer


@pytest.fixture
def empty_url(postgres_server: PostgresServer) -> Iterator[str]:
    admin = psycopg.connect(postgres_server.url_of("postgres"), autocommit=True)
    admin.execute("CREATE DATABASE empty_one")
    yield postgres_server.url_of("empty_one")
    admin.execute("DROP DATABASE empty_one WITH (FORCE)")
    admin.close()


def differences(url: str) -> list[object]:
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_up_and_down_from_every_revision(empty_url: str) -> None:
    revisions = [one.revision for one in reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions()))]
    assert revision_of(empty_url) == ""
    for earlier in ("base", *revisions):
        assert migrate(empty_url, earlier) == ("" if earlier == "base" else earlier)
        assert migrate(empty_url) == head() == revisions[-1]
        assert differences(empty_url) == []
    assert migrate(empty_url, "base") == ""
    with psycopg.connect(empty_url) as connection:
        left = connection.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'alembic%'"
        ).fetchone()
        functions = connection.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'ssmd%'").fetchone()
    assert left == (0,)
    assert functions == (0,)


def test_rows_from_before_history_are_kept_by_it(empty_url: str) -> None:
    migrate(empty_url, "0001")
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("INSERT INTO series (ticker, title, category) VALUES ('KXBTC', 'Bitcoin', 'Crypto')")
        migrate(empty_url)
        kept = connection.execute(
            "SELECT h.ticker, h.known_from = s.updated_at FROM series_history h JOIN series s USING (ticker)"
        )
        assert kept.fetchall() == [("KXBTC", True)]


@pytest.mark.parametrize("name", list(SYNCED))
def test_triggers_have_the_models_columns(name: str, database_url: str) -> None:
    """The one column list: what the database watches and keeps is what the models say."""
    one = SYNCED[name]
    with psycopg.connect(database_url, autocommit=True) as connection:
        query = (
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal "
            "ORDER BY tgname"
        )
        stored = [row[0] for row in connection.execute(query, (name,))]
        body = "SELECT prosrc FROM pg_proc WHERE proname = %s"
        stored_body = connection.execute(body, (f"{name}_keep",)).fetchone()
        for trigger in ("1_key", "2_skip", "3_touch"):
            connection.execute(f"DROP TRIGGER {name}_{trigger} ON {name}".encode())
        for statement in (
            *row_triggers(name, one.key, one.columns),
            history_function(name, one.key, one.columns, one.effective),
        ):
            connection.execute(statement.encode())
        assert [row[0] for row in connection.execute(query, (name,))] == stored
        assert connection.execute(body, (f"{name}_keep",)).fetchone() == stored_body
        published = connection.execute("SELECT tablename FROM pg_publication_tables WHERE pubname = 'ssmd_cdc_pub'")
        assert {row[0] for row in published} == set(PUBLISHED)


def test_two_processes_migrate_at_once(empty_url: str) -> None:
    async def both() -> list[str]:
        return list(await asyncio.gather(*(asyncio.to_thread(migrate, empty_url) for _ in range(2))))

    assert asyncio.run(both()) == [head(), head()]


def test_what_cannot_be_used_is_said(empty_url: str) -> None:
    with pytest.raises(ConfigError, match="no revision '9999'"):
        migrate(empty_url, "9999")
    with pytest.raises(ConfigError, match="DATABASE_URL is not set"):
        migrate("")
    with pytest.raises(ConfigError, match="scheme 'mysql'"):
        migrate("mysql://nobody@localhost/x")
    with pytest.raises(DatabaseError, match="does not exist"):
        migrate(empty_url.replace("/empty_one", "/no_such"))
