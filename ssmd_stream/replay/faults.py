"""Faults on demand: what to do wrong, on which connection, at which frame."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

import orjson

FrameFaultKind = Literal[
    "drop", "duplicate", "reorder", "truncate", "malformed", "invalid_utf8", "oversized", "binary", "deep",
    "checksum", "drop_member", "add_member", "retype_member", "new_type", "renumber", "old_snapshot",
]  # fmt: skip
ConnectionFaultKind = Literal["silence", "half_open", "close", "reset"]
SubscriptionFaultKind = Literal["refuse", "mute", "withhold", "cap", "drop_ack"]
FaultKind = FrameFaultKind | ConnectionFaultKind | SubscriptionFaultKind
_FRAME_KINDS = frozenset(get_args(FrameFaultKind))
_SUBSCRIPTION_KINDS = frozenset(get_args(SubscriptionFaultKind))
# Deeper than any parser goes.
_DEPTH = 100_000
# Lists of instruments in the venues' commands.
_SNAPSHOTS = (b'snapshot"', b'"event_type":"book"')
_LISTS = ("assets_ids", "market_tickers", "symbol", "product_ids")


class Binary(bytes):
    """A payload that is sent as a binary frame."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        kind: of a data frame: `drop` it, `duplicate` it, `reorder` it behind the next one, `truncate` it (cut the
            JSON off), or send before it a frame that is `malformed` (not JSON), `invalid_utf8` (a text frame that is
            not UTF-8), `oversized`, `binary` or `deep` (100,000 arrays in one another). Of the next data frames that
            have the `member`: `checksum` (its value is changed), `drop_member`, `add_member` (another beside it),
            `retype_member` (text becomes a number, a number text), `new_type` (its value is one that nobody knows),
            `renumber` (it counts from 1 again, from the first of them on). `old_snapshot`: send the first snapshot
            once more before it.
            Of a connection, between data frames: `silence` (heartbeats and replies only), `half_open` (stop
            reading and writing without closing), `close` (with `code`), `reset` (TCP, no Close frame).
            Of a subscription: `refuse` it, `mute` (accept and acknowledge it, then send no data on the connection),
            `withhold` (acknowledge it, but send nothing of `instruments`), `cap` (likewise of all instruments but the
            first `count`), `drop_ack` (do not acknowledge it, but send its data).
        at: number of the data frame, over all connections, from 0. Generated traffic comes in steps of several
            frames, so there a connection's fault may come a few frames later. Not for faults of a
            subscription.
        count: for so many consecutive data frames (only faults of frames).
        connection: only on the connection with this ordinal; None: whichever comes.
        duration_s: how long a silence lasts; None: until the client reconnects.
        code: Close code.
        size_bytes: of an oversized frame.
        instruments: which instruments are refused, withheld or not acknowledged; empty: every subscription.
        member: member of a JSON object, with a plain text or number.
    """

    kind: FaultKind
    at: int = 0
    count: int = 1
    connection: int | None = None
    duration_s: float | None = None
    code: int = 1013
    size_bytes: int = 20 * 1024 * 1024
    instruments: frozenset[str] = frozenset()
    member: str = ""


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
        self._subscription = [fault for fault in faults.schedule if fault.kind in _SUBSCRIPTION_KINDS]
        self._pending = [fault for fault in faults.schedule if fault.kind not in _SUBSCRIPTION_KINDS]
        self._left = {id(fault): fault.count for fault in self._pending}
        self._pending.sort(key=lambda fault: fault.at)
        self._held: tuple[int, bytes] | None = None
        self._snapshot: bytes | None = None
        self._first_number: dict[int, int] = {}
        #: Data frames seen so far.
        self.frames = 0
        #: Faults that have struck, in order, and when each first did, epoch ns.
        self.struck: list[Fault] = []
        self.struck_ns: list[int] = []

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
                self._strike(fault)
                return fault
        return None

    def frame(self, connection: int, payload: bytes) -> list[bytes]:
        """What is sent in place of the next data frame of this connection."""
        fault = next((each for each in self._due() if self._hits(each, connection, payload)), None)
        self.frames += 1
        if fault is None:
            return self._release(connection, [payload])
        if fault not in self.struck:
            self._strike(fault)
        self._left[id(fault)] -= 1
        if not self._left[id(fault)]:
            self._pending.remove(fault)
        if fault.kind == "reorder" and self._held is None:
            self._held = (connection, payload)
            return []
        return self._release(connection, self._damage(fault, payload))

    def _strike(self, fault: Fault) -> None:
        self.struck.append(fault)
        self.struck_ns.append(time.time_ns())

    @staticmethod
    def _hits(fault: Fault, connection: int, payload: bytes) -> bool:
        if fault.kind not in _FRAME_KINDS or fault.connection not in (None, connection):
            return False
        return not fault.member or _member(fault.member).search(payload) is not None

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

    def spoiler(self, connection: int) -> Spoiler:
        """What happens to the subscriptions of a connection."""
        faults = [fault for fault in self._subscription if fault.connection in (None, connection)]
        keep = self._keep if any(fault.kind == "old_snapshot" for fault in self._pending) else None
        return Spoiler(faults, keep)

    def _keep(self, frames: list[bytes]) -> None:
        """Remember the first snapshot."""
        if self._snapshot is None:
            self._snapshot = next((each for each in frames if any(mark in each for mark in _SNAPSHOTS)), None)

    def _damage(self, fault: Fault, payload: bytes) -> list[bytes]:
        match fault.kind:
            case "drop":
                sent = []
            case "duplicate":
                sent = [payload, payload]
            case "malformed":
                sent = [payload[:-1] + b",,", payload]
            case "invalid_utf8":
                sent = [payload[:-1] + b',"\xff\xfe":1}', payload]
            case "truncate":
                sent = [payload[: self._rng.randrange(1, max(2, len(payload)))]]
            case "oversized":
                sent = [b'{"type":"oversized","pad":"' + b"x" * fault.size_bytes + b'"}', payload]
            case "binary":
                sent = [Binary(b"\x00\xff\x00 not a text frame"), payload]
            case "deep":
                sent = [b"[" * _DEPTH + b"]" * _DEPTH, payload]
            case "old_snapshot":
                sent = [payload] if self._snapshot is None else [self._snapshot, payload]
            case "renumber":
                sent = [self._renumbered(fault, payload)]
            case _:
                sent = [_rewritten(fault, payload) if fault.member else payload]
        return sent

    def _renumbered(self, fault: Fault, payload: bytes) -> bytes:
        name = b'"' + fault.member.encode() + b'":'

        def new(found: re.Match[bytes]) -> bytes:
            number = int(found[2] or found[1])
            first = self._first_number.setdefault(id(fault), number)
            return name + str(number - first + 1).encode() + found[3]

        return _member(fault.member).sub(new, payload)

    def _release(self, connection: int, frames: list[bytes]) -> list[bytes]:
        """Send a frame that was held back behind its successor; it is lost if its connection is gone."""
        if self._held is None or not frames:
            return frames
        held_connection, held = self._held
        self._held = None
        return [*frames, held] if held_connection == connection else frames


def _member(name: str) -> re.Pattern[bytes]:
    """Finds a member with a plain value: its name, and the value as text or as a number."""
    return re.compile(rb'"' + re.escape(name.encode()) + rb'":\s?(?:"([^"\\]*)"|(-?[0-9][0-9.eE+-]*))(,?)')


def _rewritten(fault: Fault, payload: bytes) -> bytes:
    name = b'"' + fault.member.encode() + b'":'

    def new(found: re.Match[bytes]) -> bytes:
        text, number, comma = found.groups()
        value = text if number is None else number
        quoted = b'"' + value + b'"'
        if fault.kind == "drop_member":
            return b""
        if fault.kind == "add_member":
            return name + (number or quoted) + b',"' + fault.member.encode() + b'_more":"1"' + comma
        if fault.kind == "retype_member":
            # A text that is no number becomes one.
            plain = value if re.fullmatch(rb"-?(0|[1-9][0-9]*)(\.[0-9]+)?", value) else b"1"
            return name + (plain if number is None else quoted) + comma
        if fault.kind == "new_type":
            return name + b'"brand_new"' + comma
        # Checksums are numbers or hexadecimal text.
        other = (b"1" if value[:1] != b"1" else b"2") + value[1:]
        return name + (other if number is not None else b'"' + other + b'"') + comma

    damaged = _member(fault.member).sub(new, payload)
    # The last member of an object leaves a comma behind.
    return re.sub(rb",\s*([}\]])", rb"\1", damaged) if fault.kind == "drop_member" else damaged


class Spoiler:
    """Does wrong what a venue can do wrong with the subscriptions of one connection.

    Args:
        faults: of subscriptions; those that are refused or muted are not its business.
        keep: shown all data.
    """

    def __init__(self, faults: Sequence[Fault], keep: Callable[[list[bytes]], None] | None) -> None:
        self._keep = keep
        self._withheld = {name for fault in faults if fault.kind == "withhold" for name in fault.instruments}
        self._unacknowledged = [fault.instruments for fault in faults if fault.kind == "drop_ack"]
        self._caps = [fault.count for fault in faults if fault.kind == "cap"]
        self._admitted: dict[str, None] = {}
        self._needles: list[bytes] = []

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do wrong."""
        return not (self._withheld or self._unacknowledged or self._caps)

    def command(self, text: bytes) -> bytes:
        """What the venue takes of a client's command. A token or ticker that is withheld is left out: there is no
        acknowledgement that would name it, books of tokens come in one frame, and messages of tickers share a `seq`."""
        if self.idle:
            return text
        try:
            command = orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
        if not isinstance(command, dict):
            return text
        for cap in self._caps:
            for name in _named(command):
                if len(self._admitted) < cap:
                    self._admitted[name] = None
                elif name not in self._admitted:
                    self._withheld.add(name)
        self._needles = [b'"' + name.encode() + b'"' for name in sorted(self._withheld)]
        spoiled = False
        for part, name in ((command, "assets_ids"), (command.get("params"), "market_tickers")):
            if isinstance(part, dict) and isinstance(listed := part.get(name), list):
                part[name] = [instrument for instrument in listed if instrument not in self._withheld]
                spoiled = True
        return orjson.dumps(command) if spoiled else text

    def replies(self, control: list[bytes]) -> list[bytes]:
        """Acknowledgements and errors that are sent."""
        return [reply for reply in control if not any(_acknowledges(reply, names) for names in self._unacknowledged)]

    def data(self, frames: list[bytes]) -> list[bytes]:
        """Data that is sent. Polymarket's price changes name both tokens of a market, so one that is withheld may
        still be in those of the other."""
        if self._keep is not None:
            self._keep(frames)
        if not self._needles:
            return frames
        return [
            frame
            for frame in frames
            if b'"event_type"' in frame or not any(needle in frame for needle in self._needles)
        ]


def _named(command: dict[str, Any]) -> list[str]:
    params = command.get("params")
    lists = [part.get(name) for part in (command, params) if isinstance(part, dict) for name in _LISTS]
    return [name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)]


def _acknowledges(reply: bytes, instruments: frozenset[str]) -> bool:
    if b'"subscribed"' not in reply and b'"method":"subscribe"' not in reply:
        return False
    return not instruments or any(b'"' + name.encode() + b'"' in reply for name in instruments)
