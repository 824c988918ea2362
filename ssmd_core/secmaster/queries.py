"""Lists and single rows of the security master, for the command line and the API.

A list has at most `MAX_ROWS` rows and says when there are more. Its order is that of the newest change, or that of the
key: a row that changes while somebody pages moves to the front of the first, so that only the second shows every row
once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from ssmd_core.db.tables import SYNCED
from ssmd_core.errors import ConfigError
from ssmd_core.secmaster.as_of import Filter, Row, UnknownKeyError, as_of, check_moment, check_text, synced
from ssmd_core.secmaster.selections import Selection, check, matching, source_of

MAX_ROWS = 10_000

Order = Literal["updated", "key"]
#: Where a row stands in its list: its key; before it, in the order `updated`, the time of its last change.
Position: TypeAlias = tuple[datetime, str] | tuple[str]

#: Rows that belong to a row and are counted with it: their table, the column that refers to it, the count's name.
CHILDREN: dict[str, tuple[str, str, str]] = {
    "events": ("markets", "event_ticker", "market_count"),
    "polymarket_conditions": ("polymarket_tokens", "condition_id", "token_count"),
}


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list.

    Attributes:
        rows: in the order that was asked for.
        more: whether there are rows beyond these.
    """

    rows: list[Row]
    more: bool


# Keys that one statement looks at, where only a few of them may pass the conditions.
_FIRST_KEYS, _MOST_KEYS = 1_000, 64_000
# Turning 10,000 rows into Python takes 0.2 s; between so many of them other tasks have their turn.
_ROWS_A_TURN = 500


async def rows_of(
    connection: psycopg.AsyncConnection,
    table: str,
    selection: Selection,
    *,
    limit: int,
    now: datetime,
    order: Order = "updated",
    after: Position | None = None,
) -> Page:
    """A list of live rows, or of those that lived at `selection.as_of`.

    Args:
        table: a key of `FILTERS`.
        limit: at most `MAX_ROWS`.
        now: the clock's time, for `closing_within`.
        order: `updated`: the newest change first (as of a moment: what was newest then); `key`: by the key.
        after: position of the last row of the page before, in the same order.

    Returns:
        The table's columns, live rows with the count of `CHILDREN`.

    Raises:
        ConfigError: an unknown table, a condition that it does not know, a limit outside of 1 to `MAX_ROWS`, a
            moment without a time zone or beyond the year 9999, text that Postgres cannot hold.
        psycopg.Error: Postgres refused or went away.
    """
    check_limit(limit)
    check(table, selection)
    if order == "key" and selection.as_of is not None:
        return await _past_by_key(connection, table, selection, limit, now, str(after[-1]) if after else "")
    key = sql.Identifier("r", SYNCED[table].key)
    counts: sql.Composable = sql.SQL("")
    if selection.as_of is None and table in CHILDREN:
        child, column, name = CHILDREN[table]
        counts = sql.SQL(
            ", (SELECT count(*) FROM {child} c WHERE c.{column} = r.{column} AND c.deleted_at IS NULL) AS {name}"
        ).format(child=sql.Identifier(child), column=sql.Identifier(column), name=sql.Identifier(name))
    body, values = matching(table, selection, now)
    stamp = sql.Identifier("r", _stamp(selection))
    following: sql.Composable = sql.SQL("")
    if after is not None:
        if order == "key":
            following = sql.SQL(" AND {key} > %s").format(key=key)
        else:
            following = sql.SQL(" AND {stamp} <= %s AND ({stamp} < %s OR {key} > %s)").format(stamp=stamp, key=key)
            values.append(after[0])
        values += after
    sorting: sql.Composable = key if order == "key" else sql.SQL("{stamp} DESC, {key}").format(stamp=stamp, key=key)
    page = sql.SQL("{body}{following} ORDER BY {sorting} LIMIT %s").format(
        body=body, following=following, sorting=sorting
    )
    if selection.as_of is None and order == "updated":
        # Keys are sorted alone: with all its columns, every row that is newer than those before it would be copied.
        page = sql.SQL("FROM (SELECT {key} AS k {page}) p JOIN {table} r ON {key} = p.k ORDER BY {sorting}").format(
            key=key, page=page, table=sql.Identifier(table), sorting=sorting
        )
    statement = sql.SQL("SELECT r.*{counts} {page}").format(counts=counts, page=page)
    rows = await _fetch(connection, statement, [*values, limit + 1])
    return Page(rows[:limit], len(rows) > limit)


