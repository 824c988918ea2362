"""The supervisor as a process: it restarts, reports, stops in order within bounds and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from ssmd_stream.servers.children import LOG_MAX_BYTES, rotate
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.ports import free_port
from ssmd_stream.servers.state import SupervisorState, UnitState, read_state, state_path
from ssmd_stream.servers.supervisor import Backoff
from ssmd_stream.servers.table import duration, render

# Runs `run_supervised` on the data folder argv[1]; argv[2] is Python for the list of children.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from rich.console import Console
from ssmd_core.settings import Settings
from ssmd_stream.servers.children import ChildSpec
from ssmd_stream.servers.supervisor import run_supervised

def python(name, code, **options):
    return ChildSpec(name=name, argv=[sys.executable, "-c", code], **options)

def children(urls):
    return eval(sys.argv[2])

sys.exit(asyncio.run(run_supervised(Settings.from_environment({"SSMD_DATA": sys.argv[1]}), children, Console())))
"""

SLEEPER = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"


class Up:
    """A running supervisor."""

    def __init__(self, data: Path, children: str, environment: dict[str, str]) -> None:
        self.data = data
        inherited = {k: v for k, v in os.environ.items() if k not in {"NATS_URL", "DATABASE_URL", "REDIS_URL"}}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(data), children],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=inherited | environment,
        )

    def state(self) -> SupervisorState:
        """What it says of itself."""
        state = read_state(self.data)
        assert state is not None
        return state

    def unit(self, name: str) -> UnitState:
        """What it says of one unit."""
        return next(unit for unit in self.state().units if unit.name == name)

    def wait(self, condition: Callable[[SupervisorState], bool], timeout_s: float = 15) -> SupervisorState:
        """Wait for a state of this supervisor."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            state = read_state(self.data)
            if state is not None and state.pid == self.process.pid and condition(state):
                return state
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"not reached: {self.process.communicate()[0]}\n{state_path(self.data).read_text()}")

    def end(self, number: signal.Signals, timeout_s: float = 20) -> tuple[int, str, float]:
        """Send a signal; exit code, output and seconds until the exit."""
        begun = time.monotonic()
        self.process.send_signal(number)
        output = self.process.communicate(timeout=timeout_s)[0]
        return self.process.returncode, output, time.monotonic() - begun


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts a supervisor on the test's data folder."""
    started: list[Up] = []

    def start(children: str = "[]", data: Path = tmp_path / "data", **environment: str) -> Up:
        started.append(Up(data, children, environment))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@contextlib.contextmanager
