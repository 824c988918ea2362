"""Rows as ssmd knew them at a past moment, from the history that triggers keep.

Every version of a row stands in `{table}_history` with the time from which it was known. As of a moment a row is its
last version known by then, unless that one says that it was deleted. Filters on values come after the version is
chosen: a market that is closed today was open then.

The time is when the row was written, not when its transaction was committed: a version can be found at a moment some
milliseconds before others could see it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from ssmd_core.db.tables import SYNCED, Synced
from ssmd_core.errors import ConfigError, SsmdError

Row: TypeAlias = dict[str, Any]
Operator = Literal["=", "<", ">", "<=", ">=", "in", "overlaps", "same word"]

_UNTEXT = re.compile("[\\0\ud800-\udfff]")

# One fetch of a server-side cursor: a page of markets is about 2 kB a row.
_FETCH_ROWS = 2000

_TEMPLATES = {
    "in": "{column} = ANY({value})",
    "overlaps": "{column} && {value}",
    "same word": "lower({column}) = lower({value})",
}


class UnknownTableError(ConfigError):
    """A table that has no history."""


class UnknownKeyError(SsmdError):
    """An id that was never known."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on a column.

    Attributes:
        column: one of the table's.
        operator: SQL's, or `in` (any of a list), `overlaps` (arrays with a common element), `same word` (case aside).
        value: a parameter, never a part of the SQL text.
    """

    column: str
    operator: Operator
    value: object

    def condition(self, alias: str) -> sql.Composed:
        """As SQL with one parameter, on the table that goes by `alias`."""
        template = _TEMPLATES.get(self.operator, f"{{column}} {self.operator} {{value}}")
        return sql.SQL(template).format(column=sql.Identifier(alias, self.column), value=sql.Placeholder())


def synced(table: str) -> Synced:
    """The registry's entry.

    Raises:
        UnknownTableError: there is none.
    """
    try:
        return SYNCED[table]
    except KeyError:
        raise UnknownTableError(f"no table {table!r} with a history; known: {', '.join(SYNCED)}") from None


def as_of(
    connection: psycopg.AsyncConnection,
    table: str,
    moment: datetime,
    *,
    keys: Sequence[str] | None = None,
    where: Sequence[Filter] = (),
) -> AsyncGenerator[Row, None]:
    """Rows as known at a moment, in no promised order.

    They are read through a server-side cursor within a transaction: whoever stops early closes the iterator
    (`contextlib.aclosing`).

    Args:
        table: a name in `SYNCED`.
        moment: with a time zone.
        keys: only these.
        where: conditions on the version that held then.

    Returns:
        The table's columns but `created_at` and `updated_at`, with `effective_at`, `known_from` and `version`.

    Raises:
        UnknownTableError: see `synced`.
        ConfigError: a moment without a time zone, or a column that the table does not have.
        psycopg.Error: Postgres refused or went away.
    """
    return stream(connection, *versions_at(table, moment, keys=keys, where=where))


async def history(connection: psycopg.AsyncConnection, table: str, key: str) -> list[Row]:
    """Every version of a row, oldest first, with `effective_at`, `known_from`, `known_to` (None: still) and `version`.

    `effective_at` is the venue's own time of the change, where it tells one. A version with `deleted_at` says that
    the row was deleted.

    Raises:
        UnknownTableError: see `synced`.
        UnknownKeyError: no version of that key.
        ConfigError: a key that Postgres cannot hold.
    """
    one = synced(table)
    check_text("id", key)
    statement = sql.SQL(
        "SELECT *, lead(known_from) OVER (ORDER BY known_from, version) AS known_to FROM {history} WHERE {key} = %s "
        "ORDER BY known_from, version"
    ).format(history=sql.Identifier(one.history), key=sql.Identifier(one.key))
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, (key,))
        rows = await cursor.fetchall()
    if not rows:
        raise UnknownKeyError(f"{table} has never had {key!r}")
    return rows


async def histories(connection: psycopg.AsyncConnection, key: str) -> dict[str, list[Row]]:
    """Every version of the rows with an id, by table; also of rows that are no more.

    Raises:
        UnknownKeyError: no table has ever had it.
        ConfigError: a key that Postgres cannot hold.
    """
    found: dict[str, list[Row]] = {}
    for table in SYNCED:
        with contextlib.suppress(UnknownKeyError):
            found[table] = await history(connection, table, key)
    if not found:
        raise UnknownKeyError(f"nothing has ever been known as {key!r}")
    return found


def versions_at(
    table: str,
    moment: datetime,
    *,
    keys: Sequence[str] | None = None,
    where: Sequence[Filter] = (),
    deleted: bool = False,
) -> tuple[sql.Composed, list[object]]:
    """The query of `as_of` with its parameters; with `deleted` also rows that were deleted by then.

    One probe of the index (key, known_from, version) finds the next key and one its version, so the cost follows the
    number of rows, not of their versions.
    """
    one = synced(table)
    check_moment(moment)
    known = {column.name for column in one.table.columns} - {"created_at", "updated_at"}
    if strange := {condition.column for condition in where} - known:
        raise ConfigError(f"{table} has no column {', '.join(sorted(strange))}")
    walk, values = _keys(one, keys)
    alive = sql.SQL("true" if deleted else "v.deleted_at IS NULL")
    conditions = [alive, *(condition.condition("v") for condition in where)]
    statement = sql.SQL("SELECT v.* FROM {walk} keys CROSS JOIN LATERAL {version} v WHERE {conditions}").format(
        walk=walk, version=_version(one, sql.SQL("keys.k")), conditions=sql.SQL(" AND ").join(conditions)
    )
    return statement, [*values, moment, *(condition.value for condition in where)]


def open_markets(
    connection: psycopg.AsyncConnection, moment: datetime, *, series: str | None = None, category: str | None = None
) -> AsyncGenerator[Row, None]:
    """The markets that were open for trading at a moment, with their strikes, and the fees in force then.

    Open is what the row then known says: status `active`, or `initialized` with an `open_time` that had come (Kalshi
    does not announce the opening), and no `close_time` that had come. The fees are those that hold at the moment by
    all that is known now; an event's override is the one known then.

    Args:
        series: ticker; only its markets.
        category: of the event, case aside.

    Returns:
        The market's columns as of the moment, and `series_ticker`, `series_title`, `event_title`, `category`,
        `fee_type`, `fee_multiplier`, `fee_source_id`: null where not known.

    Raises:
        ConfigError: a moment without a time zone, a series or category that Postgres cannot hold.
        psycopg.Error: Postgres refused or went away.
    """
    check_moment(moment)
    check_text("series", series)
    check_text("category", category)
    events, markets = SYNCED["events"], SYNCED["markets"]
    statement = sql.SQL(
        "SELECT m.*, e.series_ticker, e.title AS event_title, e.category, s.title AS series_title, "
        "coalesce(e.fee_type_override, f.fee_type) AS fee_type, "
        "coalesce(e.fee_multiplier_override, f.fee_multiplier) AS fee_multiplier, f.source_id AS fee_source_id "
        "FROM {walk} keys CROSS JOIN LATERAL {market} m LEFT JOIN LATERAL {event} e ON e.deleted_at IS NULL "
        "LEFT JOIN LATERAL {series} s ON s.deleted_at IS NULL LEFT JOIN LATERAL (SELECT * FROM series_fees x "
        "WHERE x.series_ticker = e.series_ticker AND x.deleted_at IS NULL AND x.effective_from <= %s "
        "AND (x.effective_to IS NULL OR x.effective_to > %s) LIMIT 1) f ON true "
        "WHERE m.deleted_at IS NULL AND (m.status = 'active' OR m.status = 'initialized' AND m.open_time <= %s) "
        "AND (m.close_time IS NULL OR m.close_time > %s) "
        "AND (%s::text IS NULL OR e.series_ticker = %s) AND (%s::text IS NULL OR lower(e.category) = lower(%s))"
    ).format(
        walk=_keys(markets, None)[0],
        market=_version(markets, sql.SQL("keys.k")),
        event=_version(events, sql.SQL("m.event_ticker")),
        series=_version(SYNCED["series"], sql.SQL("e.series_ticker")),
    )
    values = [*[moment] * 7, series, series, category, category]
    return stream(connection, statement, values)


def _keys(one: Synced, keys: Sequence[str] | None) -> tuple[sql.Composed, list[object]]:
    """A subquery with the distinct keys as `k`, and its parameters."""
    if keys is not None:
        return sql.Composed([sql.SQL("(SELECT DISTINCT k FROM unnest(%s::text[]) k)")]), [list(keys)]
    walk = sql.SQL(
        "(WITH RECURSIVE walk AS ((SELECT {key} AS k FROM {history} ORDER BY {key} LIMIT 1) UNION ALL "
        "SELECT (SELECT {key} FROM {history} WHERE {key} > walk.k ORDER BY {key} LIMIT 1) FROM walk "
        "WHERE walk.k IS NOT NULL) SELECT k FROM walk WHERE k IS NOT NULL)"
    ).format(key=sql.Identifier(one.key), history=sql.Identifier(one.history))
    return walk, []


def _version(one: Synced, key: sql.SQL) -> sql.Composed:
    """A subquery with the version of one key that held at a moment, its one parameter."""
    return sql.SQL(
        "(SELECT * FROM {history} h WHERE h.{own} = {key} AND h.known_from <= %s "
        "ORDER BY h.known_from DESC, h.version DESC LIMIT 1)"
    ).format(history=sql.Identifier(one.history), own=sql.Identifier(one.key), key=key)


async def stream(
    connection: psycopg.AsyncConnection, statement: sql.Composed, values: Sequence[object]
) -> AsyncGenerator[Row, None]:
    """Rows of a query, fetched from the server by the thousand."""
    async with connection.transaction(), connection.cursor("ssmd_rows", row_factory=dict_row) as cursor:
        cursor.itersize = _FETCH_ROWS
        await cursor.execute(statement, values)
        async for row in cursor:
            yield row


def check_text(name: str, value: str | None) -> None:
    """Refuse text that Postgres cannot hold: NUL, and halves of surrogate pairs.

    Python puts such halves where bytes of an argument are no UTF-8.

    Args:
        name: whose value, for the error.

    Raises:
        ConfigError: it is such text.
    """
    if value is not None and _UNTEXT.search(value):
        raise ConfigError(f"{name} {value!r} holds a character that no text in the database has")


def check_moment(moment: datetime) -> None:
    """Refuse a moment without a time zone: its meaning would hang on the machine.

    Raises:
        ConfigError: it has none.
    """
    if moment.tzinfo is None:
        raise ConfigError(f"moment {moment.isoformat()} has no time zone")