def position_of(table: str, selection: Selection, order: Order, row: Row) -> Position:
    """Where a row of a list stands, for `rows_of`'s `after`."""
    key = str(row[SYNCED[table].key])
    return (key,) if order == "key" else (row[_stamp(selection)], key)


async def counts_of(
    connection: psycopg.AsyncConnection, table: str, keys: Sequence[str], moment: datetime | None = None
) -> dict[str, int]:
    """How many rows of `CHILDREN` belong to each of the keys, now or as known at a moment.

    As of a moment, rows are looked for among those that the table holds, deleted ones too: a row never changes whose it
    is, and a walk through all of history would take a second per 100,000 rows.

    Raises:
        ConfigError: a moment without a time zone.
        psycopg.Error: Postgres refused or went away.
    """
    child, column, _ = CHILDREN[table]
    belongs = Filter(column, "in", list(keys))
    own: list[str] | None = None
    if moment is not None:
        statement = sql.SQL("SELECT {key} FROM {child} WHERE {column} = ANY(%s)").format(
            key=sql.Identifier(SYNCED[child].key), child=sql.Identifier(child), column=sql.Identifier(column)
        )
        own = [row[0] for row in await (await connection.execute(statement, (list(keys),))).fetchall()]
    source, values = source_of(child, [belongs], moment, keys=own)
    statement = sql.SQL("SELECT r.{column}, count(*) FROM ({source}) r GROUP BY 1").format(
        column=sql.Identifier(column), source=source
    )
    found: dict[str, int] = dict(await (await connection.execute(statement, values)).fetchall())
    return {key: found.get(key, 0) for key in keys}


async def find(connection: psycopg.AsyncConnection, key: str, moment: datetime | None = None) -> dict[str, Row]:
    """The rows with an id, by table; a series and an event may share one.

    Args:
        moment: as known then; default now. A row that is deleted now is found as well, with `deleted_at`.

    Raises:
        UnknownKeyError: no table has it, or none had it then.
        ConfigError: a moment without a time zone, an id that Postgres cannot hold.
        psycopg.Error: Postgres refused or went away.
    """
    check_text("id", key)
    found: dict[str, Row] = {}
    for name, one in SYNCED.items():
        if moment is not None:
            rows = [row async for row in as_of(connection, name, moment, keys=[key])]
        else:
            statement = sql.SQL("SELECT * FROM {} WHERE {} = %s").format(sql.Identifier(name), sql.Identifier(one.key))
            rows = await _fetch(connection, statement, [key])
        if rows:
            found[name] = rows[0]
    if not found:
        raise UnknownKeyError(f"nothing is known as {key!r}" + (f" at {moment.isoformat()}" if moment else ""))
    return found


async def fees_in_force(
    connection: psycopg.AsyncConnection,
    moment: datetime,
    *,
    limit: int,
    series: str | None = None,
    after: str = "",
    known_at: datetime | None = None,
) -> Page:
    """The fee intervals that cover a moment, by series.

    Args:
        series: ticker; only its interval.
        after: the last series of the page before.
        known_at: leave out what became known later.

    Raises:
        ConfigError: a limit outside of 1 to `MAX_ROWS`, a moment without a time zone, a series that Postgres cannot
            hold.
        psycopg.Error: Postgres refused or went away.
    """
    check_limit(limit)
    check_moment(moment)
    check_text("series", series)
    where = [Filter("effective_from", "<=", moment)]
    if series is not None:
        where.append(Filter("series_ticker", "=", series))
    source, values = source_of("series_fees", where, known_at)
    statement = sql.SQL(
        "SELECT r.* FROM ({source}) r WHERE (r.effective_to IS NULL OR r.effective_to > %s) AND r.series_ticker > %s "
        "ORDER BY r.series_ticker LIMIT %s"
    ).format(source=source)
    rows = await _fetch(connection, statement, [*values, moment, after, limit + 1])
    return Page(rows[:limit], len(rows) > limit)