def health_page() -> Iterator[tuple[str, list[bytes]]]:
    """A page that answers 200 while the list is empty, else 503 with its first item."""
    trouble: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if trouble else 200)
            self.end_headers()
            self.wfile.write(trouble[0] if trouble else b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/health", trouble
        server.shutdown()


def wait_gone(pids: set[int], timeout_s: float = 10) -> set[int]:
    """Wait until none of the processes runs; those that still do."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        pids = {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}
        if not pids:
            break
        time.sleep(0.05)
    return pids


def test_restarts_reports_and_stops_in_order(up: Callable[..., Up], tmp_path: Path) -> None:
    detached = tmp_path / "detached"
    # As Dagster's daemon does: a process of its own session, which no signal to the child's group reaches.
    parent = (
        "import subprocess, sys, time; "
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True); "
        f"open({str(detached)!r}, 'w').write(str(p.pid)); time.sleep(600)"
    )
    with health_page() as (page, trouble):
        supervisor = up(
            f"""[
            python("dagster", {parent!r}),
            python("archiver", {SLEEPER!r}, stage=1, health_url={page!r}),
            python("c0", {STUBBORN!r}, stage=2, stop_grace_s=0.5),
            python("crash", "import time; time.sleep(1.2); raise SystemExit(3)", stage=2),
            python("once", "import os; print(os.environ['NATS_URL'], os.environ['SSMD_DATA'])", restart=False),
            ]"""
        )
        state = supervisor.wait(lambda s: all(u.state in {"healthy", "stopped"} for u in s.units) and len(s.units) == 8)
        assert state.running
        assert state_path(supervisor.data).stat().st_mode & 0o777 == 0o600
        pids = {unit.name: unit.pid for unit in state.units if unit.pid}
        children = {name: pid for name, pid in pids.items() if name in {"dagster", "archiver", "c0"}}
        assert all(os.getsid(pid) == pid for pid in children.values())  # Ctrl-C in the terminal reaches none of them
        urls = f"{state.environment['NATS_URL']} {supervisor.data}\n"
        assert (supervisor.data / "logs" / "once.log").read_text() == urls
        assert ":***@" in supervisor.unit("postgres").url

        supervisor.wait(lambda s: any(u.name == "crash" and u.state == "backoff" for u in s.units))
        assert "exited with code 3" in supervisor.unit("crash").detail
        supervisor.wait(lambda s: any(u.name == "crash" and u.restarts >= 1 and u.state == "healthy" for u in s.units))

        trouble.append(b'{"reason": "no data for 30 s"}')
        supervisor.wait(lambda s: any(u.name == "archiver" and u.state == "unhealthy" for u in s.units))
        assert supervisor.unit("archiver").detail == "no data for 30 s"
        assert not supervisor.state().healthy
        trouble.clear()
        supervisor.wait(lambda s: any(u.name == "archiver" and u.state == "healthy" for u in s.units))

        os.kill(pids["nats"], signal.SIGKILL)
        supervisor.wait(lambda s: any(u.name == "nats" and u.restarts == 1 and u.state == "healthy" for u in s.units))
        assert supervisor.unit("nats").url == state.environment["NATS_URL"]
        assert supervisor.unit("nats").pid != pids["nats"]

        running = {unit.pid for unit in supervisor.state().units if unit.pid} | {int(detached.read_text())}
        code, output, seconds = supervisor.end(signal.SIGTERM)
    assert code == 0, output
    assert seconds < 8
    assert not wait_gone(running, 0.1)
    order = ["c0: stopped", "archiver: stopped", "dagster: stopped", "nats: stopped"]
    places = [output.index(line) for line in order]
    assert places == sorted(places), output
    assert "everything is up after" in output
    assert not supervisor.state().running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_killed_supervisor_leaves_nothing_and_next_one_starts(up: Callable[..., Up]) -> None:
    first = up(f'[python("sleeper", {SLEEPER!r}), python("deaf", {STUBBORN!r})]')
    state = first.wait(lambda s: s.healthy and len(s.units) == 5)
    pids = {unit.name: unit.pid for unit in state.units if unit.pid}
    deaf = pids.pop("deaf")
    # Another cannot start meanwhile.
    refused = up()
    assert f"in use by process {first.process.pid}" in refused.process.communicate(timeout=10)[0]
    assert refused.process.returncode == 1

    first.process.kill()
    first.process.wait()
    second = up()
    assert not wait_gone(set(pids.values()))
    state = second.wait(lambda s: s.healthy and len(s.units) == 3)
    assert not wait_gone({deaf}, 0.1)  # it ignores SIGTERM: the next supervisor found and killed it
    code, output, _ = second.end(signal.SIGINT)
    assert code == 0, output


def test_second_ctrl_c_kills(up: Callable[..., Up], nats_url: str) -> None:
    supervisor = up(f'[python("deaf", {STUBBORN!r}, stop_grace_s=600)]', NATS_URL=nats_url)
    state = supervisor.wait(lambda s: s.healthy and len(s.units) == 4)
    assert supervisor.unit("nats").pid is None  # external
    pids = {unit.pid for unit in state.units if unit.pid}
    supervisor.process.send_signal(signal.SIGINT)
    supervisor.wait(lambda s: any(u.name == "deaf" and u.state == "stopping" for u in s.units))
    code, output, seconds = supervisor.end(signal.SIGINT)
    assert code == 130, output
    assert seconds < 5
    assert not wait_gone(pids, 0.1)
    asyncio.run(check_nats(nats_url))


async def check_nats(url: str) -> None:
    """An external server has survived."""
    from ssmd_stream.servers.external import nats_reason

    assert await nats_reason(url) is None


def test_failures_show_in_the_exit_code(up: Callable[..., Up], tmp_path: Path) -> None:
    supervisor = up('[python("migrate", "raise SystemExit(4)", restart=False)]')
    supervisor.wait(lambda s: any(u.name == "migrate" and u.state == "failed" for u in s.units))
    code, output, _ = supervisor.end(signal.SIGTERM)
    assert code == 1
    assert "migrate: exited with code 4" in output

    server = NatsServer(tmp_path / "data" / "servers" / "nats", port=None, monitor_port=None)
    asyncio.run(server.start())
    try:
        blocked = up()
        output = blocked.process.communicate(timeout=20)[0]
        assert blocked.process.returncode == 1
        assert f"nats: {server.folder} is in use by process {os.getpid()}" in output
        assert asyncio.run(server.healthy())
    finally:
        asyncio.run(server.stop())


def test_backoff_doubles_to_a_minute() -> None:
    delays = [Backoff().delay_s(failures) for failures in range(1, 11)]
    for delay, full in zip(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60], strict=True):
        assert 0.8 * full <= delay <= 1.2 * full


def test_log_is_rotated_by_size(tmp_path: Path) -> None:
    log = tmp_path / "c0.log"
    rotate(log)
    log.write_bytes(b"short")
    rotate(log)
    assert log.exists()
    log.write_bytes(b"x" * (LOG_MAX_BYTES + 1))
    rotate(log)
    assert not log.exists()
    assert (tmp_path / "c0.log.1").stat().st_size == LOG_MAX_BYTES + 1


def test_table_shows_what_is_wrong() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    unit = UnitState(
        name="nats", state="backoff", since=now - timedelta(minutes=3), detail="2.0 s: exited\n[1] start\n[1] disk full"
    )
    console = Console(file=io.StringIO(), width=120)
    console.print(render([unit], now))
    assert isinstance(console.file, io.StringIO)
    assert "backoff  3 min" in console.file.getvalue()
    assert "2.0 s: exited … [1] disk full" in console.file.getvalue()
    assert [duration(s) for s in (0, 59, 60, 7_200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]
