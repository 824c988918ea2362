"""`/v1/data/feeds`, `/v1/data/catalog`, `/v1/data/download`, `/datasets`, `/v1/files`."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any, Literal

import msgspec
from starlette.responses import RedirectResponse

from ssmd_api.auth.access import Scope
from ssmd_api.auth.audit import record
from ssmd_api.errors import InvalidRequestError
from ssmd_api.files import listing
from ssmd_api.files.answers import CatalogAnswer, Download, FeedList
from ssmd_api.files.download import KINDS, download
from ssmd_api.files.serving import SignedQuery
from ssmd_api.params import shown
from ssmd_api.routing import Call, DayRule, FeedRule, Route
from ssmd_core.feeds import FEEDS

MAX_DAYS = 7
# Until the first byte: the file is read through before, once for each of its states.
_FILE_TIMEOUT_S = 120.0
_HOURS = re.compile(r"([1-9]|1[0-2])h\Z")


class FeedsQuery(msgspec.Struct):
    """Which feed; default all."""

    feed: str | None = None


class CatalogQuery(msgspec.Struct):
    """Which days of which feed; without a feed an overview."""

    feed: str | None = None
    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None


class DownloadQuery(msgspec.Struct, kw_only=True):
    """Which files.

    Attributes:
        feed: one feed.
        to: last day, UTC, inclusive; seven days at most.
        kind: `raw` for the archive's own files, `proof` for ledgers, what they name and the chain, `backfill` for
            trades that were fetched afterwards.
        expires: how long the URLs hold, `1h` to `12h`.
    """

    feed: str
    from_: date = msgspec.field(name="from")
    to: date
    type: str | None = None
    stream: str | None = None
    kind: Literal["parquet", "raw", "proof", "backfill"] = "parquet"
    expires: str = "12h"

    def __post_init__(self) -> None:
        # What is wrong in itself is said before what the key does not reach.
        if self.feed not in FEEDS:
            raise InvalidRequestError(f"feed: {shown(self.feed)} is none of {', '.join(FEEDS)}", field="feed")
        if self.from_ > self.to:
            raise InvalidRequestError(f"from: {self.from_} is after to: {self.to}", field="from")
        if (days := (self.to - self.from_).days + 1) > MAX_DAYS:
            raise InvalidRequestError(f"to: {days} days, {MAX_DAYS} is the most for one answer", field="to")


async def _feeds(call: Call) -> Any:
    principal = call.principal
    holdings = call.services.files.offered
    return await listing.feeds(holdings, call.feeds, principal.first_day, principal.last_day)


async def _catalog(call: Call) -> Any:
    holdings = call.services.files.offered
    if call.query.feed is None:
        return await listing.overview(holdings, call.feeds, call.first_day, call.last_day)
    return await listing.feed_catalog(holdings, call.query.feed, call.first_day, call.last_day)


async def _download(call: Call) -> Any:
    query: DownloadQuery = call.query
    hours = _HOURS.match(query.expires)
    if hours is None:
        raise InvalidRequestError(f"expires: {shown(query.expires)} is not 1h to 12h", field="expires")
    answer = await download(
        call.services,
        call.principal,
        query.feed,
        call.first_day,
        call.last_day,
        kind=KINDS[query.kind],
        message_type=query.type,
        stream=query.stream,
        life=timedelta(hours=int(hours[1])),
        base_url=base_url(call),
    )
    await record(call, query.feed, message_type=query.type, files=len(answer.files))
    return answer


def base_url(call: Call) -> str:
    """How clients reach this API: as it is configured, else as this one did."""
    return call.services.settings.public_url or f"{call.request.url.scheme}://{call.request.url.netloc}"


async def _old_catalog(call: Call) -> Any:
    query = call.request.url.query
    return RedirectResponse(f"/v1/data/catalog?{query}" if query else "/v1/data/catalog", 301)


async def _file(call: Call) -> Any:
    return await call.services.files.server.serve(call, call.query)


def _data(path: str, handler: Any, summary: str, **more: Any) -> Route:
    return Route(
        method="GET", path=path, handler=handler, summary=summary, tag="data", scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM, **more,
    )  # fmt: skip


ROUTES = (
    _data(
        "/v1/data/feeds",
        _feeds,
        "Feeds that the key reaches, and what there is of them.",
        query=FeedsQuery,
        answer=FeedList,
    ),
    _data(
        "/v1/data/catalog",
        _catalog,
        "Days with datasets: an overview, or those of one feed.",
        days=DayRule.CLAMP,
        query=CatalogQuery,
        answer=CatalogAnswer,
    ),
    _data(
        "/v1/data/download",
        _download,
        "Signed URLs of files, and the hours that are missing.",
        days=DayRule.CLAMP,
        query=DownloadQuery,
        answer=Download,
    ),
    Route(
        method="GET",
        path="/datasets",
        handler=_old_catalog,
        summary="Moved to /v1/data/catalog.",
        tag="data",
        scope=None,
        query=CatalogQuery,
        status=301,
    ),
    Route(
        method="GET",
        path="/v1/files/{path:path}",
        handler=_file,
        summary="A file, by a signed URL; no key is needed.",
        tag="data",
        scope=None,
        query=SignedQuery,
        answer={"type": "string", "format": "binary"},
        media_type="application/octet-stream",
        timeout_s=_FILE_TIMEOUT_S,
    ),
)
