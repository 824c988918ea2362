"""Counts and intervals become verdicts per instrument and minute."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmd_core.proof.rules import INTEGRITY_SCHEMA, REASONS, UNTRUSTED_SCHEMA, Counter
from ssmd_core.proof.verdicts import MINUTE_US, UNVERIFIABLE_REASONS, Verdicts

START_US = 1_786_845_600_000_000
END_US = START_US + 60 * MINUTE_US


def at(minute: float) -> int:
    return START_US + int(minute * MINUTE_US)


def rows(verdicts: Verdicts) -> list[tuple[object, ...]]:
    """instrument, from minute, to minute, verdict, reason, messages, passed, failed."""
    table = verdicts.findings(START_US, END_US).integrity
    assert table.schema == INTEGRITY_SCHEMA
    out: list[tuple[object, ...]] = []
    for row in table.to_pylist():
        first, last = (round((row[name].timestamp() * 1e6 - START_US) / MINUTE_US) for name in ("from", "to"))
        out.append(
            (
                row["instrument"],
                first,
                last,
                row["verdict"],
                row["reason"],
                row["messages"],
                row["passed"],
                row["failed"],
            )
        )
    return out


def test_neighbouring_minutes_of_one_verdict_are_one_row() -> None:
    verdicts = Verdicts()
    for minute in (0, 1, 1.5, 2, 4):
        verdicts.count("c0-1", "B", "book", at(minute), passed=1)
    verdicts.count("c0-1", "A", "book", at(59.999))
    assert rows(verdicts) == [
        ("A", 59, 60, "unverifiable", "no_check", 1, 0, 0),
        ("B", 0, 3, "verified", None, 4, 4, 0),
        ("B", 4, 5, "verified", None, 1, 1, 0),
    ]


def test_an_interval_breaks_every_minute_it_touches_and_stays_open_to_the_end() -> None:
    verdicts = Verdicts()
    for minute in range(60):
        verdicts.count("c0-1", "A", "book", at(minute), passed=1)
    verdicts.distrust("c0-1", "A", "book", from_us=at(2.5), nats_seq=7, reason="sequence_gap", detail="seq 4 after 2")
    verdicts.distrust("c0-1", "A", "book", from_us=at(1), nats_seq=8, reason="checksum", detail="of no account")
    verdicts.trust("c0-1", "A", "book", at(4))
    verdicts.trust("c0-1", "A", "book", at(5))
    verdicts.distrust("c0-1", "A", "book", from_us=at(58.5), nats_seq=9, reason="checksum", detail="5, not 6")
    assert rows(verdicts) == [
        ("A", 0, 2, "verified", None, 2, 2, 0),
        ("A", 2, 4, "broken", "sequence_gap", 2, 2, 0),
        ("A", 4, 58, "verified", None, 54, 54, 0),
        ("A", 58, 60, "broken", "checksum", 2, 2, 0),
    ]
    untrusted = verdicts.findings(START_US, END_US).untrusted
    assert untrusted.schema == UNTRUSTED_SCHEMA
    first, second = untrusted.to_pylist()
    assert (first["reason"], first["nats_seq"], first["detail"]) == ("sequence_gap", 7, "seq 4 after 2")
    assert (second["to"], second["nats_seq"]) == (None, 9)


def test_unverifiable_needs_to_cover_a_minute_in_which_something_was_compared() -> None:
    verdicts = Verdicts()
    verdicts.distrust("c0-1", "A", "book", from_us=at(0.5), nats_seq=1, reason="no_snapshot", detail="none yet")
    verdicts.count("c0-1", "A", "book", at(0.6), unverifiable=1)
    verdicts.count("c0-1", "A", "book", at(2.4), passed=1)
    verdicts.trust("c0-1", "A", "book", at(2.4))
    verdicts.count("c0-1", "A", "book", at(3), passed=1, failed=1)
    assert rows(verdicts) == [
        ("A", 0, 2, "unverifiable", "no_snapshot", 1, 0, 0),
        ("A", 2, 3, "verified", None, 1, 1, 0),
        ("A", 3, 4, "broken", "checksum", 1, 1, 1),
    ]


def test_what_is_open_goes_on_at_the_start_of_the_next_hour() -> None:
    before = Verdicts()
    before.distrust("c0-1", "A", "book", from_us=at(-0.5), nats_seq=1, reason="checksum", detail="5, not 6")
    before.distrust("c0-0", "B", "trade", from_us=at(-9), nats_seq=0, reason="sequence_gap", detail="3 after 1")
    verdicts = Verdicts()
    verdicts.restore(before.open_intervals())
    assert verdicts.open_intervals() == before.open_intervals()
    assert verdicts.distrusted("c0-1", "A", "book") is not None
    verdicts.trust("c0-1", "A", "book", at(1))
    verdicts.trust("c0-0", "B", "trade", at(0))
    a, b = verdicts.findings(START_US, END_US).untrusted.to_pylist()
    assert a["from"].timestamp() * 1e6 == START_US
    assert b["from"] == b["to"]
    with pytest.raises(ValueError, match="'rain' is not a reason"):
        verdicts.restore([["A", "book", "c0-1", 0, 0, "rain", ""]])


def test_the_columns_of_many_count_like_one_by_one() -> None:
    one, many = Verdicts(), Verdicts()
    for instrument, minute in (("A", 1), ("B", 1), ("A", 2)):
        one.count("c0-1", instrument, "trade", at(minute), messages=3, passed=2, unverifiable=1)
    many.count_many(
        pa.array(["c0-1"] * 3).dictionary_encode(),
        ["A", "B", "A"],
        "trade",
        np.array([at(1), at(1), at(2)]),
        messages=np.array([3, 3, 3]),
        passed=pa.array([2, 2, 2]),
        unverifiable=1,
    )
    assert rows(many) == rows(one)
    minutes = many.findings(START_US, END_US).minutes
    assert [(key, sums.passed, sums.unverifiable) for key, sums in minutes.items()] == [
        (("c0-1", at(1)), 4, 2),
        (("c0-1", at(2)), 2, 1),
    ]


def test_counters_with_gaps_come_first_and_there_are_at_most_100() -> None:
    seen = [Counter(f"book {n:03}", 1, 2, int(n == 150), 0, 0) for n in range(200)]
    minutes = Verdicts().findings(START_US, END_US, {("c0-1", START_US): seen}).minutes
    counters = minutes["c0-1", START_US].counters
    assert [counter.name for counter in counters[:2]] == ["book 150", "book 000"]
    assert len(counters) == 100


def test_nothing_gives_empty_tables() -> None:
    findings = Verdicts().findings(START_US, END_US)
    assert (findings.integrity.num_rows, findings.untrusted.num_rows, findings.minutes) == (0, 0, {})


def test_30_000_instruments_in_60_minutes() -> None:
    verdicts = Verdicts()
    instruments = [f"KX-{n}" for n in range(30_000)]
    began = time.process_time()
    for minute in range(60):
        verdicts.count_many(["c0-1"] * 30_000, instruments, "book", np.full(30_000, at(minute)), passed=1)
    for n in range(0, 30_000, 10):
        verdicts.distrust("c0-1", f"KX-{n}", "book", from_us=at(30), nats_seq=n, reason="checksum", detail="")
    findings = verdicts.findings(START_US, END_US)
    assert findings.integrity.num_rows == 33_000
    assert sum(findings.integrity["messages"].to_pylist()) == 1_800_000
    # 2.5 s on an idle core; the bound only catches what grows with the square of the instruments.
    assert time.process_time() - began < 20


EVENTS = st.one_of(
    st.tuples(st.just("count"), st.integers(0, 299), st.integers(0, 2), st.integers(0, 1)),
    st.tuples(st.just("open"), st.integers(0, 299), st.sampled_from(REASONS), st.none()),
    st.tuples(st.just("close"), st.integers(0, 299), st.none(), st.none()),
)


@given(st.lists(EVENTS, max_size=20))
def test_every_minute_follows_the_rule(events: list[tuple[str, int, object, object]]) -> None:
    """Against the rule's words, minute by minute, in steps of a fifth of a minute."""
    verdicts = Verdicts()
    counted: dict[int, list[int]] = {}
    intervals: list[list[object]] = []
    for name, fifth, a, b in sorted(events, key=lambda event: event[1]):
        us = START_US + fifth * MINUTE_US // 5
        if name == "count":
            verdicts.count("c0-1", "A", "book", us, passed=int(str(a)), failed=int(str(b)))
            sums = counted.setdefault(fifth // 5, [0, 0, 0])
            for n, add in enumerate((1, int(str(a)), int(str(b)))):
                sums[n] += add
        elif name == "open":
            verdicts.distrust("c0-1", "A", "book", from_us=us, nats_seq=fifth, reason=str(a), detail="")
            if not intervals or intervals[-1][1] is not None:
                intervals.append([fifth, None, a])
        else:
            verdicts.trust("c0-1", "A", "book", us)
            if intervals and intervals[-1][1] is None:
                intervals[-1][1] = fifth
    expected: dict[int, tuple[str, str | None]] = {}
    for minute in range(60):
        first, end = minute * 5, minute * 5 + 5
        spans = [(int(str(f)), 300 if t is None else int(str(t)), str(reason)) for f, t, reason in intervals]
        touching = [span for span in spans if span[0] < end and (span[1] > first or span[0] >= first)]
        messages, passed, failed = counted.get(minute, [0, 0, 0])
        broken = [span for span in touching if span[2] not in UNVERIFIABLE_REASONS]
        covering = [span for span in touching if span[0] <= first and span[1] >= end]
        if broken or failed:
            expected[minute] = ("broken", broken[0][2] if broken else "checksum")
        elif covering or (not passed and (messages or touching)):
            expected[minute] = ("unverifiable", touching[0][2] if touching else "no_check")
        elif messages:
            expected[minute] = ("verified", None)
    told = {n: (row[3], row[4]) for row in rows(verdicts) for n in range(int(str(row[1])), int(str(row[2])))}
    assert told == expected
