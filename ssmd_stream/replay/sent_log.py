"""What a replay server sent, frame by frame, so that a checker can compare it with what was archived.

A file of records: connection ordinal (uint32), the client's port (uint16), length (uint32), little endian, then the
frame's bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ssmd_core.errors import ArchiveError

_HEAD = struct.Struct("<IHI")
_BUFFER_BYTES = 1024 * 1024


class SentFrame(NamedTuple):
    """One frame as it was written to a socket.

    Attributes:
        connection: ordinal of the connection on that server, from 0.
        peer_port: the client's TCP port.
        payload: the frame's bytes.
    """

    connection: int
    peer_port: int
    payload: bytes


class SentLog:
    """Writer; buffered, so `flush` before another process reads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("ab", buffering=_BUFFER_BYTES)

    def write(self, connection: int, peer_port: int, frames: list[bytes]) -> None:
        """Append the frames."""
        pack = _HEAD.pack
        parts: list[bytes] = []
        for frame in frames:
            parts.append(pack(connection, peer_port, len(frame)))
            parts.append(frame)
        self._file.write(b"".join(parts))

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_sent_log(path: Path) -> Iterator[SentFrame]:
    """The frames of a log, in the order in which they were sent.

    Raises:
        ArchiveError: the log ends inside a record.
    """
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise ArchiveError(f"{path}: cut inside a record's head")
            connection, peer_port, length = _HEAD.unpack(head)
            payload = file.read(length)
            if len(payload) < length:
                raise ArchiveError(f"{path}: cut inside a frame of {length} bytes")
            yield SentFrame(connection, peer_port, payload)
