"""Root fields of captured data: feeds, files with their hashes, coverage, quality, signed URLs."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Any

import graphene

from ssmd_api.auth.access import Scope
from ssmd_api.auth.audit import record
from ssmd_api.data import holdings
from ssmd_api.errors import InvalidRequestError
from ssmd_api.files import listing
from ssmd_api.files.answers import Download, FeedEntry, MissingHour, Offer
from ssmd_api.files.download import download
from ssmd_api.graphql import scalars
from ssmd_api.graphql.cursors import Connection, check_first
from ssmd_api.graphql.fields import RootField
from ssmd_api.graphql.structs import struct_type
from ssmd_api.graphql.types import choice_of, connection_of, list_of, object_type, paging
from ssmd_api.rest.files import DownloadQuery, base_url
from ssmd_api.routing import Call, DayRule, FeedRule
from ssmd_api.secmaster.cursors import encode_cursor
from ssmd_api.secmaster.quality import daily_scores
from ssmd_core.feeds import FEEDS as REGISTRY
from ssmd_core.storage.layout import Kind

_TEXT = graphene.String
_MAX_HOURS = 12
_KINDS = {"parquet": Kind.PARQUET, "raw": Kind.RAW}


def _span(*, required: bool) -> dict[str, Any]:
    return {
        "from_": graphene.Argument(scalars.DATE, name="from", required=required, description="First day, UTC."),
        "to": graphene.Argument(scalars.DATE, required=required, description="Last day, UTC."),
    }


def _files_arguments() -> dict[str, Any]:
    return {
        "feed": graphene.Argument(_TEXT, required=True),
        **_span(required=True),
        "type": graphene.Argument(_TEXT, description="Message type; default all."),
        "stream": graphene.Argument(_TEXT, description="Default all of the feed's."),
        "kind": graphene.Argument(KIND, required=True, default_value=FileKind.PARQUET),
    }


async def _feeds(call: Call) -> Any:
    principal = call.principal
    files = call.services.files.offered
    return (await listing.feeds(files, call.feeds, principal.first_day, principal.last_day)).feeds


def _checked(call: Call) -> DownloadQuery:
    """What REST checks of the same question."""
    query = call.query
    return DownloadQuery(
        feed=query.feed, from_=query.from_, to=query.to, type=query.type, stream=query.stream, kind=query.kind.value
    )


async def _datasets(call: Call) -> Any:
    query = _checked(call)
    files, missing = await listing.files(
        call.services.files.offered, REGISTRY[query.feed], call.first_day, call.last_day, call.services.now,
        kind=_KINDS[query.kind], message_type=query.type, stream=query.stream,
    )  # fmt: skip
    await record(call, query.feed, message_type=query.type, files=len(files))
    return {"files": files, "missing": missing}


async def _signed_urls(call: Call) -> Any:
    query, hours = _checked(call), call.query.expires_in_hours
    if not 1 <= hours <= _MAX_HOURS:
        raise InvalidRequestError(f"expiresInHours: {hours} is not between 1 and {_MAX_HOURS}", field="expiresInHours")
    answer = await download(
        call.services, call.principal, query.feed, call.first_day, call.last_day, kind=_KINDS[query.kind],
        message_type=query.type, stream=query.stream, life=timedelta(hours=hours), base_url=base_url(call),
    )  # fmt: skip
    await record(call, query.feed, message_type=query.type, files=len(answer.files))
    return answer


async def _coverage(call: Call) -> Any:
    reach = (call.principal.first_day, call.principal.last_day)
    first, last = holdings.recent_days(call.query.from_, call.query.to, reach, call.services.now.date())
    feeds = [await holdings.coverage(call.services, feed, first, last) for feed in call.feeds]
    return holdings.CoverageAnswer(first, last, feeds)


async def _quality(call: Call) -> Any:
    query, question = call.query, ("scores", sorted(call.feeds), call.first_day, call.last_day)
    rows, following = await daily_scores(
        call.services, call.feeds, call.first_day, call.last_day, limit=check_first(query.first), cursor=query.after
    )
    return Connection(
        rows, following is not None, query.after is not None,
        lambda row: encode_cursor(question, (row["date"], row["feed"])),
    )  # fmt: skip


class FileKind(StrEnum):
    """Datasets, or the archive's own files."""

    PARQUET = "parquet"
    RAW = "raw"


