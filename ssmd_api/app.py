"""The ASGI application: every route, and what surrounds all of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute

from ssmd_api.errors import ApiError
from ssmd_api.graphql import view as graphql
from ssmd_api.mcp.http import mcp_route
from ssmd_api.middleware import Surroundings
from ssmd_api.rest import chat, data, docs, files, health, keys, quality, secmaster, settings, status
from ssmd_api.routing import Route, answer, refusal
from ssmd_api.services import Services
from ssmd_api.web import pages

#: Every route of the REST interface; a literal path stands before a pattern that would take it.
ROUTES: tuple[Route, ...] = (*health.ROUTES, *graphql.ROUTES, *secmaster.ROUTES, *quality.ROUTES, *keys.ROUTES, *settings.ROUTES, *chat.ROUTES, *data.ROUTES, *files.ROUTES, *status.ROUTES, *docs.ROUTES, *pages.ROUTES)

_CODES = {404: ("not_found", "no such path"), 405: ("method_not_allowed", "no such method on this path")}


def make_app(services: Services) -> Surroundings:
    """The application on these services."""
    routes: list[BaseRoute] = [
        StarletteRoute(route.path, _endpoint(route, services), methods=[route.method]) for route in ROUTES
    ]
    routes.append(mcp_route(services))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    return Surroundings(app, services)


def _endpoint(route: Route, services: Services) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def endpoint(request: Request) -> Response:
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
