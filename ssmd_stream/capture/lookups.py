"""What a connector asks a venue over REST before it subscribes, as patiently as it must."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from ssmd_core.errors import ConnectError
from ssmd_stream.capture import rest
from ssmd_stream.capture.options import Backoff, Plan

log = structlog.get_logger()

_PAIR_MAP_PATIENCE_S = 10.0
_T = TypeVar("_T")


class Lookups:
    """Look-ups of one connector.

    Args:
        backoff: between attempts.
    """

    def __init__(self, plan: Plan, backoff: Backoff) -> None:
        self._plan = plan
        self._backoff = backoff
        self._log = log.bind(feed=plan.feed.name, stream=plan.stream.stream)

    async def pair_map_soon(self) -> dict[str, str] | None:
        """Kraken's symbols -> AssetPairs keys; None if they cannot be had within ten seconds."""
        try:
            async with asyncio.timeout(_PAIR_MAP_PATIENCE_S):
                return await self._fetch_pair_map()
        except (ConnectError, TimeoutError) as error:
            self._log.warning("capturing without pair map: subjects carry sanitised symbols", reason=repr(error))
            return None

    async def pair_map(self) -> dict[str, str]:
        """The same, however long it takes."""
        return await self._until_answered(self._fetch_pair_map, lambda _: None)

    async def tokens(self, on_failure: Callable[[str], None]) -> list[str]:
        """Polymarket's tokens above the thresholds of `plan.discovery`, however long it takes.

        Args:
            on_failure: told why an attempt failed.
        """
        return await self._until_answered(
            self._discover_tokens, lambda reason: on_failure(f"token discovery: {reason}")
        )

    async def _fetch_pair_map(self) -> dict[str, str]:
        return await rest.kraken_pair_map(self._plan.rest_url)

    async def _discover_tokens(self) -> list[str]:
        plan = self._plan
        tokens = await rest.polymarket_tokens(
            plan.rest_url, min_volume=plan.discovery.min_volume, min_liquidity=plan.discovery.min_liquidity
        )
        if not tokens:
            raise ConnectError(f"{plan.rest_url}: no open market with volume above {plan.discovery.min_volume:g}")
        self._log.info("tokens discovered", tokens=len(tokens))
        return tokens

    async def _until_answered(self, ask: Callable[[], Awaitable[_T]], on_failure: Callable[[str], None]) -> _T:
        pause_s = self._backoff.min_s
        while True:
            try:
                return await ask()
            except ConnectError as error:
                self._log.warning("look-up failed", reason=str(error), pause_s=pause_s)
                on_failure(str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._backoff.max_s)
