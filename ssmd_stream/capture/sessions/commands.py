"""What a session says and hears: commands for the venue, notices of what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

# Stands for "every instrument of the venue" where a channel was asked for without a list.
ALL = "*"

Action = Literal["subscribe", "unsubscribe", "resubscribe"]


@dataclass(frozen=True, slots=True)
class Command:
    """A frame to send.

    Attributes:
        id: number of the command on its connection, from 1.
        text: the frame.
        action, channel, instruments: what it asks for, for the archive.
        attempt: 1, or more for one that is sent again.
    """

    id: int
    text: str
    action: Action
    channel: str
    instruments: tuple[str, ...]
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Notice:
    """What a venue's message means for our subscriptions.

    Attributes:
        event: `acknowledged` and `refused` settle instruments of a channel; `resubscribe` says that a channel's
            subscription has ended at the venue; `error` is anything else that the venue complains about.
        channel, instruments: what it is about, "" and () if the venue does not say.
        reason: the venue's text.
    """

    event: Literal["acknowledged", "refused", "resubscribe", "error"]
    channel: str = ""
    instruments: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a control message leads to."""

    notices: tuple[Notice, ...] = ()
    commands: tuple[Command, ...] = ()
    pong: bool = False


NOTHING = Reaction()
PONG = Reaction(pong=True)


@dataclass(slots=True)
class Pending:
    """A command whose acknowledgement is awaited, by `deadline_s` once it is sent, for the instruments `waiting`."""

    command: Command
    waiting: set[str]
    deadline_s: float = float("inf")


@dataclass(slots=True)
class Subscriptions:
    """State of every instrument asked for on one channel."""

    asked: dict[str, None] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


def chunks(items: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """`items` in tuples of at most `size`."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


def compact(value: object) -> str:
    """JSON text without blanks."""
    return json.dumps(value, separators=(",", ":"))
