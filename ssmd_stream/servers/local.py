"""What every local server shares: one owner per folder, orphans recognised, ports, start, health, stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import psutil
import structlog

from ssmd_stream.servers.errors import FolderInUseError, ServerError
from ssmd_stream.servers.ports import choose_port, is_free
from ssmd_stream.servers.process import POLL_S, Process, find_process

log = structlog.get_logger()

# A server that a killed supervisor left behind is already shutting down (see Process): one that still answers after
# this long is a true orphan and is taken over.
_ORPHAN_SETTLE_S = 1.0
_ORPHAN_WAIT_S = 15.0
_START_ATTEMPTS = 3
_LOG_TAIL_BYTES = 2_000


class FolderLock:
    """An exclusive lock on a folder, which ends with the process that holds it, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock; nothing happens if this object holds it already.

        Raises:
            FolderInUseError: another process, or another object of this one, holds it.
        """
        if self._fd is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            pid = int(text) if text.isdecimal() else 0
            raise FolderInUseError(f"{self._path.parent} is in use by process {pid or 'unknown'}", pid) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; the file stays, for removing it would let two processes lock two files."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class LocalServer(ABC):
    """A server process on this machine with its data in one folder.

    `start` may be called again after the server died or was killed: it comes back on the same ports with the same
    data. All methods work from any event loop; call them from the main thread (see `Process`).

    Args:
        folder: for data, configuration and the owner's lock; made if absent.
        ports: port to prefer by name, `port` among them; None takes a free one.
        log_path: the server's log, default `server.log` in `folder`.
    """

    name: ClassVar[str]
    stage: ClassVar[int] = -1  # for the supervisor: stopped after every child
    restart: ClassVar[bool] = True
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path, ports: dict[str, int | None], log_path: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.log_path = log_path or self.folder / "server.log"
        self._usual_ports = ports
        self._ports: dict[str, int] = {}
        self._process: Process | None = None
        self._lock = FolderLock(self.folder / "owner.lock")

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    @property
    @abstractmethod
    def marker(self) -> Path:
        """A path among the server's arguments that no other process has: by it an orphan is recognised."""

    @abstractmethod
    async def prepare(self) -> None:
        """Bring the folder into the state that the server needs (configuration, first initialisation)."""

    @abstractmethod
    def launch(self) -> Process:
        """Start the process."""

    @abstractmethod
    async def check(self) -> str | None:
        """None if the server answers as it should, else the reason why it does not."""

    async def finish(self) -> None:
        """What is left to do once the server answers for the first time after a start."""
        return

    @property
    def port(self) -> int:
        """The port that clients use.

        Raises:
            ServerError: the server was never started.
        """
        return self.port_of("port")

    def port_of(self, name: str) -> int:
        """One of the server's ports by name.

        Raises:
            ServerError: the server was never started.
        """
        if name not in self._ports:
            raise ServerError(f"{self.name} was not started: it has no {name} yet")
        return self._ports[name]

    @property
    def pid(self) -> int | None:
        """Pid of the running server."""
        return self._process.pid if self._process is not None and self._process.running else None

    async def healthy(self) -> bool:
        """Whether it runs and answers."""
        return self.pid is not None and await self.check() is None

    async def start(self, timeout_s: float = 300.0) -> None:
        """Start the server and return when it answers; does nothing if it runs.

        A server that ends is noticed at once; the time is for one that restores a large store or replays its log.

        Raises:
            FolderInUseError: another process owns the folder, or an orphan on it does not answer.
            ServerError: the server cannot be started; the message ends with its log's last lines.
        """
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            if not await self._adopt():
                await self._launch(time.monotonic() + timeout_s)
            await self.finish()
        except BaseException:
            self.kill()
            self._lock.release()
            raise

    async def stop(self, grace_s: float = 15.0) -> bool:
        """End the server in order, kill it after `grace_s`; False if it is still there."""
        stopped = self._process is None or await self._process.stop(self.stop_signal, grace_s)
        if stopped:
            self._process = None
            self._lock.release()
        return stopped

    def kill(self) -> None:
        """SIGKILL, as a crash would; `start` brings it back on the same ports and data."""
        if self._process is not None:
            self._process.kill()

    def exit_code(self) -> int | None:
        """Exit code of a server that ended, negative for a signal; None while it runs or if it never ran."""
        return None if self._process is None else self._process.poll()

    async def _adopt(self) -> bool:
        """Take over a server that still runs on the folder; False if there is none, or it has ended meanwhile."""
        pid = find_process(self.marker)
        if pid is None:
            return False
        try:
            process = Process.adopt(pid)
            self._ports = json.loads(self._record_path.read_bytes())["ports"]
        except psutil.NoSuchProcess:
            return False
        except (OSError, ValueError, KeyError) as error:
            raise FolderInUseError(
                f"{self.name} runs on {self.folder} as process {pid}; stop it: {error}", pid
            ) from error
        settled = time.monotonic() + _ORPHAN_SETTLE_S
        deadline = time.monotonic() + _ORPHAN_WAIT_S
        while process.running:
            reason = await self.check()
            now = time.monotonic()
            if reason is None and now >= settled:
                self._process = process
                log.info("server.adopted", server=self.name, pid=pid, folder=str(self.folder))
                return True
            if now >= deadline:
                raise FolderInUseError(
                    f"{self.name} runs on {self.folder} as process {pid} and does not answer ({reason}); stop it", pid
                )
            await asyncio.sleep(POLL_S)
        return False

    async def _launch(self, deadline: float) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            if not self._ports:
                self._ports = {name: choose_port(usual) for name, usual in self._usual_ports.items()}
            await self.prepare()
            self._record_path.write_text(json.dumps({"ports": self._ports}))
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._process = self.launch()
            reason = await self._wait_until_it_answers(deadline)
            if reason is None:
                return
            taken = [port for port in self._ports.values() if not self._process.running and not is_free(port)]
            self.kill()
            tail = self._log_tail(log_start)
            if attempt == _START_ATTEMPTS or time.monotonic() >= deadline:
                raise ServerError(f"{self.name} does not start on {self.folder}: {reason}\n{tail}")
            log.warning("server.start_failed", server=self.name, reason=reason, attempt=attempt, ports_taken=taken)
            if taken:  # somebody else took the port between our look and the server's bind
                self._ports = {}
            await asyncio.sleep(attempt * 0.5)

    async def _wait_until_it_answers(self, deadline: float) -> str | None:
        assert self._process is not None
        while True:
            code = self._process.poll()
            if code is not None:
                return f"exited with code {code}"
            reason = await self.check()
            if reason is None:
                return None
            if time.monotonic() >= deadline:
                return f"does not answer in time: {reason}"
            await asyncio.sleep(POLL_S)

    def _log_tail(self, start: int) -> str:
        with contextlib.suppress(OSError), self.log_path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
        return ""

    @property
    def _record_path(self) -> Path:
        return self.folder / "server.json"
