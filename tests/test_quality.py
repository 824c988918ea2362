"""Scores: the formulas against golden values, and what must not follow from too little knowledge.

The numbers in the names are those of the reference system's golden values; where the mended rule gives another one,
docs/quality.md says why.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.coverage import HourCoverage, HourState
from ssmd_core.datasets.manifest import Stats
from ssmd_core.datasets.reference import RowError, message_rows
from ssmd_core.feeds import FEEDS
from ssmd_core.messages.lines import Line
from ssmd_core.quality import formulas
from ssmd_core.quality.daily import DayInputs, FundingInputs, score_day, score_feed
from ssmd_core.quality.formulas import DAILY_WEIGHTS, HOURLY_WEIGHTS, TYPE_WEIGHTS, Gap, half_up
from ssmd_core.quality.hourly import LedgerHour, score_hour
from ssmd_core.quality.parquet_stats import FileStats
from ssmd_core.storage.layout import Kind, is_data_file
from tests.little_archive import TICKER, LittleArchive

DAY = date(2026, 11, 20)
HOUR = datetime(2026, 11, 20, 14, tzinfo=UTC)


@pytest.mark.parametrize(("value", "rounded"), [(42.5, 43), (72.5, 73), (2.5, 3), (0.49999, 0), (-0.5, 0)])
def test_halves_are_rounded_up(value: float, rounded: int) -> None:
    assert half_up(value) == rounded


def test_weights_add_up() -> None:
    for weights in (DAILY_WEIGHTS, HOURLY_WEIGHTS, TYPE_WEIGHTS):
        assert sum(weights.values()) == pytest.approx(1)
    assert sum(feed.quality_weight for feed in FEEDS.values()) == pytest.approx(1)


def test_golden_47_connector() -> None:
    assert formulas.connector(1_000, 600, flowing=True) == 90
    assert formulas.connector(1_000, 7_200, flowing=False) == 40
    assert formulas.connector(0, None, flowing=True) == 0


def test_golden_48_funding() -> None:
    # Recency 75 (45 minutes), count 50 (300 rows of 24 hours), products 100.
    assert formulas.funding(2_700, 300, 2, 300) == 73
    # 50 rows alone: count 25, of which 35 % count.
    assert formulas.funding(None, 50, 0, 300) == half_up(0.35 * 25)
    # A daemon of another interval has other thresholds: every hour, 48 rows a day.
    assert formulas.funding(6 * 3_600 - 1, 48, 2, 3_600) == 100


def test_golden_49_gaps() -> None:
    every = range(24)
    # Mended: files are hourly, so a perfect day has no gap (24 gaps and 25 % before) and scores 100 (43), or 91 without
    # a history (34).
    assert formulas.gaps_of(every) == []
    assert formulas.coverage_pct(24) == Decimal(100)
    assert formulas.completeness(1_000, 1_000, [], Decimal(100)) == 100
    assert formulas.completeness(1_000, None, [], Decimal(100)) == 91
    assert formulas.gaps_of([]) == [Gap("00:00", "24:00", 1_440)]
    without_3 = [hour for hour in every if hour != 3]
    assert formulas.gaps_of(without_3) == [Gap("03:00", "04:00", 60)]
    assert formulas.coverage_pct(23) == Decimal("95.83")


def test_golden_50_sla() -> None:
    assert formulas.sla(23, 24, 45) == 98
    assert formulas.sla(18, 24, 200) == 65
    # A quarter of the day is over and has all its data: nothing is held against the hours to come.
    assert formulas.sla(6, 6, 0) == 100


def test_golden_51_composite() -> None:
    weights = {"kalshi": 0.30, "kraken": 0.25, "polymarket": 0.15, "funding": 0.20, "archive": 0.10}
    scores: dict[str, float | None] = {"kalshi": 100, "kraken": 90, "polymarket": 60, "funding": 54, "archive": 67}
    assert formulas.weighted(scores, weights) == 79
    with_phase_2 = dict(
        kalshi=0.20, kraken=0.15, polymarket=0.10, funding=0.15, archive=0.05, completeness=0.15, parquet=0.10, sla=0.10
    )
    assert formulas.weighted(scores | {"completeness": 43, "parquet": 100, "sla": 96}, with_phase_2) == 77
    assert formulas.judge(79, ["an hour is degraded"]).status == "YELLOW"
    # What is not known leaves its share to the others, and is not 0.
    assert formulas.weighted({"a": 80, "b": None}, {"a": 0.1, "b": 0.9}) == 80
    assert formulas.weighted({"b": None}, {"b": 0.9}) is None


def test_golden_57_red_only_with_evidence() -> None:
    assert formulas.silent_and_stale(0, 30.0) == "no data, and the newest archive file is 30.0 h old (at most 7 h)"
    assert formulas.silent_and_stale(0, 1.0) is None
    assert formulas.silent_and_stale(0, None) == "no data, and nothing is archived"
    assert formulas.silent_and_stale(100, 30.0) is None
    assert formulas.judge(10, []).status == "YELLOW"
    assert formulas.judge(10, ["the archive is stale"]).status == "RED"


def test_golden_58_freshness() -> None:
    ages = [2.5, 12.0]
    assert [age for age in ages if age > formulas.STALE_AFTER_H] == [12.0]
    # With the limit of 7 h an age of 5 h is fresh; the golden row's limit of 4 h is not one of ours.
    assert formulas.archive(5.0) == 50
    assert formulas.archive(12.0) == 0


def test_golden_59_parquet() -> None:
    assert formulas.parquet_problems(0.125, 0) == ["12.5 % nulls (at most 5 %)"]
    assert formulas.parquet_problems(0.0, 42) == ["42 duplicates (at most 0)"]
    assert formulas.parquet_problems(0.08, 3, max_null_share=0.10, max_duplicates=5) == []


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_only_nothing_missing_is_100(good: int, missing: int) -> None:
    found = formulas.share(good, good + missing)
    assert (found == 100) == (missing == 0 and good > 0)


@given(st.sets(st.integers(0, 23)), st.integers(0, 24))
def test_gaps_and_present_hours_make_the_day(present: set[int], hours: int) -> None:
    gaps = formulas.gaps_of(present, hours)
    missing = sum(gap.duration_minutes for gap in gaps) // 60
    assert missing + len([hour for hour in present if hour < hours]) == hours
    assert all(gap.start < gap.end for gap in gaps)


# -- a day


def inputs(**changes: Any) -> DayInputs:
    """A perfect day."""
    values: dict[str, Any] = {
        "feed": "kraken",
        "day": DAY,
        "began": 0,
        "hours": 24,
        "present": frozenset(range(24)),
        "messages": 1_000_000,
        "expected": 1_000_000.0,
        "elapsed": 1.0,
        "message_age_s": 2.0,
        "archive_age_h": 0.0,
        "flowing": True,
        "coverage": 100.0,
        "integrity": 100.0,
        "expected_types": 4,
        "seen_types": 4,
        "files": 96,
        "empty_files": 0,
        "invalid_files": 0,
        "null_violations": 0,
        "duplicates": 0,
        "age_ms": 12.0,
        "words": {"complete": 24},
        "untrusted": 0,
    }
    return DayInputs(**(values | changes))


def test_a_perfect_day() -> None:
    found = score_feed(inputs())
    assert (found.score, found.grade, found.status, found.issues) == (100, "A", "GREEN", ())
    assert found.details["gaps"] == []


def test_a_quarter_of_a_day_is_not_held_against_it() -> None:
    found = score_feed(inputs(hours=6, present=frozenset(range(6)), messages=250_000, elapsed=0.25))
    assert (found.score, found.expected_messages) == (100, 250_000)


def test_the_day_on_which_capture_began_counts_from_then() -> None:
    found = score_feed(inputs(began=21, present=frozenset({21, 22, 23}), expected=None))
    assert (found.gaps, found.coverage_pct, found.components["sla"]) == ((), Decimal(100), 100)


def test_what_is_wrong_is_said_and_graded_by_the_feeds_own_score() -> None:
    worse = inputs(
        feed="kalshi",
        present=frozenset({0, 1, 2}),
        coverage=12.0,
        archive_age_h=21.0,
        message_age_s=75_600.0,
        flowing=False,
        words={"degraded": 3, "missing": 21},
    )
    day = score_day(DAY, [inputs(), worse], {"kraken": 0.5, "kalshi": 0.5}, ["polymarket"])
    by_feed = {one.feed: one for one in day.feeds}
    assert by_feed["kraken"].grade == "A"
    assert by_feed["kalshi"].grade == "F"
    assert by_feed["kalshi"].status == day.status == "RED"
    assert "coverage is 12 (at least 50)" in by_feed["kalshi"].issues
    assert by_feed["kalshi"].details["gaps"] == [{"start": "03:00", "end": "24:00", "duration_minutes": 1_260}]
    assert day.not_captured == ("polymarket",)


def test_a_sparse_market_is_not_red_while_its_archive_lives() -> None:
    quiet = inputs(
        messages=0, expected=None, message_age_s=None, integrity=None, seen_types=0, expected_types=0, files=0
    )
    assert score_feed(quiet).status != "RED"


def test_funding_that_is_late_is_red() -> None:
    late = score_feed(inputs(feed="kraken-futures", funding=FundingInputs(3_700.0, 500, 0, 300.0)))
    assert late.status == "RED"
    assert late.issues[0] == "funding snapshots: the newest is 62 minutes old"
    assert score_feed(inputs(feed="kraken-futures")).components["funding"] is None


# -- an hour

_FILE = FileStats("p", "kraken", "spot", "trade", DAY, "1400", 1_000, 5_000, None, 0, schema_valid=True)
_COVERED = HourCoverage("1400", HourState.BUILT, has_dataset=True, slots=4, records=1_000)
_LEDGER = LedgerHour("complete", asked=3_600.0, held=3_600.0, passed=900, messages=1_000)
_STATS = Stats(messages=1_000, accepted={"trade": 1_000})


def test_an_hour_that_is_not_proved_has_no_score_and_one_that_is_missing_has_none_of_100() -> None:
    assert score_hour("kraken", "spot", HOUR, _COVERED, None, _STATS, [_FILE]) == []
    missing = score_hour("kraken", "spot", HOUR, HourCoverage("1400", HourState.MISSING), None, None, [])
    assert [(one.message_type, one.score) for one in missing] == [("*", 0)]


def test_a_complete_hour() -> None:
    scores = score_hour("kraken", "spot", HOUR, _COVERED, _LEDGER, _STATS, [_FILE])
    assert {one.message_type: one.score for one in scores} == {"*": 100, "trade": 100}


def test_every_flaw_shows_in_its_component() -> None:
    ledger = LedgerHour("degraded", ("untrusted",), 3_600, 1_800, passed=900, failed=0, untrusted=1, messages=1_000)
    covered = HourCoverage("1400", HourState.BUILT, slots=3, records=900, lost=100)
    stats = Stats(messages=1_000, accepted={"trade": 990}, rejects={"trade": 10, "ticker": 5})
    file = FileStats(
        "p",
        "kraken",
        "spot",
        "trade",
        DAY,
        "1400",
        990,
        5_000,
        None,
        4,
        schema_valid=True,
        null_violations={"qty": 0.5},
    )
    by_type = {one.message_type: one for one in score_hour("kraken", "spot", HOUR, covered, ledger, stats, [file])}
    assert by_type["*"].components["coverage"] == 50
    assert by_type["*"].components["integrity"] == 99
    assert by_type["*"].components["archive"] == 68
    assert by_type["trade"].components == {"schema": 99, "nulls": 0, "duplicates": 99}
    assert by_type["ticker"].score == 0


# -- golden values whose rule stands elsewhere


def test_golden_53_a_hole_in_the_stream_is_a_gap(tmp_path: Path) -> None:
    archive = LittleArchive(tmp_path / "archive")
    archive.next_seq = 99
    archive.seal(HOUR, [TICKER] * 2)
    archive.next_seq = 105
    archive.seal(HOUR + timedelta(minutes=15), [TICKER])
    report = build_hour(archive.root, tmp_path / "datasets", archive.feed, archive.stream, HOUR)
    assert report.seq_gaps == [(100, 4)]


@pytest.mark.parametrize(
    ("feed", "message_type", "payload", "reason"),
    [
        ("kalshi", "ticker", b'{"type":"ticker","msg":{"market_ticker":"A"}}', "column ts"),
        ("kalshi", "ticker", b'{"type":"ticker"}', "column market_ticker"),
        ("polymarket", "price_change", b'{"event_type":"price_change","market":"0x1"}', "column asset_id"),
    ],
)
def test_golden_54_what_lacks_a_member_is_named(feed: str, message_type: str, payload: bytes, reason: str) -> None:
    schema = FEEDS[feed].required_schema(message_type)
    with pytest.raises(RowError, match=reason):
        message_rows(schema, Line(payload, 0, 1, "c0-1", 0))


def test_golden_55_the_new_kalshi_format_is_exact_dollars() -> None:
    schema = FEEDS["kalshi"].required_schema("ticker")
    message = b'{"type":"ticker","msg":{"market_ticker":"A","yes_bid_dollars":"0.9700","volume_fp":"27816.00","ts":1}}'
    (row,) = message_rows(schema, Line(message, 0, 1, "c0-1", 0))
    assert (row["yes_bid"], row["volume"]) == (Decimal("0.97"), Decimal("27816"))


def test_golden_56_names_of_files() -> None:
    assert is_data_file(Kind.PARQUET, "ticker_1400.parquet")
    assert not is_data_file(Kind.PARQUET, "order_book_0930.parquet")  # mended: files are hourly
    assert not is_data_file(Kind.PARQUET, "manifest.json")
