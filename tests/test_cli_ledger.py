"""`ssmd ledger` and what `ssmd verify` says of ledgers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from told_archive import Told
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_core.proof.chain import chain_path

HOUR = datetime(2026, 11, 20, 11, tzinfo=UTC)
C0 = "c0-20261120T100001000-0001"
Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two archived hours of Kraken."""
    folder = tmp_path / "data"
    first = Told(folder / "archive", HOUR)
    first.busy_hour()
    first.seal()
    second = Told(folder / "archive", HOUR + timedelta(hours=1), next_seq=first.next_seq, ordinals=first.ordinals)
    second.busy_hour()
    second.event(10, "k0-20261120T100000000-0001", "error", shard="c7", url="wss://x", reason="refused")
    second.event(11, C0, "subscribe", channel="book", instruments=["BTC/USD"])
    second.seal()
    return folder


@pytest.fixture
def run(data: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("SSMD_DATA", str(data))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_prove_show_and_verify(data: Path, run: Run) -> None:
    missing = run("ledger", "show", "kraken/spot", "2026-11-20-11:00")
    assert missing.exit_code == 1 and "is not proved yet" in missing.output
    proved = run("ledger", "prove", "kraken/spot", "--all")
    assert proved.exit_code == 0, proved.output
    assert "2 archived hours, 2 proved now, 0 before" in proved.output
    assert "2 archived hours, 0 proved now, 2 before" in run("ledger", "prove", "kraken/spot", "--all").output
    again = run("ledger", "prove", "kraken/spot", "2026-11-20-12:00")
    assert again.exit_code == 0, again.output
    assert len(chain_path(data / "proof", "kraken", "spot").read_bytes().splitlines()) == 2

    shown = run("ledger", "show", "kraken/spot", "2026-11-20T12", "--minutes")
    assert shown.exit_code == 0, shown.output
    assert "kraken/spot 2026-11-20T12  degraded" in shown.output
    assert "not_acknowledged" in shown.output and "60.00" in shown.output
    said = json.loads(run("ledger", "show", "kraken/spot", "2026-11-20T12", "--json").output)
    assert (said["word"], said["n"], said["carried"]["hour"]) == ("degraded", 1, "2026-11-20T11")

    key = run("ledger", "key")
    assert key.exit_code == 0 and len(key.output.split()[0]) == 44

    verified = run("verify", str(data), "--json")
    assert verified.exit_code == 0, verified.output
    result = json.loads(verified.output)
    assert (result["ledgers"], result["chain_lines"], result["rederived"]) == (2, 2, 2)

    (data / "proof/kraken/spot/2026-11-20/integrity_1100.parquet").unlink()
    damaged = run("verify", str(data))
    assert damaged.exit_code == 1
    assert "integrity_1100.parquet: the ledger of 2026-11-20T11 names it, but it is not there" in damaged.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("ledger", "prove", "kraken/spot"),
        ("ledger", "prove", "kraken/spot", "2026-11-20-11:00", "--all"),
        ("ledger", "prove", "nobody/spot", "--all"),
        ("ledger", "prove", "kraken", "--all"),
        ("ledger", "prove", "kraken/../x", "--all"),
        ("ledger", "show", "kraken/spot", "yesterday"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_an_hour_without_an_archive(run: Run) -> None:
    result = run("ledger", "prove", "kraken/spot", "2026-11-20-09:00")
    assert result.exit_code == 1 and "no sealed file" in result.output
