"""Lists, single rows and counts of the security master, for the command line and the API.

A list has at most `MAX_ROWS` rows and says when there are more; the newest change comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from ssmd_core.db.tables import SYNCED
from ssmd_core.errors import ConfigError
from ssmd_core.secmaster.as_of import (
    Filter,
    Row,
    UnknownKeyError,
    as_of,
    check_moment,
    check_text,
    synced,
    versions_at,
)

MAX_ROWS = 10_000
_TOP_CATEGORIES, _TOP_TAGS = 10, 20

# What a row is listed with beside its columns: rows that belong to it.
_COUNTS = {
    "events": "(SELECT count(*) FROM markets m WHERE m.event_ticker = r.event_ticker AND m.deleted_at IS NULL) "
    "AS market_count",
    "polymarket_conditions": "(SELECT count(*) FROM polymarket_tokens t WHERE t.condition_id = r.condition_id "
    "AND t.deleted_at IS NULL) AS token_count",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list.

    Attributes:
        rows: newest change first.
        more: whether there are rows beyond these.
    """

    rows: list[Row]
    more: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list shows; None is no condition. Which ones a table knows stands in `FILTERS`.

    Attributes:
        category, status, exchange, market_type, base, quote: one word, case aside; a condition's category is also
            looked for among its tags.
        series: ticker of a series.
        event: ticker of an event; of a condition, Polymarket's event id.
        closing_before, closing_after: strictly.
        closing_within: from now on, or from `as_of` on.
        as_of: rows as known then, not those of now.
    """

    category: str | None = None
    status: str | None = None
    exchange: str | None = None
    market_type: str | None = None
    base: str | None = None
    quote: str | None = None
    series: str | None = None
    event: str | None = None
    closing_before: datetime | None = None
    closing_after: datetime | None = None
    closing_within: timedelta | None = None
    as_of: datetime | None = None

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions that are set."""
        return [one.name for one in fields(self) if one.name != "as_of" and getattr(self, one.name) is not None]


_CLOSING = frozenset({"closing_before", "closing_after", "closing_within"})
#: Conditions by table.
FILTERS: dict[str, frozenset[str]] = {
    "series": frozenset({"category", "series"}),
    "events": frozenset({"category", "status", "series", "event"}),
    "markets": frozenset({"category", "status", "series", "event"}) | _CLOSING,
    "pairs": frozenset({"exchange", "market_type", "base", "quote", "status"}),
    "polymarket_conditions": frozenset({"category", "status", "event"}) | _CLOSING,
    "series_fees": frozenset({"series"}),
}
_SERIES_COLUMN = {"series": "ticker"}
_EVENT_COLUMN = {"polymarket_conditions": "event_id"}
_CLOSE_COLUMN = {"markets": "close_time", "polymarket_conditions": "end_date"}


