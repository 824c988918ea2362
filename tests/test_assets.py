"""Definitions, hours through Dagster's engine, and their checks."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from little_archive import BAD_TRADE, TICKER, TRADE, LittleArchive, at

from ssmd_assets.definitions import defs
from ssmd_assets.defs.archives.assets import archive_specs
from ssmd_assets.defs.datasets.assets import dataset_assets, hour_assets
from ssmd_assets.defs.datasets.checks import hour_findings, type_findings
from ssmd_assets.defs.datasets.hour import Hole, Hour
from ssmd_assets.defs.resources import Environment
from ssmd_assets.defs.secmaster.assets import rest_specs, secmaster_assets
from ssmd_assets.defs.secmaster.schedules import sync_schedules
from ssmd_assets.defs.streams.assets import stream_specs
from ssmd_assets.lib.keys import STREAMS, dataset_types
from ssmd_core.archive.manifest import Gap
from ssmd_core.drift.findings import null_column
from ssmd_core.feeds import get
from ssmd_core.settings import Settings

KRAKEN = get("kraken")
HOUR = "2026-11-20-11:00"
ELEVEN = at("2026-11-20T11:00")
TRADES = dg.AssetKey(["kraken", "spot", "trade"])
TICKERS = dg.AssetKey(["kraken", "spot", "ticker"])
BOOKS = dg.AssetKey(["kraken", "spot", "rejects"])


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LittleArchive:
    monkeypatch.setenv("SSMD_DATA", str(tmp_path))
    return LittleArchive(tmp_path / "archive")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def make(instance: dg.DagsterInstance, partition: str = HOUR, **options: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*archive_specs(), hour_assets(KRAKEN, "spot")],
        partition_key=partition,
        resources={"environment": Environment()},
        instance=instance,
        raise_on_error=False,
        **options,
    )


def metadata_of(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> dict[str, Any]:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition]), limit=1
    ).records
    assert records, f"{key.to_user_string()} {partition} is not materialised"
    materialization = records[0].asset_materialization
    assert materialization is not None
    return {name: value.value for name, value in materialization.metadata.items()}


def evaluations(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    return {
        (evaluation.asset_key.path[-1], evaluation.check_name): evaluation
        for evaluation in result.get_asset_check_evaluations()
    }


def test_definitions_load() -> None:
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    for feed, stream in STREAMS:
        folder = [feed.name.replace("-", "_"), stream]
        raw, stored = dg.AssetKey([*folder, "stream"]), dg.AssetKey([*folder, "archive"])
        assert graph.get(stored).parent_keys == {raw}
        made = [dg.AssetKey([*folder, name]) for name in (*dataset_types(feed), "rejects", "ledger")]
        for key in made:
            assert graph.get(key).parent_keys == {stored}
        assert graph.get(stored).child_keys == set(made)
        for key in (raw, stored, *made):
            node = graph.get(key)
            assert node.group_name == folder[0]
            assert node.owners == ["team:market-data"]
            assert node.freshness_policy is not None
            assert feed.name in node.kinds
            assert (node.partitions_def is None) == (key == raw)
            assert node.is_executable == (key in made)
    assert {f"{feed.name}/{stream}" for feed, stream in STREAMS} == {
        "kalshi/crypto",
        "kraken/spot",
        "kraken-futures/futures",
        "polymarket/markets",
    }


def test_a_dataset_shows_its_columns_before_the_first_run() -> None:
    node = defs.resolve_asset_graph().get(TRADES)
    columns = {column.name: column for column in node.metadata["dagster/column_schema"].columns}
    schema = KRAKEN.schema_of("trade")
    assert schema is not None
    assert list(columns) == [
        *(column.name for column in schema.columns), "_nats_seq", "_received_at", "_epoch", "_ordinal"
    ]  # fmt: skip
    assert not columns["price"].constraints.nullable
    lineage = node.metadata["dagster/column_lineage"].deps_by_column
    assert [(dep.asset_key.path[-1], dep.column_name) for dep in lineage["price"]] == [("archive", "data[].price")]
    assert node.code_version == schema.version


def test_only_the_allowed_preview_parts_are_used() -> None:
    """`lib/checks.py` alone uses preview parts, and silences them there; another one is a decision."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", dg.PreviewWarning)
        warnings.simplefilter("error", dg.BetaWarning)
        warnings.simplefilter("error", DeprecationWarning)
        warnings.filterwarnings("ignore", message="The `__fields__` attribute is deprecated")  # dagster's own
        dg.Definitions.validate_loadable(
            dg.Definitions(
                [*stream_specs(), *archive_specs(), *dataset_assets(), *rest_specs(), *secmaster_assets()],
                schedules=sync_schedules(),
                resources={"environment": Environment()},
            )
        )


