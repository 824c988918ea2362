"""What the consumers' processes share: signals, health server, children that live and die together."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from ssmd_core.errors import ConfigError, SsmdError
from ssmd_stream.health import Health, HealthServer
from ssmd_stream.tasks import end_tasks

log = structlog.get_logger()

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2
# Longer than a child needs after a stop, if NATS and the database answer; the supervisor's patience is 10 s.
STOP_S = 8.0

Child = Callable[[asyncio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HealthPort:
    """Where /health, /ready and /metrics are served.

    Attributes:
        host: address.
        port: 0 takes a free one, None serves nothing.
    """

    host: str = "127.0.0.1"
    port: int | None = None


async def run_service(
    children: Mapping[str, Child], check: Callable[[], Health], registry: CollectorRegistry, where: HealthPort
) -> int:
    """Run the children until SIGTERM or SIGINT. One that ends before, ends the process: others cannot do its work.

    Returns:
        0 after a clean stop, 1 if a child failed, 2 for a configuration that cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server: HealthServer | None = None
    if where.port is not None:
        server = HealthServer(where.host, where.port, check, registry)
        try:
            await server.start()
        except ConfigError as error:
            log.error("cannot start", error=str(error))
            return EXIT_CONFIG
    tasks = [asyncio.create_task(_keep(name, child, stop), name=name) for name, child in children.items()]
    await stop.wait()
    _, late = await asyncio.wait(tasks, timeout=STOP_S)
    for task in late:
        log.error("did not stop in time", child=task.get_name())
    await end_tasks(*late)
    codes = await asyncio.gather(*tasks, return_exceptions=True)
    exit_code = max((code if isinstance(code, int) else EXIT_FAILED for code in codes), default=EXIT_STOPPED)
    if server is not None:
        await server.stop()
    log.info("stopped", exit_code=exit_code)
    return exit_code


async def _keep(name: str, child: Child, stop: asyncio.Event) -> int:
    try:
        await child(stop)
    except ConfigError as error:
        log.error("cannot go on", child=name, error=str(error))
        return EXIT_CONFIG
    except (SsmdError, OSError) as error:
        log.error("failed", child=name, error=str(error))
        return EXIT_FAILED
    except Exception:  # a defect of ssmd's own ends the process like any other failure, with its trace
        log.exception("failed", child=name)
        return EXIT_FAILED
    finally:
        early = not stop.is_set()
        stop.set()
    if early:
        log.error("ended by itself", child=name)
        return EXIT_FAILED
    return EXIT_STOPPED