async def rows_of(
    connection: psycopg.AsyncConnection, table: str, selection: Selection, *, limit: int, now: datetime
) -> Page:
    """A list of live rows, or of those that lived at `selection.as_of`.

    Args:
        table: a key of `FILTERS`.
        limit: at most `MAX_ROWS`.
        now: the clock's time, for `closing_within`.

    Raises:
        ConfigError: an unknown table, a condition that it does not know, a limit outside of 1 to `MAX_ROWS`, a
            moment without a time zone or beyond the year 9999, text that Postgres cannot hold.
        psycopg.Error: Postgres refused or went away.
    """
    check_limit(limit)
    known = FILTERS.get(table)
    if known is None:
        raise ConfigError(f"no list of {table!r}; known: {', '.join(FILTERS)}")
    if strange := [name for name in selection.conditions if name not in known]:
        raise ConfigError(f"{table} cannot be listed by {', '.join(strange)}")
    for name in selection.conditions:
        if isinstance(value := getattr(selection, name), str):
            check_text(name, value)
    where = _filters(table, selection, now)
    if table == "markets" and (selection.series is not None or selection.category is not None):
        events = await _events_of(connection, selection, now)
        where.append(Filter("event_ticker", "in", events))
    tags = table == "polymarket_conditions" and selection.category is not None
    if selection.as_of is not None:
        source, values = versions_at(table, selection.as_of, where=where)
        newest, counts = "known_from DESC, version DESC", sql.SQL("")
    else:
        source, values = _live(table, where)
        newest, counts = "updated_at DESC", sql.SQL(", " + _COUNTS[table] if table in _COUNTS else "")
    by_tag = sql.SQL("WHERE lower(%s) = ANY(r.tags) OR lower(r.category) = lower(%s) " if tags else "")
    if tags:
        values += [selection.category, selection.category]
    statement = sql.SQL("SELECT r.*{counts} FROM ({source}) r {by_tag}ORDER BY {newest}, {key} LIMIT %s").format(
        counts=counts,
        source=source,
        by_tag=by_tag,
        newest=sql.SQL(newest),
        key=sql.Identifier(SYNCED[table].key),
    )
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, [*values, limit + 1])
        rows = await cursor.fetchall()
    return Page(rows[:limit], len(rows) > limit)


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
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(statement, (key,))
                rows = await cursor.fetchall()
        if rows:
            found[name] = rows[0]
    if not found:
        raise UnknownKeyError(f"nothing is known as {key!r}" + (f" at {moment.isoformat()}" if moment else ""))
    return found


async def fees_in_force(connection: psycopg.AsyncConnection, moment: datetime, *, limit: int) -> Page:
    """The fee intervals that cover a moment, by series.

    Raises:
        ConfigError: a limit outside of 1 to `MAX_ROWS`, a moment without a time zone.
        psycopg.Error: Postgres refused or went away.
    """
    check_limit(limit)
    check_moment(moment)
    statement = (
        "SELECT series_ticker, fee_type, fee_multiplier, effective_from, effective_to, source_id FROM series_fees "
        "WHERE deleted_at IS NULL AND effective_from <= %s AND (effective_to IS NULL OR effective_to > %s) "
        "ORDER BY series_ticker LIMIT %s"
    )
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, (moment, moment, limit + 1))
        rows = await cursor.fetchall()
    return Page(rows[:limit], len(rows) > limit)


