"""A trade as both sides tell it, and what a venue's answer covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from ssmd_stream.secmaster.fields import FieldError

US_PER_S = 1_000_000
US_PER_MS = 1_000
#: Stands for a price or size that is null or NaN: equal to none of a venue's, and unlike NaN it can be ordered.
NO_NUMBER = Decimal("Infinity")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One trade.

    Attributes:
        id: by which both sides know it: Kalshi `trade_id`, Kraken's number, Futures' `uid`, Polymarket's transaction
            hash (which holds several trades); "" where an old message carries none.
        asset: what was traded; Polymarket's token, else the instrument.
        time_us: the venue's time, epoch µs.
        price, size: exact, but see `approximate`.
        side: taker's, in the venue's words; None if not told.
        approximate: price and size come from float64 columns, as the shortest decimal that gives the same float.
    """

    id: str
    asset: str
    time_us: int
    price: Decimal
    size: Decimal
    side: str | None = None
    approximate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VenueTrade(Trade):
    """A trade of a REST answer.

    Attributes:
        columns: of the feed's trade dataset that REST tells too, in those columns' types.
        account: what tells rows of one trade apart, where the venue lists both parties; "" elsewhere.
        raw: the row as JSON, compact, numbers as the venue wrote them.
    """

    columns: Mapping[str, Any] = field(compare=False)
    account: str = ""
    raw: str = field(compare=False)


@dataclass(slots=True)
class Answer:
    """What a venue said about one instrument.

    Attributes:
        trades: as far as they lie in what was asked for, in no order.
        known_from_us, known_to_us: what the answer covers, if that is less; `known_to_us` is exclusive.
        unreadable: rows that are no trades; the first one's reason stands in `notes`.
        notes: what to tell of it, one sentence each.
    """

    trades: list[VenueTrade] = field(default_factory=list)
    known_from_us: int | None = None
    known_to_us: int | None = None
    unreadable: int = 0
    notes: list[str] = field(default_factory=list)

    def unreadable_row(self, error: FieldError) -> None:
        """Count a row that is no trade."""
        if not self.unreadable:
            self.notes.append(f"a row cannot be read: {error}")
        self.unreadable += 1


class VenueTrades(Protocol):
    """A venue's history of trades.

    Attributes:
        margin_us: how far apart both sides' times of a trade may lie; so much more is asked for at both ends.
        unique_ids: whether an id names one trade.
        begins_silently: whether an answer does not tell where the venue's history begins.
    """

    margin_us: int
    unique_ids: bool
    begins_silently: bool

    async def trades(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """Trades of [start, end).

        Raises:
            RestError: the venue did not answer as it should.
        """

    async def others(self, instrument: str, start_us: int, end_us: int) -> Answer:
        """Rows that `trades` leaves out and in which a captured trade may be told; empty for most venues.

        Raises:
            RestError: the venue did not answer as it should.
        """

    def same_time(self, venue_us: int, archived_us: int) -> bool:
        """Whether these are the same moment, as exactly as both sides tell it."""


def us_of(moment: datetime) -> int:
    """Epoch µs."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_of_us(time_us: int) -> datetime:
    """UTC."""
    return _EPOCH + timedelta(microseconds=time_us)
