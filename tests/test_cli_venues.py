"""The commands by the venues' names, schedules, health, the parts of a running installation; and start-up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from examples import blocks
from installation import CLOCK, SEED, SYNC_CLOCK, Installation
from typer.main import get_command
from typer.testing import CliRunner, Result

from ssmd_api.cli.main import app
from ssmd_core.clock import Clock
from ssmd_core.feeds import get
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.servers.ports import choose_port
from ssmd_stream.servers.state import SupervisorState, UnitState, write_state

HEAVY = {"polars", "duckdb", "dagster", "sqlalchemy", "mcp", "anthropic", "pyarrow", "numpy", "psycopg", "aiohttp"}
HEAVY |= {"nats", "starlette", "graphene", "httpx2", "obstore", "msgspec", "uvicorn"}


def ssmd(*arguments: str, code: int = 0) -> Result:
    answer = CliRunner().invoke(app, list(arguments))
    assert answer.exit_code == code, answer.output + repr(answer.exception)
    return answer


def leaves(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that does something."""
    command = command or get_command(app)
    children = getattr(command, "commands", {})
    if not children or getattr(command, "invoke_without_command", False):
        yield path
    for name, child in children.items():
        yield from leaves(child, (*path, name))


def test_help_of_everything_imports_nothing_heavy() -> None:
    """`ssmd --help` takes 0.25 s, 0.07 s of them for typer alone; duckdb or polars would double that."""
    paths = [path[:1] for path in leaves()]
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom ssmd_api.cli.main import app\n"
        f"for path in {sorted(set(paths))!r}:\n"
        "    assert CliRunner().invoke(app, [*path, '--help']).exit_code == 0, path\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY & set(done.stdout.split()) == set()


def test_completion_and_version_are_there() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from ssmd_api.cli.main import main; main()"],
        env={**os.environ, "_MAIN_COMPLETE": "complete_bash", "_-C_COMPLETE": "complete_bash",
             "COMP_WORDS": "-c hea", "COMP_CWORD": "1"},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert "health" in shown.stdout
    assert "--install-completion" in ssmd("--help").output
    assert re.fullmatch(r"ssmd \d+\.\d+\.\d+\n", ssmd("--version").output)


@contextmanager
def venue(feed: str) -> Iterator[str]:
    """REST base of a generated venue that lists what the installation's did."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    server = ReplayServer(get(feed), Generated(seed=SEED, limit=1), clock=Clock.parse(SYNC_CLOCK))
    do(server.__aenter__())
    try:
        yield server.rest_url
    finally:
        do(server.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture(scope="module")
def database(installation: Installation) -> Iterator[str]:
    """A copy of the installation's database, for tests that leave its rows as they are."""
    with installation.copy(f"venues_{os.getpid()}") as url:
        yield url


