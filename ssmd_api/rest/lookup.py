"""`/v1/markets/lookup`: instruments of any venue by their ids."""

from __future__ import annotations

from typing import Any

from ssmd_api.auth.access import Scope
from ssmd_api.rest.secmaster_lists import AsOf, answer
from ssmd_api.routing import Call, DayRule, FeedRule, Route
from ssmd_api.secmaster.lookup import look_up
from ssmd_api.secmaster.schemas import MOMENT, NUMBER_TEXT, STRING, array, members, nullable
from ssmd_core.db.tables import SYNCED


class LookupQuery(AsOf, frozen=True, kw_only=True):
    """Which instruments.

    Attributes:
        ids: 1 to 100 of any kind.
    """

    ids: tuple[str, ...]
    feed: str | None = None


async def _lookup(call: Call) -> bytes:
    async def make() -> dict[str, Any]:
        return {"markets": await look_up(call.services, call.query.ids, call.feeds, call.moment)}

    return await answer(call, tuple(SYNCED), make)


_FOUND = members(
    {
        "id": STRING,
        "feed": STRING,
        "name": STRING,
        "event": nullable(STRING),
        "series": nullable(STRING),
        "status": STRING,
        "closeTime": nullable(MOMENT),
        "volume": nullable(NUMBER_TEXT),
        "volumeUnit": {"type": "string", "enum": ["contracts", "base_currency", "usd"]},
        "openInterest": nullable(NUMBER_TEXT),
    }
)

ROUTES = (
    Route(
        method="GET",
        path="/v1/markets/lookup",
        handler=_lookup,
        summary="Markets, pairs, conditions and tokens by their ids.",
        tag="secmaster",
        scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM,
        days=DayRule.AS_OF,
        query=LookupQuery,
        answer=members({"markets": array(_FOUND)}),
    ),
)
