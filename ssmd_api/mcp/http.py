"""`/mcp`: the tools over streamable HTTP, each message a request of its own with the caller's key.

Nothing is kept between requests: neither sessions nor streams, so any process may answer the next one. The SDK is
imported with the first request, in a thread: an API that nobody asks for MCP starts 0.7 s earlier and needs 30 MB less.
"""

from __future__ import annotations

import asyncio
import time
from types import ModuleType

import httpx2
import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ssmd_api.errors import ApiError, ForbiddenError, RateLimitedError, TookTooLongError, UnavailableError
from ssmd_api.mcp.calls import TIMEOUT_S
from ssmd_api.middleware import Surroundings
from ssmd_api.routing import read_body, refusal
from ssmd_api.services import Services

PATH = "/mcp"
_MAX_BODY_BYTES = 64 * 1024
# Longer than any call of a tool, which ends by itself.
_TIMEOUT_S = TIMEOUT_S + 10
_KEY_HEADERS = ("x-api-key", "authorization")


def mcp_route(services: Services) -> Route:
    """The route; other methods than POST get 405: there are no streams to open and no sessions to end."""
    return Route(PATH, _Endpoint(services), methods=["POST"])


class _Endpoint:
    """Answers MCP messages."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sdk: ModuleType | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One message."""
        request = Request(scope, receive)
        metrics = self._services.metrics
        began_s = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        metrics.in_flight.inc()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._answer(request, watched)
        except ClientDisconnect:
            status = 499  # nobody gets it; the count tells of it
        except (ApiError, TimeoutError) as problem:
            if status:
                raise
            error = problem if isinstance(problem, ApiError) else TookTooLongError("the message took too long")
            await refusal(error, scope["state"]["request_id"])(scope, receive, watched)
        finally:
            metrics.in_flight.dec()
            metrics.requests.labels(request.method, PATH, str(status or 500)).inc()
            metrics.seconds.labels(request.method, PATH).observe(time.perf_counter() - began_s)

    async def _answer(self, request: Request, send: Send) -> None:
        await self._admit(request)
        body = await read_body(request, _MAX_BODY_BYTES)
        told = False

        async def replayed() -> Message:
            nonlocal told
            if told:
                return await request.receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        headers = {name: value for name in _KEY_HEADERS if (value := request.headers.get(name))}
        rest = Surroundings(request.scope["app"], self._services)
        transport = httpx2.ASGITransport(rest, client=(_address(request), 0))
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://ssmd", headers=headers, timeout=TIMEOUT_S, trust_env=False
        ) as api:
            if self._sdk is None:
                self._sdk = await asyncio.to_thread(_import_sdk)
            await self._sdk.answer_http(api, request.scope, replayed, send)

    async def _admit(self, request: Request) -> None:
        """A valid key, not too often. REST counts the requests that tools make; these are the messages around them.

        Raises:
            UnauthorizedError: no valid key.
            RateLimitedError: too many messages.
            ForbiddenError: a page of another origin asks.
            UnavailableError: Postgres is away.
        """
        services = self._services
        origin = request.headers.get("origin")
        if origin and origin not in services.settings.cors_origins:
            raise ForbiddenError("pages of this origin may not ask (CORS_ORIGINS)")
        try:
            principal = await services.authenticator.principal(request.headers, _address(request))
            limit = await services.tiers.limit(principal.tier)
        except (psycopg.OperationalError, PoolTimeout) as error:
            raise UnavailableError("the database cannot be reached now") from error
        allowance = await services.limiter.take(f"mcp:{principal.key_prefix}", limit)
        if not allowance.allowed:
            services.metrics.rate_limit_hits.labels(principal.key_prefix).inc()
            raise RateLimitedError(f"more than {limit} messages in 60 s", retry_after_s=allowance.reset_s)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _import_sdk() -> ModuleType:
    from ssmd_api.mcp import server

    return server
