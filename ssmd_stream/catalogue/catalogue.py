"""The capture catalogue of one stream and hour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ssmd_core import config
from ssmd_core.archive.paths import SLOT_US, Slot, day_folder, hour_files, hour_key, slot_of_file
from ssmd_core.clock import rfc3339_us
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings
from ssmd_stream.capture.universe_venues import UNIVERSES
from ssmd_stream.catalogue.intervals import Interval, Intervals, intersection, length_s, minutes, union, without
from ssmd_stream.catalogue.ledger import OTHER, Ledger
from ssmd_stream.catalogue.secmaster import Open, open_in

SLOTS = 4
#: From a market's opening to its acknowledged subscription: the sweep looks every ten seconds.
PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One instrument in the hour.

    Attributes:
        wanted: when the connector wanted it.
        open: when the security master says that it was open; None if it does not say so, or was not asked.
        asked, acknowledged: when it was subscribed on every channel that takes a list.
        refused: channel -> the venue's reason, for what was refused last.
        frames: messages seen.
        missing: when it should have been captured and was not subscribed.
    """

    instrument: str
    wanted: Intervals
    open: Open | None
    asked: Intervals
    acknowledged: Intervals
    refused: dict[str, str]
    frames: int
    missing: Intervals

    @property
    def should_have(self) -> bool:
        """Whether it should have been captured at any time of the hour."""
        return bool(self.wanted) or self.open is not None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: times as RFC 3339, `missing_minutes` of the hour."""
        found: dict[str, Any] = {
            "instrument": self.instrument,
            "should_have": {
                "wanted": _texts(self.wanted),
                "secmaster": _texts([self.open.during]) if self.open else None,
            },
            "asked": _texts(self.asked),
            "acknowledged": _texts(self.acknowledged),
            "refused": self.refused,
            "frames": self.frames,
            "missing_s": round(length_s(self.missing), 3),
            "missing_minutes": minutes(self.missing),
        }
        if self.open:
            found["secmaster_knew_at"] = rfc3339_us(self.open.known_at)
        return found


@dataclass(slots=True)
class Catalogue:
    """What was to be captured in one hour, and what was asked for.

    Attributes:
        sealed_slots: slots of the hour that have a sealed file; below four the hour is not over, or was not archived.
        channels: those on which instruments were asked for.
        filter: of the security master; None where it does not decide.
        with_secmaster: whether the database was asked as well.
        wants_all: the connector asked for everything the venue has.
        entries: by instrument, sorted.
    """

    feed: str
    stream: str
    hour: str
    sealed_slots: int
    channels: list[str]
    filter: dict[str, Any] | None
    with_secmaster: bool
    wants_all: bool
    messages: int
    unlisted_frames: int
    entries: list[Entry] = field(repr=False)

    def missed(self, patience_s: float = PATIENCE_S) -> Iterator[Entry]:
        """Instruments that should have been captured and were not subscribed for longer than `patience_s`."""
        return (entry for entry in self.entries if length_s(entry.missing) > patience_s)

    def summary(self) -> dict[str, Any]:
        """Counts of instruments, and of the seconds that are missing."""
        entries = self.entries
        return {
            "feed": self.feed,
            "stream": self.stream,
            "hour": self.hour,
            "sealed_slots": self.sealed_slots,
            "channels": self.channels,
            "filter": self.filter,
            "wants_all": self.wants_all,
            "messages": self.messages,
            "should_have": sum(entry.should_have for entry in entries),
            "wanted": sum(bool(entry.wanted) for entry in entries),
            "open_by_secmaster": sum(entry.open is not None for entry in entries) if self.with_secmaster else None,
            "asked": sum(bool(entry.asked) for entry in entries),
            "acknowledged": sum(bool(entry.acknowledged) for entry in entries),
            "refused": sum(bool(entry.refused) for entry in entries),
            "with_frames": sum(bool(entry.frames) for entry in entries),
            "not_wanted_with_frames": sum(not entry.should_have and bool(entry.frames) for entry in entries),
            "missed": sum(1 for _ in self.missed()),
            "missing_s": round(sum(length_s(entry.missing) for entry in entries), 3),
        }

    def as_dict(self) -> dict[str, Any]:
        """The whole catalogue for JSON."""
        return {
            "summary": self.summary(),
            "missed": [entry.instrument for entry in self.missed()],
            "instruments": [entry.as_dict() for entry in self.entries],
        }


async def make_catalogue(settings: Settings, feed: Feed, stream: str, hour: datetime) -> Catalogue:
    """Read the hour's archive, and the security master if there is a database.

    The archive's own word on the filter goes before env.yaml's. Where instruments were named in the configuration, the
    security master is not asked: it does not decide. Memory grows with instruments and their subscriptions, not with
    messages: about 66 MB for 30,000 instruments on three channels.

    Raises:
        TornFileError, ArchiveError: a sealed file is damaged.
        ConfigError: env.yaml or DATABASE_URL cannot be used.
        DatabaseError: the database cannot be reached, or refused.
    """
    start = int(hour.timestamp()) * 1_000_000
    folder = day_folder(settings.archive_root, feed.name, stream, Slot(start).date)
    files = hour_files(folder, hour)
    slots = {slot_of_file(Slot(start).date, path.name) for path in files}
    # Of what comes after the last sealed file nothing can be said.
    span = Interval(start, max((slot.end_us for slot in slots), default=start + SLOTS * SLOT_US))
    ledger = Ledger(feed, span)
    ledger.read(files)
    ledger.finish()
    config_ = _filter(settings, feed, stream, ledger)
    opened: dict[str, Open] = {}
    if config_ is not None and settings.database_url:
        opened = await open_in(settings.database_url, feed.name, span, config_)
    channels = ledger.channels
    wanted = ledger.wanted
    names = sorted({*ledger.instruments(), *opened})
    answers = feed.limits.acknowledges
    return Catalogue(
        feed=feed.name,
        stream=stream,
        hour=hour_key(hour),
        sealed_slots=len(slots),
        channels=channels,
        filter=ledger.filter,
        with_secmaster=config_ is not None and bool(settings.database_url),
        wants_all=ledger.wants_all,
        messages=ledger.messages,
        unlisted_frames=ledger.frames.get(OTHER, 0),
        entries=[_entry(name, ledger, channels, wanted.get(name, ()), opened.get(name), answers) for name in names],
    )


def _filter(settings: Settings, feed: Feed, stream: str, ledger: Ledger) -> config.SecmasterConfig | None:
    if feed.name not in UNIVERSES:
        return None
    if ledger.filter is not None:
        return config.SecmasterConfig.model_validate(ledger.filter)
    if ledger.wants_all:
        return config.SecmasterConfig()
    env = config.find_env(settings.config_root, feed, stream)
    return env.secmaster if env is not None and not ledger.wanted else None


def _entry(
    name: str, ledger: Ledger, channels: list[str], wanted: Intervals, opened: Open | None, answers: bool
) -> Entry:
    asked: Intervals = (ledger.hour,) if channels else ()
    acknowledged = asked
    for channel in channels:
        asked_here, acknowledged_here = ledger.times(channel, name)
        asked, acknowledged = intersection(asked, asked_here), intersection(acknowledged, acknowledged_here)
    due = union([*wanted, *([opened.during] if opened else [])])
    return Entry(
        instrument=name,
        wanted=wanted,
        open=opened,
        asked=asked,
        acknowledged=acknowledged,
        refused=ledger.refused.get(name) or {},
        frames=ledger.frames.get(name, 0),
        missing=without(due, acknowledged if answers else asked),
    )


def _texts(intervals: Intervals | list[Interval]) -> list[list[str]]:
    return [[rfc3339_us(start), rfc3339_us(end)] for start, end in intervals]
