"""One operating-system process: started in its own session, watched, stopped within a bound, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

POLL_S = 0.05
KILL_WAIT_S = 5.0


class Process:
    """A running process that this program started, or an orphan of an earlier run that it took over.

    A started process leads its own session, so Ctrl-C in the terminal does not reach it, and on Linux it receives
    `death_signal` when the thread that started it ends: start processes from the main thread only.
    """

    def __init__(self, pid: int, popen: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._popen = popen
        self._orphan = psutil.Process(pid) if popen is None else None

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: tuple[int, int] | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
    ) -> Process:
        """Start `argv`; its output is appended to `log_path`.

        Args:
            argv: program and arguments.
            log_path: file for stdout and stderr; its folder must exist.
            env: the whole environment; None inherits.
            cwd: working directory.
            user: (uid, gid) to become, without supplementary groups; only root may.
            death_signal: what the process gets if its parent is killed (Linux).

        Raises:
            OSError: the program cannot be executed.
        """
        with log_path.open("ab") as log:
            popen = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_prepare_child(os.getpid(), death_signal),  # noqa: PLW1509 (see _prepare_child)
                user=None if user is None else user[0],
                group=None if user is None else user[1],
                extra_groups=None if user is None else [],
            )
        return cls(popen.pid, popen)

    @classmethod
    def adopt(cls, pid: int) -> Process:
        """Watch a process that this program did not start.

        Raises:
            psutil.NoSuchProcess: there is none.
        """
        return cls(pid, None)

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs. 0 for an adopted process: its code is not ours to read.

        What the exited process left in its group is killed, before its pid can be used again.
        """
        if self._popen is None:
            assert self._orphan is not None
            return None if _is_alive(self._orphan) else 0
        if self._popen.returncode is not None:
            return self._popen.returncode
        if sys.platform == "linux":
            # WNOWAIT leaves a zombie, which keeps the pid, and with it the group id, from being given to others.
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self._signal_group(signal.SIGKILL)
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """Whether it has not exited."""
        return self.poll() is None

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the exit; False if it still runs after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.running:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def stop(self, stop_signal: signal.Signals, grace_s: float) -> bool:
        """Ask the process to end, kill its group after `grace_s`; False if even that did not end it in 5 s."""
        if self.running:
            self._signal(stop_signal)
            if not await self.wait(grace_s):
                self._signal_group(signal.SIGKILL)
                return await self.wait(KILL_WAIT_S)
        return True

    def kill(self) -> None:
        """SIGKILL to its group, and wait for the exit (blocking, milliseconds)."""
        if self.running:
            self._signal_group(signal.SIGKILL)
        deadline = time.monotonic() + KILL_WAIT_S
        while self.running and time.monotonic() < deadline:
            time.sleep(0.002)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _signal_group(self, number: signal.Signals) -> None:
        # EPERM: every member belongs to another user, which a process we were allowed to start never does.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def find_process(argument: Path) -> int | None:
    """Pid of a running process that has exactly this path among its arguments; None if there is none."""
    wanted = str(argument)
    for process in psutil.process_iter(["cmdline"]):
        if wanted in (process.info["cmdline"] or ()) and process.pid != os.getpid() and _is_alive(process):
            return process.pid
    return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _prepare_child(parent_pid: int, death_signal: signal.Signals) -> Callable[[], None]:
    """What the child does between fork and exec; only system calls through objects that exist before the fork."""

    def prepare() -> None:
        # A non-interactive shell's `&` leaves SIGINT ignored, and Dagster hangs SIGTERM on the SIGINT handler it
        # finds: a code server started so ignores both. Every child starts with the defaults.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if _LIBC is not None:
            # If the parent is killed with SIGKILL it can stop nobody; the kernel then does it for us.
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent_pid:  # it died before the call above
                os.kill(os.getpid(), signal.SIGKILL)

    return prepare
