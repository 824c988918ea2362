"""`/openapi.json` and `/docs`: what the API can do, for programs and for people."""

from __future__ import annotations

from functools import cache
from typing import Any

from ssmd_api.jsons import encode
from ssmd_api.openapi import document
from ssmd_api.routing import Call, Route
from ssmd_api.web.files import WebFile, own_file
from ssmd_api.web.pages import page_route

# Swagger UI's style sheet carries its icons as data URLs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def _document() -> WebFile:
    from ssmd_api.app import ROUTES as ALL  # which is made of this module's routes, too

    return WebFile.of(encode(document(ALL)), ".json")


async def _openapi(call: Call) -> Any:
    return _document().answer(call.request)


async def _page(call: Call) -> Any:
    return own_file("docs.html").answer(call.request, policy=_POLICY)


ROUTES = (
    Route(
        method="GET",
        path="/openapi.json",
        handler=_openapi,
        summary="This document, OpenAPI 3.1.",
        tag="health",
        scope=None,
        answer={"type": "object", "required": ["openapi", "paths"]},
    ),
    page_route("/docs", _page, "Every route, to read and to try.", "text/html"),
)
