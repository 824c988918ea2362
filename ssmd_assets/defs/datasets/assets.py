"""Parquet files of an hour: one step a stream, one asset a message type.

A type without a message in the hour is `empty`, not missing, where the archive proves it: all four slots are sealed,
no sequence is missing and none of its messages was rejected. It is then materialised with no rows and `empty: true`.
Where the archive proves nothing the asset is not materialised for the hour, and Dagster shows the hour as missing.
"""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from ssmd_assets.defs.datasets.checks import Finding, check_specs, hour_findings, type_findings
from ssmd_assets.defs.datasets.columns import column_lineage, table_schema
from ssmd_assets.defs.datasets.hour import Hour
from ssmd_assets.defs.datasets.ledgers import ledger_check_specs, ledger_findings, ledger_made, ledger_spec
from ssmd_assets.defs.datasets.materializations import Made, dataset_made, rejects_made
from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.keys import OWNERS, STREAMS, archive_key, dataset_key, dataset_types, identifier, rejects_key
from ssmd_assets.lib.sealed import SLOTS_PER_HOUR
from ssmd_assets.lib.text import visible
from ssmd_assets.partitions import HOURLY
from ssmd_core.archive.paths import parse_hour
from ssmd_core.errors import SsmdError
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings

# A run costs about 3.3 s before it does anything, an hour of a quiet stream less than that. A day in a run of its own
# keeps a backfill's runs short enough to be repeated.
HOURS_PER_BACKFILL_RUN = 24
_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))

StepEvent = dg.MaterializeResult[None] | dg.AssetCheckResult | dg.AssetMaterialization | dg.AssetCheckEvaluation


def dataset_assets() -> list[dg.AssetsDefinition]:
    """One multi-asset a stream."""
    return [hour_assets(feed, stream) for feed, stream in STREAMS]


def hour_assets(feed: Feed, stream: str) -> dg.AssetsDefinition:
    """The datasets, the rejects and the ledger of one stream, made together by one step.

    The step makes every file of the hour whatever is selected: they come from one reading of the archive. What was
    not selected is reported all the same, for its file was written.
    """

    @dg.multi_asset(
        name=f"{identifier(feed.name)}_{identifier(stream)}_hour",
        specs=[
            *(_dataset_spec(feed, stream, name) for name in dataset_types(feed)),
            _rejects_spec(feed, stream),
            ledger_spec(feed, stream),
        ],
        check_specs=[*check_specs(feed, stream), *ledger_check_specs(feed, stream)],
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.multi_run(HOURS_PER_BACKFILL_RUN),
    )
    def hour_step(context: dg.AssetExecutionContext, environment: Environment) -> Iterator[StepEvent]:
        settings = environment.settings()
        one_hour = len(context.partition_keys) == 1
        failed: list[str] = []
        for partition in context.partition_keys:
            try:
                made, findings = make_hour(context, settings, feed, stream, partition)
            except dg.Failure as failure:
                if one_hour:
                    raise
                failed.append(f"{partition}: {failure.description}")
                continue
            yield from _hour_events(context, partition, made, findings, one_hour=one_hour)
            if not one_hour:
                failed.extend(f"{partition}: {finding.description}" for finding in findings if finding.blocks)
        if failed:
            raise dg.Failure(
                f"{len(failed)} of {len(context.partition_keys)} hours failed. First: {failed[0]}",
                metadata={"failed": failed},
                allow_retries=False,
            )

    return hour_step


def make_hour(
    context: dg.AssetExecutionContext, settings: Settings, feed: Feed, stream: str, partition: str
) -> tuple[list[Made], list[Finding]]:
    """Make the files of one hour, and say what was made of them and whether it is sound.

    Raises:
        dg.Failure: there is no sealed file to make the hour of, or it cannot be made.
    """
    try:
        hour = Hour.make(settings, feed, stream, parse_hour(partition))
    except SsmdError as error:
        raise dg.Failure(f"{partition} of {feed.name}/{stream}: {visible(str(error))}", allow_retries=False) from error
    if not hour.report.sources:
        raise dg.Failure(
            f"No sealed file of {partition} in {settings.archive_root / feed.name / stream}: nothing was captured in "
            f"this hour, or SSMD_DATA ({settings.data}) is not the archive's folder. What happened in the hour is "
            f"unknown, so nothing is reported for it.",
            allow_retries=False,
        )
    made = [rejects_made(hour, settings.dataset_root), ledger_made(hour, settings)]
    findings = [*hour_findings(hour), *ledger_findings(hour)]
    for name in dataset_types(feed):
        one = dataset_made(hour, name, settings.dataset_root)
        if one is not None:
            made.append(one)
        if one is not None or hour.report.rejects.get(name):
            findings.extend(type_findings(hour, name))
        else:
            context.log.warning(
                f"{partition} of {name}: no message, but the archive does not prove that there was none "
                f"({hour.slots} of {SLOTS_PER_HOUR} slots, {hour.lost} messages missing); left open"
            )
    return made, findings


def _hour_events(
    context: dg.AssetExecutionContext, partition: str, made: list[Made], findings: list[Finding], *, one_hour: bool
) -> Iterator[StepEvent]:
    for one in made:
        if one_hour and one.key in context.selected_asset_keys:
            yield one.result()
        else:
            yield one.event(partition)
    for finding in findings:
        if one_hour and finding.key in context.selected_asset_check_keys:
            yield finding.result()
        else:
            yield finding.evaluation(partition)


def _dataset_spec(feed: Feed, stream: str, message_type: str) -> dg.AssetSpec:
    kind = feed.message_types[message_type]
    assert kind.schema is not None
    archive = archive_key(feed, stream)
    return dg.AssetSpec(
        dataset_key(feed, stream, message_type),
        deps=[archive],
        description=(
            f"{feed.display_name} `{message_type}`, one file an hour: "
            f"`{feed.name}/{stream}/YYYY-MM-DD/{message_type}_HH00.parquet`. {kind.description}"
        ).strip(),
        skippable=True,
        group_name=identifier(feed.name),
        owners=OWNERS,
        kinds={"parquet", feed.name},
        code_version=kind.schema.version,
        partitions_def=HOURLY,
        freshness_policy=_FRESHNESS,
        metadata={
            "dagster/column_schema": table_schema(kind.schema),
            "dagster/column_lineage": column_lineage(kind.schema, archive),
            "schema": f"{kind.schema.name} {kind.schema.version}",
        },
    )


def _rejects_spec(feed: Feed, stream: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        rejects_key(feed, stream),
        deps=[archive_key(feed, stream)],
        description=(
            f"Messages of {feed.display_name} that became no row, each with the reason and the raw line: "
            f"`rejects_HH00.jsonl.gz`; and the books of the hour: what came, what became rows, what is missing."
        ),
        skippable=True,
        group_name=identifier(feed.name),
        owners=OWNERS,
        kinds={"gzip", "json", feed.name},
        partitions_def=HOURLY,
        freshness_policy=_FRESHNESS,
    )
