"""Frames to messages, messages to archive lines and back: not a byte may change on the way."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ssmd_core import feeds
from ssmd_core.archive.members import MAX_LINE_BYTES
from ssmd_core.archive.tally import classify
from ssmd_core.errors import ArchiveError, FrameError
from ssmd_core.messages.control import control_event
from ssmd_core.messages.frames import MAX_MESSAGES_PER_FRAME, split_frame
from ssmd_core.messages.headers import MSG_ID, RECV_NS, Stamp, read_stamp, stamp_headers
from ssmd_core.messages.lines import Line, format_line, needs_wrapping, parse_line

TAIL = b',"_received_at":1,"_nats_seq":2,"_epoch":"e","_ordinal":3}'
HOSTILE = [
    b"",
    b"{",
    b"{}",
    b"{ }",
    b"{\x0b}",
    b"PONG",
    b"[]",
    b"null",
    b"{,}",
    b'{"a":1}}',
    b'{"a":1} ',
    b'{"a":1,}',
    b'{"a":"\xff\xfe"}',
    b'{"a":"\x00"}',
    b'\x00\n\r\x1f"\\',
    b'{"a":\n1}',
    b'{"a":"b"}\r',
    b'{"_raw":"x"}',
    b'{"_raw_base64":"eA=="}',
    b'{"_received_at":1,"_nats_seq":2,"_epoch":"e","_ordinal":3}',
    b'{"a":1' + TAIL,
    b'{"\\u005fnats_seq":5}',
    b'{"_nats\\u005fseq":5}',
    b'{"a":"\\ud800"}',
    b"{" + b'"a":{' * 50_000 + b"}" * 50_001,
    b"\xef\xbb\xbf{}",
]
payloads = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3).map(orjson.dumps),
    st.lists(st.sampled_from([*HOSTILE[:24], b",", b'"', b"\\"]), max_size=6).map(b"".join),
)


def there_and_back(payload: bytes, *, wrapped: bool) -> None:
    line = format_line(payload, 1_763_000_000_000_000, 42, "c0-x", 7, wrapped=wrapped)
    assert b"\n" not in line
    assert b"\r" not in line
    assert parse_line(line) == Line(payload, 1_763_000_000_000_000, 42, "c0-x", 7)


@given(payload=payloads)
def test_a_line_gives_the_exact_bytes_back(payload: bytes) -> None:
    there_and_back(payload, wrapped=needs_wrapping(payload))
    there_and_back(payload, wrapped=True)


@pytest.mark.parametrize("payload", HOSTILE, ids=lambda payload: repr(payload[:20]))
def test_hostile_messages_become_json_lines_that_can_be_read_back(payload: bytes) -> None:
    for feed in feeds.FEEDS.values():
        wrapped = needs_wrapping(payload) or classify(feed, payload)[0] == "unparsed"
        there_and_back(payload, wrapped=wrapped)
        line = orjson.loads(format_line(payload, 1, 2, "e", 3, wrapped=wrapped))
        assert list(line)[-4:] == ["_received_at", "_nats_seq", "_epoch", "_ordinal"]


def test_whatever_a_mutated_message_becomes_its_line_is_json(samples: Path) -> None:
    """A line that is spliced, not wrapped, must be JSON: else it would spoil its file for every other reader."""
    chance = random.Random(1)
    paths = [path for path in sorted(samples.rglob("*.jsonl")) if path.stat().st_size < 50_000_000][:12]
    spliced = 0
    for path in paths:
        name = path.relative_to(samples).parts[0]
        feed = feeds.FEEDS.get(name) or feeds.get("kalshi")
        for message in path.open("rb").readlines()[:200]:
            mutated = bytearray(message.rstrip())
            for _ in range(chance.randint(0, 2)):
                if mutated:
                    mutated[chance.randrange(len(mutated))] = chance.randrange(256)
            payload = bytes(mutated)
            wrapped = needs_wrapping(payload) or classify(feed, payload)[0] == "unparsed"
            spliced += not wrapped
            there_and_back(payload, wrapped=wrapped)
            orjson.loads(format_line(payload, 1, 2, "e", 3, wrapped=wrapped))
    assert spliced > 100


def test_the_largest_frames_fit_a_line_whatever_they_hold() -> None:
    largest = 16 * 1024 * 1024
    for payload in (b"\x00" * largest, b"\xff" * largest, b"\\" * largest, b'{"a":"' + b"x" * largest + b'"}'):
        line = format_line(payload, 1, 2, "e", 3, wrapped=needs_wrapping(payload))
        assert len(line) < MAX_LINE_BYTES
        assert parse_line(line).payload == payload


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        TAIL[1:],
        b'{"a":1}' + TAIL[:-1],
        b'{"a":1' + TAIL + b" ",
        b'{"_raw":5' + TAIL,
        b'{"_raw_base64":"="' + TAIL,
        b'{"a":1,"_received_at":1,"_nats_seq":2,"_epoch":"a b","_ordinal":3}',
    ],
)
def test_what_is_no_archive_line_is_refused(line: bytes) -> None:
    with pytest.raises(ArchiveError):
        parse_line(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(
    elements=st.lists(json_values, min_size=1, max_size=8), indent=st.booleans(), lead=st.sampled_from([b"", b" \n"])
)
def test_an_array_frame_is_split_into_its_elements(elements: list[object], indent: bool, lead: bytes) -> None:
    frame = lead + orjson.dumps(elements, option=orjson.OPT_INDENT_2 if indent else 0)
    messages = split_frame(frame)
    assert [orjson.loads(message) for message in messages] == elements
    assert orjson.loads(b"[" + b",".join(messages) + b"]") == elements
    assert all(message in frame and message == message.strip() for message in messages)


@given(frame=payloads)
@example(b"[" * 300_000)
@example(b"[]")
@example(b" [ ] ")
@example(b'[{"a":1},')
@example(b'[{"a":1}] x')
def test_a_frame_that_cannot_be_split_is_one_message(frame: bytes) -> None:
    messages = split_frame(frame)
    assert messages
    if messages == [frame]:
        return
    assert len(orjson.loads(frame)) == len(messages)


def test_splitting_is_capped() -> None:
    assert len(split_frame(b"[" + b",".join([b'{"a":1}'] * MAX_MESSAGES_PER_FRAME) + b"]")) == MAX_MESSAGES_PER_FRAME
    for many in (
        b"[" + b",".join([b'{"price":".48"}'] * (MAX_MESSAGES_PER_FRAME + 1)) + b"]",
        b"[" + b"1," * 1_000_000 + b"1]",
    ):
        assert split_frame(many) == [many]


@given(
    epoch=st.from_regex(r"[A-Za-z0-9_-]{1,80}", fullmatch=True),
    ordinal=st.integers(0, 10**19 - 1),
    recv_ns=st.integers(0, 10**19 - 1),
)
def test_a_stamp_survives_its_headers(epoch: str, ordinal: int, recv_ns: int) -> None:
    stamp = Stamp(epoch, ordinal, recv_ns)
    assert read_stamp(stamp_headers(stamp)) == stamp


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {MSG_ID: "a:1"},
        {MSG_ID: "a b:1", RECV_NS: "1"},
        {MSG_ID: "a:1", RECV_NS: "²"},
        {MSG_ID: "a:1\n", RECV_NS: "1"},
    ],
)
def test_foreign_headers_are_refused(headers: dict[str, str] | None) -> None:
    with pytest.raises(FrameError):
        read_stamp(headers)


def test_control_is_only_what_ssmd_could_have_written() -> None:
    kraken = feeds.get("kraken")
    assert classify(kraken, control_event("tick", "c0")) == ("control", "")
    assert classify(kraken, b'{"ssmd":}')[0] == "unparsed"
