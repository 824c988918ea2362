"""Faults on demand: what to do wrong, on which connection, at which frame."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

FrameFaultKind = Literal["drop", "duplicate", "reorder", "truncate", "malformed", "invalid_utf8", "oversized"]
ConnectionFaultKind = Literal["silence", "half_open", "close", "reset"]
SubscriptionFaultKind = Literal["refuse", "mute"]
FaultKind = FrameFaultKind | ConnectionFaultKind | SubscriptionFaultKind
_FRAME_KINDS = frozenset(get_args(FrameFaultKind))


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: of a data frame: `drop` it, `duplicate` it, `reorder` it behind the next one, `truncate` it (cut the
            JSON off), or send before it a frame that is `malformed` (not JSON), `invalid_utf8` (a text frame that is
            not UTF-8) or `oversized`.
            Of a connection, between data frames: `silence` (heartbeats and replies only), `half_open` (stop
            reading and writing without closing), `close` (with `code`), `reset` (TCP, no Close frame).
            Of a subscription: `refuse` it, or `mute` (accept and acknowledge it, then send no data).
        at: number of the data frame, over all connections, from 0. Generated traffic comes in steps of several
            frames, so there a connection's fault may come a few frames later. Not for `refuse` and `mute`.
        count: for so many consecutive data frames (only faults of frames).
        connection: only on the connection with this ordinal; None: whichever comes.
        duration_s: how long a silence lasts; None: until the client reconnects.
        code: Close code.
        size_bytes: of an oversized frame.
        instruments: which instruments are refused; empty: every subscription.
    """

    kind: FaultKind
    at: int = 0
    count: int = 1
    connection: int | None = None
    duration_s: float | None = None
    code: int = 1013
    size_bytes: int = 20 * 1024 * 1024
    instruments: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Faults:
    """A schedule of faults; the same one does the same wrong.

    Attributes:
        schedule: the faults, in any order.
        seed: chooses where frames are cut.
    """

    schedule: tuple[Fault, ...] = ()
    seed: int = 0

    @classmethod
    def seeded(cls, seed: int, frames: int, faults: int, kinds: Sequence[FaultKind]) -> Faults:
        """`faults` faults of these kinds at random places among the first `frames` data frames."""
        rng = Random(seed)
        places = sorted(rng.randrange(frames) for _ in range(faults))
        return cls(tuple(Fault(rng.choice(kinds), at, duration_s=1.0) for at in places), seed)


class Injector:
    """Applies a schedule to the stream of data frames."""

    def __init__(self, faults: Faults) -> None:
        self._rng = Random(faults.seed)
        self._subscription = [fault for fault in faults.schedule if fault.kind in ("refuse", "mute")]
        self._pending = [fault for fault in faults.schedule if fault.kind not in ("refuse", "mute")]
        self._pending.sort(key=lambda fault: fault.at)
        self._held: tuple[int, bytes] | None = None
        #: Data frames seen so far.
        self.frames = 0
        #: Faults that have struck, in order.
        self.struck: list[Fault] = []

    @property
    def room(self) -> int:
        """How many frames may be sent before the schedule must be looked at again, at least 1."""
        if self._held is not None or (self._pending and self._pending[0].at <= self.frames):
            return 1
        return self._pending[0].at - self.frames if self._pending else sys.maxsize

    def harmless(self, count: int) -> bool:
        """Whether the next `count` frames pass unharmed."""
        return self._held is None and (not self._pending or self._pending[0].at >= self.frames + count)

    def connection_fault(self, connection: int) -> Fault | None:
        """Take the connection fault that is due before the next frame of this connection, if there is one."""
        for fault in self._due():
            if fault.kind not in _FRAME_KINDS and fault.connection in (None, connection):
                self._pending.remove(fault)
                self.struck.append(fault)
                return fault
        return None

    def frame(self, connection: int, payload: bytes) -> list[bytes]:
        """What is sent in place of the next data frame of this connection."""
        fault = next(
            (each for each in self._due() if each.kind in _FRAME_KINDS and each.connection in (None, connection)), None
        )
        self.frames += 1
        if fault is None:
            return self._release(connection, [payload])
        if fault not in self.struck:
            self.struck.append(fault)
        if self.frames >= fault.at + fault.count:
            self._pending.remove(fault)
        if fault.kind == "reorder" and self._held is None:
            self._held = (connection, payload)
            return []
        return self._release(connection, self._damage(fault, payload))

    def _due(self) -> list[Fault]:
        return [fault for fault in self._pending if fault.at <= self.frames]

    def refuses(self, connection: int, instrument: str) -> bool:
        """Whether a subscription to the instrument ("" for a whole command) is refused."""
        return any(
            fault.kind == "refuse"
            and fault.connection in (None, connection)
            and (instrument in fault.instruments if fault.instruments else True)
            for fault in self._subscription
        )

    def muted(self, connection: int) -> bool:
        """Whether the connection never gets data."""
        return any(fault.kind == "mute" and fault.connection in (None, connection) for fault in self._subscription)

    def _damage(self, fault: Fault, payload: bytes) -> list[bytes]:
        sent = {
            "drop": [],
            "duplicate": [payload, payload],
            "malformed": [payload[:-1] + b",,", payload],
            "invalid_utf8": [payload[:-1] + b',"\xff\xfe":1}', payload],
        }
        if fault.kind == "truncate":
            return [payload[: self._rng.randrange(1, max(2, len(payload)))]]
        if fault.kind == "oversized":
            return [b'{"type":"oversized","pad":"' + b"x" * fault.size_bytes + b'"}', payload]
        return sent.get(fault.kind, [payload])

    def _release(self, connection: int, frames: list[bytes]) -> list[bytes]:
        """Send a frame that was held back behind its successor; it is lost if its connection is gone."""
        if self._held is None or not frames:
            return frames
        held_connection, held = self._held
        self._held = None
        return [*frames, held] if held_connection == connection else frames
