"""What ends a book besides its messages: a closed or replaced connection, an unsubscribe, a hole in the archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ssmd_core.messages.control import is_control
from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import Hole

#: The check of order books, and the channel that carries them.
BOOK: Final = "book"
_ALL: Final = "*"


class End(NamedTuple):
    """An end of books.

    Attributes:
        kind: `open` (of this connection: whatever epoch it had before is over), `closed`, `unsubscribe` (sent: what
            still comes belongs to no book), `unsubscribed` (acknowledged: nothing comes any more).
        instruments: whose; None: all of the epoch.
    """

    kind: str
    instruments: tuple[str, ...] | None = None


class Event(NamedTuple):
    """Something between two book messages: a reply of the venue or an event of ours, or a hole."""

    nats_seq: int
    line: Line | None
    hole: Hole | None


class _Said(msgspec.Struct, gc=False):
    event: str = ""
    channel: str = ""
    instruments: list[str] = []


class _Control(msgspec.Struct, gc=False):
    ssmd: _Said


_decode = msgspec.json.Decoder(_Control).decode


def read_end(payload: bytes) -> End | None:
    """What one of ssmd's own events ends; None if nothing, or if it is none."""
    if not is_control(payload):
        return None
    try:
        said = _decode(payload).ssmd
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if said.event in ("open", "closed"):
        return End(said.event)
    if said.event == "unsubscribe" and said.channel == BOOK:
        return End(said.event, None if _ALL in said.instruments or not said.instruments else tuple(said.instruments))
    return None


def connection_of(epoch: str) -> str:
    """The connection whose life the epoch is: `c0` of `c0-20261122T110000123-9f3a`."""
    return epoch.rsplit("-", 2)[0]


def segments(
    seqs: npt.NDArray[np.uint64], others: Sequence[Line], holes: Sequence[Hole], concerns: Callable[[bytes], bool]
) -> Iterator[tuple[int, int, Event | None]]:
    """Cut the messages of a chunk where something happens between them.

    Args:
        seqs: of the messages, ascending.
        concerns: whether a message without schema may matter to a book; ssmd's own events always do.

    Yields:
        First message, end of the run, and what happens after it.
    """
    events = [Event(hole.nats_seq, None, hole) for hole in holes]
    events += [
        Event(line.nats_seq, line, None) for line in others if is_control(line.payload) or concerns(line.payload)
    ]
    # A hole lies before the message that shows it, so it comes first where both have one number.
    events.sort(key=lambda event: (event.nats_seq, event.hole is None))
    cuts = np.searchsorted(seqs, np.array([event.nats_seq for event in events], np.uint64)).tolist()
    at = 0
    for cut, event in zip(cuts, events, strict=True):
        yield at, cut, event
        at = cut
    yield at, len(seqs), None