async def versions_of(
    connection: psycopg.AsyncConnection,
    table: str,
    column: str,
    value: str,
    *,
    first: datetime,
    end: datetime,
    limit: int,
    after: tuple[datetime, int] | None = None,
) -> Page:
    """The versions of rows that were what is known at some moment of a span, newest first.

    Args:
        table: a name in `SYNCED`.
        column: the table's key, or a column that rows share.
        value: what stands in it.
        first, end: the span, from `first` up to before `end`. What became known later is left out: `known_to` is None
            where a version still held at the span's end.
        limit: at most `MAX_ROWS`.
        after: `known_from` and `version` of the last row of the page before.

    Returns:
        The columns of `ssmd_core.secmaster.as_of.history`.

    Raises:
        ConfigError: an unknown table, a limit outside of 1 to `MAX_ROWS`, a value that Postgres cannot hold.
        psycopg.Error: Postgres refused or went away.
    """
    check_limit(limit)
    check_text(column, value)
    one = synced(table)
    following = sql.SQL("" if after is None else "AND (v.known_from, v.version) < (%s, %s) ")
    statement = sql.SQL(
        "SELECT * FROM (SELECT h.*, lead(h.known_from) OVER (PARTITION BY h.{key} ORDER BY h.known_from, h.version) "
        "AS known_to FROM {history} h WHERE h.{column} = %s AND h.known_from < %s) v "
        "WHERE (v.known_to IS NULL OR v.known_to > %s) {following}ORDER BY v.known_from DESC, v.version DESC LIMIT %s"
    ).format(
        key=sql.Identifier(one.key),
        history=sql.Identifier(one.history),
        column=sql.Identifier(column),
        following=following,
    )
    rows = await _fetch(connection, statement, [value, end, first, *(after or ()), limit + 1])
    return Page(rows[:limit], len(rows) > limit)


async def runs(connection: psycopg.AsyncConnection, *, scope: str | None = None, limit: int = 20) -> list[Row]:
    """The last finished sync runs, newest first, each with its whole report.

    Raises:
        ConfigError: a limit outside of 1 to `MAX_ROWS`, a scope that Postgres cannot hold.
        psycopg.Error: Postgres refused or went away.
    """
    check_limit(limit)
    check_text("scope", scope)
    statement = (
        "SELECT id, scope, mode, started_at, finished_at, report FROM sync_runs WHERE %s::text IS NULL OR scope = %s "
        "ORDER BY finished_at DESC, id DESC LIMIT %s"
    )
    return await _fetch(connection, sql.Composed([sql.SQL(statement)]), [scope, scope, limit])


def check_limit(limit: int) -> None:
    """Refuse a limit outside of 1 to `MAX_ROWS`.

    Raises:
        ConfigError: it is.
    """
    if not 1 <= limit <= MAX_ROWS:
        raise ConfigError(f"limit {limit} is not between 1 and {MAX_ROWS}")


def _stamp(selection: Selection) -> str:
    return "updated_at" if selection.as_of is None else "known_from"


async def _past_by_key(
    connection: psycopg.AsyncConnection, table: str, selection: Selection, limit: int, now: datetime, after: str
) -> Page:
    """A page by key as of a moment: keys are taken in order, so many at a time, until the page is full.

    One statement over all keys would look at every one of them to sort them, for each page.
    """
    one, asked, rows = SYNCED[table], max(_FIRST_KEYS, 2 * limit), list[Row]()
    while len(rows) <= limit:
        keys = await _next_keys(connection, one.history, one.key, after, asked)
        if not keys:
            break
        body, values = matching(table, selection, now, keys=keys)
        statement = sql.SQL("SELECT r.* {body} ORDER BY {key} LIMIT %s").format(
            body=body, key=sql.Identifier("r", one.key)
        )
        rows += await _fetch(connection, statement, [*values, limit + 1 - len(rows)])
        after, asked = keys[-1], min(4 * asked, _MOST_KEYS)
    return Page(rows[:limit], len(rows) > limit)


async def _next_keys(connection: psycopg.AsyncConnection, history: str, key: str, after: str, most: int) -> list[str]:
    """The keys that follow, in order; one probe of the index each, however many versions they have."""
    statement = sql.SQL(
        "WITH RECURSIVE walk AS ((SELECT {key} AS k, 1 AS n FROM {history} WHERE {key} > %s ORDER BY {key} LIMIT 1) "
        "UNION ALL SELECT (SELECT {key} FROM {history} WHERE {key} > walk.k ORDER BY {key} LIMIT 1), n + 1 FROM walk "
        "WHERE walk.k IS NOT NULL AND n < %s) SELECT k FROM walk WHERE k IS NOT NULL ORDER BY k"
    ).format(key=sql.Identifier(key), history=sql.Identifier(history))
    return [row[0] for row in await (await connection.execute(statement, (after, most))).fetchall()]


async def _fetch(connection: psycopg.AsyncConnection, statement: sql.Composed, values: Sequence[object]) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        rows: list[Row] = []
        while some := await cursor.fetchmany(_ROWS_A_TURN):
            rows += some
            await asyncio.sleep(0)
        return rows
