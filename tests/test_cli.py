"""The command line as a user meets it: start-up, errors, exit codes, JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from ssmd_api.cli.stack import first_steps
from ssmd_api.cli.tables import print_table
from ssmd_stream.servers.state import SupervisorState, UnitState, write_state

SSMD = [sys.executable, "-c", "from ssmd_api.cli.main import main; main()"]


def ssmd(*arguments: str, data: Path, timeout_s: float = 100.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SSMD, *arguments],
        env={**os.environ, "SSMD_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_help_is_there_at_once(tmp_path: Path) -> None:
    fastest_s = 9.0
    for _ in range(3):
        begun_s = time.perf_counter()
        answer = ssmd("--help", data=tmp_path)
        fastest_s = min(fastest_s, time.perf_counter() - begun_s)
        assert answer.returncode == 0
    # Five times the 0.3 s that it takes alone: other tests run beside it.
    assert fastest_s < 1.5
    for command in ("demo", "up", "status", "connector", "archiver", "replay", "rehearse", "dataset", "verify"):
        assert command in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("dataset", "build", "nasdaq", "x", "2026-01-01-00:00"), 2, "unknown feed 'nasdaq'"),
        (("dataset", "build", "kraken", "spot", "yesterday"), 2, "yesterday"),
        (("dataset", "build", "kraken", "spot", "2026-01-01-00:00"), 1, "no sealed file of kraken/spot"),
        (("verify", "nowhere"), 2, "nowhere is not a folder"),
        (("rehearse", "--feed", "kraken", "missing.jsonl"), 2, "missing.jsonl is not a file"),
        (("rehearse", "--feed", "kraken", "x", "--kill", "router:1"), 2, "--kill 'router:1'"),
        (("replay", "--feed", "kraken", "x", "--speed", "fast"), 2, "speed 'fast'"),
        (("archiver", "run", "kraken"), 2, "'kraken' is not FEED/STREAM"),
        (("connector", "run", "--feed", "kalshi", "--stream", "crypto"), 2, "KALSHI_API_KEY"),
        (("status",), 1, "nothing is running"),
    ],
)
def test_bad_input_gets_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    answer = ssmd(*arguments, data=tmp_path)
    assert answer.returncode == code
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_commands_ask_the_api_that_runs_on_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not whatever listens on port 8080, to which the key would go."""
    monkeypatch.delenv("SSMD_API_URL", raising=False)
    monkeypatch.setenv("SSMD_API_KEY", "sk_live_aaaaaaaa_b")
    me = psutil.Process()
    api = UnitState(name="api", state="healthy", since=datetime.now(UTC), url="http://127.0.0.1:9")
    write_state(
        tmp_path,
        SupervisorState(
            pid=me.pid,
            process_started=me.create_time(),
            started=datetime.now(UTC),
            env="dev",
            environment={},
            units=[api],
        ),
    )
    assert "the API at http://127.0.0.1:9 does not answer" in ssmd("share", "feeds", data=tmp_path).stderr
    monkeypatch.setenv("SSMD_API_URL", "http://127.0.0.1:7")
    assert "the API at http://127.0.0.1:7 does not answer" in ssmd("share", "feeds", data=tmp_path).stderr


def test_a_terminal_too_narrow_for_a_table_gets_whole_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(columns: int) -> list[str]:
        for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns)}.items():
            monkeypatch.setenv(name, value)
        print_table(("id", "count", "note"), [("a" * 20, 7, "two words"), ("b", 1234, None)])
        return [" ".join(line.split()) for line in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()]

    assert lines(30) == [f"id {'a' * 20}", "count 7", "note two words", "", "id b", "count 1234"]
    assert lines(35) == ["id count note", f"{'a' * 20} 7 two", "words", "b 1234"]


def test_configuration_files_are_written_and_checked(tmp_path: Path) -> None:
    assert ssmd("init", data=tmp_path).returncode == 0
    assert ssmd("feed", "validate", data=tmp_path).returncode == 0
    assert "wss://ws.kraken.com/v2" in ssmd("feed", "show", "kraken", data=tmp_path).stdout
    path = tmp_path / "config" / "feeds" / "kraken.yaml"
    path.write_text(path.read_text() + "colour: blue\n")
    answer = ssmd("feed", "validate", data=tmp_path)
    assert answer.returncode == 1
    assert "colour" in answer.stdout


@pytest.mark.timeout(300)
def test_demo_end_to_end(tmp_path: Path) -> None:
    """Four venues, capture, archive, Dagster, verify; the lines that the demo ends with, pasted into a shell; then one
    byte is changed and verify names the file.
    """
    answer = ssmd("demo", "--data", str(tmp_path / "demo"), "--seconds", "5", "--json", data=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    result = json.loads(answer.stdout)
    assert result["passed"]
    assert {feed["stream"] for feed in result["feeds"]} == {
        "kalshi/crypto",
        "kraken/spot",
        "kraken-futures/futures",
        "polymarket/markets",
    }
    for feed in result["feeds"]:
        assert (feed["lost"], feed["duplicated"], feed["rejected"]) == (0, 0, 0)
        assert feed["sent"] >= 5_000
        assert feed["rows"] >= 1_000
    quality = result["quality"]
    assert quality["problems"] == [] and len(quality["streams"]) == len(result["feeds"])
    assert quality["source"] == "rules" and quality["resolved"] == quality["citations"] > 0
    assert all(stream["failed"] == 0 and stream["untrusted"] == 0 for stream in quality["streams"])
    lines = first_steps(tmp_path / "demo", Path(sys.executable).parent, result["hour"][:10])
    try:
        pasted = subprocess.run(["bash", "-e", "-c", lines], capture_output=True, text=True, timeout=110, check=False)
    finally:
        ssmd("down", data=tmp_path / "demo")
    assert pasted.returncode == 0, pasted.stdout + pasted.stderr
    assert "KXBTC" in pasted.stdout and "decimal[18,6]" in pasted.stdout and "kraken-futures" in pasted.stdout
    parquet = next((tmp_path / "demo" / "datasets" / "kraken").rglob("trade_*.parquet"))
    content = bytearray(parquet.read_bytes())
    content[len(content) // 2] ^= 1
    parquet.write_bytes(content)
    # Named from above: a data folder is found wherever it lies below the path.
    verified = ssmd("verify", str(tmp_path), data=tmp_path)
    assert verified.returncode == 1
    assert str(parquet) in verified.stdout
