"""GraphQL: what is answered, to whom, and with how many statements."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx2
import psycopg
import pytest
from api_rig import ApiRig, api_settings
from examples import blocks
from graphql import FieldNode, GraphQLObjectType, OperationDefinitionNode, get_introspection_query, parse, validate
from installation import CLOCK, Installation

from ssmd_api.auth.access import ANY_KEY, Scope
from ssmd_api.graphql import dagster
from ssmd_api.graphql.schema import MUTATIONS, QUERIES, make_schema
from ssmd_core.feeds import FEEDS

MARKET, CHANGING = "KXBTC15M-26NOV2212-00", "KXBTC15M-26NOV2212-06"
AS_OF = "2026-11-20T13:15Z"
Ask = Callable[..., httpx2.Response]


@pytest.fixture(scope="module")
def rig(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRig]:
    """One running API on the installation for all tests here: each changes rows that no other one looks at."""
    folder = tmp_path_factory.mktemp("graphql")
    for name in ("archive", "datasets", "proof"):
        (folder / name).symlink_to(installation.data / name)
    with (
        installation.copy(f"graphql_{os.getpid()}") as url,
        ApiRig(api_settings(url, folder, SSMD_CLOCK=CLOCK)).running() as running,
    ):
        running.prepare_examples()
        yield running


def post(rig: ApiRig, query: str, key: str, variables: dict[str, Any] | None = None, **more: Any) -> httpx2.Response:
    """One document."""
    body = {"query": query, "variables": variables, **more}
    return rig.http.post("/graphql", json=body, headers={"X-API-Key": key} if key else {})


def data(rig: ApiRig, query: str, key: str, variables: dict[str, Any] | None = None) -> Any:
    """The data of a document that must be answered without an error."""
    response = post(rig, query, key, variables)
    assert response.status_code == 200 and "errors" not in response.json(), response.text
    return response.json()["data"]


def codes(response: httpx2.Response) -> list[str]:
    """Codes of the errors."""
    return [error["extensions"]["code"] for error in response.json().get("errors", [])]


def roots_of(text: str) -> list[str]:
    """Root fields of a document with one operation."""
    operation = parse(text).definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    return [one.name.value for one in operation.selection_set.selections if isinstance(one, FieldNode)]


EXAMPLES = [example.text for example in blocks("graphql", "api/graphql.md")]


def example_of(field: str) -> str:
    """A document with this root field alone, from the page's examples."""
    for text in EXAMPLES:
        if field in roots_of(text):
            operation = parse(text).definitions[0]
            assert isinstance(operation, OperationDefinitionNode)
            for one in operation.selection_set.selections:
                if isinstance(one, FieldNode) and one.name.value == field and one.loc is not None:
                    return f"{operation.operation.value} {{ {text[one.loc.start : one.loc.end]} }}"
    raise AssertionError(f"no example of {field} in docs/api/graphql.md")


def test_every_root_field_says_what_it_needs() -> None:
    schema = make_schema()
    for root, declared in ((schema.query_type, QUERIES), (schema.mutation_type, MUTATIONS)):
        assert isinstance(root, GraphQLObjectType)
        assert set(root.fields) == set(declared)
        for name, field in declared.items():
            assert field.scope in {*Scope, ANY_KEY}, name
            # What says nothing of a feed is about keys.
            assert field.feeds is not None or name.lower().endswith(("key", "keys")), name
            assert root.fields[name].description and example_of(name), name


def test_examples_are_answered(rig: ApiRig) -> None:
    key = rig.key(*Scope)
    for text in EXAMPLES:
        response = post(rig, text, key)
        assert response.status_code == 200, (text, response.text)
        expected = {"unavailable"} if "lineage" in text else set()
        assert set(codes(response)) == expected, (text, response.text)


