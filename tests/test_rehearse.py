"""The whole path, as processes: a replayed venue, connector, NATS, archiver, parquet; and what counts as a loss."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ssmd_core import feeds
from ssmd_core.archive.members import member
from ssmd_core.errors import ConfigError
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import format_line
from ssmd_stream.rehearsal.compare import Comparison, compare
from ssmd_stream.rehearsal.rehearse import Report, judge_gaps, parse_kills, rehearse
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.replay.sent_log import SentLog

FRAMES = 3_000


def run(feed: str, recording: Path, out: Path, *kills: str, seed: int = 0) -> Report:
    known = feeds.get(feed)
    return asyncio.run(rehearse(known, known.streams[0], [recording], out, kills=parse_kills(kills), seed=seed))


def test_a_real_recording_arrives_whole(samples: Path, tmp_path: Path) -> None:
    report = run("kalshi", samples / "kalshi" / "ws" / "btc15m_session_2026-05-11.jsonl.gz", tmp_path / "out")
    assert report.problems == []
    assert report.messages_archived == report.messages_expected > 0
    assert report.passed


def test_everything_is_killed_once_and_the_rest_arrives_whole(tmp_path: Path) -> None:
    recording = tmp_path / "kraken.jsonl"
    recording.write_bytes(b"\n".join(generate_frames("kraken", FRAMES, seed=5)))
    report = run("kraken", recording, tmp_path / "out", "connector:1", "archiver:1", "nats:1", seed=3)
    assert report.problems == []
    assert report.kills == {"connector": 1, "archiver": 1, "nats": 1}
    assert (report.lost, report.duplicated, report.altered) == (0, 0, 0)
    assert report.messages_archived + report.gap_messages == report.messages_expected
    assert sum(report.rows.values()) > 0
    assert report.passed


def test_what_cannot_be_rehearsed_is_refused(tmp_path: Path) -> None:
    for text in ("archiver", "venue:1", "nats:x", "nats:-1"):
        with pytest.raises(ConfigError, match="kill"):
            parse_kills([text])
    assert parse_kills(["nats:1", "nats:2"]) == {"nats": 3}
    empty = tmp_path / "empty.jsonl"
    with pytest.raises(ConfigError, match=r"empty\.jsonl is not a file"):
        run("kraken", empty, tmp_path / "out")
    empty.touch()
    with pytest.raises(ConfigError, match="no frames"):
        run("kraken", empty, tmp_path / "out")
    with pytest.raises(ConfigError, match="not empty"):
        run("kraken", empty, tmp_path)


# The judge itself.


def judged(tmp_path: Path, archived: list[bytes], *, closed: bool = True) -> Comparison:
    """A connection on which b'0' to b'9' were sent, and what of it is archived."""
    log = SentLog(tmp_path / "sent.log")
    log.write(0, 5555, SENT)
    log.close()
    payloads = [control_event("open", "c0", local="127.0.0.1:5555"), *archived]
    if closed:
        payloads.append(control_event("closed", "c0"))
    lines = [
        format_line(payload, 1, number + 1, "c0-a", number, wrapped=payload[:1] != b"{") + b"\n"
        for number, payload in enumerate(payloads)
    ]
    day = tmp_path / "archive" / "2026-11-20"
    day.mkdir(parents=True)
    (day / "0000.jsonl.gz").write_bytes(member(b"".join(lines)))
    return compare(tmp_path / "sent.log", tmp_path / "archive")


SENT = [b"%d" % number for number in range(10)]


@pytest.mark.parametrize(
    ("archived", "closed", "counts"),
    [
        (SENT, True, (0, 0, 0, 0)),
        (SENT[:7], True, (3, 0, 0, 0)),
        (SENT[:7], False, (0, 0, 0, 3)),
        ([*SENT[:3], *SENT[4:]], False, (1, 0, 0, 0)),
        ([*SENT, SENT[4]], True, (0, 1, 0, 0)),
        ([*SENT[:9], b"99"], True, (1, 0, 1, 0)),
        ([SENT[1], SENT[0], *SENT[2:]], True, (0, 0, 2, 0)),
    ],
)
def test_losses_repetitions_and_changes_are_told_apart(
    tmp_path: Path, archived: list[bytes], closed: bool, counts: tuple[int, int, int, int]
) -> None:
    result = judged(tmp_path, archived, closed=closed)
    assert (result.lost, result.duplicated, result.altered, result.gap_messages) == counts
    assert result.messages_expected == 10


def test_only_a_killed_connector_excuses_a_gap() -> None:
    """What NATS or the archiver forgot at the end of a connection must not pass as a gap."""
    report = Report(verified=True, gap_messages=3, gaps=["c0-a: 3"])
    judge_gaps(report, 1)
    assert report.passed
    judge_gaps(report, 0)
    assert (report.lost, report.gap_messages, report.passed) == (3, 0, False)
    two = Report(verified=True, gap_messages=4, gaps=["c0-a: 3", "c0-b: 1"])
    judge_gaps(two, 1)
    assert not two.passed
