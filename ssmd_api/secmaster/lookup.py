"""Instruments of any venue by their ids, in one shape."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from ssmd_api.errors import InvalidRequestError
from ssmd_api.secmaster.lists import rows_by_key
from ssmd_api.secmaster.reach import KRAKEN, PAIR_FEEDS
from ssmd_api.services import Services

MAX_IDS = 100

Found = dict[str, dict[str, Any]]


async def look_up(
    services: Services, ids: Sequence[str], feeds: Collection[str], moment: datetime | None = None
) -> list[dict[str, Any]]:
    """Markets, pairs, conditions and tokens with these ids, in the order of the ids; unknown ones are left out.

    Args:
        ids: 1 to `MAX_IDS`.
        feeds: in which to look.
        moment: as known then; default now.

    Returns:
        `id`, `feed`, `name`, `event`, `series`, `status`, `closeTime`, `volume` (in `volumeUnit`), `openInterest`.

    Raises:
        InvalidRequestError: no id, or too many.
        psycopg.Error: Postgres refused or went away.
    """
    wanted = list(dict.fromkeys(ids))
    if not 1 <= len(wanted) <= MAX_IDS:
        raise InvalidRequestError(f"ids: {len(wanted)} are given, 1 to {MAX_IDS} can be looked up", field="ids")
    searches = []
    if "kalshi" in feeds:
        searches.append(_kalshi(services, wanted, moment))
    if not set(KRAKEN).isdisjoint(feeds):
        searches.append(_kraken(services, wanted, feeds, moment))
    if "polymarket" in feeds:
        searches.append(_polymarket(services, wanted, moment))
    answers = await asyncio.gather(*searches)
    return [found[each] for each in wanted for found in answers if each in found]


async def _kalshi(services: Services, ids: list[str], moment: datetime | None) -> Found:
    markets = await rows_by_key(services, "markets", ids, moment)
    events = await rows_by_key(services, "events", {row["event_ticker"] for row in markets.values()}, moment)
    return {
        key: _entry(
            key,
            "kalshi",
            row["title"],
            event=row["event_ticker"],
            series=events.get(row["event_ticker"], {}).get("series_ticker"),
            status=row["status"],
            close_time=row["close_time"],
            volume=row["volume"],
            unit="contracts",
            open_interest=row["open_interest"],
        )
        for key, row in markets.items()
    }


async def _kraken(services: Services, ids: list[str], feeds: Collection[str], moment: datetime | None) -> Found:
    pairs = await rows_by_key(services, "pairs", ids, moment)
    return {
        key: _entry(
            key,
            PAIR_FEEDS[row["market_type"]],
            f"{row['base']}/{row['quote']}",
            series=row["market_type"],
            status=row["status"],
            close_time=row["last_trading_time"],
            volume=row["volume_24h"],
            unit="base_currency",
            open_interest=row["open_interest"],
        )
        for key, row in pairs.items()
        if PAIR_FEEDS.get(row["market_type"]) in feeds
    }


async def _polymarket(services: Services, ids: list[str], moment: datetime | None) -> Found:
    conditions, tokens = await asyncio.gather(
        rows_by_key(services, "polymarket_conditions", ids, moment),
        rows_by_key(services, "polymarket_tokens", ids, moment),
    )
    parents = {row["condition_id"] for row in tokens.values()} - conditions.keys()
    of_tokens = conditions | await rows_by_key(services, "polymarket_conditions", parents, moment)
    found = {key: _condition(key, row, row["question"], None, row["volume"]) for key, row in conditions.items()}
    for key, token in tokens.items():
        if (parent := of_tokens.get(token["condition_id"])) is not None:
            name = f"{parent['question']} [{token['outcome']}]"
            found[key] = _condition(key, parent, name, token["condition_id"], token["volume"])
    return found


def _condition(key: str, condition: dict[str, Any], name: str, event: str | None, volume: Any) -> dict[str, Any]:
    return _entry(
        key,
        "polymarket",
        name,
        event=event,
        series=condition["category"],
        status=condition["status"],
        close_time=condition["end_date"],
        volume=volume,
        unit="usd",
    )


def _entry(
    key: str,
    feed: str,
    name: str,
    *,
    status: str,
    close_time: datetime | None,
    volume: Any,
    unit: str,
    event: str | None = None,
    series: str | None = None,
    open_interest: Any = None,
) -> dict[str, Any]:
    return {
        "id": key,
        "feed": feed,
        "name": name,
        "event": event,
        "series": series,
        "status": status,
        "closeTime": close_time,
        "volume": volume,
        "volumeUnit": unit,
        "openInterest": open_interest,
    }
