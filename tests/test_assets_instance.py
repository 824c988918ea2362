"""`dagster` from a shell: with the project's dagster.yaml on a real Postgres, and with nothing at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest
from little_archive import LittleArchive, at

from ssmd_core.errors import ConfigError
from ssmd_stream.servers.postgres import PostgresServer

ROOT = Path(__file__).parent.parent
HOUR = "2026-11-20-11:00"
TRADES = dg.AssetKey(["kraken", "spot", "trade"])


def materialize(environment: dict[str, str]) -> None:
    """Run the shell command of the README."""
    dagster = Path(sys.executable).with_name("dagster")
    command = [dagster, "asset", "materialize", "-m", "ssmd_assets.definitions", "--select", "kraken/spot/trade"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    done = subprocess.run(
        [*command, "--partition", HOUR],
        cwd=ROOT,
        env=clean | {"HOME": environment["SSMD_DATA"], "DAGSTER_DISABLE_TELEMETRY": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    LittleArchive(tmp_path / "data" / "archive").seal_hour(at("2026-11-20T11:00"))
    return tmp_path / "data"


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A DAGSTER_HOME with the project's dagster.yaml, and a Postgres that its variables name."""
    server = PostgresServer(tmp_path / "postgres", port=None)
    asyncio.run(server.start())
    url = urlsplit(server.url_of("dagster"))
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(ROOT / "dagster.yaml", home)
    for name, value in (
        ("DAGSTER_HOME", str(home)),
        ("DAGSTER_PG_HOST", str(url.hostname)),
        ("DAGSTER_PG_PORT", str(url.port)),
        ("DAGSTER_PG_USERNAME", str(url.username)),
        ("DAGSTER_PG_PASSWORD", str(url.password)),
        ("DAGSTER_PG_DB", url.path.lstrip("/")),
    ):
        monkeypatch.setenv(name, value)
    yield home
    asyncio.run(server.stop())


def test_an_hour_on_postgres(data: Path, dagster_home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name.startswith("DAGSTER_")}
    materialize(environment | {"SSMD_DATA": str(data)})
    with dg.DagsterInstance.get() as instance:
        storage: Any = instance.event_log_storage
        assert "Postgres" in type(storage).__name__
        assert type(storage._engine.pool).__name__ == "QueuePool"
        assert not instance.telemetry_enabled
        assert instance.get_materialized_partitions(TRADES) == {HOUR}
    assert not list(dagster_home.rglob("*.db"))


def test_an_hour_from_a_fresh_shell(data: Path) -> None:
    materialize({"SSMD_DATA": str(data)})
    assert list((data / "datasets").rglob("trade_1100.parquet"))
    assert list((data / "dagster").rglob("*.db"))


def test_half_a_postgres_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_PG_HOST", "127.0.0.1")
    for name in ("PORT", "USERNAME", "PASSWORD", "DB"):
        monkeypatch.delenv(f"DAGSTER_PG_{name}", raising=False)
    with pytest.raises(ConfigError, match="not set: DAGSTER_PG_PORT, DAGSTER_PG_USERNAME"):
        dg.DagsterInstance.from_config(str(ROOT))
