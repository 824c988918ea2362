"""Messages on disk while NATS is away: length- and checksum-framed records in segments, in order, fsynced."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias
from zlib import crc32

import msgspec
import structlog

from ssmd_core.errors import SsmdError
from ssmd_core.messages.headers import Stamp

log = structlog.get_logger()

Message: TypeAlias = tuple[str, bytes, Stamp]  # subject, payload, stamp

SEGMENT_BYTES = 64 * 1024 * 1024
SUFFIX = ".spool"
_MAGIC = b"ssmdsp1\n"
_HEAD = struct.Struct("<IIII")  # body bytes, messages, crc32 of the body, crc32 of the twelve bytes before
_ITEM = struct.Struct("<QQIHH")  # ordinal, receive time (ns), bytes of payload, subject, epoch
_HEAD_BYTES = _HEAD.size

Opener: TypeAlias = Callable[[Path], BinaryIO]


class SpoolError(SsmdError):
    """The spool is in use by another process."""


class Position(NamedTuple):
    """A place between two records: segment number, byte offset in it."""

    segment: int
    offset: int


class Record(NamedTuple):
    """One record as read back.

    Attributes:
        start: where it begins.
        end: where the next one begins.
        messages: its messages.
    """

    start: Position
    end: Position
    messages: list[Message]


class Checkpoint(msgspec.Struct):
    """How far the spool has been published, and what its first reader must know of the stream.

    Attributes:
        segment, offset: everything before is acknowledged by JetStream.
        floor: what stands at or behind the position has, if it is stored at all, a sequence above this. None:
            nothing of it was ever sent.
        created: `StreamState.created` of the stream that `floor` speaks of; "" if none was ever seen.
    """

    segment: int
    offset: int
    floor: int | None
    created: str


@dataclass(slots=True)
class _Segment:
    number: int
    path: Path
    end: int  # bytes of whole, synced records
    damaged: bool = False


def encode_record(messages: Sequence[Message]) -> bytes:
    """One record: head and body."""
    parts: list[bytes] = []
    for subject, payload, (epoch, ordinal, recv_ns) in messages:
        subject_bytes, epoch_bytes = subject.encode(), epoch.encode()
        parts.append(_ITEM.pack(ordinal, recv_ns, len(payload), len(subject_bytes), len(epoch_bytes)))
        parts += (subject_bytes, epoch_bytes, payload)
    body = b"".join(parts)
    head = struct.pack("<III", len(body), len(messages), crc32(body))
    return head + struct.pack("<I", crc32(head)) + body


def decode_head(head: bytes) -> tuple[int, int, int] | None:
    """(body bytes, messages, crc32 of the body) of a record's head; None if it is no head."""
    if len(head) != _HEAD_BYTES:
        return None
    size, count, body_crc, head_crc = _HEAD.unpack(head)
    return (size, count, body_crc) if crc32(head[:12]) == head_crc else None


def decode_body(body: bytes, count: int) -> list[Message]:
    """The messages of a body whose checksum has been verified."""
    messages: list[Message] = []
    at = 0
    for _ in range(count):
        ordinal, recv_ns, payload_size, subject_size, epoch_size = _ITEM.unpack_from(body, at)
        at += _ITEM.size
        subject_end = at + subject_size
        epoch_end = subject_end + epoch_size
        payload_end = epoch_end + payload_size
        stamp = Stamp(body[subject_end:epoch_end].decode(), ordinal, recv_ns)
        messages.append((body[at:subject_end].decode(), body[epoch_end:payload_end], stamp))
        at = payload_end
    return messages


def open_segment(path: Path) -> BinaryIO:
    """Open a new segment for unbuffered appending."""
    return path.open("xb", buffering=0)


