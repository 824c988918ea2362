"""A look at the tables after a sync: how many rows, when they last changed, which break a rule.

Nothing here imports dagster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from ssmd_core.settings import Settings

if TYPE_CHECKING:
    from psycopg import AsyncConnection

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class KeyRule:
    """A rule over keys that no constraint of the database states.

    Attributes:
        says: what holds when it holds.
        broken: SQL, the keys that break it; `{part}` marks the feed's rows.
        remedy: what to do then.
    """

    says: str
    broken: str
    remedy: str


KEY_RULES: dict[str, KeyRule] = {
    "markets": KeyRule(
        "Every live market has a live event.",
        "SELECT ticker FROM markets m WHERE deleted_at IS NULL AND NOT EXISTS "
        "(SELECT FROM events e WHERE e.event_ticker = m.event_ticker AND e.deleted_at IS NULL)",
        "Run secmaster_kalshi_full, which brings deleted events back if Kalshi lists them. What is left are markets "
        "that Kalshi lists without their event, or rows that were changed by hand.",
    ),
    "pairs": KeyRule(
        "No two live pairs of a venue have the same WebSocket name.",
        "SELECT ws_name FROM pairs WHERE deleted_at IS NULL AND {part} GROUP BY 1 HAVING count(*) > 1",
        "Messages of these names cannot be told apart: compare the pairs with the venue's list and delete the stale.",
    ),
    "polymarket_tokens": KeyRule(
        "No two tokens are the same outcome of a condition.",
        "SELECT condition_id || '/' || outcome_index FROM polymarket_tokens WHERE deleted_at IS NULL "
        "GROUP BY condition_id, outcome_index HAVING count(*) > 1",
        "One of them is stale: ask Polymarket for the condition and delete the token that it does not name.",
    ),
}


@dataclass(frozen=True, slots=True)
class TableState:
    """One feed's part of a table.

    Attributes:
        rows: live ones; `deleted_rows` are marked deleted.
        last_change: newest `updated_at`, None for no rows.
        sum_of_changes: of all `updated_at`, seconds; the newest alone would not tell of a transaction that began
            before the last look and was committed after it.
        broken_keys: keys that break the table's rule; at most `EXAMPLES` of them in `examples`.
    """

    rows: int
    deleted_rows: int
    last_change: datetime | None
    sum_of_changes: Decimal | None
    broken_keys: int = 0
    examples: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Digest that changes with every change of a row, whoever made it, and with nothing else."""
        text = f"{self.rows} {self.deleted_rows} {self.sum_of_changes}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


async def look(
    settings: Settings, scope: str, tables: Sequence[str], part: str
) -> tuple[dict[str, TableState], dict[str, datetime]]:
    """The tables' states, and the watermarks of the scope, all of one moment.

    Args:
        part: SQL, the feed's rows; from `SYNCS`, never from outside.

    Raises:
        ConfigError, DatabaseError: no database.
    """
    from psycopg import Error, IsolationLevel

    from ssmd_core.db.connect import DatabaseError, connect

    connection = await connect(settings.database_url, name=f"look at {scope}", autocommit=False)
    try:
        async with connection:
            await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            states = {}
            for table in tables:
                cursor = await connection.execute(
                    f"SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(deleted_at), max(updated_at), "
                    f"sum(extract(epoch FROM updated_at)) FROM {table} WHERE {part}".encode()
                )
                rows, deleted_rows, last_change, changes = await cursor.fetchone() or (0, 0, None, None)
                broken_keys, examples = await _broken(connection, table, part)
                states[table] = TableState(rows, deleted_rows, last_change, changes, broken_keys, examples)
            cursor = await connection.execute("SELECT name, value FROM sync_watermarks WHERE scope = %s", (scope,))
            return states, dict(await cursor.fetchall())
    except Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error


async def _broken(connection: AsyncConnection, table: str, part: str) -> tuple[int, tuple[str, ...]]:
    rule = KEY_RULES.get(table)
    if rule is None:
        return 0, ()
    broken = rule.broken.format(part=part)
    cursor = await connection.execute(
        f"SELECT count(*), (array_agg(key ORDER BY key))[:{EXAMPLES}] FROM ({broken}) b (key)".encode()
    )
    count, examples = await cursor.fetchone() or (0, None)
    return count, tuple(examples or ())
