"""The security master."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from ssmd_core.db.triggers import NOW_FUNCTION

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# Prices in dollars or in the quote currency; volume_24h in contracts, base currency or dollars, as each venue counts.
INSTRUMENTS = """
CREATE VIEW instruments AS
SELECT 'kalshi' AS exchange, 'prediction' AS instrument_type, m.ticker AS instrument_id, m.title AS name,
       e.category AS category, m.status AS status, m.yes_bid AS bid, m.yes_ask AS ask, m.last_price AS last_price,
       m.volume_24h AS volume_24h, m.open_interest AS open_interest, m.close_time AS expiry,
       NULL::numeric AS funding_rate, NULL::numeric AS mark_price, NULL::numeric AS index_price,
       jsonb_build_object('event_ticker', m.event_ticker, 'series_ticker', e.series_ticker) AS metadata, m.updated_at
FROM markets m JOIN events e USING (event_ticker)
WHERE m.deleted_at IS NULL AND e.deleted_at IS NULL
UNION ALL
SELECT exchange, market_type, pair_id,
       base || '/' || quote || CASE market_type WHEN 'spot' THEN '' WHEN 'perpetual' THEN ' Perp' ELSE ' Future' END,
       NULL, CASE WHEN suspended THEN 'suspended' WHEN NOT tradeable THEN 'inactive' ELSE status END,
       bid, ask, last_price, volume_24h, open_interest, last_trading_time, funding_rate, mark_price, index_price,
       jsonb_strip_nulls(jsonb_build_object(
         'symbol', symbol, 'ws_name', ws_name, 'tick_size', tick_size, 'contract_type', contract_type,
         'underlying', underlying, 'contract_size', contract_size, 'funding_rate_prediction', funding_rate_prediction)),
       updated_at
FROM pairs WHERE deleted_at IS NULL
UNION ALL
SELECT 'polymarket', 'prediction', condition_id, question, category, status, NULL, NULL, NULL, NULL, NULL, end_date,
       NULL, NULL, NULL, jsonb_build_object('slug', slug, 'outcomes', outcomes, 'event_id', event_id), updated_at
