"""`ssmd.Client`: captured market data of an ssmd installation, over its API."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmd import _download, _scan
from ssmd._http import Http
from ssmd.errors import ApiError, ClientError, IntegrityError, MissingHours, MissingHoursError, MissingHoursWarning
from ssmd.files import CHAIN, KINDS, PROOF_TYPES, File

if TYPE_CHECKING:
    import polars as pl

DEFAULT_URL = "http://127.0.0.1:8080"
_MAX_SPAN_DAYS = 7
_MAX_COVERAGE_DAYS = 31
_PAGE = 1000
_LOOKUP_IDS = 100
_PARALLEL = 8

Row = dict[str, Any]


class Client:
    """Lists, downloads and reads captured market data.

    Days are UTC, and both ends of a range belong to it. Rows are as the API gives them: decimals as text so that no
    digit is lost, times in ISO 8601.

    Requests that fail for a passing reason (429, 500, 502, 503, a lost connection) are made again, up to five times.

    Args:
        url: base URL of the API; `SSMD_API_URL`, else http://127.0.0.1:8080.
        key: API key; `SSMD_API_KEY`.
    """

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        self._url = (url or os.environ.get("SSMD_API_URL") or DEFAULT_URL).rstrip("/")
        if not self._url.startswith(("http://", "https://")):
            raise ValueError(f"{self._url!r} is not of the form https://host[:port]")
        text = (key or os.environ.get("SSMD_API_KEY") or "").strip()
        if not text.isascii() or not text.isprintable():
            raise ValueError("the key has characters that no key has")
        self._http = Http(self._url, text)

    def __enter__(self) -> Client:
        """Itself; connections are closed at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def feeds(self) -> list[Row]:
        """The feeds that the key reaches, with their message types and days.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        return _rows(self._http.json("/v1/data/feeds", {}), "feeds")

    def freshness(self, feed: str | None = None) -> list[Row]:
        """The age of each feed's newest hour.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        return _rows(self._http.json("/v1/data/freshness", {"feed": feed}), "feeds")

    def coverage(self, feed: str, first: date | str, last: date | str) -> list[Row]:
        """The state of every hour: a row for each with `stream`, `date`, `hour`, `state`, `hasDataset`, `records`, …

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        found = []
        for part_first, part_last in _scan.spans(_day(first), _day(last), _MAX_COVERAGE_DAYS):
            asked = {"feed": feed, "from": part_first, "to": part_last}
            for one in _rows(self._http.json("/v1/data/coverage", asked), "feeds"):
                for stream in _rows(one, "streams"):
                    for day in _rows(stream, "days"):
                        where = {"feed": one.get("feed"), "stream": stream.get("stream"), "date": day.get("date")}
                        found += [where | hour for hour in _rows(day, "hours")]
        return found

    def trades(self, feed: str, day: date | str | None = None, *, limit: int = 20) -> list[Row]:
        """Trades of a day (today if not given) summed up by instrument, the most traded first.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        return _rows(self._http.json("/v1/data/trades", {"feed": feed, "date": day, "limit": limit}), "trades")

    def markets(self, *, as_of: datetime | str | None = None, limit: int = 1000, **filters: Any) -> list[Row]:
        """Kalshi markets as they were known at a moment, now if not given.

        Args:
            limit: at most so many, over as many pages as it takes.
            filters: of `GET /v1/markets`: `category`, `status`, `series`, `event`, …

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        found: list[Row] = []
        cursor: str | None = None
        while len(found) < limit:
            page = {
                **filters,
                "as_of": as_of,
                "cursor": cursor,
                "limit": min(_PAGE, limit - len(found)),
                "order": "key",
            }
            answer = self._http.json("/v1/markets", page)
            rows = _rows(answer, "markets")
            found += rows
            cursor = answer.get("nextCursor")
            if not cursor or not rows:
                break
        return found[:limit]

    def lookup(self, ids: Sequence[str], feed: str | None = None, *, as_of: datetime | str | None = None) -> list[Row]:
        """Markets, pairs, conditions and tokens by their ids; unknown ones are left out.

        Args:
            as_of: as they were known at this moment, now if not given.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        found: list[Row] = []
        for start in range(0, len(ids), _LOOKUP_IDS):
            part = ids[start : start + _LOOKUP_IDS]
            found += _rows(
                self._http.json("/v1/markets/lookup", {"ids": part, "feed": feed, "as_of": as_of}), "markets"
            )
        return found

    def files(
        self,
        feed: str,
        first: date | str,
        last: date | str,
        type: str | None = None,
        *,
        kind: str = "parquet",
        strict: bool = False,
    ) -> list[File]:
        """Files of a feed with signed URLs, by path; of all message types if none is given.

        Args:
            kind: `parquet`; `proof` for the hours' ledgers with what they name, and the whole chain of each stream;
                `backfill` for trades that were fetched afterwards.
            strict: raise where hours are missing; otherwise warn.

        Raises:
            ApiError: the API refused, or cannot be reached.
            IntegrityError: the API names a path that is none of this kind.
            MissingHoursError: hours are missing, and `strict`.
        """
        return self._listed(feed, _day(first), _day(last), type, kind, strict=strict).files

    def _listed(self, feed: str, begin: date, end: date, type: str | None, kind: str, *, strict: bool) -> _Listing:
        """The files of a range of any length, in order."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        if begin > end:
            raise ValueError(f"{begin} is after {end}")
        found = _Listing()
        refused = None
        for part_first, part_last in _scan.spans(begin, end, _MAX_SPAN_DAYS):
            try:
                self._list(found, _Asked(feed, part_first, part_last, type, kind))
            except ApiError as error:
                # The key reaches no day of this part; where it reaches some, the API cuts off the others.
                if error.status != 403 or error.field != "from":
                    raise
                refused = error
        if refused is not None and not found.days:
            raise refused
        missing = _scan.answered_missing(feed, found.missing)
        _tell(
            _scan.not_allowed(feed, [day for day in _scan.days(begin, end) if day not in found.days]) + missing, strict
        )
        # Every part of the range names the chain.
        found.files = sorted({file.path: file for file in found.files}.values(), key=lambda file: file.path)
        return found

    def download(
        self,
        feed: str,
        type: str | None,
        first: date | str,
        last: date | str,
        *,
        to: Path | str,
        kind: str = "parquet",
        strict: bool = False,
        parallel: int = _PARALLEL,
    ) -> list[Path]:
        """Download files into a folder, as `{to}/datasets/{feed}/{stream}/{YYYY-MM-DD}/{type}_{HH}00.parquet`.

        What is there with the right hash is not fetched again; what broke off is continued where it broke off. A file
        has its name only once its size and SHA-256 are right. With datasets and `kind="proof"` in one folder, `ssmd
        verify FOLDER` compares them.

        Args:
            type: message type; None for all.
            kind: see `files`; of a proof, `{to}/proof/…`. A chain that is there is only replaced by one that goes on
                where it ends.
            strict: raise where hours are missing, before anything is fetched; otherwise warn.
            parallel: connections at a time.

        Raises:
            ApiError: the API or the store refused, or cannot be reached.
            IntegrityError: a file is not what the API says it is.
            MissingHoursError: hours are missing, and `strict`.
        """
        begin, end = _day(first), _day(last)
        found = self._listed(feed, begin, end, type, kind, strict=strict)
        renew = partial(self._renewed, kind, min(found.days, default=begin))
        return _download.download(found.files, Path(to), renew, parallel=parallel)

    def scan(
        self,
        feed: str,
        type: str,
        first: date | str,
        last: date | str,
        *,
        local: Path | str | None = None,
        cache: Path | str | None = None,
        strict: bool = False,
    ) -> pl.LazyFrame:
        """A range of days of one message type as a polars LazyFrame, in the order of streams and hours.

        Without `local` and `cache` it reads over signed URLs, only the columns and row groups that the query needs.
        These URLs are good for 12 hours, and their bytes are not compared with hashes: download what you keep.

        Args:
            local: data folder of an ssmd installation, or a folder of `download`; the API is not asked.
            cache: download into this folder first, and read from there.
            strict: raise where hours are missing; otherwise warn.

        Raises:
            ApiError: the API or the store refused, or cannot be reached.
            IntegrityError: a file is not what the API says it is.
            MissingHoursError: hours are missing, and `strict`.
            ClientError: there is no file at all.
        """
        begin, end = _day(first), _day(last)
        if local is not None:
            _tell(_scan.local_missing(Path(local), feed, begin, end, datetime.now(UTC)), strict)
            sources = [str(path) for path in _scan.local_files(Path(local), feed, type, begin, end)]
        elif cache is not None:
            sources = [str(path) for path in self.download(feed, type, first, last, to=cache, strict=strict)]
        else:
            sources = [file.url for file in self.files(feed, begin, end, type, strict=strict)]
        if not sources:
            where = "" if local is None else f" in {Path(local) / _scan.DATASETS / feed}"
            raise ClientError(f"there is no file of {feed} {type} from {begin} to {end}{where}")
        return _scan.scan(sources)

    def _list(self, found: _Listing, asked: _Asked) -> None:
        """Files of at most a week, asked for in as many parts as the API's limit of files makes necessary."""
        feed, first, last, type, kind = asked
        query = {"feed": feed, "from": first, "to": last, "type": type, "kind": None if kind == "parquet" else kind}
        try:
            answer = self._http.json("/v1/data/download", query)
        except ApiError as error:
            if error.status != 400 or error.field != "from":
                raise
            if first < last:
                middle = first + (last - first) // 2
                self._list(found, asked._replace(last=middle))
                self._list(found, asked._replace(first=middle + timedelta(days=1)))
            elif type is None:
                types = {name for row in self.feeds() if row.get("name") == feed for name in row["messageTypes"]}
                for name in PROOF_TYPES if kind == "proof" else sorted(types):
                    self._list(found, asked._replace(type=name))
            else:
                raise
            return
        files = [File.parse(told, self._url) for told in _rows(answer, "files")]
        for file in files:
            right = file.feed == feed and type in {None, file.type} and file.path.startswith(f"{KINDS[kind]}/")
            if not right or not (first <= file.hour.date() <= last or file.type == CHAIN):
                raise IntegrityError(f"{file.path} was not asked for")
        found.files += files
        found.missing += _rows(answer, "missing")
        try:
            begin, end = date.fromisoformat(str(answer.get("from"))), date.fromisoformat(str(answer.get("to")))
        except ValueError:
            raise ApiError("the answer does not say which days it is about", code="bad_answer") from None
        found.days.update(_scan.days(max(first, begin), min(last, end)))

    def _renewed(self, kind: str, reached: date, file: File) -> File:
        """The file as it is now, with a fresh URL; a chain is given with any day that the key reaches."""
        day, found = reached if file.type == CHAIN else file.hour.date(), _Listing()
        self._list(found, _Asked(file.feed, day, day, file.type, kind))
        for one in found.files:
            if one.path == file.path:
                return one
        raise ClientError(f"{file.path} is no longer there")


class _Asked(NamedTuple):
    """A question for files."""

    feed: str
    first: date
    last: date
    type: str | None
    kind: str


@dataclass(slots=True)
class _Listing:
    """What several answers tell together.

    Attributes:
        days: that they are about: the API cuts off those that the key does not reach.
    """

    files: list[File] = field(default_factory=list)
    missing: list[Row] = field(default_factory=list)
    days: set[date] = field(default_factory=set)


def _tell(missing: Sequence[MissingHours], strict: bool) -> None:
    if missing and strict:
        raise MissingHoursError(missing)
    if missing:
        # Shown at the caller's line, however deep in here it is raised.
        depth = 1
        while sys._getframe(depth).f_globals.get("__package__") == __package__:
            depth += 1
        warnings.warn(MissingHoursWarning(missing), stacklevel=depth + 1)


def _day(given: date | str) -> date:
    if isinstance(given, datetime):
        raise TypeError(f"a day is wanted, not a moment: {given}")
    return given if isinstance(given, date) else date.fromisoformat(given)


def _rows(answer: Row, name: str) -> list[Row]:
    """A list of objects in an answer."""
    found = answer.get(name)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ApiError(f"the answer has no list {name!r}", code="bad_answer")
    return found
