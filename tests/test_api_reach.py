"""Every route needs what it declares, and a key that reaches less gets nothing: one table over all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

import pytest
from api_rig import ApiRig
from examples import HttpExample, http_examples
from installation import DAY
from starlette.routing import compile_path

from ssmd_api.app import ROUTES
from ssmd_api.auth.access import Scope
from ssmd_api.routing import DayRule, FeedRule, Route
from ssmd_core.feeds import FEEDS

#: Routes without a key; whatever is added here is open to the world.
OPEN = {
    "/", "/health", "/ready", "/version", "/metrics", "/openapi.json", "/docs", "/graphql", "/graphql/assets/{name}",
    "/datasets",
    "/v1/files/{path:path}", "/static/{path:path}",
}  # fmt: skip
#: Routes about no feed at all; each says nothing about captured data or the security master.
FEEDLESS = re.compile(r"/v1/(keys|settings|chat)(/|\Z)|/graphql|/mcp")
ELSEWHERE = (date(2001, 1, 1), date(2001, 1, 2))


class Asked(NamedTuple):
    """A route and a request that it answers."""

    route: Route
    example: HttpExample


def route_of(example: HttpExample) -> Route | None:
    """The first route that takes the request."""
    for route in ROUTES:
        if route.method == example.method and compile_path(route.path)[0].match(example.path):
            return route
    return None


def asked() -> Iterator[Asked]:
    """Each route that needs a key, with an example: one that succeeds, where there is one."""
    examples = sorted(http_examples(), key=lambda example: example.status not in {0, 200, 201})
    for route in ROUTES:
        if route.scope is not None:
            yield Asked(route, next(example for example in examples if route_of(example) is route))


def test_every_route_has_an_example() -> None:
    shown = {id(route_of(example)) for example in http_examples()}
    assert [f"{route.method} {route.path}" for route in ROUTES if id(route) not in shown] == []


def test_every_route_without_a_key_is_known_to_be_open() -> None:
    assert {route.path for route in ROUTES if route.scope is None} - OPEN == set()


def test_every_route_about_a_feed_says_so() -> None:
    assert [r.path for r in ROUTES if r.scope is not None and r.feeds is None and not FEEDLESS.match(r.path)] == []


@pytest.fixture
def requests(installed_api: ApiRig) -> list[Asked]:
    """Requests, in the API that answers them."""
    installed_api.prepare_examples()
    return list(asked())


def test_a_key_reaches_what_it_is_for_and_nothing_else(installed_api: ApiRig, requests: list[Asked]) -> None:
    others = {
        scope: installed_api.key(*(one for one in Scope if one not in {scope, Scope.ADMIN_WRITE})) for scope in Scope
    }
    elsewhere = installed_api.key(*Scope, days=ELSEWHERE)
    wrong = []
    for route, example in requests:
        name = f"{route.method} {route.path}"
        if (got := installed_api.send(example, "").status_code) != 401:
            wrong.append((name, "without a key", got))
        if route.scope in others and (got := installed_api.send(example, others[route.scope]).status_code) != 403:
            wrong.append((name, f"without {route.scope}", got))
        if route.days is not None:
            there = example._replace(target=_on(example.target, DAY, route.days))
            if (got := installed_api.send(there, elsewhere).status_code) != 403:
                wrong.append((name, "on other days", got))
        if isinstance(route.feeds, tuple):
            feeds = [feed for feed in FEEDS if feed not in route.feeds]
            other = installed_api.key(*Scope, feeds=feeds)
            if feeds and (got := installed_api.send(example, other).status_code) != 403:
                wrong.append((name, f"for {feeds}", got))
    assert wrong == []


def test_a_key_for_one_feed_sees_no_other(installed_api: ApiRig, requests: list[Asked]) -> None:
    """Where the feed is a parameter: another one is refused, and without it the answer names none but the key's own."""
    key = installed_api.key(*Scope, feeds=["kalshi"])
    wrong = []
    for route, example in requests:
        if route.feeds is not FeedRule.PARAM or route.method != "GET":
            continue
        for feed in FEEDS:
            target = _with_feed(example.target, feed)
            got = installed_api.send(example._replace(target=target), key)
            # The example's other parameters may mean nothing for kalshi: that is not a refusal.
            if (got.status_code == 403) != (feed != "kalshi"):
                wrong.append((target, got.status_code))
        bare = installed_api.send(example._replace(target=_with_feed(example.target, "")), key)
        named = [feed for feed in FEEDS if feed != "kalshi" and f'"{feed}"' in bare.text]
        if bare.status_code == 200 and named:
            wrong.append((route.path, named))
    assert wrong == []


def _on(target: str, day: date, rule: DayRule) -> str:
    """The request on a day; what says nothing of days asks for what is now."""
    if rule not in {DayRule.SPAN, DayRule.CLAMP}:
        return target
    path, _, query = target.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith(("from=", "to="))]
    return f"{path}?{'&'.join([*kept, f'from={day}', f'to={day}'])}"


def _with_feed(target: str, feed: str) -> str:
    path, _, query = target.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("feed=")]
    return f"{path}?{'&'.join([*kept, *([f'feed={feed}'] if feed else [])])}"
