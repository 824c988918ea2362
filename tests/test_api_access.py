"""What keys did: usage that no stop loses, and the log of data access, without which no data is given."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import psycopg
import pytest
from api_rig import ApiRig, api_settings

from ssmd_api import app as app_module
from ssmd_api.auth import audit
from ssmd_api.auth.access import Scope
from ssmd_api.auth.keys import make_key, parse_key
from ssmd_api.routing import Call, DayRule, FeedRule, Route
from ssmd_stream.servers.ports import LOOPBACK, free_port

TODAY = datetime.now(UTC).date()


def prefix_of(key: str) -> str:
    found = parse_key(key)
    assert found is not None
    return found.prefix


# -- usage


def test_usage_is_counted_by_key_and_day(api: ApiRig) -> None:
    admin, key = api.key("admin:read"), api.key("datasets:read", tier="standard")
    changes, until_s = api.services.changes, time.monotonic() + 5
    while changes.generation(("api_keys",)) != (1, 2):  # both keys are told of
        assert time.monotonic() < until_s
    sent_bytes = sum(len(api.get("/v1/keys/me", key).content) for _ in range(118))
    sent_bytes += len(api.get("/v1/settings", key).content) + len(api.get("/v1/keys/me", key, x=1).content)
    sent_bytes += sum(len(api.get("/v1/keys/me", key).content) for _ in range(5))  # refused
    found = {one["keyPrefix"]: one for one in api.json("/v1/keys/usage", admin)["usage"]}
    one = found[prefix_of(key)]
    assert (one["requests"], one["rateLimitHits"], one["responseBytes"]) == (120, 5, sent_bytes)
    assert one["days"] == [{"date": str(TODAY), "requests": 120, "rateLimitHits": 5, "responseBytes": sent_bytes}]
    assert (one["tier"], one["limit"], one["windowSeconds"], one["requestsInWindow"]) == ("standard", 120, 60, 120)
    assert datetime.now(UTC) - datetime.fromisoformat(one["lastUsedAt"]) < timedelta(minutes=1)
    # To write when a key was used last tells nobody that keys have changed.
    time.sleep(0.2)
    assert changes.generation(("api_keys",)) == (1, 2)
    metrics = api.get("/metrics").text
    assert f'ssmd_api_rate_limit_hits_total{{key_prefix="{prefix_of(key)}"}} 5.0' in metrics


def test_the_report_joins_model_calls_in_a_fixed_number_of_statements(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = api.key("admin:read")

    def statements(limit: int) -> list[str]:
        executed: list[str] = []
        real = psycopg.AsyncCursor.execute

        async def noted(self: Any, query: Any, *more: Any, **options: Any) -> Any:
            executed.append(query.decode() if isinstance(query, bytes) else query)
            return await real(self, query, *more, **options)

        with monkeypatch.context() as patch:
            patch.setattr(psycopg.AsyncCursor, "execute", noted)
            assert len(api.json("/v1/keys/usage", admin, limit=limit)["usage"]) == limit
        # Not those that write counts or look the asking key up.
        return [text for text in executed if "SELECT" in text and "unnest" not in text and "key_hash" not in text]

    api.json("/v1/keys/usage", admin)
    one = statements(1)
    assert len(one) == 3
    for number in range(30):
        prefix = prefix_of(api.key("llm:chat"))
        for day in range(number % 3 + 1):
            api.sql(
                "INSERT INTO llm_usage_daily VALUES (%s, %s, 'small', 2, 10, 5, 0.001), (%s, %s, 'big', 1, 7, 3, 0.25)",
                (prefix, TODAY - timedelta(days=day), prefix, TODAY - timedelta(days=day)),
            )
    assert statements(31) == one
    newest = api.json("/v1/keys/usage", admin, limit=1, days=2)["usage"][0]
    assert newest["modelUsage"] == [
        {"model": "big", "promptTokens": 14, "completionTokens": 6, "requests": 2, "costUsd": "0.50"},
        {"model": "small", "promptTokens": 20, "completionTokens": 10, "requests": 4, "costUsd": "0.002"},
    ]
    assert [one["date"] for one in newest["dailyUsage"]] == [str(TODAY - timedelta(days=1)), str(TODAY)]
    assert (newest["totalLlmRequests"], newest["totalPromptTokens"]) == (6, 34)
    assert Decimal(newest["totalCostUsd"]) == Decimal("0.502")
    assert api.get("/v1/keys/usage", admin, days=91).json()["field"] == "days"


def test_counts_wait_for_a_database_that_is_away(api: ApiRig) -> None:
    key = api.key("datasets:read")
    api.get("/v1/keys/me", key)
    api.sql("ALTER TABLE api_usage_daily RENAME TO elsewhere")
    with pytest.raises(psycopg.Error):
        api.run(api.services.usage.flush())
    api.get("/v1/keys/me", key)
    api.sql("ALTER TABLE elsewhere RENAME TO api_usage_daily")
    api.run(api.services.usage.flush())
    api.run(api.services.usage.flush())
    assert api.sql("SELECT key_prefix, requests FROM api_usage_daily") == [(prefix_of(key), 2)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_loses_no_count(database_url: str, tmp_path: Path, number: signal.Signals) -> None:
    """A real process; its clock stands in 2031, and so do its days."""
    key, port = make_key("test"), free_port()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO api_keys (id, user_id, user_email, key_prefix, key_hash, name, scopes, allowed_feeds, "
            "date_range_end) VALUES ('1', 'u', 'u@example.com', %s, %s, 'n', '{admin:read}', '{*}', '2099-12-31')",
            (key.prefix, key.digest),
        )
        environment = {**os.environ, "DATABASE_URL": database_url, "SSMD_DATA": str(tmp_path),
                       "SSMD_CLOCK": "2031-05-06T23:00:00Z"}  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "ssmd_api", "--port", str(port)], env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            with httpx2.Client(base_url=f"http://{LOOPBACK}:{port}") as client:
                wait_for(client)
                for _ in range(25):
                    assert client.get("/v1/keys/me", headers={"X-API-Key": key.text}).status_code == 200
                process.send_signal(number)
                _, log = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, log
        assert key.secret not in log
        found = connection.execute("SELECT date, requests, response_bytes > 1000 FROM api_usage_daily").fetchall()
        assert found == [(date(2031, 5, 6), 25, True)]
        used = connection.execute("SELECT last_used_at FROM api_keys").fetchall()
        assert used[0][0].astimezone(UTC).date() == date(2031, 5, 6)


def wait_for(client: httpx2.Client) -> None:
    until_s = time.monotonic() + 20
    while True:
        try:
            assert client.get("/ready").status_code == 200
            return
        except httpx2.ConnectError:
            assert time.monotonic() < until_s
            time.sleep(0.05)


# -- the log of data access


class Days(msgspec.Struct):
    """Days, and a feed."""

    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    feed: str | None = None


async def _give(call: Call) -> Any:
    for feed in call.feeds:
        await audit.record(call, feed, message_type="trade", files=3)
    return {"data": "precious"}


GIVE = Route(
    method="GET", path="/v1/data/given", handler=_give, summary="Data.", tag="data", scope=Scope.DATASETS_READ,
    feeds=FeedRule.PARAM, days=DayRule.CLAMP, query=Days,
)  # fmt: skip


@pytest.fixture
def giving_api(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An API with a route that gives data."""
    monkeypatch.setattr(app_module, "ROUTES", (*app_module.ROUTES, GIVE))
    with ApiRig(api_settings(database_url, tmp_path / "data")).running() as rig:
        yield rig


