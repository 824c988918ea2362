"""Start-up look-ups: a partial or circular answer is an error, never a short list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from ssmd_core.errors import ConnectError
from ssmd_stream.capture import rest
from ssmd_stream.secmaster import rest as client

Answer = Callable[[web.Request], web.Response]


@asynccontextmanager
async def _served(answer: Answer) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def _tokens(answer: Answer) -> list[str]:
    async def run() -> list[str]:
        async with _served(answer) as url:
            return await rest.polymarket_tokens(url, min_volume=10_000, min_liquidity=5_000)

    return asyncio.run(run())


def _page(numbers: list[int], cursor: str | None) -> web.Response:
    markets: list[dict[str, Any]] = [{"clobTokenIds": f'["{number}1", "{number}2"]'} for number in numbers]
    return web.json_response({"markets": markets, "next_cursor": cursor})


def test_tokens_of_all_pages_and_a_page_that_fails_once() -> None:
    asked: list[dict[str, str]] = []

    def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        if len(asked) == 2:
            return web.Response(status=502, text="<html>bad gateway</html>")
        return _page([1, 2], "b") if "after_cursor" not in request.query else _page([2, 3], None)

    assert _tokens(answer) == ["11", "12", "21", "22", "31", "32"]
    assert [each.get("after_cursor") for each in asked] == [None, "b", "b"]
    assert (asked[0]["closed"], asked[0]["volume_num_min"]) == ("false", "10000")


def test_cursor_in_circles_is_an_error() -> None:
    with pytest.raises(ConnectError, match="cursor repeats"):
        _tokens(lambda request: _page([1], "a" if request.query.get("after_cursor") != "a" else "b"))


@pytest.mark.parametrize(
    "answer",
    [lambda _: web.Response(status=429), lambda _: web.Response(text="<html>"), lambda _: web.json_response(["x"])],
)
def test_what_is_not_a_page_is_an_error(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    with pytest.raises(ConnectError, match="markets/keyset"):
        _tokens(answer)


def test_odd_market_objects_give_no_tokens() -> None:
    odd = [{"clobTokenIds": None}, {}, {"clobTokenIds": "not json"}, "x", {"clobTokenIds": ["7", 8, "../x"]}]
    assert rest.parse_tokens(odd) == ["7"]


def test_pair_map_of_a_real_answer(samples: Path) -> None:
    pairs = rest.parse_pair_map(orjson.loads((samples / "kraken/rest/AssetPairs_full_2021-04-17.json").read_bytes()))
    assert (pairs["BTC/USD"], pairs["DOGE/USD"], pairs["ETH/BTC"]) == ("XXBTZUSD", "XDGUSD", "XETHXXBT")
    error = orjson.loads((samples / "kraken/rest/error_unknown_pair.json").read_bytes())
    with pytest.raises(ConnectError, match="Unknown asset pair"):
        rest.parse_pair_map(error)


def test_pair_map_without_the_tokenised_pairs_is_better_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)

    def answer(request: web.Request) -> web.Response:
        if "aclass_base" in request.query:
            return web.Response(status=403)
        return web.json_response({"error": [], "result": {"XXBTZUSD": {"wsname": "XBT/USD"}}})

    async def run() -> dict[str, str]:
        async with _served(answer) as url:
            return await rest.kraken_pair_map(url)

    assert asyncio.run(run()) == {"BTC/USD": "XXBTZUSD"}
