"""Who has been told what: decides which messages are due, and remembers it over restarts.

Every alert has a truth (it is on, or it was cleared) and what was last told of it; a message is due when the two differ
for long enough. The rules stand in `Memory._next`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from ssmd_core.alerts import alert as words
from ssmd_core.alerts.alert import RANKS, Alert, Message, Severity
from ssmd_core.sealed_json import write_durably

_log = structlog.get_logger(__name__)

REMINDER_S = 24 * 3600.0
#: What comes back sooner than this after its end was told is not told at once.
QUIET_S = 600.0
#: What no channel took is tried again after this long; longer than all tries of one message together.
RETRY_S = 300.0
#: Messages in any hour, by severity: a storm of information must not keep something critical from being told.
HOUR_S = 3600.0
PER_HOUR: dict[Severity, int] = {"info": 10, "warning": 10, "critical": 15}
#: What is held back is gathered this long before one message tells of all of it.
GATHER_S = 60.0
MAX_KEYS = 2_000
#: What an earlier process left raised, and this one has not raised again for so long, is over.
CONFIRM_S = 3600.0
_MAX_HELD_TITLES = 20


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One alert; moments are epoch seconds.

    Attributes:
        since_s: when it began.
        cleared_s: when it was last cleared; null while it is on.
        told: what the channels were last told: that it is `on`, or `over`; "" if nothing yet.
        told_s: when.
        asked: what the channels are telling right now; "" if nothing.
        retry_s: until then `asked` may still be under way in this or another process, or nobody is to be asked.
        returns: how often it came back after it was cleared.
        grouped: it was only told of in a summary, and so is its end.
    """

    title: str
    text: str
    severity: Severity
    feed: str
    stream: str
    since_s: float
    cleared_s: float | None = None
    told: Literal["", "on", "over"] = ""
    told_s: float = 0.0
    asked: Literal["", "on", "over"] = ""
    retry_s: float = 0.0
    returns: int = 0
    grouped: bool = False


class Held(msgspec.Struct, forbid_unknown_fields=True):
    """What waits for the next summary, and what the one under way tells of.

    Attributes:
        titles: by severity; the most severe ones.
        count: of all.
        since_s: when the first of them came.
        asked_titles, asked_count: of the summary that the channels are telling; 0 if there is none.
        asked_s: when that was handed out.
        told_s: when the last summary was told.
    """

    titles: list[tuple[Severity, str]] = []
    count: int = 0
    since_s: float = 0.0
    asked_titles: list[tuple[Severity, str]] = []
    asked_count: int = 0
    asked_s: float = 0.0
    told_s: float = 0.0


class _State(msgspec.Struct, forbid_unknown_fields=True):
    entries: dict[str, Entry] = {}
    sent_s: list[float] = []
    held: Held = msgspec.field(default_factory=Held)


