"""API keys, settings, the log of data access."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("user_email", sa.String(length=255), nullable=False),
        sa.Column("key_prefix", sa.String(length=30), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("rate_limit_tier", sa.String(length=20), server_default="standard", nullable=False),
        sa.Column("allowed_feeds", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("date_range_start", sa.Date(), server_default=sa.text("'1970-01-01'"), nullable=False),
        sa.Column("date_range_end", sa.Date(), server_default=sa.text("'1970-01-01'"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("key_prefix ~ '^sk_(live|test)_[A-Za-z0-9_-]+$'", name="api_keys_prefix_shape"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key_prefix"),
    )
    op.create_index(
        op.f("ix_api_keys_allowed_feeds"), "api_keys", ["allowed_feeds"], unique=False, postgresql_using="gin"
    )
    op.create_index(
        op.f("ix_api_keys_expires_at"),
        "api_keys",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_index(op.f("ix_api_keys_user_id"), "api_keys", ["user_id"], unique=False)
    op.create_table(
        "data_access_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("key_prefix", sa.String(length=30), nullable=False),
        sa.Column("user_email", sa.String(length=255), nullable=False),
        sa.Column("feed", sa.String(length=64), nullable=False),
        sa.Column("date_from", sa.Date(), nullable=False),
        sa.Column("date_to", sa.Date(), nullable=False),
        sa.Column("msg_type", sa.String(length=64), nullable=True),
        sa.Column("files_count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_data_access_log_created_at"), "data_access_log", ["created_at"], unique=False)
    op.create_index(
        op.f("ix_data_access_log_user_email_created_at"), "data_access_log", ["user_email", "created_at"], unique=False
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("ssmd_now()"), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )


def downgrade() -> None:
    op.drop_table("settings")
    op.drop_index(op.f("ix_data_access_log_user_email_created_at"), table_name="data_access_log")
    op.drop_index(op.f("ix_data_access_log_created_at"), table_name="data_access_log")
    op.drop_table("data_access_log")
    op.drop_index(op.f("ix_api_keys_user_id"), table_name="api_keys")
    op.drop_index(op.f("ix_api_keys_expires_at"), table_name="api_keys", postgresql_where=sa.text("revoked_at IS NULL"))
    op.drop_index(op.f("ix_api_keys_allowed_feeds"), table_name="api_keys", postgresql_using="gin")
    op.drop_table("api_keys")
