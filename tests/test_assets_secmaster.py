"""The security master in Dagster: definitions, schedules, and syncs through its engine, on a real Postgres."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dagster as dg
import psycopg
import pytest

from ssmd_assets.definitions import defs
from ssmd_assets.defs.resources import Environment
from ssmd_assets.defs.secmaster import assets
from ssmd_assets.defs.secmaster.assets import rest_specs, sync_assets
from ssmd_assets.defs.secmaster.checks import Before, check_results
from ssmd_assets.defs.secmaster.columns import _EVERYWHERE, _MEANINGS
from ssmd_assets.defs.secmaster.first_syncs import first_syncs
from ssmd_assets.defs.secmaster.run import Synced
from ssmd_assets.defs.secmaster.schedules import sync_schedules
from ssmd_assets.defs.secmaster.state import look
from ssmd_assets.defs.secmaster.syncs import JOBS, SYNCS, Sync
from ssmd_core import config
from ssmd_core.db.merge import SyncReport
from ssmd_core.db.tables import SYNCED
from ssmd_core.feeds import FEEDS, get
from ssmd_core.settings import Settings
from ssmd_stream import stack
from ssmd_stream.replay.rest_faults import RestFault, RestFaults
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.secmaster.sync import tasks

PAIRS = dg.AssetKey(["kraken", "secmaster", "pairs"])


class Venue:
    """A replay server in a thread of its own, named in the feed's feed.yaml.

    Args:
        listing: what it lists; may be changed while it runs.
    """

    def __init__(self, data: Path, feed: str, listing: Any = None, faults: RestFaults | None = None) -> None:
        self._data = data
        self._feed = get(feed)
        self._server = ReplayServer(self._feed, Generated(), listing=listing, rest_faults=faults)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.__aenter__(), self._loop).result(10)
        root = self._data / "config"
        config.feed_path(root, self._feed).unlink(missing_ok=True)
        config.create_feed(root, self._feed, date(2026, 1, 1), rest_endpoint=self._server.rest_url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._server.__aexit__(None, None, None), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty SSMD_DATA, without a database."""
    monkeypatch.setenv("SSMD_DATA", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return tmp_path


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


def pair(name: str, **more: Any) -> dict[str, Any]:
    """One pair as AssetPairs has it."""
    base, quote = name.split("/")
    return {
        "altname": f"{base}{quote}",
        "wsname": name,
        "aclass_base": "currency",
        "base": base,
        "aclass_quote": "currency",
        "quote": quote,
        "pair_decimals": 5,
        "lot_decimals": 8,
        "ordermin": "10",
        "status": "online",
        **more,
    }


def listing(count: int) -> dict[str, Any]:
    return {f"COIN{number}USD": pair(f"COIN{number}/USD") for number in range(count)}


def sync_kraken(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*rest_specs(), sync_assets(SYNCS["kraken/pairs"])],
        resources={"environment": Environment()},
        instance=instance,
        raise_on_error=False,
    )


def latest(instance: dg.DagsterInstance, key: dg.AssetKey = PAIRS) -> tuple[dict[str, Any], str]:
    """Metadata and data version of the latest materialisation."""
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    materialization = event.asset_materialization
    values = {name: value.value for name, value in materialization.metadata.items()}
    return values, (materialization.tags or {})["dagster/data_version"]


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def failures(result: dg.ExecuteInProcessResult) -> list[tuple[str, dict[str, Any]]]:
    """Description and metadata of what every failed step said."""
    found = []
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.user_failure_data:
            failure = event.step_failure_data.user_failure_data
            found.append((str(failure.description), {name: one.value for name, one in failure.metadata.items()}))
    return found


# -- definitions


