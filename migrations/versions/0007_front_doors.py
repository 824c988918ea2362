"""Usage of keys and models, rotation of keys, and word of every committed change on `ssmd_changes`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ssmd_core.db.tables import NOTIFIED, SYNCED
from ssmd_core.db.triggers import NOTIFY_FUNCTION, history_function, notify_trigger

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COUNTERS = ("requests", "rate_limit_hits", "response_bytes")
_LLM_COUNTERS = ("requests", "prompt_tokens", "completion_tokens")


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("created_by", sa.String(length=30), nullable=True))
    op.add_column("api_keys", sa.Column("rotated_from", sa.String(length=30), nullable=True))
    op.add_column("data_access_log", sa.Column("route", sa.String(length=128), nullable=True))
    op.add_column("data_access_log", sa.Column("request_id", sa.String(length=64), nullable=True))
    op.create_table(
        "api_usage_daily",
        sa.Column("key_prefix", sa.String(length=30), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in _COUNTERS),
        sa.PrimaryKeyConstraint("key_prefix", "date"),
    )
    op.create_table(
        "llm_usage_daily",
        sa.Column("key_prefix", sa.String(length=30), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in _LLM_COUNTERS),
        sa.Column("cost_usd", sa.Numeric(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("key_prefix", "date", "model"),
    )
    op.execute(NOTIFY_FUNCTION)
    for table, columns in NOTIFIED.items():
        op.execute(notify_trigger(table, columns))
    for name, one in SYNCED.items():
        op.execute(history_function(name, one.key, one.columns, one.effective))


def downgrade() -> None:
    # The history functions stay as they are: to tell of changes harms nobody.
    for table in NOTIFIED:
        op.execute(f"DROP TRIGGER {table}_notify ON {table}")
    op.execute("DROP FUNCTION ssmd_notify()")
    op.drop_table("llm_usage_daily")
    op.drop_table("api_usage_daily")
    op.drop_column("data_access_log", "request_id")
    op.drop_column("data_access_log", "route")
    op.drop_column("api_keys", "rotated_from")
    op.drop_column("api_keys", "created_by")
