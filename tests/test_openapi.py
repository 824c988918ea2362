"""The OpenAPI document and its page: what the routes check is what it says, and a browser can show it without a CDN."""

from __future__ import annotations

import gzip
import re
from datetime import datetime
from typing import Annotated, Any

import msgspec
from api_rig import ApiRig
from msgspec import Meta
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from ssmd_api.app import ROUTES
from ssmd_api.auth.access import Scope
from ssmd_api.openapi import document
from ssmd_api.routing import Call, FeedRule, Route
from ssmd_core.feeds import FEEDS


class _Query(msgspec.Struct):
    """What to look for.

    Attributes:
        feed: one feed.
        as_of: when, over
            two lines.
        first, second: both the same.
    """

    needed: str
    feed: str | None = None
    as_of: datetime | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100
    ids: list[str] | None = None
    first: bool = False
    second: bool | None = None


class _Inner(msgspec.Struct, rename="camel"):
    """A part.

    Attributes:
        open_interest: contracts.
    """

    open_interest: int


class _Answer(msgspec.Struct):
    """An answer."""

    parts: list[_Inner]


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """What to make."""

    name: Annotated[str, Meta(min_length=1, max_length=80)]


async def _handler(call: Call) -> Any:
    return {}


def _route(**more: Any) -> Route:
    values: dict[str, Any] = {
        "method": "GET", "path": "/v1/things/{ticker:path}", "handler": _handler, "summary": "Things.", "tag": "things",
        "scope": Scope.DATASETS_READ, "feeds": FeedRule.PARAM, "query": _Query, "answer": _Answer,
    }  # fmt: skip
    return Route(**values | more)


def test_every_route_is_in_a_valid_document() -> None:
    found = document(ROUTES)
    OPENAPI_31_VALIDATOR.validate(found)
    told = {(method.upper(), path) for path, one in found["paths"].items() for method in one}
    assert told == {(route.method, re.sub(r":\w+}", "}", route.path)) for route in ROUTES if route.tag != "pages"}
    ids = [operation["operationId"] for one in found["paths"].values() for operation in one.values()]
    assert len(ids) == len(set(ids))
    for path, one in found["paths"].items():
        for method, operation in one.items():
            assert operation["summary"], (method, path)
            assert operation["security"] or not operation.get("description"), (method, path)
    text = str(found)
    for reference in re.findall(r"'\$ref': '#/components/schemas/([^']+)'", text):
        assert reference in found["components"]["schemas"]


def test_what_a_route_says_of_itself() -> None:
    found = document([_route(), _route(method="POST", path="/v1/things", body=_Body, status=201)])
    OPENAPI_31_VALIDATOR.validate(found)
    got = found["paths"]["/v1/things/{ticker}"]["get"]
    parameters = {each["name"]: each for each in got["parameters"]}
    assert parameters["ticker"]["in"] == "path" and parameters["ticker"]["required"]
    assert parameters["needed"]["required"] and "required" not in parameters["feed"]
    assert parameters["feed"]["schema"] == {"type": "string", "enum": list(FEEDS)}
    assert parameters["feed"]["description"] == "one feed."
    assert parameters["as_of"]["schema"] == {"type": "string", "format": "date-time"}
    assert parameters["as_of"]["description"] == "when, over two lines."
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 500, "default": 100}
    assert (parameters["ids"]["style"], parameters["ids"]["explode"]) == ("form", False)
    assert parameters["first"]["description"] == parameters["second"]["description"] == "both the same."
    assert parameters["second"]["schema"] == {"type": "boolean"}
    assert got["security"] == [{"apiKey": ["datasets:read"]}, {"bearer": ["datasets:read"]}]
    refusals = {"400", "401", "403", "404", "413", "429", "500", "503", "504", "default"}
    assert set(got["responses"]) == refusals | {"200"}
    made = found["paths"]["/v1/things"]["post"]
    assert made["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/_Body"}
    assert set(made["responses"]) == refusals - {"404"} | {"201"}
    inner = found["components"]["schemas"]["_Inner"]
    assert inner["properties"]["openInterest"]["description"] == "contracts." and inner["description"] == "A part."


def test_an_open_route_needs_no_key() -> None:
    got = document([_route(scope=None, path="/open", query=msgspec.defstruct("None_", []))])["paths"]["/open"]["get"]
    assert got["security"] == [] and "parameters" not in got and "401" not in got["responses"]


def test_the_document_is_answered_once(api: ApiRig) -> None:
    first = api.get("/openapi.json")
    assert first.status_code == 200 and first.headers["content-type"] == "application/json"
    assert first.json()["openapi"].startswith("3.1.")
    again = api.http.get("/openapi.json", headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    for accepted, encoding in (("gzip", "gzip"), ("gzip;q=0", None), ("br", None)):
        answer = api.http.get("/openapi.json", headers={"Accept-Encoding": accepted})
        assert answer.headers.get("content-encoding") == encoding and answer.json() == first.json()


def test_pages_need_no_other_host(api: ApiRig) -> None:
    size_bytes = 0
    for page in ("/", "/docs"):
        answer = api.get(page)
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        links = re.findall(r'(?:href|src)="([^"]+)"', answer.text)
        assert links and all(link.startswith(("/", "#")) for link in links), links
        assert "<style" not in answer.text and not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", answer.text)
        for link in links:
            if link.startswith("/static/"):
                file = api.get(link)
                assert file.status_code == 200 and file.headers["etag"], link
                assert api.http.get(link, headers={"If-None-Match": file.headers["etag"]}).status_code == 304
                size_bytes += len(file.content) if page == "/" else 0
    for module in ("dom.js", "live.js", "calendar.js"):
        size_bytes += len(api.get(f"/static/page/{module}").content)
    assert size_bytes < 60_000


def test_only_known_files_are_served(api: ApiRig) -> None:
    for name in ("pages.py", "..%2fpages.py", "%2e%2e/%2e%2e/app.py", "page.html", "swagger-ui.js.map", "x%00.js", ""):
        for folder in ("page", "docs"):
            answer = api.get(f"/static/{folder}/{name}")
            assert answer.status_code == 404 and answer.json()["code"] == "not_found", (folder, name)
    bundle = api.http.get("/static/docs/swagger-ui-bundle.js", headers={"Accept-Encoding": "identity"})
    assert "max-age=86400" in bundle.headers["cache-control"] and len(gzip.compress(bundle.content)) < 600_000