def test_the_assets_are_the_syncs_tables() -> None:
    """The list in `syncs.py` is static, to keep imports light: here it is compared with the syncs themselves."""
    known = tasks()
    assert set(SYNCS) == set(known)
    for scope, sync in SYNCS.items():
        task = known[scope]
        assert set(sync.tables) <= set(task.tables), scope
        assert sync.after == task.after, scope
    assert {(one.feed.name, table) for one in SYNCS.values() for table in one.tables} == {
        (task.feed, table) for task in known.values() for table in task.tables
    }
    assert {table for one in SYNCS.values() for table in one.tables} == set(SYNCED)
    for job in JOBS:
        assert all(job.mode in known[scope].modes for scope in job.scopes), job.name
    assert {scope for job in JOBS for scope in job.scopes} == set(known)


def test_lineage() -> None:
    graph = defs.resolve_asset_graph()
    keys = dg.AssetSelection.groups("secmaster").resolve(graph)
    found = {key.to_user_string(): {one.to_user_string() for one in graph.get(key).parent_keys} for key in keys}
    assert found == {
        "kalshi/secmaster/series": {"kalshi/rest"},
        "kalshi/secmaster/series_fees": {"kalshi/rest", "kalshi/secmaster/series"},
        "kalshi/secmaster/events": {"kalshi/rest", "kalshi/secmaster/series"},
        "kalshi/secmaster/markets": {"kalshi/rest", "kalshi/secmaster/series", "kalshi/secmaster/events"},
        "kraken/secmaster/pairs": {"kraken/rest"},
        "kraken_futures/secmaster/pairs": {"kraken_futures/rest"},
        "polymarket/secmaster/polymarket_conditions": {"polymarket/rest"},
        "polymarket/secmaster/polymarket_tokens": {"polymarket/rest", "polymarket/secmaster/polymarket_conditions"},
    }
    for key in keys:
        node = graph.get(key)
        table = SYNCED[key.path[-1]].table
        assert node.is_executable
        assert node.partitions_def is None
        assert node.pools == {f"{key.path[0]}_rest"}
        assert node.owners == ["team:market-data"]
        assert node.freshness_policy is not None
        assert node.metadata["dagster/table_name"] == f"public.{table.name}"
        columns = {column.name: column for column in node.metadata["dagster/column_schema"].columns}
        assert list(columns) == [column.name for column in table.columns]
        (primary_key,) = table.primary_key.columns
        assert columns[primary_key.name].constraints.unique
        assert not columns[primary_key.name].constraints.nullable
    for feed in FEEDS.values():
        node = graph.get(dg.AssetKey([feed.name.replace("-", "_"), "rest"]))
        assert not node.is_executable
        assert node.metadata["endpoint"].value == feed.rest_url
    columns = {one.name: one for one in graph.get(PAIRS).metadata["dagster/column_schema"].columns}
    assert columns["tick_size"].type == "numeric"
    assert columns["tick_size"].description == "Quote currency."
    assert columns["tags"].type == "text[]"


def test_described_columns_exist() -> None:
    for table, meanings in _MEANINGS.items():
        assert set(meanings) <= set(SYNCED[table].table.columns.keys())
    assert set(_EVERYWHERE) <= {column.name for one in SYNCED.values() for column in one.table.columns}


def test_jobs_and_their_hours() -> None:
    """Who runs when is a promise to operators: a change here is a change of docs/operations.md."""
    schedules = {one.name: one for one in sync_schedules()}
    assert {name: one.cron_schedule for name, one in schedules.items()} == {
        "secmaster_kalshi_incremental_schedule": "7 * * * *",
        "secmaster_kalshi_series_schedule": "20 3 * * *",
        "secmaster_kalshi_full_schedule": "40 3 * * *",
        "secmaster_kraken_schedule": "25 */6 * * *",
        "secmaster_polymarket_schedule": "12,42 * * * *",
    }
    assert all(one.default_status == dg.DefaultScheduleStatus.RUNNING for one in schedules.values())
    incremental = defs.resolve_job_def("secmaster_kalshi_incremental")
    steps = [node.name for node in incremental.graph.nodes_in_topological_order]
    assert steps == ["sync_kalshi_events", "sync_kalshi_markets"]
    assert (incremental.run_config or {})["ops"] == {step: {"config": {"mode": "incremental"}} for step in steps}
    series = defs.resolve_job_def("secmaster_kalshi_series")
    assert [node.name for node in series.graph.nodes_in_topological_order] == [
        "sync_kalshi_series",
        "sync_kalshi_series_fees",
    ]
    assert {one.name for one in defs.resolve_all_job_defs()} >= {job.name for job in JOBS}


