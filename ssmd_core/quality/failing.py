"""Hours that are still not right: what a person should mend, until it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import psycopg

from ssmd_core.datasets.coverage import HourState, Manifests, day_coverage
from ssmd_core.errors import ArchiveError
from ssmd_core.feeds import FEEDS
from ssmd_core.feeds.base import Feed

_LEDGERS = """
SELECT feed, stream, hour, word, reasons FROM ledger_hours WHERE hour >= %s AND hour < %s
"""
#: Reasons of a ledger that a mended schema and a rebuild put right; a hole in the capture stays a hole.
MENDABLE = frozenset({"rejects", "null_column"})
#: What no ledger can say of itself, and materialising the hour puts right.
NOT_PROVED, ARCHIVE_CHANGED = "not_proved", "archive_changed"
#: A manifest that cannot be read.
DAMAGED = "damaged"
# An hour is built two hours after its end at the latest, says the freshness policy of the datasets.
_DUE = timedelta(hours=2)
_Key = tuple[str, str, datetime]


@dataclass(frozen=True, slots=True)
class FailingHour:
    """An hour that is degraded, or should be proved and is not.

    Attributes:
        reasons: codes, in the order of the ledger.
        mendable: whether one of them can still be put right.
    """

    feed: str
    stream: str
    hour: datetime
    reasons: tuple[str, ...]

    @property
    def mendable(self) -> bool:
        return not {*MENDABLE, NOT_PROVED, ARCHIVE_CHANGED, DAMAGED}.isdisjoint(self.reasons)

    @property
    def name(self) -> str:
        """`feed/stream YYYY-MM-DDTHH`."""
        return f"{self.feed}/{self.stream} {self.hour.astimezone(UTC):%Y-%m-%dT%H}"


async def failing_hours(
    connection: psycopg.AsyncConnection, manifests: Manifests, last: date, days: int, now: datetime
) -> list[FailingHour]:
    """Hours of the `days` days up to `last` that are not right, newest first: those whose ledger says so, and those
    whose ledger is missing or older than the archive.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    end = datetime.combine(last, time(), UTC) + timedelta(days=1)
    rows = await (await connection.execute(_LEDGERS, (end - timedelta(days=days), end))).fetchall()
    words: dict[_Key, str] = {}
    found: dict[_Key, list[str]] = {}
    for feed, stream, hour, word, reasons in rows:
        words[feed, stream, hour] = word
        if word == "degraded":
            found[feed, stream, hour] = [str(reason.get("code", "")) for reason in reasons]
    for one in FEEDS.values():
        for stream in manifests.streams(one):
            for back in range(days):
                for key, code in _of_day(manifests, one, stream, last - timedelta(days=back), words, now):
                    found.setdefault(key, []).insert(0, code)
    newest_first = sorted(found, key=lambda key: (-key[2].timestamp(), *key[:2]))
    return [FailingHour(*key, tuple(found[key])) for key in newest_first]


def _of_day(
    manifests: Manifests, feed: Feed, stream: str, day: date, words: Mapping[_Key, str], now: datetime
) -> Iterator[tuple[_Key, str]]:
    covered = day_coverage(manifests, feed, stream, day, now)
    start = datetime.combine(day, time(), UTC)
    if covered.error:
        yield (feed.name, stream, start), DAMAGED
        return
    for number, hour in enumerate(covered.hours):
        key = (feed.name, stream, start + timedelta(hours=number))
        if not hour.slots or key[2] + timedelta(hours=1) + _DUE > now:
            continue
        if key not in words:
            yield key, NOT_PROVED
        elif hour.state in (HourState.STALE, HourState.PARTIAL) and _changed(manifests, feed, stream, day, hour.hour):
            yield key, ARCHIVE_CHANGED


def _changed(manifests: Manifests, feed: Feed, stream: str, day: date, hour: str) -> bool:
    """Whether the hour's archive files are others than those that it was built of."""
    try:
        archived, built = manifests.archive(feed.name, stream, day), manifests.datasets(feed.name, stream, day)
    except ArchiveError:
        return False
    sources = built.hours[hour].sources if built is not None and hour in built.hours else {}
    files = {file.name: file.sha256 for file in archived.files if file.name[:2] == hour[:2]} if archived else {}
    return any(sources.get(name) != digest for name, digest in files.items())
