"""Columns of a database table as Dagster shows them, from the table's one definition."""

from __future__ import annotations

import dagster as dg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from ssmd_core.db.tables import SYNCED

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


def table_schema(name: str) -> dg.TableSchema:
    """The table's columns with Postgres's types, in its order."""
    synced = SYNCED[name]
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type.compile(dialect=_DIALECT).lower(),
                description=_description(name, column.name, sticky=column.name in synced.sticky),
                constraints=dg.TableColumnConstraints(
                    nullable=bool(column.nullable),
                    unique=column.primary_key or bool(column.unique),
                    other=[f"references {key.target_fullname}" for key in column.foreign_keys],
                ),
            )
            for column in synced.table.columns
        ],
        constraints=dg.TableConstraints(
            other=[f"check {one.sqltext}" for one in synced.table.constraints if isinstance(one, sa.CheckConstraint)]
        ),
    )


def _description(table: str, column: str, *, sticky: bool) -> str | None:
    parts = [_MEANINGS.get(table, {}).get(column) or _EVERYWHERE.get(column)]
    if sticky:
        parts.append("Stays as it is when the venue leaves it out.")
    return " ".join(filter(None, parts)) or None


# Columns whose names do not say it all: units, and words that are ssmd's.
_EVERYWHERE = {
    "created_at": "When the row was first seen.",
    "updated_at": "When a value of the row last changed.",
    "deleted_at": "When the venue had ceased to list it; null while it does.",
    "venue_status": "The venue's own word.",
    "venue_created_at": "By the venue.",
    "venue_updated_at": "By the venue.",
    "exchange_index": "Kalshi's shard.",
}
_MEANINGS = {
    "series": {"volume": "Contracts.", "is_game": "A game or match, by the ticker."},
    "events": {"status": "active, closed or settled: Kalshi's events carry none, it follows from the listing."},
    "markets": {
        "status": "initialized, active, closed or settled.",
        **dict.fromkeys(("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price", "settlement_value"), "Dollars."),
        **dict.fromkeys(("volume", "volume_24h", "open_interest"), "Contracts."),
    },
    "series_fees": {
        "source_id": "Kalshi's id of the change, or ssmd's own where it is a series' first.",
        "effective_to": "When the next change takes effect; null while there is none.",
    },
    "pairs": {
        "pair_id": "kraken:{native_id}.",
        "base": "Canonical: BTC, DOGE.",
        "quote": "Canonical: USD, EUR.",
        "base_raw": "As the venue writes it: XXBT.",
        "quote_raw": "As the venue writes it: ZUSD.",
        "ws_name": "Of spot as AssetPairs has it: XBT/USD; else the product id.",
        "symbol": "As it stands in messages: BTC/USD of spot, else the product id.",
        "market_type": "spot, perpetual or future.",
        "order_min": "Base currency.",
        **dict.fromkeys(
            ("tick_size", "cost_min", "bid", "ask", "last_price", "mark_price", "index_price"), "Quote currency."
        ),
    },
    "polymarket_conditions": {
        "status": "active, suspended, inactive, closed or settled.",
        "volume": "Dollars.",
        "liquidity": "Dollars.",
        "tick_size": "Dollars.",
        "min_order_size": "Shares.",
    },
    "polymarket_tokens": {
        "outcome_index": "Position among the condition's outcomes, from 0.",
        **dict.fromkeys(("price", "bid", "ask"), "Dollars."),
    },
}
