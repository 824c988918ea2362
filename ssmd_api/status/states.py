"""Which of five words describes a stream, and why."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from ssmd_api.status.archive import ArchiveLook
from ssmd_api.status.streams import StreamLook
from ssmd_core.archive.paths import SLOT_S
from ssmd_core.clock import NS_PER_S
from ssmd_core.feeds.base import Liveness

State = Literal["live", "quiet", "stale", "down", "unknown"]

# A connector tells something of its own every 5 s, or it does not live.
SIGN_TIMEOUT_S = 30
# A slot is sealed by the first message or tick of the next one: a quarter of an hour and a few seconds.
_SEALED_S = SLOT_S + 300
_BUILT_H = 3


class StreamStatus(msgspec.Struct, kw_only=True, rename="camel"):
    """One stream, now.

    Attributes:
        feed: the feed.
        name: the feed's name for people.
        stream: stream of that feed.
        state: `live`: market messages come. `quiet`: none for longer than is usual, but no longer than a quiet market
            may be. `stale`: none for longer than that, though the connector lives. `down`: neither market messages
            nor a sign of the connector. `unknown`: it cannot be told.
        reason: why it is that word, for a person.
        source: where the state comes from: `jetstream`, or the `archive` alone while NATS is away.
        last_message_at: when the newest market message was received; ssmd's own events do not count.
        last_message_age_s: seconds since then.
        messages_per_s: market messages a second, over the last ten seconds.
        gaps_today: holes in today's archive.
        lost_today: messages that are missing in them.
        problems: what a person should look at.
        sealed_until: end of the newest sealed archive file.
        newest_dataset_hour: start of the newest hour with a dataset.
    """

    feed: str
    name: str
    stream: str
    state: State
    reason: str
    source: Literal["jetstream", "archive"]
    last_message_at: datetime | None = None
    last_message_age_s: float | None = None
    messages_per_s: float | None = None
    gaps_today: int = 0
    lost_today: int = 0
    problems: tuple[str, ...] = ()
    sealed_until: datetime | None = None
    newest_dataset_hour: datetime | None = None


def judge(liveness: Liveness, look: StreamLook | None, archive: ArchiveLook, now_ns: int) -> tuple[State, str]:
    """State and reason, from what JetStream says; `look` is None where it has no such stream."""
    if look is None:
        if archive.sealed_until is None:
            return "unknown", "never captured here"
        return (
            "down",
            f"nothing captures it now: no such stream in NATS; archived until {_minute(archive.sealed_until)}",
        )
    sign_age_s = None if look.sign_ns is None else max(0, now_ns - look.sign_ns) / NS_PER_S
    age_s = None if look.market_ns is None else max(0, now_ns - look.market_ns) / NS_PER_S
    silence = "no market message is stored" if age_s is None else f"no market message for {age_text(age_s)}"
    state: State
    if age_s is not None and age_s <= liveness.data_timeout_s:
        state, reason = "live", "market messages come"
    elif sign_age_s is None or sign_age_s > SIGN_TIMEOUT_S:
        sign = "" if sign_age_s is None else f" for {age_text(sign_age_s)}"
        state, reason = "down", f"{silence}, and no sign of its connector{sign}"
    elif age_s is not None and age_s <= liveness.group_timeout_s:
        state, reason = "quiet", f"{silence}; connected"
    else:
        state, reason = "stale", f"{silence}, though connected"
    return state, reason


def judge_archive(archive: ArchiveLook, now: datetime, why: str) -> tuple[State, str]:
    """State and reason from the archive alone.

    Args:
        why: JetStream cannot be asked.
    """
    if archive.sealed_until is None:
        return "unknown", f"{why}; nothing is archived"
    text = f"{why}; archived until {_minute(archive.sealed_until)}"
    behind = now - archive.sealed_until > timedelta(seconds=_SEALED_S)
    return ("stale" if behind else "unknown"), text


def problems(state: State, archive: ArchiveLook, now: datetime) -> tuple[str, ...]:
    """What a person should look at."""
    found = list(archive.problems)
    if archive.gaps:
        found.append(f"{archive.gaps} gap{'' if archive.gaps == 1 else 's'} today, messages lost: {archive.lost:,}")
    sealed, built = archive.sealed_until, archive.dataset_hour
    if state == "live" and sealed is not None and now - sealed > timedelta(seconds=_SEALED_S):
        found.append(f"messages come, but the archive is sealed only until {_minute(sealed)}: is the archiver running?")
    if sealed is not None and built is not None and sealed - built > timedelta(hours=_BUILT_H):
        found.append(f"archived until {_minute(sealed)}, but datasets end with the hour of {_minute(built)}")
    return tuple(found)


def age_text(seconds: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, unit, per in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / per:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
