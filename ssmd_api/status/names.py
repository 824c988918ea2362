"""What people call an instrument, from the security master."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import psycopg
from psycopg_pool import PoolTimeout

if TYPE_CHECKING:
    from ssmd_api.services import Services

_KEEP_S = 600.0
_MAX_KEPT = 5_000
_MAX_CHARS = 200


class Names:
    """Names by feed and id, looked up in batches and kept for ten minutes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._kept: dict[tuple[str, str], tuple[float, str]] = {}

    async def of(self, feed: str, instrument: str) -> str:
        """The instrument's name; "" if the security master does not know it, or cannot be asked."""
        key = (feed, instrument)
        if (kept := self._kept.get(key)) and kept[0] > time.monotonic():
            return kept[1]
        try:
            async with asyncio.timeout(1):
                name = (await self._look_up(feed, instrument))[:_MAX_CHARS]
        except (psycopg.Error, PoolTimeout, TimeoutError):
            return ""
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[key] = (time.monotonic() + _KEEP_S, name)
        return name

    async def _look_up(self, feed: str, instrument: str) -> str:
        row = self._services.loaders.row
        if feed == "kalshi":
            market = await row("markets", instrument)
            return str(market["title"]) if market else ""
        if feed == "polymarket":
            token = await row("polymarket_tokens", instrument)
            condition = await row("polymarket_conditions", str(token["condition_id"])) if token else None
            return f"{condition['question']} [{token['outcome']}]" if token and condition else ""
        return ""  # Kraken's ids are what people call them
