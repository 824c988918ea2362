"""Pages of lists, single rows and what belongs to them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ssmd_api.errors import InvalidRequestError, NotFoundError
from ssmd_api.params import shown
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_api.secmaster.reach import PAIR_FEEDS, within
from ssmd_api.services import Services
from ssmd_core.db.tables import SYNCED
from ssmd_core.secmaster.as_of import Row, as_of
from ssmd_core.secmaster.queries import CHILDREN, Order, counts_of, position_of, rows_of
from ssmd_core.secmaster.selections import STATUSES, Selection

#: Of `Selection.words` and `Selection.categories`: each word is looked for in every question.
MAX_WORDS = 20

_LSN = (
    "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text AS lsn, "
    "ssmd_now() AS time"
)


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a list.

    Attributes:
        rows: as the database has them.
        next_cursor: for the page behind it; None at the end.
        snapshot_time, snapshot_lsn: from before the query; see `list_rows`.
    """

    rows: list[Row]
    next_cursor: str | None
    snapshot_time: datetime | None = None
    snapshot_lsn: str | None = None


async def list_rows(
    services: Services,
    table: str,
    selection: Selection,
    feeds: Collection[str],
    *,
    limit: int,
    order: Order = "updated",
    cursor: str | None = None,
    snapshot: bool = False,
) -> Listing:
    """A page of live rows, or of those known at `selection.as_of`, each with the count of what belongs to it.

    Args:
        table: a name in `ssmd_core.secmaster.selections.FILTERS`.
        feeds: that the asker reaches; of pairs, only theirs are shown.
        cursor: a `next_cursor` of the same list; it fits the same selection and order only.
        snapshot: also tell where the WAL ended and what time it was before the rows were read: whoever follows
            CDC from there misses no change of them.

    Raises:
        InvalidRequestError: a status that the table does not know, no or too many words, a cursor of another list.
        ConfigError: see `ssmd_core.secmaster.queries.rows_of`.
        psycopg.Error: Postgres refused or went away.
    """
    check_status(table, selection.status)
    check_words("categories", selection.categories)
    check_words("words", selection.words)
    selection = within(table, selection, feeds)
    question = (table, order, selection)
    after: Any = None
    if cursor is not None:
        after = decode_cursor(question, cursor, (str,) if order == "key" else (datetime, str))
    read: dict[str, Any] = {}
    async with services.reading() as connection:
        if snapshot:
            found = await (await connection.execute(_LSN.encode())).fetchone()
            assert found is not None
            read = {"snapshot_lsn": found[0], "snapshot_time": found[1]}
        page = await rows_of(connection, table, selection, limit=limit, now=services.now, order=order, after=after)
        if selection.as_of is not None and table in CHILDREN and page.rows:
            name, key = CHILDREN[table][2], SYNCED[table].key
            counts = await counts_of(connection, table, [row[key] for row in page.rows], selection.as_of)
            for row in page.rows:
                row[name] = counts[row[key]]
    following = None
    if page.more:
        following = encode_cursor(question, position_of(table, selection, order, page.rows[-1]))
    return Listing(page.rows, following, **read)


async def one_row(
    services: Services, table: str, key: str, feeds: Collection[str], moment: datetime | None = None
) -> Row:
    """The live row with an id, or the one known at a moment; with the count of what belongs to it.

    Args:
        feeds: that the asker reaches; a pair of another one is not there for him.

    Raises:
        NotFoundError: there is none.
        psycopg.Error: Postgres refused or went away.
    """
    if moment is None:
        row = await services.loaders.row(table, key)
    else:
        row = (await rows_by_key(services, table, [key], moment)).get(key)
    if row is None or (table == "pairs" and PAIR_FEEDS.get(row["market_type"]) not in feeds):
        raise NotFoundError(f"nothing is known as {shown(key)}" + (" at that moment" if moment else ""))
    if table in CHILDREN:
        # A copy: the loader gives one row to all who ask for it at the same time.
        row = row | {CHILDREN[table][2]: await count_of(services, table, key, moment)}
    return row


async def count_of(services: Services, table: str, key: str, moment: datetime | None = None) -> int:
    """How many rows of `ssmd_core.secmaster.queries.CHILDREN` belong to one; many are counted in one statement.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    if moment is not None:
        async with services.reading() as connection:
            return (await counts_of(connection, table, [key], moment))[key]

    async def fetch(keys: list[str]) -> list[int]:
        async with services.reading() as connection:
            found = await counts_of(connection, table, keys)
        return [found[each] for each in keys]

    counted: int = await services.loaders.load(f"count of {table}", key, fetch)
    return counted


async def rows_by_key(
    services: Services, table: str, keys: Collection[str], moment: datetime | None = None
) -> dict[str, Row]:
    """Live rows by their ids, or those known at a moment; what is not there is left out.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    one = SYNCED[table]
    if moment is None:
        statement = f"SELECT * FROM {one.name} WHERE {one.key} = ANY(%s) AND deleted_at IS NULL"
        rows: list[Row] = await services.rows(statement, (list(keys),))
    else:
        async with services.reading() as connection:
            rows = [row async for row in as_of(connection, table, moment, keys=list(keys))]
    return {row[one.key]: row for row in rows}


async def tokens_of(services: Services, condition_id: str, moment: datetime | None = None) -> list[Row]:
    """A condition's tokens, by their index, now or as known at a moment.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """

    async def fetch(keys: list[str]) -> list[list[Row]]:
        found = await services.rows(
            "SELECT * FROM polymarket_tokens WHERE condition_id = ANY(%s) AND deleted_at IS NULL "
            "ORDER BY outcome_index, token_id",
            (list(keys),),
        )
        return [[row for row in found if row["condition_id"] == key] for key in keys]

    if moment is None:
        now: list[Row] = await services.loaders.load("tokens of a condition", condition_id, fetch)
        return now
    # A token never changes its condition, so its ids of today are those of then and perhaps more.
    known = await services.rows("SELECT token_id FROM polymarket_tokens WHERE condition_id = %s", (condition_id,))
    rows = await rows_by_key(services, "polymarket_tokens", [row["token_id"] for row in known], moment)
    return sorted(rows.values(), key=lambda row: (row["outcome_index"], row["token_id"]))


def check_status(table: str, status: str | None) -> None:
    """Refuse a status that no row of the table has: an empty list would look like an answer.

    Raises:
        InvalidRequestError: it is such a word.
    """
    if status is None:
        return
    known = STATUSES["polymarket_conditions" if table == "polymarket_tokens" else table]
    if status.lower() not in known:
        raise InvalidRequestError(f"status: {shown(status)} is none of {', '.join(known)}", field="status")


def check_words(name: str, words: tuple[str, ...] | None) -> None:
    """Refuse no words, which would be no condition or one that nothing fulfils, and too many.

    Raises:
        InvalidRequestError: not 1 to `MAX_WORDS`.
    """
    if words is not None and not 1 <= len(words) <= MAX_WORDS:
        raise InvalidRequestError(f"{name}: {len(words)} words, 1 to {MAX_WORDS} can be asked for", field=name)