def test_a_key_reaches_what_it_is_for_and_nothing_else(rig: ApiRig) -> None:
    """One table over all root fields: other scopes, other feeds, other days."""
    elsewhere = rig.key(*Scope, days=(date(2001, 1, 1), date(2001, 1, 2)))
    nothing = {scope: rig.key(*(one for one in Scope if one not in {scope, Scope.ADMIN_WRITE})) for scope in Scope}
    other_feeds: dict[tuple[str, ...], str] = {}
    wrong = []
    for name, field in (QUERIES | MUTATIONS).items():
        asked, refused = example_of(name), []
        if field.scope != ANY_KEY:
            refused.append(("scope", nothing[Scope(field.scope)]))
        if field.days is not None:
            refused.append(("days", elsewhere))
        own = field.feeds if isinstance(field.feeds, tuple) else ()
        if others := tuple(feed for feed in FEEDS if own and feed not in own):
            if others not in other_feeds:
                other_feeds[others] = rig.key(*Scope, feeds=others)
            refused.append(("feeds", other_feeds[others]))
        for why, key in refused:
            response = post(rig, asked, key)
            if (
                response.status_code != 403
                or codes(response) != ["forbidden"]
                or response.json()["data"] != {name: None}
            ):
                wrong.append((name, why, response.status_code, response.text[:200]))
    assert wrong == []


def test_a_named_feed_of_others_is_refused_and_lists_show_only_own(rig: ApiRig) -> None:
    kraken = rig.key(*Scope, feeds=["kraken"])
    for field in ("feeds { name }", "instruments { nodes { feed } }", "quality { nodes { feed } }"):
        name = field.split()[0]
        response = post(rig, f'{{ {name}(feed: "kalshi") {field[len(name) :]} }}', kraken)
        assert (response.status_code, codes(response)) == (403, ["forbidden"])
    found = data(rig, "{ feeds { name } pairs { nodes { marketType } } instruments { nodes { feed } } }", kraken)
    assert {one["name"] for one in found["feeds"]} == {"kraken"}
    assert {one["marketType"] for one in found["pairs"]["nodes"]} == {"spot"}
    assert {one["feed"] for one in found["instruments"]["nodes"]} == {"kraken"}
    futures = post(rig, '{ pair(pairId: "kraken:PF_XBTUSD") { symbol } }', kraken)
    assert (futures.status_code, codes(futures)) == (403, ["forbidden"])
    assert futures.json()["errors"][0]["extensions"]["requestId"] == futures.headers["x-request-id"]


def test_what_is_reached_is_answered_beside_what_is_not(rig: ApiRig) -> None:
    key = rig.key(Scope.SECMASTER_READ, feeds=["kalshi"])
    response = post(rig, f'{{ market(ticker: "{MARKET}") {{ ticker }} feeds {{ name }} }}', key)
    assert response.status_code == 200 and codes(response) == ["forbidden"]
    assert response.json()["data"] == {"market": {"ticker": MARKET}, "feeds": None}
    absent = post(rig, '{ market(ticker: "none") { ticker } feeds { name } }', key)
    assert absent.status_code == 200 and absent.json()["data"] == {"market": None, "feeds": None}
    neither = post(rig, '{ pair(pairId: "x") { symbol } feeds { name } }', key)
    assert neither.status_code == 403 and codes(neither) == ["forbidden", "forbidden"]


def test_values_and_relations(rig: ApiRig) -> None:
    key = rig.key(*Scope)
    row = rig.sql("SELECT yes_bid::text, close_time, event_ticker FROM markets WHERE ticker = %s", (MARKET,))[0]
    query = (
        "query($t: String!, $at: DateTime) { market(ticker: $t, asOf: $at) { yesBid closeTime createdAt "
        "event { eventTicker series { ticker fees { nodes { feeType } } } markets(first: 2) { nodes { ticker } } } "
        'history { nodes { knownFrom knownTo } } } missing: market(ticker: "none") { ticker } }'
    )
    for moment in (None, AS_OF):
        found = data(rig, query, key, {"t": MARKET, "at": moment})
        market = found["market"]
        assert found["missing"] is None
        assert market["yesBid"] == row[0] and market["event"]["eventTicker"] == row[2]
        assert datetime.fromisoformat(market["closeTime"]) == row[1] and market["closeTime"].endswith("Z")
        assert (market["createdAt"] is None) == (moment is not None)
        assert market["event"]["series"]["ticker"] == "KXBTC15M"
        assert market["event"]["markets"]["nodes"][0]["ticker"] == MARKET
        assert market["history"]["nodes"][0]["knownTo"] is None
    before = data(rig, query, key, {"t": MARKET, "at": "2026-11-20T12:00Z"})
    assert before["market"] is None


