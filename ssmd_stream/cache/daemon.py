"""The cache daemon: one process, with health and metrics."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from ssmd_core.db.connect import check_url
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings
from ssmd_stream.cache.cache import Cache
from ssmd_stream.cache.stats import CacheCollector
from ssmd_stream.health import HealthServer

log = structlog.get_logger()

EXIT_STOPPED = 0
EXIT_CONFIG = 2


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """What the command line says.

    Attributes:
        health_host, health_port: where /health, /ready and /metrics are served; port 0 takes a free one, None none.
    """

    health_host: str = "127.0.0.1"
    health_port: int | None = None


async def run_cache(options: CacheOptions, settings: Settings) -> int:
    """Keep the cache until SIGTERM or SIGINT; what was applied stays, and the next start goes on behind it.

    Servers that are away are waited for; /health says which.

    Returns:
        0 after a stop, 2 for a configuration that cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server: HealthServer | None = None
    try:
        check_url(settings.database_url)
        cache = Cache(settings)
        if options.health_port is not None:
            registry = CollectorRegistry()
            registry.register(CacheCollector(cache.stats))
            server = HealthServer(options.health_host, options.health_port, cache.stats.health, registry)
            await server.start()
            log.info("serving", health=server.url)
        await cache.run(stop)
    except ConfigError as error:
        log.error("cannot start", error=str(error))
        return EXIT_CONFIG
    finally:
        if server is not None:
            await server.stop()
    log.info("stopped", sequence=cache.stats.sequence, applied=cache.stats.applied.total())
    return EXIT_STOPPED
