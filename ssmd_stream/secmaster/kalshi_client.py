"""Kalshi's market data over REST, as in Kalshi's API reference of August 2026. Public, no key."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ssmd_stream.secmaster.rest import RestClient, RestError, RestNotFoundError, batches

EVENTS_PER_PAGE = 200
MARKETS_PER_PAGE = 1000
FEE_CHANGES_PER_PAGE = 1000
TICKERS_PER_REQUEST = 100
# Twenty million markets; only a cursor that never ends gets there.
MAX_PAGES = 20_000
# What may stand in a path; a ticker with anything else is none of Kalshi's.
_PATH_PART = re.compile(r"(?!\.+$)[A-Za-z0-9._:\-]{1,128}")


class KalshiClient:
    """Listings, to their end or not at all.

    Args:
        rest: an open client of the feed.
    """

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest

    async def pages(
        self, path: str, key: str, params: Mapping[str, str] | None = None, *, id_key: str = "ticker"
    ) -> AsyncIterator[list[Any]]:
        """The pages of a listing; all filters go with every cursor.

        Args:
            key: member of the answer that holds the page's records.
            params: filters and `limit`.
            id_key: member of a record by which a page is recognised that came before.

        Raises:
            RestError: a page cannot be had or is none; a cursor or a page came before; no end after `MAX_PAGES`.
        """
        query = dict(params or {})
        cursors: set[str] = set()
        seen: set[int] = set()
        for number in range(MAX_PAGES):
            answer = await self._rest.get(path, query)
            records = answer.get(key) if isinstance(answer, dict) else None
            if not isinstance(records, list):
                raise RestError(f"GET {path}: page {number} has no array {key!r}: {str(answer)[:160]}")
            if records:
                fingerprint = hash(tuple(str(_member(record, id_key) or record) for record in records))
                if fingerprint in seen:
                    raise RestError(f"GET {path}: page {number} came before, from {_member(records[0], id_key)!r} on")
                seen.add(fingerprint)
            yield records
            cursor = answer.get("cursor")
            if not cursor:
                return
            if not isinstance(cursor, str) or cursor in cursors:
                raise RestError(f"GET {path}: cursor {str(cursor)[:80]!r} of page {number} came before or is no text")
            cursors.add(cursor)
            query["cursor"] = cursor
        raise RestError(f"GET {path}: no end after {MAX_PAGES} pages")

    def series(self) -> AsyncIterator[list[Any]]:
        """Every series, with its volume. One page today (19 MB); should a cursor come back, it is followed."""
        return self.pages("/series", "series", {"include_volume": "true"})

    def events(self, filters: Mapping[str, str]) -> AsyncIterator[list[Any]]:
        """Events but for multivariate ones. The records say nothing of their status."""
        return self.pages("/events", "events", {"limit": str(EVENTS_PER_PAGE), **filters}, id_key="event_ticker")

    def markets(self, filters: Mapping[str, str]) -> AsyncIterator[list[Any]]:
        """Markets but for multivariate ones, which live for a minute and have no event in `events`.

        Args:
            filters: mind the venue: `min_created_ts` goes with status unopened, open or none, `min_close_ts` and
                `max_close_ts` with closed or none, `min_settled_ts` with settled or none, `min_updated_ts` with
                nothing else; other combinations give nothing, silently.
        """
        return self.pages("/markets", "markets", {"limit": str(MARKETS_PER_PAGE), "mve_filter": "exclude", **filters})

    async def historical_markets(self, tickers: Sequence[str]) -> AsyncIterator[list[Any]]:
        """Of these markets the ones that settled before the venue's cutoff, which `markets` no longer shows."""
        safe = (ticker for ticker in tickers if _PATH_PART.fullmatch(ticker))
        for some in batches(safe, TICKERS_PER_REQUEST, len("%2C")):
            filters = {"limit": str(MARKETS_PER_PAGE), "tickers": ",".join(some)}
            async for page in self.pages("/historical/markets", "markets", filters):
                yield page

    async def event(self, event_ticker: str) -> tuple[Any, list[Any]] | None:
        """One event and its markets; None if the venue does not know it."""
        answer = await self._one("/events", event_ticker, "event", {"with_nested_markets": "true"})
        if answer is None:
            return None
        event = answer["event"]
        # In the older form of the answer they stand beside the event.
        markets = event.get("markets") or answer.get("markets")
        return event, markets if isinstance(markets, list) else []

    async def market(self, ticker: str) -> Any | None:
        """One market, however long ago it settled; None if the venue does not know it."""
        for path in ("/markets", "/historical/markets"):
            answer = await self._one(path, ticker, "market")
            if answer is not None:
                return answer["market"]
        return None

    async def fee_changes(self) -> list[Any]:
        """Every change of a series' fee, past ones included (`/series/fee_changes`, not paginated)."""
        changes: list[Any] = []
        async for page in self.pages(
            "/series/fee_changes", "series_fee_change_arr", {"show_historical": "true"}, id_key="id"
        ):
            changes += page
        return changes

    async def event_fee_changes(self) -> list[Any]:
        """Changes of the fee of single events; only pending ones have been seen here."""
        changes: list[Any] = []
        filters = {"limit": str(FEE_CHANGES_PER_PAGE)}
        async for page in self.pages("/events/fee_changes", "event_fee_changes", filters, id_key="id"):
            changes += page
        return changes

    async def _one(
        self, path: str, ticker: str, key: str, params: Mapping[str, str] | None = None
    ) -> dict[str, Any] | None:
        """The answer about one ticker, which has an object `key`; None if the venue does not know the ticker."""
        if not _PATH_PART.fullmatch(ticker):
            return None
        try:
            answer = await self._rest.get(f"{path}/{ticker}", params)
        except RestNotFoundError:
            return None
        if not isinstance(answer, dict) or not isinstance(answer.get(key), dict):
            raise RestError(f"GET {path}/{ticker}: no object {key!r}: {str(answer)[:160]}")
        return answer


def _member(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else None
