"""Venues that go wrong: some of the faults of `ssmd faults`, the quick ones, and quiet venues that are left alone."""

from __future__ import annotations

import asyncio
import dataclasses

import orjson
import pytest

from ssmd_core import feeds
from ssmd_stream.capture import openings, silence, watch
from ssmd_stream.rehearsal.fault_list import Case, cases
from ssmd_stream.rehearsal.faults import Outcome, markdown, run_faults
from ssmd_stream.replay.faults import Fault, Injector
from ssmd_stream.replay.faults import Faults as Schedule

_QUICK = {"gap", "reorder", "reset", "old-snapshot", "checksum", "frames", "drift"}


def _chosen() -> list[Case]:
    """One of each kind that takes a second or two, and silence."""
    quick = [case for case in cases() if case.key in _QUICK]
    # A member that is gone is told after five seconds: `ssmd faults` shows that.
    seen: set[tuple[str, str]] = set()
    chosen = []
    for case in quick:
        kind = case.faults[0].kind
        if (case.key, kind) not in seen and kind != "drop_member":
            seen.add((case.key, kind))
            chosen.append(case)
    mute = next(case for case in cases() if case.key == "mute" and case.feed == "polymarket")
    token = next(case for case in cases() if case.key == "token-501")
    silent = next(case for case in cases() if case.key == "no-fault" and case.frames)
    learned = 350
    mute = dataclasses.replace(mute, faults=(Fault("silence", at=learned),))
    return [*chosen, mute, token, dataclasses.replace(silent, frames=learned, limit_s=8.0)]


def test_faults_are_seen_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the constants of production the same takes twice as long; `ssmd faults` has them.
    monkeypatch.setattr(silence, "_SETTLED_S", 2.0)
    monkeypatch.setattr(silence, "SHORTEST_S", 1.5)
    monkeypatch.setattr(silence, "ANSWER_S", 2.0)
    for module in (openings, watch):
        monkeypatch.setattr(module, "PATIENCE_S", 5.0)
    outcomes = asyncio.run(run_faults(_chosen(), seed=7))
    late = [
        f"{each.case.feed}: {each.case.name}: {each.after_s} s of {each.case.limit_s}"
        for each in outcomes
        if not each.passed
    ]
    assert not late


def test_the_page_has_a_line_for_every_fault() -> None:
    known = cases()
    outcomes = [Outcome(case, None if case.never or case.key == "drift" else 0.04) for case in known]
    page = markdown(outcomes, 3)
    assert page.count("\n| ") == len(known) + 1
    assert page.count("**no**") == sum(case.key == "drift" for case in known)
    assert len({(case.feed, case.name, case.channels) for case in known}) == len(known)
    assert {case.feed for case in known} == set(feeds.FEEDS)


@pytest.mark.parametrize(
    ("fault", "payload", "damaged"),
    [
        (
            Fault("checksum", member="checksum"),
            b'{"a":1,"checksum":2439117997,"b":2}',
            b'{"a":1,"checksum":1439117997,"b":2}',
        ),
        (Fault("checksum", member="hash"), b'{"hash":"1a"}', b'{"hash":"2a"}'),
        (Fault("drop_member", member="b"), b'{"a":1,"b":"x"}', b'{"a":1}'),
        (Fault("drop_member", member="a"), b'{"a":1,"b":"x"}', b'{"b":"x"}'),
        (Fault("add_member", member="a"), b'{"a":1.50}', b'{"a":1.50,"a_more":"1"}'),
        (Fault("retype_member", member="a"), b'{"a":"0.50","b":1}', b'{"a":0.50,"b":1}'),
        (Fault("retype_member", member="a"), b'{"a":0.50}', b'{"a":"0.50"}'),
        (Fault("renumber", member="seq"), b'{"seq":4711,"b":2}', b'{"seq":1,"b":2}'),
        (Fault("new_type", member="type"), b'{"type":"trade"}', b'{"type":"brand_new"}'),
    ],
)
def test_frames_are_rewritten_as_told(fault: Fault, payload: bytes, damaged: bytes) -> None:
    injector = Injector(Schedule((fault,)))
    other = b'{"nothing":"of it"}'
    assert injector.frame(0, other) == [other]
    assert injector.frame(0, payload) == [damaged]
    assert injector.frame(0, payload) == [payload]
    orjson.loads(damaged)
    assert len(injector.struck_ns) == 1
