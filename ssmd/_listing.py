"""Which files there are of a range of days, asked for in as many parts as the API's limits make necessary."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import NamedTuple

from ssmd import _scan
from ssmd._http import Http, Row, rows_of
from ssmd.errors import ApiError, ClientError, IntegrityError, MissingHours, MissingHoursError, MissingHoursWarning
from ssmd.files import CHAIN, KINDS, PROOF_TYPES, File

_MAX_SPAN_DAYS = 7


@dataclass(slots=True)
class Listing:
    """What several answers tell together.

    Attributes:
        days: that they are about: the API cuts off those that the key does not reach.
    """

    files: list[File] = field(default_factory=list)
    missing: list[Row] = field(default_factory=list)
    days: set[date] = field(default_factory=set)


class _Asked(NamedTuple):
    """A question for files."""

    feed: str
    first: date
    last: date
    type: str | None
    kind: str


class Lister:
    """Asks an API for files.

    Args:
        url: of the API, for signed URLs that name no host.
    """

    def __init__(self, http: Http, url: str) -> None:
        self._http, self._url = http, url

    def listed(self, feed: str, begin: date, end: date, type: str | None, kind: str, *, strict: bool) -> Listing:
        """The files of a range of any length, in order; see `Client.files`."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        if begin > end:
            raise ValueError(f"{begin} is after {end}")
        found = Listing()
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
        tell(
            _scan.not_allowed(feed, [day for day in _scan.days(begin, end) if day not in found.days]) + missing, strict
        )
        # Every part of the range names the chain.
        found.files = sorted({file.path: file for file in found.files}.values(), key=lambda file: file.path)
        return found

    def _list(self, found: Listing, asked: _Asked) -> None:
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
                types = {
                    name
                    for row in rows_of(self._http.json("/v1/data/feeds", {}), "feeds")
                    if row.get("name") == feed
                    for name in row["messageTypes"]
                }
                for name in PROOF_TYPES if kind == "proof" else sorted(types):
                    self._list(found, asked._replace(type=name))
            else:
                raise
            return
        files = [File.parse(told, self._url) for told in rows_of(answer, "files")]
        for file in files:
            right = file.feed == feed and type in {None, file.type} and file.path.startswith(f"{KINDS[kind]}/")
            if not right or not (first <= file.hour.date() <= last or file.type == CHAIN):
                raise IntegrityError(f"{file.path} was not asked for")
        found.files += files
        found.missing += rows_of(answer, "missing")
        try:
            begin, end = date.fromisoformat(str(answer.get("from"))), date.fromisoformat(str(answer.get("to")))
        except ValueError:
            raise ApiError("the answer does not say which days it is about", code="bad_answer") from None
        found.days.update(_scan.days(max(first, begin), min(last, end)))

    def renewed(self, kind: str, reached: date, file: File) -> File:
        """The file as it is now, with a fresh URL; a chain is given with any day that the key reaches."""
        day, found = reached if file.type == CHAIN else file.hour.date(), Listing()
        self._list(found, _Asked(file.feed, day, day, file.type, kind))
        for one in found.files:
            if one.path == file.path:
                return one
        raise ClientError(f"{file.path} is no longer there")


def tell(missing: Sequence[MissingHours], strict: bool) -> None:
    """Raise where hours are missing and all are wanted; else warn.

    Raises:
        MissingHoursError: hours are missing, and `strict`.
    """
    if missing and strict:
        raise MissingHoursError(missing)
    if missing:
        # Shown at the caller's line, however deep in here it is raised.
        depth = 1
        while sys._getframe(depth).f_globals.get("__package__") == __package__:
            depth += 1
        warnings.warn(MissingHoursWarning(missing), stacklevel=depth + 1)