def test_the_definitions_import_nothing_heavy() -> None:
    code = (
        "import sys, ssmd_assets.definitions; "
        "print([name for name in ('duckdb', 'pyarrow', 'polars', 'nats', 'aiohttp', 'psycopg') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_an_hour_through_the_engine(archive: LittleArchive, instance: dg.DagsterInstance) -> None:
    archive.seal_hour(ELEVEN, [TICKER] * 30 + [TRADE, b'{"channel":"heartbeat"}'])
    result = make(instance)
    assert result.success
    ticker = metadata_of(instance, TICKERS, HOUR)
    assert ticker["dagster/partition_row_count"] == 120
    file = Path(ticker["path"])
    assert file.name == "ticker_1100.parquet"
    assert file.stat().st_size == ticker["bytes"]
    assert set(ticker["source_files"]) == {f"11{quarter}.jsonl.gz" for quarter in ("00", "15", "30", "45")}
    checks = evaluations(result)
    # Nothing but ssmd's own events can show what was asked for: a bare archive is sound, and never complete.
    assert {name for name, check in checks.items() if not check.passed} == {("ledger", "complete")}
    assert all(check.partition == HOUR for check in checks.values())
    assert "128 messages = 124 with rows + 0 rejected + 4 without" in str(checks["rejects", "row_balance"].description)

    version = instance.get_latest_materialization_event(TICKERS)
    assert version is not None
    assert version.asset_materialization is not None
    assert (version.asset_materialization.tags or {})["dagster/data_version"] == ticker["sha256"]


def test_empty_is_told_from_unknown(archive: LittleArchive, instance: dg.DagsterInstance) -> None:
    archive.seal_hour(ELEVEN, [TICKER])
    archive.seal(at("2026-11-20T12:00"), [TICKER])  # capture stopped in the hour's first quarter
    assert make(instance).success
    assert make(instance, "2026-11-20-12:00").success
    empty = metadata_of(instance, TRADES, HOUR)
    assert empty["empty"] is True
    assert empty["dagster/partition_row_count"] == 0
    assert instance.get_materialized_partitions(TRADES) == {HOUR}
    assert instance.get_materialized_partitions(TICKERS) == {HOUR, "2026-11-20-12:00"}


def test_an_hour_without_files_fails_and_reports_nothing(archive: LittleArchive, instance: dg.DagsterInstance) -> None:
    result = make(instance)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "No sealed file of 2026-11-20-11:00" in str(failure.step_failure_data.user_failure_data)
    assert not instance.get_materialized_partitions(BOOKS)


def test_one_type_alone_reports_what_was_written_beside_it(
    archive: LittleArchive, instance: dg.DagsterInstance
) -> None:
    archive.seal_hour(ELEVEN)
    assert make(instance, selection=[TICKERS]).success
    assert metadata_of(instance, TRADES, HOUR)["dagster/partition_row_count"] == 4


def test_several_hours_in_one_run_keep_their_own_numbers(archive: LittleArchive, instance: dg.DagsterInstance) -> None:
    archive.seal_hour(ELEVEN, [TICKER])
    archive.seal_hour(at("2026-11-20T13:00"), [TICKER, TICKER, TRADE])
    job = dg.Definitions(
        [*archive_specs(), hour_assets(KRAKEN, "spot")], resources={"environment": Environment()}
    ).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        raise_on_error=False,
        tags={
            "dagster/asset_partition_range_start": HOUR,
            "dagster/asset_partition_range_end": "2026-11-20-13:00",
        },
    )
    assert not result.success  # noon has no archive; its neighbours are made all the same
    assert instance.get_materialized_partitions(TICKERS) == {HOUR, "2026-11-20-13:00"}
    assert metadata_of(instance, TICKERS, HOUR)["dagster/partition_row_count"] == 4
    assert metadata_of(instance, TICKERS, "2026-11-20-13:00")["dagster/partition_row_count"] == 8
    balance = [check for check in result.get_asset_check_evaluations() if check.check_name == "row_balance"]
    assert {check.partition for check in balance} == {HOUR, "2026-11-20-13:00"}


