"""What an hour's control events say of its connections: when they were open, and what was asked for on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ssmd_core.feeds.base import Limits
from ssmd_core.messages.lines import Line
from ssmd_core.proof.lines import MINUTE_US, MINUTES
from ssmd_core.proof.wanted import ALL, Wanted

#: The connector's own epoch: ticks, what is wanted, connections that could not be opened.
OWN: Final = "k0"
# Ids come off the wire: nonsense must not fill the memory.
MAX_INSTRUMENTS: Final = 200_000
# The connector's own epoch speaks every five seconds, less often where its clock runs fast, as in a rehearsal.
SILENCE_US: Final = 30_000_000
#: A tick and a minute's event in one breath are one sign of life.
BREATH_US: Final = 1_000_000
_MOST_HEARD: Final = 100_000
#: Causes of `wanted` events other than the connector's start and the hourly repetition.
_NEWLY_WANTED: Final = ("change", "reconcile", "asked")
_TEXTS: Final = 5


@dataclass(slots=True)
class _Asked:
    """One instrument on one channel."""

    since_us: int
    acknowledged: bool = False
    refused: bool = False


class _Counts:
    """How many instruments are asked for on any channel, acknowledged on all of those, refused on any."""

    def __init__(self) -> None:
        self.asked = self.acknowledged = self.refused = 0
        self._of: dict[str, list[int]] = {}
        self._all = [0, 0, 0]

    def change(self, instrument: str, asked: int, acknowledged: int, refused: int) -> None:
        """Add to the numbers of channels of one instrument."""
        if instrument == ALL:
            sums = self._all
        else:
            sums = self._of.setdefault(instrument, [0, 0, 0])
            self._add(sums, -1)
        sums[0] += asked
        sums[1] += acknowledged
        sums[2] += refused
        if instrument != ALL:
            if sums[0]:
                self._add(sums, 1)
            else:
                del self._of[instrument]

    def _add(self, sums: list[int], sign: int) -> None:
        self.asked += sign * (sums[0] > 0)
        self.acknowledged += sign * (sums[1] == sums[0] > 0)
        self.refused += sign * (sums[2] > 0)

    def now(self) -> tuple[int, int, int]:
        """(asked, acknowledged, refused); "everything" counts as one, where nothing is asked for by name."""
        if self.asked:
            return self.asked, self.acknowledged, self.refused
        asked, acknowledged, refused = self._all
        return int(asked > 0), int(acknowledged == asked > 0), int(refused > 0)


@dataclass(slots=True)
class Told:
    """Something that happened on a connection.

    Attributes:
        at_us: when.
        nats_seq: the message that tells it.
        text: what.
        count: instruments, or 1.
    """

    at_us: int
    nats_seq: int
    text: str
    count: int = 1


@dataclass(slots=True)
class Opening:
    """Counts of one minute."""

    opens: int = 0
    resubscribes: int = 0
    errors: int = 0


@dataclass(slots=True)
class Story:
    """One epoch's life, as far as the hour shows it.

    Attributes:
        begins_us: its opening, or the hour's start.
        opened: whether the hour holds its opening event.
        closed_us: None if the hour holds no closing event.
        done: nothing was asked for on it any more when it closed.
        tells: whether the hour says what was asked for on it.
        heard: when it spoke; only of the connector's own epoch.
        last_us, last_seq: its last message.
        minutes: events by minute.
        levels: (asked, acknowledged, refused) at the end of each minute until `rolled`.
        refused, overdue, errors, troubles: what went wrong; each at most some, `…_count` all of them.
    """

    name: str
    connection: str
    begins_us: int
    opened: bool = False
    closed_us: int | None = None
    done: bool = False
    first_us: int = 0
    last_us: int = 0
    last_seq: int = 0
    open_seq: int = 0
    speaks: bool = False
    tells: bool = False
    heard: list[int] = field(default_factory=list)
    minutes: dict[int, Opening] = field(default_factory=dict)
    levels: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    rolled: int = 0
    refused: list[Told] = field(default_factory=list)
    overdue: list[Told] = field(default_factory=list)
    errors: list[Told] = field(default_factory=list)
    troubles: list[Told] = field(default_factory=list)
    channels: dict[str, dict[str, _Asked]] = field(default_factory=dict)
    counts: _Counts = field(default_factory=_Counts)


class Subscriptions:
    """Reads the control events of an hour, in the order of the archive.

    Attributes:
        stories: by epoch.
        newly_wanted: when instruments came to be wanted while the connector ran.
        wanted: what was wanted and not asked for.
        unopened: instruments whose opening message was missed while they were captured.
        minute_events: (epoch, event, sequence), for whoever compares them; emptied by them.
        asked, acknowledged, refused: instruments that were so at some time of the hour, on any channel.
    """

    def __init__(self, limits: Limits, start_us: int) -> None:
        self.stories: dict[str, Story] = {}
        self.newly_wanted: list[int] = []
        self.wanted = Wanted()
        self.unopened: dict[str, Told] = {}
        self.minute_events: list[tuple[str, dict[str, Any], int]] = []
        self.asked: set[str] = set()
        self.acknowledged: set[str] = set()
        self.refused: set[str] = set()
        self._acknowledges = limits.acknowledges
        self._ack_timeout_us = self._patience_us = int(limits.ack_timeout_s * 1_000_000)
        self._pause_us = 0
        self._start_us = start_us
        self._instruments = 0

    def saw(self, epoch: str, first_us: int, last_us: int, last_seq: int) -> Story:
        """Messages of an epoch have come."""
        story = self.stories.get(epoch)
        if story is None:
            connection = epoch.partition("-")[0]
            story = self.stories[epoch] = Story(epoch, connection, self._start_us, first_us=first_us)
            for other in self.stories.values():
                if other.connection == connection and other is not story and other.closed_us is None:
                    self._end(other, other.last_us)
        if last_us >= story.last_us:
            story.last_us, story.last_seq = last_us, last_seq
        return story

    def read(self, line: Line) -> None:
        """One of ssmd's own events; what is none is left alone."""
        try:
            event = orjson.loads(line.payload)["ssmd"]
            kind, instruments = str(event["event"]), [str(name) for name in event.get("instruments") or ()]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return
        story = self.saw(line.epoch, line.recv_us, line.recv_us, line.nats_seq)
        story.speaks = True
        now_us = line.recv_us
        minute = self._minute_of(now_us)
        self._roll(story, minute)
        if story.connection == OWN:
            self._hear(story, now_us)
        counts = story.minutes.setdefault(minute, Opening())
        channel = str(event.get("channel", ""))
        reason = str(event.get("reason", ""))[:300]
        match kind:
            case "open":
                story.opened, story.begins_us, story.open_seq = True, now_us, line.nats_seq
                counts.opens += 1
            case "closed":
                story.closed_us = now_us
                story.done = story.counts.now()[0] == 0 and bool(story.channels)
                self._end(story, now_us)
            case "error":
                counts.errors += 1
                _tell(story.errors, Told(now_us, line.nats_seq, reason))
            case "trouble":
                text = f"{reason}: {str(event.get('detail', ''))[:300]}"
                _tell(story.troubles, Told(now_us, line.nats_seq, text, max(len(instruments), 1)))
                if reason == "no_snapshot":
                    self._miss(story, instruments, Told(now_us, line.nats_seq, channel))
            case "minute":
                self.minute_events.append((line.epoch, event, line.nats_seq))
            case "wanted" | "unwanted":
                self._want(kind, str(event.get("cause")), instruments, now_us)
            case "subscribe" | "resubscribe" | "acknowledged" | "refused" | "unsubscribe":
                counts.resubscribes += kind == "resubscribe"
                self._apply(story, kind, channel, instruments, line, reason, held=False)
            case "coverage":
                states = {"asked": "subscribe", "acknowledged": "acknowledged", "refused": "refused"}
                state = states.get(str(event.get("state")))
                if state is not None:
                    self._apply(
                        story, state, channel, instruments, line, reason or "refused before the hour", held=True
                    )

    def finish(self, story: Story, end_us: int) -> None:
        """The epoch was open until `end_us`: what still waits for an answer then is judged."""
        if story.closed_us is None:
            self._end(story, end_us)
        self._roll(story, self._minute_of(max(end_us - 1, story.begins_us)) + 1)

    # -- one instrument

    def _apply(
        self, story: Story, kind: str, channel: str, instruments: list[str], line: Line, reason: str, *, held: bool
    ) -> None:
        of_channel = story.channels.setdefault(channel, {})
        story.tells = True
        if kind == "unsubscribe":
            if ALL in instruments:
                instruments = list(of_channel)
            for name in instruments:
                self._drop(story, channel, name, line.recv_us)
            return
        if kind == "refused":
            _tell(story.refused, Told(line.recv_us, line.nats_seq, f"{channel}: {reason}", len(instruments)))
        for name in instruments:
            self.wanted.ask(name, line.recv_us)
            state = of_channel.get(name)
            if state is None:
                if self._instruments >= MAX_INSTRUMENTS or len(self.asked) >= MAX_INSTRUMENTS:
                    continue
                self._instruments += 1
                # What the hour has not shown being asked for was asked for before it; what holds then waits no more.
                known_before = kind != "acknowledged" if held else kind in ("acknowledged", "refused")
                state = of_channel[name] = _Asked(story.begins_us if known_before else line.recv_us)
                story.counts.change(name, 1, 0, 0)
                self.asked.add(name)
            elif held and kind == "subscribe":
                continue
            self._settle(story, channel, name, state, kind, line)

    def _hear(self, own: Story, now_us: int) -> None:
        pause_us = now_us - own.heard[-1] if own.heard else 0
        if pause_us > BREATH_US:
            # Where the connector's clock runs so fast that it ticks every minute, 30 s are no time to answer in.
            self._pause_us = min(pause_us, self._pause_us or pause_us)
            self._patience_us = max(self._ack_timeout_us, 2 * self._pause_us)
        if len(own.heard) < _MOST_HEARD:
            own.heard.append(now_us)

    def _want(self, kind: str, cause: str, instruments: list[str], now_us: int) -> None:
        if kind == "unwanted":
            self.wanted.unwant(instruments)
            return
        self.wanted.want(instruments, now_us)
        if cause in _NEWLY_WANTED:
            self.newly_wanted.append(now_us)

    def _miss(self, story: Story, instruments: list[str], told: Told) -> None:
        for name in instruments:
            if len(self.unopened) < MAX_INSTRUMENTS:
                self.unopened.setdefault(name, Told(told.at_us, told.nats_seq, f"{story.connection} {told.text}"))

    def _settle(self, story: Story, channel: str, name: str, state: _Asked, kind: str, line: Line) -> None:
        before = (state.acknowledged, state.refused)
        if kind == "acknowledged":
            self._judge(story, channel, name, state, line.recv_us)
            state.acknowledged, state.refused = True, False
        elif kind == "refused":
            state.acknowledged, state.refused = False, True
        elif kind == "resubscribe" or before == (False, True):
            state.acknowledged, state.since_us = not self._acknowledges, line.recv_us
        elif not self._acknowledges:
            state.acknowledged = True
        if state.acknowledged:
            self.acknowledged.add(name)
        if state.refused:
            self.refused.add(name)
        change = (int(state.acknowledged) - int(before[0]), int(state.refused) - int(before[1]))
        if change != (0, 0):
            story.counts.change(name, 0, *change)

    def _drop(self, story: Story, channel: str, name: str, now_us: int) -> None:
        state = story.channels[channel].pop(name, None)
        if state is not None:
            self._instruments -= 1
            self.unopened.pop(name, None)
            self._judge(story, channel, name, state, now_us)
            story.counts.change(name, -1, -int(state.acknowledged), -int(state.refused))

    def _judge(self, story: Story, channel: str, name: str, state: _Asked, now_us: int) -> None:
        """Note an instrument that waited for its acknowledgement longer than it may."""
        if not state.acknowledged and not state.refused and now_us - state.since_us > self._patience_us:
            waited_s = (now_us - state.since_us) // 1_000_000
            _tell(story.overdue, Told(state.since_us, story.last_seq, f"{channel} {name[:80]}: {waited_s} s"))

    def _end(self, story: Story, now_us: int) -> None:
        for channel, states in story.channels.items():
            for name, state in states.items():
                self._judge(story, channel, name, state, now_us)
        self._roll(story, self._minute_of(now_us))
        story.levels[self._minute_of(now_us)] = story.counts.now()
        self._forget(story)

    def _forget(self, story: Story) -> None:
        """Free what is known of single instruments; the levels stay."""
        self._roll(story, self._minute_of(story.last_us) + 1)
        self._instruments -= sum(len(states) for states in story.channels.values())
        story.channels = {}

    # -- minutes

    def _roll(self, story: Story, minute: int) -> None:
        """Note the levels of the minutes that are over."""
        for over in range(story.rolled, min(minute, MINUTES)):
            story.levels.setdefault(over, story.counts.now())
        story.rolled = max(story.rolled, minute)

    def _minute_of(self, at_us: int) -> int:
        return min(max((at_us - self._start_us) // MINUTE_US, 0), MINUTES - 1)


def _tell(found: list[Told], told: Told) -> None:
    """Keep the first ones, and add up the others in the last."""
    if len(found) < _TEXTS:
        found.append(told)
    else:
        found[-1].count += told.count
