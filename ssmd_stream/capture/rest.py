"""Look-ups over the venues' REST interfaces that a connector makes before it subscribes."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog

from ssmd_core.errors import ConnectError
from ssmd_core.feeds.kraken.names import symbol_of
from ssmd_stream.secmaster.rest import RestClient, RestError

log = structlog.get_logger()

GAMMA_PAGE = 1000
# 1,000 pages are a million markets; only a cursor that runs in circles gets there.
MAX_PAGES = 1000


def parse_pair_map(document: Any) -> dict[str, str]:
    """WebSocket symbol (`BTC/USD`) -> AssetPairs key (`XXBTZUSD`) from the body of AssetPairs.

    Raises:
        ConnectError: the body is an error (Kraken answers those with HTTP 200) or not what it should be.
    """
    if not isinstance(document, dict) or document.get("error") or not isinstance(document.get("result"), dict):
        raise ConnectError(f"AssetPairs: unexpected answer {str(document)[:200]}")
    pairs: dict[str, str] = {}
    for key, pair in document["result"].items():
        name = pair.get("wsname") if isinstance(pair, dict) else None
        if isinstance(name, str):
            pairs[symbol_of(name)] = key
    return pairs


async def kraken_pair_map(rest_url: str) -> dict[str, str]:
    """WebSocket symbol -> AssetPairs key of every pair, tokenised assets included.

    Raises:
        ConnectError: the venue does not answer as it should.
    """
    try:
        async with RestClient.for_feed("kraken", rest_url) as rest:
            pairs = parse_pair_map(await rest.get("/AssetPairs"))
            try:
                # The plain list leaves them out.
                tokenised = await rest.get("/AssetPairs", {"aclass_base": "tokenized_asset"})
                return pairs | parse_pair_map(tokenised)
            except (RestError, ConnectError) as error:
                log.warning("tokenised pairs cannot be had: their subjects carry sanitised symbols", reason=str(error))
                return pairs
    except RestError as error:
        raise ConnectError(f"{rest_url}: {error}") from error


def parse_tokens(markets: Any) -> list[str]:
    """Token ids of Gamma market objects, in their order; markets without tokens (some legacy ones) give none."""
    tokens: list[str] = []
    for market in markets if isinstance(markets, list) else ():
        ids = market.get("clobTokenIds") if isinstance(market, dict) else None
        if isinstance(ids, str):
            # Gamma writes arrays as JSON inside a string.
            try:
                ids = msgspec.json.decode(ids)
            except msgspec.DecodeError:
                continue
        if isinstance(ids, list):
            tokens += [token for token in ids if isinstance(token, str) and token.isdigit()]
    return tokens


async def polymarket_tokens(rest_url: str, *, min_volume: float, min_liquidity: float) -> list[str]:
    """Token ids of all open markets above both thresholds (dollars), sorted, each once; never a partial list.

    Raises:
        ConnectError: a page cannot be had, or the cursor runs in circles.
    """
    tokens: set[str] = set()
    cursors: set[str] = set()
    params = {
        "limit": str(GAMMA_PAGE),
        "closed": "false",
        "volume_num_min": f"{min_volume:g}",
        "liquidity_num_min": f"{min_liquidity:g}",
    }
    try:
        async with RestClient.for_feed("polymarket", rest_url) as rest:
            for _ in range(MAX_PAGES):
                page = await rest.get("/markets/keyset", params)
                if not isinstance(page, dict) or not isinstance(page.get("markets"), list):
                    raise ConnectError(f"{rest_url}/markets/keyset: unexpected answer {str(page)[:200]}")
                tokens.update(parse_tokens(page["markets"]))
                cursor = page.get("next_cursor")
                if not cursor or not page["markets"]:
                    return sorted(tokens)
                if cursor in cursors:
                    break
                cursors.add(cursor)
                params["after_cursor"] = cursor
    except RestError as error:
        raise ConnectError(f"{rest_url}: {error}") from error
    raise ConnectError(f"{rest_url}/markets/keyset: cursor repeats after {len(cursors)} pages")
