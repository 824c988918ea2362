"""What is wrong, and the messages that tell of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ssmd_core.text import lasted, one_line, shown

Severity = Literal["info", "warning", "critical"]
#: What a message says of its alert: that it began, is over, is back, goes on; or what was held back of several.
Kind = Literal["raised", "over", "back", "reminder", "summary"]

RANKS: dict[str, int] = {"info": 0, "warning": 1, "critical": 2}

MAX_KEY_CHARS = 300
MAX_TITLE_CHARS = 200
MAX_TEXT_CHARS = 1_500


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should know.

    Whatever stands in it may be a stranger's text: control characters are replaced, and what is too long is cut.

    Attributes:
        key: which condition it is, e.g. `mute:kraken/spot/c0`; alerts of one key are one alert.
        title: one line.
        text: what was seen, and what to do.
        severity: `info`, `warning` or `critical`.
        feed, stream: whom it concerns; "" if nobody in particular.
    """

    key: str
    title: str
    text: str
    severity: Severity = "warning"
    feed: str = ""
    stream: str = ""

    def __post_init__(self) -> None:
        if self.severity not in RANKS:
            raise ValueError(f"severity {self.severity!r} is none of {', '.join(RANKS)}")
        object.__setattr__(self, "key", clean_key(self.key))
        object.__setattr__(self, "title", one_line(self.title, MAX_TITLE_CHARS))
        object.__setattr__(self, "text", clean_text(self.text))
        object.__setattr__(self, "feed", one_line(self.feed, 64))
        object.__setattr__(self, "stream", one_line(self.stream, 64))


@dataclass(frozen=True, slots=True)
class Message:
    """What goes to the channels.

    Attributes:
        key: of the alert; "" for a summary.
        severity: how urgent it is; the end of something is `info`.
        title: one line.
        text: several lines.
    """

    key: str
    kind: Kind
    severity: Severity
    title: str
    text: str


def clean_key(key: str) -> str:
    """The key as it is kept: one line of at most 300 characters."""
    return one_line(key, MAX_KEY_CHARS)


def clean_text(text: str) -> str:
    """Lines without control characters, at most 1,500 characters of them."""
    lines = "\n".join(shown(line).rstrip() for line in text[:MAX_TEXT_CHARS].splitlines()).strip()
    return lines if len(text) <= MAX_TEXT_CHARS else f"{lines}…"


def moment(epoch_s: float) -> str:
    """A moment for people, e.g. `2026-11-22 14:05 UTC`."""
    return f"{datetime.fromtimestamp(epoch_s, UTC):%Y-%m-%d %H:%M} UTC"


def raised(alert: Alert, owner: str, since_s: float) -> Message:
    """An alert that nobody has heard of yet."""
    return Message(alert.key, "raised", alert.severity, alert.title, _with_source(alert.text, alert, owner, since_s))


def over(alert: Alert, owner: str, since_s: float, until_s: float, returns: int) -> Message:
    """The end of it, and how long it lasted."""
    text = f"Over since {moment(until_s)}, after {lasted(until_s - since_s)}."
    if returns:
        text += f" In between it went and came back {_times(returns)}."
    return Message(alert.key, "over", "info", f"Over: {alert.title}", _with_source(text, alert, owner, since_s))


def back(alert: Alert, owner: str, since_s: float, returns: int) -> Message:
    """What was told to be over comes back, perhaps again and again."""
    text = (
        f"It has come back {_times(returns)} since {moment(since_s)}; its end is told when it has been away for 10 min."
    )
    text = f"{text}\n{alert.text}" if alert.text else text
    return Message(alert.key, "back", alert.severity, f"Back: {alert.title}", _with_source(text, alert, owner, since_s))


def reminder(alert: Alert, owner: str, since_s: float, now_s: float) -> Message:
    """It goes on."""
    text = f"For {lasted(now_s - since_s)} now."
    text = f"{text}\n{alert.text}" if alert.text else text
    title = f"Still: {alert.title}"
    return Message(alert.key, "reminder", alert.severity, title, _with_source(text, alert, owner, since_s))


def summary(titles: list[str], count: int, severity: Severity, owner: str) -> Message:
    """What was held back because too much happened at once.

    Args:
        titles: of some of them, the most severe first.
        count: of all of them.
    """
    left = count - len(titles)
    lines = [*titles, *([f"… and {left:,} others, which are in the log of {owner}."] if left else [])]
    return Message("", "summary", severity, f"and {count:,} more", "\n".join([*lines, f"({owner})"]))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _with_source(text: str, alert: Alert, owner: str, since_s: float) -> str:
    where = f"{alert.feed}/{alert.stream}" if alert.stream else alert.feed
    source = " · ".join(part for part in (where, owner, f"since {moment(since_s)}", alert.key) if part)
    return f"{text}\n({source})" if text else f"({source})"
