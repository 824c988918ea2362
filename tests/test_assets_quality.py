"""Proof and quality in Dagster: hours with their ledgers, the day's assets, and the sensors that tell somebody."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from little_archive import TICKER, LittleArchive, at
from mail_rig import Inbox, Ntfy, ntfy_server, smtp_server
from scored_day import DAY, SIX, TEN, make_day

from ssmd_assets.definitions import defs
from ssmd_assets.defs.archives.assets import archive_specs
from ssmd_assets.defs.datasets.assets import hour_assets
from ssmd_assets.defs.quality.jobs import daily_quality_schedule
from ssmd_assets.defs.quality.reconciliation import trade_reconciliation
from ssmd_assets.defs.quality.reports import diagnosis_report, volume_report
from ssmd_assets.defs.quality.scores import daily_scores
from ssmd_assets.defs.quality.sensors import run_failures, run_recoveries, stale_feeds
from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.keys import STREAMS, ledger_key
from ssmd_core.errors import DatasetError
from ssmd_core.feeds import FEEDS, get
from ssmd_stream.reconcile import run as reconcile
from ssmd_stream.reconcile.report import HourReport, Reconciliation

PARTITION = str(DAY)
LEDGER = ledger_key(get("kraken"), "spot")
HOUR = "2026-11-20-10:00"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("scored")
    make_day(data)
    return data


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder without a database, at six o'clock of the day after."""
    monkeypatch.setenv("SSMD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SSMD_CLOCK", f"{SIX}@0")
    for name in ("DATABASE_URL", "NTFY_URL", "SMTP_HOST", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "data"


@pytest.fixture
def database(data: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """The data folder's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def ntfy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ntfy]:
    with ntfy_server() as server:
        monkeypatch.setenv("NTFY_URL", server.url)
        yield server


def make(instance: dg.DagsterInstance, *assets: Any, partition: str = PARTITION, **options: Any) -> Any:
    return dg.materialize(
        [*assets],
        partition_key=partition,
        resources={"environment": Environment()},
        instance=instance,
        raise_on_error=False,
        **options,
    )


def make_hour(instance: dg.DagsterInstance, partition: str = HOUR) -> dict[str, Any]:
    """Metadata of the hour's ledger."""
    result = make(instance, *archive_specs(), hour_assets(get("kraken"), "spot"), partition=partition)
    assert result.success
    return metadata(instance, LEDGER)


def metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    tags = event.asset_materialization.tags or {}
    return {name: value.value for name, value in event.asset_materialization.metadata.items()} | {
        "version": tags["dagster/data_version"]
    }


def checks(result: Any) -> dict[str, dg.AssetCheckEvaluation]:
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def latest_checks(instance: dg.DagsterInstance, *names: str) -> list[tuple[bool, str]]:
    found = []
    for name in names:
        key = dg.AssetCheckKey(LEDGER, name)
        (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert record.event is not None
        assert record.event.dagster_event is not None
        evaluation = record.event.dagster_event.asset_check_evaluation_data
        found.append((evaluation.passed, str(evaluation.description)))
    return found


def failure(result: Any) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


# -- structure


def test_the_definitions_hold_all_of_it() -> None:
    graph = defs.resolve_asset_graph()
    quality = {key for key in graph.get_all_asset_keys() if graph.get(key).group_name == "quality"}
    assert {key.path[-1] for key in quality} == {
        "trade_reconciliation", "daily_scores", "diagnosis_report", "volume_report",
    }  # fmt: skip
    for key in quality:
        node = graph.get(key)
        assert node.freshness_policy is not None
        assert isinstance(node.partitions_def, dg.DailyPartitionsDefinition)
        assert node.owners == ["team:market-data"]
    names = {key.name for key in graph.asset_check_keys if key.asset_key in quality}
    assert names == {
        *(f"score_{name.replace('-', '_')}" for name in FEEDS),
        *(f"trades_{feed.name}_{stream}".replace("-", "_") for feed, stream in STREAMS),
        "hours_still_failing",
    }
    for feed, stream in STREAMS:
        key = ledger_key(feed, stream)
        found = {one.name for one in graph.asset_check_keys if one.asset_key == key}
        assert found == {"complete", "integrity", "drift"}
        assert graph.get(key).freshness_policy is not None
        assert dg.AssetKey(["quality", "daily_scores"]) in graph.get(key).child_keys
    sensors = {sensor.name: sensor.default_status for sensor in defs.sensors or ()}
    for name in ("run_failures", "run_recoveries", "stale_feeds"):
        assert sensors[name] == dg.DefaultSensorStatus.RUNNING


# -- hours


def test_an_hour_is_proved_loaded_and_shown(
    made: Path, data: Path, database: psycopg.Connection, instance: dg.DagsterInstance
) -> None:
    shutil.copytree(made / "archive", data / "archive")
    first = make_hour(instance)
    assert (first["word"], first["postgres"], first["dagster/partition_row_count"]) == ("complete", "loaded", 602)
    assert first["sha256"] == first["version"]
    assert Path(first["path"]).name == "ledger_1000.json"
    assert "| market messages | 360 |" in first["totals"]
    hours = "SELECT word, ledger_sha256 FROM ledger_hours"
    assert database.execute(hours).fetchall() == [("complete", first["sha256"])]
    assert database.execute("SELECT count(*) FROM ledger_minutes WHERE connection = 'c0'").fetchone() == (60,)
    assert database.execute("SELECT count(*) > 0 FROM wire_shapes").fetchone() == (True,)
    assert [passed for passed, _ in latest_checks(instance, "complete", "integrity", "drift")] == [True, True, True]

    again = make_hour(instance)
    assert (again["version"], again["chain"]) == (first["version"], first["chain"])
    assert database.execute("SELECT count(*) FROM ledger_hours").fetchone() == (1,)

    degraded = make_hour(instance, "2026-11-20-11:00")
    assert degraded["word"] == "degraded"
    assert "| not_connected |" in degraded["reasons"]
    ((passed, text),) = latest_checks(instance, "complete")
    assert not passed
    assert "Look at the connector's log of that time" in text


def test_an_hour_without_a_database_or_its_tables_is_made_all_the_same(
    data: Path, database_url: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    LittleArchive(data / "archive").seal_hour(TEN)
    assert make_hour(instance)["postgres"] == "not loaded: DATABASE_URL is not set"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE ledger_minutes")
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert "`ssmd db upgrade` makes what is missing" in make_hour(instance)["postgres"]


def test_a_column_that_turns_null_during_a_pause_is_seen(data: Path, instance: dg.DagsterInstance) -> None:
    """The hour before is missing, so the ledger has nothing to compare with; the check looks further back."""
    archive = LittleArchive(data / "archive")
    archive.seal_hour(TEN, [TICKER] * 30)
    archive.seal_hour(
        TEN + timedelta(hours=2), [TICKER.replace(b',"timestamp":"2026-11-20T11:00:00.123456Z"', b"")] * 30
    )
    make_hour(instance)
    result = make(instance, *archive_specs(), hour_assets(get("kraken"), "spot"), partition="2026-11-20-12:00")
    tickers = [one for one in result.get_asset_check_evaluations() if one.asset_key.path[-1] == "ticker"]
    nulls = next(one for one in tickers if one.check_name == "null_rates")
    assert not nulls.passed
    assert "timestamp" in str(nulls.description)


# -- a day


def test_a_day_is_scored_shown_and_mailed(
    made: Path,
    data: Path,
    database: psycopg.Connection,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(made, data)
    inbox = Inbox()
    with smtp_server(inbox) as port:
        for name, value in (("HOST", "127.0.0.1"), ("PORT", port), ("FROM", "a@example.org"), ("TO", "b@example.org")):
            monkeypatch.setenv(f"SMTP_{name}", str(value))
        result = make(instance, daily_scores)
        assert result.success
        make(instance, daily_scores, tags={"dagster/backfill": "x"})
    assert [mail["Subject"][:18] for mail in inbox.mails] == ["[ssmd] Health RED "], "a backfill mails nothing"
    assert "not sent: 127.0.0.1" in _scored(instance, daily_scores)["mail"], "the server is gone; the run succeeds"

    found = checks(result)
    assert set(found) == {*(f"score_{name.replace('-', '_')}" for name in FEEDS), "hours_still_failing"}
    assert found["score_kalshi"].passed
    assert "Not captured in the week before" in str(found["score_kalshi"].description)
    assert not found["score_kraken"].passed
    assert found["score_kraken"].severity == dg.AssetCheckSeverity.ERROR
    assert "1 hours of the last 7 days can still be put right, the newest is kraken/spot 2026-11-20T14" in str(
        found["hours_still_failing"].description
    )
    assert found["hours_still_failing"].metadata["lasting"].value == ["kraken/spot 2026-11-20T11: not_connected"]
    assert all(one.partition == PARTITION for one in found.values())
    told = _scored(instance, daily_scores)
    assert (told["status"], told["hours_scored"], told["ledgers_loaded_late"]) == ("RED", 13, 0)
    assert "| kraken |" in told["scores"]
    assert database.execute("SELECT count(*) FROM dq_daily_scores").fetchone() == (1,)
    assert database.execute("SELECT count(*) FROM ledger_hours").fetchone() == (3,), "loaded on the way"


def _scored(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, **options: Any) -> dict[str, Any]:
    result = make(instance, asset, **options)
    assert result.success, failure(result)
    event = instance.get_latest_materialization_event(asset.key)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_scores_without_a_database_say_what_to_do(data: Path, instance: dg.DagsterInstance) -> None:
    assert "DATABASE_URL is not set where Dagster runs. `ssmd up` sets it" in failure(make(instance, daily_scores))


def test_reports_without_a_key_and_with_an_unusable_one(
    made: Path,
    data: Path,
    database: psycopg.Connection,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(made, data)
    _scored(instance, daily_scores)
    first = _scored(instance, diagnosis_report)
    assert (first["source"], first["status"], first["asked"]) == ("rules", "RED", False)
    assert "kraken" in first["report"]
    assert first["mail"] == "not sent: SMTP_HOST is not set"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "ftp://nowhere")
    # The run that failed meanwhile is part of what the report is made of.
    monkeypatch.setenv("SSMD_CLOCK", "not a clock")
    assert not make(instance, volume_report).success
    monkeypatch.setenv("SSMD_CLOCK", f"{SIX}@0")
    assert _scored(instance, diagnosis_report)["source"] == "rules"
    volume = _scored(instance, volume_report)
    assert (volume["source"], volume["asked"]) == ("rules", False)
    manifest = data / "datasets/kraken/spot/2026-11-20/parquet-manifest.json"
    manifest.write_text("{")
    assert "parquet-manifest.json" in failure(make(instance, volume_report))


def test_reconciliations_become_checks_stream_by_stream(
    data: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built hours of three feeds: one differs, of one the venue says nothing, one cannot be read."""
    from ssmd_core.datasets.build import build_hour

    for feed, stream in (("kraken", "spot"), ("kraken-futures", "futures"), ("kalshi", "crypto")):
        archive = LittleArchive(data / "archive", feed, stream)
        for hour in (8, 9, 10, 11):
            moment = at(f"2026-11-20T{hour:02d}:00")
            archive.seal(moment, [b'{"type":"x"}'])
            build_hour(archive.root, data / "datasets", archive.feed, stream, moment, threads=1)
    asked: list[tuple[str, int]] = []

    def answer(_settings: Any, feed: Any, stream: str, hour: datetime) -> HourReport:
        asked.append((feed.name, hour.hour))
        if feed.name == "kalshi":
            raise DatasetError("trade_1100.parquet is damaged")
        one = Reconciliation(feed.name, stream, "BTC/USD\u202e", hour, hour + timedelta(hours=1), "unavailable")
        if feed.name == "kraken":
            one.status, one.venue_trades, one.matched, one.missing, one.extra = "missing", 1_000, 985, 15, 5
        return HourReport(feed.name, stream, hour, [one], "the busiest 20", requests=2)

    monkeypatch.setattr(reconcile, "reconcile_hour_sync", answer)
    result = make(instance, trade_reconciliation)
    assert result.success, "a stream that cannot be read fails its own check, not the others"
    assert asked == [
        ("kalshi", 11), *(("kraken", hour) for hour in (11, 10, 9, 8)), ("kraken-futures", 11), ("kraken-futures", 10),
    ]  # fmt: skip
    found = checks(result)
    kraken = found["trades_kraken_spot"]
    assert (kraken.passed, kraken.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "98.010 % of 4,020 trades" in str(kraken.description)
    assert r"BTC/USD\u202e lacks 15, differs in 0 and has 5 extra" in str(kraken.description)
    futures = found["trades_kraken_futures_futures"]
    assert futures.passed, "unavailable is no fault of the archive"
    assert "2 older hours were not asked for" in str(futures.description)
    assert not found["trades_kalshi_crypto"].passed
    assert "trade_1100.parquet is damaged" in str(found["trades_kalshi_crypto"].description)
    assert "No hour of the day has datasets" in str(found["trades_polymarket_markets"].description)
    event = instance.get_latest_materialization_event(trade_reconciliation.key)
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["statuses"].value == {"missing": 4, "unavailable": 2}


def test_one_run_for_yesterday(data: Path, database: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    def tick() -> Any:
        context = dg.build_schedule_context(
            scheduled_execution_time=datetime(2026, 11, 21, 6, tzinfo=UTC), resources={"environment": Environment()}
        )
        return daily_quality_schedule(context)

    request = tick()
    assert (request.partition_key, request.run_key) == ("2026-11-20", "2026-11-20")
    monkeypatch.delenv("DATABASE_URL")
    assert "nowhere to keep scores" in str(tick().skip_message)
    monkeypatch.setenv("SSMD_SCHEDULES", "off")
    assert "SSMD_SCHEDULES is off" in str(tick().skip_message)


# -- sensors


@dg.op
def breaks() -> None:
    if os.environ["FULL"] == "yes":
        raise ValueError("no room\u202e left on the disk")


@dg.job
def fragile() -> None:
    breaks()


def test_a_failed_run_is_told_once_and_so_is_its_recovery(
    data: Path, instance: dg.DagsterInstance, ntfy: Ntfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)

    def ran(sensor: Any, *, fail: bool, partition: str = "2026-11-20") -> None:
        monkeypatch.setenv("FULL", "yes" if fail else "no")
        result = fragile.execute_in_process(
            tags={"dagster/partition": partition}, instance=instance, raise_on_error=False
        )
        (event,) = [one for one in result.all_events if one.event_type in ends]
        context = dg.build_run_status_sensor_context(
            sensor_name="s", dagster_instance=instance, dagster_run=result.dagster_run, dagster_event=event
        )
        sensor(context.for_run_failure() if fail else context)

    ran(run_recoveries, fail=False)
    assert not (data / "alerts").exists(), "nothing was ever told, so nothing can be over"
    for _ in range(10):
        ran(run_failures, fail=True)
    (told,) = ntfy.got
    assert "Run failed: fragile 2026-11-20" in told["title"]
    assert r"breaks: ValueError: no room\u202e left on the disk" in told["message"]
    assert "Look at it in Dagster" in told["message"]
    ran(run_recoveries, fail=False, partition="2026-11-19")
    assert len(ntfy.got) == 1, "another partition's success is no recovery"
    for _ in range(3):
        ran(run_recoveries, fail=False)
    assert len(ntfy.got) == 2
    assert "Run failed: fragile 2026-11-20" in ntfy.titles[1]
    assert (data / "alerts/dagster-runs.json").exists()


def test_a_stale_stream_is_told_once_and_so_is_its_recovery(
    data: Path, ntfy: Ntfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tick(clock: str = "12:50") -> str:
        monkeypatch.setenv("SSMD_CLOCK", f"2026-11-20T{clock}:00Z@0")
        context = dg.build_sensor_context(resources={"environment": Environment()})
        return str(stale_feeds(context).skip_message)

    archive = LittleArchive(data / "archive")
    archive.seal_hour(at("2026-11-20T11:00"))
    assert tick("12:20") == "Every stream that is captured is archived and built."
    for _ in range(10):
        assert "kraken/spot: Nothing was archived for 50 minutes" in tick()
    assert ntfy.titles == [ntfy.titles[0]]
    assert "kraken/spot is behind" in ntfy.titles[0]
    archive.seal(at("2026-11-20T12:30"), [])
    for _ in range(3):
        tick()
    assert len(ntfy.got) == 2
    monkeypatch.setenv("SSMD_SCHEDULES", "off")
    assert "for 300 minutes" in tick("17:45")
    assert len(ntfy.got) == 2, "a data folder that is only looked at tells nobody"
