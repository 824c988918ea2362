"""What every venue's session does: remember what was asked for, and what became of it. No I/O.

A session lives as long as one connection. It turns wishes (`open`, `add`, `remove`, `resubscribe`) into `Command`s
and the venue's control messages into `Notice`s; the connection sends the former and archives the latter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ssmd_core.feeds.base import Feed
from ssmd_stream.capture.sessions.commands import (
    ALL,
    NOTHING,
    PONG,
    Action,
    Command,
    Notice,
    Pending,
    Reaction,
    Subscriptions,
    chunks,
    compact,
)

__all__ = [
    "ALL",
    "NOTHING",
    "PONG",
    "Action",
    "Command",
    "Notice",
    "Reaction",
    "Session",
    "Subscriptions",
    "chunks",
    "compact",
]


# Instruments that are asked for when a connection is suspiciously silent.
_ASKED = 3


class Session(ABC):
    """Protocol of one venue on one connection.

    Args:
        feed: registry entry.
        channels: what to subscribe.
        options: parameters of a channel's subscribe command, from env.yaml, e.g. `{"book": {"depth": 100}}`.

    Attributes:
        takes_all: what no instruments mean on channels that take a list: all of the venue's, or none.
    """

    groups: ClassVar[Mapping[str, str]]
    """Channel that a data message of this type proves alive; types not named here prove no channel."""

    quiet_channels: ClassVar[frozenset[str]] = frozenset()
    """Channels that are silent for hours by nature; no watchdog unless env.yaml sets one."""

    opening_kinds: ClassVar[Mapping[str, str]] = {}
    """Message type that the venue sends for every instrument as soon as it is subscribed -> its channel."""

    asked_channels: ClassVar[tuple[str, ...]] = ()
    """Channels on which `ask` brings market data, the one that costs least first."""

    def __init__(self, feed: Feed, channels: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> None:
        self.feed = feed
        self.channels = tuple(channels)
        self.options = options
        self.subscriptions: dict[str, Subscriptions] = {channel: Subscriptions() for channel in self.channels}
        self._pending: dict[int, Pending] = {}
        self._last_id = 0
        self._last_error = ""
        self._retry_size = feed.limits.instruments_per_command
        self.takes_all = True

    # -- what the connection asks for

    def headers(self, now_ns: int) -> dict[str, str]:
        """HTTP headers of the handshake; made anew for each.

        Raises:
            ConfigError: a credential is missing or cannot be used.
        """
        del now_ns
        return {}

    def open(self, instruments: Sequence[str]) -> list[Command]:
        """Everything to send on a fresh connection. Without instruments: see `takes_all`."""
        return [command for channel in self.channels for command in self._ask(channel, instruments, "subscribe")]

    def add(self, instruments: Sequence[str]) -> list[Command]:
        """Subscribe more instruments on the live connection."""
        commands = []
        for channel in self.channels:
            known = self.subscriptions[channel].asked
            fresh = [instrument for instrument in instruments if instrument not in known]
            if fresh:
                commands += self._ask(channel, fresh, "subscribe")
        return commands

    def retry(self) -> list[Command]:
        """Ask again for what was refused.

        One unknown instrument may have cost the others of its command, so each time the commands are a sixteenth as
        long, down to single instruments.
        """
        self._retry_size = max(self._retry_size // 16, 1)
        commands = []
        for channel, state in self.subscriptions.items():
            for chunk in chunks(tuple(state.refused), self._retry_size):
                commands.append(self._command(channel, tuple(name for name in chunk if name != ALL), "subscribe"))
        return commands

    def remove(self, instruments: Sequence[str]) -> list[Command]:
        """Unsubscribe instruments on the live connection; the others stay."""
        commands = []
        for channel in self.channels:
            state = self.subscriptions[channel]
            gone = tuple(instrument for instrument in instruments if instrument in state.asked)
            for instrument in gone:
                del state.asked[instrument]
                state.accepted.discard(instrument)
                state.refused.pop(instrument, None)
            for pending in self._pending.values():
                if pending.command.channel == channel:
                    pending.waiting.difference_update(gone)
            for chunk in chunks(gone, self.feed.limits.instruments_per_command):
                commands += self._unsubscribe(channel, chunk)
        return commands

    def resubscribe(self, channel: str) -> list[Command]:
        """Ask for everything of a channel again."""
        state = self.subscriptions[channel]
        instruments = [instrument for instrument in state.asked if instrument != ALL]
        for id_ in [id_ for id_, pending in self._pending.items() if pending.command.channel == channel]:
            del self._pending[id_]
        state.accepted.clear()
        return [*self._end(channel, instruments), *self._ask(channel, instruments, "resubscribe")]

    def renew(self, channel: str, instruments: Sequence[str], times: int = 0) -> list[Command]:
        """Ask for instruments of a channel again, so that their opening messages come anew; the others stay.

        Args:
            instruments: none means all of the channel.
            times: how often that was done shortly before.
        """
        del times
        state = self.subscriptions[channel]
        named = tuple(name for name in instruments if name in state.asked)
        if not instruments:
            return self.resubscribe(channel)
        for pending in self._pending.values():
            if pending.command.channel == channel:
                pending.waiting.difference_update(named)
        state.accepted.difference_update(named)
        if not named:
            return []
        ended = chunks(named, self.feed.limits.instruments_per_command)
        commands = [command for chunk in ended for command in self._unsubscribe(channel, chunk)]
        return [*commands, *self._ask(channel, named, "resubscribe")]

    def ask(self, recent: Sequence[str]) -> list[Command]:
        """Ask for something that the venue must answer with market data, about a few instruments: the market of one
        may have ended meanwhile.

        Args:
            recent: instruments of the latest messages, newest last.

        Returns:
            Nothing where nothing can be asked for now.
        """
        channel = self.asks
        if not channel:
            return []
        state = self.subscriptions[channel]
        chosen = [name for name in recent if name in state.accepted][-_ASKED:]
        if not chosen:
            names = [name for name in state.asked if name in state.accepted and name != ALL]
            chosen = names[:: max(len(names) // _ASKED, 1)][:_ASKED]
        return self.renew(channel, chosen) if chosen else []

    def sent(self, command: Command, now_s: float) -> None:
        """The connection sent `command` at monotonic time `now_s`; its acknowledgement is due from now.

        Where the venue acknowledges nothing, what was sent counts as accepted.
        """
        pending = self._pending.get(command.id)
        if pending is not None:
            pending.deadline_s = now_s + self.feed.limits.ack_timeout_s
        elif not self.feed.limits.acknowledges and command.action != "unsubscribe":
            self._accept(command.channel, command.instruments)

    def overdue(self, now_s: float) -> list[Notice]:
        """Settle as refused what was not acknowledged in time."""
        notices = []
        for id_, pending in list(self._pending.items()):
            if now_s >= pending.deadline_s and not pending.waiting:
                del self._pending[id_]
            elif now_s >= pending.deadline_s:
                reason = f"no acknowledgement in {self.feed.limits.ack_timeout_s:g} s"
                if self._last_error:
                    reason += f"; last error: {self._last_error}"
                del self._pending[id_]
                notices.append(self._refuse(pending.command.channel, tuple(sorted(pending.waiting)), reason))
        return notices

    def on_message(self, kind: str, payload: bytes) -> Reaction:
        """Read a control message. Never raises: what cannot be read is an `error` notice."""
        try:
            return self._read(kind, payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return Reaction((Notice("error", reason=f"{kind} message cannot be read: {error}"),))

    # -- what it must bring

    @property
    def asks(self) -> str:
        """Channel on which `ask` brings data; "" if none does."""
        return next((channel for channel in self.asked_channels if channel in self.channels), "")

    @property
    def openings(self) -> Mapping[str, str]:
        """`opening_kinds` of the channels that are subscribed with them."""
        return {
            kind: channel
            for kind, channel in self.opening_kinds.items()
            if channel in self.channels and self.options.get(channel, {}).get("snapshot", True)
        }

    def opened(self, kind: str, payload: bytes, id_: str) -> tuple[str, ...]:
        """Instruments that a message of one of these types opens.

        Args:
            id_: as in its route.
        """
        del kind, payload
        return (id_,)

    def covered(self, ids: set[str]) -> int:
        """How many of the instruments asked for messages with these ids (as in their routes) stand for."""
        return len(ids)

    # -- what became of it

    def awaits(self, id_: int) -> bool:
        """Whether the acknowledgement of this command is awaited."""
        return id_ in self._pending

    @property
    def outstanding(self) -> bool:
        """Whether an acknowledgement is still awaited."""
        return bool(self._pending)

    @property
    def refused(self) -> dict[tuple[str, str], str]:
        """(channel, instrument) -> the venue's reason."""
        return {
            (channel, instrument): reason
            for channel, state in self.subscriptions.items()
            for instrument, reason in state.refused.items()
        }

    @property
    def accepted(self) -> set[str]:
        """Instruments accepted on every channel that takes a list, or `ALL`; without such a channel, on every one."""
        states = [state for channel, state in self.subscriptions.items() if self.listed(channel)]
        states = states or list(self.subscriptions.values())
        return set.intersection(*(state.accepted for state in states))

    def listed(self, channel: str) -> bool:
        """Whether the channel takes a list of instruments at all."""
        del channel
        return True

    def wanted(self, channel: str) -> bool:
        """Whether something of the channel is asked for that the venue has not refused."""
        state = self.subscriptions[channel]
        return len(state.asked) > len(state.refused)

    @property
    def all_refused(self) -> bool:
        """Whether something was asked for and nothing of it was, or can still be, accepted."""
        asked = any(state.asked for state in self.subscriptions.values())
        return asked and not self._pending and not any(self.wanted(channel) for channel in self.channels)

    # -- for the venues

    @abstractmethod
    def _read(self, kind: str, payload: bytes) -> Reaction:
        """See `on_message`; may raise `msgspec.DecodeError`."""

    @abstractmethod
    def _subscribe_text(self, id_: int, channel: str, instruments: tuple[str, ...]) -> str:
        """The subscribe frame; `instruments` is empty for all."""

    @abstractmethod
    def _unsubscribe(self, channel: str, instruments: tuple[str, ...]) -> list[Command]:
        """Commands that end some instruments of a channel."""

    def _end(self, channel: str, instruments: Sequence[str]) -> list[Command]:
        """Commands that must precede asking for a channel again."""
        return [
            command
            for chunk in chunks(instruments, self.feed.limits.instruments_per_command)
            for command in self._unsubscribe(channel, chunk)
        ]

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _ask(self, channel: str, instruments: Sequence[str], action: Action) -> list[Command]:
        if not instruments and self.listed(channel) and not self.takes_all:
            return []
        if not instruments or not self.listed(channel):
            if ALL in self.subscriptions[channel].asked and action == "subscribe":
                return []
            return [self._command(channel, (), action)]
        size = self.feed.limits.instruments_per_command
        return [self._command(channel, chunk, action) for chunk in chunks(instruments, size)]

    def _command(self, channel: str, instruments: tuple[str, ...], action: Action, attempt: int = 1) -> Command:
        id_ = self._next_id()
        state = self.subscriptions[channel]
        for instrument in instruments or (ALL,):
            state.asked[instrument] = None
            state.refused.pop(instrument, None)
        text = self._subscribe_text(id_, channel, instruments)
        return self._expect(Command(id_, text, action, channel, instruments, attempt))

    def _expect(self, command: Command) -> Command:
        if self.feed.limits.acknowledges:
            self._pending[command.id] = Pending(command, set(command.instruments or (ALL,)))
        return command

    def _pending_for(self, channel: str, instrument: str) -> Iterator[int]:
        for id_, pending in self._pending.items():
            if pending.command.channel == channel and instrument in pending.waiting:
                yield id_

    def _settle(self, id_: int, instruments: Iterable[str] | None = None) -> tuple[str, ...] | None:
        """Take instruments (None: all) off a pending command.

        Returns:
            Those of them that the command still waited for, in its order: what was removed meanwhile waits no more,
            even if another command has asked for it again. `(ALL,)` for all. None if the command is not pending.
        """
        pending = self._pending.get(id_)
        if pending is None:
            return None
        asked = pending.command.instruments or (ALL,)
        settled = tuple(name for name in asked if name in pending.waiting)
        if instruments is not None:
            settled = tuple(name for name in settled if name in set(instruments))
        pending.waiting.difference_update(settled)
        if not pending.waiting:
            del self._pending[id_]
        return settled

    def _accept(self, channel: str, instruments: tuple[str, ...]) -> Notice:
        state = self.subscriptions.get(channel)
        if state is not None:
            for instrument in instruments or (ALL,):
                if instrument in state.asked:
                    state.accepted.add(instrument)
                    state.refused.pop(instrument, None)
        return Notice("acknowledged", channel, instruments)

    def _refuse(self, channel: str, instruments: tuple[str, ...], reason: str) -> Notice:
        state = self.subscriptions.get(channel)
        if state is not None:
            for instrument in instruments or (ALL,):
                if instrument in state.asked:
                    state.accepted.discard(instrument)
                    state.refused[instrument] = reason
        return Notice("refused", channel, instruments, reason)

    def _error(self, reason: str) -> Reaction:
        self._last_error = reason
        return Reaction((Notice("error", reason=reason),))
