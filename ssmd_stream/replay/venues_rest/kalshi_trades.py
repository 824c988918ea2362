"""A sent trade as Kalshi's REST interface tells it (record format of August 2026)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from zlib import crc32

from ssmd_stream.replay.protocol import iso
from ssmd_stream.replay.venues_rest.kalshi_listing import Json
from ssmd_stream.replay.venues_rest.tape import TapedTrade


def trade_record(trade: TapedTrade) -> Json:
    """The record; REST calls the market `ticker`, and tells microseconds where WebSocket tells milliseconds."""
    body = trade.message
    yes = _dollars(body, "yes_price")
    side = body.get("taker_outcome_side") or body.get("taker_side")
    created = iso((trade.time_us + crc32(str(body["trade_id"]).encode()) % 1000) * 1000)
    return {
        "count_fp": body["count_fp"] if "count_fp" in body else f"{Decimal(body['count']):.2f}",
        # Trailing zeros of the fraction are cut.
        "created_time": created[:-1].rstrip("0").rstrip(".") + "Z",
        "is_block_trade": body.get("is_block_trade", False),
        "no_price_dollars": f"{1 - Decimal(yes):.4f}",
        "taker_book_side": "bid" if side == "yes" else "ask",
        "taker_outcome_side": side,
        "taker_side": side,
        "ticker": trade.instrument,
        "trade_id": body["trade_id"],
        "yes_price_dollars": yes,
    }


def _dollars(body: dict[str, Any], name: str) -> str:
    text = body.get(f"{name}_dollars")
    return str(text) if text is not None else f"{Decimal(body[name]) / 100:.4f}"
