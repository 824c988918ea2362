"""Read frames back from what was recorded: by ssmd's archive, by another recorder, or by hand.

A line of a file is one frame, in whichever of these forms the line itself shows:

* an archive line (ends in the four members of `ssmd_core.messages.lines`): the venue's bytes, receive time in µs;
  ssmd's own control events are passed over, for no venue sent them;
* a wrapper `{"recv_ms":…,"event":{…}}` or `{"recv_ms":…,"raw":{…}}`, other members allowed: the inner value's
  bytes, exactly, receive time in ms;
* anything else (JSON, `PING`, `PONG`, `[]`): the line's bytes, no receive time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
from isal import isal_zlib

from ssmd_core.errors import ArchiveError, TornFileError
from ssmd_core.messages.control import is_control
from ssmd_core.messages.lines import parse_line

_CHUNK_BYTES = 256 * 1024
# A gzip bomb must not fill memory: the largest frame a venue may send is 32 MiB.
MAX_LINE_BYTES = 64 * 1024 * 1024
# isal's stub calls the class an instance.
_GZIP_ERROR = cast("type[Exception]", isal_zlib.error)
_GZIP_MAGIC = b"\x1f\x8b"


class RecordedFrame(NamedTuple):
    """One frame of a recording.

    Attributes:
        payload: the bytes to send.
        recv_ns: when it was received, epoch nanoseconds; None if the recording does not say.
    """

    payload: bytes
    recv_ns: int | None


# msgspec refuses every value of a `Raw | None` member, so absence is this object.
_ABSENT = msgspec.Raw()


class _Wrapper(msgspec.Struct, gc=False):
    recv_ms: int
    event: msgspec.Raw = _ABSENT
    raw: msgspec.Raw = _ABSENT


_WRAPPER = msgspec.json.Decoder(_Wrapper)


class Recording:
    """Frames of one or more files, or of a list, in order; every iteration starts anew.

    Args:
        frames: what to iterate; a list of `bytes` or a re-iterable of `RecordedFrame`.
    """

    def __init__(self, frames: Iterable[RecordedFrame]) -> None:
        self._frames = frames

    @classmethod
    def from_files(cls, paths: Sequence[Path]) -> Recording:
        """The frames of the files one after the other, read as they are needed."""
        return cls(_Files(tuple(paths)))

    @classmethod
    def from_frames(cls, frames: Sequence[bytes]) -> Recording:
        """Frames in memory, without receive times."""
        return cls(_Memory(frames))

    def __iter__(self) -> Iterator[RecordedFrame]:
        return iter(self._frames)


class _Files:
    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths

    def __iter__(self) -> Iterator[RecordedFrame]:
        for path in self._paths:
            yield from read_frames(path)


class _Memory:
    def __init__(self, frames: Sequence[bytes]) -> None:
        self._frames = frames

    def __iter__(self) -> Iterator[RecordedFrame]:
        for frame in self._frames:
            yield RecordedFrame(frame, None)


def read_frames(path: Path) -> Iterator[RecordedFrame]:
    """The frames of one file, plain or gzip (told by its first bytes), in bounded memory.

    Raises:
        TornFileError: a gzip member is cut or damaged; every whole line before the damage has been given.
        ArchiveError: a line is longer than `MAX_LINE_BYTES`, or an archive line's wrapping is broken.
        OSError: the file cannot be read.
    """
    for line in read_lines(path):
        frame = parse_frame(line)
        if frame is not None:
            yield frame


def parse_frame(line: bytes) -> RecordedFrame | None:
    """The frame of one line without its line break; None for a blank line and for ssmd's own control events."""
    if line.endswith(b"}"):
        if b'"recv_ms"' in line[:64]:
            try:
                wrapper = _WRAPPER.decode(line)
            except msgspec.DecodeError:
                return RecordedFrame(line, None)
            inner = wrapper.event if wrapper.event is not _ABSENT else wrapper.raw
            if inner is not _ABSENT:
                return RecordedFrame(bytes(inner), wrapper.recv_ms * 1_000_000)
        elif b'"_ordinal":' in line[-40:]:
            archived = parse_line(line)
            if is_control(archived.payload):
                return None
            return RecordedFrame(archived.payload, archived.recv_us * 1_000)
        return RecordedFrame(line, None)
    return RecordedFrame(line, None) if line.strip() else None


def read_lines(path: Path) -> Iterator[bytes]:
    """Lines of a plain or gzip file without `\\n` or `\\r\\n`; raises as `read_frames` does."""
    rest = b""
    for chunk in _chunks(path):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            yield line.removesuffix(b"\r")
        if len(rest) > MAX_LINE_BYTES:
            raise ArchiveError(f"{path}: a line is longer than {MAX_LINE_BYTES} bytes: {rest[:80]!r}")
    if rest:
        yield rest.removesuffix(b"\r")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        data = file.read(_CHUNK_BYTES)
        if not data.startswith(_GZIP_MAGIC):
            while data:
                yield data
                data = file.read(_CHUNK_BYTES)
            return
        member = 0  # byte offset of the member that is being read
        consumed = 0  # bytes of the file handed over so far
        decoder = isal_zlib.decompressobj(wbits=31)
        while True:
            consumed += len(data)
            while data:
                try:
                    plain = decoder.decompress(data, _CHUNK_BYTES * 4)
                except _GZIP_ERROR as error:
                    raise TornFileError(str(path), member, str(error)) from error
                if plain:
                    yield plain
                if decoder.eof:
                    data = decoder.unused_data
                    member = consumed - len(data)
                    decoder = isal_zlib.decompressobj(wbits=31)
                else:
                    data = decoder.unconsumed_tail
            data = file.read(_CHUNK_BYTES)
            if not data:
                break
        if consumed > member:
            raise TornFileError(str(path), member, "ends before the member does")