@pytest.fixture
def installed(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """That copy is the environment's database; it is ten minutes after its syncs."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("SSMD_CLOCK", CLOCK)
    monkeypatch.setenv("COLUMNS", "200")
    return database


@pytest.mark.parametrize(
    ("feed", "arguments", "scopes"),
    [
        ("kalshi", "series sync", ["kalshi/series"]),
        ("kalshi", "fees sync", ["kalshi/series_fees"]),
        ("kraken", "kraken sync --spot", ["kraken/pairs"]),
        ("kraken-futures", "kraken sync --perps", ["kraken-futures/pairs"]),
        ("polymarket", "polymarket sync --mode incremental", ["polymarket/conditions"]),
    ],
)
def test_syncs_by_name(installed: str, feed: str, arguments: str, scopes: list[str]) -> None:
    """They are the security master's own: what has not changed is not written."""
    with venue(feed) as url:
        answer = json.loads(ssmd(*arguments.split(), "--rest-url", url, "--json").stdout)
    assert [run["scope"] for run in answer["runs"]] == scopes
    assert answer["failed"] == {}
    (run,) = answer["runs"]
    assert sum(counts.get("inserted", 0) for counts in run["tables"].values()) == 0
    assert sum(counts.get("fetched", 0) for counts in run["tables"].values()) > 0


def test_kraken_without_choice_is_both(installed: str) -> None:
    assert "one venue's" in ssmd("kraken", "sync", "--rest-url", "http://127.0.0.1:9", code=2).output


def test_counts_and_single_rows(installed: str) -> None:
    series = json.loads(ssmd("series", "stats", "--json").stdout)
    with psycopg.connect(installed) as connection:
        (total,) = connection.execute("SELECT count(*) FROM series WHERE deleted_at IS NULL").fetchone() or (0,)
        (market,) = connection.execute("SELECT min(ticker) FROM markets WHERE deleted_at IS NULL").fetchone() or ("",)
        (event,) = connection.execute("SELECT min(event_ticker) FROM events").fetchone() or ("",)
    assert sum(row["total"] for row in series) == total > 0
    assert f"all {total}" in re.sub(" +", " ", ssmd("series", "stats").output)
    fees = json.loads(ssmd("fees", "stats", "--json").stdout)
    assert set(fees) == {"total", "active", "future"}
    assert json.loads(ssmd("secmaster", "markets", market, "--json").stdout)["ticker"] == market
    assert event in ssmd("secmaster", "events", event).output
    assert json.loads(ssmd("secmaster", "events", "--limit", "2", "--json").stdout)["rows"]
    assert "is none of markets, but of events" in ssmd("secmaster", "markets", event, code=1).output
    assert "nothing is known" in ssmd("secmaster", "events", "NOPE", code=1).output


def test_health_of_the_security_master(
    installation: Installation, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "PROBLEM" not in ssmd("health", "secmaster").output
    with installation.copy(f"health_{os.getpid()}") as url:
        monkeypatch.setenv("DATABASE_URL", url)
        _find_problems(url)
    monkeypatch.delenv("DATABASE_URL")
    assert "DATABASE_URL is not set" in ssmd("health", "secmaster", code=2).output


def _find_problems(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE pairs SET pair_id = 'XXBT' WHERE pair_id = (SELECT min(pair_id) FROM pairs)")
        connection.execute("DELETE FROM sync_runs WHERE scope IN ('polymarket/conditions', 'kraken/pairs')")
        connection.execute("UPDATE pairs SET updated_at = '2026-11-19T13:00Z' WHERE market_type = 'spot'")
        connection.execute("UPDATE sync_runs SET finished_at = '2026-11-18T11:00Z' WHERE scope = 'kalshi/series'")
    found = json.loads(ssmd("health", "secmaster", "--json", code=1).stdout)
    assert found["pairs_without_namespace"] == ["XXBT"]
    # Spot pairs only: the futures' sync was ten minutes ago, so they are as the venue says.
    assert found["stale_pairs"]
    assert all("PF_" not in row["pair_id"] for row in found["stale_pairs"])
    assert {problem.partition(" ")[2] for problem in found["problems"] if "sync" in problem} == {
        "was never synced",
        "was last synced 50 hours ago",
    }
    assert "PROBLEM kalshi/series was last synced 50 hours ago" in ssmd("health", "secmaster", code=1).output


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        good = self.server.good  # type: ignore[attr-defined]
        body = json.dumps({"status": "ok" if good else "failing", "streams": {"kraken/spot": {"pending": 3}}}).encode()
        self.send_response(200 if good else 503)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


def write_units(data: Path, *units: UnitState) -> None:
    process = psutil.Process()
    state = SupervisorState(
        pid=process.pid, process_started=process.create_time(), started=datetime.now(UTC), env="test", environment={},
        units=list(units),
    )  # fmt: skip
    data.mkdir(exist_ok=True)
    write_state(data, state)


def test_parts_of_the_running_installation(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Health)
    server.good = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        now = datetime.now(UTC)
        write_units(
            tmp_path,
            UnitState(name="nats", state="healthy", since=now),
            UnitState(name="connector-kraken-spot", state="healthy", since=now, url=url, pid=1),
            UnitState(name="connector-kalshi-crypto", state="backoff", since=now, detail="exit code 2", restarts=4),
            UnitState(name="archiver", state="healthy", since=now, url=url),
        )
        there = ("--data", str(tmp_path))
        listed = ssmd("connector", "list", *there, code=1).output
        assert "connector-kalshi-crypto" in listed
        assert "exit code 2" in listed
        assert "nats" not in listed
        assert [unit["name"] for unit in json.loads(ssmd("archiver", "list", *there, "--json").stdout)] == ["archiver"]
        for name in ("kraken/spot", "connector-kraken-spot"):
            told = json.loads(ssmd("connector", "status", name, *there, "--json").stdout)
            assert told["health"]["streams"] == {"kraken/spot": {"pending": 3}}
        assert "health.streams.kraken/spot.pending" in ssmd("archiver", "status", *there).output
        assert "it has no address" in ssmd("connector", "status", "kalshi/crypto", *there, code=1).output
        assert "running: kraken-spot, kalshi-crypto" in ssmd("connector", "status", "x", *there, code=2).output
        server.good = False  # type: ignore[attr-defined]
        assert "failing" in ssmd("archiver", "status", *there, code=1).output
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
    assert "does not answer" in ssmd("archiver", "status", *there, code=1).output
    assert "nothing is running" in ssmd("archiver", "list", "--data", str(tmp_path / "other"), code=1).output


DEFINITIONS = """
import dagster as dg

@dg.op
def nothing(): ...

@dg.job
def tidy():
    nothing()

@dg.schedule(
    job=tidy, cron_schedule="7 3 * * *", description="Tidies up.", default_status=dg.DefaultScheduleStatus.RUNNING
)
def nightly():
    return dg.RunRequest()

@dg.sensor(job=tidy, minimum_interval_seconds=45)
def watch():
    return dg.SkipReason("nothing")

defs = dg.Definitions(schedules=[nightly], sensors=[watch])
"""


@pytest.fixture(scope="module")
def dagster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Dagster webserver with one schedule and one sensor."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "definitions.py").write_text(DEFINITIONS)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    port = choose_port(None)
    command = [sys.executable, "-m", "dagster_webserver", "-f", "definitions.py", "-h", "127.0.0.1", "-p", str(port)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=home, env={**os.environ, "DAGSTER_HOME": str(home)}, stdout=log, stderr=log
        )
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                assert process.poll() is None, (home / "log").read_text()
                try:
                    with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                        break
                except OSError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def test_schedules_are_dagsters(dagster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("DAGSTER_URL", dagster_url + "/")
    found = {one["name"]: one for one in json.loads(ssmd("schedule", "list", "--json").stdout)}
    assert set(found) == {"nightly", "watch"}
    nightly = found["nightly"]
    assert (nightly["kind"], nightly["state"], nightly["when"], nightly["jobs"]) == (
        "schedule",
        "running",
        "7 3 * * * UTC",
        "tidy",
    )
    assert nightly["next"][0].endswith("T03:07:00Z")
    assert nightly["next"][0] > datetime.now(UTC).isoformat()
    assert (found["watch"]["kind"], found["watch"]["state"], found["watch"]["when"]) == (
        "sensor",
        "stopped",
        "every 45 s",
    )
    assert "never" in ssmd("schedule", "list").output
    assert "Tidies up." in ssmd("schedule", "describe", "nightly").output
    assert len(json.loads(ssmd("schedule", "describe", "nightly", "--json").stdout)["next"]) == 5
    assert "it has nightly, watch" in ssmd("schedule", "describe", "daily", code=2).output
    # Without the variable it is the one that `ssmd up` runs.
    monkeypatch.delenv("DAGSTER_URL")
    monkeypatch.setenv("SSMD_DATA", str(tmp_path))
    assert "Dagster does not run" in ssmd("schedule", "list", code=2).output
    write_units(
        tmp_path, UnitState(name="dagster-webserver", state="healthy", since=datetime.now(UTC), url=dagster_url)
    )
    assert "nightly" in ssmd("schedule", "list").output


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("http://127.0.0.1:9", 1, "does not answer"),
        ("file:///etc/passwd", 2, "is not of the form"),
    ],
)
def test_a_dagster_that_is_none(monkeypatch: pytest.MonkeyPatch, url: str, code: int, said: str) -> None:
    monkeypatch.setenv("DAGSTER_URL", url)
    assert said in ssmd("schedule", "list", code=code).output


def test_every_command_is_in_the_pages() -> None:
    """With an example; commands of the API's own parts stand in docs/api/."""
    shown = "\n".join(block.text for language in ("bash", "sh") for block in blocks(language, "cli.md", "api/*.md"))
    missing = [
        " ".join(path) for path in leaves() if not re.search(rf"^ssmd {re.escape(' '.join(path))}\b", shown, re.M)
    ]
    assert missing == []


def test_examples_that_run_for_long_or_need_a_venue_are_understood() -> None:
    """What stands in blocks of `sh`: each of its commands has tests of its own; here its words are parsed."""
    wrong = []
    for block in blocks("sh", "cli.md", "api/*.md"):
        for line in block.text.splitlines():
            words = shlex.split(line.partition(" | ")[0], comments=True)
            if words and words[0] == "ssmd":
                try:
                    parsed(words[1:])
                except Exception as error:  # click's own errors have no public home in typer
                    wrong.append((block.name, line, repr(error)))
    assert wrong == []


def parsed(words: list[str]) -> None:
    """Parse a command line without running it."""
    command, name, parent = get_command(app), "ssmd", None
    while True:
        context = command.make_context(name, words, parent=parent)
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command") or not rest:  # `ssmd share` is a command and has one
            return
        found, command, words = command.resolve_command(context, rest)
        name, parent = str(found), context


def test_examples_of_the_page_work(
    installation: Installation, installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(installation.data, tmp_path / ".data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSMD_DATA", str(tmp_path / ".data"))
    wrong = []
    for block in blocks("bash", "cli.md"):
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "ssmd":
                answer = CliRunner().invoke(app, words[1:])
                if answer.exit_code != 0:
                    wrong.append((block.name, line, answer.exit_code, answer.output[-300:], repr(answer.exception)))
    assert wrong == []
