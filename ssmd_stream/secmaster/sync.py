"""What can be synced, and how one sync is run: from Dagster, from the command line, from a test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

import psycopg
import structlog

from ssmd_core import config, feeds
from ssmd_core.alerts import Alert, Alerter
from ssmd_core.clock import NS_PER_S
from ssmd_core.db.connect import DatabaseError, connect, now_of
from ssmd_core.db.merge import SyncReport, SyncRun
from ssmd_core.errors import ConfigError
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings
from ssmd_stream.drift.bodies import SOURCE, Bodies, close_bodies, open_bodies
from ssmd_stream.drift.store import store_findings, store_shapes
from ssmd_stream.secmaster.rest import RestClient

log = structlog.get_logger()

_MAX_ALERTS = 20

Mode = Literal["full", "incremental"]


class Work(Protocol):
    """Lists the venue into the run, then calls `run.finish`; raises if the listing is not whole."""

    async def __call__(self, rest: RestClient, run: SyncRun, mode: Mode) -> SyncReport: ...


@dataclass(frozen=True, slots=True)
class SyncTask:
    """Something that can be synced in one run.

    Attributes:
        feed: whose.
        name: what, unique within the feed; the run's scope is `{feed}/{name}`.
        tables: tables it writes, parents first.
        work: does it.
        modes: what it can do; `incremental` deletes nothing and looks back to its watermarks.
        after: names of the feed's tasks that should run before, because this one refers to what they bring.
    """

    feed: str
    name: str
    tables: tuple[str, ...]
    work: Work
    modes: tuple[Mode, ...] = ("full",)
    after: tuple[str, ...] = ()

    @property
    def scope(self) -> str:
        """`{feed}/{name}`."""
        return f"{self.feed}/{self.name}"


def tasks() -> dict[str, SyncTask]:
    """Every sync by scope, parents before children."""
    from ssmd_stream.secmaster import kalshi, kalshi_fees, kraken, kraken_futures, polymarket

    modules = (kalshi, kalshi_fees, kraken, kraken_futures, polymarket)
    return {task.scope: task for module in modules for task in module.TASKS}


def rest_url_of(settings: Settings, feed: Feed) -> str:
    """Base of the feed's REST interface: feed.yaml's, else the registry's.

    Raises:
        ConfigError: feed.yaml is broken or has no version for today.
    """
    file = config.find_feed(settings.config_root, feed)
    if file is None:
        return feed.rest_url
    day = datetime.fromtimestamp(settings.clock.now_ns() // NS_PER_S, UTC).date()
    return file.version_on(day).rest_endpoint or feed.rest_url


async def run_sync(scope: str, settings: Settings, *, mode: Mode = "full", rest_url: str = "") -> SyncReport:
    """Run one sync.

    Args:
        scope: key of `tasks()`.
        rest_url: instead of the configured base.

    Raises:
        ConfigError: an unknown scope or mode, no DATABASE_URL, a broken feed.yaml.
        SyncBusyError: the same sync is running already.
        RestError: the venue did not answer as it should, to the end of the listing; nothing has changed.
        DatabaseError: Postgres refused or went away; nothing has changed.
    """
    task = tasks().get(scope)
    if task is None:
        raise ConfigError(f"no sync {scope!r}; known: {', '.join(tasks())}")
    if mode not in task.modes:
        raise ConfigError(f"sync {scope!r} has no mode {mode!r}, only {', '.join(task.modes)}")
    base = rest_url or rest_url_of(settings, feeds.get(task.feed))
    bodies = open_bodies(task.feed, settings.data / "shapes")
    try:
        async with (
            RestClient.for_feed(task.feed, base) as rest,
            await SyncRun.begin(settings.database_url, scope, mode, settings.clock) as run,
        ):
            report = await task.work(rest, run, mode)
        await _note_bodies(task, settings, bodies)
        return report
    finally:
        close_bodies(task.feed)


async def _note_bodies(task: SyncTask, settings: Settings, bodies: Bodies) -> None:
    """Write down what the sentinel saw in the venue's answers, and tell of what has changed. The sync is committed:
    nothing that goes wrong here undoes it."""
    findings = bodies.take_findings()
    now = now_of(settings.clock)
    try:
        async with await connect(
            settings.database_url, name=f"shapes {task.scope}", clock=settings.clock
        ) as connection:
            await store_shapes(connection, task.feed, SOURCE, bodies.take_shapes(), now, f"sync:{task.scope}")
            await store_findings(connection, task.feed, SOURCE, findings, now)
    except (DatabaseError, psycopg.Error) as error:
        log.warning("shapes_not_stored", scope=task.scope, error=str(error).strip())
    if findings:
        with Alerter.from_environment(f"sync-{task.scope.replace('/', '-')}", settings) as alerter:
            for finding in findings[:_MAX_ALERTS]:
                key = f"drift:{task.feed}:{SOURCE}:{finding.message_type}:{finding.path}:{finding.kind}"
                alerter.raise_(
                    Alert(key, f"{task.feed}: {finding.kind} over REST", finding.detail, "warning", task.feed)
                )
