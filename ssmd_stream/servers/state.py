"""What a supervisor tells other commands: `state.json` in the data folder."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec
import psutil

State = Literal["waiting", "starting", "healthy", "unhealthy", "backoff", "stopping", "stopped", "failed"]

_CLOCK_SLACK_S = 2.0


class UnitState(msgspec.Struct, kw_only=True):
    """One server or child.

    Attributes:
        name: unique name.
        state: `stopped` also for a program that ended with code 0 and is not to be restarted.
        since: when it entered the state.
        detail: why, for a person.
        pid: None if it does not run or is not ours.
        url: without password; "" if there is none.
        restarts: how often it was started again.
    """

    name: str
    state: State
    since: datetime
    detail: str = ""
    pid: int | None = None
    url: str = ""
    restarts: int = 0


class SupervisorState(msgspec.Struct, kw_only=True):
    """A supervisor and all that it runs.

    Attributes:
        pid: the supervisor.
        process_started: epoch seconds at which that process was made, for pids are used again.
        started: when it began to supervise.
        env: environment name, the first token of every subject.
        environment: NATS_URL, DATABASE_URL (with password), REDIS_URL, …, as children get them; empty until the
            servers are up.
        units: servers first, then children.
    """

    pid: int
    process_started: float
    started: datetime
    env: str
    environment: dict[str, str]
    units: list[UnitState]

    @property
    def running(self) -> bool:
        """Whether that supervisor is alive."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.process_started) < _CLOCK_SLACK_S
        except psutil.NoSuchProcess:
            return False

    @property
    def healthy(self) -> bool:
        """Whether it is alive and everything that should run is healthy."""
        return self.running and all(unit.state in {"healthy", "stopped"} for unit in self.units)


def state_path(data: Path) -> Path:
    """Where the state of the supervisor of a data folder lies."""
    return data / "state.json"


def read_state(data: Path) -> SupervisorState | None:
    """State that the last supervisor of this data folder wrote; None if there was none. See `running`."""
    try:
        return msgspec.json.decode(state_path(data).read_bytes(), type=SupervisorState)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_state(data: Path, state: SupervisorState) -> None:
    """Replace the file in one step, readable by its owner only, for it holds the database's password."""
    path = state_path(data)
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(state), indent=2))
    unfinished.replace(path)
