"""Evidence, rule-based reports, Markdown, the table and the commands; real Postgres, no model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from installation import CLOCK, Installation
from installation import DAY as INSTALLED_DAY
from markdown_it import MarkdownIt
from report_rows import DAY, at, bad_day, drift, good_day, hour, reconciliation, score, untrusted
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_core.clock import Clock
from ssmd_core.datasets.coverage import Manifests
from ssmd_core.db.connect import connect, now_of
from ssmd_core.errors import DatasetError
from ssmd_core.quality.formulas import GREEN_FROM
from ssmd_core.reports.advice import ADVICE
from ssmd_core.reports.collect import RunFailure, read_rows
from ssmd_core.reports.diagnosis import diagnose
from ssmd_core.reports.evidence import MAX_EVIDENCE_BYTES, Evidence
from ssmd_core.reports.findings import all_green, evidence_of
from ssmd_core.reports.rules import diagnose_by_rules, slope_of
from ssmd_core.reports.store import Made
from ssmd_core.reports.texts import canonical, clean, hours_told, markdown_text, quoted
from ssmd_core.reports.volume_inputs import read_volumes, with_titles

GOLDEN = Path(__file__).parent / "golden"


def evidence(url: str, day: date = DAY, runs: tuple[RunFailure, ...] = ()) -> Evidence:
    async def work() -> Evidence:
        async with await connect(url, name="test") as connection:
            return evidence_of(await read_rows(connection, day, runs, green_from=GREEN_FROM))

    return asyncio.run(work())


def diagnosed(url: str, day: date = DAY, runs: tuple[RunFailure, ...] = ()) -> Made:
    async def work() -> Made:
        async with await connect(url, name="test") as connection:
            return await diagnose(connection, day, model=None, run_failures=runs)

    return asyncio.run(work())


@contextmanager
def database(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


RUNS = (RunFailure("3f1c", "hourly", "2026-11-21-15:00", "OSError: No space left; postgresql://u:secret@host/db"),)


def test_a_bad_day_by_rules(database_url: str) -> None:
    with database(database_url) as connection:
        bad_day(connection)
    made = diagnosed(database_url, runs=RUNS)
    report = made.report
    assert (report.source, report.status, made.asked, made.needed) == ("rules", "RED", False, True)
    assert report.markdown == (GOLDEN / "diagnosis_bad_day.md").read_text()
    assert "secret" not in json.dumps(report.body)
    again = diagnosed(database_url, runs=RUNS).report
    assert again == report


def test_a_good_day_by_rules(database_url: str) -> None:
    with database(database_url) as connection:
        good_day(connection)
    made = diagnosed(database_url)
    assert (made.report.status, made.needed, made.report.body["feeds"]) == ("GREEN", False, [])
    assert made.report.markdown == (GOLDEN / "diagnosis_good_day.md").read_text()


def test_nothing_known_is_not_green(database_url: str) -> None:
    report = diagnosed(database_url).report
    assert report.status == "YELLOW"
    assert "Nothing is known of this day." in report.markdown
    assert "ssmd health daily" in report.body["unknown"][0]
    with database(database_url) as connection:
        good_day(connection)
        connection.execute("DELETE FROM dq_daily_scores WHERE check_date = %s AND feed = 'kraken'", (DAY,))
        connection.execute("DELETE FROM ledger_hours WHERE feed = 'kalshi' AND hour >= %s", (at(20),))
        connection.execute("DELETE FROM dq_hourly_scores WHERE feed = 'kalshi' AND hour >= %s", (at(20),))
    report = diagnosed(database_url).report
    assert report.status == "YELLOW"
    assert report.body["unknown"] == [
        "kraken has no score for 2026-11-21; `ssmd health daily --date 2026-11-21` makes it",
        "kalshi/crypto: 4 hours are not proved yet, 20:00 to 24:00",
    ]


@pytest.mark.parametrize("trouble", ["hour", "drift", "trades", "run"])
def test_all_is_well_only_without_any_trouble(database_url: str, trouble: str) -> None:
    with database(database_url) as connection:
        good_day(connection)
        assert all_green(evidence(database_url))
        if trouble == "hour":
            connection.execute(
                "UPDATE ledger_hours SET word = 'degraded' WHERE feed = 'kraken' AND hour = %s", (at(3),)
            )
        elif trouble == "drift":
            drift(connection, "kraken", "data.x", "a new field", at(3))
        elif trouble == "trades":
            reconciliation(connection, "kraken/spot", at(3), 1, "missing")
    runs = (RunFailure("r", "daily", "2026-11-21", "x"),) if trouble == "run" else ()
    found = evidence(database_url, runs=runs)
    assert not all_green(found)
    assert found.status == "YELLOW"
    earlier = (RunFailure("r", "daily", "2026-11-19", "x"),)
    assert all_green(evidence(database_url, DAY, earlier)) == (trouble == "run")
    assert diagnose_by_rules(found)["recommendations"]


def test_each_row_has_its_id_and_says_what_it_is(database_url: str) -> None:
    with database(database_url) as connection:
        bad_day(connection)
    found = evidence(database_url, runs=RUNS)
    ids = {item.id for item in found.items}
    assert {
        "score:kraken:2026-11-15", "hour:kraken/spot/2026-11-21T14", "hour:kraken/spot/2026-11-21T15", "drift:1",
        "reconciliation:1", "run:3f1c",
    } <= ids  # fmt: skip
    assert found.by_id["hour:kraken/spot/2026-11-21T14"].facts["untrusted_intervals"] == {"checksum": 2}
    assert found.by_id["hour:kraken/spot/2026-11-21T15"].facts["word"] == "missing"
    assert found.document["context"]["hours_by_word"]["kraken/spot"] == {
        "day": {"complete": 21, "degraded": 1, "missing": 1}
    }
    assert evidence(database_url, runs=RUNS).input_sha256 == found.input_sha256
    assert evidence(database_url).input_sha256 != found.input_sha256


def test_what_does_not_fit_is_counted_and_no_feed_is_pushed_out(database_url: str) -> None:
    long = "x" * 5000
    reasons = [{"code": f"code{n}", "detail": long, "count": n} for n in range(40)]
    with database(database_url) as connection:
        for n in range(7):
            score(connection, "kraken", DAY - timedelta(days=n), "10", status="RED", issues=[long] * 50)
            for h in range(24):
                for stream in ("spot", "other"):
                    hour(connection, f"kraken/{stream}", at(h, DAY - timedelta(days=n)), "degraded", "5", reasons)
        hour(connection, "kalshi/crypto", at(1), "missing", "0")
        for n in range(60):
            drift(connection, "kraken", f"{n}{long[:200]}", f"{n} {long}", at(2))
            reconciliation(connection, "kraken/spot", at(n % 24, DAY - timedelta(days=n // 24)), 5, "missing")
    runs = tuple(RunFailure(str(n), long, long, long) for n in range(100))
    found = evidence(database_url, runs=runs)
    assert len(canonical(found.document)) <= MAX_EVIDENCE_BYTES
    assert found.left_out["run"] == 80
    assert found.left_out["drift"] >= 30
    assert found.left_out["reconciliation"] >= 40
    total = sum(found.left_out.values()) + len(found.items)
    assert total == 7 + 7 * 24 * 2 + 1 + 60 + 60 + 100
    assert "hour:kalshi/crypto/2026-11-21T01" in found.by_id
    report = diagnosed(database_url, runs=runs).report
    assert "Rows that did not fit" in report.markdown
    assert len(report.markdown) < 40_000


def test_rows_of_any_shape_are_taken(database_url: str) -> None:
    shapes: list[Any] = [None, 5, "text", [], {}, [5, None, {"code": 7}], {"a": "\u0000".join("ab")[:1]}]
    with database(database_url) as connection:
        for n, shape in enumerate(shapes):
            hour(connection, "kraken/spot", at(n), "degraded", "70")
            shaped = json.dumps(shape)
            connection.execute("UPDATE ledger_hours SET reasons = %s WHERE hour = %s", (shaped, at(n)))
            connection.execute("UPDATE dq_hourly_scores SET components = %s WHERE hour = %s", (shaped, at(n)))
            connection.execute(
                "INSERT INTO dq_daily_scores (check_date, feed, score, details) VALUES (%s, 'kraken', 55.5, %s)",
                (DAY - timedelta(days=n), json.dumps({"issues": shape, "components": shape, "status": shape})),
            )
        connection.execute("UPDATE dq_daily_scores SET details = '[]' WHERE check_date = %s", (DAY,))
        untrusted(connection, "polymarket/markets", at(1), "7" * 78, "touch")
        score(connection, "unheard-of", DAY, "1", status="RED")
    report = diagnosed(database_url).report
    assert report.status == "RED"
    assert "unheard-of" not in report.markdown
    assert "polymarket/markets 2026-11-21T01:00: not proved yet, 1 untrusted interval" in report.markdown


def test_hours_that_are_no_trouble_and_some_that_look_like_none(database_url: str) -> None:
    with database(database_url) as connection:
        good_day(connection)
        # Capture of kalshi began at 20:00: what was before is no lack. A score of 0 is one, whatever its word.
        for table in ("ledger_hours", "dq_hourly_scores"):
            statement = f"DELETE FROM {table} WHERE feed = 'kalshi' AND hour < %s"
            connection.execute(statement.encode(), (at(20),))
        connection.execute(
            "UPDATE dq_hourly_scores SET score = 0 WHERE feed = 'kraken' AND hour IN (%s, %s)", (at(3), at(4))
        )
    report = diagnosed(database_url).report
    assert report.body["unknown"] == []
    assert (report.status, [one["feed"] for one in report.body["feeds"]]) == ("YELLOW", ["kraken"])
    assert "in 2 hours (03:00 to 05:00)" in report.body["summary"]


def test_hours_are_told_as_spans() -> None:
    assert hours_told([]) == ""
    assert hours_told([23]) == "23:00 to 24:00"
    assert hours_told([5, 3, 4, 4, 9]) == "03:00 to 06:00, 09:00 to 10:00"
    assert hours_told(range(0, 12, 2)).endswith("06:00 to 07:00 and 2 more")


def test_only_lost_trades_are_said_to_be_lost(database_url: str) -> None:
    with database(database_url) as connection:
        good_day(connection)
        reconciliation(connection, "kraken/spot", at(3), 0, "extra")
        connection.execute("UPDATE trade_reconciliations SET extra = 1, differing = 2")
    (feed,) = diagnosed(database_url).report.body["feeds"]
    told = "2 of 100 trades of the venue's differ in the archive, 1 archived trade not among the venue's"
    assert feed["issue"] == f"{told}: BTC/USD 03:00 to 03:10."
    assert "lost" not in feed["likely_cause"] and "backfill" not in feed["action"]


REASONS = """
    slots_missing messages_lost ordinals_missing not_connected not_acknowledged refused live_count_differs untrusted
    checks_failed drift rejects null_column clock_offset no_control_events carried_state_missing
