"""What an hour's archive says about subscriptions: wanted, asked for, acknowledged, refused, and frames seen.

Every connection says at the start of an hour what it holds, and the connector what it wants, so one hour's files are
enough. A connection that ended without saying so (its process was killed) counts as alive until its last message.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ssmd_core.archive.members import iter_lines
from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.control import is_control
from ssmd_core.messages.lines import parse_line
from ssmd_stream.capture.sessions import SESSIONS
from ssmd_stream.capture.sessions.base import ALL
from ssmd_stream.catalogue.intervals import Interval, Intervals, union

# Ids come off the wire: nonsense must not fill the memory.
MAX_INSTRUMENTS = 200_000
OTHER = "other instruments"
# The connector's own epoch speaks every five seconds.
_SILENCE_US = 30_000_000
_OWN = "k0"


class _Event(msgspec.Struct):
    event: str = ""
    connection: str = ""
    channel: str = ""
    state: str = ""
    cause: str = ""
    reason: str = ""
    instruments: list[str] = []
    filter: dict[str, Any] | None = None


class _Wrapped(msgspec.Struct):
    ssmd: _Event


class _Tokens(msgspec.Struct, gc=False):
    asset_id: str = ""
    price_changes: list[_Tokens] = []


_EVENT = msgspec.json.Decoder(_Wrapped)
_TOKENS = msgspec.json.Decoder(_Tokens)


class _Track:
    """Times of one instrument on one channel of one connection."""

    __slots__ = ("acknowledged", "acknowledged_from", "asked", "asked_from")

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.acknowledged: list[tuple[int, int]] = []
        self.asked_from: int | None = None
        self.acknowledged_from: int | None = None

    def lapse(self, now: int) -> None:
        """It is no longer acknowledged."""
        if self.acknowledged_from is not None:
            self.acknowledged.append((self.acknowledged_from, now))
            self.acknowledged_from = None

    def end(self, now: int) -> None:
        """It is no longer asked for."""
        self.lapse(now)
        if self.asked_from is not None:
            self.asked.append((self.asked_from, now))
            self.asked_from = None


class _Epoch:
    """One connection's life as far as the hour shows it."""

    def __init__(self, connection: str, begins: int) -> None:
        self.connection = connection
        #: From when what was held before the first event is held: the hour's start, or its opening.
        self.begins = begins
        self.last = begins
        self.closed = False
        self.tracks: dict[str, dict[str, _Track]] = {}

    def track(self, channel: str, instrument: str) -> _Track:
        channels = self.tracks.setdefault(channel, {})
        found = channels.get(instrument)
        if found is None:
            found = channels[instrument] = _Track()
        return found


class _Past:
    """What has been of every instrument on every channel, over all connections that have ended."""

    def __init__(self) -> None:
        self.channels: dict[str, dict[str, tuple[list[tuple[int, int]], list[tuple[int, int]]]]] = {}
        # The instruments of one command share their times: a connection that is lost a hundred times an hour must not
        # cost a hundred pairs for each of its 10,000 instruments.
        self._pairs: dict[tuple[int, int], tuple[int, int]] = {}

    def take(self, epoch: _Epoch, now: int) -> None:
        """End everything that the connection holds."""
        pairs = self._pairs
        for channel, tracks in epoch.tracks.items():
            names = self.channels.setdefault(channel, {})
            for name, track in tracks.items():
                track.end(now)
                asked, acknowledged = names.setdefault(name, ([], []))
                asked += (pairs.setdefault(pair, pair) for pair in track.asked)
                acknowledged += (pairs.setdefault(pair, pair) for pair in track.acknowledged)
        epoch.tracks = {}


