"""Run the API until it is told to stop."""

from __future__ import annotations

import signal
import socket
from types import FrameType

import uvicorn

from ssmd_api.app import make_app
from ssmd_api.connections import Connection
from ssmd_api.services import Services, open_services
from ssmd_api.settings import ApiSettings
from ssmd_core.errors import ConfigError

_GRACE_S = 10
_MAX_CONCURRENT = 1_000


class ApiServer(uvicorn.Server):
    """uvicorn on these services.

    Args:
        port: 0 for a free one.
    """

    def __init__(self, services: Services, host: str, port: int) -> None:
        super().__init__(_config(make_app(services), host, port))
        self._services = services

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; a second Ctrl-C does not wait for requests under way.

        uvicorn's own raises the signal again when it has ended, which would kill the process before it has written
        what it keeps in memory.
        """
        del frame
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams that would last for ever, then wait for the other answers."""
        self._services.board.end()
        await super().shutdown(sockets)


async def serve(settings: ApiSettings, host: str, port: int) -> None:
    """Serve; SIGTERM and SIGINT let requests under way end.

    Raises:
        ConfigError: a setting cannot be used, or the port cannot be had.
        DatabaseError: Postgres cannot be reached, or its schema is not this version's.
    """
    async with open_services(settings) as services:
        server = ApiServer(services, host, port)
        try:
            await server.serve()
        except SystemExit as error:  # uvicorn's way to say that it could not listen
            raise ConfigError(f"the API cannot listen on {host}:{port}") from error


def _config(app: object, host: str, port: int) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # any ASGI application
        host=host,
        port=port,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        limit_concurrency=_MAX_CONCURRENT,
    )
