"""The local servers: they answer, survive kill -9 with their data, and are never started twice on one folder."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import nats
import psutil
import psycopg
import pytest

from ssmd_core.settings import Settings
from ssmd_stream.servers import local
from ssmd_stream.servers.errors import FolderInUseError, ServerError
from ssmd_stream.servers.external import ExternalServer, database_reason, nats_reason, redis_reason, without_password
from ssmd_stream.servers.local import LocalServer
from ssmd_stream.servers.nats import NatsServer, find_binary
from ssmd_stream.servers.ports import FREE_PORTS, choose_port, free_port, is_free
from ssmd_stream.servers.postgres import Account, PostgresServer, blocking_folder, embedded_postgres
from ssmd_stream.servers.stack import Stack
from ssmd_stream.servers.valkey import ValkeyServer, embedded_valkey

Store = Callable[[str, bool], Awaitable[str]]


async def nats_store(url: str, write: bool) -> str:
    """Write one JetStream message, or read it back."""
    client = await nats.connect(url)
    try:
        stream = client.jetstream()
        if write:
            await stream.add_stream(name="KEPT", subjects=["kept"])
            await stream.publish("kept", b"kept")
        data = (await stream.get_msg("KEPT", 1)).data
        assert data is not None
        return data.decode()
    finally:
        await client.close()


async def postgres_store(url: str, write: bool) -> str:
    """Write one row, or read it back."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        if write:
            await connection.execute("CREATE TABLE kept AS SELECT 'kept' AS word")
        row = await (await connection.execute("SELECT word FROM kept")).fetchone()
    assert row is not None
    return str(row[0])


async def valkey_store(url: str, write: bool) -> str:
    """Write one key, or read it back."""
    host, _, port = url.removeprefix("redis://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        if write:
            writer.write(b"SET kept kept\r\n")
            assert await reader.readline() == b"+OK\r\n"
        writer.write(b"GET kept\r\n")
        await reader.readline()
        return (await reader.readline()).decode().strip()
    finally:
        writer.close()


SERVERS: dict[str, tuple[type[NatsServer] | type[PostgresServer] | type[ValkeyServer], Store]] = {
    "nats": (NatsServer, nats_store),
    "postgres": (PostgresServer, postgres_store),
    "valkey": (ValkeyServer, valkey_store),
}


def make(kind: str, folder: Path) -> LocalServer:
    """A server of that kind on free ports."""
    if kind == "nats":
        return NatsServer(folder, port=None, monitor_port=None)
    return SERVERS[kind][0](folder, port=None)


@pytest.mark.parametrize("kind", SERVERS)
def test_data_and_port_survive_kill_9(kind: str, tmp_path: Path) -> None:
    store = SERVERS[kind][1]

    async def scenario() -> None:
        server = make(kind, tmp_path / kind)
        await server.start()
        try:
            assert await server.healthy()
            url, pid = server.url, server.pid
            assert await store(url, True) == "kept"

            server.kill()
            assert server.pid is None
            assert server.exit_code() == -9
            assert await server.check() is not None
            await server.start()
            assert server.url == url
            assert server.pid not in {None, pid}
            assert await store(url, False) == "kept"
        finally:
            assert await server.stop()
        assert server.pid is None

        second = make(kind, tmp_path / kind)
        await second.start()
        try:
            assert await store(second.url, False) == "kept"
        finally:
            assert await second.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["nats", "valkey"])
def test_orphan_is_taken_over(kind: str, tmp_path: Path) -> None:
    server = make(kind, tmp_path)
    asyncio.run(server.start())
    assert server.pid is not None
    argv = psutil.Process(server.pid).cmdline()
    asyncio.run(server.stop())
    orphan = subprocess.Popen(argv, stdout=subprocess.DEVNULL)  # on the same folder and ports, started by somebody else
    try:
        heir = make(kind, tmp_path)
        asyncio.run(heir.start())
        assert heir.pid == orphan.pid
        assert heir.url == server.url
        assert asyncio.run(heir.healthy())
        assert asyncio.run(heir.stop())
        assert orphan.wait(5) is not None
    finally:
        orphan.kill()
        orphan.wait()


def test_silent_orphan_is_named_not_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_ORPHAN_WAIT_S", 0.5)
    (tmp_path / "server.json").write_text(json.dumps({"ports": {"port": free_port(), "monitor_port": free_port()}}))
    silent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path / "nats.conf")])
    try:
        with pytest.raises(FolderInUseError, match=f"process {silent.pid} ") as caught:
            asyncio.run(NatsServer(tmp_path, port=None, monitor_port=None).start())
        assert caught.value.pid == silent.pid
    finally:
        silent.kill()
        silent.wait()


def test_folder_has_one_owner(nats_server: NatsServer) -> None:
    with pytest.raises(FolderInUseError, match=str(os.getpid())):
        asyncio.run(NatsServer(nats_server.folder, port=None, monitor_port=None).start())
    assert asyncio.run(nats_server.healthy())


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        yield listener.getsockname()[1]


def test_taken_usual_port_gives_another(taken_port: int, tmp_path: Path) -> None:
    assert not is_free(taken_port)
    assert choose_port(taken_port) != taken_port
    assert choose_port(None) in FREE_PORTS

    async def scenario() -> None:
        server = NatsServer(tmp_path, port=taken_port, monitor_port=None)
        await server.start()
        assert server.port != taken_port
        assert await nats_reason(server.url) is None
        await server.stop()

    asyncio.run(scenario())


