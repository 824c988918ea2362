"""Message types and parquet schemas. The venue sends JSON numbers, so prices and quantities are float64.

Quantities are contracts on PI_ and FI_ products (one US dollar) and base units on PF_ and FF_ products.
"""

from __future__ import annotations

from ssmd_core.feeds.base import Column, MessageType, Schema
from ssmd_core.feeds.columns import flag, integer, levels_float, milliseconds, moment, number, text

_PRODUCT = text("product_id", "product_id", required=True, about="e.g. PF_XBTUSD")
_QTY = "contracts or base units"
_LEVELS = f"quote currency, {_QTY}"

_TICKER_SCHEMA = Schema(
    "kraken_futures_ticker",
    "2.0.0",
    (
        _PRODUCT,
        number("bid", "bid", unit="quote currency"),
        number("bid_size", "bid_size", "bidSize", unit=_QTY),
        number("ask", "ask", unit="quote currency"),
        number("ask_size", "ask_size", "askSize", unit=_QTY),
        number("last", "last", unit="quote currency"),
        number("volume", "volume", unit=_QTY, about="24 h"),
        number("volume_quote", "volumeQuote", "volume_quote", unit="quote currency", about="24 h"),
        number("open", "open", unit="quote currency", about="24 h"),
        number("high", "high", unit="quote currency", about="24 h"),
        number("low", "low", unit="quote currency", about="24 h"),
        number("change", "change", unit="percent", about="24 h"),
        number("premium", "premium", unit="percent", about="of the mark over the index; -0.0 occurs"),
        number("index_price", "index", "indexPrice", unit="quote currency"),
        number("mark_price", "markPrice", "mark_price", unit="quote currency"),
        number("open_interest", "openInterest", "open_interest", unit=_QTY),
        number(
            "funding_rate",
            "funding_rate",
            "fundingRate",
            unit="quote currency per contract and hour",
            about="absolute; absent on dated futures and when zero",
        ),
        number(
            "funding_rate_prediction",
            "funding_rate_prediction",
            "fundingRatePrediction",
            unit="quote currency per contract and hour",
            about="absolute",
        ),
        number(
            "relative_funding_rate",
            "relative_funding_rate",
            "relativeFundingRate",
            unit="per hour",
            about="share of the position, the one to use (since 2022-09-29)",
        ),
        number(
            "relative_funding_rate_prediction",
            "relative_funding_rate_prediction",
            "relativeFundingRatePrediction",
            unit="per hour",
        ),
        integer("next_funding_rate_time", "next_funding_rate_time", "nextFundingRateTime", unit="ms since 1970"),
        text("leverage", "leverage", about="e.g. 100x"),
        text("tag", "tag", about="perpetual, month, quarter or week"),
        text("pair", "pair", about="e.g. XBT:USD"),
        integer("dtm", "dtm", unit="days", about="to maturity; can be negative"),
        integer("maturity_time", "maturityTime", "maturity_time", unit="ms since 1970", about="0 on perpetuals"),
        flag("suspended", "suspended"),
        flag("post_only", "post_only", "postOnly"),
        moment("time", milliseconds("time"), required=True, about="venue's time"),
    ),
)

_TICKER_LITE_SCHEMA = Schema(
    "kraken_futures_ticker_lite",
    "1.0.0",
    (
        _PRODUCT,
        number("bid", "bid", unit="quote currency"),
        number("ask", "ask", unit="quote currency"),
        number("change", "change", unit="percent", about="24 h"),
        number("premium", "premium", unit="percent"),
        number("volume", "volume", unit=_QTY, about="24 h"),
        number("volume_quote", "volumeQuote", "volume_quote", unit="quote currency", about="24 h"),
        text("tag", "tag"),
        text("pair", "pair"),
        integer("dtm", "dtm", unit="days", about="to maturity; can be negative"),
        integer("maturity_time", "maturityTime", "maturity_time", unit="ms since 1970", about="0 on perpetuals"),
    ),
)


