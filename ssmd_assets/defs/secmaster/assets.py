"""The security master's tables: one step a sync, one asset a table and venue; and the interfaces they come from.

A sync is one transaction, so a failed step has changed nothing. What a sync leaves unchanged keeps its data version,
so nothing downstream becomes stale by it.
"""

from collections.abc import Iterator

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.defs.secmaster.checks import Before, check_results, check_specs
from ssmd_assets.defs.secmaster.columns import table_schema
from ssmd_assets.defs.secmaster.materializations import table_metadata
from ssmd_assets.defs.secmaster.run import Synced
from ssmd_assets.defs.secmaster.syncs import SYNCS, Mode, Sync
from ssmd_assets.lib.keys import OWNERS, identifier, rest_key, secmaster_key
from ssmd_core.feeds import FEEDS

GROUP = "secmaster"
# The REST client has repeated each request by then: what is left is an outage of minutes. 1, 2 and 4 minutes, each
# give or take some, so that the venues' clients do not come back in step.
RETRY = dg.RetryPolicy(max_retries=3, delay=60, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


class SyncConfig(dg.Config):
    """How a sync is run.

    Attributes:
        mode: `full` lists everything, and deletes what two full listings in a row do not show; `incremental`, where
            the sync has it, asks for what is open and what has lately closed.
    """

    mode: Mode = "full"


def secmaster_assets() -> list[dg.AssetsDefinition]:
    """One multi-asset a sync."""
    return [sync_assets(sync) for sync in SYNCS.values()]


def rest_specs() -> list[dg.AssetSpec]:
    """One external asset a venue's REST interface; nothing reports it, lineage ends there."""
    return [
        dg.AssetSpec(
            rest_key(feed),
            description=f"What {feed.display_name} lists, asked over its public REST interface; it needs no key.",
            group_name=identifier(feed.name),
            owners=OWNERS,
            kinds={"api", feed.name},
            metadata={"endpoint": dg.MetadataValue.url(feed.rest_url)},
        )
        for feed in FEEDS.values()
    ]


def sync_assets(sync: Sync) -> dg.AssetsDefinition:
    """The tables that one sync fills, together: one listing, one transaction."""

    @dg.multi_asset(
        name=sync.step,
        specs=[_spec(sync, table) for table in sync.tables],
        check_specs=check_specs(sync),
        pool=f"{identifier(sync.feed.name)}_rest",
        retry_policy=RETRY,
    )
    def sync_step(
        context: dg.AssetExecutionContext, config: SyncConfig, environment: Environment
    ) -> Iterator[dg.MaterializeResult[None]]:
        synced = Synced.make(environment.settings(), sync, config.mode)
        if warnings := synced.report.warnings:
            context.log.warning(f"{sync.scope}: {sum(warnings.values())} warnings, see the metadata")
        for table, key in zip(sync.tables, sync.keys, strict=True):
            before = Before.of(context.instance, key)
            yield dg.MaterializeResult(
                asset_key=key,
                metadata=table_metadata(synced, table, before),
                data_version=dg.DataVersion(synced.states[table].version),
                check_results=check_results(sync, synced, table, before),
            )

    return sync_step


def _spec(sync: Sync, table: str) -> dg.AssetSpec:
    feed = sync.feed
    before = [name for one in sync.after for name in SYNCS[f"{feed.name}/{one}"].tables]
    parents = [secmaster_key(feed, name) for name in (*before, *sync.tables[: sync.tables.index(table)])]
    return dg.AssetSpec(
        secmaster_key(feed, table),
        deps=[rest_key(feed), *parents],
        description=(
            f"Table `{table}`: {_DESCRIPTIONS[table]} of {feed.display_name}. Every version of every row stands in "
            f"`{table}_history`."
        ),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"postgres", feed.name},
        # One missed tick warns, two fail; half a period is for the run itself.
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=2.5 * sync.every, warn_window=1.5 * sync.every),
        metadata={
            "dagster/column_schema": table_schema(table),
            "dagster/table_name": f"public.{table}",
            "dagster/storage_kind": "postgres",
        },
    )


_DESCRIPTIONS = {
    "series": "series, the templates that events are made from,",
    "series_fees": "changes of the series' fees",
    "events": "events",
    "markets": "markets, prices in dollars,",
    "pairs": "instruments",
    "polymarket_conditions": "conditions, which are its markets,",
    "polymarket_tokens": "tokens, one an outcome of a condition,",
}