def test_history_ends_where_the_key_does(rig: ApiRig) -> None:
    """A version that became known after the key's last day is not shown, nor when the one before it ended."""
    with psycopg.connect(rig.database_url, autocommit=True) as connection:
        connection.execute("SELECT set_config('ssmd.now', '2026-11-20T13:15:00Z', false)")
        connection.execute("UPDATE markets SET yes_bid = 0.01 WHERE ticker = %s", (CHANGING,))
        connection.execute("SELECT set_config('ssmd.now', '2026-11-21T00:00:00Z', false)")
        connection.execute("UPDATE markets SET yes_bid = 0.02 WHERE ticker = %s", (CHANGING,))
    selection = "{ yesBid history { nodes { yesBid knownTo } } }"
    query = f'{{ market(ticker: "{CHANGING}", asOf: "2026-11-20T13:15Z") {selection} }}'
    day = date(2026, 11, 20)
    found = data(rig, query, rig.key(*Scope, days=(day, day)))["market"]
    assert [version["yesBid"] for version in found["history"]["nodes"]] == [
        "0.01",
        found["history"]["nodes"][1]["yesBid"],
    ]
    assert found["history"]["nodes"][0]["knownTo"] is None
    later = query.replace(', asOf: "2026-11-20T13:15Z"', "")
    both = (day, day + timedelta(days=1))
    versions = data(rig, later, rig.key(*Scope, days=both))["market"]["history"]["nodes"]
    assert [version["yesBid"] for version in versions[:2]] == ["0.02", "0.01"]
    assert len(data(rig, later, rig.key(*Scope, days=(day, day)))["market"]["history"]["nodes"]) == 2


