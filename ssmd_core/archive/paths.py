"""Where an archived message and its hour lie: `{root}/{feed}/{stream}/{YYYY-MM-DD}/{HHMM}.jsonl.gz`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from ssmd_core.errors import ArchiveError

SLOT_S = 900
SLOT_US = SLOT_S * 1_000_000
PART_SUFFIX = ".part"
MANIFEST = "manifest.json"
# HHMM, then -01, -02, … for messages that came after their slot was sealed.
DAY_FOLDER = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
SLOT_FILE = re.compile(r"([01][0-9]|2[0-3])(00|15|30|45)(?:-([0-9]{2,}))?\.jsonl\.gz\Z")


class Slot(NamedTuple):
    """A quarter of an hour by receive time.

    Attributes:
        start_us: its first microsecond, epoch.
    """

    start_us: int

    @classmethod
    def of(cls, recv_us: int) -> Slot:
        """The slot that a receive time falls into."""
        return cls(recv_us - recv_us % SLOT_US)

    @property
    def start(self) -> datetime:
        return datetime.fromtimestamp(self.start_us // 1_000_000, UTC)

    @property
    def end_us(self) -> int:
        """First microsecond after it."""
        return self.start_us + SLOT_US

    @property
    def date(self) -> str:
        return f"{self.start:%Y-%m-%d}"

    def file_name(self, late: int = 0) -> str:
        """`HHMM.jsonl.gz`; `late` counts the files for messages that came after the slot was sealed."""
        suffix = f"-{late:02d}" if late else ""
        return f"{self.start:%H%M}{suffix}.jsonl.gz"


def parse_hour(text: str) -> datetime:
    """An hour from `YYYY-MM-DD-HH:MM` (Dagster's partition key) or ISO 8601, at its full hour, UTC.

    Raises:
        ValueError: neither form, or not a full hour.
    """
    try:
        hour = datetime.strptime(text, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC)
    except ValueError:
        hour = datetime.fromisoformat(text)
        hour = hour.replace(tzinfo=UTC) if hour.tzinfo is None else hour.astimezone(UTC)
    if hour != hour.replace(minute=0, second=0, microsecond=0):
        raise ValueError(f"{text!r} is not a full hour")
    return hour


def hour_key(hour: datetime) -> str:
    """Dagster's partition key of an hour, `YYYY-MM-DD-HH:00`."""
    return f"{hour:%Y-%m-%d-%H:%M}"


def hour_slots(hour: datetime) -> tuple[Slot, ...]:
    """The four slots of an hour."""
    return tuple(
        Slot(int((hour + timedelta(seconds=SLOT_S * quarter)).timestamp()) * 1_000_000) for quarter in range(4)
    )


def day_folder(root: Path, feed: str, stream: str, date: str) -> Path:
    return root / feed / stream / date


def hour_files(folder: Path, hour: datetime) -> list[Path]:
    """Sealed files of one hour in a day's folder, by name; late files after their slot's own."""
    if not folder.is_dir():
        return []
    wanted = f"{hour:%H}"
    files = [path for path in folder.iterdir() if (match := SLOT_FILE.match(path.name)) and match[1] == wanted]
    # Not by the whole name: `-` sorts before `.`.
    return sorted(files, key=lambda path: path.name.removesuffix(".jsonl.gz"))


def slot_of_file(date: str, name: str) -> Slot:
    """The slot of a file name in a day's folder.

    Raises:
        ArchiveError: not such a name, or not such a folder.
    """
    match = SLOT_FILE.match(name)
    if match is None:
        raise ArchiveError(f"{date}/{name}: not a slot's file name")
    try:
        start = datetime.strptime(f"{date} {match[1]}{match[2]}", "%Y-%m-%d %H%M").replace(tzinfo=UTC)
    except ValueError as error:
        raise ArchiveError(f"{date}/{name}: not a day's folder: {error}") from error
    return Slot(int(start.timestamp()) * 1_000_000)
