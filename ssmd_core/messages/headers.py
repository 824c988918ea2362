"""What travels beside a message through JetStream: its identity and its receive time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ssmd_core.errors import FrameError
from ssmd_core.messages.lines import EPOCH_PATTERN

MSG_ID = "Nats-Msg-Id"
RECV_NS = "Ssmd-Recv-Ns"
_MSG_ID = re.compile(rf"({EPOCH_PATTERN}):([0-9]{{1,19}})\Z")
_RECV_NS = re.compile(r"[0-9]{1,19}\Z")


class Stamp(NamedTuple):
    """Identity and receive time of one message.

    Attributes:
        epoch: connection.
        ordinal: position in the epoch, from 0, without holes.
        recv_ns: receive time at the socket, epoch nanoseconds.
    """

    epoch: str
    ordinal: int
    recv_ns: int


def stamp_headers(stamp: Stamp) -> dict[str, str]:
    """Headers of a published message."""
    return {MSG_ID: f"{stamp.epoch}:{stamp.ordinal}", RECV_NS: str(stamp.recv_ns)}


def read_stamp(headers: Mapping[str, str] | None) -> Stamp:
    """The stamp of a stored message.

    Raises:
        FrameError: it was not published by ssmd, or its headers are damaged.
    """
    headers = headers or {}
    identity = _MSG_ID.match(headers.get(MSG_ID, ""))
    recv_text = headers.get(RECV_NS, "")
    if identity is None or _RECV_NS.match(recv_text) is None:
        raise FrameError(f"message without ssmd's headers: {dict(headers)!r}")
    return Stamp(identity[1], int(identity[2]), int(recv_text))
