"""Runs servers and child processes, restarts what ends, stops everything in order: the body of `ssmd up`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
import structlog
from rich.console import Console
from rich.live import Live

from ssmd_core.errors import SsmdError
from ssmd_core.settings import Settings
from ssmd_stream.servers.children import FOLDER_VARIABLE, Child, ChildSpec, Unit, end_leftovers, rotate
from ssmd_stream.servers.errors import FolderInUseError
from ssmd_stream.servers.external import without_password
from ssmd_stream.servers.local import FolderLock, LocalServer
from ssmd_stream.servers.stack import ServerUrls, Stack
from ssmd_stream.servers.state import State, SupervisorState, UnitState, write_state
from ssmd_stream.servers.table import one_line, render

log = structlog.get_logger()

EXIT_FAILED = 1
EXIT_KILLED = 130  # what a shell reports for a program ended by Ctrl-C

_POLL_S = 0.1
_CHECK_EVERY_S = 2.0
_CHECK_EVERY_WHILE_STARTING_S = 0.25
_DIGITS = re.compile(r"[0-9]+")
_STARTING_S = 25.0  # a Dagster webserver needs 8-20 s on two busy cores; later than this is not "starting" any more
_SHOW_EVERY_S = 0.5
_LEFTOVER_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays before restarts: `first_s` doubling to `max_s`, each ±20 % so that children do not return in step.

    A unit that was healthy for `reset_after_s` begins at `first_s` again.
    """

    first_s: float = 1.0
    max_s: float = 60.0
    reset_after_s: float = 60.0

    def delay_s(self, failures: int) -> float:
        """Delay after so many failures in a row, 1 or more."""
        full = min(self.first_s * 2.0 ** min(failures - 1, 32), self.max_s)
        return full * random.uniform(0.8, 1.2)


