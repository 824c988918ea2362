"""/health, /ready and /metrics of a daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ssmd_core.errors import ConfigError


class Health(NamedTuple):
    """Attributes:
    ok: /health answers 200.
    ready: /ready answers 200.
    body: JSON object with the reasons.
    """

    ok: bool
    ready: bool
    body: dict[str, Any]


class HealthServer:
    """Serves what `check` says.

    Args:
        port: 0 for a free one.

    Attributes:
        url: base URL, once started.
    """

    def __init__(self, host: str, port: int, check: Callable[[], Health], registry: CollectorRegistry) -> None:
        self._host = host
        self._port = port
        self._check = check
        self._registry = registry
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the port cannot be had.
        """
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(f"health port {self._host}:{self._port}: {error.strerror or error}") from error
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening; half a second at most for answers under way."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        del request
        health = self._check()
        return _json(health.body, 200 if health.ok else 503)

    async def _ready(self, request: web.Request) -> web.Response:
        del request
        health = self._check()
        return _json(health.body, 200 if health.ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _json(body: dict[str, Any], status: int) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
