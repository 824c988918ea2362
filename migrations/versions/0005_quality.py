"""Scores, parquet statistics, archive uploads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "archiver_sync_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("archiver_name", sa.Text(), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("success", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column(
            "details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_archiver_sync_log_latest",
        "archiver_sync_log",
        ["archiver_name", sa.literal_column("synced_at DESC")],
        unique=False,
    )
    op.create_table(
        "dq_daily_scores",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("check_date", sa.Date(), nullable=False),
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Numeric(precision=5, scale=2), nullable=False),
        sa.Column("composite_score", sa.Numeric(precision=5, scale=2), nullable=True),
        sa.Column(
            "details", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("gap_count", sa.Integer(), nullable=True),
        sa.Column("gap_total_minutes", sa.Numeric(precision=10, scale=2), nullable=True),
        sa.Column("coverage_pct", sa.Numeric(precision=5, scale=2), nullable=True),
        sa.Column("expected_messages", sa.BigInteger(), nullable=True),
        sa.Column("actual_messages", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("check_date", "feed", name="dq_daily_scores_once"),
    )
    op.create_table(
        "dq_parquet_stats",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("msg_type", sa.String(length=64), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("file_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("compression_ratio", sa.Numeric(precision=8, scale=4), nullable=True),
        sa.Column("duplicates_filtered", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("schema_valid", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "null_violations",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("path"),
    )
    op.create_index(op.f("ix_dq_parquet_stats_feed_date"), "dq_parquet_stats", ["feed", "date"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_dq_parquet_stats_feed_date"), table_name="dq_parquet_stats")
    op.drop_table("dq_parquet_stats")
    op.drop_table("dq_daily_scores")
    op.drop_index("ix_archiver_sync_log_latest", table_name="archiver_sync_log")
    op.drop_table("archiver_sync_log")
