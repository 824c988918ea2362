"""`/health`, `/ready`, `/version`, `/metrics`: open to everybody."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any

import psycopg
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from psycopg_pool import PoolTimeout
from starlette.responses import Response

from ssmd_api.jsons import encode
from ssmd_api.routing import JSON, Call, Route

_STATUS = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}


async def _health(call: Call) -> Any:
    """Whether the process lives; what it does without is told, too."""
    services = call.services
    return {
        "status": "ok",
        "changes": "listening" if services.changes.listening else "not listening: nothing is cached",
        "limits": services.limiter.where,
    }


async def _ready(call: Call) -> Any:
    try:
        await call.services.rows("SELECT 1")
    except (psycopg.Error, PoolTimeout):
        return Response(encode({"status": "the database cannot be reached"}), 503, media_type=JSON)
    return {"status": "ready"}


async def _version(call: Call) -> Any:
    del call
    return {"version": _installed()}


@lru_cache(maxsize=1)
def _installed() -> str:
    """The version; to look it up reads a file."""
    return version("ssmd")


async def _metrics(call: Call) -> Any:
    return Response(generate_latest(call.services.registry), media_type=CONTENT_TYPE_LATEST)


def _open(path: str, handler: Any, summary: str, **more: Any) -> Route:
    return Route(method="GET", path=path, handler=handler, summary=summary, tag="health", scope=None, **more)


ROUTES = (
    _open("/health", _health, "Whether the process lives, and what it does without.", answer=_STATUS),
    _open("/ready", _ready, "Whether it can answer questions.", answer=_STATUS),
    _open(
        "/version",
        _version,
        "The version of ssmd.",
        answer={"type": "object", "properties": {"version": {"type": "string"}}, "required": ["version"]},
    ),
    _open("/metrics", _metrics, "Counters for Prometheus.", answer={"type": "string"}, media_type="text/plain"),
)