def _trade_columns(prefix: str) -> tuple[Column, ...]:
    return (
        text("uid", f"{prefix}uid", required=True, distinct=True, about="uuid of the trade, equal to REST uid"),
        text("side", f"{prefix}side", required=True, about="taker's side, buy or sell"),
        text("trade_type", f"{prefix}type", required=True, about="fill, liquidation, termination, assignment or block"),
        integer("seq", f"{prefix}seq", required=True, about="counts up by one per product"),
        number("qty", f"{prefix}qty", required=True, unit=_QTY),
        number("price", f"{prefix}price", required=True, unit="quote currency"),
        moment("time", milliseconds(f"{prefix}time"), required=True, about="venue's time"),
    )


_TRADE_SCHEMA = Schema("kraken_futures_trade", "2.0.0", (_PRODUCT, *_trade_columns("")))

_TRADE_SNAPSHOT_SCHEMA = Schema(
    "kraken_futures_trade_snapshot",
    "1.0.0",
    (text("product_id", "item.product_id", "product_id", required=True), *_trade_columns("item.")),
    explode=("trades",),
)

_BOOK_SNAPSHOT_SCHEMA = Schema(
    "kraken_futures_book_snapshot",
    "1.0.0",
    (
        _PRODUCT,
        integer("seq", "seq", required=True, about="base of the product's sequence"),
        number("tick_size", "tickSize", "tick_size", unit="quote currency", about="null on the wire"),
        levels_float("bids", _LEVELS, "bids", about="full depth"),
        levels_float("asks", _LEVELS, "asks", about="full depth"),
        moment("timestamp", milliseconds("timestamp"), required=True, about="of the book's last change"),
    ),
)

_BOOK_SCHEMA = Schema(
    "kraken_futures_book",
    "1.0.0",
    (
        _PRODUCT,
        text("side", "side", required=True, about="buy or sell"),
        integer("seq", "seq", required=True, about="counts up by one per product from its snapshot"),
        number("price", "price", required=True, unit="quote currency"),
        number("qty", "qty", required=True, unit=_QTY, about="absolute; 0 removes the level"),
        moment("timestamp", milliseconds("timestamp"), required=True, about="venue's time"),
    ),
)

MESSAGE_TYPES: dict[str, MessageType] = {
    kind.name: kind
    for kind in (
        MessageType(
            "ticker",
            "ticker",
            _TICKER_SCHEMA,
            "Quotes, mark, index, open interest and funding of a product.",
            "time",
            "product_id",
        ),
        MessageType(
            "ticker_lite",
            "ticker",
            _TICKER_LITE_SCHEMA,
            "Quotes without a time: use `_received_at`.",
            instrument="product_id",
        ),
        MessageType("trade", "trade", _TRADE_SCHEMA, "One public trade.", "time", "product_id"),
        MessageType(
            "trade_snapshot",
            "trade",
            _TRADE_SNAPSHOT_SCHEMA,
            "The last 100 trades, newest first, after each subscribe; a row per trade. Overlaps `trade`: match on uid.",
            instrument="product_id",
        ),
        MessageType("book", "book", _BOOK_SCHEMA, "One price level.", "timestamp", "product_id"),
        MessageType(
            "book_snapshot",
            "book",
            _BOOK_SNAPSHOT_SCHEMA,
            "The whole book; replaces what was known of it.",
            instrument="product_id",
        ),
        MessageType("heartbeat", "control", description="Keepalive, where subscribed."),
        MessageType("info", "control", description="Sent on connecting."),
        MessageType("subscribed", "control", description="A subscription is accepted."),
        MessageType("subscribed_failed", "control", description="A subscription is refused."),
        MessageType("unsubscribed", "control", description="A subscription has ended."),
        MessageType("unsubscribed_failed", "control", description="An unsubscribe is refused."),
        MessageType("alert", "control", description="A request was refused."),
        MessageType("error", "control", description="A request could not be read."),
        MessageType("challenge", "control", description="Challenge of the private feeds."),
    )
}
