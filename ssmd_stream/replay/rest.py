"""The little of the venues' REST interfaces that a connector asks before it subscribes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from ssmd_stream.replay.generator.kraken import asset_pairs

MarketList = Callable[[], list[dict[str, Any]]]
MAX_PAGE = 1000


def rest_app(feed: str, gamma: MarketList) -> tuple[web.Application, str] | None:
    """The application of a feed and the path of its base; None for feeds that have none.

    Kraken: `GET /0/public/AssetPairs[?pair=]`. Polymarket (Gamma): `GET /markets` by limit and offset,
    `GET /markets/keyset` by limit and after_cursor; both with `closed` (default false).

    Args:
        gamma: Gamma's market objects.
    """
    app = web.Application()
    if feed == "kraken":
        app.router.add_get("/0/public/AssetPairs", _asset_pairs)
        return app, "/0/public"
    if feed == "polymarket":

        async def markets(request: web.Request) -> web.Response:
            found = _chosen(request, gamma())
            offset = _number(request, "offset", 0)
            return _json(found[offset : offset + min(_number(request, "limit", 20), MAX_PAGE)])

        async def keyset(request: web.Request) -> web.Response:
            found = _chosen(request, gamma())
            after = request.query.get("after_cursor", "")
            start = next((index + 1 for index, each in enumerate(found) if each["id"] == after), 0)
            page = found[start : start + min(_number(request, "limit", 20), MAX_PAGE)]
            more = start + len(page) < len(found)
            return _json({"markets": page} | ({"next_cursor": page[-1]["id"]} if page and more else {}))

        app.router.add_get("/markets", markets)
        app.router.add_get("/markets/keyset", keyset)
        return app, ""
    return None


async def _asset_pairs(request: web.Request) -> web.Response:
    answer = asset_pairs()
    wanted = request.query.get("pair")
    if wanted is not None:
        names = wanted.split(",")
        found = {
            key: pair
            for key, pair in answer["result"].items()
            if key in names or pair["altname"] in names or pair["wsname"] in names
        }
        # Kraken answers errors with HTTP 200.
        answer = {"error": [], "result": found} if found else {"error": ["EQuery:Unknown asset pair"]}
    return _json(answer)


def _chosen(request: web.Request, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    closed = request.query.get("closed", "false") == "true"
    conditions = set(request.query.getall("condition_ids", []))
    tokens = set(request.query.getall("clob_token_ids", []))
    volume = float(request.query.get("volume_num_min", 0))
    liquidity = float(request.query.get("liquidity_num_min", 0))
    return [
        each
        for each in found
        if each["closed"] == closed
        and (not conditions or each["conditionId"] in conditions)
        and (not tokens or tokens.intersection(orjson.loads(each["clobTokenIds"])))
        and each["volumeNum"] >= volume
        and each["liquidityNum"] >= liquidity
    ]


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    return int(text) if text.isdigit() else default


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
