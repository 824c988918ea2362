"""`ssmd.Client`: captured market data of an ssmd installation, over its API."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ssmd import _download, _scan
from ssmd._http import Http, Row, rows_of
from ssmd._listing import Lister, tell
from ssmd.errors import ClientError
from ssmd.files import File

if TYPE_CHECKING:
    import polars as pl

DEFAULT_URL = "http://127.0.0.1:8080"
_MAX_COVERAGE_DAYS = 31
_PAGE = 1000
_LOOKUP_IDS = 100
_PARALLEL = 8


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
        self._lister = Lister(self._http, self._url)

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
        return rows_of(self._http.json("/v1/data/feeds", {}), "feeds")

    def freshness(self, feed: str | None = None) -> list[Row]:
        """The age of each feed's newest hour.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        return rows_of(self._http.json("/v1/data/freshness", {"feed": feed}), "feeds")

    def coverage(self, feed: str, first: date | str, last: date | str) -> list[Row]:
        """What there is of every hour: a row for each with `stream`, `date`, `hour`, `word`, `state`, `records`, …

        `word` is `complete`, `degraded`, `empty` or `missing`; None for an hour that is not proved.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        found = []
        for part_first, part_last in _scan.spans(_day(first), _day(last), _MAX_COVERAGE_DAYS):
            asked = {"feed": feed, "from": part_first, "to": part_last}
            for one in rows_of(self._http.json("/v1/data/coverage", asked), "feeds"):
                for stream in rows_of(one, "streams"):
                    for day in rows_of(stream, "days"):
                        where = {"feed": one.get("feed"), "stream": stream.get("stream"), "date": day.get("date")}
                        found += [where | hour for hour in rows_of(day, "hours")]
        return found

    def proved_hours(
        self, feed: str, first: date | str, last: date | str, *, word: str | None = None, limit: int = 1000
    ) -> list[Row]:
        """Hours with a ledger, the newest first: `hour`, `word`, `reasons`, `totals`, and their place in the chain.

        Args:
            word: only hours of this word: `complete`, `degraded` or `empty`.
            limit: at most so many, over as many pages as it takes.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        asked = {"feed": feed, "from": _day(first), "to": _day(last), "word": word}
        return self._pages("/v1/proof/hours", asked, "hours", limit)

    def ledger(self, feed: str, hour: datetime, *, stream: str | None = None) -> Row:
        """An hour's ledger as it was signed (`ledger`), and its entry in the chain (`chain`).

        Args:
            hour: any moment of it; without a time zone it is UTC.

        Raises:
            ApiError: the API refused (status 404: the hour is not proved), or cannot be reached.
        """
        at = _utc(hour)
        asked = {"feed": feed, "date": at.date(), "hour": f"{at:%H}00", "stream": stream}
        return self._http.json("/v1/proof/ledger", asked)

    def book(
        self, feed: str, instrument: str, at: datetime | str, *, stream: str | None = None, untrusted: bool = False
    ) -> Row:
        """The full-depth order book of an instrument after the last message received at or before a moment.

        Args:
            at: without a time zone it is UTC.
            untrusted: also where it must not be trusted; `doubts` then say why.

        Raises:
            ApiError: the API refused (status 404: there is none; 409: it must not be trusted), or cannot be reached.
        """
        moment = _utc(at) if isinstance(at, datetime) else at
        asked = {"feed": feed, "instrument": instrument, "at": moment, "stream": stream}
        return self._http.json("/v1/proof/book", asked | ({"untrusted": "true"} if untrusted else {}))

    def reports(self, first: date | str, last: date | str, *, kind: str | None = None, limit: int = 100) -> list[Row]:
        """Diagnosis and volume reports, the newest day first; for keys that reach every feed.

        Args:
            kind: `diagnosis` or `volume`.
            limit: at most so many, over as many pages as it takes.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        asked = {"kind": kind, "from": _day(first), "to": _day(last)}
        return self._pages("/v1/reports", asked, "reports", limit)

    def trades(self, feed: str, day: date | str | None = None, *, limit: int = 20) -> list[Row]:
        """Trades of a day (today if not given) summed up by instrument, the most traded first.

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        return rows_of(self._http.json("/v1/data/trades", {"feed": feed, "date": day, "limit": limit}), "trades")

    def markets(self, *, as_of: datetime | str | None = None, limit: int = 1000, **filters: Any) -> list[Row]:
        """Kalshi markets as they were known at a moment, now if not given.

        Args:
            limit: at most so many, over as many pages as it takes.
            filters: of `GET /v1/markets`: `category`, `status`, `series`, `event`, …

        Raises:
            ApiError: the API refused, or cannot be reached.
        """
        return self._pages("/v1/markets", {**filters, "as_of": as_of, "order": "key"}, "markets", limit)

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
            found += rows_of(
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
        return self._lister.listed(feed, _day(first), _day(last), type, kind, strict=strict).files

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
        found = self._lister.listed(feed, begin, end, type, kind, strict=strict)
        renew = partial(self._lister.renewed, kind, min(found.days, default=begin))
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
            tell(_scan.local_missing(Path(local), feed, begin, end, datetime.now(UTC)), strict)
            sources = [str(path) for path in _scan.local_files(Path(local), feed, type, begin, end)]
        elif cache is not None:
            sources = [str(path) for path in self.download(feed, type, first, last, to=cache, strict=strict)]
        else:
            sources = [file.url for file in self.files(feed, begin, end, type, strict=strict)]
        if not sources:
            where = "" if local is None else f" in {Path(local) / _scan.DATASETS / feed}"
            raise ClientError(f"there is no file of {feed} {type} from {begin} to {end}{where}")
        return _scan.scan(sources)

    def _pages(self, path: str, asked: Row, name: str, limit: int) -> list[Row]:
        """At most `limit` rows of a list, over as many pages as it takes."""
        found: list[Row] = []
        cursor: str | None = None
        while len(found) < limit:
            answer = self._http.json(path, {**asked, "cursor": cursor, "limit": min(_PAGE, limit - len(found))})
            rows = rows_of(answer, name)
            found += rows
            cursor = answer.get("nextCursor")
            if not cursor or not rows:
                break
        return found[:limit]


def _utc(given: datetime) -> datetime:
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)


def _day(given: date | str) -> date:
    if isinstance(given, datetime):
        raise TypeError(f"a day is wanted, not a moment: {given}")
    return given if isinstance(given, date) else date.fromisoformat(given)
