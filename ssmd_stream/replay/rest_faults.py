"""Faults on demand of a venue's REST interface, shared by all venues' applications.

For a test::

    faults = RestFaults(RestFault("status", "/markets", at=2, count=3, status=503), rate_per_s=20)
    async with ReplayServer(feed, Generated(), rest_faults=faults) as server:
        ...
    assert faults.struck and len(faults.requests) == 9

For a venue's application (`ssmd_stream.replay.venues_rest`): faults of the answer as a whole come from
`RestFaults.middleware`, which every application gets in `rest_app`, and need nothing. Faults of a listing
(`shift`, `repeat`, `end_early`, `endless`) work where the venue cuts its pages with `page` instead of slicing by
itself::

    found = [...]                                         # what the request's filters leave, in the venue's order
    items, next_start = page(request, found, start, limit)
    return json_response({"markets": items, "cursor": cursor_of(next_start)})   # next_start None: the last page

where `start` is what the venue's own cursor or offset says. A listing by bare offsets ignores `next_start`; there
`endless` repeats the listing for ever and `end_early` answers an empty page.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

T = TypeVar("T")

AnswerFaultKind = Literal["status", "slow", "html", "error_inside", "truncate", "body", "reset"]
ListingFaultKind = Literal["shift", "repeat", "end_early", "endless", "forget"]

_HTML = b"<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"
TOO_MANY = b'{"error":"too many requests"}'


@dataclass(frozen=True, slots=True)
class RestFault:
    """One fault.

    Attributes:
        kind: of an answer: `status` (with `retry_after`), `slow` (after `delay_s`), `html` (a proxy's page with
            status 200), `error_inside` (200 with an `error` member), `truncate` (half of the body, then the
            connection ends), `body` (200 with exactly `body`), `reset` (the connection ends without an answer).
            Of a listing: `shift` (items have moved by `by` places towards the end: the page begins with items that
            an earlier one has shown; negative: towards the front, and as many are never shown), `repeat` (the page
            that was asked for leads to itself), `end_early` (no further page, though there are items), `endless`
            (the listing starts over and over, every page with a new cursor), `forget` (of a history: only the newest
            `by` items are known).
        path: the request's path below the venue's base begins with this.
        at: number of the request among those that fit `path`, from 0.
        count: for so many consecutive ones; None: for all from `at`.
    """

    kind: AnswerFaultKind | ListingFaultKind
    path: str = ""
    at: int = 0
    count: int | None = 1
    status: int = 503
    retry_after: str | None = None
    delay_s: float = 0.0
    body: bytes = b""
    by: int = 1


_FAULT = web.RequestKey("ssmd_rest_fault", RestFault)


class RestFaults:
    """A schedule of faults, and what has been asked.

    Args:
        schedule: if several strike the same request, the first one counts.
        rate_per_s: more requests than this in a second are answered with 429; None: no limit.
    """

    def __init__(self, *schedule: RestFault, rate_per_s: int | None = None) -> None:
        self._schedule = schedule
        self._seen: Counter[str] = Counter()
        self._rate_per_s = rate_per_s
        self._moments: deque[float] = deque()
        #: Path below the base and query of the latest 10,000 requests, refused ones included.
        self.requests: deque[tuple[str, dict[str, str]]] = deque(maxlen=10_000)
        #: Faults that have struck, in order, once per request.
        self.struck: list[RestFault] = []
        #: Requests that were above the limit.
        self.limited = 0

    def reschedule(self, *schedule: RestFault) -> None:
        """Other faults from now on; requests count from 0 again, and nothing has struck yet."""
        self._schedule = schedule
        self._seen.clear()
        self.requests.clear()
        self.struck.clear()

    def middleware(self, base: str) -> Middleware:
        """What an application must have among its middlewares; `base` is the path of its base URL."""

        @web.middleware
        async def apply(request: web.Request, handler: Handler) -> web.StreamResponse:
            path = request.path.removeprefix(base)
            self.requests.append((path, dict(request.query)))
            if self._above_limit():
                self.limited += 1
                return web.Response(status=429, body=TOO_MANY, content_type="application/json")
            fault = self._due(path)
            if fault is None:
                return await handler(request)
            self.struck.append(fault)
            return await _strike(fault, request, handler)

        return apply

    def _above_limit(self) -> bool:
        if self._rate_per_s is None:
            return False
        now_s = time.monotonic()
        while self._moments and self._moments[0] <= now_s - 1:
            self._moments.popleft()
        if len(self._moments) >= self._rate_per_s:
            return True
        self._moments.append(now_s)
        return False

    def _due(self, path: str) -> RestFault | None:
        for start in {fault.path for fault in self._schedule}:
            if path.startswith(start):
                self._seen[start] += 1
        for fault in self._schedule:
            number = self._seen[fault.path] - 1
            if path.startswith(fault.path) and 0 <= number - fault.at < (fault.count or number + 1):
                return fault
        return None


def remembered(request: web.Request, history: Sequence[T]) -> Sequence[T]:
    """What the venue still knows of a history, oldest first: all of it, unless it is to `forget`."""
    fault = request.get(_FAULT)
    return history[-fault.by :] if fault is not None and fault.kind == "forget" else history


def page(request: web.Request, found: Sequence[T], start: int, limit: int) -> tuple[list[T], int | None]:
    """A page of a listing, and where the next one starts; None after the last.

    Args:
        found: the whole listing, in order.
        start: what the request's cursor or offset says.
        limit: items per page, at least 1.
    """
    fault = request.get(_FAULT)
    kind = fault.kind if fault is not None else None
    if kind == "endless" and found:
        return [found[(start + index) % len(found)] for index in range(limit)], start + limit
    end = start + limit
    if kind == "end_early":
        return list(found[start:end]) if start == 0 else [], None
    next_start = end if end < len(found) else None
    if kind == "repeat":
        return list(found[start:end]), start
    if fault is not None and kind == "shift":
        start = max(0, start - fault.by)
    return list(found[start : start + limit]), next_start


async def _strike(fault: RestFault, request: web.Request, handler: Handler) -> web.StreamResponse:
    answer: web.StreamResponse
    match fault.kind:
        case "status":
            headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else None
            body = fault.body or (TOO_MANY if fault.status == 429 else b'{"error":{"code":"on_demand"}}')
            answer = web.Response(status=fault.status, body=body, headers=headers, content_type="application/json")
        case "html":
            answer = web.Response(body=_HTML, content_type="text/html")
        case "error_inside":
            answer = web.Response(body=b'{"error":["EService:Busy"]}', content_type="application/json")
        case "body":
            answer = web.Response(body=fault.body, content_type="application/json")
        case "reset":
            answer = web.Response()
            if request.transport is not None:
                request.transport.abort()
        case "truncate":
            answer = await _cut(request, await handler(request))
        case _:
            await asyncio.sleep(fault.delay_s)
            request[_FAULT] = fault
            answer = await handler(request)
    return answer


async def _cut(request: web.Request, whole: web.StreamResponse) -> web.StreamResponse:
    body = whole.body if isinstance(whole, web.Response) and isinstance(whole.body, bytes) else b"{}"
    cut = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await cut.prepare(request)
    await cut.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return cut