# -- schedules


def tick(name: str, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """What a tick asks for, or why it asks for nothing."""
    schedule = next(one for one in sync_schedules() if one.job_name == name)
    # As a context, so that it closes the instance that it opens: Dagster keeps one in a global.
    with dg.build_schedule_context(
        instance=instance, resources={"environment": Environment()}, repository_def=defs.get_repository_def()
    ) as context:
        found = schedule.evaluate_tick(context)
    return found.run_requests[0] if found.run_requests else str(found.skip_message)


@pytest.fixture
def stored_instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that a schedule can open by its reference."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as stored:
        yield stored


def test_a_tick_asks_for_one_run_or_says_why_not(
    data: Path, stored_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = stored_instance
    assert "DATABASE_URL is not set" in str(tick("secmaster_kraken", instance))
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:9/nothing")
    request = tick("secmaster_kraken", instance)
    assert isinstance(request, dg.RunRequest)
    assert {key.path[0] for key in request.asset_selection or ()} == {"kraken", "kraken_futures"}
    monkeypatch.setenv(stack.SCHEDULES, "off")
    assert "SSMD_SCHEDULES is off" in str(tick("secmaster_kraken", instance))
    monkeypatch.setenv(stack.SCHEDULES, "on")

    for name in ("kraken", "polymarket"):
        path = config.create_feed(data / "config", get(name), date(2026, 1, 1))
        path.write_text(path.read_text() + "status: disabled\n")
    request = tick("secmaster_kraken", instance)
    assert isinstance(request, dg.RunRequest)
    assert {key.path[0] for key in request.asset_selection or ()} == {"kraken_futures"}
    assert set(request.run_config["ops"]) == {"sync_kraken_futures_pairs"}
    assert "polymarket is disabled" in str(tick("secmaster_polymarket", instance))

    instance.create_run_for_job(defs.resolve_job_def("secmaster_kalshi_full"), status=dg.DagsterRunStatus.STARTED)
    assert "An earlier run of secmaster_kalshi_full is still going" in str(tick("secmaster_kalshi_full", instance))
    request = tick("secmaster_kalshi_incremental", instance)
    assert isinstance(request, dg.RunRequest)
    steps = ("sync_kalshi_events", "sync_kalshi_markets")
    assert request.run_config["ops"] == {step: {"config": {"mode": "incremental"}} for step in steps}


def test_a_new_installation_asks_at_once(
    data: Path, database: psycopg.Connection, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> dict[str | None, set[str]] | str:
        with dg.build_sensor_context(
            instance=instance, resources={"environment": Environment()}, repository_def=defs.get_repository_def()
        ) as context:
            found = first_syncs.evaluate_tick(context)
        if not found.run_requests:
            return str(found.skip_message)
        return {one.run_key: {key.path[0] for key in one.asset_selection or ()} for one in found.run_requests}

    done = "INSERT INTO sync_runs (scope, mode, started_at, finished_at) VALUES (%s, 'full', now(), now())"
    database.execute(done, ("kraken/pairs",))
    database.execute(done, ("polymarket/conditions",))
    path = config.create_feed(data / "config", get("kraken-futures"), date(2026, 1, 1))
    assert asked() == {"first-kalshi": {"kalshi"}, "first-kraken-futures": {"kraken_futures"}}
    path.write_text(path.read_text() + "status: disabled\n")
    assert asked() == {"first-kalshi": {"kalshi"}}
    for name in ("series", "series_fees", "events", "markets"):
        database.execute(done, (f"kalshi/{name}",))
    assert asked() == "Every venue has been synced."
    monkeypatch.setenv(stack.SCHEDULES, "off")
    assert "SSMD_SCHEDULES is off" in str(asked())


# -- runs


def test_a_sync_that_finds_nothing_new_leaves_the_data_version(
    data: Path, database: psycopg.Connection, instance: dg.DagsterInstance
) -> None:
    with Venue(data, "kraken", pairs := listing(20)):
        assert sync_kraken(instance).success
        first, first_version = latest(instance)
        assert (first["fetched"], first["inserted"], first["dagster/row_count"]) == (20, 20, 20)
        assert database.execute("SELECT count(*) FROM pairs").fetchone() == (20,)

        result = sync_kraken(instance)
        again, again_version = latest(instance)
        assert (again["touched"], again["unchanged"]) == (0, 20)
        assert again_version == first_version
        assert again["last_change"] == first["last_change"]
        assert all(one.passed for one in checks(result).values())
        assert set(checks(result)) == {"row_count", "rejects", "deletes", "keys"}

        pairs["COIN1USD"]["status"] = "cancel_only"
        assert sync_kraken(instance).success
        changed, changed_version = latest(instance)
        assert (changed["touched"], changed["changed"]) == (1, 1)
        assert changed_version != first_version
        assert {"mode", "seconds", "database_s", "missing", "deleted", "newer", "resurrected", "rejected"} <= set(
            changed
        )


def test_a_refused_delete_and_rejects_are_seen(
    data: Path, database: psycopg.Connection, instance: dg.DagsterInstance
) -> None:
    hostile = "<img src=x onerror=alert(1)> | [here](https://example.org) `\u202e"
    with Venue(data, "kraken", pairs := listing(20)):
        assert sync_kraken(instance).success
        for number in range(5):
            del pairs[f"COIN{number}USD"]
        pairs[hostile] = {"wsname": "A/B"}
        result = sync_kraken(instance)
        assert result.success
    metadata, _ = latest(instance)
    assert "the venue showed 15 of 20 live rows" in metadata["refused"]
    assert (metadata["missing"], metadata["deleted"], metadata["rejected"]) == (5, 0, 1)
    found = checks(result)
    assert not found["deletes"].passed
    assert not found["rejects"].passed
    assert "15 records, 20 the last time" in str(found["row_count"].description)
    assert found["keys"].passed
    (record,) = metadata["rejects"].records
    key = f"kraken:{hostile}".replace("\u202e", r"\u202e")
    assert record.data["key"] == key, "text, not markup; no character hidden"
    assert not any("<img" in str(one.description) for one in found.values())
    assert database.execute("SELECT count(*) FROM pairs WHERE deleted_at IS NULL").fetchone() == (20,)


def test_a_failing_venue_fails_the_run_with_its_reason(
    data: Path, database: psycopg.Connection, instance: dg.DagsterInstance
) -> None:
    faults = RestFaults(RestFault("status", at=2, count=None, status=451))
    with Venue(data, "kraken", pairs := listing(20), faults):
        assert sync_kraken(instance).success
        del pairs["COIN7USD"]
        before = instance.get_latest_materialization_event(PAIRS)
        result = sync_kraken(instance)
    assert not result.success
    ((description, metadata),) = failures(result)
    assert description.startswith("kraken/pairs, full: GET /AssetPairs: HTTP 451")
    assert metadata["error"] == "RestFatalError"
    assert "HTTP 451" in metadata["reason"]
    assert instance.get_latest_materialization_event(PAIRS) == before
    assert database.execute("SELECT count(*) FROM pairs WHERE deleted_at IS NULL").fetchone() == (20,)
    assert len(faults.struck) == 1, "what the venue refuses for good is not asked again"


def test_an_outage_is_tried_again(
    data: Path, database: psycopg.Connection, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "RETRY", dg.RetryPolicy(max_retries=1, delay=0))
    with Venue(data, "kraken", listing(3), RestFaults(RestFault("body", body=b'{"error":[],"result":[]}'))):
        result = sync_kraken(instance)
    assert result.success
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    assert latest(instance)[0]["inserted"] == 3


def test_two_syncs_of_one_scope_do_not_run_together(
    data: Path, database: psycopg.Connection, instance: dg.DagsterInstance
) -> None:
    database.execute("SELECT pg_advisory_lock(hashtextextended('kraken/pairs', 7353))")
    with Venue(data, "kraken", listing(3)):
        result = sync_kraken(instance)
    assert failures(result)[0][1]["error"] == "SyncBusyError"
    assert not [event for event in result.all_events if event.is_step_up_for_retry]


def test_without_a_database_a_run_says_what_to_do(data: Path, instance: dg.DagsterInstance) -> None:
    with Venue(data, "kraken", listing(3)):
        ((description, metadata),) = failures(sync_kraken(instance))
    assert "DATABASE_URL is not set, and no `ssmd up" in description
    assert metadata["error"] == "ConfigError"


def test_keys_that_break_a_rule_and_rows_that_vanish(data: Path, database: psycopg.Connection) -> None:
    """Faults that a sync does not make, but a person with psql does."""
    database.execute(
        "INSERT INTO events (event_ticker, title, deleted_at) VALUES ('LIVE', '', NULL), ('GONE', '', now());"
        "INSERT INTO markets (ticker, event_ticker, title, status) "
        "SELECT 'M' || n, CASE n WHEN 7 THEN 'GONE' ELSE 'LIVE' END, '', 'active' FROM generate_series(1, 10) n;"
        "INSERT INTO polymarket_conditions (condition_id, question, status) VALUES ('0x1', '', 'active');"
        "INSERT INTO polymarket_tokens (token_id, condition_id, outcome, outcome_index) "
        "SELECT n::text, '0x1', 'Yes', 0 FROM generate_series(1, 2) n"
    )
    markets = SYNCS["kalshi/markets"]

    def results(sync: Sync, table: str, before: Before) -> dict[str, dg.AssetCheckResult]:
        states, watermarks = asyncio.run(look(Settings.from_environment(), sync.scope, [table], sync.part))
        synced = Synced(SyncReport(sync.scope, "incremental"), states, watermarks)
        return {str(one.check_name): one for one in check_results(sync, synced, table, before)}

    found = results(markets, "markets", Before(rows=13))
    assert found["keys"].severity == dg.AssetCheckSeverity.ERROR
    assert not found["keys"].passed
    assert found["keys"].metadata["examples"].value == ["M7"]
    assert "Run secmaster_kalshi_full" in str(found["keys"].description)
    assert not found["row_count"].passed
    assert "10 live rows, 13 the last time" in str(found["row_count"].description)
    assert results(markets, "markets", Before(rows=12))["row_count"].passed
    tokens = results(SYNCS["polymarket/conditions"], "polymarket_tokens", Before())
    assert tokens["keys"].metadata["examples"].value == ["0x1/0"]

    database.execute("UPDATE markets SET event_ticker = 'LIVE'")
    assert results(markets, "markets", Before())["keys"].passed


def test_the_whole_group_from_a_shell(data: Path, database: psycopg.Connection) -> None:
    """Four venues, every sync in its order, in one run with the project's dagster.yaml: pools, executor, storage."""
    dagster = Path(sys.executable).with_name("dagster")
    command = [dagster, "asset", "materialize", "-m", "ssmd_assets.definitions", "--select", "group:secmaster"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    with ExitStack() as venues:
        for feed in FEEDS:
            venues.enter_context(Venue(data, feed))
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent.parent,
            env=clean | {"HOME": str(data), "DAGSTER_DISABLE_TELEMETRY": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    for table in SYNCED:
        counted = database.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert counted
        assert counted[0] > 0, table
    assert list((data / "dagster").rglob("*.db"))
