"""`/v1/status`: what every stream does now, once or as a stream of events."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from ssmd_api.auth.access import Scope
from ssmd_api.routing import Call, FeedRule, Route
from ssmd_api.services import Services
from ssmd_api.status.events import EventStream, LiveQuery, StatusQuery, watch
from ssmd_api.status.states import StreamStatus


class Links(msgspec.Struct, rename="camel"):
    """Other pages of this installation.

    Attributes:
        dagster: Dagster's web page; None if it is not configured.
    """

    dagster: str | None


class Status(msgspec.Struct, rename="camel"):
    """Every stream, now.

    Attributes:
        checked_at: when it was looked.
        streams: in the order of the registry of feeds.
        links: other pages of this installation.
    """

    checked_at: datetime
    streams: list[StreamStatus]
    links: Links


async def status(services: Services, feeds: Iterable[str]) -> Status:
    """What the feeds' streams do now."""
    streams = await services.board.look(feeds)
    return Status(services.board.checked_at, streams, Links(services.settings.dagster_url or None))


async def _status(call: Call) -> Any:
    call.principal.check_moment(call.services.now)
    return await status(call.services, call.feeds)


async def _live(call: Call) -> Any:
    services, principal = call.services, call.principal
    principal.check_moment(services.now)
    services.board.check_room(principal.key_prefix)
    return EventStream(watch(services, principal, call.request, call.feeds, call.query))


ROUTES = (
    Route(
        method="GET",
        path="/v1/status",
        handler=_status,
        summary="What every stream does now: state and why, rate, gaps, how far it is sealed and built.",
        tag="status",
        scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM,
        query=StatusQuery,
        answer=Status,
    ),
    Route(
        method="GET",
        path="/v1/status/live",
        handler=_live,
        summary="The same every second as server-sent events `status`, with events `prices` as prices change.",
        tag="status",
        scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM,
        query=LiveQuery,
        answer={"type": "string"},
        media_type="text/event-stream",
    ),
)