FROM polymarket_conditions WHERE deleted_at IS NULL
"""


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS btree_gist")
    op.execute(NOW_FUNCTION)
    op.create_table(
        "events",
        sa.Column("event_ticker", sa.String(length=128), nullable=False),
        sa.Column("series_ticker", sa.String(length=128), server_default="", nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("sub_title", sa.Text(), nullable=True),
        sa.Column("category", sa.String(length=128), server_default="", nullable=False),
        sa.Column("strike_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("strike_period", sa.String(length=64), nullable=True),
        sa.Column("mutually_exclusive", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("collateral_return_type", sa.String(length=64), nullable=True),
        sa.Column("status", sa.String(length=16), server_default="active", nullable=False),
        sa.Column("fee_type_override", sa.String(length=64), nullable=True),
        sa.Column("fee_multiplier_override", sa.Numeric(), nullable=True),
        sa.Column("exchange_index", sa.Integer(), nullable=True),
        sa.Column("venue_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("event_ticker"),
    )
    op.create_index(
        op.f("ix_events_category"), "events", ["category"], unique=False, postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.create_index(
        op.f("ix_events_series_ticker"),
        "events",
        ["series_ticker"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_events_status"), "events", ["status"], unique=False, postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.create_index(
        op.f("ix_events_strike_date"),
        "events",
        ["strike_date"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "market_lifecycle_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("stream", sa.String(length=64), nullable=False),
        sa.Column("nats_seq", sa.BigInteger(), nullable=False),
        sa.Column("market_ticker", sa.String(length=128), nullable=False),
        sa.Column("event_type", sa.String(length=64), nullable=False),
        sa.Column("open_ts", sa.DateTime(timezone=True), nullable=True),
        sa.Column("close_ts", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_ts", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.String(length=32), nullable=True),
        sa.Column("settlement_value", sa.Numeric(), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("stream", "nats_seq", name="market_lifecycle_events_once"),
    )
    op.create_index(
        op.f("ix_market_lifecycle_events_event_type"), "market_lifecycle_events", ["event_type"], unique=False
    )
    op.create_index(
        op.f("ix_market_lifecycle_events_market_ticker"), "market_lifecycle_events", ["market_ticker"], unique=False
    )
    op.create_index(
        op.f("ix_market_lifecycle_events_received_at"), "market_lifecycle_events", ["received_at"], unique=False
    )
    op.create_table(
        "pairs",
        sa.Column("pair_id", sa.String(length=128), nullable=False),
        sa.Column("exchange", sa.String(length=32), nullable=False),
        sa.Column("native_id", sa.String(length=128), nullable=False),
        sa.Column("base", sa.String(length=32), nullable=False),
        sa.Column("quote", sa.String(length=32), nullable=False),
        sa.Column("base_raw", sa.String(length=32), nullable=False),
        sa.Column("quote_raw", sa.String(length=32), nullable=False),
        sa.Column("ws_name", sa.String(length=64), nullable=False),
        sa.Column("symbol", sa.String(length=64), nullable=False),
        sa.Column("altname", sa.String(length=64), nullable=True),
        sa.Column("market_type", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
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
        sa.Column("tradeable", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("suspended", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("opening_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_trading_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fee_schedule_uid", sa.String(length=64), nullable=True),
        sa.Column("fee_schedule", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("bid", sa.Numeric(), nullable=True),
        sa.Column("ask", sa.Numeric(), nullable=True),
        sa.Column("last_price", sa.Numeric(), nullable=True),
        sa.Column("mark_price", sa.Numeric(), nullable=True),
        sa.Column("index_price", sa.Numeric(), nullable=True),
        sa.Column("volume_24h", sa.Numeric(), nullable=True),
        sa.Column("open_interest", sa.Numeric(), nullable=True),
        sa.Column("funding_rate", sa.Numeric(), nullable=True),
        sa.Column("funding_rate_prediction", sa.Numeric(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("pair_id"),
    )
    op.create_index(op.f("ix_pairs_base_quote"), "pairs", ["base", "quote"], unique=False)
    op.create_index(
        op.f("ix_pairs_exchange_market_type"),
        "pairs",
        ["exchange", "market_type"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL AND status = 'active'"),
    )
    op.create_table(
        "polymarket_conditions",
        sa.Column("condition_id", sa.String(length=128), nullable=False),
        sa.Column("market_id", sa.String(length=128), nullable=True),
        sa.Column("event_id", sa.String(length=128), nullable=True),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("slug", sa.String(length=256), nullable=True),
        sa.Column("category", sa.String(length=128), nullable=True),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("outcomes", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("closed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
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
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("condition_id"),
    )
    op.create_index(
        op.f("ix_polymarket_conditions_category"),
        "polymarket_conditions",
        ["category"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_polymarket_conditions_event_id"),
        "polymarket_conditions",
        ["event_id"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_polymarket_conditions_status"),
        "polymarket_conditions",
        ["status"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_polymarket_conditions_tags"),
        "polymarket_conditions",
        ["tags"],
        unique=False,
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "series",
        sa.Column("ticker", sa.String(length=128), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("category", sa.String(length=128), server_default="", nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("frequency", sa.String(length=64), nullable=True),
        sa.Column("is_game", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("volume", sa.Numeric(), nullable=True),
        sa.Column("fee_type", sa.String(length=64), nullable=True),
        sa.Column("fee_multiplier", sa.Numeric(), nullable=True),
        sa.Column("exchange_index", sa.Integer(), nullable=True),
        sa.Column("venue_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("ticker"),
    )
    op.create_index(
        op.f("ix_series_category_is_game"),
        "series",
        ["category", "is_game"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_series_tags"),
        "series",
        ["tags"],
        unique=False,
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "series_fees",
        sa.Column("source_id", sa.String(length=128), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("series_ticker", sa.String(length=128), nullable=False),
        sa.Column("fee_type", sa.String(length=64), nullable=False),
        sa.Column("fee_multiplier", sa.Numeric(), nullable=False),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("effective_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        postgresql.ExcludeConstraint(
            (sa.column("series_ticker"), "="),
            (sa.text("tstzrange(effective_from, effective_to)"), "&&"),
            where=sa.text("deleted_at IS NULL"),
            deferrable="True",
            initially="DEFERRED",
            using="gist",
            name="series_fees_no_overlap",
        ),
        sa.CheckConstraint(
            "fee_type IN ('quadratic', 'quadratic_with_maker_fees', 'quadratic_with_combo_maker_fees', 'flat')",
            name="series_fees_known_type",
        ),
        sa.PrimaryKeyConstraint("source_id"),
        sa.UniqueConstraint("id"),
    )
    op.create_index(
        op.f("ix_series_fees_series_ticker_effective_from"),
        "series_fees",
        ["series_ticker", "effective_from"],
        unique=False,
    )
    op.create_table(
        "markets",
        sa.Column("ticker", sa.String(length=128), nullable=False),
        sa.Column("event_ticker", sa.String(length=128), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("yes_sub_title", sa.Text(), nullable=True),
        sa.Column("no_sub_title", sa.Text(), nullable=True),
        sa.Column("market_type", sa.String(length=16), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
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
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["event_ticker"], ["events.event_ticker"], name=op.f("fk_markets_event_ticker")),
        sa.PrimaryKeyConstraint("ticker"),
    )
    op.create_index(
        op.f("ix_markets_close_time"),
        "markets",
        ["close_time"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_markets_event_ticker"),
        "markets",
        ["event_ticker"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_markets_opening",
        "markets",
        ["open_time"],
        unique=False,
        postgresql_where=sa.text("status = 'initialized' AND deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_markets_status"), "markets", ["status"], unique=False, postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.create_table(
        "pair_snapshots",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("pair_id", sa.String(length=128), nullable=False),
        sa.Column("mark_price", sa.Numeric(), nullable=True),
        sa.Column("index_price", sa.Numeric(), nullable=True),
        sa.Column("last_price", sa.Numeric(), nullable=True),
        sa.Column("bid", sa.Numeric(), nullable=True),
        sa.Column("ask", sa.Numeric(), nullable=True),
        sa.Column("funding_rate", sa.Numeric(), nullable=True),
        sa.Column("funding_rate_prediction", sa.Numeric(), nullable=True),
        sa.Column("relative_funding_rate", sa.Numeric(), nullable=True),
        sa.Column("relative_funding_rate_prediction", sa.Numeric(), nullable=True),
        sa.Column("next_funding_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("open_interest", sa.Numeric(), nullable=True),
        sa.Column("volume_24h", sa.Numeric(), nullable=True),
        sa.Column("suspended", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("source_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("snapshot_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.ForeignKeyConstraint(["pair_id"], ["pairs.pair_id"], name=op.f("fk_pair_snapshots_pair_id")),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_pair_snapshots_latest", "pair_snapshots", ["pair_id", sa.literal_column("snapshot_at DESC")], unique=False
    )
    op.create_index(op.f("ix_pair_snapshots_snapshot_at"), "pair_snapshots", ["snapshot_at"], unique=False)
    op.create_table(
        "polymarket_tokens",
        sa.Column("token_id", sa.String(length=128), nullable=False),
        sa.Column("condition_id", sa.String(length=128), nullable=False),
        sa.Column("outcome", sa.String(length=256), nullable=False),
        sa.Column("outcome_index", sa.Integer(), nullable=False),
        sa.Column("winner", sa.Boolean(), nullable=True),
        sa.Column("price", sa.Numeric(), nullable=True),
        sa.Column("bid", sa.Numeric(), nullable=True),
        sa.Column("ask", sa.Numeric(), nullable=True),
        sa.Column("volume", sa.Numeric(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["condition_id"],
            ["polymarket_conditions.condition_id"],
            name=op.f("fk_polymarket_tokens_condition_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("token_id"),
    )
    op.create_index(op.f("ix_polymarket_tokens_condition_id"), "polymarket_tokens", ["condition_id"], unique=False)
    op.execute(INSTRUMENTS)


def downgrade() -> None:
    op.execute("DROP VIEW instruments")
    op.drop_index(op.f("ix_polymarket_tokens_condition_id"), table_name="polymarket_tokens")
    op.drop_table("polymarket_tokens")
    op.drop_index(op.f("ix_pair_snapshots_snapshot_at"), table_name="pair_snapshots")
    op.drop_index("ix_pair_snapshots_latest", table_name="pair_snapshots")
    op.drop_table("pair_snapshots")
    op.drop_index(op.f("ix_markets_status"), table_name="markets", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_index(
        "ix_markets_opening",
        table_name="markets",
        postgresql_where=sa.text("status = 'initialized' AND deleted_at IS NULL"),
    )
    op.drop_index(op.f("ix_markets_event_ticker"), table_name="markets", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_index(op.f("ix_markets_close_time"), table_name="markets", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("markets")
    op.drop_index(op.f("ix_series_fees_series_ticker_effective_from"), table_name="series_fees")
    op.drop_table("series_fees")
    op.drop_index(
        op.f("ix_series_tags"),
        table_name="series",
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index(
        op.f("ix_series_category_is_game"), table_name="series", postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.drop_table("series")
    op.drop_index(
        op.f("ix_polymarket_conditions_tags"),
        table_name="polymarket_conditions",
        postgresql_using="gin",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index(
        op.f("ix_polymarket_conditions_status"),
        table_name="polymarket_conditions",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index(
        op.f("ix_polymarket_conditions_event_id"),
        table_name="polymarket_conditions",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index(
        op.f("ix_polymarket_conditions_category"),
        table_name="polymarket_conditions",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_table("polymarket_conditions")
    op.drop_index(
        op.f("ix_pairs_exchange_market_type"),
        table_name="pairs",
        postgresql_where=sa.text("deleted_at IS NULL AND status = 'active'"),
    )
    op.drop_index(op.f("ix_pairs_base_quote"), table_name="pairs")
    op.drop_table("pairs")
    op.drop_index(op.f("ix_market_lifecycle_events_received_at"), table_name="market_lifecycle_events")
    op.drop_index(op.f("ix_market_lifecycle_events_market_ticker"), table_name="market_lifecycle_events")
    op.drop_index(op.f("ix_market_lifecycle_events_event_type"), table_name="market_lifecycle_events")
    op.drop_table("market_lifecycle_events")
    op.drop_index(op.f("ix_events_strike_date"), table_name="events", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_index(op.f("ix_events_status"), table_name="events", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_index(op.f("ix_events_series_ticker"), table_name="events", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_index(op.f("ix_events_category"), table_name="events", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("events")
    op.execute("DROP FUNCTION ssmd_now()")
