"""A day's scores from what lies on disk and in Postgres: collected, stored, told; and what is behind or still wrong."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from little_archive import BAD_TRADE, TICKER, LittleArchive, at
from scored_day import DAY, SIX, TEN, make_day, settings_of

from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.coverage import Manifests
from ssmd_core.db.connect import now_of
from ssmd_core.feeds import get
from ssmd_core.proof.ledger import proof_file
from ssmd_core.quality.collect import Scored, score_and_store
from ssmd_core.quality.failing import FailingHour, failing_hours
from ssmd_core.quality.mails import health_mail_of
from ssmd_core.quality.parquet_stats import day_stats
from ssmd_core.quality.stale import behind
from ssmd_core.settings import Settings
from ssmd_stream.proved import load_missing

T = TypeVar("T")
KRAKEN = get("kraken")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("scored")
    make_day(data)
    return data


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def on(url: str, work: Callable[[psycopg.AsyncConnection], Awaitable[T]], zone: str = "UTC") -> T:
    """Run `work` on a session; its time zone must not matter."""

    async def run() -> T:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
            return await work(connection)

    return asyncio.run(run())


def score(settings: Settings, day: date = DAY, zone: str = "UTC") -> Scored:
    async def work(connection: psycopg.AsyncConnection) -> Scored:
        await load_missing(connection, settings, day, day)
        manifests = Manifests(settings.archive_root, settings.dataset_root)
        return await score_and_store(connection, manifests, day, now_of(settings.clock))

    return on(settings.database_url, work, zone)


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_an_hour_of_every_kind(data: Path, database_url: str) -> None:
    settings = settings_of(data, database_url)
    scored = score(settings, zone="Asia/Kolkata")
    of_stream = {one.hour: one for one in scored.hours if one.message_type == "*"}
    words = {hour.hour: one.inputs["word"] for hour, one in of_stream.items()}
    assert {hour: words[hour] for hour in range(10, 14)} == {10: "complete", 11: "degraded", 12: "missing", 13: "empty"}
    assert set(range(15, 24)) == {hour for hour, word in words.items() if word == "missing" and hour > 12}
    assert 14 not in words, "archived and not proved: unknown is not zero"
    assert not words.keys() & set(range(10)), "nothing was captured before ten"
    by_hour = {hour.hour: one for hour, one in of_stream.items()}
    assert (by_hour[10].score, by_hour[12].score, by_hour[13].score) == (100, 0, 100)
    # 60.06 of 3,600 s without the connection; its closed minute is asked for all the same.
    assert by_hour[11].components["coverage"] == 98
    assert {one.message_type for one in scored.hours if one.hour == TEN} == {"*", "trade"}

    (kraken,) = scored.day.feeds
    assert kraken.details["inputs"]["began"] == 10
    assert kraken.details["gaps"] == [
        {"start": "12:00", "end": "13:00", "duration_minutes": 60},
        {"start": "15:00", "end": "24:00", "duration_minutes": 540},
    ]
    assert kraken.coverage_pct == Decimal("28.57")
    assert kraken.expected_messages is None
    assert "1 archived hours are not proved yet" in kraken.issues
    assert (kraken.status, kraken.components["archive"]) == ("RED", 0)
    assert scored.day.not_captured == ("kalshi", "kraken-futures", "polymarket")

    stored = rows(
        database_url, "SELECT feed, score, composite_score, gap_count, details->>'status' FROM dq_daily_scores"
    )
    assert stored == [("kraken", kraken.score, scored.day.composite, 2, "RED")]
    assert rows(database_url, "SELECT path, rows, schema_valid FROM dq_parquet_stats ORDER BY path") == [
        (f"kraken/spot/2026-11-20/trade_{hour}00.parquet", count, True) for hour, count in ((10, 360), (11, 354))
    ]
    at_first = "SELECT hour, message_type, score, updated_at FROM dq_hourly_scores ORDER BY 1, 2"
    first = rows(database_url, at_first)
    assert len(first) == len(scored.hours)
    assert score(settings) == scored
    assert rows(database_url, at_first) == first, "what is so already is not written again"


def test_a_ledger_that_postgres_missed_is_loaded_and_one_that_is_gone_is_told(data: Path, database_url: str) -> None:
    settings = settings_of(data, database_url)

    def load(zone: str = "UTC") -> int:
        return on(database_url, lambda connection: load_missing(connection, settings, DAY, DAY), zone)

    assert load() == 3
    assert load("Asia/Kolkata") == 0
    count = "SELECT count(*) FROM ledger_hours"
    rows(database_url, "DELETE FROM ledger_hours WHERE word = 'empty' RETURNING 1")
    proof_file(settings.proof_root, "kraken", "spot", TEN + timedelta(hours=3), "shapes").unlink()
    assert load() == 0, "half an hour is not loaded"
    assert rows(database_url, count) == [(2,)]


def test_a_score_of_what_is_unknown_by_now_is_removed(data: Path, database_url: str) -> None:
    settings = settings_of(data, database_url)
    score(settings)
    missing = "SELECT extract(hour FROM hour AT TIME ZONE 'UTC')::int FROM dq_hourly_scores WHERE score = 0 ORDER BY 1"
    assert (15,) in rows(database_url, missing)
    LittleArchive(settings.archive_root).seal_hour(at("2026-11-20T15:00"))
    score(settings)
    assert (15,) not in rows(database_url, missing)
    shutil.rmtree(settings.dataset_root / "kraken")
    score(settings)
    assert rows(database_url, "SELECT count(*) FROM dq_parquet_stats") == [(0,)]


@pytest.mark.parametrize(
    ("clock", "hours", "gaps", "expected"),
    [("2026-11-20T15:10:00Z", 15, 1, None), ("2026-11-21T00:20:00Z", 0, 0, 23)],
)
def test_a_day_that_is_not_over(
    data: Path, database_url: str, clock: str, hours: int, gaps: int, expected: int | None
) -> None:
    settings = settings_of(data, database_url, clock)
    (kraken,) = score(settings, now_of(settings.clock).date()).day.feeds
    assert kraken.details["inputs"]["hours"] == hours
    assert len(kraken.gaps) == gaps
    if expected is None:
        assert kraken.status != "RED"
        return
    # Of the first minutes nothing can be said yet that would be somebody's fault.
    assert kraken.expected_messages == pytest.approx(expected, abs=1)
    assert {name for name, value in kraken.components.items() if value is None} >= {"completeness", "sla", "parquet"}


def test_files_are_really_looked_at(tmp_path: Path, database_url: str) -> None:
    settings = settings_of(tmp_path, database_url)
    archive = LittleArchive(settings.archive_root)
    for hour in range(5):
        archive.seal_hour(at(f"2026-11-20T{hour:02d}:00"), [TICKER] * 30)
    archive.next_seq, archive._ordinal = archive.next_seq - 30, archive._ordinal - 30
    archive.seal(at("2026-11-20T04:45"), [TICKER] * 5, late=1)  # lines that are there already
    archive.next_seq = 1_000
    archive.seal_hour(at("2026-11-20T05:00"), [BAD_TRADE])
    for hour in range(6):
        moment = at(f"2026-11-20T{hour:02d}:00")
        build_hour(archive.root, settings.dataset_root, archive.feed, archive.stream, moment, threads=1)
    folder = settings.dataset_root / "kraken/spot/2026-11-20"
    table = pq.read_table(folder / "ticker_0100.parquet")
    empty = pa.nulls(table.num_rows, table.schema.field("timestamp").type)
    pq.write_table(
        table.set_column(table.schema.get_field_index("timestamp"), "timestamp", empty), folder / "ticker_0100.parquet"
    )
    pq.write_table(table.drop_columns(["timestamp"]), folder / "ticker_0200.parquet")
    unreadable = folder / "ticker_0300.parquet"
    unreadable.write_bytes(unreadable.read_bytes()[:-20])

    manifests = Manifests(settings.archive_root, settings.dataset_root)
    good, nulls, changed, broken, twice = day_stats(manifests, KRAKEN, "spot", DAY, [])
    assert (good.rows, good.schema_valid, good.null_violations, good.duplicates) == (120, True, {}, 0)
    assert good.compression_ratio is not None
    assert nulls.null_violations == {"timestamp": 1.0}
    assert (changed.schema_valid, broken.schema_valid, broken.rows) == (False, False, 0)
    assert "its columns are not those of kraken_ticker" in changed.problem
    assert "cannot be read" in broken.problem
    assert (twice.rows, twice.duplicates) == (120, 5)

    scored = score(settings)
    (kraken,) = scored.day.feeds
    assert {"2 of 5 parquet files do not fit their schema", "1 columns are null that used to be filled"} <= set(
        kraken.issues
    )
    stored = rows(database_url, "SELECT rows, duplicates_filtered, schema_valid, null_violations FROM dq_parquet_stats")
    assert sorted(stored, key=str) == sorted(
        [
            (120, 0, True, {}), (120, 0, True, {"timestamp": 1.0}), (120, 0, False, {}), (0, 0, False, {}),
            (120, 5, True, {}),
        ],
        key=str,
    )  # fmt: skip


def test_a_damaged_manifest_is_evidence_not_absence(tmp_path: Path, database_url: str) -> None:
    folder = tmp_path / "archive/kraken/spot/2026-11-20"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    (kraken,) = score(settings_of(tmp_path, database_url)).day.feeds
    assert kraken.status == "RED"
    assert any("manifest.json" in issue for issue in kraken.issues)


def test_nothing_captured_is_unknown(tmp_path: Path, database_url: str) -> None:
    scored = score(settings_of(tmp_path, database_url))
    assert (scored.day.status, scored.day.composite, scored.day.feeds) == ("UNKNOWN", None, ())


def test_hours_that_can_be_put_right_are_told_from_those_that_cannot(data: Path, database_url: str) -> None:
    settings = settings_of(data, database_url)
    score(settings)

    def failing(clock: str = SIX) -> dict[str, FailingHour]:
        now = now_of(settings_of(data, "", clock).clock)
        manifests = Manifests(settings.archive_root, settings.dataset_root)
        found = on(database_url, lambda connection: failing_hours(connection, manifests, DAY, 7, now), "Asia/Tokyo")
        return {hour.name: hour for hour in found}

    eleven, fourteen = "kraken/spot 2026-11-20T11", "kraken/spot 2026-11-20T14"
    found = failing()
    assert list(found) == [fourteen, eleven]
    assert (found[fourteen].reasons, found[fourteen].mendable) == (("not_proved",), True)
    assert "not_connected" in found[eleven].reasons
    assert not found[eleven].mendable, "a hole in the capture stays a hole"
    assert list(failing("2026-11-20T16:30:00Z")) == [eleven], "it is not due before its run has had its time"

    archive = LittleArchive(settings.archive_root)
    archive.next_seq = 100_000
    archive.seal(TEN, [TICKER], late=1)
    assert failing()["kraken/spot 2026-11-20T10"].reasons == ("archive_changed",)
    (settings.dataset_root / "kraken/spot/2026-11-20/parquet-manifest.json").write_text("{")
    assert ("damaged",) in {hour.reasons for hour in failing().values()}


def test_how_far_behind_a_stream_is(tmp_path: Path) -> None:
    archive = LittleArchive(tmp_path / "archive")
    datasets = tmp_path / "datasets"

    def complaint(clock: str) -> str | None:
        now = datetime.fromisoformat(f"2026-11-{clock}").replace(tzinfo=UTC)
        found = behind(Manifests(archive.root, datasets), KRAKEN, "spot", now)
        return None if found is None else found.complaint(now)

    assert complaint("20T12:00") is None, "nobody captures it"
    archive.seal_hour(at("2026-11-20T11:00"))
    assert complaint("20T12:40") == ""
    assert "Nothing was archived for 50 minutes (until 2026-11-20 12:00)" in str(complaint("20T12:50"))
    assert complaint("24T12:00") is None
    build_hour(archive.root, datasets, archive.feed, archive.stream, at("2026-11-20T11:00"), threads=1)
    for hour in range(12, 17):
        archive.seal_hour(at(f"2026-11-20T{hour}:00"), [TICKER])
    assert "until 2026-11-20 17:00, but datasets end at 2026-11-20 12:00" in str(complaint("20T17:20"))
    shutil.rmtree(datasets)
    assert "datasets end at 2026-11-20 11:00" in str(complaint("20T17:20")), "nothing was ever built"
    (archive.root / "kraken/spot/2026-11-20/manifest.json").write_text("{")
    assert "Run `ssmd verify`" in str(complaint("20T17:20"))


def test_the_health_mail(data: Path, database_url: str) -> None:
    settings = settings_of(data, database_url)
    scored = score(settings)
    rows(
        database_url,
        "INSERT INTO dq_daily_scores (check_date, feed, score, composite_score, details) "
        "VALUES ('2026-11-19', 'kraken', 91, 91, '{}') RETURNING 1",
    )
    mail = on(database_url, lambda connection: health_mail_of(connection, scored))
    assert mail.subject == f"[ssmd] Health RED ({scored.day.composite}/100) 2026-11-20"
    assert "1 archived hours are not proved yet" in mail.text
    assert "kraken" in mail.html
    assert len(mail.images) >= 3, "the trend of all, that of the feed, and its hours"
