"""Fixtures that every test may use. Servers are real, on free ports, in temporary folders."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from api_rig import ApiRig, api_settings
from installation import CLOCK, Installation, install

from ssmd_core.db.migrate import migrate
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.postgres import PostgresServer

_SAMPLES = Path(os.environ.get("SSMD_SAMPLES") or Path(__file__).resolve().parents[2] / "shared" / "samples")


@pytest.fixture(scope="session", autouse=True)
def _no_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither the environment nor an `ssmd up` that runs on the default folder reaches into a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NATS_URL", "DATABASE_URL", "REDIS_URL", "SSMD_ENV", "SSMD_CLOCK", "SSMD_SCHEDULES"):
            patch.delenv(name, raising=False)
        patch.setenv("SSMD_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real captures (its README says which are byte-exact)."""
    if not _SAMPLES.is_dir():
        pytest.skip(f"no samples at {_SAMPLES}; set SSMD_SAMPLES to their folder")
    return _SAMPLES


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one NATS server for the whole session (sync_interval always): use stream names of your own."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), port=None, monitor_port=None)
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS server of one's own: `kill()` ends it as a crash would, `await start()` brings it back as it was."""
    server = NatsServer(tmp_path / "nats", port=None, monitor_port=None)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One Postgres for the whole session; its database `migrated` has ssmd's schema and is nobody's to use."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"), port=None)
    asyncio.run(server.start())
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
    migrate(server.url_of("migrated"))
    yield server
    asyncio.run(server.stop())


_NUMBERS = itertools.count(1)


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a fresh database with ssmd's schema, dropped afterwards with its replication slots."""
    name = f"test_{os.getpid()}_{next(_NUMBERS)}"
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE migrated STRATEGY FILE_COPY".encode())
    yield postgres_server.url_of(name)
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        slots = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"
        for _, pid in connection.execute(slots, (name,)).fetchall():
            if pid is not None:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        for slot, _ in connection.execute(slots, (name,)).fetchall():
            connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[ApiRig]:
    """A running API with a fresh database and an empty data folder."""
    with ApiRig(api_settings(database_url, tmp_path / "data")).running() as rig:
        yield rig


@pytest.fixture(scope="session")
def installation(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Archives, datasets and a security master to look at; see `tests/installation.py`."""
    return install(tmp_path_factory.mktemp("installation") / "data", postgres_server)


@pytest.fixture
def installed_api(installation: Installation, tmp_path: Path) -> Iterator[ApiRig]:
    """A running API on the installation, with a copy of its database and links to its files."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("archive", "datasets", "proof"):
        (data / name).symlink_to(installation.data / name)
    with (
        installation.copy(f"copy_{os.getpid()}_{next(_NUMBERS)}") as url,
        ApiRig(api_settings(url, data, SSMD_CLOCK=CLOCK)).running() as rig,
    ):
        yield rig
