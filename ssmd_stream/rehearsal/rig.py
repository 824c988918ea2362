"""The real thing on one machine: NATS, connectors and an archiver as processes, each of which can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from ssmd_core.archive.paths import Slot
from ssmd_core.clock import NS_PER_S, NS_PER_US, Clock
from ssmd_core.errors import SsmdError
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.control import control_event, is_control
from ssmd_core.messages.headers import Stamp
from ssmd_stream import jetstream
from ssmd_stream.capture.publisher import Publisher
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.ports import choose_port
from ssmd_stream.servers.process import Process

STOP_GRACE_S = 30.0
READY_S = 60.0


@dataclass
class Daemon:
    """One of ssmd's processes.

    Attributes:
        name: `connector kalshi/crypto`, `archiver`.
        argv: command line after the interpreter.
        env: additions to the environment.
        health_url: base of /health and /metrics.
        log_path: its output.
        exit_codes: of every life that has ended.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    health_url: str
    log_path: Path
    process: Process | None = None
    exit_codes: list[int] = field(default_factory=list)

    def start(self) -> None:
        self.process = Process.start(
            [sys.executable, *self.argv], log_path=self.log_path, env={**os.environ, **self.env}
        )

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.exit_codes.append(self.process.poll() or 0)

    async def stop(self) -> int:
        """SIGTERM and wait.

        Returns:
            The exit code.

        Raises:
            SsmdError: it did not end in time.
        """
        assert self.process is not None
        if not await self.process.stop(signal.SIGTERM, STOP_GRACE_S):
            raise SsmdError(f"{self.name} did not stop; see {self.log_path}")
        code = self.process.poll() or 0
        self.exit_codes.append(code)
        return code

    def ended(self) -> int | None:
        """Exit code if it ended by itself."""
        return None if self.process is None else self.process.poll()