def test_data_is_given_once_it_is_written_down_who_gets_it(giving_api: ApiRig) -> None:
    api = giving_api
    key = api.key("datasets:read", feeds=["kalshi", "kraken"], days=(date(2026, 11, 1), date(2026, 11, 30)))
    admin = api.key("admin:read", email="admin@example.com")
    days = {"from": "2026-10-20", "to": "2026-11-03"}
    request_id = api.get("/v1/data/given", key, feed="kalshi", **days).headers["x-request-id"]
    api.json("/v1/data/given", key)
    assert api.get("/v1/data/given", key, feed="polymarket").status_code == 403

    page = api.json("/v1/keys/access", admin)
    assert [one["feed"] for one in page["access"]] == ["kraken", "kalshi", "kalshi"] and page["nextCursor"] is None
    one = page["access"][-1]
    assert datetime.fromisoformat(one.pop("createdAt")).date() == datetime.now(UTC).date()
    assert one == {
        "id": 1, "keyPrefix": prefix_of(key), "userEmail": "researcher@example.com", "feed": "kalshi",
        "dateFrom": "2026-11-01", "dateTo": "2026-11-03", "msgType": "trade", "filesCount": 3,
        "route": "/v1/data/given", "requestId": request_id,
    }  # fmt: skip
    assert page["access"][0]["dateFrom"] == "2026-11-01" and page["access"][0]["dateTo"] == "2026-11-30"

    def count(**filters: Any) -> int:
        return len(api.json("/v1/keys/access", admin, **filters)["access"])

    assert count(feed="kraken") == 1 and count(user_email="admin@example.com") == 0
    assert count(key_prefix=prefix_of(key)) == 3 and count(key_prefix="' OR true --") == 0
    assert count(since="2000-01-01") == 3 and count(until="2000-01-01") == 0
    first = api.json("/v1/keys/access", admin, limit=2)
    rest = api.json("/v1/keys/access", admin, limit=2, cursor=first["nextCursor"])
    assert [one["id"] for one in first["access"] + rest["access"]] == [3, 2, 1] and rest["nextCursor"] is None
    for cursor in ("x", "1", "１", first["nextCursor"][:-2]):
        assert api.get("/v1/keys/access", admin, cursor=cursor).json()["field"] == "cursor"
    assert api.get("/v1/keys/access", admin, cursor=first["nextCursor"], feed="kalshi").status_code == 400
    assert api.get("/v1/keys/access", key).status_code == 403


def test_without_the_log_there_is_no_data(giving_api: ApiRig) -> None:
    api = giving_api
    key = api.key("datasets:read")
    api.sql("ALTER TABLE data_access_log ADD CHECK (feed = '') NOT VALID")
    answer = api.get("/v1/data/given", key, feed="kalshi")
    assert answer.status_code == 503 and answer.json()["code"] == "unavailable"
    assert "precious" not in answer.text and "constraint" not in answer.text
    assert answer.headers["x-ratelimit-remaining"] == "5999"


def test_a_hundred_at_once_are_all_in_the_log(giving_api: ApiRig) -> None:
    api = giving_api
    key = api.key("datasets:read")

    async def ask() -> set[int]:
        async with httpx2.AsyncClient(base_url=api.url, headers={"X-API-Key": key}, timeout=30) as client:
            answers = await asyncio.gather(*(client.get("/v1/data/given?feed=kraken") for _ in range(100)))
        return {answer.status_code for answer in answers}

    assert asyncio.run(ask()) == {200}
    assert api.sql("SELECT count(*), count(DISTINCT request_id) FROM data_access_log") == [(100, 100)]
