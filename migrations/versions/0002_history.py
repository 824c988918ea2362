"""Every version of every row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from ssmd_core.db.triggers import (
    ROW_FUNCTION_NAMES,
    ROW_FUNCTIONS,
    history_function,
    history_triggers,
    row_triggers,
    trigger_names,
)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


# Table -> (key, watched columns, column with the venue's time), as they were at this revision.
KEPT = {
    "series": (
        "ticker",
        [
            "title",
            "category",
            "tags",
            "frequency",
            "is_game",
            "volume",
            "fee_type",
            "fee_multiplier",
            "exchange_index",
            "venue_updated_at",
            "deleted_at",
        ],
        "venue_updated_at",
    ),
    "events": (
        "event_ticker",
        [
            "series_ticker",
            "title",
            "sub_title",
            "category",
            "strike_date",
            "strike_period",
            "mutually_exclusive",
            "collateral_return_type",
            "status",
            "fee_type_override",
            "fee_multiplier_override",
            "exchange_index",
            "venue_updated_at",
            "deleted_at",
        ],
        "venue_updated_at",
    ),
    "markets": (
        "ticker",
        [
            "event_ticker",
            "title",
            "yes_sub_title",
            "no_sub_title",
            "market_type",
            "status",
            "venue_status",
            "open_time",
            "close_time",
            "expected_expiration_time",
            "expiration_time",
            "latest_expiration_time",
            "strike_type",
            "floor_strike",
            "cap_strike",
            "functional_strike",
            "custom_strike",
            "yes_bid",
            "yes_ask",
            "no_bid",
            "no_ask",
            "last_price",
            "volume",
            "volume_24h",
            "open_interest",
            "result",
            "settlement_value",
            "settled_at",
            "expiration_value",
            "can_close_early",
            "price_level_structure",
            "price_ranges",
            "mve_collection_ticker",
            "is_provisional",
            "exchange_index",
            "venue_created_at",
            "venue_updated_at",
            "deleted_at",
        ],
        "venue_updated_at",
    ),
    "series_fees": (
        "source_id",
        ["series_ticker", "fee_type", "fee_multiplier", "effective_from", "effective_to", "deleted_at"],
        "effective_from",
    ),
    "pairs": (
        "pair_id",
        [
            "exchange",
            "native_id",
            "base",
            "quote",
            "base_raw",
            "quote_raw",
            "ws_name",
            "symbol",
            "altname",
            "market_type",
            "status",
            "venue_status",
            "lot_decimals",
            "pair_decimals",
            "cost_decimals",
            "tick_size",
            "order_min",
            "cost_min",
            "contract_size",
            "max_position_size",
            "underlying",
            "contract_type",
            "margin_levels",
            "tradeable",
            "suspended",
            "opening_date",
            "last_trading_time",
            "fee_schedule_uid",
            "fee_schedule",
            "tags",
            "bid",
            "ask",
            "last_price",
            "mark_price",
            "index_price",
            "volume_24h",
            "open_interest",
            "funding_rate",
            "funding_rate_prediction",
            "deleted_at",
        ],
        None,
    ),
    "polymarket_conditions": (
        "condition_id",
        [
            "market_id",
            "event_id",
            "question",
            "slug",
            "category",
            "tags",
            "outcomes",
            "status",
            "active",
            "closed",
            "accepting_orders",
            "neg_risk",
            "start_date",
            "end_date",
            "resolution_date",
            "winning_outcome",
            "volume",
            "liquidity",
            "tick_size",
            "min_order_size",
            "venue_updated_at",
            "deleted_at",
        ],
        "venue_updated_at",
    ),
    "polymarket_tokens": (
        "token_id",
        ["condition_id", "outcome", "outcome_index", "winner", "price", "bid", "ask", "volume", "deleted_at"],
        None,
    ),
}


def upgrade() -> None:
    op.create_table(
        "events_history",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("event_ticker", sa.String(length=128), nullable=False),
        sa.Column("series_ticker", sa.String(length=128), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("sub_title", sa.Text(), nullable=True),
        sa.Column("category", sa.String(length=128), nullable=True),
        sa.Column("strike_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("strike_period", sa.String(length=64), nullable=True),
        sa.Column("mutually_exclusive", sa.Boolean(), nullable=True),
        sa.Column("collateral_return_type", sa.String(length=64), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("fee_type_override", sa.String(length=64), nullable=True),
        sa.Column("fee_multiplier_override", sa.Numeric(), nullable=True),
        sa.Column("exchange_index", sa.Integer(), nullable=True),
        sa.Column("venue_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_index("ix_events_history_key", "events_history", ["event_ticker", "known_from", "version"], unique=False)
    op.create_table(
        "markets_history",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("ticker", sa.String(length=128), nullable=False),
        sa.Column("event_ticker", sa.String(length=128), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("yes_sub_title", sa.Text(), nullable=True),
        sa.Column("no_sub_title", sa.Text(), nullable=True),
        sa.Column("market_type", sa.String(length=16), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("venue_status", sa.String(length=32), nullable=True),
        sa.Column("open_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("close_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expected_expiration_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expiration_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("latest_expiration_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("strike_type", sa.String(length=64), nullable=True),
        sa.Column("floor_strike", sa.Numeric(), nullable=True),
        sa.Column("cap_strike", sa.Numeric(), nullable=True),
        sa.Column("functional_strike", sa.Text(), nullable=True),
        sa.Column("custom_strike", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("yes_bid", sa.Numeric(), nullable=True),
        sa.Column("yes_ask", sa.Numeric(), nullable=True),
        sa.Column("no_bid", sa.Numeric(), nullable=True),
        sa.Column("no_ask", sa.Numeric(), nullable=True),
        sa.Column("last_price", sa.Numeric(), nullable=True),
        sa.Column("volume", sa.Numeric(), nullable=True),
        sa.Column("volume_24h", sa.Numeric(), nullable=True),
        sa.Column("open_interest", sa.Numeric(), nullable=True),
        sa.Column("result", sa.String(length=32), nullable=True),
        sa.Column("settlement_value", sa.Numeric(), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expiration_value", sa.Text(), nullable=True),
        sa.Column("can_close_early", sa.Boolean(), nullable=True),
        sa.Column("price_level_structure", sa.String(length=64), nullable=True),
        sa.Column("price_ranges", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("mve_collection_ticker", sa.String(length=128), nullable=True),
        sa.Column("is_provisional", sa.Boolean(), nullable=True),
        sa.Column("exchange_index", sa.Integer(), nullable=True),
        sa.Column("venue_created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("venue_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_index("ix_markets_history_key", "markets_history", ["ticker", "known_from", "version"], unique=False)
    op.create_table(
        "pairs_history",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("pair_id", sa.String(length=128), nullable=False),
        sa.Column("exchange", sa.String(length=32), nullable=True),
        sa.Column("native_id", sa.String(length=128), nullable=True),
        sa.Column("base", sa.String(length=32), nullable=True),
        sa.Column("quote", sa.String(length=32), nullable=True),
        sa.Column("base_raw", sa.String(length=32), nullable=True),
        sa.Column("quote_raw", sa.String(length=32), nullable=True),
        sa.Column("ws_name", sa.String(length=64), nullable=True),
        sa.Column("symbol", sa.String(length=64), nullable=True),
        sa.Column("altname", sa.String(length=64), nullable=True),
        sa.Column("market_type", sa.String(length=16), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("venue_status", sa.String(length=32), nullable=True),
        sa.Column("lot_decimals", sa.Integer(), nullable=True),
        sa.Column("pair_decimals", sa.Integer(), nullable=True),
        sa.Column("cost_decimals", sa.Integer(), nullable=True),
        sa.Column("tick_size", sa.Numeric(), nullable=True),
        sa.Column("order_min", sa.Numeric(), nullable=True),
        sa.Column("cost_min", sa.Numeric(), nullable=True),
        sa.Column("contract_size", sa.Numeric(), nullable=True),
        sa.Column("max_position_size", sa.Numeric(), nullable=True),
        sa.Column("underlying", sa.String(length=64), nullable=True),
        sa.Column("contract_type", sa.String(length=64), nullable=True),
        sa.Column("margin_levels", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("tradeable", sa.Boolean(), nullable=True),
        sa.Column("suspended", sa.Boolean(), nullable=True),
        sa.Column("opening_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_trading_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fee_schedule_uid", sa.String(length=64), nullable=True),
        sa.Column("fee_schedule", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("bid", sa.Numeric(), nullable=True),
        sa.Column("ask", sa.Numeric(), nullable=True),
        sa.Column("last_price", sa.Numeric(), nullable=True),
        sa.Column("mark_price", sa.Numeric(), nullable=True),
        sa.Column("index_price", sa.Numeric(), nullable=True),
        sa.Column("volume_24h", sa.Numeric(), nullable=True),
        sa.Column("open_interest", sa.Numeric(), nullable=True),
        sa.Column("funding_rate", sa.Numeric(), nullable=True),
        sa.Column("funding_rate_prediction", sa.Numeric(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_index("ix_pairs_history_key", "pairs_history", ["pair_id", "known_from", "version"], unique=False)
    op.create_table(
        "polymarket_conditions_history",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("condition_id", sa.String(length=128), nullable=False),
        sa.Column("market_id", sa.String(length=128), nullable=True),
        sa.Column("event_id", sa.String(length=128), nullable=True),
        sa.Column("question", sa.Text(), nullable=True),
        sa.Column("slug", sa.String(length=256), nullable=True),
        sa.Column("category", sa.String(length=128), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("outcomes", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=True),
        sa.Column("closed", sa.Boolean(), nullable=True),
        sa.Column("accepting_orders", sa.Boolean(), nullable=True),
        sa.Column("neg_risk", sa.Boolean(), nullable=True),
        sa.Column("start_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolution_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("winning_outcome", sa.String(length=256), nullable=True),
        sa.Column("volume", sa.Numeric(), nullable=True),
        sa.Column("liquidity", sa.Numeric(), nullable=True),
        sa.Column("tick_size", sa.Numeric(), nullable=True),
        sa.Column("min_order_size", sa.Numeric(), nullable=True),
        sa.Column("venue_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_index(
        "ix_polymarket_conditions_history_key",
        "polymarket_conditions_history",
        ["condition_id", "known_from", "version"],
        unique=False,
    )
    op.create_table(
        "polymarket_tokens_history",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("token_id", sa.String(length=128), nullable=False),
        sa.Column("condition_id", sa.String(length=128), nullable=True),
        sa.Column("outcome", sa.String(length=256), nullable=True),
        sa.Column("outcome_index", sa.Integer(), nullable=True),
        sa.Column("winner", sa.Boolean(), nullable=True),
        sa.Column("price", sa.Numeric(), nullable=True),
        sa.Column("bid", sa.Numeric(), nullable=True),
        sa.Column("ask", sa.Numeric(), nullable=True),
        sa.Column("volume", sa.Numeric(), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_index(
        "ix_polymarket_tokens_history_key",
        "polymarket_tokens_history",
        ["token_id", "known_from", "version"],
        unique=False,
    )
    op.create_table(
        "series_fees_history",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("source_id", sa.String(length=128), nullable=False),
        sa.Column("series_ticker", sa.String(length=128), nullable=True),
        sa.Column("fee_type", sa.String(length=64), nullable=True),
        sa.Column("fee_multiplier", sa.Numeric(), nullable=True),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_index(
        "ix_series_fees_history_key", "series_fees_history", ["source_id", "known_from", "version"], unique=False
    )
    op.create_table(
        "series_history",
        sa.Column("version", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("ticker", sa.String(length=128), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("category", sa.String(length=128), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("frequency", sa.String(length=64), nullable=True),
        sa.Column("is_game", sa.Boolean(), nullable=True),
        sa.Column("volume", sa.Numeric(), nullable=True),
        sa.Column("fee_type", sa.String(length=64), nullable=True),
        sa.Column("fee_multiplier", sa.Numeric(), nullable=True),
        sa.Column("exchange_index", sa.Integer(), nullable=True),
        sa.Column("venue_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("known_from", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_index("ix_series_history_key", "series_history", ["ticker", "known_from", "version"], unique=False)
    for statement in ROW_FUNCTIONS:
        op.execute(statement)
    for table, (key, columns, effective) in KEPT.items():
        names = ", ".join([key, *columns])
        # What stood here before history was kept has been known since its last change.
        op.execute(
            f"INSERT INTO {table}_history ({names}, effective_at, known_from) "
            f"SELECT {names}, {effective or 'NULL'}, updated_at FROM {table}"
        )
        op.execute(history_function(table, key, columns, effective))
        for statement in (*row_triggers(table, key, columns), *history_triggers(table)):
            op.execute(statement)


def downgrade() -> None:
    for table in KEPT:
        for name in trigger_names(table):
            op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"DROP FUNCTION {table}_keep()")
    for name in ROW_FUNCTION_NAMES:
        op.execute(f"DROP FUNCTION {name}()")
    op.drop_index("ix_series_history_key", table_name="series_history")
    op.drop_table("series_history")
    op.drop_index("ix_series_fees_history_key", table_name="series_fees_history")
    op.drop_table("series_fees_history")
    op.drop_index("ix_polymarket_tokens_history_key", table_name="polymarket_tokens_history")
    op.drop_table("polymarket_tokens_history")
    op.drop_index("ix_polymarket_conditions_history_key", table_name="polymarket_conditions_history")
    op.drop_table("polymarket_conditions_history")
    op.drop_index("ix_pairs_history_key", table_name="pairs_history")
    op.drop_table("pairs_history")
    op.drop_index("ix_markets_history_key", table_name="markets_history")
    op.drop_table("markets_history")
    op.drop_index("ix_events_history_key", table_name="events_history")
    op.drop_table("events_history")
