"""What surrounds every answer: a request id, security headers, CORS, and an end to every error."""

from __future__ import annotations

import secrets
import time
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ssmd_api.errors import ApiError
from ssmd_api.routing import refusal
from ssmd_api.services import Services

log = structlog.get_logger()

_SECURITY = [
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
_API_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_METHODS = b"GET, POST, PUT, PATCH, DELETE, OPTIONS"
_HEADERS = b"Content-Type, Authorization, X-API-Key, Range, If-None-Match"
_EXPOSED = (
    b"X-Request-Id, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After, ETag, Content-Range"
)


class Surroundings:
    """ASGI middleware; one for all, because each layer costs every request."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._usage = services.usage
        self._origins = frozenset(services.settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        cors = _cors(origin) if origin in self._origins else []
        began, sent_bytes = False, 0

        async def surrounded(message: Message) -> None:
            nonlocal began, sent_bytes
            if message["type"] == "http.response.start":
                began = True
                own = message["headers"] = [*message.get("headers", []), *_SECURITY, *cors]
                own.append((b"x-request-id", request_id.encode()))
                if not any(name == b"content-security-policy" for name, _ in own):
                    own.append(_API_POLICY)
            await send(message)
            sent_bytes += len(message.get("body", b""))

        if scope["method"] == "OPTIONS" and headers.get("access-control-request-method"):
            await surrounded({"type": "http.response.start", "status": 200, "headers": []})
            await surrounded({"type": "http.response.body", "body": b""})
            return
        began_s = time.perf_counter()
        try:
            await self._app(scope, receive, surrounded)
        except Exception as error:
            log.error("request_failed", request_id=request_id, exc_info=error, seconds=time.perf_counter() - began_s)
            if began:
                raise
            response = refusal(ApiError("something went wrong here; the request id finds it in the log"), request_id)
            await response(scope, receive, surrounded)
        finally:
            if key_prefix := state.get("key_prefix"):
                self._usage.response(key_prefix, sent_bytes)


def _cors(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _HEADERS),
        (b"access-control-expose-headers", _EXPOSED),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Origin"),
    ]
