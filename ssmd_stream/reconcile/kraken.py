"""Kraken spot's trades: GET Trades, forwards from `since`.

Source: Kraken's API reference and answers of September 2026. A row is `[price, volume, time, b|s, m|l, misc, id]`: the
id is the seventh, and counts up by one per pair. `since` and `last` are nanoseconds as text. The member of the result
that holds the rows bears the name that was asked for.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import structlog

from ssmd_core.errors import ConnectError
from ssmd_stream.capture.rest import parse_pair_map
from ssmd_stream.reconcile.rows import bounded, raw_text
from ssmd_stream.reconcile.trades import US_PER_S, Answer, VenueTrade, moment_of_us
from ssmd_stream.secmaster.fields import FieldError, decimal_of
from ssmd_stream.secmaster.rest import RestClient, RestError

log = structlog.get_logger()

PATH = "/Trades"
TRADES_PER_PAGE = 1000
# A hundred thousand trades of a pair in an hour; the busiest has had some five thousand.
MAX_PAGES = 100
_NS_PER_US = 1_000
_SIDES = {"b": "buy", "s": "sell"}
_TYPES = {"m": "market", "l": "limit"}


class KrakenTrades:
    """See `VenueTrades`.

    Args:
        rest: an open client of the feed.
    """

    margin_us = 5 * US_PER_S
    unique_ids = True
    begins_silently = True

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest
        self._pairs: dict[str, str] | None = None

    async def trades(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """See `VenueTrades`; `instrument` is WebSocket's symbol, e.g. `BTC/USD`."""
        answer = Answer()
        pair = (await self._pair_map()).get(instrument)
        if pair is None:
            answer.known_from_us = end_us
            answer.notes.append(f"AssetPairs has no pair {instrument[:80]!r}")
            return answer
        found: dict[str, VenueTrade] = {}
        # One less, because the venue gives what comes after `since`.
        since_ns = start_us * _NS_PER_US - 1
        for _ in range(MAX_PAGES):
            rows, last_ns = await self._page(pair, since_ns)
            before = len(found)
            newest_us = start_us
            for row in rows:
                try:
                    trade = trade_of(instrument, row)
                except FieldError as error:
                    answer.unreadable_row(error)
                    continue
                found.setdefault(trade.id, trade)
                newest_us = max(newest_us, trade.time_us)
            if not rows or newest_us >= end_us:
                break
            # Rows that `last` leaps over would look as if they had never been.
            last_ns = min(last_ns, max(newest_us * _NS_PER_US + _NS_PER_US - 1, since_ns + 1))
            # Trades of one match share their nanosecond, and a page may end between them: ask for the last one again.
            next_ns = last_ns - 1 if len(found) > before else last_ns
            if next_ns <= since_ns:
                next_ns = last_ns
            if next_ns <= since_ns:
                break
            since_ns = next_ns
        else:
            answer.known_to_us = min(newest_us, end_us)
            answer.notes.append(f"{MAX_PAGES} pages do not reach the end")
        self._look_for_holes(answer, sorted(map(int, found)))
        answer.trades = [trade for trade in found.values() if start_us <= trade.time_us < end_us]
        return answer

    async def others(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """None: every trade stands in `trades`."""
        del instrument, start_us, end_us
        return Answer()

    def same_time(self, venue_us: int, archived_us: int) -> bool:
        """REST tells 100 ns, WebSocket µs: the last one may be rounded."""
        return abs(venue_us - archived_us) <= 1

    async def _pair_map(self) -> dict[str, str]:
        if self._pairs is None:
            try:
                pairs = parse_pair_map(await self._rest.get("/AssetPairs"))
                try:
                    tokenised = await self._rest.get("/AssetPairs", {"aclass_base": "tokenized_asset"})
                    pairs |= parse_pair_map(tokenised)
                except (RestError, ConnectError) as error:
                    log.warning("kraken_no_tokenized_assets", error=str(error))
            except ConnectError as error:
                raise RestError(str(error)) from error
            self._pairs = pairs
        return self._pairs

    async def _page(self, pair: str, since_ns: int) -> tuple[list[Any], int]:
        query = {"pair": pair, "since": str(since_ns), "count": str(TRADES_PER_PAGE)}
        document = await self._rest.get(PATH, query)
        result = document.get("result") if isinstance(document, dict) else None
        names = [name for name in result if name != "last"] if isinstance(result, dict) else []
        rows = result[names[0]] if isinstance(result, dict) and len(names) == 1 else None
        if not isinstance(rows, list) or not isinstance(result, dict):
            raise RestError(f"GET {PATH}: unexpected answer {str(document)[:160]}")
        last = str(result.get("last", ""))
        if not (last.isascii() and last.isdigit() and len(last) <= 20):
            raise RestError(f"GET {PATH}: last is {last[:40]!r}, not nanoseconds")
        return bounded(rows, PATH), int(last)

    def _look_for_holes(self, answer: Answer, ids: list[int]) -> None:
        lacking = ids[-1] - ids[0] + 1 - len(ids) if ids else 0
        if lacking:
            answer.notes.append(f"the venue's own answer lacks {lacking} trade ids between {ids[0]} and {ids[-1]}")


def trade_of(symbol: str, row: Any) -> VenueTrade:
    """A trade from a row.

    Raises:
        FieldError: it is none.
    """
    if not isinstance(row, list) or len(row) < 7:
        raise FieldError(f"{str(row)[:80]!r} is no row of seven")
    price, size, time_s = (_number(name, value) for name, value in zip(("price", "volume", "time"), row, strict=False))
    trade_id = row[6]
    if not isinstance(trade_id, int) or isinstance(trade_id, bool):
        raise FieldError(f"trade id {str(trade_id)[:40]!r} is no whole number")
    time_us = int(time_s * US_PER_S)
    if not 0 < time_us < 1 << 53:
        raise FieldError(f"time {time_s} is out of bounds")
    side = _SIDES.get(row[3]) if isinstance(row[3], str) else None
    columns = {
        "symbol": symbol,
        "side": side,
        "price": float(price),
        "qty": float(size),
        "ord_type": _TYPES.get(row[4]) if isinstance(row[4], str) else None,
        "trade_id": str(trade_id),
        "timestamp": moment_of_us(time_us),
    }
    return VenueTrade(
        id=str(trade_id), asset=symbol, time_us=time_us, price=price, size=size, side=side, columns=columns,
        raw=raw_text(row),
    )  # fmt: skip


def _number(name: str, value: Any) -> Decimal:
    try:
        number = decimal_of(value)
    except FieldError as error:
        raise FieldError(f"{name}: {error}") from None
    if number is None:
        raise FieldError(f"{name}: is missing")
    return number