class Ledger:
    """Reads lines in the order of the archive; `finish` before asking.

    Args:
        feed: whose messages they are.
        hour: in question.

    Attributes:
        frames: messages seen by instrument (Polymarket: token), of types that come only where they were asked for.
        refused: instrument -> channel -> the venue's reason.
        wants_all: everything was asked for, so there is no list of what was wanted.
        filter: the filter of the security master that was in force last; None if the list was configured.
        messages: lines read.
    """

    def __init__(self, feed: Feed, hour: Interval) -> None:
        self.hour = hour
        self.frames: dict[str, int] = {}
        self.refused: dict[str, dict[str, str]] = {}
        self.wants_all = False
        self.filter: dict[str, Any] | None = None
        self.messages = 0
        self._feed = feed
        session = SESSIONS[feed.name]
        # What comes unasked, whatever was subscribed, proves nothing.
        self._heard = {kind for kind, channel in session.groups.items() if channel not in session.quiet_channels}
        self._epochs: dict[str, _Epoch] = {}
        self._past = _Past()
        self._own: _Epoch | None = None
        self._wanted: dict[str, list[tuple[int, int]]] = {}
        # instrument -> (wanted since, how many connectors had started by then)
        self._wanted_from: dict[str, tuple[int, int]] = {}
        self._generation = 0
        self._generation_from: dict[int, int] = {}

    def read(self, files: Iterable[Path]) -> None:
        """Read sealed files.

        Raises:
            TornFileError, ArchiveError: a file or a line is damaged.
        """
        route, polymarket = self._feed.route, self._feed.name == "polymarket"
        for path in files:
            for raw in iter_lines(path):
                payload, recv_us, _, epoch_name, _ = parse_line(raw)
                self.messages += 1
                epoch = self._epochs.get(epoch_name)
                if epoch is None:
                    epoch = self._epochs[epoch_name] = _Epoch(epoch_name.partition("-")[0], self.hour.start)
                epoch.last = max(epoch.last, recv_us)
                if is_control(payload):
                    self._on_event(epoch, payload, recv_us)
                    continue
                try:
                    found = route(payload)
                    if found.type not in self._heard:
                        continue
                    instruments = _tokens(payload) if polymarket else (found.id,)
                except (FrameError, msgspec.DecodeError, RecursionError):
                    continue
                for instrument in instruments:
                    if instrument:
                        self._saw(instrument)

    def finish(self) -> None:
        """Close what is open at the end of the hour, or where its connection was last heard of."""
        alive_to = self.hour.end
        if self._own is None or self._own.closed or self._own.last < self.hour.end - _SILENCE_US:
            alive_to = self._own.last if self._own is not None else 0
        newest = {epoch.connection: name for name, epoch in self._epochs.items()}
        for name, epoch in self._epochs.items():
            # A connection that is older than the connector's own epoch went with an earlier process.
            gone = newest[epoch.connection] != name or (self._own is not None and epoch.begins < self._own.begins)
            if not epoch.closed:
                self._past.take(epoch, epoch.last if gone else max(epoch.last, alive_to))
        for instrument in list(self._wanted_from):
            _, generation = self._wanted_from[instrument]
            # A connector that started anew and did not want it: it was wanted at most until then.
            later = [at for number, at in self._generation_from.items() if number > generation]
            self._no_longer_wanted(instrument, min(later, default=self.hour.end))

    # -- what it says

    @property
    def wanted(self) -> dict[str, Intervals]:
        """When each instrument was wanted."""
        return {name: union(self._clipped(times)) for name, times in self._wanted.items()}

    @property
    def channels(self) -> list[str]:
        """Channels on which instruments were asked for by name; if there is none, all."""
        named = {channel: any(name != ALL for name in names) for channel, names in self._past.channels.items()}
        return [channel for channel, by_name in named.items() if by_name or not any(named.values())]

    def instruments(self) -> set[str]:
        """Every instrument that was wanted, asked for or seen."""
        found = {*self._wanted, *self.frames} - {OTHER}
        for names in self._past.channels.values():
            found.update(names)
        return found - {ALL}

    def times(self, channel: str, instrument: str) -> tuple[Intervals, Intervals]:
        """When an instrument was asked for, and when it was acknowledged, on one channel."""
        asked: list[tuple[int, int]] = []
        acknowledged: list[tuple[int, int]] = []
        names = self._past.channels.get(channel, {})
        for name in (instrument, ALL):
            of_name = names.get(name, ([], []))
            asked += of_name[0]
            acknowledged += of_name[1]
        return union(self._clipped(asked)), union(self._clipped(acknowledged))

    def _clipped(self, times: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        start, end = self.hour
        return [(max(since, start), min(to, end)) for since, to in times]

    # -- reading

    def _saw(self, instrument: str) -> None:
        if instrument not in self.frames and len(self.frames) >= MAX_INSTRUMENTS:
            instrument = OTHER
        self.frames[instrument] = self.frames.get(instrument, 0) + 1

    def _on_event(self, epoch: _Epoch, payload: bytes, now: int) -> None:
        try:
            event = _EVENT.decode(payload).ssmd
        except (msgspec.DecodeError, RecursionError):
            return
        match event.event:
            case "open":
                epoch.begins = now
                if epoch.connection == _OWN:
                    self._generation += 1
            case "closed":
                epoch.closed = True
                self._past.take(epoch, now)
            case "wanted":
                self._on_wanted(epoch, event, now)
            case "unwanted":
                for instrument in event.instruments:
                    self._wanted_from.setdefault(instrument, (epoch.begins, self._generation))
                    self._no_longer_wanted(instrument, now)
            case "subscribe" | "resubscribe" | "acknowledged" | "refused" | "unsubscribe" | "coverage":
                self._on_subscription(epoch, event, now)
        if epoch.connection == _OWN:
            self._own = epoch

    def _on_wanted(self, epoch: _Epoch, event: _Event, now: int) -> None:
        self.filter = event.filter
        self._generation_from.setdefault(self._generation, now)
        for instrument in event.instruments:
            if instrument == ALL:
                self.wants_all = True
                continue
            since = epoch.begins if event.cause == "hour" and instrument not in self._wanted else now
            known = self._wanted_from.get(instrument)
            self._wanted_from[instrument] = (known[0] if known else since, self._generation)

    def _no_longer_wanted(self, instrument: str, now: int) -> None:
        since, _ = self._wanted_from.pop(instrument)
        self._wanted.setdefault(instrument, []).append((since, now))

    def _on_subscription(self, epoch: _Epoch, event: _Event, now: int) -> None:
        kind = event.event if event.event != "coverage" else event.state
        instruments = event.instruments
        if kind == "unsubscribe" and ALL in instruments:
            instruments = list(epoch.tracks.get(event.channel, ()))
        for instrument in instruments:
            known = instrument in epoch.tracks.get(event.channel, ())
            track = epoch.track(event.channel, instrument)
            # What the hour has not shown being asked for was asked for before it.
            before = event.event in ("coverage", "acknowledged", "refused", "unsubscribe") and not known
            if track.asked_from is None and (kind != "unsubscribe" or before):
                track.asked_from = epoch.begins if before else now
            if kind == "resubscribe":
                track.lapse(now)
            elif kind == "acknowledged":
                held = event.event == "coverage" and before
                track.acknowledged_from = track.acknowledged_from or (epoch.begins if held else now)
                self.refused.get(instrument, {}).pop(event.channel, None)
            elif kind == "refused":
                track.lapse(now)
                self.refused.setdefault(instrument, {})[event.channel] = event.reason or "refused before the hour"
            elif kind == "unsubscribe":
                if before:
                    track.acknowledged_from = epoch.begins
                track.end(now)


def _tokens(payload: bytes) -> tuple[str, ...]:
    found = _TOKENS.decode(payload)
    return (found.asset_id, *(change.asset_id for change in found.price_changes))
