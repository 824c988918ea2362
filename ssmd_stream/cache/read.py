"""Read the cache: a level of the tree is one HGETALL."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

import redis.asyncio as redis

from ssmd_stream.cache.layout import CATEGORIES, PLACES, unescape


class CacheReader:
    """The market tree: categories, their series, their events, their markets.

    Rows are JSON objects as CDC writes them (`ssmd_core.db.values`), by key. What is not there is empty: only `ready`
    tells a cache that is being built from a parent without children.

    Args:
        connection: from `store.client`; the caller closes it.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    async def categories(self) -> dict[str, int]:
        """Number of series by category."""
        found = await cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(CATEGORIES))
        return {category.decode(): int(count) for category, count in found.items()}

    async def rows(self, table: str, parent: str | None) -> dict[str, bytes]:
        """The rows of a table that belong to a parent, e.g. `markets` of an event; see `layout`.

        Raises:
            KeyError: the cache holds no such table.
        """
        key = PLACES[table].hash_of(parent)
        found = await cast("Awaitable[dict[bytes, bytes]]", self._redis.hgetall(key))
        return {field.decode(): row for field, row in found.items()}

    async def row(self, table: str, key: str) -> bytes | None:
        """One row by its key, whatever its parent; None if it is not there.

        Raises:
            KeyError: the cache holds no such table.
        """
        place = PLACES[table]
        parent = await cast("Awaitable[bytes | None]", self._redis.hget(place.where, key))
        if parent is None:
            return None
        return await cast("Awaitable[bytes | None]", self._redis.hget(place.hash_of(unescape(parent.decode())), key))
