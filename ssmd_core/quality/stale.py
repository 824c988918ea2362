"""How far behind the archive and the ledgers of a stream are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from ssmd_core.archive.paths import SLOT_S
from ssmd_core.datasets.coverage import Manifests
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds.base import Feed

# A slot is sealed by the first message or tick of the next one; three that are due and not there are no hiccup.
STALE_AFTER = timedelta(seconds=3 * SLOT_S)
# Two hours after its end an hour is built at the latest, says the freshness policy of the datasets; and one run more.
UNBUILT_AFTER = timedelta(hours=4)
_DAYS = 3


@dataclass(frozen=True, slots=True)
class Behind:
    """A stream that was captured in the last days.

    Attributes:
        sealed_until: end of its newest sealed slot.
        built_until: end of its newest hour with datasets; the start of its oldest sealed slot where nothing was built.
        problem: why its manifests cannot be read, "" if they can.
    """

    feed: str
    stream: str
    sealed_until: datetime | None
    built_until: datetime | None
    problem: str = ""

    def complaint(self, now: datetime) -> str:
        """What is wrong, a sentence with what to do; "" if nothing is."""
        if self.problem:
            return f"{self.problem}. Run `ssmd verify`."
        if self.sealed_until is not None and now - self.sealed_until > STALE_AFTER:
            minutes = (now - self.sealed_until) // timedelta(minutes=1)
            return (
                f"Nothing was archived for {minutes:,} minutes (until {self.sealed_until:%Y-%m-%d %H:%M}). Look at "
                f"`ssmd connector status` and `ssmd archiver status`."
            )
        if self.sealed_until and self.built_until and self.sealed_until - self.built_until > UNBUILT_AFTER:
            return (
                f"Archived until {self.sealed_until:%Y-%m-%d %H:%M}, but datasets end at "
                f"{self.built_until:%Y-%m-%d %H:%M}. Look at the runs of hourly_datasets and the sensor sealed_hours."
            )
        return ""


def behind(manifests: Manifests, feed: Feed, stream: str, now: datetime) -> Behind | None:
    """How far a stream is; None for one that was not captured in the last three days."""
    sealed: datetime | None = None
    built: datetime | None = None
    oldest: datetime | None = None
    try:
        for days in range(_DAYS):
            day = now.date() - timedelta(days=days)
            archived = manifests.archive(feed.name, stream, day)
            if archived is not None and archived.files:
                oldest = min(datetime.fromisoformat(file.start) for file in archived.files)
                sealed = sealed or max(datetime.fromisoformat(file.end) for file in archived.files)
            datasets = manifests.datasets(feed.name, stream, day)
            if built is None and datasets is not None and datasets.hours:
                newest = int(max(datasets.hours)[:2])
                built = datetime.combine(day, time(newest), UTC) + timedelta(hours=1)
    except ArchiveError as error:
        return Behind(feed.name, stream, sealed, built, str(error))
    if sealed is None:
        return None
    return Behind(feed.name, stream, sealed, built or oldest)
