"""Parquet files as one polars LazyFrame, on disk or behind signed URLs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmd.errors import ClientError, IntegrityError, MissingHours
from ssmd.files import HOUR, split_path

if TYPE_CHECKING:
    import polars as pl

DATASETS = "datasets"
MANIFEST = "parquet-manifest.json"
_SLOTS = 4
_SCHEMA_READERS = 8


def scan(sources: Sequence[str]) -> pl.LazyFrame:
    """All files, one after the other; a column that some of them lack is null there.

    Only columns and row groups that the query needs are read, from URLs too: polars asks for ranges of bytes (polars
    2.1: 20 requests for one of 4 columns of 20 row groups). Neighbours of one schema are scanned together; where it
    changes, as between versions of ssmd, columns are matched by name and widened.

    Args:
        sources: paths or URLs, at least one.
    """
    import polars as pl

    with ThreadPoolExecutor(_SCHEMA_READERS) as pool:
        schemas = pool.map(pl.read_parquet_schema, sources)
        runs = groupby(zip(sources, schemas, strict=True), key=lambda pair: list(pair[1].items()))
        frames = [pl.scan_parquet([source for source, _ in run], glob=False) for _, run in runs]
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")


def local_files(folder: Path, feed: str, message_type: str, first: date, last: date) -> list[Path]:
    """The feed's files of a type on these days, by stream and hour.

    Args:
        folder: with `datasets/` in it.
    """
    found = []
    for path in sorted((folder / DATASETS / feed).glob(f"*/*/{message_type}_??00.parquet")):
        with contextlib.suppress(IntegrityError):  # another file than a dataset
            parts = split_path(path.relative_to(folder).as_posix())
            if parts.type == message_type and first <= parts.hour.date() <= last:
                found.append(path)
    return found


def local_missing(folder: Path, feed: str, first: date, last: date, now: datetime) -> list[MissingHours]:
    """Ended hours of each stream that are not there in full, as manifests tell; without one a file of any type does.

    Raises:
        ClientError: a manifest cannot be read.
    """
    wanted = [start for day in days(first, last) for start in _starts(day) if start + HOUR <= now]
    found = []
    for stream in sorted(path for path in (folder / DATASETS / feed).glob("*") if path.is_dir()):
        slots: dict[datetime, int] = {}
        for day in days(first, last):
            slots |= _slots(folder, stream / day.isoformat(), day)
        by_state = {
            "missing": tuple(start for start in wanted if start not in slots),
            "partial": tuple(start for start in wanted if slots.get(start, _SLOTS) < _SLOTS),
        }
        found += [MissingHours(feed, stream.name, state, hours) for state, hours in by_state.items() if hours]
    return found


def answered_missing(feed: str, told: Iterable[Mapping[str, Any]]) -> list[MissingHours]:
    """The member `missing` of a download answer, by stream and state.

    Raises:
        ClientError: it is not what the API should send.
    """
    found: dict[tuple[str, str], set[datetime]] = {}
    try:
        for one in told:
            start = _start(date.fromisoformat(one["date"]), one["hour"])
            found.setdefault((str(one["stream"]), str(one["state"])), set()).add(start)
    except (KeyError, TypeError, ValueError) as error:
        raise ClientError(f"the API told of missing hours in a way that this client does not know: {error!r}") from None
    return [MissingHours(feed, *names, tuple(sorted(hours))) for names, hours in sorted(found.items())]


def not_allowed(feed: str, cut: Sequence[date]) -> list[MissingHours]:
    """Days that the key does not reach, as missing hours."""
    hours = tuple(start for day in cut for start in _starts(day))
    return [MissingHours(feed, "*", "not_allowed", hours)] if hours else []


def days(first: date, last: date) -> list[date]:
    """Both ends included."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def spans(first: date, last: date, most_days: int) -> Iterator[tuple[date, date]]:
    """The range in parts of at most so many days."""
    every = days(first, last)
    for start in range(0, len(every), most_days):
        part = every[start : start + most_days]
        yield part[0], part[-1]


def _starts(day: date) -> list[datetime]:
    return [_start(day, f"{hour:02d}00") for hour in range(24)]


def _start(day: date, hour: str) -> datetime:
    return datetime(day.year, day.month, day.day, int(hour[:2]), tzinfo=UTC)


def _slots(folder: Path, day_folder: Path, day: date) -> dict[datetime, int]:
    """Start of each hour that is there -> how many of its four quarters, as far as that is known."""
    found = {}
    for path in day_folder.glob("*.parquet"):
        with contextlib.suppress(IntegrityError):  # another file than a dataset
            found[split_path(path.relative_to(folder).as_posix()).hour] = _SLOTS
    manifest = day_folder / MANIFEST
    if manifest.is_file():
        try:
            for hour, stats in json.loads(manifest.read_bytes())["hours"].items():
                found[_start(day, hour)] = len({name[:4] for name in stats["sources"]})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ClientError(f"{manifest}: not a manifest: {error!r}") from None
    return found
