"""`ssmd health daily`: what it prints, how it ends, and its mail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mail_rig import Inbox, smtp_server
from scored_day import SIX, TEN, make_day
from typer.testing import CliRunner, Result

from ssmd_api.cli.main import app
from ssmd_core.proof.ledger import proof_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("cli-scored")
    make_day(data)
    return data


@pytest.fixture
def ssmd(data: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`ssmd("--json", code=1)` on a scored day's data folder, at six o'clock of the day after."""
    for name, value in {"SSMD_DATA": str(data), "DATABASE_URL": database_url, "SSMD_CLOCK": f"{SIX}@0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("SMTP_HOST", raising=False)

    def call(*arguments: str, code: int = 0) -> Result:
        answer = CliRunner().invoke(app, ["health", "daily", *arguments])
        assert answer.exit_code == code, answer.output + repr(answer.exception)
        return answer

    return call


def test_yesterday_for_people_and_for_programs(ssmd: Any, database_url: str) -> None:
    told = ssmd(code=1).stdout
    assert told.startswith("2026-11-20: RED, ")
    assert "- kraken: 1 archived hours are not proved yet" in told
    assert "not captured: kalshi, kraken-futures, polymarket" in told
    said = json.loads(ssmd("--date", "2026-11-20", "--json", code=1).stdout)
    assert (said["day"], said["status"], said["feeds"][0]["feed"]) == ("2026-11-20", "RED", "kraken")
    assert said["feeds"][0]["gaps"][0] == {"start": "12:00", "end": "13:00", "duration_minutes": 60}
    assert said["feeds"][0]["coverage_pct"] == "28.57"
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM ledger_hours").fetchone() == (3,), "loaded on the way"


def test_a_day_on_which_nothing_was_captured_is_not_red(ssmd: Any) -> None:
    assert "2026-01-05: UNKNOWN, no feed is captured" in ssmd("--date", "2026-01-05").stdout


def test_the_mail_is_previewed_or_sent_and_stdout_stays_json(
    ssmd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ssmd("--json", "--preview", str(tmp_path / "health.html"), code=1)
    json.loads(answer.stdout)
    assert "wrote " in answer.stderr
    assert "2026-11-20" in (tmp_path / "health.html").read_text()
    inbox = Inbox()
    with smtp_server(inbox) as port:
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(port))
        monkeypatch.setenv("SMTP_FROM", "ssmd@example.org")
        monkeypatch.setenv("SMTP_TO", "ops@example.org")
        answer = ssmd("--json", "--mail", code=1)
    json.loads(answer.stdout)
    assert "sent to ops@example.org" in answer.stderr
    (mail,) = inbox.mails
    assert mail["Subject"].startswith("[ssmd] Health RED (")


def test_what_the_caller_can_mend_ends_with_2(ssmd: Any, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--date 2026-11-22 has not begun" in ssmd("--date", "2026-11-22", code=2).stderr
    assert "'yesterday' is not a day" in ssmd("--date", "yesterday", code=2).stderr
    assert "SMTP_HOST" in ssmd("--mail", code=2).stderr
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM dq_daily_scores").fetchone() == (0,), "told before the work"
    monkeypatch.delenv("DATABASE_URL")
    assert "DATABASE_URL is not set" in ssmd(code=2).stderr


def test_a_database_without_tables_ends_with_1(ssmd: Any, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE dq_hourly_scores")
    assert "`ssmd db upgrade` makes what is missing" in ssmd(code=1).stderr


def test_a_damaged_proof_stops_nothing_else(ssmd: Any, data: Path) -> None:
    path = proof_folder(data / "proof", "kraken", "spot", TEN) / "shapes_1300.json"
    content = path.read_bytes()
    path.write_bytes(b"{")
    try:
        assert "2026-11-20: RED" in ssmd(code=1).stdout
    finally:
        path.write_bytes(content)