"""


def test_every_reason_of_a_ledger_has_advice() -> None:
    assert set(ADVICE) == {*REASONS.split(), "missing", "low_score"}
    assert len({advice.rank for advice in ADVICE.values()}) == len(ADVICE)


def test_a_slope_is_the_least_squares_line() -> None:
    assert slope_of([1, 2, 3], [Decimal(90), Decimal(90), Decimal(90)]) == 0
    assert slope_of([1, 2, 4], [Decimal(10), Decimal(20), Decimal(40)]) == 10
    assert slope_of([1, 2, 3], [Decimal(100), Decimal(40), Decimal(70)]) == -15


@given(st.text(max_size=300))
def test_text_in_markdown_is_only_text(text: str) -> None:
    shown = markdown_text(text)
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"- {shown}\n- x\n")
    inner = html.removeprefix("<ul>\n<li>").split("</li>")[0]
    assert "<" not in inner, (text, html)
    assert "\n" not in shown


@given(st.text(max_size=500), st.integers(2, 60))
def test_clean_text_is_one_short_visible_line(text: str, most: int) -> None:
    told = clean(text, most)
    assert len(told) <= most
    assert told.isprintable() or not told
    assert "</evidence>" not in quoted({"a": f"{text}</evidence>"})
    assert json.loads(quoted({"a": text})) == {"a": text}


def column(file: Path, name: str) -> list[Any]:
    return list(pq.read_table(file, columns=[name])[name].to_pylist())


def test_volume_of_an_installation(installation: Installation) -> None:
    manifests = Manifests(installation.data / "archive", installation.data / "datasets")
    now = now_of(Clock.parse(CLOCK))
    found = {one.feed: one for one in read_volumes(manifests, INSTALLED_DAY, now)}
    assert set(found) == {"kalshi", "kraken", "kraken-futures", "polymarket"}
    kalshi, kraken = found["kalshi"], found["kraken"]
    assert kalshi.trade_count and isinstance(kalshi.volume, Decimal) and kalshi.unit == "contracts"
    assert kraken.trade_count and kraken.volume is None
    folder = installation.data / "datasets"
    sizes = [row for file in folder.glob(f"kalshi/*/{INSTALLED_DAY}/trade_*.parquet") for row in column(file, "count")]
    assert (kalshi.trade_count, kalshi.volume) == (len(sizes), sum(sizes))
    repeats = column(folder / f"kraken/spot/{INSTALLED_DAY}/trade_1100.parquet", "is_snapshot")
    assert kraken.trade_count == sum(not one for one in repeats)
    assert [top.volume for top in kalshi.top] == sorted((top.volume for top in kalshi.top), reverse=True)
    # Before 11:00 nothing was captured yet, 14:00 is not over.
    assert kalshi.missing_hours == ("1300",)

    async def titled() -> list[Any]:
        async with await connect(installation.database_url, name="test") as connection:
            return await with_titles(connection, list(found.values()), now)

    by_feed = {one.feed: one for one in asyncio.run(titled())}
    assert any(top.title for top in by_feed["kalshi"].top)
    assert all(top.title == "" for top in by_feed["kraken"].top)
    assert read_volumes(manifests, date(2020, 1, 1), now) == []


def test_a_damaged_dataset_is_named(installation: Installation, tmp_path: Path) -> None:
    data = tmp_path / "datasets"
    data.mkdir()
    source = installation.data / "datasets" / "kraken" / "spot" / str(INSTALLED_DAY)
    folder = data / "kraken" / "spot" / str(INSTALLED_DAY)
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "trade_1100.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(DatasetError, match="kraken"):
        read_volumes(Manifests(installation.data / "archive", data), INSTALLED_DAY, now_of(Clock.parse(CLOCK)))


def test_the_commands(installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    for name in ("ANTHROPIC_API_KEY", "SMTP_HOST", "SMTP_TO"):
        monkeypatch.delenv(name, raising=False)
    with installation.copy("reports_cli") as url:
        with database(url) as connection:
            for table in ("dq_daily_scores", "dq_hourly_scores", "ledger_hours", "untrusted_intervals"):
                connection.execute(f"DELETE FROM {table}".encode())
            good_day(connection, INSTALLED_DAY)
            hour(connection, "polymarket/markets", at(9, INSTALLED_DAY), "missing", "0")
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("SSMD_DATA", str(installation.data))
        monkeypatch.setenv("SSMD_CLOCK", "2026-11-21T06:00:00Z")
        for kind in ("diagnosis", "volume"):
            preview = tmp_path / f"{kind}.html"
            told = runner.invoke(app, [kind, "analyze", "--json", "--preview", str(preview)])
            assert told.exit_code == 0, told.output
            document = json.loads(told.stdout)
            assert (document["kind"], document["date"], document["source"]) == (kind, str(INSTALLED_DAY), "rules")
            assert "No model is set up" in document["note"]
            assert str(INSTALLED_DAY.day) in preview.read_text()
            told = runner.invoke(app, [kind, "analyze", "--date", str(INSTALLED_DAY), "--no-mail"])
            assert told.exit_code == 0 and told.stdout.startswith("# ")
            told = runner.invoke(app, [kind, "analyze"])
            assert told.exit_code == 0 and "no mail: SMTP_HOST" in told.stderr
        assert runner.invoke(app, ["diagnosis", "analyze", "--date", "2026-13-01"]).exit_code == 2
        assert runner.invoke(app, ["diagnosis", "analyze", "--date", "2026-11-22"]).exit_code == 2
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        told = runner.invoke(app, ["diagnosis", "analyze"])
        assert told.exit_code == 2 and "SMTP_TO" in told.stderr
        with database(url) as connection:
            rows = connection.execute("SELECT kind, report_date, source FROM reports ORDER BY kind").fetchall()
        assert rows == [("diagnosis", INSTALLED_DAY, "rules"), ("volume", INSTALLED_DAY, "rules")]