class Rig:
    """NATS, connectors and one archiver on one data folder.

    Args:
        data: folder for everything.
        env: environment name, part of every subject.
        clock: shared by all of them.
    """

    def __init__(self, data: Path, *, env: str, clock: Clock) -> None:
        self.data = data
        self.env = env
        self.clock = clock
        self.logs = data / "logs"
        self.archive_root = data / "archive"
        self.dataset_root = data / "datasets"
        self.connectors: dict[str, Daemon] = {}
        self.archiver: Daemon | None = None
        self.others: list[Daemon] = []
        #: Given to every daemon that is started from then on; "" for none.
        self.database_url = ""
        self.nats = NatsServer(data / "servers" / "nats", port=None, monitor_port=None)
        self._http: aiohttp.ClientSession | None = None
        self._nats_restart = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        await self.nats.start()
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for daemon in self.daemons:
            if daemon.process is not None:
                daemon.process.kill()
        await self.nats.stop()
        if self._http is not None:
            await self._http.close()

    @property
    def daemons(self) -> list[Daemon]:
        return [*self.connectors.values(), *([self.archiver] if self.archiver else []), *self.others]

    def start_connector(
        self,
        name: StreamName,
        *,
        url: str,
        rest_url: str,
        instruments: Sequence[str],
        channels: Sequence[str],
        secrets: Mapping[str, str] | None = None,
    ) -> Daemon:
        """Start the connector of a stream against `url`."""
        port = choose_port(None)
        argv = ["-m", "ssmd_stream.capture", "--feed", name.feed.name, "--stream", name.stream, "--url", url]
        argv += ["--health-port", str(port)]
        for option, value in (
            ("--rest-url", rest_url),
            ("--instruments", ",".join(instruments)),
            ("--channels", ",".join(channels)),
        ):
            if value:
                argv += [option, value]
        daemon = self._daemon(f"connector {name.folder}", argv, port, secrets or {})
        self.connectors[name.folder] = daemon
        daemon.start()
        return daemon

    def start_archiver(self, names: Sequence[StreamName]) -> Daemon:
        """Start one archiver for all streams."""
        port = choose_port(None)
        argv = ["-m", "ssmd_stream.archive", *(name.folder for name in names), "--health-port", str(port)]
        self.archiver = self._daemon("archiver", argv, port, {})
        self.archiver.start()
        return self.archiver

    def start_other(self, name: str, argv: Sequence[str]) -> Daemon:
        """Start another daemon; `argv` stands after the interpreter and gets `--health-port N`."""
        port = choose_port(None)
        daemon = self._daemon(name, [*argv, "--health-port", str(port)], port, {})
        self.others.append(daemon)
        daemon.start()
        return daemon

    def _daemon(self, name: str, argv: Sequence[str], port: int, secrets: Mapping[str, str]) -> Daemon:
        env = {
            "SSMD_DATA": str(self.data),
            "SSMD_ENV": self.env,
            "NATS_URL": self.nats.url,
            "SSMD_CLOCK": self.clock.shared_text(),
            "DATABASE_URL": self.database_url,
            **secrets,
        }
        log_path = self.logs / f"{name.replace(' ', '-').replace('/', '-')}.log"
        return Daemon(name, argv, env, f"http://127.0.0.1:{port}", log_path)

    async def restart_nats(self) -> None:
        """Bring a killed NATS back on its port and store."""
        async with self._nats_restart:
            await self.nats.start()

    async def metric(self, daemon: Daemon, name: str) -> float:
        """Sum of a daemon's series of this name; 0 while it does not answer."""
        assert self._http is not None
        try:
            async with self._http.get(f"{daemon.health_url}/metrics") as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0.0
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )

    async def captured(self, name: StreamName) -> int:
        """Messages of the venue that JetStream holds for a stream: everything but ssmd's own events."""
        client = await jetstream.connect(self.nats.url, name="rehearsal")
        try:
            held = 0
            async for _, message in jetstream.read_stored(client, name.jetstream, after_seq=0):
                held += not is_control(message.data)
            return held
        finally:
            await client.close()

    async def wait_until_up(self, daemon: Daemon) -> None:
        """Wait until /health answers at all.

        Raises:
            SsmdError: the process ended, or took more than a minute.
        """
        assert self._http is not None
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            if daemon.ended() is not None:
                raise SsmdError(f"{daemon.name} ended with code {daemon.ended()}: {_last_lines(daemon.log_path)}")
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._http.get(f"{daemon.health_url}/health"):
                    return
            await asyncio.sleep(0.05)
        raise SsmdError(f"{daemon.name} is not up after {READY_S:.0f} s; see {daemon.log_path}")

    async def seal(self, names: Sequence[StreamName]) -> None:
        """Publish one tick per stream in the slot after the present one, so that every slot up to now is sealed.

        Raises:
            SsmdError: NATS did not acknowledge it.
        """
        at_ns = Slot.of(self.clock.now_ns() // NS_PER_US).end_us * NS_PER_US
        for name in names:
            epoch = f"k9-{at_ns // NS_PER_S}-seal"
            spool = self.data / "spool" / "seal" / name.folder
            publisher = Publisher(nats_url=self.nats.url, stream=name, spool=spool)
            await publisher.start()
            events = (control_event("tick", "k9"), control_event("closed", "k9", reason="seal"))
            for ordinal, event in enumerate(events):
                publisher.publish(name.subject("control", "k9"), event, Stamp(epoch, ordinal, at_ns))
            if not await publisher.drain(30):
                raise SsmdError(f"the sealing tick of {name.jetstream} was not acknowledged")
            await publisher.close()

    async def wait_until_archived(self, names: Sequence[StreamName], timeout_s: float = 120.0) -> None:
        """Wait until the archiver has committed everything that the streams hold.

        Raises:
            SsmdError: it stands still or has ended.
        """
        assert self.archiver is not None
        client = await jetstream.connect(self.nats.url, name="rehearsal")
        try:
            wanted = sum([(await jetstream.stream_state(client, name.jetstream)).last_seq for name in names])
        finally:
            await client.close()
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.archiver.ended() is not None:
                raise SsmdError(f"the archiver ended: {_last_lines(self.archiver.log_path)}")
            if await self.metric(self.archiver, "ssmd_archiver_last_sequence") >= wanted:
                return
            await asyncio.sleep(0.1)
        raise SsmdError(f"the archiver has not archived {wanted} messages after {timeout_s:.0f} s")


def _last_lines(path: Path, count: int = 5) -> str:
    with contextlib.suppress(OSError):
        return " | ".join(path.read_text(errors="replace").splitlines()[-count:])
    return ""
