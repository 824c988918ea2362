"""The newest ticker of every Kraken Futures product, as rows of `pair_snapshots`: no I/O.

Numbers are what the venue wrote, to the digit. Funding: `funding_rate` is absolute, in quote currency per contract and
hour; `relative_funding_rate` is the share of the position per hour and the one to compare (since 2022-09-29). The
venue leaves them out on dated futures and when they are zero. What is left out is stored as null, never as 0: a member
that was renamed would otherwise look like a market without funding. A null beside a `next_funding_time` is the
venue's zero; without one the product has no funding. Wire facts: the venue's reference for
feed `ticker` of WebSocket v1, and captures of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from ssmd_stream.secmaster.fields import FieldError, Record

MAX_MESSAGE_BYTES = 64 * 1024
# Kraken lists some hundreds of products; a stranger's ids must not fill the memory.
MAX_PRODUCTS = 10_000
#: Columns of `pair_snapshots` that a ticker fills, and the members that hold them, newest generation first.
NUMBERS: Mapping[str, tuple[str, ...]] = {
    "mark_price": ("markPrice", "mark_price"),
    "index_price": ("index", "indexPrice", "index_price"),
    "last_price": ("last", "lastPrice", "last_price"),
    "bid": ("bid",),
    "ask": ("ask",),
    "funding_rate": ("funding_rate", "fundingRate"),
    "funding_rate_prediction": ("funding_rate_prediction", "fundingRatePrediction"),
    "relative_funding_rate": ("relative_funding_rate", "relativeFundingRate"),
    "relative_funding_rate_prediction": ("relative_funding_rate_prediction", "relativeFundingRatePrediction"),
    "open_interest": ("openInterest", "open_interest"),
    "volume_24h": ("volume", "vol24h", "volume_24h"),
}
COLUMNS = (*NUMBERS, "next_funding_time", "source_time", "suspended")
_TELLING = ("mark_price", "last_price", "funding_rate", "relative_funding_rate")
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


@dataclass(frozen=True, slots=True)
class Ticker:
    """One ticker, read.

    Attributes:
        product_id: as the venue writes it, upper case.
        received_at: when it came from the socket.
        values: by column of `COLUMNS`.
        problems: members that could not be read and are taken as missing, `name: reason`.
    """

    product_id: str
    received_at: datetime
    values: dict[str, Any]
    problems: tuple[str, ...]

    @property
    def tells(self) -> bool:
        """Whether it has a mark price, a last price or a funding rate; a row of quotes alone is worth nothing."""
        return any(self.values[name] is not None for name in _TELLING)


def read_ticker(payload: bytes, received_at: datetime) -> Ticker | None:
    """Read a ticker; None for what else comes on its subjects: `ticker_lite` has neither mark nor time.

    Raises:
        FieldError: it is no message of the venue, or a ticker without a product.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise FieldError(f"{len(payload)} bytes, more than {MAX_MESSAGE_BYTES}")
    try:
        record = Record(_DECODER.decode(payload))
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise FieldError(f"not JSON: {error}") from error
    if record.raw.get("feed") != "ticker" or "event" in record.raw:  # a reply names the feed that it is about
        return None
    values: dict[str, Any] = {column: record.decimal(*names) for column, names in NUMBERS.items()}
    values["next_funding_time"] = record.moment("next_funding_rate_time", "nextFundingRateTime")
    values["source_time"] = record.moment("time")
    values["suspended"] = record.flag("suspended") or False
    return Ticker(record.id("product_id", "productId").upper(), received_at, values, tuple(record.problems))


class Sampler:
    """The newest ticker of each product since the last flush.

    A product that is silent since then is not written again: a dead one would look alive.

    Attributes:
        unknown: products without a row in `pairs`, as of the last flush.
        empty: tickers left out because they tell nothing.
        stale: tickers left out because they were older than allowed.
        overflow: tickers left out because there are too many products.
    """

    def __init__(self) -> None:
        self._newest: dict[str, Ticker] = {}
        self.unknown: list[str] = []
        self.empty = 0
        self.stale = 0
        self.overflow = 0

    def __len__(self) -> int:
        return len(self._newest)

    def take(self, ticker: Ticker) -> None:
        """Note a ticker, unless a newer one of its product is there: a redelivery may come late."""
        before = self._newest.get(ticker.product_id)
        if before is None and len(self._newest) >= MAX_PRODUCTS:
            self.overflow += 1
        elif before is None or before.received_at <= ticker.received_at:
            self._newest[ticker.product_id] = ticker

    def due(self, pair_ids: Mapping[str, str], oldest: datetime) -> list[tuple[str, Ticker]]:
        """Pair ids and tickers that are to be written now, by product.

        Args:
            pair_ids: pair id by upper-case product id.
            oldest: tickers received before are left out. After hours of absence the stream hands over what was then.
        """
        self.unknown = sorted(self._newest.keys() - pair_ids.keys())
        return [
            (pair_ids[product_id], ticker)
            for product_id, ticker in sorted(self._newest.items())
            if product_id in pair_ids and ticker.tells and ticker.received_at >= oldest
        ]

    def forget(self, seen: Collection[Ticker], oldest: datetime) -> None:
        """After a flush: start anew, but for what has come since."""
        for ticker in seen:
            if self._newest.get(ticker.product_id) is ticker:
                self.empty += not ticker.tells
                self.stale += ticker.tells and ticker.received_at < oldest
                del self._newest[ticker.product_id]

    def tickers(self) -> list[Ticker]:
        """What is there."""
        return list(self._newest.values())
