"""The CDC daemon: sessions one after the other, with health and metrics, until the stop or until changes are lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass, field

import structlog
from nats.errors import Error as NatsError
from prometheus_client import CollectorRegistry

from ssmd_core.db.connect import DatabaseError, check_url
from ssmd_core.errors import ConfigError, PublishError, SsmdError, StreamMismatchError
from ssmd_core.settings import Settings
from ssmd_stream.cdc.errors import LinkLostError, ReplicationError, ResnapshotNeededError, SlotBusyError
from ssmd_stream.cdc.names import SLOT, is_slot_name
from ssmd_stream.cdc.session import BACKOFF_S, Pace, Session
from ssmd_stream.cdc.stats import CdcCollector, CdcStats
from ssmd_stream.health import HealthServer
from ssmd_stream.jetstream import ApiError

log = structlog.get_logger()

EXIT_STOPPED = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_RESNAPSHOT = 4
#: A reason that does not change is logged again after so long.
REPEAT_LOG_S = 60.0

_AGAIN = (LinkLostError, ReplicationError, SlotBusyError, DatabaseError, ApiError, NatsError, OSError, TimeoutError)
_POSTGRES = (ReplicationError, SlotBusyError, DatabaseError)


@dataclass(frozen=True, slots=True)
class CdcOptions:
    """What the command line says.

    Attributes:
        slot: name of the replication slot.
        health_host, health_port: where /health, /ready and /metrics are served; port 0 takes a free one, None none.
        pace: see `Pace`.
    """

    slot: str = SLOT
    health_host: str = "127.0.0.1"
    health_port: int | None = None
    pace: Pace = field(default_factory=Pace)


async def run_cdc(options: CdcOptions, settings: Settings) -> int:
    """Publish changes until SIGTERM or SIGINT; then wait for what is under way, confirm it, and end.

    NATS or Postgres may be away at the start or later: that is waited out.

    Returns:
        0 after a clean stop; 1 if a change cannot be published (it stays in the slot, with all after it); 2 for a
        configuration that cannot be used; 4 if changes were lost or may have been, and `ssmd cdc resnapshot` is due.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stats = CdcStats()
    registry = CollectorRegistry()
    registry.register(CdcCollector(stats))
    server: HealthServer | None = None
    try:
        check_url(settings.database_url)
        if not is_slot_name(options.slot):
            raise ConfigError(f"slot {options.slot!r} must be lower-case letters, digits and underscores")
        if options.health_port is not None:
            server = HealthServer(options.health_host, options.health_port, stats.health, registry)
            await server.start()
        await keep_streaming(options, settings, stats, stop)
        code = EXIT_STOPPED
    except ResnapshotNeededError as error:
        log.error("changes_lost", reason=str(error))
        code = EXIT_RESNAPSHOT
    except (ConfigError, StreamMismatchError, PublishError) as error:
        log.error("cannot start", error=str(error))
        code = EXIT_CONFIG
    except SsmdError as error:
        log.error("cdc_failed", error=str(error), error_type=type(error).__name__)
        code = EXIT_FAILED
    finally:
        if server is not None:
            await server.stop()
    log.info("stopped", exit_code=code, events=stats.stored.total(), transactions=stats.transactions)
    return code


async def keep_streaming(options: CdcOptions, settings: Settings, stats: CdcStats, stop: asyncio.Event) -> None:
    """One session after the other until the stop.

    Raises:
        SsmdError: what another session would not mend; see `Session.run`.
    """
    backoff_s, most_s = BACKOFF_S
    logged, logged_s = "", 0.0
    doubtful = False
    while not stop.is_set():
        session = Session(
            options.slot, settings.nats_url, settings.database_url, stats, options.pace, doubtful=doubtful
        )
        try:
            await session.run(stop)
        except _AGAIN as error:
            reason = str(error) or repr(error)
            now_s = time.monotonic()
            if isinstance(error, _POSTGRES):
                stats.postgres_away_s = stats.postgres_away_s or now_s
            else:
                stats.nats_away_s = stats.nats_away_s or now_s
                stats.postgres_away_s = stats.postgres_away_s or now_s
            stats.problem = reason
            if reason != logged or now_s - logged_s > REPEAT_LOG_S:
                log.error("cdc_interrupted", reason=reason)
                logged, logged_s = reason, now_s
        doubtful = not session.proven and (session.streamed or doubtful)
        if session.proven:
            backoff_s = BACKOFF_S[0]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), backoff_s)
        backoff_s = min(backoff_s * 2, most_s)
