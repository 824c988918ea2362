"""What the routes of the security master share: parameters, pages, single rows."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import orjson

from ssmd_api.jsons import encode
from ssmd_api.jsons import row as json_row
from ssmd_api.routing import Call
from ssmd_api.secmaster.kept import AS_LONG_AS_TRUE_S, CLOCK_S, Make, kept
from ssmd_api.secmaster.lists import Listing, list_rows, one_row
from ssmd_core.secmaster.queries import MAX_ROWS
from ssmd_core.secmaster.selections import Selection

# 10,000 rows take about 0.2 s; so many, 5 ms.
_ROWS_A_TURN = 250

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]


class AsOf(msgspec.Struct, frozen=True, kw_only=True):
    """A question about a moment."""

    as_of: datetime | None = None


class ListQuery(AsOf, frozen=True, kw_only=True):
    """A question for a page of a list."""

    limit: Limit = 100
    order: Literal["updated", "key"] = "updated"
    cursor: str | None = None


async def page(call: Call, name: str, table: str, selection: Selection, tables: tuple[str, ...]) -> bytes:
    """A page of a list as JSON, kept until one of the tables changes.

    Args:
        name: of the member with the rows.
        tables: all that the rows are chosen by and made from.
    """

    async def make() -> dict[str, Any]:
        query = call.query
        found = await list_rows(
            call.services, table, selection, call.feeds, limit=query.limit, order=query.order, cursor=query.cursor
        )
        return await page_json(name, found)

    clock = selection.closing_within is not None and selection.as_of is None
    return await answer(call, tables, make, CLOCK_S if clock else AS_LONG_AS_TRUE_S)


async def page_json(name: str, found: Listing) -> dict[str, Any]:
    """A page as a JSON value; other requests have their turn while a long one is written."""
    parts = []
    for begin in range(0, len(found.rows), _ROWS_A_TURN):
        rows = found.rows[begin : begin + _ROWS_A_TURN]
        parts.append(encode([json_row(row) for row in rows])[1:-1])
        await asyncio.sleep(0)
    return {name: orjson.Fragment(b"[" + b",".join(parts) + b"]"), "nextCursor": found.next_cursor}


async def answer(
    call: Call, tables: tuple[str, ...], make: Make, max_age_s: float = AS_LONG_AS_TRUE_S, *more: object
) -> bytes:
    """What `make` gives, kept for the next who asks the same and reaches as far.

    Args:
        more: what the answer depends on beside path, parameters and feeds.
    """
    key = (call.route.path, call.query, *call.path.values(), call.feeds, *more)
    return await kept(call.services, key, tables, make, max_age_s)


async def single(call: Call, table: str, parameter: str) -> dict[str, Any]:
    """The row that the path names, as a JSON value."""
    found = await one_row(call.services, table, call.path[parameter], call.feeds, call.moment)
    return json_row(found)