KIND = choice_of(FileKind, "FileKind")
MISSING = struct_type(MissingHour, "MissingHour", "An hour that is not there, or not in full.")
OFFER = struct_type(
    Offer, "DatasetFile", "A file that can be downloaded.", without=frozenset({"signed_url", "expires_at"})
)
struct_type(Offer, "SignedFile", "A file with a URL that needs no key until it expires.")
struct_type(holdings.HourAnswer, "HourCoverage", "What there is of an hour: archived, built, rejected, missing.")
struct_type(holdings.CoverageDay, "DayCoverage", "A day of a stream: all 24 hours.")
struct_type(holdings.CoverageStream, "StreamCoverage", "The days of a stream.")
struct_type(holdings.FeedCoverage, "FeedCoverage", "The streams of a feed.")
DATASETS = object_type("Datasets", "Files between days, and the hours that are missing.", {
    "files": graphene.Field(list_of(OFFER), required=True),
    "missing": graphene.Field(list_of(MISSING), required=True),
})  # fmt: skip
SCORE = object_type("QualityScore", "How good the captured data of a day is.", {
    "date": graphene.Field(scalars.DATE, required=True),
    "feed": graphene.Field(_TEXT, required=True),
    "score": graphene.Field(graphene.Float, required=True),
    "composite_score": graphene.Field(graphene.Float),
    "grade": graphene.Field(_TEXT, required=True, description="A to F, of the feed's own score."),
    "gap_count": graphene.Field(graphene.Int),
    "coverage_pct": graphene.Field(graphene.Float),
    "expected_messages": graphene.Field(scalars.LONG),
    "actual_messages": graphene.Field(scalars.LONG),
    "details": graphene.Field(scalars.JSON),
})  # fmt: skip


FIELDS: dict[str, RootField] = {
    "feeds": RootField(
        gives=list_of(struct_type(FeedEntry, "FeedStream", "A stream of a feed, and what there is of it.")),
        arguments={"feed": graphene.Argument(_TEXT)},
        scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM,
        days=None,
        about="The feeds that the key reaches, by their streams, with the days of which there are datasets.",
        resolve=_feeds,
    ),
    "datasets": RootField(
        gives=DATASETS,
        arguments=_files_arguments(),
        scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM,
        days=DayRule.CLAMP,
        about="Files of up to seven days with their hashes, and the hours that are missing.",
        resolve=_datasets,
    ),
    "signedUrls": RootField(
        gives=struct_type(Download, "SignedUrls", "Files with URLs that need no key."),
        arguments=_files_arguments()
        | {"expires_in_hours": graphene.Argument(graphene.Int, required=True, default_value=_MAX_HOURS)},
        scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM,
        days=DayRule.CLAMP,
        about="Files of up to seven days with signed URLs; each time it is written down who got them.",
        resolve=_signed_urls,
    ),
    "coverage": RootField(
        gives=struct_type(holdings.CoverageAnswer, "Coverage", "What is there of each hour."),
        arguments={"feed": graphene.Argument(_TEXT)} | _span(required=False),
        scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM,
        days=DayRule.SPAN,
        about="What is there of each hour of up to 31 days; default is the last week.",
        resolve=_coverage,
    ),
    "quality": RootField(
        gives=connection_of(SCORE),
        arguments={"feed": graphene.Argument(_TEXT)} | _span(required=False) | paging(),
        scope=Scope.SECMASTER_READ,
        feeds=FeedRule.PARAM,
        days=DayRule.SPAN,
        about="Quality scores of days, the newest first.",
        resolve=_quality,
    ),
}
