"""The ASGI application: every route, and what surrounds all of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from ssmd_api.errors import ApiError
from ssmd_api.graphql import view as graphql
from ssmd_api.mcp.http import mcp_route
from ssmd_api.middleware import Surroundings
from ssmd_api.rest import chat, data, docs, files, health, keys, proof, quality, secmaster, settings, status
from ssmd_api.routing import Route, answer, refusal
from ssmd_api.services import Services
from ssmd_api.web import pages

#: Every route; a literal path stands before a pattern that would take it.
ROUTES: tuple[Route, ...] = (
    *health.ROUTES,
    *graphql.ROUTES,
    *secmaster.ROUTES,
    *quality.ROUTES,
    *keys.ROUTES,
    *settings.ROUTES,
    *chat.ROUTES,
    *data.ROUTES,
    *files.ROUTES,
    *proof.ROUTES,
    *status.ROUTES,
    *docs.ROUTES,
    *pages.ROUTES,
)

_CODES = {404: ("not_found", "no such path"), 405: ("method_not_allowed", "no such method on this path")}

Endpoint: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]


def make_app(services: Services) -> Surroundings:
    """The application on these services."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path, {})[route.method] = route
    endpoints = {path: _endpoint(methods, services) for path, methods in by_path.items()}
    routes: list[BaseRoute] = [
        StarletteRoute(path, endpoint, methods=list(by_path[path])) for path, endpoint in endpoints.items()
    ]
    routes.append(mcp_route(services))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    literal = {path: endpoint for path, endpoint in endpoints.items() if "{" not in path}
    return Surroundings(_Doors(app, literal, by_path), services)


class _Doors:
    """Finds a literal path at once; Starlette, which tries one route after the other (0.3 µs each), finds the rest."""

    def __init__(
        self, app: Starlette, literal: Mapping[str, Endpoint], by_path: Mapping[str, Mapping[str, Route]]
    ) -> None:
        self._app = app
        self._literal = literal
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = scope["path"]
        if scope["type"] == "http" and scope["method"] in self._by_path.get(path, ()) and path in self._literal:
            scope["app"] = self._app
            response = await self._literal[path](Request(scope, receive, send))
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _endpoint(methods: Mapping[str, Route], services: Services) -> Endpoint:
    """The routes of one path."""

    async def endpoint(request: Request) -> Response:
        route = methods.get(request.method) or methods["GET"]  # HEAD is GET without the body
        return await answer(route, request, services)

    return endpoint


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, text = _CODES.get(error.status_code, ("refused", "refused"))
    found = ApiError(text)
    found.status, found.code = error.status_code, code
    response = refusal(found, request.scope["state"]["request_id"])
    response.headers.update(error.headers or {})
    return response
