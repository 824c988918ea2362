"""A route, and the one way in which every request is answered.

A `Route` says what a request needs (scope, feeds, days, parameters) and what it gets; authentication, limits, access,
checks, errors, metrics and the OpenAPI document all follow from that, so a handler cannot forget one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
import psycopg
import structlog
from psycopg_pool import PoolTimeout
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ssmd_api.auth.access import ANY_KEY, AnyKey, Principal, Scope
from ssmd_api.errors import (
    ApiError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    TookTooLongError,
    TooLargeError,
    UnavailableError,
)
from ssmd_api.jsons import encode
from ssmd_api.params import parse_body, parse_query, shown
from ssmd_api.services import Services
from ssmd_core.errors import ConfigError
from ssmd_core.feeds import FEEDS
from ssmd_core.secmaster.as_of import UnknownKeyError

log = structlog.get_logger()

MAX_BODY_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
TIMEOUT_S = 30.0
JSON = "application/json"


class FeedRule(StrEnum):
    """How a route's feeds are found, where it does not name them."""

    PARAM = "param"
    """The parameter `feed`; without it all that the key reaches."""


class DayRule(StrEnum):
    """Which days a request is about, for the key's range of days."""

    AS_OF = "as_of"
    """The parameter `as_of`; without it now."""
    AT = "at"
    """The parameter `at`, a moment."""
    DAY = "day"
    """The parameter `date`; without it today."""
    SPAN = "span"
    """The parameters `from` and `to`; days outside of the key's are refused, and a missing end is the key's own."""
    CLAMP = "clamp"
    """The parameters `from` and `to`, both given; days outside of the key's are cut off."""


@dataclass(slots=True)
class Call:
    """One request, checked.

    Attributes:
        principal: who asks; an open route has none.
        feeds: those that the request is about and the key reaches.
        first_day, last_day: that the request is about, where its route has a `DayRule`.
        moment: `as_of`, None for now.
        path: path parameters, decoded.
        query, body: of the types that the route names.
    """

    services: Services
    request: Request
    route: Route
    request_id: str
    found_principal: Principal | None = None
    feeds: tuple[str, ...] = ()
    first_day: date = date.min
    last_day: date = date.max
    moment: datetime | None = None
    path: Mapping[str, str] = field(default_factory=dict)
    query: Any = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def principal(self) -> Principal:
        """Who asks, on a route that needs a key."""
        assert self.found_principal is not None
        return self.found_principal


class NoQuery(msgspec.Struct):
    """A route without parameters."""


Handler = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a request needs and gets.

    Attributes:
        path: Starlette's pattern.
        handler: gives a JSON value, bytes of JSON, or a `Response`.
        summary: one sentence for the OpenAPI document.
        tag: group in that document.
        scope: None for an open route, `ANY_KEY` where a valid key is enough.
        feeds: names, of which the key must reach one; a rule; or None where nothing of a feed is told.
        days: None where nothing of a day is told.
        query, body: Structs; a route without a body ignores one.
        answer: JSON schema, or a Struct, of the body of a success.
        refusal: JSON schema of what the handler itself refuses with, where that is not the shape of `errors.py`.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    scope: Scope | AnyKey | None
    feeds: tuple[str, ...] | FeedRule | None = None
    days: DayRule | None = None
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    answer: Any = None
    refusal: Any = None
    status: int = 200
    media_type: str = JSON
    max_body_bytes: int = MAX_BODY_BYTES
    timeout_s: float = TIMEOUT_S


async def answer(route: Route, request: Request, services: Services) -> Response:
    """The answer to one request, whatever happens."""
    request_id: str = request.scope["state"]["request_id"]
    call = Call(services, request, route, request_id)
    began_s = time.perf_counter()
    services.metrics.in_flight.inc()
    try:
        response = await _answer(call)
    except ApiError as error:
        response = refusal(error, request_id)
    except (asyncio.CancelledError, ClientDisconnect):
        raise
    except Exception as error:
        response = refusal(as_api_error(error, call), request_id)
    finally:
        services.metrics.in_flight.dec()
    response.raw_headers += [(name.lower().encode(), value.encode()) for name, value in call.headers.items()]
    status, path = str(response.status_code), route.path
    services.metrics.requests.labels(request.method, path, status).inc()
    services.metrics.seconds.labels(request.method, path).observe(time.perf_counter() - began_s)
    if call.found_principal is not None:
        services.metrics.by_key.labels(call.found_principal.key_prefix).inc()
    return response


def refusal(error: ApiError, request_id: str) -> Response:
    """The error's answer."""
    body: dict[str, Any] = {"error": str(error), "code": error.code, "requestId": request_id}
    if error.field:
        body["field"] = error.field
    headers = {}
    if isinstance(error, RateLimitedError):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(encode(body), error.status, headers, JSON)