class Supervisor:
    """Servers, then children; watched until a stop is asked for.

    Args:
        settings: `data` holds everything: `servers/`, `logs/`, `state.json`.
        children: what to run once the servers answer; called with their URLs.
        console: a terminal shows a live table, anything else gets a line per change of state.
        environment: default `os.environ`; see `Stack` for the variables that make a server external.
        backoff: delays before restarts.
    """

    def __init__(
        self,
        settings: Settings,
        children: Callable[[ServerUrls], Sequence[ChildSpec]],
        console: Console,
        *,
        environment: Mapping[str, str] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._children = children
        self._console = console
        self._environment = dict(os.environ if environment is None else environment)
        self._backoff = backoff or Backoff()
        self._units: dict[str, Unit] = {}
        self._states: dict[str, UnitState] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._killed = False
        self._problems: list[str] = []
        self._urls: ServerUrls | None = None
        self._started = datetime.now(UTC)
        self._announced_ready = False

    def request_stop(self) -> None:
        """Ask for an orderly stop: `run` drains and ends everything in order, then returns."""
        self._stop.set()

    def kill(self) -> None:
        """End everything now."""
        self._killed = True
        self._stop.set()
        for task in self._tasks.values():
            task.cancel()
        for unit in self._units.values():
            unit.kill()

    async def run(self) -> int:
        """Start everything, supervise until a stop is asked for, stop everything.

        Returns:
            0 after a clean stop; 1 if a server could not be started, a program that is not restarted failed, or
            something could not be stopped; 130 after a second Ctrl-C.
        """
        data = self._settings.data
        lock = FolderLock(data / "supervisor.lock")
        try:
            lock.acquire()
        except FolderInUseError as error:
            self._print(f"ssmd is already up: {error}")
            return EXIT_FAILED
        try:
            await asyncio.to_thread(end_leftovers, data, _LEFTOVER_GRACE_S)
            with self._signals():
                show = asyncio.create_task(self._show())
                try:
                    await self._start_all()
                    await self._stop.wait()
                finally:
                    await self._stop_all()
                    show.cancel()
                    await asyncio.gather(show, return_exceptions=True)
        finally:
            if self._states:
                self._write_state()
            lock.release()
        for problem in self._problems:
            self._print(problem)
        if self._killed:
            return EXIT_KILLED
        return EXIT_FAILED if self._problems else 0

    async def _start_all(self) -> None:
        """Servers together, then children together; a server that does not start is the end of it."""
        stack = Stack(self._settings, self._environment)
        for server in stack.servers:
            if isinstance(server, LocalServer):
                rotate(server.log_path)
            self._add(server)
        stopped = asyncio.create_task(self._stop.wait())
        starts = asyncio.gather(*(self._first_start(server) for server in stack.servers))
        waiting: list[asyncio.Future[Any]] = [stopped, starts]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starts.done():
            starts.cancel()
            await asyncio.gather(starts, return_exceptions=True)
            return
        if not all(starts.result()) or self._stop.is_set():
            self._stop.set()
            return
        for server in stack.servers:
            self._watch_over(server, started=True)
        self._urls = stack.urls()
        environment = {
            **self._environment,
            **self._urls.environment(),
            "SSMD_DATA": str(self._settings.data),
            "SSMD_ENV": self._settings.env,
            "SSMD_CLOCK": self._settings.clock.shared_text(),
            FOLDER_VARIABLE: str(self._settings.data),
            "PYTHONUNBUFFERED": "1",
        }
        for spec in self._children(self._urls):
            child = Child(spec, environment, self._settings.data / "logs")
            self._add(child)
            self._watch_over(child)

    async def _first_start(self, unit: Unit) -> bool:
        self._set(unit, "starting")
        try:
            await unit.start()
        except (SsmdError, OSError) as error:
            self._set(unit, "failed", str(error))
            self._problems.append(f"{unit.name}: {error}")
            return False
        self._set(unit, "healthy")
        return True

    def _watch_over(self, unit: Unit, *, started: bool = False) -> None:
        def on_end(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._problems.append(f"{unit.name}: supervision failed: {error!r}")
                self._stop.set()

        self._tasks[unit.name] = asyncio.create_task(self._supervise(unit, started=started))
        self._tasks[unit.name].add_done_callback(on_end)

    async def _supervise(self, unit: Unit, *, started: bool = False) -> None:
        """Keep a unit running until the task is cancelled, or it ended and is not to be restarted."""
        failures = 0
        while True:
            healthy_since: float | None = time.monotonic() if started else None
            try:
                if not started:
                    self._set(unit, "starting")
                    await unit.start()
                reason, healthy_since = await self._watch(unit, healthy_since)
            except (SsmdError, OSError) as error:
                reason = str(error)
            started = False
            code = unit.exit_code()
            if not unit.restart:
                if code == 0:
                    self._set(unit, "stopped", "finished")
                else:
                    self._set(unit, "failed", reason)
                    self._problems.append(f"{unit.name}: {reason}")
                return
            if healthy_since is not None and time.monotonic() - healthy_since >= self._backoff.reset_after_s:
                failures = 0
            failures += 1
            delay_s = self._backoff.delay_s(failures)
            self._set(unit, "backoff", f"{delay_s:.1f} s: {reason}")
            await asyncio.sleep(delay_s)
            self._states[unit.name].restarts += 1

    async def _watch(self, unit: Unit, healthy_since: float | None) -> tuple[str, float | None]:
        """Watch a started unit until it exits; returns why, and since when it had been healthy, if it was."""
        begun = time.monotonic()
        next_check = begun
        while True:
            code = unit.exit_code()
            if code is not None:
                return _describe_exit(code), healthy_since
            if time.monotonic() >= next_check:
                try:
                    reason = await unit.check()
                except Exception as error:  # a caller's health check may raise anything; the unit is then not healthy
                    reason = f"health check failed: {error!r}"
                if unit.exit_code() is not None:
                    continue
                if reason is None:
                    healthy_since = healthy_since or time.monotonic()
                    self._set(unit, "healthy")
                else:
                    first_time = healthy_since is None and self._states[unit.name].state == "starting"
                    still_starting = first_time and time.monotonic() - begun < _STARTING_S
                    healthy_since = None
                    self._set(unit, "starting" if still_starting else "unhealthy", reason)
                starting = self._states[unit.name].state == "starting"
                next_check = time.monotonic() + (_CHECK_EVERY_WHILE_STARTING_S if starting else _CHECK_EVERY_S)
            await asyncio.sleep(_POLL_S)

    async def _stop_all(self) -> None:
        """Stage by stage from the highest; servers, the lowest, are supervised until it is their turn."""
        for stage in sorted({unit.stage for unit in self._units.values()}, reverse=True):
            units = [unit for unit in self._units.values() if unit.stage == stage]
            if any(isinstance(unit, LocalServer) for unit in units):
                self._problems += [
                    f"process {pid} could not be stopped"
                    for pid in await asyncio.to_thread(
                        end_leftovers, self._settings.data, 0 if self._killed else _LEFTOVER_GRACE_S
                    )
                ]
            await asyncio.gather(*(self._stop_unit(unit) for unit in units))

    async def _stop_unit(self, unit: Unit) -> None:
        task = self._tasks.pop(unit.name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        before = self._states[unit.name]
        if before.state in {"failed", "stopped"}:
            await unit.stop()
            return
        self._set(unit, "stopping")
        if await unit.stop():
            self._set(unit, "stopped")
        else:
            self._set(unit, "failed", "could not be stopped")
            self._problems.append(f"{unit.name}: process {before.pid} could not be stopped")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal ask for a stop; a second Ctrl-C kills."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set() and number is signal.SIGINT:
            self.kill()
        else:
            self._stop.set()

    def _add(self, unit: Unit) -> None:
        self._units[unit.name] = unit
        self._states[unit.name] = UnitState(name=unit.name, state="waiting", since=datetime.now(UTC))

    def _set(self, unit: Unit, state: State, detail: str = "") -> None:
        shown = self._states[unit.name]
        changed = shown.state != state
        if changed:
            shown.since = datetime.now(UTC)
        # A reason that counts seconds is not news every second.
        news = changed or _DIGITS.sub("", shown.detail) != _DIGITS.sub("", detail)
        if news and not self._console.is_terminal and state != "starting":
            self._print(f"{unit.name}: {state} {one_line(detail)}".strip())
        shown.state, shown.detail, shown.pid = state, detail, unit.pid
        if state == "healthy":
            shown.url = without_password(unit.url)
        if changed:
            self._write_state()

    def _write_state(self) -> None:
        write_state(
            self._settings.data,
            SupervisorState(
                pid=os.getpid(),
                process_started=psutil.Process().create_time(),
                started=self._started,
                env=self._settings.env,
                environment={} if self._urls is None else self._urls.environment(),
                units=list(self._states.values()),
            ),
        )

    async def _show(self) -> None:
        """The live table, until cancelled; if this is no terminal, a line when everything is up for the first time."""
        if not self._console.is_terminal:
            while True:
                self._announce()
                await asyncio.sleep(_SHOW_EVERY_S)
        # auto_refresh would draw from a thread of its own, and processes are forked from this one.
        with Live(console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(render(self._states.values(), datetime.now(UTC)), refresh=True)
                    await asyncio.sleep(_SHOW_EVERY_S)
            finally:
                live.update(render(self._states.values(), datetime.now(UTC)), refresh=True)

    def _print(self, line: str) -> None:
        # As it is: names, paths and reasons are not markup, and a line of a log file is not to be wrapped.
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _announce(self) -> None:
        states = {unit.state for unit in self._states.values()}
        if not self._announced_ready and self._urls is not None and states <= {"healthy", "stopped"}:
            self._announced_ready = True
            took_s = (datetime.now(UTC) - self._started).total_seconds()
            self._print(f"everything is up after {took_s:.1f} s")


async def run_supervised(
    settings: Settings, children: Callable[[ServerUrls], Sequence[ChildSpec]], console: Console
) -> int:
    """Run the servers and children of one installation until Ctrl-C or SIGTERM; see `Supervisor`.

    Call it from the main thread: children die with the thread that started them.

    Returns:
        The exit code, see `Supervisor.run`.
    """
    return await Supervisor(settings, children, console).run()


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