async def stats(connection: psycopg.AsyncConnection, now: datetime) -> dict[str, dict[str, Any]]:
    """Counts of live rows by table; `by_category` and `by_tag` hold the most frequent ones, `categories` and `tags`
    how many there are.

    Args:
        now: what a fee must cover to be active.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    check_moment(now)
    conditions = "polymarket_conditions"
    counted: dict[str, dict[str, Any]] = {}
    for name in ("series", "events", "markets", "pairs", conditions):
        counted[name] = {"total": await _one(connection, f"SELECT count(*) FROM {name} WHERE deleted_at IS NULL")}
    groups = {
        "series": ("category",),
        "events": ("status", "category"),
        "markets": ("status",),
        "pairs": ("exchange", "market_type", "status"),
        conditions: ("status", "category"),
    }
    for name, columns in groups.items():
        for column in columns:
            statement = f"SELECT coalesce({column}, ''), count(*) FROM {name} WHERE deleted_at IS NULL GROUP BY 1"
            top = _TOP_CATEGORIES if column == "category" else None
            counted[name] |= await _grouped(connection, statement, column, top)
    statement = f"SELECT tag, count(*) FROM {conditions}, unnest(tags) tag WHERE deleted_at IS NULL GROUP BY 1"
    counted[conditions] |= await _grouped(connection, statement, "tag", _TOP_TAGS)
    fees = "SELECT count(*) FROM series_fees WHERE deleted_at IS NULL"
    active = f"{fees} AND effective_from <= %s AND (effective_to IS NULL OR effective_to > %s)"
    counted["series_fees"] = {
        "total": await _one(connection, fees),
        "active": await _one(connection, active, (now, now)),
        # Without those that were called off or displaced: their intervals are empty.
        "future": await _one(
            connection, f"{fees} AND effective_from > %s AND effective_to IS DISTINCT FROM effective_from", (now,)
        ),
    }
    return counted


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
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, (scope, scope, limit))
        return await cursor.fetchall()


def check_limit(limit: int) -> None:
    """Refuse a limit outside of 1 to `MAX_ROWS`.

    Raises:
        ConfigError: it is.
    """
    if not 1 <= limit <= MAX_ROWS:
        raise ConfigError(f"limit {limit} is not between 1 and {MAX_ROWS}")


def _filters(table: str, selection: Selection, now: datetime) -> list[Filter]:
    """Conditions on the table's own columns."""
    where: list[Filter] = []
    for name in ("category", "status", "exchange", "market_type", "base", "quote"):
        value = getattr(selection, name)
        # A market's category is its event's; a condition's is also a tag.
        if value is not None and not (name == "category" and table in {"markets", "polymarket_conditions"}):
            where.append(Filter(name, "same word", value))
    if selection.series is not None and table != "markets":
        where.append(Filter(_SERIES_COLUMN.get(table, "series_ticker"), "=", selection.series))
    if selection.event is not None:
        where.append(Filter(_EVENT_COLUMN.get(table, "event_ticker"), "=", selection.event))
    close = _CLOSE_COLUMN.get(table, "")
    if selection.closing_within is not None:
        begin = selection.as_of or now
        try:
            end = begin + selection.closing_within
        except OverflowError:
            days = selection.closing_within.days
            raise ConfigError(f"closing_within: {days} days from {begin.isoformat()} on end after 9999") from None
        where += [Filter(close, ">", begin), Filter(close, "<", end)]
    if selection.closing_before is not None:
        check_moment(selection.closing_before)
        where.append(Filter(close, "<", selection.closing_before))
    if selection.closing_after is not None:
        check_moment(selection.closing_after)
        where.append(Filter(close, ">", selection.closing_after))
    return where


async def _events_of(connection: psycopg.AsyncConnection, selection: Selection, now: datetime) -> list[str]:
    """Tickers of the events of the selection's series and category."""
    own = Selection(series=selection.series, category=selection.category)
    where = _filters("events", own, now)
    if selection.as_of is not None:
        return [row["event_ticker"] async for row in as_of(connection, "events", selection.as_of, where=where)]
    # Also those that are deleted: a market may outlive its event's listing.
    conditions = sql.SQL(" AND ").join([one.condition("events") for one in where])
    cursor = await connection.execute(
        sql.SQL("SELECT event_ticker FROM events WHERE {}").format(conditions), [one.value for one in where]
    )
    return [row[0] for row in await cursor.fetchall()]


def _live(table: str, where: Sequence[Filter]) -> tuple[sql.Composed, list[object]]:
    one = synced(table)
    conditions = [sql.SQL("v.deleted_at IS NULL"), *(condition.condition("v") for condition in where)]
    statement = sql.SQL("SELECT v.* FROM {table} v WHERE {conditions}").format(
        table=sql.Identifier(one.name), conditions=sql.SQL(" AND ").join(conditions)
    )
    return statement, [condition.value for condition in where]


async def _one(connection: psycopg.AsyncConnection, statement: str, values: Sequence[object] = ()) -> int:
    cursor = await connection.execute(statement.encode(), values)
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def _grouped(connection: psycopg.AsyncConnection, statement: str, column: str, top: int | None) -> dict[str, Any]:
    cursor = await connection.execute(f"{statement} ORDER BY 2 DESC, 1".encode())
    counts: dict[str, int] = dict(await cursor.fetchall())
    if top is None:
        return {f"by_{column}": counts}
    plural = "categories" if column == "category" else f"{column}s"
    return {f"by_{column}": dict(list(counts.items())[:top]), plural: len(counts)}
