"""What every venue's side of a connection has in common.

A `Session` is the venue's end of one WebSocket: it reads the client's commands, answers them as the venue does and
remembers what is subscribed. It does no I/O, so the generator, the server and tests drive it alike. With an
`Exchange` it also has data of its own to send; without one (a recording is being played) it only answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import ClassVar, NamedTuple


class Event(NamedTuple):
    """Something that happened on an exchange.

    Attributes:
        channel: the venue's channel or feed it belongs to.
        instrument: the venue's id; "" if everybody subscribed to the channel gets it.
        type: the venue's message type.
        body: what the session makes a frame of: a whole frame, or the part that is the same for all connections.
    """

    channel: str
    instrument: str
    type: str
    body: str


class Interest(NamedTuple):
    """What a connection has subscribed to.

    Attributes:
        channels: channels.
        instruments: ids; None means all.
    """

    channels: frozenset[str]
    instruments: frozenset[str] | None


class Replies(NamedTuple):
    """Answer to one command.

    Attributes:
        control: acknowledgements and errors.
        data: snapshots.
    """

    control: list[bytes]
    data: list[bytes]


class Exchange(ABC):
    """A seeded market of one venue, shared by all connections; `step` makes the next thing happen."""

    #: Ids that exist now, in a fixed order; a new tuple whenever it changes.
    instruments: tuple[str, ...]

    @abstractmethod
    def step(self, channels: frozenset[str], pool: Sequence[str]) -> list[Event]:
        """Let something happen to one instrument of `pool`.

        Args:
            channels: what anybody has subscribed to; events of other channels may be left out.
            pool: ids to choose from, not empty.
        """

    def due(self) -> Sequence[Event]:
        """What the clock has brought since the last call, whatever is subscribed; called before every step."""
        return ()


class Session(ABC):
    """The venue's end of one connection.

    Args:
        now_ns: exchange time, epoch nanoseconds.
        refuses: whether a subscription to this instrument is to be refused (a fault on demand).
    """

    #: Body of the WebSocket Ping that the venue sends every `ping_interval_s`; None: it sends none.
    ping_body: ClassVar[bytes | None] = None
    ping_interval_s: ClassVar[float] = 10.0

    def __init__(self, now_ns: Callable[[], int], refuses: Callable[[str], bool]) -> None:
        self._now_ns = now_ns
        self._refuses = refuses
        #: Grows with every change of the subscriptions.
        self.version = 0

    @property
    @abstractmethod
    def interest(self) -> Interest:
        """What is subscribed now."""

    @property
    def subscribed(self) -> bool:
        """Whether the venue has anything to send here."""
        return bool(self.interest.channels)

    def opening(self) -> list[bytes]:
        """Frames that the venue sends as soon as the connection is open."""
        return []

    @abstractmethod
    def receive(self, text: bytes) -> Replies:
        """Obey one text frame of the client."""

    @abstractmethod
    def render(self, event: Event) -> bytes | None:
        """The frame of an event on this connection; None if it is not subscribed."""

    def idle(self, silent_s: float) -> list[bytes]:
        """Heartbeat frames due after so many seconds without a frame; called a few times a second."""
        del silent_s
        return []


class Traffic:
    """Drives an exchange for the sessions that are connected at the moment."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._key: tuple[object, ...] = ()
        self._channels: frozenset[str] = frozenset()
        self._pool: tuple[str, ...] = ()

    def step(self, sessions: Sequence[Session]) -> list[tuple[Session, bytes]]:
        """One step of the exchange as the frames that each session gets, in order; empty if none wants any."""
        events = list(self.exchange.due())
        key = (self.exchange.instruments, *((id(session), session.version) for session in sessions))
        if key != self._key:
            self._key = key
            self._resolve(sessions)
        if self._pool:
            events += self.exchange.step(self._channels, self._pool)
        frames: list[tuple[Session, bytes]] = []
        for event in events:
            for session in sessions:
                frame = session.render(event)
                if frame is not None:
                    frames.append((session, frame))
        return frames

    def _resolve(self, sessions: Sequence[Session]) -> None:
        interests = [session.interest for session in sessions]
        self._channels = frozenset().union(*(interest.channels for interest in interests))
        if not self._channels:
            self._pool = ()
        elif any(interest.instruments is None for interest in interests if interest.channels):
            self._pool = self.exchange.instruments
        else:
            wanted = frozenset().union(*(interest.instruments or () for interest in interests))
            self._pool = tuple(name for name in self.exchange.instruments if name in wanted)


@lru_cache(maxsize=8)
def _second(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def iso(ns: int) -> str:
    """RFC 3339 with six fractional digits, UTC, as Kraken writes it."""
    return f"{_second(ns // 1_000_000_000)}.{ns // 1000 % 1_000_000:06d}Z"
