"""Kraken Futures' trades: GET /history, a hundred a time, backwards from `lastTime`.

Source: Kraken's API reference of 2026. Trades are told apart by `uid`; `trade_id` is a small number that repeats.
"""

from __future__ import annotations

from typing import Any

from ssmd_stream.reconcile.rows import bounded, raw_text, required_decimal, required_us
from ssmd_stream.reconcile.trades import US_PER_MS, US_PER_S, Answer, VenueTrade, moment_of_us
from ssmd_stream.secmaster.fields import FieldError, Record
from ssmd_stream.secmaster.rest import RestClient, RestError

PATH = "/history"
# Fifty thousand trades back from the end of an hour.
MAX_PAGES = 500


class KrakenFuturesTrades:
    """See `VenueTrades`.

    Args:
        rest: an open client of the feed.
    """

    margin_us = 5 * US_PER_S
    unique_ids = True
    begins_silently = False

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest

    async def trades(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """See `VenueTrades`."""
        answer = Answer()
        found: dict[str, VenueTrade] = {}
        last_us, oldest_us = end_us, end_us
        for _ in range(MAX_PAGES):
            before = len(found)
            for row in await self._page(instrument, last_us):
                try:
                    trade = trade_of(instrument, row)
                except FieldError as error:
                    answer.unreadable_row(error)
                    continue
                found.setdefault(trade.id, trade)
                oldest_us = min(oldest_us, trade.time_us)
            if oldest_us < start_us:
                break
            # A millisecond more than the oldest, so that a page that ends among trades of one millisecond loses none.
            next_us = min(oldest_us + US_PER_MS, last_us)
            if len(found) == before or next_us == last_us:
                if last_us <= oldest_us:
                    break
                next_us = oldest_us
            last_us = next_us
        if oldest_us >= start_us:
            # Trades of that very millisecond may be cut off.
            answer.known_from_us = oldest_us + US_PER_MS if found else end_us
            answer.notes.append(
                f"the venue's history begins at {moment_of_us(oldest_us).isoformat()}" if found else "no history at all"
            )
        answer.trades = [trade for trade in found.values() if start_us <= trade.time_us < end_us]
        return answer

    async def others(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """None: every trade stands in `trades`."""
        del instrument, start_us, end_us
        return Answer()

    def same_time(self, venue_us: int, archived_us: int) -> bool:
        """Both tell ms."""
        return venue_us // US_PER_MS == archived_us // US_PER_MS

    async def _page(self, product: str, last_us: int) -> list[Any]:
        moment = moment_of_us(last_us)
        last = f"{moment:%Y-%m-%dT%H:%M:%S}.{last_us // US_PER_MS % 1000:03d}Z"
        document = await self._rest.get(PATH, {"symbol": product, "lastTime": last})
        rows = document.get("history") if isinstance(document, dict) else None
        if not isinstance(rows, list) or document.get("result") != "success":
            raise RestError(f"GET {PATH}: unexpected answer {str(document)[:160]}")
        return bounded(rows, PATH)


def trade_of(product: str, row: Any) -> VenueTrade:
    """A trade from an element of `history`.

    Raises:
        FieldError: it is none.
    """
    record = Record(row)
    uid, time_us = record.id("uid"), required_us(record, "time")
    price, size = required_decimal(record, "price"), required_decimal(record, "size")
    side = record.text("side")
    columns = {
        "product_id": product,
        "uid": uid,
        "side": side,
        "trade_type": record.text("type"),
        "qty": float(size),
        "price": float(price),
        "time": moment_of_us(time_us),
    }
    return VenueTrade(
        id=uid, asset=product, time_us=time_us, price=price, size=size, side=side, columns=columns, raw=raw_text(row)
    )
