"""What Kalshi's records mean, in the columns of `series`, `events` and `markets`.

Two generations of names are read: dollars and contracts as decimal text (`yes_bid_dollars`, `volume_fp`), and the
integers in cents and contracts from before March 2026 (`yes_bid`, `volume`). What is missing is null, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import String

from ssmd_core.db.tables import SYNCED
from ssmd_core.secmaster.status import KALSHI, kalshi_status
from ssmd_stream.secmaster.fields import Record

Row = tuple[Any, ...]

SERIES_COLUMNS = (
    "title", "category", "tags", "frequency", "is_game", "volume", "fee_type", "fee_multiplier", "exchange_index",
    "venue_updated_at",
)  # fmt: skip
EVENT_COLUMNS = (
    "series_ticker", "title", "sub_title", "category", "strike_date", "strike_period", "mutually_exclusive",
    "collateral_return_type", "status", "fee_type_override", "fee_multiplier_override", "exchange_index",
    "venue_updated_at",
)  # fmt: skip
MARKET_COLUMNS = (
    "event_ticker", "title", "yes_sub_title", "no_sub_title", "market_type", "status", "venue_status", "open_time",
    "close_time", "expected_expiration_time", "expiration_time", "latest_expiration_time", "strike_type",
    "floor_strike", "cap_strike", "functional_strike", "custom_strike", "yes_bid", "yes_ask", "no_bid", "no_ask",
    "last_price", "volume", "volume_24h", "open_interest", "result", "settlement_value", "settled_at",
    "expiration_value", "can_close_early", "price_level_structure", "price_ranges", "mve_collection_ticker",
    "is_provisional", "exchange_index", "venue_created_at", "venue_updated_at",
)  # fmt: skip

# Members that every record has had so far; should all records of a listing lack one, it has been renamed (in March
# 2026 `volume` became `volume_fp`, and a filter on it found nothing for months).
SERIES_EXPECTED = (("title",), ("category",), ("volume_fp", "volume"), ("fee_type",), ("fee_multiplier",))
EVENT_EXPECTED = (("series_ticker",), ("title",), ("category",), ("mutually_exclusive",))
MARKET_EXPECTED = (
    ("status",), ("title", "subtitle"), ("open_time",), ("close_time",), ("volume_fp", "volume"),
    ("volume_24h_fp", "volume_24h"), ("open_interest_fp", "open_interest"), ("yes_bid_dollars", "yes_bid"),
    ("last_price_dollars", "last_price"),
)  # fmt: skip


def _widths(table: str) -> Mapping[str, int]:
    columns = SYNCED[table].table.columns
    return {c.name: c.type.length for c in columns if isinstance(c.type, String) and c.type.length is not None}


_SERIES_CHARS, _EVENT_CHARS, _MARKET_CHARS = _widths("series"), _widths("events"), _widths("markets")


def series_row(record: Record) -> Row:
    """Key and `SERIES_COLUMNS`.

    Raises:
        FieldError: no usable ticker.
    """
    ticker = record.id("ticker")
    chars = _SERIES_CHARS
    return (
        ticker,
        record.text("title") or ticker,
        record.text("category", chars=chars["category"]) or "",
        record.strings("tags"),
        record.text("frequency", chars=chars["frequency"]),
        is_game(ticker),
        record.decimal("volume_fp", "volume"),
        record.text("fee_type", chars=chars["fee_type"]),
        record.decimal("fee_multiplier"),
        record.whole("exchange_index"),
        record.moment("last_updated_ts"),
    )


def is_game(series_ticker: str) -> bool:
    """Whether a series is of single games: the venue has no member for it, its tickers say so."""
    upper = series_ticker.upper()
    return "GAME" in upper or "MATCH" in upper


def event_row(record: Record, status: str, category_of: Callable[[str], str]) -> Row:
    """Key and `EVENT_COLUMNS`.

    Args:
        status: ours; the record has none.
        category_of: category of a series, "" if unknown: an event's own is announced to go.

    Raises:
        FieldError: no usable event_ticker.
    """
    event_ticker = record.id("event_ticker")
    chars = _EVENT_CHARS
    # A ticker is its series' ticker, a dash and more.
    series_ticker = record.optional_id("series_ticker") or event_ticker.partition("-")[0]
    sub_title = record.text("sub_title", "subtitle")
    return (
        event_ticker,
        series_ticker,
        record.text("title") or sub_title or event_ticker,
        sub_title,
        record.text("category", chars=chars["category"]) or category_of(series_ticker),
        record.moment("strike_date"),
        record.text("strike_period", chars=chars["strike_period"]),
        record.flag("mutually_exclusive") or False,
        record.text("collateral_return_type", chars=chars["collateral_return_type"]),
        status,
        record.text("fee_type_override", chars=chars["fee_type_override"]),
        record.decimal("fee_multiplier_override"),
        record.whole("exchange_index"),
        record.moment("last_updated_ts"),
    )


def event_status(markets: Iterable[str]) -> str:
    """Our status of an event from its markets': it is where its liveliest market is; active without any."""
    words = set(markets)
    if not words or words & {"initialized", "active"}:
        return "active"
    return "closed" if "closed" in words else "settled"


def market_row(record: Record) -> Row:
    """Key and `MARKET_COLUMNS`. An unknown status is a problem of the record.

    Raises:
        FieldError: no usable ticker or event_ticker.
    """
    ticker = record.id("ticker")
    chars = _MARKET_CHARS
    venue_status = record.text("status", chars=chars["venue_status"])
    if venue_status not in KALSHI:
        record.problems.append(f"status: {venue_status!r} is not known, the market counts as closed")
    return (
        ticker,
        record.id("event_ticker"),
        record.text("title") or record.text("subtitle") or ticker,
        record.text("yes_sub_title"),
        record.text("no_sub_title"),
        record.text("market_type", chars=chars["market_type"]),
        kalshi_status(venue_status),
        venue_status,
        record.moment("open_time"),
        record.moment("close_time"),
        record.moment("expected_expiration_time"),
        record.moment("expiration_time"),
        record.moment("latest_expiration_time"),
        record.text("strike_type", chars=chars["strike_type"]),
        record.decimal("floor_strike"),
        record.decimal("cap_strike"),
        record.text("functional_strike"),
        record.json("custom_strike"),
        dollars(record, "yes_bid"),
        dollars(record, "yes_ask"),
        dollars(record, "no_bid"),
        dollars(record, "no_ask"),
        dollars(record, "last_price"),
        record.decimal("volume_fp", "volume"),
        record.decimal("volume_24h_fp", "volume_24h"),
        record.decimal("open_interest_fp", "open_interest"),
        record.text("result", chars=chars["result"]),
        dollars(record, "settlement_value"),
        record.moment("settlement_ts"),
        record.text("expiration_value"),
        record.flag("can_close_early"),
        record.text("price_level_structure", chars=chars["price_level_structure"]),
        record.json("price_ranges"),
        record.optional_id("mve_collection_ticker"),
        record.flag("is_provisional"),
        record.whole("exchange_index"),
        record.moment("created_time"),
        record.moment("updated_time"),
    )


def dollars(record: Record, name: str) -> Decimal | None:
    """A price: `{name}_dollars`, else `{name}`, where an integer is cents and text is dollars."""
    price = record.decimal(f"{name}_dollars")
    if price is not None:
        return price
    price = record.decimal(name)
    return price.scaleb(-2) if price is not None and isinstance(record.raw.get(name), int) else price
