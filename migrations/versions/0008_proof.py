"""Ledgers, untrusted intervals, hourly scores, drift, reconciliations and reports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dq_hourly_scores",
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("stream", sa.String(length=64), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("message_type", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Numeric(precision=5, scale=2), nullable=False),
        sa.Column(
            "components", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "inputs", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.PrimaryKeyConstraint("feed", "stream", "hour", "message_type"),
    )
    op.create_index("ix_dq_hourly_scores_hour", "dq_hourly_scores", ["hour"], unique=False)
    op.create_table(
        "drift_findings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=128), nullable=False),
        sa.Column("message_type", sa.String(length=128), nullable=False),
        sa.Column("path", sa.String(length=256), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("feed", "source", "message_type", "path", "kind", "found_at", name="drift_findings_once"),
    )
    op.create_index("ix_drift_findings_found", "drift_findings", ["found_at"], unique=False)
    op.create_table(
        "ledger_hours",
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("stream", sa.String(length=64), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("word", sa.String(length=32), nullable=False),
        sa.Column(
            "reasons", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "totals", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("ledger_sha256", sa.String(length=64), nullable=False),
        sa.Column("chain_number", sa.BigInteger(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("word IN ('complete', 'degraded', 'empty')", name="ledger_hours_words"),
        sa.PrimaryKeyConstraint("feed", "stream", "hour"),
    )
    op.create_index("ix_ledger_hours_hour", "ledger_hours", ["hour"], unique=False)
    op.create_table(
        "ledger_minutes",
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("stream", sa.String(length=64), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("epoch", sa.String(length=80), nullable=False),
        sa.Column("connection", sa.String(length=64), nullable=False),
        sa.Column("open_s", sa.Numeric(precision=5, scale=2), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("acknowledged", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "by_type", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("first_ordinal", sa.BigInteger(), nullable=True),
        sa.Column("last_ordinal", sa.BigInteger(), nullable=True),
        sa.Column("missing_ordinals", sa.BigInteger(), nullable=False),
        sa.Column(
            "counters", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("sequence_gaps", sa.BigInteger(), nullable=False),
        sa.Column("sequence_missing", sa.BigInteger(), nullable=False),
        sa.Column("passed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("unverifiable", sa.BigInteger(), nullable=False),
        sa.Column("offset_ms", sa.Double(), nullable=True),
        sa.Column("age_p50_ms", sa.Double(), nullable=True),
        sa.Column("age_p99_ms", sa.Double(), nullable=True),
        sa.Column("age_max_ms", sa.Double(), nullable=True),
        sa.Column("opens", sa.Integer(), nullable=False),
        sa.Column("resubscribes", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("live_messages", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("feed", "stream", "minute", "epoch"),
    )
    op.create_index("ix_ledger_minutes_minute", "ledger_minutes", ["minute"], unique=False)
    op.create_table(
        "reports",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("report_date", sa.Date(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column(
            "body", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("markdown", sa.Text(), nullable=False),
        sa.Column("input_sha256", sa.String(length=64), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=True),
        sa.Column("stop_reason", sa.String(length=32), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.Numeric(precision=12, scale=6), nullable=True),
        sa.Column("dropped_claims", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kind", "report_date", name="reports_once"),
    )
    op.create_table(
        "trade_reconciliations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("stream", sa.String(length=64), nullable=False),
        sa.Column("instrument", sa.String(length=128), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("venue_trades", sa.Integer(), nullable=False),
        sa.Column("archived_trades", sa.Integer(), nullable=False),
        sa.Column("matched", sa.Integer(), nullable=False),
        sa.Column("missing", sa.Integer(), nullable=False),
        sa.Column("extra", sa.Integer(), nullable=False),
        sa.Column("differing", sa.Integer(), nullable=False),
        sa.Column("backfilled", sa.Integer(), nullable=False),
        sa.Column("match_rate", sa.Numeric(precision=7, scale=4), nullable=True),
        sa.Column(
            "sample", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "feed", "stream", "instrument", "started_at", "ended_at", name="trade_reconciliations_once"
        ),
    )
    op.create_index("ix_trade_reconciliations_started", "trade_reconciliations", ["started_at"], unique=False)
    op.create_table(
        "untrusted_intervals",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("stream", sa.String(length=64), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("instrument", sa.String(length=128), nullable=False),
        sa.Column("check_name", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.String(length=80), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("nats_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_untrusted_intervals_hour", "untrusted_intervals", ["feed", "stream", "hour"], unique=False)
    op.create_index(
        "ix_untrusted_intervals_instrument",
        "untrusted_intervals",
        ["feed", "stream", "instrument", "started_at"],
        unique=False,
    )
    op.create_table(
        "wire_shapes",
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=128), nullable=False),
        sa.Column("message_type", sa.String(length=128), nullable=False),
        sa.Column("path", sa.String(length=256), nullable=False),
        sa.Column("json_type", sa.String(length=16), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_evidence", sa.Text(), nullable=False),
        sa.Column("presence", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("feed", "source", "message_type", "path", "json_type"),
    )


def downgrade() -> None:
    op.drop_table("wire_shapes")
    op.drop_index("ix_untrusted_intervals_instrument", table_name="untrusted_intervals")
    op.drop_index("ix_untrusted_intervals_hour", table_name="untrusted_intervals")
    op.drop_table("untrusted_intervals")
    op.drop_index("ix_trade_reconciliations_started", table_name="trade_reconciliations")
    op.drop_table("trade_reconciliations")
    op.drop_table("reports")
    op.drop_index("ix_ledger_minutes_minute", table_name="ledger_minutes")
    op.drop_table("ledger_minutes")
    op.drop_index("ix_ledger_hours_hour", table_name="ledger_hours")
    op.drop_table("ledger_hours")
    op.drop_index("ix_drift_findings_found", table_name="drift_findings")
    op.drop_table("drift_findings")
    op.drop_index("ix_dq_hourly_scores_hour", table_name="dq_hourly_scores")
    op.drop_table("dq_hourly_scores")
