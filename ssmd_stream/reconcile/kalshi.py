"""Kalshi's trades: GET /markets/trades, and /historical/trades for what is older than the venue's cutoff.

Source: Kalshi's API reference of August 2026. `min_ts` and `max_ts` are seconds; the history is complete, but what is
older than `trades_created_ts` of /historical/cutoff stands in /historical/trades alone (since 2026-03-06).
"""

from __future__ import annotations

from typing import Any

from ssmd_stream.reconcile.rows import bounded, fitting, raw_text, required_decimal, required_us
from ssmd_stream.reconcile.trades import US_PER_MS, US_PER_S, Answer, VenueTrade, moment_of_us, us_of
from ssmd_stream.secmaster.fields import FieldError, Record, moment_of
from ssmd_stream.secmaster.kalshi_client import KalshiClient
from ssmd_stream.secmaster.rest import RestClient, RestError, RestFatalError

TRADES_PER_PAGE = 1000
# A hundred thousand trades of one market in one hour; the busiest has had some ten thousand.
MAX_PAGES = 100


class KalshiTrades:
    """See `VenueTrades`.

    Args:
        rest: an open client of the feed.
    """

    margin_us = 5 * US_PER_S
    unique_ids = True
    begins_silently = False

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest
        self._client = KalshiClient(rest)
        self._cutoff_us: int | None = None

    async def trades(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """See `VenueTrades`."""
        answer = Answer()
        cutoff_us = await self._cutoff()
        query = {
            "ticker": instrument,
            "min_ts": str(start_us // US_PER_S),
            "max_ts": str(-(-end_us // US_PER_S)),
            "limit": str(TRADES_PER_PAGE),
        }
        # Both where the cutoff lies inside; it moves while this is asked, and a trade that comes twice counts once.
        if start_us < cutoff_us:
            await self._read(answer, "/historical/trades", query)
        if end_us > cutoff_us:
            await self._read(answer, "/markets/trades", query)
        answer.trades = [trade for trade in answer.trades if start_us <= trade.time_us < end_us]
        return answer

    async def others(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """None: every trade stands in `trades`."""
        del instrument, start_us, end_us
        return Answer()

    def same_time(self, venue_us: int, archived_us: int) -> bool:
        """REST tells µs, WebSocket ms, and only seconds before 2026-04-17."""
        if archived_us % US_PER_S == 0 and venue_us // US_PER_S == archived_us // US_PER_S:
            return True
        return venue_us // US_PER_MS == archived_us // US_PER_MS

    async def _cutoff(self) -> int:
        if self._cutoff_us is None:
            document = await self._rest.get("/historical/cutoff")
            moment = document.get("trades_created_ts") if isinstance(document, dict) else None
            try:
                cutoff = moment_of(moment)
            except FieldError as error:
                raise RestError(f"GET /historical/cutoff: trades_created_ts: {error}") from error
            if cutoff is None:
                raise RestError(f"GET /historical/cutoff: no trades_created_ts: {str(document)[:160]}")
            self._cutoff_us = us_of(cutoff)
        return self._cutoff_us

    async def _read(self, answer: Answer, path: str, query: dict[str, str]) -> None:
        pages = 0
        async for rows in self._client.pages(path, "trades", query, id_key="trade_id"):
            pages += 1
            if pages > MAX_PAGES:
                raise RestFatalError(f"GET {path}: more than {MAX_PAGES} pages of {query['ticker'][:80]!r}", 200)
            for row in bounded(rows, path):
                try:
                    trade = trade_of(row)
                    if trade.asset != query["ticker"]:
                        raise FieldError(f"ticker: {trade.asset[:80]!r} was not asked for")
                except FieldError as error:
                    answer.unreadable_row(error)
                else:
                    answer.trades.append(trade)


def trade_of(row: Any) -> VenueTrade:
    """A trade of REST's, of either generation's names.

    Raises:
        FieldError: it is none.
    """
    record = Record(row)
    ticker, trade_id = record.id("ticker", "market_ticker"), record.id("trade_id")
    time_us = required_us(record, "created_time")
    price, size = (fitting(required_decimal(record, name), name) for name in ("yes_price_dollars", "count_fp"))
    no_price = record.decimal("no_price_dollars")
    side = record.text("taker_outcome_side", "taker_side")
    columns = {
        "market_ticker": ticker,
        "price": price,
        "no_price": None if no_price is None else fitting(no_price, "no_price_dollars"),
        "count": size,
        "side": side,
        "taker_side": record.text("taker_side"),
        "taker_outcome_side": record.text("taker_outcome_side"),
        "taker_book_side": record.text("taker_book_side"),
        "is_block_trade": record.flag("is_block_trade"),
        "ts": moment_of_us(time_us),
        "trade_id": trade_id,
    }
    return VenueTrade(
        id=trade_id, asset=ticker, time_us=time_us, price=price, size=size, side=side, columns=columns,
        raw=raw_text(row),
    )  # fmt: skip