class Memory:
    """The alerts of one owner. Not for several threads at once.

    Args:
        owner: who raises them; it is named in the messages.
        path: its file; several processes may share it, each under the lock of the caller. One that lives for more
            than an hour takes what it does not raise itself to be over (`CONFIRM_S`).
    """

    def __init__(self, owner: str, path: Path) -> None:
        self._owner = owner
        self._path = path
        self._state = _State()
        self._seen: tuple[int, int, int] | None = None
        self._changed = False
        self._loaded_s: float | None = None
        self._inherited: set[str] = set()
        self._now_s = 0.0

    @property
    def entries(self) -> dict[str, Entry]:
        """All alerts by key, those among them whose end has just been told."""
        return self._state.entries

    @property
    def raised(self) -> list[str]:
        """Keys of the alerts that are on."""
        return sorted(key for key, entry in self._state.entries.items() if entry.cleared_s is None)

    def is_told(self, key: str) -> bool:
        """Whether the alert is on and has been told."""
        entry = self._state.entries.get(key)
        return entry is not None and entry.cleared_s is None and entry.told == "on"

    def is_asked(self, key: str) -> bool:
        """Whether the channels are at it."""
        entry = self._state.entries.get(key)
        return entry is not None and entry.asked != ""

    def load(self, now_s: float) -> None:
        """Read the file if it is another than the one last read or written; a damaged one is told of and set aside."""
        first = self._loaded_s is None
        if first:
            self._loaded_s = now_s
        try:
            about = self._path.stat()
        except FileNotFoundError:
            return
        seen = (about.st_ino, about.st_mtime_ns, about.st_size)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._state = msgspec.json.decode(self._path.read_bytes(), type=_State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Alerts may then be told a second time; to be silent for ever would be worse.
            aside = self._path.with_name(self._path.name + ".damaged")
            _log.error("alerts.state_damaged", path=str(self._path), error=str(error), kept_as=str(aside))
            with contextlib.suppress(OSError):
                self._path.replace(aside)
            self._state = _State()
        self._turn_back(now_s)
        if first:
            self._inherited = set(self.raised)

    def save(self) -> None:
        """Write the file, if something changed.

        Raises:
            OSError: it cannot be written.
        """
        if not self._changed:
            return
        write_durably(self._path, msgspec.json.encode(self._state))
        self._changed = False
        about = self._path.stat()
        self._seen = (about.st_ino, about.st_mtime_ns, about.st_size)

    def raise_(self, alert: Alert, now_s: float) -> Message | None:
        """Note that it is on; gives what to tell of it now."""
        self._inherited.discard(alert.key)
        entry = self._state.entries.get(alert.key)
        if entry is None:
            if len(self._state.entries) >= MAX_KEYS:
                _log.error("alerts.too_many", owner=self._owner, key=alert.key, title=alert.title)
                full: tuple[Severity, str] = (
                    "critical",
                    f"more than {MAX_KEYS:,} alerts at once; the log has the rest",
                )
                if full not in self._state.held.titles:
                    self._hold(*full, now_s)
                return None
            entry = Entry(alert.title, alert.text, alert.severity, alert.feed, alert.stream, since_s=now_s)
            self._state.entries[alert.key] = entry
            self._changed = True
        if entry.cleared_s is not None:
            entry.cleared_s = None
            entry.returns += 1
            self._changed = True
        if RANKS[alert.severity] > RANKS[entry.severity]:
            # It got worse: that is news, although its key was told.
            entry.severity, entry.told, entry.grouped = alert.severity, "", False
        if (entry.title, entry.text) != (alert.title, alert.text):
            entry.title, entry.text = alert.title, alert.text
            self._changed = True
        return self._next(alert.key, entry, now_s)

    def clear(self, key: str, now_s: float) -> Message | None:
        """Note that it is over; gives what to tell of it now."""
        entry = self._state.entries.get(key)
        if entry is None or entry.cleared_s is not None:
            return None
        entry.cleared_s = now_s
        self._changed = True
        return self._next(key, entry, now_s)

    def settle(self, message: Message, delivered: bool, now_s: float) -> Message | None:
        """Note how a message ended; gives what is to be told after it."""
        self._changed = True
        if message.kind == "summary":
            self._settle_summary(delivered, now_s)
            return None
        entry = self._state.entries.get(message.key)
        if entry is None or not entry.asked:
            return None
        if delivered:
            # What has got worse since the message was written has not been told yet.
            outdated = entry.asked == "on" and RANKS[message.severity] < RANKS[entry.severity]
            entry.told, entry.told_s, entry.retry_s = "" if outdated else entry.asked, now_s, 0.0
        else:
            entry.retry_s = now_s + RETRY_S
        entry.asked = ""
        return self._next(message.key, entry, now_s)

    def due(self, now_s: float, *, last: bool) -> list[Message]:
        """What time alone has made due.

        Args:
            last: nothing is asked after this for a while: what is gathered for a summary does not wait.
        """
        found = [self._next(key, entry, now_s) for key, entry in list(self._state.entries.items())]
        if self._loaded_s is not None and now_s >= self._loaded_s + CONFIRM_S:
            found.extend(self.clear(key, now_s) for key in sorted(self._inherited))
            self._inherited = set()
        messages = [message for message in found if message is not None]
        summary = self._summary(now_s, last)
        return messages if summary is None else [*messages, summary]

    def _next(self, key: str, entry: Entry, now_s: float) -> Message | None:
        """What to tell of one alert now; forgets it when there is nothing left to tell."""
        if now_s < entry.retry_s:
            return None
        entry.asked = ""
        if entry.cleared_s is None:
            message = self._next_on(key, entry, now_s)
            return None if message is None else self._ask(entry, "on", message, now_s)
        quiet = now_s >= entry.cleared_s + QUIET_S
        if entry.told == "on" and (quiet or not entry.returns):
            message = words.over(_alert(key, entry), self._owner, entry.since_s, entry.cleared_s, entry.returns)
            return self._ask(entry, "over", message, now_s)
        if entry.told == "" or (entry.told == "over" and quiet):
            del self._state.entries[key]
            self._changed = True
        return None

    def _next_on(self, key: str, entry: Entry, now_s: float) -> Message | None:
        since_s = entry.since_s
        if entry.told == "":
            return words.raised(_alert(key, entry), self._owner, since_s)
        if entry.told == "over" and now_s >= entry.told_s + QUIET_S:
            return words.back(_alert(key, entry), self._owner, since_s, entry.returns)
        if entry.told == "on" and now_s >= entry.told_s + REMINDER_S:
            return words.reminder(_alert(key, entry), self._owner, since_s, now_s)
        return None

    def _ask(self, entry: Entry, what: Literal["on", "over"], message: Message, now_s: float) -> Message | None:
        """Hand the message out, or hold it back for the summary if the hour has had enough of them."""
        self._changed = True
        sent = self._state.sent_s = [moment for moment in self._state.sent_s if moment > now_s - HOUR_S]
        if len(sent) >= PER_HOUR[message.severity] or (what == "over" and entry.grouped):
            entry.told, entry.told_s, entry.grouped = what, now_s, True
            self._hold(message.severity, message.title, now_s)
            return None
        sent.append(now_s)
        entry.asked, entry.retry_s, entry.grouped = what, now_s + RETRY_S, False
        return message

    def _hold(self, severity: Severity, title: str, now_s: float) -> None:
        held = self._state.held
        if not held.count:
            held.since_s = now_s
        held.count += 1
        held.titles = _worst([*held.titles, (severity, title)])
        self._changed = True
        _log.warning("alerts.held_back", owner=self._owner, severity=severity, title=title)

    def _summary(self, now_s: float, last: bool) -> Message | None:
        held = self._state.held
        if held.asked_count and now_s >= held.asked_s + RETRY_S:
            held.titles, held.asked_titles = _worst([*held.asked_titles, *held.titles]), []
            held.count, held.asked_count = held.count + held.asked_count, 0
        if not held.count or held.asked_count or now_s < held.told_s + HOUR_S:
            return None
        if not last and now_s < held.since_s + GATHER_S:
            return None
        held.asked_titles, held.asked_count, held.asked_s = held.titles, held.count, now_s
        held.titles, held.count = [], 0
        self._changed = True
        titles = [f"{severity.upper()} {title}" for severity, title in held.asked_titles]
        return words.summary(titles, held.asked_count, held.asked_titles[0][0], self._owner)

    def _settle_summary(self, delivered: bool, now_s: float) -> None:
        # One that nobody took is asked for anew after five minutes.
        if delivered:
            held = self._state.held
            held.asked_titles, held.asked_count, held.told_s = [], 0, now_s

    def turn_back(self, now_s: float) -> None:
        """Follow a clock that was set back: no moment of the past lies in the future."""
        if now_s < self._now_s:
            self._turn_back(now_s)
        self._now_s = now_s

    def _turn_back(self, now_s: float) -> None:
        """A clock that was wrong must not silence an alert for a year."""
        state = self._state
        state.sent_s = [moment for moment in state.sent_s if moment <= now_s]
        held = state.held
        held.since_s, held.asked_s, held.told_s = (
            min(moment, now_s) for moment in (held.since_s, held.asked_s, held.told_s)
        )
        for entry in state.entries.values():
            entry.since_s, entry.told_s = min(entry.since_s, now_s), min(entry.told_s, now_s)
            entry.retry_s = min(entry.retry_s, now_s + RETRY_S)
            if entry.cleared_s is not None:
                entry.cleared_s = min(entry.cleared_s, now_s)


def _alert(key: str, entry: Entry) -> Alert:
    return Alert(key, entry.title, entry.text, entry.severity, entry.feed, entry.stream)


def _worst(titles: list[tuple[Severity, str]]) -> list[tuple[Severity, str]]:
    return sorted(titles, key=lambda one: -RANKS[one[0]])[:_MAX_HELD_TITLES]
