"""API keys: made, seen, changed, rotated and revoked, over HTTP and by the command line, and what a stranger tries."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import psycopg
import pytest
from api_rig import ApiRig, api_settings
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ssmd_api.auth import keys as keys_module
from ssmd_api.auth import usage as usage_module
from ssmd_api.auth.keys import ApiKey, make_key, parse_key
from ssmd_api.auth.usage import Usage
from ssmd_api.auth.wrong_keys import MAX_WRONG, network
from ssmd_api.cli.main import app
from ssmd_core.db.connect import now_of
from ssmd_stream.servers.postgres import PostgresServer

NEW = {
    "name": "pilot",
    "scopes": ["datasets:read", "secmaster:read"],
    "allowedFeeds": ["kraken", "kalshi"],
    "dateRangeStart": "2026-11-01",
    "dateRangeEnd": "2026-11-30",
    "userEmail": "Quant@Example.com",
    "expiresInHours": 720,
}
DATASETS = ("datasets:read",)


@pytest.fixture(scope="module")
def shared_api(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRig]:
    """An API for tests that leave nothing in its database that another would notice."""
    name = f"keys_{os.getpid()}"
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE migrated STRATEGY FILE_COPY".encode())
    with ApiRig(api_settings(postgres_server.url_of(name), tmp_path_factory.mktemp("data"))).running() as rig:
        yield rig
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="module")
def admin_key(shared_api: ApiRig) -> str:
    return shared_api.key("admin:write")


def send(api: ApiRig, method: str, path: str, key: str, body: Any = None, *, status: int = 200) -> Any:
    """The JSON of an answer with that status."""
    answer = api.http.request(method, path, headers={"X-API-Key": key}, json=body)
    assert answer.status_code == status, (answer.status_code, answer.text)
    return answer.json()


def prefix_of(key: str) -> str:
    found = parse_key(key)
    assert found is not None
    return found.prefix


# -- management


def test_a_key_is_made_used_changed_and_revoked(api: ApiRig) -> None:
    admin = api.key("admin:write")
    made = send(api, "POST", "/v1/keys", admin, NEW, status=201)
    key, prefix = made["key"], made["prefix"]
    assert key.startswith(f"{prefix}_") and prefix.startswith("sk_live_") and len(prefix) == 16
    assert made["userEmail"] == made["userId"] == "quant@example.com"  # the recipient owns it, not who made it
    assert made["createdBy"] == prefix_of(admin)
    assert made["allowedFeeds"] == ["kalshi", "kraken"] and made["dateRangeEnd"] == "2026-11-30"
    assert datetime.fromisoformat(made["expiresAt"]) - datetime.fromisoformat(made["createdAt"]) == pytest.approx(
        timedelta(hours=720), abs=timedelta(seconds=5)
    )

    me = api.json("/v1/keys/me", key)
    assert me["prefix"] == prefix and me["feeds"] == ["kalshi", "kraken"]
    assert me["rateLimit"] == {"tier": "standard", "limit": 120, "windowSeconds": 60, "used": 1}
    listed = api.json("/v1/keys", admin)["keys"]
    assert [one["prefix"] for one in listed] == [prefix, prefix_of(admin)]
    assert {"key", "keyHash"} & {name for one in listed for name in one} == set()

    change = {"scopes": ["admin:read"], "rateLimitTier": "elevated", "expiresInHours": None}
    changed = send(api, "PATCH", f"/v1/keys/{prefix}", admin, change)
    assert (changed["scopes"], changed["rateLimitTier"], changed["expiresAt"]) == (["admin:read"], "elevated", None)
    assert changed["allowedFeeds"] == ["kalshi", "kraken"]
    assert api.get("/v1/settings", key).headers["x-ratelimit-limit"] == "1200"  # at once

    revoked = send(api, "DELETE", f"/v1/keys/{prefix}", admin)
    assert api.get("/v1/keys/me", key).status_code == 401
    assert send(api, "DELETE", f"/v1/keys/{prefix}", admin) == revoked
    assert (
        send(api, "PATCH", f"/v1/keys/{prefix}", admin, change, status=400)["error"] == f"the key {prefix} is revoked"
    )
    assert [one["prefix"] for one in api.json("/v1/keys", admin)["keys"]] == [prefix_of(admin)]
    assert len(api.json("/v1/keys", admin, revoked="true")["keys"]) == 2
    assert api.json(f"/v1/keys/{prefix}", admin)["revokedAt"] == revoked["revokedAt"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": 5}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["datasets:write"]}, "scopes"),
        ({"scopes": ["*"]}, "scopes"),
        ({"scopes": "datasets:read"}, "scopes"),
        ({"allowedFeeds": []}, "allowedFeeds"),
        ({"allowedFeeds": ["*"]}, "allowedFeeds"),
        ({"allowedFeeds": ["binance"]}, "allowedFeeds"),
        ({"dateRangeStart": "2026-12-01"}, "dateRangeStart"),
        ({"dateRangeEnd": "2026-13-45"}, "dateRangeEnd"),
        ({"rateLimitTier": "unlimited"}, "rateLimitTier"),
        ({"environment": "prod"}, "environment"),
        ({"userEmail": "nobody"}, "userEmail"),
        ({"userEmail": "a\u202e@example.com"}, "userEmail"),
        ({"userEmail": "a" * 250 + "@example.com"}, "userEmail"),
        ({"expiresInHours": 0}, "expiresInHours"),
        ({"expiresInHours": 721}, "expiresInHours"),
        ({"expiresInHours": 10**30}, "expiresInHours"),
        ({"userId": "somebody"}, "userId"),
    ],
)
def test_what_a_key_cannot_have(shared_api: ApiRig, admin_key: str, wrong: dict[str, Any], field: str) -> None:
    body = send(shared_api, "POST", "/v1/keys", admin_key, {**NEW, **wrong}, status=400)
    assert body["field"] == field
    assert len(body["error"]) < 400


def test_a_missing_member_is_named_and_a_change_of_nothing_refused(shared_api: ApiRig, admin_key: str) -> None:
    for name in ("name", "scopes", "allowedFeeds", "dateRangeStart", "dateRangeEnd"):
        body = {key: value for key, value in NEW.items() if key != name}
        assert send(shared_api, "POST", "/v1/keys", admin_key, body, status=400)["field"] == name
    path = f"/v1/keys/{prefix_of(admin_key)}"
    for change in ({}, {"scopes": ["*"]}, {"dateRangeEnd": "1969-01-01"}, {"name": "other"}, []):
        send(shared_api, "PATCH", path, admin_key, change, status=400)
    send(shared_api, "PATCH", "/v1/keys/sk_live_nobodyXX", admin_key, {"scopes": ["admin:read"]}, status=404)


def test_without_admin_scopes_a_key_sees_its_owners_and_rotates_only_itself(api: ApiRig) -> None:
    mine, sibling = api.key(*DATASETS), api.key("admin:write")
    theirs = api.key(*DATASETS, email="other@example.com")
    assert {one["prefix"] for one in api.json("/v1/keys", mine)["keys"]} == {prefix_of(mine), prefix_of(sibling)}
    api.json(f"/v1/keys/{prefix_of(sibling)}", mine)
    for prefix in (prefix_of(theirs), "sk_live_nobodyXX"):  # one answer: who may not see it learns not even that
        assert send(api, "GET", f"/v1/keys/{prefix}", mine, status=403)["error"].endswith("admin:read")
        assert send(api, "DELETE", f"/v1/keys/{prefix}", mine, status=403)["error"].endswith("admin:write")
    send(api, "POST", "/v1/keys", mine, NEW, status=403)
    send(api, "PATCH", f"/v1/keys/{prefix_of(mine)}", mine, {"scopes": ["admin:write"]}, status=403)
    for path in ("/v1/keys/usage", "/v1/keys/access", "/v1/settings"):
        send(api, "GET", path, mine, status=403)
    # Its owner's stronger key would be handed out.
    send(api, "POST", f"/v1/keys/{prefix_of(sibling)}/rotate", mine, {}, status=403)
    successor = send(api, "POST", f"/v1/keys/{prefix_of(mine)}/rotate", mine, {"overlapHours": 1}, status=201)
    send(api, "DELETE", f"/v1/keys/{prefix_of(mine)}", successor["key"])
    assert api.get("/v1/keys/me", mine).status_code == 401


def test_rotation_keeps_the_rights_and_lets_the_old_key_run_out(shared_api: ApiRig) -> None:
    api = shared_api
    admin = api.key("admin:write")
    old = send(api, "POST", "/v1/keys", admin, NEW, status=201)
    new = send(api, "POST", f"/v1/keys/{old['prefix']}/rotate", old["key"], {}, status=201)
    assert new["prefix"] != old["prefix"] and new["key"][17:] != old["key"][17:]
    kept = ("name", "scopes", "allowedFeeds", "dateRangeStart", "dateRangeEnd", "rateLimitTier", "userId", "userEmail",
            "expiresAt")  # fmt: skip
    assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
    assert new["rotatedFrom"] == new["createdBy"] == old["prefix"]
    runs_out = datetime.fromisoformat(api.json("/v1/keys/me", old["key"])["expiresAt"])
    assert runs_out == pytest.approx(datetime.now(UTC) + timedelta(hours=24), abs=timedelta(seconds=30))
    # Whoever else holds the old key cannot make another successor, and its owner would see who did.
    again = send(api, "POST", f"/v1/keys/{old['prefix']}/rotate", old["key"], {}, status=400)
    assert new["prefix"] in again["error"]
    send(api, "POST", f"/v1/keys/{new['prefix']}/rotate", admin, {"overlapHours": 721}, status=400)
    other = prefix_of(api.key("datasets:read"))

    async def twice() -> list[int]:
        async with httpx2.AsyncClient(base_url=api.url, headers={"X-API-Key": admin}) as client:
            answers = await asyncio.gather(*(client.post(f"/v1/keys/{other}/rotate", json={}) for _ in range(4)))
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(twice()) == [201, 400, 400, 400]
    send(api, "POST", f"/v1/keys/{new['prefix']}/rotate", admin, {"overlapHours": 0}, status=201)
    assert api.get("/v1/keys/me", new["key"]).status_code == 401
    assert api.get("/v1/keys/me", old["key"]).status_code == 200


def test_the_list_is_paged(api: ApiRig) -> None:
    made = [prefix_of(api.key("admin:read")) for _ in range(7)]
    key = api.key("admin:read")
    found, cursor = list[str](), {}
    while True:
        page = api.json("/v1/keys", key, limit=3, **cursor)
        assert len(page["keys"]) <= 3
        found += [one["prefix"] for one in page["keys"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert found == [prefix_of(key), *reversed(made)]
    cursor = api.json("/v1/keys", key, limit=3)["nextCursor"]
    for other in ({"cursor": "x"}, {"cursor": prefix_of(key)}, {"cursor": cursor, "revoked": "true"}):
        assert api.get("/v1/keys", key, **other).json()["field"] == "cursor"
    for limit in ("0", "1001", "x"):
        assert api.get("/v1/keys", key, limit=limit).status_code == 400


# -- settings


def test_settings(api: ApiRig) -> None:
    admin = api.key("admin:write")
    for key, value in (("a.b", {"deep": [1, 2.5, None, "é"]}), ("a.b", None), ("guardrail_max_messages", 20)):
        put = send(api, "PUT", f"/v1/settings/{key}", admin, {"value": value})
        assert put["key"] == key and put["value"] == value
    listed = api.json("/v1/settings", admin)["settings"]
    assert [(one["key"], one["value"]) for one in listed] == [("a.b", None), ("guardrail_max_messages", 20)]
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    for key, body, field in (
        ("x", {}, "value"),
        ("x", {"value": 1, "more": 2}, "more"),
        ("x", {"value": "a\0b"}, "value"),
        ("x", {"value": {"a\0": 1}}, "value"),
        ("x", {"value": deep}, "value"),
        ("x", {"value": [2**64]}, "value"),
        ("x", {"value": -1e22}, "value"),
        ("no spaces", {"value": 1}, "key"),
        ("x" * 129, {"value": 1}, "key"),
        ("rate_limit_tiers", {"value": {"standard": 0}}, "value"),
        ("rate_limit_tiers", {"value": {"standard": True}}, "value"),
        ("rate_limit_tiers", {"value": ["standard"]}, "value"),
        ("llm_models", {"value": "any"}, "value"),
        ("guardrail_pii_action", {"value": "shrug"}, "value"),
    ):
        assert send(api, "PUT", f"/v1/settings/{key}", admin, body, status=400)["field"] == field
    assert send(api, "PUT", "/v1/settings/x", admin, {"value": "x" * 20_000}, status=413)["code"] == "too_large"
    raw = api.http.put("/v1/settings/x", headers={"X-API-Key": admin}, content=b'{"value": 1e999}')
    assert raw.status_code == 400
    huge = api.http.put("/v1/settings/x", headers={"X-API-Key": admin}, content=b'{"value": ' + b"7" * 5000 + b"}")
    assert huge.status_code == 400


def test_tiers_follow_their_setting(api: ApiRig) -> None:
    admin, key = api.key("admin:write"), api.key(*DATASETS, tier="tiny")

    def limit() -> str:
        return api.get("/v1/keys/me", key).headers["x-ratelimit-limit"]

    assert limit() == "120"  # unknown: standard
    send(api, "PUT", "/v1/settings/rate_limit_tiers", admin, {"value": {"tiny": 3}})
    assert limit() == "3"
    made = send(api, "POST", "/v1/keys", admin, {**NEW, "rateLimitTier": "tiny"}, status=201)
    assert made["rateLimitTier"] == "tiny"
    # By another session, past every check: what cannot be used is left out.
    api.sql("UPDATE settings SET value = '{\"tiny\": -1}'")
    until_s = time.monotonic() + 5
    while api.http.get("/v1/keys/me", headers={"X-API-Key": key}).headers["x-ratelimit-limit"] == "3":
        assert time.monotonic() < until_s
    assert limit() == "120"


# -- what a stranger tries


def refusals(api: ApiRig) -> dict[str, str]:
    """Keys that are not valid, by what is wrong with them."""
    good = api.key(*DATASETS)
    revoked, expired = api.key(*DATASETS), api.key(*DATASETS, expires_in=timedelta(seconds=-1))
    api.sql("UPDATE api_keys SET revoked_at = now() WHERE key_prefix = %s", (prefix_of(revoked),))
    return {
        "missing": "",
        "malformed": "sk_live_short",
        "a word": "secret",
        "unknown": make_key("live").text,
        "wrong secret": ApiKey(prefix_of(good), make_key("live").secret).text,
        "revoked": revoked,
        "expired": expired,
    }


def test_whatever_is_wrong_with_a_key_the_answer_is_the_same(shared_api: ApiRig) -> None:
    api = shared_api
    answers = {name: api.get("/v1/keys/me", key) for name, key in refusals(api).items()}
    for name, answer in answers.items():
        assert answer.status_code == 401, name
        assert answer.headers["www-authenticate"] == "Bearer"
    bodies = {json.dumps({**answer.json(), "requestId": ""}) for answer in answers.values()}
    assert len(bodies) == 1
    assert {frozenset(name for name in answer.headers if name != "x-request-id") for answer in answers.values()} == {
        frozenset(name for name in answers["missing"].headers if name != "x-request-id")
    }


def test_a_database_that_hangs_keeps_no_process_from_ending(
    shared_api: ApiRig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(usage_module, "_END_S", 0.2)
    services = shared_api.services

    async def end() -> float:
        usage = Usage(services.pool, services.clock)
        usage.start()
        usage.request("sk_test_hanging1", allowed=True)
        began_s = time.monotonic()
        await usage.close()
        return time.monotonic() - began_s

    with psycopg.connect(shared_api.database_url) as connection:
        connection.execute("LOCK TABLE api_usage_daily")
        assert shared_api.run(end()) < 5
    assert "usage_lost" in "".join(capfd.readouterr())


def test_the_key_stands_nowhere(api: ApiRig, capfd: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    admin = api.key("admin:write")
    made = send(api, "POST", "/v1/keys", admin, NEW, status=201)
    secret = made["key"].removeprefix(made["prefix"] + "_")
    wrong = ApiKey(made["prefix"], make_key("live").secret)
    answers = [
        api.get("/v1/keys/me", made["key"]), api.get("/v1/keys/me", wrong.text), api.get("/v1/keys", admin),
        api.get(f"/v1/keys/{made['key']}", admin), api.get("/v1/keys", admin, cursor=made["key"]),
        api.get("/v1/keys/access", admin, cursor=made["key"]), api.get("/v1/keys/usage", admin),
        api.get("/metrics"), api.get("/health"),
    ]  # fmt: skip
    api.run(api.services.usage.flush())
    tables = api.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    dump = "".join(str(api.sql(f"SELECT t::text FROM {table} t")) for (table,) in tables)
    told = "".join(answer.text + str(answer.headers) for answer in answers)
    assert [answer.status_code for answer in answers] == [200, 401, 200, 404, 400, 400, 200, 200, 200]
    printed = "".join(capfd.readouterr())
    assert made["prefix"] in dump
    for hidden in (secret, wrong.secret):
        assert hidden not in dump and hidden not in told and hidden not in printed
    kept = api.sql("SELECT key_hash FROM api_keys")
    assert not any(digest in told or digest in printed for (digest,) in kept)


def test_secrets_are_compared_in_constant_time(shared_api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    api = shared_api
    compared: list[tuple[str, str]] = []
    real = keys_module.hmac.compare_digest
    monkeypatch.setattr(
        keys_module.hmac, "compare_digest", lambda one, other: compared.append((one, other)) or real(one, other)
    )
    good = api.key(*DATASETS)
    for key in (good, make_key("live").text, ApiKey(prefix_of(good), "x" * 32).text):
        api.get("/v1/keys/me", key)
    assert len(compared) == 3 and all(len(one) == len(other) == 64 for one, other in compared)


def test_guesses_are_limited_before_the_database_and_lock_nobody_out(api: ApiRig) -> None:
    victim, neighbour, maker = api.key(*DATASETS), api.key(*DATASETS), api.key("admin:write")
    looked_up: list[str] = []
    authenticator = api.services.authenticator
    real = authenticator._look_up

    async def counted(key: ApiKey) -> Any:
        looked_up.append(key.prefix)
        return await real(key)

    authenticator._look_up = counted  # type: ignore[method-assign]
    statuses = [api.get("/v1/keys/me", ApiKey(prefix_of(victim), make_key("live").secret).text).status_code
                for _ in range(MAX_WRONG + 30)]  # fmt: skip
    assert statuses == [401] * MAX_WRONG + [429] * 30
    assert len(looked_up) == MAX_WRONG
    for key in (make_key("live").text, "malformed"):  # the address is used up
        answer = api.get("/v1/keys/me", key)
        assert answer.status_code == 429 and 0 < int(answer.headers["retry-after"]) <= 60
    # From the very address, with the very prefix: the right key works, never seen before or not.
    assert api.get("/v1/keys/me", victim).status_code == 200
    assert api.get("/v1/keys/me", neighbour).status_code == 200
    fresh = send(api, "POST", "/v1/keys", maker, NEW, status=201)
    assert api.get("/v1/keys/me", fresh["key"]).status_code == 200
    api.sql("UPDATE api_keys SET revoked_at = now() WHERE key_prefix = %s", (fresh["prefix"],))
    until_s = time.monotonic() + 1
    while api.get("/v1/keys/me", fresh["key"]).status_code == 200:
        assert time.monotonic() < until_s
    assert api.get("/v1/keys/me", fresh["key"]).status_code == 429


def test_while_nobody_tells_of_changes_right_keys_pass_all_the_same(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [api.key(*DATASETS) for _ in range(3)]
    monkeypatch.setattr(type(api.services.changes), "generation", lambda self, tables: None)

    async def ask() -> list[int]:
        async with httpx2.AsyncClient(base_url=api.url, timeout=30) as client:
            wrong = [make_key("live").text for _ in range(60)]
            answers = await asyncio.gather(
                *(client.get("/v1/keys/me", headers={"X-API-Key": key}) for key in (keys + wrong) * 2)
            )
        return [answer.status_code for answer in answers]

    statuses = asyncio.run(ask())
    assert set(statuses[:3] + statuses[63:66]) == {200}
    assert statuses.count(429) >= 60 and statuses.count(401) <= MAX_WRONG
    api.sql("UPDATE api_keys SET revoked_at = now() WHERE key_prefix = %s", (prefix_of(keys[0]),))
    assert api.get("/v1/keys/me", keys[0]).status_code in {401, 429}


def test_guesses_leave_memory_bounded(shared_api: ApiRig) -> None:
    wrong = shared_api.services.authenticator._wrong

    async def guess() -> None:
        for number in range(30_000):
            key = make_key("live")
            counted = await wrong.suspect(key, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
            assert len(counted) == 2

    shared_api.run(guess())
    assert len(wrong._addresses._taken) <= 10_000 and len(wrong._prefixes._taken) <= 10_000


def test_addresses_count_by_who_can_have_many() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:2") != network("2001:db8:0:1::1")
    assert network("::ffff:10.0.0.1") == network("10.0.0.1") != network("10.0.0.2")
    assert network("") == ""


@given(st.text(max_size=80) | st.from_regex(r"sk_(live|test)_.{0,60}"))
def test_no_text_but_a_key_is_one(text: str) -> None:
    key = parse_key(text)
    assert key is None or key.text == text


def test_a_revoked_key_is_refused_within_a_second_while_it_hammers(api: ApiRig) -> None:
    key = api.key(*DATASETS)
    answers: list[tuple[float, int]] = []
    ended = threading.Event()

    def hammer() -> None:
        with httpx2.Client(base_url=api.url) as client:
            while not ended.is_set():
                began_s = time.monotonic()
                answers.append((began_s, client.get("/v1/keys/me", headers={"X-API-Key": key}).status_code))

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        with psycopg.connect(api.database_url) as other:  # somebody else's session, by plain SQL
            other.execute("UPDATE api_keys SET revoked_at = now() WHERE key_prefix = %s", (prefix_of(key),))
        revoked_s = time.monotonic()
        time.sleep(1.3)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    before = [status for began_s, status in answers if began_s < revoked_s - 0.05]
    after = [status for began_s, status in answers if began_s > revoked_s + 1]
    assert before and set(before) == {200}
    assert after and set(after) <= {401, 429}


def test_expiry_goes_by_the_apis_clock(database_url: str, tmp_path: Any) -> None:
    settings = api_settings(database_url, tmp_path / "data", SSMD_CLOCK="2031-01-01T00:00:00Z@0")
    with ApiRig(settings).running() as api:
        admin = api.key("admin:write")
        made = send(api, "POST", "/v1/keys", admin, {**NEW, "expiresInHours": 1}, status=201)
        assert made["createdAt"] == "2031-01-01T00:00:00.000Z" and made["expiresAt"] == "2031-01-01T01:00:00.000Z"
        answer = api.get("/v1/keys/me", made["key"])
        assert answer.status_code == 200
        # A window is real time, whatever the clock shows.
        assert abs(int(answer.headers["x-ratelimit-reset"]) / 1000 - time.time() - 60) < 5
        api.services.clock._start_ns += 3601 * 10**9
        assert now_of(api.services.clock).hour == 1
        assert api.get("/v1/keys/me", made["key"]).status_code == 401


# -- the command line

Ssmd = Callable[..., Result]


@pytest.fixture
def ssmd(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Ssmd:
    """`ssmd("keys", "list")` on the API's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, code: int = 0) -> Result:
        answer = CliRunner().invoke(app, list(arguments))
        assert answer.exit_code == code, answer.output + repr(answer.exception)
        return answer

    return call


