"""Single rows by id, many in one statement: those that are asked for in the same turn of the loop, by whichever
request, are fetched together. Nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from aiodataloader import DataLoader

from ssmd_core.db.tables import SYNCED

if TYPE_CHECKING:
    from ssmd_api.services import Services

Row: TypeAlias = dict[str, Any]

_MAX_BATCH = 500


class Loaders:
    """One loader a statement, made in the loop that uses them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._loaders: dict[str, DataLoader[Any, Any]] = {}

    async def row(self, table: str, key: str) -> Row | None:
        """The live row with an id; None if there is none.

        Args:
            table: a name in `SYNCED`.

        Raises:
            psycopg.Error: Postgres refused or went away.
        """
        one = SYNCED[table]

        async def fetch(keys: list[str]) -> list[Row | None]:
            statement = f"SELECT * FROM {one.name} WHERE {one.key} = ANY(%s) AND deleted_at IS NULL"
            found = {row[one.key]: row for row in await self._services.rows(statement, (list(keys),))}
            return [found.get(each) for each in keys]

        return await self.load(table, key, fetch)  # type: ignore[no-any-return]  # what `fetch` gives

    async def load(self, name: str, key: Any, fetch: Callable[[list[Any]], Coroutine[Any, Any, list[Any]]]) -> Any:
        """One of many values that one statement fetches.

        Args:
            name: of the statement; `fetch` is the same for the same name.
            fetch: values in the order of the keys.
        """
        if (loader := self._loaders.get(name)) is None:
            loader = self._loaders[name] = DataLoader(fetch, cache=False, max_batch_size=_MAX_BATCH)
        return await loader.load(key)