def test_largest_frame_passes_nats(nats_server: NatsServer) -> None:
    async def scenario() -> None:
        client = await nats.connect(nats_server.url)
        stream = client.jetstream()
        await stream.add_stream(name="LARGE", subjects=["large"])
        frame = b"x" * (16 * 1024 * 1024)
        await stream.publish("large", frame, timeout=30, headers={"Nats-Msg-Id": "c0-1:0"})
        assert (await stream.get_msg("LARGE", 1)).data == frame
        await client.close()

    asyncio.run(scenario())


def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("a file where the store should be")
    with pytest.raises(ServerError, match=r"exited with code 1[\s\S]*not a directory"):
        asyncio.run(NatsServer(tmp_path, port=None, monitor_port=None).start())


def test_postgres_is_closed_to_others_and_ready_for_cdc(tmp_path: Path) -> None:
    """In a folder below pytest's mode 700 one, which the account that Postgres runs as may not enter."""
    (tmp_path / "pg" / "data.new").mkdir(parents=True)
    (tmp_path / "pg" / "data.new" / "PG_VERSION").write_text("an initdb that was cut short")

    async def scenario() -> None:
        async with embedded_postgres(tmp_path / "pg") as server:
            assert stat.S_IMODE((server.folder / "password").stat().st_mode) == 0o600
            assert server.pid is not None
            if os.geteuid() == 0:
                assert 0 not in psutil.Process(server.pid).uids()
            async with await psycopg.AsyncConnection.connect(server.url) as connection:
                row = await (await connection.execute("SHOW wal_level")).fetchone()
                assert row == ("logical",)
                names = await (await connection.execute("SELECT datname FROM pg_database")).fetchall()
                assert {("ssmd",), ("dagster",)} <= set(names)
            reason = await database_reason(f"postgresql+psycopg://ssmd:wrong@127.0.0.1:{server.port}/ssmd")
            assert reason is not None
            assert "password authentication failed" in reason
            assert await database_reason(server.url.replace("postgresql:", "postgresql+psycopg2:")) is None

            settings = Settings.from_environment({"SSMD_DATA": str(tmp_path)})
            stack = Stack(settings, {"DATABASE_URL": server.url, "NATS_URL": "nats://n", "REDIS_URL": "redis://r"})
            assert await stack.postgres.check() is None
            assert stack.urls().environment()["DAGSTER_PG_DB"] == "dagster"
            async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as connection:
                await connection.execute("DROP DATABASE dagster")
            assert 'database "dagster" does not exist' in str(await stack.postgres.check())

            # After a container restart the old pid may be anybody's: here it is ours.
            server.kill()
            lines = (server.marker / "postmaster.pid").read_text().splitlines()
            (server.marker / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
            await server.start()
            assert await server.healthy()

    asyncio.run(scenario())


def test_postgres_as_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root: every other test is the ordinary user's")
    uid = gid = 65534
    # The interpreter may lie below /root, as pyenv's does: then with the right to pass, but not as root.
    account = Account(uid, gid, blocking_folder(Path(sys.executable).resolve(), uid, gid))
    # Not below pytest's folder, which is closed to others.
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    os.chown(folder, uid, gid)
    code = (
        "import asyncio, pathlib, sys\n"
        "from ssmd_stream.servers.postgres import embedded_postgres\n"
        "async def main():\n"
        "    async with embedded_postgres(pathlib.Path(sys.argv[1]) / 'pg') as server:\n"
        "        print(await server.check())\n"
        "asyncio.run(main())\n"
    )
    try:
        argv = account.command([sys.executable, "-c", code, str(folder)])
        done = subprocess.run(
            argv,
            check=False,
            user=account.user and uid,
            group=account.user and gid,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.splitlines()[-1:] == ["None"], done.stderr
        assert (folder / "pg" / "data").stat().st_uid == uid
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_closed_folder_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "open").mkdir(parents=True)
    for folder in (*tmp_path.parents, tmp_path):
        if not folder.stat().st_mode & stat.S_IXOTH:
            assert blocking_folder(closed / "open" / "file", 65534, 65534) == next(
                parent for parent in reversed((tmp_path / "x").parents) if not parent.stat().st_mode & stat.S_IXOTH
            )
            break
    assert blocking_folder(Path("/usr/bin/env"), 65534, 65534) is None


def test_external_servers_are_checked_only(nats_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        external = ExternalServer("nats", nats_url, nats_reason)
        await external.start()
        external.kill()
        assert await external.stop()
        assert external.pid is None
        assert await external.check() is None

        nobody = f"127.0.0.1:{free_port()}"
        absent = ExternalServer("valkey", f"redis://user:secret@{nobody}", redis_reason, start_timeout_s=0.1)
        with pytest.raises(ServerError, match="valkey at redis://user:\\*\\*\\*@127") as caught:
            await absent.start()
        assert "secret" not in str(caught.value)
        assert await database_reason(f"postgresql://ssmd:secret@{nobody}/ssmd") is not None
        async with embedded_valkey(tmp_path) as valkey:
            assert await redis_reason(valkey.url) is None

    asyncio.run(scenario())


def test_password_is_not_shown() -> None:
    assert without_password("postgresql://ssmd:pa-ss_1@h:5432/ssmd") == "postgresql://ssmd:***@h:5432/ssmd"
    assert without_password("redis://:pw@h:6379") == "redis://:***@h:6379"
    assert without_password("nats://127.0.0.1:4222") == "nats://127.0.0.1:4222"


def test_binary_of_the_wheel_is_found() -> None:
    assert "v2." in subprocess.check_output([find_binary(), "--version"], text=True)
