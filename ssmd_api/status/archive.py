"""What archive and datasets say of a stream: how far it is sealed and built, and what is known to be missing today."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from ssmd_core.archive.tally import UNPARSED_TYPE
from ssmd_core.datasets.coverage import ArchiveDay, Manifests
from ssmd_core.errors import ArchiveError

_DUPLICATE = "duplicate"


class ArchiveLook(NamedTuple):
    """What the data folder holds of one stream.

    Attributes:
        sealed_until: end of the newest sealed slot; None if nothing is archived.
        dataset_hour: start of the newest hour with a dataset.
        gaps: holes in today's archive in which messages were lost.
        lost: messages in them.
        problems: what else a person should look at.
    """

    sealed_until: datetime | None = None
    dataset_hour: datetime | None = None
    gaps: int = 0
    lost: int = 0
    problems: tuple[str, ...] = ()


def look_at_archive(manifests: Manifests, feed: str, stream: str, today: date) -> ArchiveLook:
    """Look at one stream; blocks for as long as its newest manifests take to read."""
    problems: list[str] = []
    newest = next(manifests.days(manifests.archive_root, feed, stream, date.min, date.max), today)
    days: dict[date, ArchiveDay] = {}
    for day in {newest, today}:
        try:
            days[day] = manifests.archive(feed, stream, day) or ArchiveDay()
        except ArchiveError:  # its text names paths
            problems.append(f"the archive's manifest of {day} is damaged: `ssmd verify` says how")
    now = days.get(today, ArchiveDay())
    if unparsed := sum(file.records_by_type.get(UNPARSED_TYPE, 0) for file in now.files):
        count = f"{unparsed:,} message{'' if unparsed == 1 else 's'}"
        problems.append(f"{count} without a known type today: the venue may have changed something")
    gaps = [gap for gap in now.gaps if gap.reason != _DUPLICATE]
    try:
        dataset_hour = _dataset_hour(manifests, feed, stream)
    except ArchiveError:
        dataset_hour = None
        problems.append("the newest manifest of the datasets is damaged: `ssmd verify` says how")
    return ArchiveLook(
        sealed_until=max(
            (datetime.fromisoformat(file.end) for day in days.values() for file in day.files), default=None
        ),
        dataset_hour=dataset_hour,
        gaps=len(gaps),
        lost=sum(gap.missing for gap in gaps),
        problems=tuple(problems),
    )


def _dataset_hour(manifests: Manifests, feed: str, stream: str) -> datetime | None:
    for day in manifests.days(manifests.dataset_root, feed, stream, date.min, date.max):
        built = manifests.datasets(feed, stream, day)
        if built is not None and built.hours:
            return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=int(max(built.hours)[:2]))
    return None