def refused_soon(api: ApiRig, key: str) -> bool:
    """Another process has revoked the key: word of it comes within milliseconds, on a busy machine somewhat later."""
    deadline_s = time.monotonic() + 5
    while (status := api.get("/v1/keys/me", key).status_code) == 200 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return status == 401


def test_the_first_key_comes_from_the_command_line(ssmd: Ssmd, api: ApiRig) -> None:
    made = ssmd("keys", "create", "--admin", "--email", "you@example.com", "--expires", "720h")
    admin = made.stdout.strip()
    assert parse_key(admin) is not None and made.stdout == admin + "\n"  # alone, so that $(…) is the key
    assert prefix_of(admin) in made.stderr and admin not in made.stderr
    me = api.json("/v1/keys/me", admin)
    assert me["scopes"] == ["admin:read", "admin:write"] and me["allowedFeeds"] == ["*"] and len(me["feeds"]) == 4
    # A wildcard stays where other things are changed over HTTP.
    assert send(api, "PATCH", f"/v1/keys/{me['prefix']}", admin, {"rateLimitTier": "elevated"})["allowedFeeds"] == ["*"]

    made = ssmd("keys", "create", "--email", "quant@example.com", "--feeds", "kalshi,kraken", "--date-from",
                "2026-11-01", "--date-to", "2099-12-31", "--tier", "elevated", "--json")  # fmt: skip
    row = json.loads(made.stdout)
    assert parse_key(row["key"]) is not None and row["scopes"] == ["datasets:read"] and made.stderr == ""
    listed = ssmd("keys", "list").stdout
    assert "from 2026-11-01 on" in listed and row["prefix"] in listed and row["key"] not in listed
    changed = ssmd("keys", "update", row["prefix"], "--scopes", "*", "--expires", "never", "--json")
    assert json.loads(changed.stdout)["scopes"] == ["*"]
    assert api.get("/v1/settings", row["key"]).status_code == 200
    rotated = ssmd("keys", "rotate", row["prefix"], "--overlap", "0h").stdout.strip()
    assert api.get("/v1/keys/me", rotated).status_code == 200
    assert refused_soon(api, row["key"])
    assert "is revoked" in ssmd("keys", "revoke", prefix_of(rotated)).stdout
    assert refused_soon(api, rotated)
    assert row["prefix"] in ssmd("keys", "show", prefix_of(rotated)).stdout
    api.run(api.services.usage.flush())
    usage = json.loads(ssmd("keys", "usage", "--json").stdout)["usage"]
    assert usage[0]["prefix"] == prefix_of(admin) and usage[0]["requests"] == 2
    assert prefix_of(admin) in ssmd("keys", "usage").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--email", "you@example.com"],
        ["create", "--email", "you", "--admin"],
        ["create", "--email", "you@example.com", "--admin", "--expires", "721h"],
        ["create", "--email", "you@example.com", "--admin", "--expires", "30m"],
        ["create", "--email", "you@example.com", "--admin", "--scopes", "root"],
        ["create", "--email", "you@example.com", "--admin", "--tier", "root"],
        [
            "create",
            "--email",
            "you@example.com",
            "--feeds",
            "x",
            "--date-from",
            "2026-11-01",
            "--date-to",
            "2026-11-02",
        ],
        ["create", "--email", "you@example.com", "--admin", "--date-from", "1.11.2026"],
        ["show", "sk_live_nobodyXX"],
        ["update", "sk_live_nobodyXX", "--scopes", "datasets:read"],
        ["rotate", "sk_live_nobodyXX"],
        ["revoke", "sk_live_nobodyXX"],
    ],
)
def test_the_command_line_says_what_is_wrong(
    shared_api: ApiRig, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", shared_api.database_url)
    answer = CliRunner().invoke(app, ["keys", *arguments])
    assert answer.exit_code == 2
    assert answer.stderr.startswith("ssmd: ") and answer.stderr.count("\n") == 1 and answer.stdout == ""
    assert not any(member in answer.stderr for member in NEW if not member.islower()), "these are options here"