def test_a_late_file_gives_the_hour_a_new_version(archive: LittleArchive, instance: dg.DagsterInstance) -> None:
    archive.seal_hour(ELEVEN)
    assert make(instance).success
    before = metadata_of(instance, TRADES, HOUR)
    archive.seal(ELEVEN, [TRADE], late=1)
    assert make(instance).success
    after = metadata_of(instance, TRADES, HOUR)
    assert after["dagster/partition_row_count"] == before["dagster/partition_row_count"] + 1
    assert after["sha256"] != before["sha256"]
    assert "1100-01.jsonl.gz" in after["source_files"]
    assert make(instance).success
    assert metadata_of(instance, TRADES, HOUR)["sha256"] == after["sha256"]


def test_a_changed_wire_format_stops_the_hour(archive: LittleArchive, instance: dg.DagsterInstance) -> None:
    archive.seal_hour(ELEVEN, [TICKER, BAD_TRADE])
    result = make(instance)
    assert not result.success
    schema = evaluations(result)["trade", "schema"]
    assert not schema.passed
    assert schema.severity == dg.AssetCheckSeverity.ERROR
    assert "All 4 messages break kraken_trade" in str(schema.description)
    assert "rejects_1100.jsonl.gz" in str(schema.description)
    assert HOUR not in instance.get_materialized_partitions(TRADES)
    assert metadata_of(instance, BOOKS, HOUR)["dagster/partition_row_count"] == 4


def test_some_rejects_warn_and_a_hole_is_named(archive: LittleArchive, instance: dg.DagsterInstance) -> None:
    archive.seal(ELEVEN, [TRADE, TRADE, BAD_TRADE])
    archive.next_seq += 7
    archive.seal(at("2026-11-20T11:15"), [TRADE])
    result = make(instance)
    assert result.success
    checks = evaluations(result)
    assert "1 of 4 messages break" in str(checks["trade", "schema"].description)
    assert checks["trade", "schema"].severity == dg.AssetCheckSeverity.WARN
    gaps = checks["rejects", "sequence_gaps"]
    assert not gaps.passed
    assert "7 sequences are missing, first after 3 (unknown)" in str(gaps.description)


def test_holes_between_hours_and_messages_in_a_neighbouring_hour(archive: LittleArchive) -> None:
    archive.seal_hour(ELEVEN, [TRADE])  # sequences 1 to 4
    archive.next_seq = 7
    archive.seal(at("2026-11-20T12:00"), [TRADE, TRADE])  # 7 and 8
    archive.next_seq = 10
    archive.seal(at("2026-11-20T12:15"), [TRADE])
    archive.next_seq = 9
    archive.seal(at("2026-11-20T13:00"), [TRADE])  # 9, received after 10
    hour = Hour.make(Settings.from_environment(), KRAKEN, "spot", at("2026-11-20T12:00"))
    assert hour.holes == [Hole(4, 2, "unknown", 2), Hole(8, 1, "neighbouring hour", 0)]
    assert hour.lost == 2


def test_findings_of_a_broken_report(archive: LittleArchive) -> None:
    """Faults that a sound build_hour does not make: the checks must not rest on it."""
    archive.seal_hour(ELEVEN, [TRADE] * 50)
    good = Hour.make(Settings.from_environment(), KRAKEN, "spot", ELEVEN)
    report = replace(
        good.report,
        messages=good.report.messages + 3,
        duplicate_seqs=2,
        seq_gaps=[(10, 5), (40, 1)],
    )
    gap = Gap(after_seq=10, missing=5, reason="duplicate", detected_at="2026-11-20T11:00:00Z")
    turned = null_column("trade", "price", 200, 1.0, ("data[].price",))
    bad = replace(good, report=report, gaps=(gap,), turned_null=(turned,))
    balance, duplicates, holes = hour_findings(bad)
    assert balance.blocks
    assert "+3 are unaccounted for" in balance.description
    assert "2 messages are archived more than once" in duplicates.description
    assert "1 sequences are missing, first after 40" in holes.description
    _, nulls = type_findings(bad, "trade")
    assert not nulls.passed
    assert not nulls.blocks
    assert nulls.description == turned.detail
    assert type_findings(bad, "ticker")[1].passed
