"""Child processes of the supervisor, and what the supervisor needs to know of anything that it runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from ssmd_stream.servers.http import health_reason
from ssmd_stream.servers.process import Process

# In the environment of every child and of whatever it starts: by it a supervisor finds what outlived its parents.
FOLDER_VARIABLE = "SSMD_SUPERVISED"

# A child without a health check counts as healthy once it has run this long: a wrong option or import ends it sooner.
SETTLED_AFTER_S = 1.0

LOG_MAX_BYTES = 10 * 1024 * 1024

Health = Callable[[], Awaitable[str | None]]


class Unit(Protocol):
    """Something that is started, watched and stopped: a server or a child."""

    @property
    def name(self) -> str:
        """Unique name."""

    @property
    def stage(self) -> int:
        """Units of the highest stage are stopped first, those of one stage together. Servers have -1."""

    @property
    def restart(self) -> bool:
        """Whether to start it again when it has ended."""

    @property
    def url(self) -> str:
        """Where to reach it, "" if nowhere."""

    @property
    def pid(self) -> int | None:
        """Its process while it runs, if it is ours."""

    async def start(self) -> None:
        """Start it; a server returns when it answers, a child at once."""

    async def check(self) -> str | None:
        """None if it is healthy, else why not."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    async def stop(self) -> bool:
        """End it within its grace; False if it is still there."""

    def kill(self) -> None:
        """End it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A program that the supervisor keeps running.

    Attributes:
        name: unique; also the name of its log, `{data}/logs/{name}.log`.
        argv: program and arguments.
        env: added to the supervisor's environment, the servers' URLs and SSMD_DATA, SSMD_ENV, SSMD_CLOCK.
        health_url: GET answers 200 if it is healthy; 503 with a JSON object whose `reason` says why not.
        health: instead of `health_url`: None if it is healthy, else the reason. With neither, it is healthy once it
            has run for 1 s.
        url: where users find it, shown in the table.
        restart: False for a program that ends by itself; it has failed if its exit code is not 0.
        stop_grace_s: from SIGTERM to SIGKILL.
        stage: children of the highest stage are stopped first, those of one stage together
            (e.g. dagster 0, archiver 1, connectors 2).
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    health_url: str = ""
    health: Health | None = None
    url: str = ""
    restart: bool = True
    stop_grace_s: float = 10.0
    stage: int = 0


class Child:
    """A `ChildSpec` being run. The child leads its own session, so Ctrl-C does not reach it.

    Args:
        spec: what to run.
        environment: the whole environment but for `spec.env`.
        logs: folder for the log.
    """

    def __init__(self, spec: ChildSpec, environment: Mapping[str, str], logs: Path) -> None:
        self.spec = spec
        self.name = spec.name
        self.stage = spec.stage
        self.restart = spec.restart
        self.url = spec.url
        self._environment = {**environment, **spec.env}
        self._log_path = logs / f"{spec.name}.log"
        self._process: Process | None = None
        self._started_s = 0.0

    @property
    def pid(self) -> int | None:
        """Pid while it runs."""
        return self._process.pid if self._process is not None and self._process.running else None

    async def start(self) -> None:
        """Start the process; it may be healthy only later.

        Raises:
            OSError: the program cannot be executed.
        """
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        rotate(self._log_path)
        self._process = Process.start(self.spec.argv, log_path=self._log_path, env=self._environment)
        self._started_s = time.monotonic()

    async def check(self) -> str | None:
        """None if it is healthy, else why not."""
        if self.spec.health is not None:
            return await self.spec.health()
        if self.spec.health_url:
            return await health_reason(self.spec.health_url)
        return None if time.monotonic() - self._started_s >= SETTLED_AFTER_S else "just started"

    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    async def stop(self) -> bool:
        """SIGTERM, after `stop_grace_s` SIGKILL to its group; False if it is still there."""
        return self._process is None or await self._process.stop(signal.SIGTERM, self.spec.stop_grace_s)

    def kill(self) -> None:
        """SIGKILL to its group."""
        if self._process is not None:
            self._process.kill()


def rotate(log_path: Path) -> None:
    """Move a log of more than 10 MiB to `{name}.1`, over the one before."""
    if log_path.exists() and log_path.stat().st_size > LOG_MAX_BYTES:
        log_path.replace(log_path.with_name(f"{log_path.name}.1"))


def end_leftovers(data: Path, grace_s: float) -> list[int]:
    """End every process that a supervisor of this data folder, or a child of it, has left behind (blocking).

    Dagster starts runs and code servers in sessions of their own, which no process group reaches.

    Returns:
        Pids that are still there after SIGTERM, `grace_s` and SIGKILL.
    """
    leftovers = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(FOLDER_VARIABLE) == str(data):
                process.terminate()
                leftovers.append(process)
        except psutil.Error:  # gone, or of another user
            continue
    _, alive = psutil.wait_procs(leftovers, timeout=grace_s)
    for process in alive:
        process.kill()
    _, alive = psutil.wait_procs(alive, timeout=5)
    return [process.pid for process in alive]
