"""What surrounds every route of the API."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from api_rig import ApiRig
from starlette.requests import Request

from ssmd_api.routing import Call, Route, answer


def test_open_routes(api: ApiRig) -> None:
    health = api.json("/health")
    assert health["status"] == "ok" and health["changes"] == "listening"
    assert api.json("/ready") == {"status": "ready"}
    assert api.json("/version")["version"]
    assert 'ssmd_api_requests_total{method="GET",path="/ready",status="200"} 1.0' in api.get("/metrics").text


def test_errors_have_one_shape(api: ApiRig) -> None:
    for response, status, code in (
        (api.get("/nowhere"), 404, "not_found"),
        (api.http.post("/health"), 405, "method_not_allowed"),
        (api.get("/health", surprise="1"), 400, "invalid"),
    ):
        body = response.json()
        assert response.status_code == status and body["code"] == code
        assert body["requestId"] == response.headers["x-request-id"]
        assert response.headers["x-content-type-options"] == "nosniff"


def test_a_route_that_takes_too_long_says_so(api: ApiRig) -> None:
    async def slow(call: Call) -> Any:
        del call
        await asyncio.sleep(5)

    async def fails(call: Call) -> Any:
        raise TimeoutError(call.request_id)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "path_params": {},
             "state": {"request_id": "r"}}  # fmt: skip
    for handler, status, code in ((slow, 504, "timeout"), (fails, 500, "internal")):
        route = Route(
            method="GET", path="/slow", handler=handler, summary="", tag="", scope=None, answer={}, timeout_s=0.05
        )
        response = api.run(answer(route, Request(scope), api.services))
        assert (response.status_code, json.loads(bytes(response.body))["code"]) == (status, code)


def test_nobody_but_the_one_with_the_key_may_keep_an_answer(api: ApiRig) -> None:
    assert api.get("/v1/keys/me", api.key("datasets:read")).headers["cache-control"] == "no-store"
