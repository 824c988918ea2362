"""When a stream's connections should have been open and were not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Final

from ssmd_core.proof.ordinals import UNSTAMPED
from ssmd_core.proof.subscriptions import BREATH_US, OWN, SILENCE_US, Story, Subscriptions
from ssmd_core.proof.word import Seen

# A connection for instruments that have just come to be wanted opens within seconds; none can be faster than the wish.
_OPENING_US: Final = 30_000_000
# A tick that is late by so much is late, not missing.
_LATE_TICK_US: Final = 5_000_000
_DEAD_US: Final = 300_000_000


@dataclass(frozen=True, slots=True)
class Life:
    """When an epoch was open, within the hour."""

    story: Story
    from_us: int
    to_us: int


def lives(subscriptions: Subscriptions, end_us: int) -> dict[str, Life]:
    """When every epoch was open.

    One without a closing event was open until its last message, or to the hour's end if it is its connection's newest
    and the connector itself was alive then: a quiet market says nothing for minutes.
    """
    stories = subscriptions.stories.values()
    own = [story for story in stories if story.connection == OWN]
    newest_own = max(own, key=lambda story: (story.begins_us, story.first_us), default=None)
    alive = (
        newest_own is not None
        and newest_own.closed_us is None
        and newest_own.last_us >= end_us - _usual_silence_us(newest_own)
    )
    newest: dict[str, Story] = {}
    for story in stories:
        known = newest.get(story.connection)
        if known is None or (story.begins_us, story.first_us) >= (known.begins_us, known.first_us):
            newest[story.connection] = story
    found = {}
    for story in stories:
        to_us = story.closed_us
        if to_us is None:
            of_living_process = newest_own is not None and (
                story is newest_own or (story.connection != OWN and story.begins_us >= newest_own.begins_us)
            )
            is_open = alive and newest[story.connection] is story and of_living_process
            to_us = end_us if is_open else story.last_us
        found[story.name] = Life(story, min(story.begins_us, to_us), min(to_us, end_us))
    return found


def gaps(
    subscriptions: Subscriptions, found: dict[str, Life], start_us: int, end_us: int, carried: Collection[str]
) -> list[Seen]:
    """Times in which a connection should have been open and was not; `count` is in whole seconds, rounded up.

    A connection is due from the hour's start, or, if it came with instruments that were wanted later, from then. It is
    due to the hour's end, unless it closed when nothing was asked for on it any more.

    Args:
        carried: connections that were open when the hour before ended.
    """
    if not any(life.story.speaks for life in found.values()):
        return []  # nothing shows when they were open
    by_connection: dict[str, list[Life]] = {name: [] for name in carried}
    for life in found.values():
        if life.story.connection not in (OWN, UNSTAMPED):
            by_connection.setdefault(life.story.connection, []).append(life)
    restarts = sorted(life.from_us for life in found.values() if life.story.connection == OWN and life.story.opened)
    last_opened_us = max((life.from_us for of_name in by_connection.values() for life in of_name), default=0)
    wanted = subscriptions.wanted
    if not by_connection and (wanted.anything or not wanted.said):
        by_connection["c0"] = []
    seen = _silences(found, start_us)
    for name, of_name in sorted(by_connection.items()):
        of_name.sort(key=lambda life: (life.from_us, life.to_us))
        due_us = start_us
        if name not in carried and of_name:
            due_us = _due_from(of_name[0], subscriptions.newly_wanted, start_us)
        open_to_us, before = due_us, ""
        for life in of_name:
            if life.from_us > open_to_us:
                seen.append(_gap(name, open_to_us, life.from_us, before, f"seq:{life.story.open_seq}"))
            open_to_us = max(open_to_us, life.to_us)
            before = f"seq:{life.story.last_seq}"
        # A connector that came later may have fewer connections; what they carried is then asked for on others.
        last_us = next((at_us for at_us in restarts if open_to_us <= at_us < last_opened_us), end_us)
        retired = bool(of_name) and of_name[-1].story.done
        if open_to_us < last_us and not retired:
            seen.append(_gap(name, open_to_us, last_us, before, ""))
    return seen


def overlapping_connectors(found: dict[str, Life]) -> list[Seen]:
    """Times in which two connectors said something of themselves; a restart's are one after the other."""
    own = sorted(
        (life for life in found.values() if life.story.connection == OWN),
        key=lambda life: (max(life.from_us, life.story.first_us), life.to_us),
    )
    seen = []
    for before, after in pairwise(own):
        from_us = max(after.from_us, after.story.first_us)
        to_us = min(before.story.last_us, after.story.last_us)
        if from_us < to_us:
            text = f"{before.story.name} and {after.story.name} for {(to_us - from_us) / 1e6:.1f} s"
            seen.append(Seen(text, 1, from_us, to_us, [f"seq:{after.story.last_seq}"]))
    return seen


def _due_from(first: Life, wanted: list[int], start_us: int) -> int:
    if not first.story.opened:
        return start_us
    # Instruments that came to be wanted within the hour: their connection was not due before.
    before = [at_us for at_us in wanted if start_us < at_us <= first.from_us]
    if not before:
        return start_us
    return first.from_us if first.from_us - before[-1] <= _OPENING_US else before[-1]


def _usual_silence_us(own: Story) -> int:
    """How long a connector's own epoch may have said nothing and still be alive."""
    return min(_DEAD_US, 2 * _usual_pause_us(own) + _LATE_TICK_US)


def _usual_pause_us(own: Story) -> int:
    pauses = [after - before for before, after in pairwise(sorted(own.heard)) if after - before > BREATH_US]
    return median_low(pauses or [SILENCE_US])


def _silences(found: dict[str, Life], start_us: int) -> list[Seen]:
    """Times in which a connector that lived on said nothing: it was stopped, and so were its connections."""
    seen = []
    for life in found.values():
        if life.story.connection == OWN:
            begin_us = life.from_us if life.story.opened else start_us
            most_us = max(SILENCE_US, 4 * _usual_pause_us(life.story))
            for before, after in pairwise([begin_us, *sorted(life.story.heard)]):
                if after - before > most_us:
                    seconds = (after - before) / 1e6
                    text = f"the connector {life.story.name} said nothing for {seconds:.1f} s"
                    seen.append(Seen(text, -(-(after - before) // 1_000_000), before, after))
    return seen


def _gap(name: str, from_us: int, to_us: int, *evidence: str) -> Seen:
    seconds = (to_us - from_us) / 1e6
    text = f"{name} was not open for {seconds:.1f} s"
    return Seen(text, -(-(to_us - from_us) // 1_000_000), from_us, to_us, [text for text in evidence if text])
