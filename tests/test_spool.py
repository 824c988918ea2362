"""The spool: what an append has finished survives everything; what it has not is left out."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd_core.messages.headers import Stamp
from ssmd_stream.capture.spool import (
    Message,
    Spool,
    SpoolError,
    decode_body,
    decode_head,
    encode_record,
    open_segment,
)

EPOCH = "c0-20261122T121602123-9f3a"

messages = st.tuples(
    st.text(min_size=1, max_size=20),
    st.binary(max_size=60),
    st.builds(Stamp, st.text("abc-09", min_size=1, max_size=9), st.integers(0, 2**63), st.integers(0, 2**63)),
)
batches = st.lists(st.lists(messages, min_size=1, max_size=5), min_size=1, max_size=4)


def batch(first: int, count: int, size: int = 20) -> list[Message]:
    return [("test.a", b"%d" % n + b"x" * size, Stamp(EPOCH, n, n)) for n in range(first, first + count)]


def opened(folder: Path, **options: Any) -> Spool:
    spool = Spool(folder, **options)
    spool.open()
    return spool


def read_all(spool: Spool) -> list[Message]:
    found: list[Message] = []
    while records := spool.read(1000):
        for record in records:
            found += record.messages
    return found


@given(messages=st.lists(messages, max_size=20))
def test_record_round_trip(messages: list[Message]) -> None:
    record = encode_record(messages)
    head = decode_head(record[:16])
    assert head is not None
    assert head[:2] == (len(record) - 16, len(messages))
    assert decode_body(record[16:], head[1]) == messages


@given(head=st.binary(min_size=0, max_size=20))
def test_noise_is_no_head(head: bytes) -> None:
    assert decode_head(head) is None


@settings(max_examples=15, deadline=None)
@given(batches=batches, data=st.data())
def test_torn_anywhere_every_whole_record_is_kept(batches: list[list[Message]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = opened(Path(folder))
        ends = [8]
        for one in batches:
            spool.append([one], floor=5, created="then")
            ends.append(spool.held_bytes)
        spool.close()
        path = next(Path(folder).glob("*.spool"))
        cut = data.draw(st.integers(0, ends[-1]))
        with path.open("r+b") as file:
            file.truncate(cut)
            file.seek(0, 2)
            file.write(b"\0" * data.draw(st.sampled_from([0, 0, 1, 16, 40])))  # a length that came before its data
        again = opened(Path(folder))
        whole = sum(end <= cut for end in ends[1:])
        assert read_all(again) == [message for one in batches[:whole] for message in one]
        assert (again.checkpoint.floor, again.checkpoint.created) == (5, "then")
        again.close()


@settings(max_examples=15, deadline=None)
@given(batches=batches, data=st.data())
def test_a_flipped_byte_costs_one_record_and_is_counted(batches: list[list[Message]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = opened(Path(folder))
        ends = []
        for one in batches:
            spool.append([one], floor=None, created="")
            ends.append(spool.held_bytes)
        path = next(Path(folder).glob("*.spool"))
        hit = data.draw(st.integers(0, len(batches) - 1))
        start = ends[hit - 1] if hit else 8
        at = data.draw(st.integers(start + 16, ends[hit] - 1))
        content = bytearray(path.read_bytes())
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        assert read_all(spool) == [message for i, one in enumerate(batches) if i != hit for message in one]
        assert spool.damaged_records == 1
        spool.release(spool.cursor, floor=1, created="x")
        assert spool.empty
        assert [file.suffix for file in Path(folder).glob("0*")] == [".damaged"]
        spool.close()


def test_segments_are_bounded_released_and_never_numbered_twice(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=2000)
    for n in range(20):
        spool.append([batch(n * 10, 10)], floor=1, created="c")
    assert len(list(tmp_path.glob("*.spool"))) == 7
    records = spool.read(3000)
    spool.release(records[-1].end, floor=1, created="c")
    released = sum(len(record.messages) for record in records)
    spool.close()

    again = opened(tmp_path, segment_bytes=2000)
    assert again.count_unread() == 200 - released
    again.append([batch(200, 10)], floor=7, created="c")
    assert again.checkpoint.floor == 1  # of the oldest that is still there
    assert [message[2].ordinal for message in read_all(again)] == list(range(released, 210))
    again.release(again.cursor, floor=1, created="c")
    assert again.empty
    assert again.held_bytes == again.unread_bytes == 0
    last = again.checkpoint.segment
    again.append([batch(0, 1)], floor=9, created="c")
    assert again.checkpoint.floor == 9
    assert again.checkpoint.segment > last
    again.close()


def test_rewind_reads_again(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=1000)
    for n in range(10):
        spool.append([batch(n, 1)], floor=None, created="")
    first = spool.read(10**6)
    spool.rewind(first[4].start)
    assert [message[2].ordinal for message in read_all(spool)] == [4, 5, 6, 7, 8, 9]
    spool.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    with pytest.raises(SpoolError, match="in use"):
        opened(tmp_path)
    spool.close()
    opened(tmp_path).close()


@pytest.mark.parametrize("room", [0, 3, 100, 5000])
def test_a_failed_append_leaves_nothing(tmp_path: Path, room: int) -> None:
    left = [room]

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            count = min(len(data), left[0])
            left[0] -= count
            if count == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data[:count])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    spool = opened(tmp_path, opener=lambda path: Full(open_segment(path)))  # type: ignore[arg-type, return-value]
    kept = 0
    for n in range(100):
        try:
            spool.append([batch(n * 10, 5), batch(n * 10 + 5, 5)], floor=None, created="")
        except OSError:
            break
        kept += 10
    assert spool.count_unread() == kept
    left[0] = 10**6
    spool.append([batch(kept, 5), batch(kept + 5, 5)], floor=None, created="")
    spool.close()
    again = opened(tmp_path)
    assert [message[2].ordinal for message in read_all(again)] == list(range(kept + 10))
    again.release(again.cursor, floor=None, created="")
    assert not list(tmp_path.glob("*.spool"))
    again.close()


def test_a_lost_checkpoint_means_look_through_the_whole_stream(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([batch(0, 3)], floor=100, created="c")
    spool.close()
    (tmp_path / "checkpoint.json").write_bytes(b'{"segment":1,')
    again = opened(tmp_path)
    assert (again.checkpoint.floor, again.count_unread()) == (0, 3)
    again.close()
