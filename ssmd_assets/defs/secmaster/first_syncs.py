"""A new installation does not wait for its schedules: what was never synced is asked for at once, a run a venue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.defs.secmaster.schedules import is_disabled
from ssmd_assets.defs.secmaster.syncs import SYNCS
from ssmd_core.settings import Settings

secmaster_first = dg.define_asset_job(
    "secmaster_first",
    selection=dg.AssetSelection.assets(*(key for sync in SYNCS.values() for key in sync.keys)),
    description="The first full listing of a venue.",
)


@dg.sensor(
    name="secmaster_first_syncs",
    job=secmaster_first,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks once for every venue that has never been synced; if that fails, the schedules go on trying.",
)
def first_syncs(environment: Environment) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """One run a venue; the run key keeps it from being asked for twice."""
    from ssmd_core.db.connect import DatabaseError

    settings = environment.settings()
    if not environment.asks_venues() or not settings.database_url:
        yield dg.SkipReason("SSMD_SCHEDULES is off, or DATABASE_URL is not set.")
        return
    try:
        done = asyncio.run(_synced(settings))
    except DatabaseError as error:
        yield dg.SkipReason(str(error))
        return
    waiting = [sync for sync in SYNCS.values() if sync.scope not in done and not is_disabled(settings, sync.feed)]
    if not waiting:
        yield dg.SkipReason("Every venue has been synced.")
    for feed in dict.fromkeys(sync.feed.name for sync in waiting):
        keys = [key for sync in waiting if sync.feed.name == feed for key in sync.keys]
        yield dg.RunRequest(run_key=f"first-{feed}", asset_selection=keys)


async def _synced(settings: Settings) -> set[str]:
    """Scopes that have a finished run."""
    from ssmd_core.db.connect import connect

    async with await connect(settings.database_url, name="first syncs") as connection:
        rows = await (await connection.execute("SELECT DISTINCT scope FROM sync_runs")).fetchall()
    return {row[0] for row in rows}