async def _answer(call: Call) -> Response:
    route, request, services = call.route, call.request, call.services
    limit = asyncio.timeout(route.timeout_s)
    try:
        async with limit:
            if route.scope is not None:
                await _admit(call, route.scope)
            call.path = _checked_path(request.path_params)
            call.query = parse_query(route.query, request.query_params.multi_items())
            if route.body is not None:
                call.body = parse_body(route.body, await read_body(request, route.max_body_bytes))
            if call.found_principal is not None:
                reach(call, call.found_principal, services.now)
            value = await route.handler(call)
    except TimeoutError:
        if limit.expired():
            raise TookTooLongError(f"no answer within {route.timeout_s:.0f} s; ask for less") from None
        raise
    if isinstance(value, Response):
        return value
    body = value if isinstance(value, bytes) else encode(value)
    if len(body) > MAX_ANSWER_BYTES:
        raise TooLargeError(f"the answer has {len(body)} bytes, {MAX_ANSWER_BYTES} is the most; ask for less")
    return Response(body, route.status, media_type=route.media_type)


async def _admit(call: Call, scope: Scope | AnyKey) -> None:
    """Who asks, how often, and whether that scope is theirs."""
    services, request = call.services, call.request
    address = request.client.host if request.client else ""
    call.found_principal = principal = await services.authenticator.principal(request.headers, address)
    request.scope["state"]["key_prefix"] = principal.key_prefix
    limit = await services.tiers.limit(principal.tier)
    allowance = await services.limiter.take(principal.key_prefix, limit)
    reset_ms = int(time.time() * 1000 + allowance.reset_s * 1000)
    call.headers |= {
        "X-RateLimit-Limit": str(allowance.limit),
        "X-RateLimit-Remaining": str(allowance.remaining),
        "X-RateLimit-Reset": str(reset_ms),
        # A cache on the way does not know that X-API-Key makes the difference.
        "Cache-Control": "no-store",
    }
    services.usage.request(principal.key_prefix, allowed=allowance.allowed)
    if not allowance.allowed:
        services.metrics.rate_limit_hits.labels(principal.key_prefix).inc()
        raise RateLimitedError(
            f"more than {limit} requests in 60 s; {allowance.reset_s:.0f} s to wait", retry_after_s=allowance.reset_s
        )
    if scope != ANY_KEY:
        principal.check_scope(scope)


def reach(call: Call, principal: Principal, now: datetime) -> None:
    """Set the call's feeds and days.

    Raises:
        ForbiddenError: the key does not reach them.
        InvalidRequestError: an unknown feed, days in the wrong order.
    """
    route, query = call.route, call.query
    known = tuple(FEEDS) if route.feeds is FeedRule.PARAM else route.feeds
    if known is not None:
        if (feed := getattr(query, "feed", None)) is None:
            call.feeds = principal.feeds_among(known)
        else:
            if feed not in known:
                raise InvalidRequestError(f"feed: {shown(feed)} is none of {', '.join(known)}", field="feed")
            principal.check_feed(feed)
            call.feeds = (feed,)
    if route.days is DayRule.AS_OF:
        call.moment = query.as_of
        principal.check_moment(query.as_of or now)
    elif route.days is DayRule.AT:
        principal.check_moment(query.at, field="at")
        call.first_day = call.last_day = query.at.astimezone(UTC).date()
    elif route.days is DayRule.DAY:
        call.first_day = call.last_day = day = query.date or now.date()
        principal.check_days(day, day)
    elif route.days is not None:
        if query.from_ and query.to and query.from_ > query.to:
            raise InvalidRequestError(f"from: {query.from_} is after to: {query.to}", field="from")
        # One end alone that is out of reach must not be told as the wrong order of two.
        first = query.from_ or min(principal.first_day, query.to or principal.first_day)
        last = query.to or max(principal.last_day, first)
        if route.days is DayRule.CLAMP:
            first, last = principal.clamp_days(first, last)
        else:
            principal.check_days(first, last, field="from")
        call.first_day, call.last_day = first, last


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body, refused as soon as it is known to be too large.

    Raises:
        TooLargeError: it is.
    """
    too_large = TooLargeError(f"the body has more than {max_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def _checked_path(parameters: Mapping[str, Any]) -> dict[str, str]:
    for name, text in parameters.items():
        if any(c < " " or "\ud800" <= c <= "\udfff" for c in text):
            raise NotFoundError(f"no such {name}")
    return dict(parameters)


def as_api_error(error: Exception, call: Call) -> ApiError:
    """What a request is told of an error that its handler did not expect."""
    if isinstance(error, UnknownKeyError):
        return NotFoundError(str(error))
    if isinstance(error, ConfigError):
        return InvalidRequestError(str(error))
    if isinstance(error, psycopg.errors.QueryCanceled):
        return TookTooLongError("the database took too long; ask for less")
    if isinstance(error, (psycopg.OperationalError, PoolTimeout)):
        log.warning("database_away", error=str(error).strip(), request_id=call.request_id)
        return UnavailableError("the database cannot be reached now")
    log.error("request_failed", path=call.route.path, request_id=call.request_id, exc_info=error)
    return ApiError("something went wrong here; the request id finds it in the log")


def days_between(first: date, last: date) -> list[date]:
    """All days from first to last."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
