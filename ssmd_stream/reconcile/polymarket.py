"""Polymarket's trades: data-api GET /trades of a condition, newest first, by offset.

Source: data-api's reference and reports of 2025-2026. A row is one party's side of a trade: with `takerOnly=true` the
takers', which is what WebSocket's last_trade_price tells; with `takerOnly=false` the makers' too. Rows have no id: one
transaction holds several. Time is in seconds. Beyond a cap that is documented as 10,000 and has been seen at 1,500
rows, the same page comes again and again; what is older cannot be had.

Both sides are compared on (transaction hash, token, price, size). Whether WebSocket tells a taker's order that met
several makers in one message or in several is not known; what it tells otherwise than REST is differing, not missing.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from ssmd_stream.reconcile.rows import bounded, fitting, raw_text, required_decimal, required_us
from ssmd_stream.reconcile.trades import US_PER_MS, US_PER_S, Answer, VenueTrade
from ssmd_stream.secmaster.fields import FieldError, Record
from ssmd_stream.secmaster.rest import RestClient, RestError, RestFatalError

DATA_API = "https://data-api.polymarket.com"
#: Of the 200 in ten seconds that the venue lets through undelayed.
PACE_PER_S = 15.0
PATH = "/trades"
TRADES_PER_PAGE = 500
MAX_PAGES = 100
# Rows that are asked for twice, to see where a page continues the one before: new trades shift all offsets.
OVERLAP = 10
# What is settled on the chain has six decimals; REST's JSON numbers have been seen with the noise of a float.
_UNIT = Decimal("0.000001")
_WIDE = Context(prec=80)


class PolymarketTrades:
    """See `VenueTrades`; an instrument is a condition.

    Args:
        rest: an open client of data-api.
    """

    # WebSocket tells when the order matched; whether REST tells that or when it was settled, seconds later, is unknown.
    margin_us = 10 * US_PER_S
    unique_ids = False
    begins_silently = False

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest

    async def trades(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """See `VenueTrades`: the takers' rows."""
        return await self._read(instrument, start_us, end_us, taker_only=True)

    async def others(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """Everybody's rows."""
        return await self._read(instrument, start_us, end_us, taker_only=False)

    def same_time(self, venue_us: int, archived_us: int) -> bool:
        """Not compared: a transaction is named by its hash."""
        del venue_us, archived_us
        return True

    async def _read(self, condition: str, start_us: int, end_us: int, *, taker_only: bool) -> Answer:
        answer = Answer()
        listing = _Listing()
        oldest_us = end_us
        for number in range(MAX_PAGES):
            page = await self._page(condition, listing.next_offset, number, taker_only=taker_only)
            new = listing.join(page) if page is not None else None
            for row in new or ():
                try:
                    trade = trade_of(condition, row)
                except FieldError as error:
                    answer.unreadable_row(error)
                    continue
                oldest_us = min(oldest_us, trade.time_us)
                if start_us <= trade.time_us < end_us:
                    answer.trades.append(trade)
            if oldest_us < start_us:
                return answer
            if not new:
                if page is not None and new is not None:
                    # Beyond the cap whole pages repeat. A shorter one is the listing's end, and so is none.
                    if len(page) < listing.longest:
                        return answer
                    if await self._page(condition, len(listing.rows), number + 1, taker_only=taker_only) == []:
                        return answer
                break
        # Rows of that very second may stand beyond the cap.
        answer.known_from_us = oldest_us + US_PER_S if listing.rows else end_us
        answer.notes.append(f"the venue shows only the newest {len(listing.rows)} trades")
        return answer

    async def _page(self, condition: str, offset: int, number: int, *, taker_only: bool) -> list[Any] | None:
        """A page; None where the venue refuses the offset instead of repeating itself."""
        query = {
            "market": condition,
            "limit": str(TRADES_PER_PAGE),
            "offset": str(offset),
            "takerOnly": "true" if taker_only else "false",
        }
        try:
            rows = await self._rest.get(PATH, query)
        except RestFatalError as error:
            if error.status == 400 and number:
                return None
            raise
        if not isinstance(rows, list):
            raise RestError(f"GET {PATH}: unexpected answer {str(rows)[:160]}")
        return bounded(rows, PATH)


class _Listing:
    """Rows of a listing that grows at its front while it is read."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.longest = 0
        self._overlap = 0

    @property
    def next_offset(self) -> int:
        """Where to go on, a few rows before the end of what is there."""
        return len(self.rows) - self._overlap

    def join(self, page: list[Any]) -> list[Any] | None:
        """The page's rows that have not been seen; None if it does not continue what is there."""
        texts = [str(row) for row in page]
        self.longest = max(self.longest, len(texts))
        overlap, self._overlap = self._overlap, min(OVERLAP, max(1, len(texts) // 2))
        if not self.rows:
            self.rows = texts
            return page
        # What came in front since the last page moves more rows into this one than were asked for again. Rows need
        # not differ (a wallet may fill one order with several equal parts), so their order says where they belong.
        for known in range(overlap, min(len(texts), len(self.rows)) + 1):
            if texts[:known] == self.rows[-known:]:
                self.rows += texts[known:]
                return page[known:]
        return None


def _rounded(number: Decimal) -> Decimal:
    return number.quantize(_UNIT, ROUND_HALF_EVEN, _WIDE).normalize()


def trade_of(condition: str, row: Any) -> VenueTrade:
    """A trade from a row.

    Raises:
        FieldError: it is none.
    """
    record = Record(row)
    asset, time_us = record.id("asset"), required_us(record, "timestamp")
    price, size = (fitting(_rounded(required_decimal(record, name)), name) for name in ("price", "size"))
    side, hash_ = record.text("side"), record.id("transactionHash")
    market = record.optional_id("conditionId") or condition
    if market.casefold() != condition.casefold():
        raise FieldError(f"conditionId: {market[:80]!r} was not asked for")
    columns = {
        "asset_id": asset,
        "market": market,
        "price": price,
        "side": side,
        "size": size,
        "timestamp_ms": time_us // US_PER_MS,
        "transaction_hash": hash_,
    }
    return VenueTrade(
        id=hash_, asset=asset, time_us=time_us, price=price, size=size, columns=columns,
        account=record.text("proxyWallet") or "", raw=raw_text(row),
    )  # fmt: skip
