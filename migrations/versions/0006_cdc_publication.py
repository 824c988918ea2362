"""What CDC publishes. The names are fixed: a slot that exists remembers them."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

PUBLICATION = "ssmd_cdc_pub"
TABLES = ["series", "events", "markets", "series_fees", "pairs", "polymarket_conditions", "polymarket_tokens"]


def upgrade() -> None:
    op.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {', '.join(TABLES)}")


def downgrade() -> None:
    op.execute(f"DROP PUBLICATION {PUBLICATION}")