@pytest.mark.parametrize(
    ("field", "key", "moment"),
    [
        ("markets", "ticker", ""),
        ("markets", "ticker", f', asOf: "{AS_OF}"'),
        ("pairs", "pairId", ""),
        ("tokens", "tokenId", f', asOf: "{AS_OF}"'),
        ("instruments", "instrumentId", ""),
    ],
)
def test_pages_are_a_whole_list_in_order(rig: ApiRig, field: str, key: str, moment: str) -> None:
    secret = rig.key(*Scope)
    query = (
        f"query($after: String) {{ {field}(first: 3, after: $after{moment}) {{ nodes {{ {key} }} edges {{ cursor }} "
    )
    query += "pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"
    seen: list[str] = []
    after = None
    while True:
        page = data(rig, query, secret, {"after": after})[field]
        assert len(page["nodes"]) <= 3 and page["pageInfo"]["hasPreviousPage"] == (after is not None)
        assert [edge["cursor"] for edge in page["edges"]][-1] == page["pageInfo"]["endCursor"]
        seen += [node[key] for node in page["nodes"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    whole = data(rig, query.replace("first: 3", "first: 1000"), secret)[field]["nodes"]
    assert seen == [node[key] for node in whole] and len(set(seen)) == len(seen) > 3
    for strange in ("", "nonsense", "e30", "\u00e9", after or ""):
        response = post(rig, query.replace("first: 3", 'first: 3, status: "active"') if field == "markets"
                        else query, secret, {"after": strange})  # fmt: skip
        assert response.status_code == 200 and codes(response) in (["invalid"], [])
        assert strange == after or codes(response) == ["invalid"]


@contextmanager
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is asked of the security master meanwhile; keys and the pool's own questions are not counted."""
    seen: list[str] = []

    def counting(kind: Any) -> Any:
        execute = kind.execute

        async def counted(self: Any, query: Any, *values: Any, **more: Any) -> Any:
            text = query.decode() if isinstance(query, bytes) else str(query)
            if "FROM" in text and "api_keys" not in text and "settings" not in text:
                seen.append(text)
            return await execute(self, query, *values, **more)

        return counted

    with monkeypatch.context() as patch:
        for kind in (psycopg.AsyncCursor, psycopg.AsyncServerCursor):
            patch.setattr(kind, "execute", counting(kind))
        yield seen


@pytest.mark.parametrize("moment", ["", f', asOf: "{AS_OF}"'])
@pytest.mark.parametrize(
    ("field", "selection"),
    [
        ("markets", "event { series { fees { nodes { feeType } } } } fee { feeType } history { nodes { status } }"),
        ("events", "series { tags } markets { nodes { fee { feeType } } } history { nodes { version } }"),
        ("pairs", "snapshots { nodes { markPrice } } history { nodes { version } }"),
        ("conditions", "tokens { nodes { price condition { question } } }"),
        ("tokens", "condition { question tokens { nodes { outcome } } }"),
        ("seriesList", "events { nodes { markets { nodes { ticker } } } } fees { nodes { series { title } } }"),
    ],
)  # fmt: skip
def test_a_list_makes_as_many_statements_as_one_row(
    rig: ApiRig, monkeypatch: pytest.MonkeyPatch, field: str, selection: str, moment: str
) -> None:
    key = rig.key(*Scope)
    data(rig, "{ __typename }", key)  # the key is known from now on
    counts = {}
    for first in (1, 8):
        with statements(monkeypatch) as bare:
            data(rig, f"{{ {field}(first: {first}{moment}) {{ nodes {{ __typename }} }} }}", key)
        with statements(monkeypatch) as seen:
            query = f"{{ {field}(first: {first}{moment}) {{ nodes {{ {selection} }} }} }}"
            rows = data(rig, query, key)[field]["nodes"]
        # As of a moment the list itself is read in parts that grow with what it has to skip.
        assert len(bare) == 1 or moment
        counts[len(rows)] = len(seen) - len(bare)
        walks = [sum("RECURSIVE" in text for text in texts) for texts in (bare, seen)]
        assert walks[0] == walks[1], "what belongs to rows is found without a walk through all of history"
    assert len(counts) == 2, "the list has one row only"
    assert len(set(counts.values())) == 1, (counts, seen)


def test_requests_of_one_moment_share_a_statement(rig: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    key = rig.key(*Scope)
    data(rig, "{ __typename }", key)
    tickers = [row[0] for row in rig.sql("SELECT ticker FROM markets ORDER BY 1 LIMIT 8")]

    async def together() -> list[httpx2.Response]:
        async with httpx2.AsyncClient(base_url=rig.url, headers={"X-API-Key": key}) as client:
            query = "query($t: String!) { market(ticker: $t) { ticker } }"
            asked = [client.post("/graphql", json={"query": query, "variables": {"t": one}}) for one in tickers]
            return await asyncio.gather(*asked)

    with statements(monkeypatch) as seen:
        answers = asyncio.run(together())
    assert [one.json()["data"]["market"]["ticker"] for one in answers] == tickers
    assert len(seen) < len(tickers)


def test_an_answer_is_kept_until_a_table_changes(rig: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    key, query = rig.key(*Scope), f'{{ market(ticker: "{CHANGING}") {{ noBid }} }}'
    data(rig, query, key)
    with statements(monkeypatch) as seen:
        data(rig, query, key)
    assert seen == []
    rig.sql("UPDATE markets SET no_bid = 0.0123 WHERE ticker = %s", (CHANGING,))
    end_s = time.monotonic() + 5
    while data(rig, query, key)["market"]["noBid"] != "0.0123":
        assert time.monotonic() < end_s
    narrow = rig.key(Scope.SECMASTER_READ, feeds=["kraken"])
    assert post(rig, query, narrow).status_code == 403


def test_keys_are_made_changed_rotated_and_revoked(rig: ApiRig) -> None:
    admin = rig.key(Scope.ADMIN_WRITE)
    made = data(
        rig,
        'mutation { createKey(name: "a", scopes: ["secmaster:read"], allowedFeeds: ["kalshi"], environment: TEST, '
        'dateRangeStart: "2026-11-01", dateRangeEnd: "2026-11-30", userEmail: "quant@example.com") '
        "{ key prefix userEmail expiresAt createdBy } }",
        admin,
    )["createKey"]
    assert made["userEmail"] == "quant@example.com" and made["createdBy"] == admin[:16] and made["expiresAt"] is None
    market = f'{{ market(ticker: "{MARKET}") {{ ticker }} }}'
    assert data(rig, market, made["key"])["market"] == {"ticker": MARKET}
    change = 'mutation($p: String!) { updateKey(prefix: $p, allowedFeeds: ["kraken"], expiresInHours: 1) '
    changed = data(rig, change + "{ allowedFeeds scopes expiresAt } }", admin, {"p": made["prefix"]})["updateKey"]
    assert changed["allowedFeeds"] == ["kraken"] and changed["scopes"] == ["secmaster:read"] and changed["expiresAt"]
    assert post(rig, market, made["key"]).status_code == 403
    refused = post(rig, change + "{ scopes } }", made["key"], {"p": made["prefix"]})
    assert (refused.status_code, codes(refused)) == (403, ["forbidden"])
    rotate = "mutation($p: String!) { rotateKey(prefix: $p, overlapHours: 0) { key prefix rotatedFrom } }"
    rotated = data(rig, rotate, made["key"], {"p": made["prefix"]})["rotateKey"]
    assert rotated["rotatedFrom"] == made["prefix"]
    own = data(rig, "{ keys { nodes { prefix } } }", rotated["key"])["keys"]["nodes"]
    assert own[0]["prefix"] == rotated["prefix"]
    revoke = "mutation($p: String!) { revokeKey(prefix: $p) { revokedAt } }"
    assert data(rig, revoke, admin, {"p": rotated["prefix"]})["revokeKey"]["revokedAt"]
    assert post(rig, market, rotated["key"]).status_code == 401
    invalid = post(rig, change + "{ scopes } }", admin, {"p": "sk_test_nonesuch"})
    assert codes(invalid) == ["not_found"]


def test_data_that_is_given_out_is_written_down(rig: ApiRig) -> None:
    key = rig.key(Scope.DATASETS_READ, feeds=["kalshi"], days=(date(2026, 11, 20), date(2026, 11, 20)))
    query = '{ signedUrls(feed: "kalshi", from: "2026-11-18", to: "2026-11-22", type: "trade") { from to files { signedUrl sha256 bytes } } }'  # noqa: E501  # one document
    found = data(rig, query, key)["signedUrls"]
    assert (found["from"], found["to"]) == ("2026-11-20", "2026-11-20") and len(found["files"]) == 2
    body = rig.http.get(found["files"][0]["signedUrl"]).content
    assert len(body) == found["files"][0]["bytes"]
    logged = rig.sql(
        "SELECT feed, date_from, files_count, route FROM data_access_log WHERE route ~ 'graphql' AND key_prefix = %s",
        (key[:16],),
    )
    assert logged == [("kalshi", date(2026, 11, 20), 2, "graphql:signedUrls")]
    for bad in (
        'to: "2026-12-22"',
        'to: "2026-11-17"',
        'to: "2026-11-18", expiresInHours: 13',
        'to: "2026-11-18", type: "x"',
    ):
        refused = post(rig, f'{{ datasets(feed: "kalshi", from: "2026-11-18", {bad}) {{ files {{ path }} }} }}', key)
        assert refused.status_code in {200, 400, 403} and codes(refused)[0] in {"invalid", "forbidden"}


def test_quality_is_what_the_table_holds(rig: ApiRig) -> None:
    for n in range(3):
        rig.sql(
            "INSERT INTO dq_daily_scores (check_date, feed, score, details) VALUES (%s, 'kalshi', %s, '{}')",
            (date(2026, 11, 15 + n), 80 + n),
        )
    key = rig.key(*Scope)
    query = 'query($after: String) { quality(feed: "kalshi", to: "2026-11-17", first: 2, after: $after) { nodes { date score grade } pageInfo { endCursor } } }'  # noqa: E501  # one document
    page = data(rig, query, key)["quality"]
    assert page["nodes"][0] == {"date": "2026-11-17", "score": 82.0, "grade": "B"}
    rest = data(rig, query, key, {"after": page["pageInfo"]["endCursor"]})["quality"]["nodes"]
    assert [one["date"] for one in rest] == ["2026-11-15"]


def test_bodies_that_are_no_request(rig: ApiRig) -> None:
    key = rig.key(*Scope)
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    for body, status in (
        (b"", 400), (b"{", 400), (b"[]", 400), (b'[{"query":"{__typename}"}]', 400), (b'{"query":1}', 400),
        (b'{"query":"{__typename}","variables":[]}', 400), (b'{"query":"{__typename}","variables":"x"}', 400),
        (b'{"query":"{__typename}","variables":' + b"[" * 30_000 + b"}", 400),
        (b'{"query":"{__typename}","variables":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}", 400),
        (b'{"query":"\\ud800"}', 400), (b"\xff\xfe", 400), (b'{"query":"' + b" " * 70_000 + b'"}', 413),
        (b'{"query":"{__typename}","operationName":"none"}', 400), (b'{"query":"{__typename}","variables":null}', 200),
        (b'{"query":"query A{__typename} query B{__typename}"}', 400),
        (b'{"query":"query A{__typename} query B{__typename}","operationName":"B"}', 200),
    ):  # fmt: skip
        response = rig.http.post("/graphql", content=body, headers=headers)
        assert response.status_code == status, (body[:60], response.text[:300])
    for media_type in ("text/plain", "application/graphql", "multipart/form-data", ""):
        headers["Content-Type"] = media_type
        assert rig.http.post("/graphql", content=b'{"query":"{a}"}', headers=headers).status_code == 415
    assert post(rig, "{ __typename }", "").status_code == 401
    assert rig.http.put("/graphql").status_code == 405


def test_values_that_no_column_has(rig: ApiRig) -> None:
    key = rig.key(*Scope)
    for strange in ("\0", "a\0b", "'; DROP TABLE markets; --", "%s", "\u202e", "x" * 5_000, "\U0001f600"):
        response = post(rig, "query($t: String!) { market(ticker: $t) { ticker } }", key, {"t": strange})
        assert response.status_code == 200 and codes(response) in ([], ["invalid"]), response.text
        assert response.json()["data"] == {"market": None}
    for moment in ("yesterday", "0000-01-01", "9999-12-31T23:59:59-12:00", 5, "", "2026-11-20T13:15:00" + "Z" * 900):
        response = post(rig, "query($m: DateTime) { markets(asOf: $m) { nodes { ticker } } }", key, {"m": moment})
        assert response.status_code == 400 and set(codes(response)) == {"invalid"}, response.text
    for price in ("NaN", "Infinity", "1e999999999", 0.5, True, [], "1" * 65, "0.5.5"):
        response = post(
            rig, 'query($p: Decimal!) { fee(series: "X", price: $p, contracts: 1) { feeType } }', key, {"p": price},
        )  # fmt: skip
        assert response.status_code == 400 and set(codes(response)) == {"invalid"}, response.text
    for first in (0, -1, 1001):
        assert codes(post(rig, f"{{ markets(first: {first}) {{ nodes {{ ticker }} }} }}", key)) == ["invalid"]
    for status in ("wrong", "\0"):
        response = post(rig, "query($s: String) { markets(status: $s) { nodes { ticker } } }", key, {"s": status})
        assert codes(response) == ["invalid"]
    assert "markets" not in post(rig, '{ fee(series: "none", price: "0.5", contracts: 1) { feeDollars } }', key).text


def test_who_may_introspect(rig: ApiRig) -> None:
    found = data(rig, get_introspection_query(), rig.key(Scope.SECMASTER_READ))
    assert any(one["name"] == "Market" for one in found["__schema"]["types"])
    chat = rig.key(Scope.LLM_CHAT)
    response = post(rig, "{ __schema { queryType { name } } }", chat)
    assert response.status_code == 403 and response.json()["code"] == "forbidden"
    assert data(rig, "{ __typename }", chat) == {"__typename": "Query"}


def test_the_page(rig: ApiRig) -> None:
    page = rig.get("/graphql")
    assert (
        page.headers["content-type"].startswith("text/html")
        and "script-src 'self'" in page.headers["content-security-policy"]
    )
    assert "https://" not in page.text and "<script>" not in page.text
    names = [part.split('"')[0] for part in page.text.split('"/graphql/assets/')[1:]]
    assert "graphiql.min.js" in names and "page.js" in names
    for name in names:
        asset = rig.get(f"/graphql/assets/{name}")
        assert asset.status_code == 200 and asset.headers["etag"]
        again = rig.http.get(f"/graphql/assets/{name}", headers={"If-None-Match": asset.headers["etag"]})
        assert again.status_code == 304
    for strange in ("none.js", "..%2fview.py", "%2e%2e%2f%2e%2e%2fsettings.py", "__init__.py"):
        assert rig.get(f"/graphql/assets/{strange}").status_code == 404


def test_the_page_without_graphiql() -> None:
    from ssmd_api.graphql.graphiql import page

    text = page(None)
    assert "plain.js" in text and "graphiql.min.js" not in text and 'id="query"' in text


def test_questions_to_dagster_fit_its_schema() -> None:
    from dagster_graphql.schema import create_schema

    schema = create_schema().graphql_schema
    for text in (dagster.LINEAGE_QUESTION, dagster.MATERIALIZATION_QUESTION):
        assert validate(schema, parse(text)) == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "bad_upstream"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnope", "bad_upstream"),
        (b'HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n{"data": {"assetNodes": "abc"}}', "bad_upstream"),
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", "bad_upstream"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n", "bad_upstream"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000_000, "bad_upstream"),
        (b"", "unavailable"),
        (b"rubbish\r\n\r\n", "unavailable"),
    ],
)
def test_a_dagster_that_answers_nonsense(answer: bytes, code: str) -> None:
    from ssmd_api.errors import ApiError

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(answer)
        writer.close()

    async def ask() -> str:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                await dagster.ask(f"http://127.0.0.1:{port}", "{ a }")
            except ApiError as error:
                return error.code
        return "answered"

    assert asyncio.run(ask()) == code


def test_days_and_feeds_of_lineage(database_url: str, tmp_path: Any) -> None:
    """Nothing is asked of Dagster for an asset of a feed that the key lacks."""
    with ApiRig(api_settings(database_url, tmp_path, DAGSTER_URL="http://127.0.0.1:1")).running() as own:
        kalshi = own.key(Scope.DATASETS_READ, feeds=["kalshi"])
        for asset, code in (
            ("kraken/spot/trade", "forbidden"), ("kraken_futures/futures/trade", "forbidden"), ("", "invalid"),
            ("none/x", "invalid"), ("kalshi//x", "invalid"), ("kalshi/" + "x" * 300, "invalid"),
            ("kalshi/crypto/trade", "unavailable"),
        ):  # fmt: skip
            response = post(own, "query($a: String!) { lineage(asset: $a) { asset } }", kalshi, {"a": asset})
            assert codes(response) == [code], (asset, response.text)


def test_a_word_that_no_instrument_has_is_refused(rig: ApiRig) -> None:
    key = rig.key(*Scope)
    for argument, field in (('status: "nonsense"', "status"), ('instrumentType: "stock"', "instrumentType"),
                            ('instrumentType: ""', "instrumentType")):  # fmt: skip
        response = post(rig, f"{{ instruments({argument}) {{ nodes {{ instrumentId }} }} }}", key)
        assert response.json()["errors"][0]["extensions"] == {
            "code": "invalid", "field": field, "requestId": response.headers["x-request-id"],
        }  # fmt: skip
    query = '{ instruments(status: "Active", instrumentType: "SPOT", first: 1) { nodes { instrumentType status } } }'
    assert data(rig, query, key)["instruments"]["nodes"] == [{"instrumentType": "spot", "status": "active"}]


def test_moments_are_utc(rig: ApiRig) -> None:
    key = rig.key(*Scope)
    query = 'query($m: DateTime) { market(ticker: "%s", asOf: $m) { ticker } }' % MARKET  # noqa: UP031  # braces
    for moment in ("2026-11-20T14:15+01:00", "2026-11-20T13:15", "2026-11-20T13:15:00.000001Z"):
        assert data(rig, query, key, {"m": moment})["market"] == {"ticker": MARKET}
    assert datetime.now(UTC).tzinfo is UTC
