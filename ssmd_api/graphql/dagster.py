"""What Dagster knows of an asset: where it comes from, and when it was last made. Asked over its GraphQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import graphene
import httpx2
import orjson
import structlog

from ssmd_api.auth.access import Scope
from ssmd_api.errors import InvalidRequestError, NotFoundError, UnavailableError, UpstreamError
from ssmd_api.graphql import scalars
from ssmd_api.graphql.fields import RootField
from ssmd_api.graphql.types import list_of, object_type
from ssmd_api.params import shown
from ssmd_api.routing import Call, DayRule
from ssmd_core.feeds import FEEDS as REGISTRY

log = structlog.get_logger()

_TIMEOUT_S = 5.0
_MAX_BYTES = 4 * 1024 * 1024
_MAX_ASSET_CHARS = 256
# All assets at once: their lineage is a few hundred edges, and Dagster has no question for a part of it.
LINEAGE_QUESTION = "{ assetNodes { assetKey { path } groupName description dependencyKeys { path } } }"
MATERIALIZATION_QUESTION = (
    "query Last($key: AssetKeyInput!) { assetOrError(assetKey: $key) { __typename ... on Asset { "
    "assetMaterializations(limit: 1) { runId timestamp partition } } } }"
)


async def ask(dagster_url: str, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """The data of a question to Dagster's GraphQL.

    Args:
        dagster_url: of its webserver; "" if there is none.
        query: a constant; what a stranger wrote goes into the variables.

    Raises:
        UnavailableError: there is none, or it does not answer within five seconds.
        UpstreamError: it answers with something else.
    """
    if not dagster_url:
        raise UnavailableError("lineage needs Dagster's webserver, and none is configured (DAGSTER_URL)")
    timeout = httpx2.Timeout(_TIMEOUT_S)
    try:
        async with (
            httpx2.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", f"{dagster_url}/graphql", json={"query": query, "variables": variables}) as response,
        ):
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    raise UpstreamError("Dagster's answer is too large")
            if response.status_code != 200:
                log.warning("dagster_refused", status=response.status_code)
                raise UpstreamError("Dagster refused the question")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        log.warning("dagster_away", error=str(error), kind=type(error).__name__)
        raise UnavailableError("Dagster's webserver does not answer now") from error
    try:
        data = orjson.loads(body)["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        data = None
    if not isinstance(data, dict):
        raise UpstreamError("Dagster answered with something that is no answer")
    return data


def path_of(call: Call) -> list[str]:
    """The asset key that is asked for, `kalshi/crypto/trade`; its first part is a feed's name.

    Raises:
        InvalidRequestError: it is none.
        ForbiddenError: the key does not reach its feed.
    """
    path = str(call.query.asset).split("/")
    feed = feed_of(path)
    if len(call.query.asset) > _MAX_ASSET_CHARS or feed is None or not all(path):
        text = f"asset: {shown(call.query.asset)} is not the key of an asset such as kalshi/crypto/trade"
        raise InvalidRequestError(text, field="asset")
    call.principal.check_feed(feed)
    return path


def feed_of(path: list[str]) -> str | None:
    """The feed that an asset belongs to; Dagster's names have `_` for `-`."""
    name = path[0].replace("_", "-") if path else ""
    return name if name in REGISTRY else None


async def _lineage(call: Call) -> Any:
    path = path_of(call)
    data = await ask(call.services.settings.dagster_url, LINEAGE_QUESTION)
    try:
        nodes = {"/".join(node["assetKey"]["path"]): node for node in data["assetNodes"]}
        above = {key: ["/".join(one["path"]) for one in node["dependencyKeys"]] for key, node in nodes.items()}
    except (KeyError, TypeError):
        raise UpstreamError("Dagster answered with something that is no list of assets") from None
    key = "/".join(path)
    if key not in nodes:
        raise NotFoundError(f"Dagster has no asset {shown(key)}")
    below: dict[str, list[str]] = {}
    for child, parents in above.items():
        for parent in parents:
            below.setdefault(parent, []).append(child)

    def reached(keys: list[str]) -> list[str]:
        """Only assets of feeds that the key reaches."""
        allowed = call.principal.allowed_feeds
        return sorted(one for one in keys if feed_of(one.split("/")) in allowed)

    return {
        "asset": key,
        "group": nodes[key].get("groupName"),
        "description": nodes[key].get("description"),
        "upstream": reached(above[key]),
        "downstream": reached(below.get(key, [])),
        "ancestors": reached(_all(key, above)),
        "descendants": reached(_all(key, below)),
    }


def _all(start: str, edges: dict[str, list[str]]) -> list[str]:
    """All that can be reached, without the start; a cycle ends."""
    seen, todo = {start}, [start]
    while todo:
        for one in edges.get(todo.pop(), []):
            if one not in seen:
                seen.add(one)
                todo.append(one)
    return [*(seen - {start})]


async def _last_materialization(call: Call) -> Any:
    path = path_of(call)
    data = await ask(call.services.settings.dagster_url, MATERIALIZATION_QUESTION, {"key": {"path": path}})
    try:
        asset = data["assetOrError"]
        if asset["__typename"] != "Asset":
            raise NotFoundError(f"Dagster has no asset {shown('/'.join(path))}")
        found = asset["assetMaterializations"]
        if not found:
            return None
        at = datetime.fromtimestamp(float(found[0]["timestamp"]) / 1000, UTC)
        return {"asset": "/".join(path), "run_id": found[0]["runId"], "at": at, "partition": found[0]["partition"]}
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        raise UpstreamError("Dagster answered with something that is no materialisation") from None


_TEXT = graphene.String
LINEAGE = object_type("Lineage", "Where an asset comes from and what is made of it; assets that the key reaches.", {
    "asset": graphene.Field(_TEXT, required=True),
    "group": graphene.Field(_TEXT),
    "description": graphene.Field(_TEXT),
    "upstream": graphene.Field(list_of(_TEXT), required=True, description="What it is made from."),
    "downstream": graphene.Field(list_of(_TEXT), required=True, description="What is made from it."),
    "ancestors": graphene.Field(list_of(_TEXT), required=True, description="What all that is made from, and so on."),
    "descendants": graphene.Field(list_of(_TEXT), required=True),
})  # fmt: skip
MATERIALIZATION = object_type("Materialization", "When an asset was made.", {
    "asset": graphene.Field(_TEXT, required=True),
    "run_id": graphene.Field(_TEXT, required=True),
    "partition": graphene.Field(_TEXT, description="The hour, `2026-11-20-11:00`."),
    "at": graphene.Field(scalars.DATE_TIME, required=True),
})  # fmt: skip


def _field(gives: Any, resolve: Any, about: str) -> RootField:
    text = "Its key in Dagster, e.g. kalshi/crypto/trade."
    return RootField(
        gives=gives,
        arguments={"asset": graphene.Argument(_TEXT, required=True, description=text)},
        scope=Scope.DATASETS_READ,
        feeds=tuple(REGISTRY),
        days=DayRule.AS_OF,
        about=about,
        resolve=resolve,
    )


FIELDS: dict[str, RootField] = {
    "lineage": _field(LINEAGE, _lineage, "What an asset is made from, and what is made from it."),
    "lastMaterialization": _field(
        MATERIALIZATION, _last_materialization, "When an asset was last made; null if it never was."
    ),
}
