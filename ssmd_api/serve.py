"""Run the API until it is told to stop."""

from __future__ import annotations

import uvicorn

from ssmd_api.app import make_app
from ssmd_api.services import open_services
from ssmd_api.settings import ApiSettings
from ssmd_core.errors import ConfigError

_GRACE_S = 10
_MAX_CONCURRENT = 1_000


async def serve(settings: ApiSettings, host: str, port: int) -> None:
    """Serve; SIGTERM and SIGINT let requests under way end.

    Raises:
        ConfigError: a setting cannot be used, or the port cannot be had.
        DatabaseError: Postgres cannot be reached, or its schema is not this version's.
    """
    async with open_services(settings) as services:
        server = uvicorn.Server(server_config(make_app(services), host, port))
        try:
            await server.serve()
        except SystemExit as error:  # uvicorn's way to say that it could not listen
            raise ConfigError(f"the API cannot listen on {host}:{port}") from error


def server_config(app: object, host: str, port: int) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # any ASGI application
        host=host,
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        limit_concurrency=_MAX_CONCURRENT,
    )