class Spool:
    """A queue of records in a folder.

    One process at a time; not safe for several threads at once (the publisher calls it from one worker thread).
    Records are appended at the end, read from a cursor, and released once JetStream has them. A crash leaves every
    record of a finished `append` whole; a torn tail behind them is recognised and left out.

    Args:
        folder: made if absent.
        segment_bytes: a segment that has reached this size is followed by a new one.
        opener: opens a new segment; a test passes one that fails.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, opener: Opener = open_segment) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._opener = opener
        self._segments: deque[_Segment] = deque()
        self._file: BinaryIO | None = None
        self._cursor = Position(1, 0)
        self._next_number = 1
        self._lock = -1
        self.checkpoint = Checkpoint(0, 0, 0, "")
        self.damaged_records = 0

    def open(self) -> None:
        """Take the folder over, with what an earlier life left in it.

        Raises:
            SpoolError: another process has it.
            OSError: it cannot be made or read.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise SpoolError(f"spool {self._folder} is in use by another process") from None
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            self.checkpoint = msgspec.json.decode(self._checkpoint_path.read_bytes(), type=Checkpoint)
        self._next_number = self.checkpoint.segment + 1
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            number = int(path.stem)
            self._next_number = max(self._next_number, number + 1)
            if number < self.checkpoint.segment:
                path.unlink()
                continue
            self._segments.append(_Segment(number, path, self._whole_bytes(path)))
        first = self._segments[0] if self._segments else None
        if first is not None and first.number == self.checkpoint.segment:
            self._cursor = Position(first.number, max(self.checkpoint.offset, len(_MAGIC)))
        else:
            self._cursor = self._start_of(first)
        if self._segments:
            log.info("spool_found", folder=str(self._folder), segments=len(self._segments), bytes=self.unread_bytes)

    @property
    def _checkpoint_path(self) -> Path:
        return self._folder / "checkpoint.json"

    def _start_of(self, segment: _Segment | None) -> Position:
        return Position(segment.number if segment else self._next_number, len(_MAGIC))

    def _whole_bytes(self, path: Path) -> int:
        """Bytes up to the end of the last record that has its head and its length."""
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                log.warning("spool_torn", path=str(path), lost_bytes=size)
                return len(_MAGIC)
            at = len(_MAGIC)
            while True:
                head = decode_head(file.read(_HEAD_BYTES))
                if head is None or at + _HEAD_BYTES + head[0] > size:
                    break
                at += _HEAD_BYTES + head[0]
                file.seek(at)
        if at < size:
            # Only what no append had finished writing can stand here: it was never promised to anybody.
            log.warning("spool_torn", path=str(path), lost_bytes=size - at)
        return at

    @property
    def unread_bytes(self) -> int:
        """Bytes of records behind the read cursor."""
        return sum(
            max(0, segment.end - (self._cursor.offset if segment.number == self._cursor.segment else len(_MAGIC)))
            for segment in list(self._segments)  # a copy: the event loop asks while the disk thread may append
            if segment.number >= self._cursor.segment
        )

    @property
    def held_bytes(self) -> int:
        """Bytes of the segments on disk."""
        return sum(segment.end for segment in list(self._segments))

    @property
    def empty(self) -> bool:
        """Whether every record was released."""
        return not self._segments

    def count_unread(self) -> int:
        """Messages behind the read cursor, by walking the records' heads."""
        total = 0
        for segment in self._segments:
            at = self._cursor.offset if segment.number == self._cursor.segment else len(_MAGIC)
            with segment.path.open("rb") as file:
                while at < segment.end:
                    file.seek(at)
                    head = decode_head(file.read(_HEAD_BYTES))
                    if head is None:
                        break
                    total += head[1]
                    at += _HEAD_BYTES + head[0]
        return total

    def append(self, batches: Iterable[Sequence[Message]], *, floor: int | None, created: str) -> None:
        """Write one record per batch and sync them; afterwards they survive a power cut.

        Args:
            floor, created: see `Checkpoint`; kept if the spool holds nothing else.

        Raises:
            OSError: nothing of this call is kept; it may be called again with the same batches.
        """
        if self.empty:
            self._write_checkpoint(Checkpoint(self._next_number, 0, floor, created))
        if self._file is None:
            self._begin_segment()
        file, segment = self._file, self._segments[-1]
        assert file is not None
        blob = b"".join(encode_record(batch) for batch in batches)
        try:
            written = 0
            view = memoryview(blob)
            while written < len(blob):
                written += file.write(view[written:])
            os.fsync(file.fileno())
        except OSError:
            # What reached the file must not be read as records: the caller writes the same batches again.
            self._end_segment()
            with contextlib.suppress(OSError):
                os.truncate(segment.path, segment.end)
            raise
        segment.end += len(blob)
        if segment.end >= self._segment_bytes:
            self._end_segment()

    def _begin_segment(self) -> None:
        number = self._next_number
        path = self._folder / f"{number:020d}{SUFFIX}"
        self._next_number += 1
        file = self._opener(path)
        try:
            file.write(_MAGIC)
            self._sync_folder()
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        if not self._segments:
            self._cursor = Position(number, len(_MAGIC))
        self._segments.append(_Segment(number, path, len(_MAGIC)))
        self._file = file

    def _end_segment(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, max_bytes: int) -> list[Record]:
        """The next records, at least one if there is any, up to about `max_bytes`; moves the cursor.

        A record whose checksum fails is left out, counted and logged as an error, and its segment is kept as
        `*.damaged` when the rest has been released.

        Raises:
            OSError: a segment cannot be read; the cursor has not moved.
        """
        before = self._cursor
        try:
            return self._read(max_bytes)
        except OSError:
            self._cursor = before
            raise

    def _read(self, max_bytes: int) -> list[Record]:
        records: list[Record] = []
        size = 0
        for segment in self._segments:
            if segment.number < self._cursor.segment:
                continue
            if segment.number > self._cursor.segment:
                self._cursor = self._start_of(segment)
            if self._cursor.offset >= segment.end:
                continue
            with segment.path.open("rb") as file:
                file.seek(self._cursor.offset)
                while self._cursor.offset < segment.end and size < max_bytes:
                    record = self._read_record(file, segment)
                    if record is not None:
                        records.append(record)
                        size += record.end.offset - record.start.offset
            if size >= max_bytes:
                break
        return records

    def _read_record(self, file: io.BufferedReader, segment: _Segment) -> Record | None:
        start = self._cursor
        head = decode_head(file.read(_HEAD_BYTES))
        if head is None:
            self._damage(segment, start.offset, "head")
            self._cursor = Position(segment.number, segment.end)
            return None
        size, count, body_crc = head
        body = file.read(size)
        end = Position(segment.number, start.offset + _HEAD_BYTES + size)
        self._cursor = end
        if crc32(body) != body_crc:
            self._damage(segment, start.offset, f"{count} messages")
            return None
        return Record(start, end, decode_body(body, count))

    def _damage(self, segment: _Segment, offset: int, what: str) -> None:
        segment.damaged = True
        self.damaged_records += 1
        log.error("spool_record_damaged", path=str(segment.path), offset=offset, what=what)

    @property
    def cursor(self) -> Position:
        """Where the next `read` begins."""
        return self._cursor

    def rewind(self, position: Position) -> None:
        """Read again from `position`, the start of a record that was read and not released."""
        self._cursor = position

    def release(self, position: Position, *, floor: int | None, created: str) -> None:
        """Everything before `position` is acknowledged: forget it.

        Raises:
            OSError: the note could not be written; what is on disk would be resolved and sent again.
        """
        while self._segments and (
            self._segments[0].number < position.segment
            or (self._segments[0].number == position.segment and self._segments[0].end <= position.offset)
            or self._segments[0].end == len(_MAGIC)  # every append to it failed
        ):
            if self._file is not None and len(self._segments) == 1:
                self._end_segment()
            segment = self._segments.popleft()
            if segment.damaged:
                segment.path.rename(segment.path.with_suffix(".damaged"))
            else:
                segment.path.unlink()
        if self._segments:
            self._write_checkpoint(Checkpoint(position.segment, position.offset, floor, created))
        else:
            self._checkpoint_path.unlink(missing_ok=True)
            self.checkpoint = Checkpoint(position.segment, position.offset, floor, created)

    def note(self, *, floor: int | None, created: str) -> None:
        """Keep `floor` and `created` (see `Checkpoint`) with what the spool holds.

        Raises:
            OSError: the note could not be written.
        """
        checkpoint = Checkpoint(self.checkpoint.segment, self.checkpoint.offset, floor, created)
        if checkpoint != self.checkpoint:
            self._write_checkpoint(checkpoint)

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        temporary = self._checkpoint_path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(checkpoint))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._checkpoint_path)
        self._sync_folder()
        self.checkpoint = checkpoint

    def close(self) -> None:
        """Let the folder go."""
        self._end_segment()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
