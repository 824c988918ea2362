"""What surrounds every route of the API."""

from __future__ import annotations

from api_rig import ApiRig


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
