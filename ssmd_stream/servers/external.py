"""Servers that somebody else runs: named by NATS_URL, DATABASE_URL or REDIS_URL, checked, never started or stopped."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from ssmd_stream.servers.errors import ServerError
from ssmd_stream.servers.nats import USUAL_PORT as NATS_PORT
from ssmd_stream.servers.postgres import query_reason
from ssmd_stream.servers.valkey import ping_reason

_TIMEOUT_S = 3.0
_RETRY_S = 0.5


class ExternalServer:
    """A server that is only checked.

    Args:
        name: as in the table, e.g. `nats`.
        url: as given.
        probe: None if the server behind `url` answers, else the reason why not.
        start_timeout_s: how long `start` waits for it to answer.
    """

    restart = True
    stage = -1

    def __init__(
        self, name: str, url: str, probe: Callable[[str], Awaitable[str | None]], start_timeout_s: float = 30.0
    ) -> None:
        self.name = name
        self.url = url
        self.pid: int | None = None
        self._probe = probe
        self._start_timeout_s = start_timeout_s

    async def start(self) -> None:
        """Wait until it answers.

        Raises:
            ServerError: it does not in time.
        """
        deadline = time.monotonic() + self._start_timeout_s
        while (reason := await self.check()) is not None:
            if time.monotonic() >= deadline:
                raise ServerError(f"{self.name} at {without_password(self.url)} does not answer: {reason}")
            await asyncio.sleep(_RETRY_S)

    async def check(self) -> str | None:
        """None if it answers, else why not."""
        return await self._probe(self.url)

    def exit_code(self) -> int | None:
        """None: it is not our process."""
        return None

    async def stop(self) -> bool:
        """Leave it alone."""
        return True

    def kill(self) -> None:
        """Leave it alone."""


async def nats_reason(url: str) -> str | None:
    """None if one of the comma-separated servers greets with NATS's INFO line, else why the last one does not."""
    reason: str | None = "no server in the URL"
    for server in url.split(","):
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port or NATS_PORT)
                try:
                    greeting = await reader.readline()
                finally:
                    writer.close()
        except TimeoutError:
            reason = f"{parts.hostname}: no answer in {_TIMEOUT_S:g} s"
        except (OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        else:
            if greeting.startswith(b"INFO "):
                return None
            reason = f"{parts.hostname}: does not speak NATS"
    return reason


async def database_reason(url: str) -> str | None:
    """As `postgres.query_reason`, also for SQLAlchemy's `postgresql+driver://`."""
    return await query_reason(re.sub(r"^postgres(ql)?\+\w+://", "postgresql://", url))


async def installation_reason(url: str) -> str | None:
    """As `database_reason`, for ssmd's database and for Dagster's beside it, which must exist as well."""
    return await database_reason(url) or await database_reason(dagster_url(url))


def dagster_url(url: str) -> str:
    """URL of the database `dagster` on the same server."""
    return urlsplit(url)._replace(path="/dagster").geturl()


redis_reason = ping_reason


def without_password(url: str) -> str:
    """`url` as it may be shown."""
    return re.sub(r"(?<=:)[^:/@]+(?=@)", "***", url)
