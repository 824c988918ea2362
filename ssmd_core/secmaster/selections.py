"""What a list of the security master shows: the conditions that there are, and the SQL that they become.

A condition is on the row that is shown: as of a past moment on the version that held then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, TypeAlias

from psycopg import sql

from ssmd_core.errors import ConfigError
from ssmd_core.secmaster.as_of import Filter, check_moment, check_text, synced, versions_at

_KALSHI_STATUSES = ("initialized", "active", "closed", "settled")
#: Words that `status` may be, by table.
STATUSES: dict[str, tuple[str, ...]] = {
    "events": _KALSHI_STATUSES,
    "markets": _KALSHI_STATUSES,
    "pairs": ("active", "post_only", "limit_only", "reduce_only", "cancel_only", "maintenance", "work_in_progress",
              "delisted", "inactive", "suspended", "expired"),
    "polymarket_conditions": ("active", "suspended", "inactive", "closed", "settled"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list shows; None is no condition. Which ones a table knows stands in `FILTERS`.

    Attributes:
        category, exchange, market_type, base, quote: one word, case aside; a condition's category is also looked for
            among its tags.
        status: one of `STATUSES`, case aside.
        tag: of a series, case aside.
        series: ticker of a series; of events and markets case aside.
        event: ticker of an event; of a condition, Polymarket's event id.
        games: only what is about games, or only what is not.
        categories: any of them; otherwise as `category`.
        words: any of them stands in the question, case aside.
        min_volume: at least, dollars.
        market_types: only pairs of these.
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
    tag: str | None = None
    series: str | None = None
    event: str | None = None
    games: bool | None = None
    categories: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None
    min_volume: Decimal | None = None
    market_types: tuple[str, ...] | None = None
    closing_before: datetime | None = None
    closing_after: datetime | None = None
    closing_within: timedelta | None = None
    as_of: datetime | None = None

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions that are set."""
        return [one.name for one in fields(self) if one.name != "as_of" and getattr(self, one.name) is not None]


_CLOSING = frozenset({"closing_before", "closing_after", "closing_within"})
_OF_CONDITIONS = frozenset({"category", "categories", "status", "event", "words", "min_volume"}) | _CLOSING
#: Conditions by table.
FILTERS: dict[str, frozenset[str]] = {
    "series": frozenset({"category", "series", "tag", "games"}),
    "events": frozenset({"category", "status", "series", "event", "games"}),
    "markets": frozenset({"category", "status", "series", "event", "games"}) | _CLOSING,
    "pairs": frozenset({"exchange", "market_type", "base", "quote", "status", "market_types"}),
    "polymarket_conditions": _OF_CONDITIONS,
    "polymarket_tokens": _OF_CONDITIONS,
    "series_fees": frozenset({"series"}),
}
_OWN_WORDS = {
    "series": ("category",),
    "events": ("category",),
    "pairs": ("exchange", "market_type", "base", "quote"),
}
_SERIES_FILTER: dict[str, tuple[str, Literal["=", "same word"]]] = {
    "series": ("ticker", "="),
    "series_fees": ("series_ticker", "="),
    "events": ("series_ticker", "same word"),
}
_EVENT_COLUMN = {"polymarket_conditions": "event_id", "events": "event_ticker", "markets": "event_ticker"}
_CLOSE_COLUMN = {"markets": "close_time", "polymarket_conditions": "end_date"}

#: A piece of SQL and its parameters.
Parts: TypeAlias = tuple[sql.Composed, list[object]]


def check(table: str, selection: Selection) -> None:
    """Refuse what a table cannot be listed by.

    Raises:
        ConfigError: an unknown table, a condition that it does not know, text that Postgres cannot hold.
    """
    known = FILTERS.get(table)
    if known is None:
        raise ConfigError(f"no list of {table!r}; known: {', '.join(FILTERS)}")
    if strange := [name for name in selection.conditions if name not in known]:
        raise ConfigError(f"{table} cannot be listed by {', '.join(strange)}")
    for name in selection.conditions:
        value = getattr(selection, name)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                check_text(name, text)


def matching(
    table: str, selection: Selection, now: datetime, *, deleted: bool = False, keys: Sequence[str] | None = None
) -> Parts:
    """`FROM … r WHERE …` with the rows that a selection shows.

    Args:
        deleted: live rows and those that are deleted.
        keys: as of a moment, only these.
    """
    source, values = source_of(table, _filters(table, selection, now), selection.as_of, deleted=deleted, keys=keys)
    conditions: list[sql.Composable] = []
    for condition, more in _conditions(table, selection, now):
        conditions.append(condition)
        values += more
    where = sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")
    return sql.SQL("FROM ({source}) r WHERE {where}").format(source=source, where=where), values


def source_of(
    table: str,
    where: Sequence[Filter],
    moment: datetime | None,
    *,
    deleted: bool = False,
    keys: Sequence[str] | None = None,
) -> Parts:
    """Rows of now, or as known at a moment."""
    if moment is not None:
        return versions_at(table, moment, where=where, keys=keys, deleted=deleted)
    conditions: list[sql.Composable] = [condition.condition("v") for condition in where]
    if not deleted:
        conditions.append(sql.SQL("v.deleted_at IS NULL"))
    statement = sql.SQL("SELECT v.* FROM {table} v WHERE {conditions}").format(
        table=sql.Identifier(synced(table).name), conditions=sql.SQL(" AND ").join(conditions or [sql.SQL("true")])
    )
    return statement, [condition.value for condition in where]


def _filters(table: str, selection: Selection, now: datetime) -> list[Filter]:
    """Conditions on the table's own columns."""
    where: list[Filter] = []
    if table == "polymarket_tokens":
        return where
    for name in _OWN_WORDS.get(table, ()):
        if (value := getattr(selection, name)) is not None:
            where.append(Filter(name, "same word", value))
    if selection.status is not None:
        where.append(Filter("status", "=", selection.status.lower()))
    if selection.market_types is not None:
        where.append(Filter("market_type", "in", list(selection.market_types)))
    if selection.series is not None and table in _SERIES_FILTER:
        column, operator = _SERIES_FILTER[table]
        where.append(Filter(column, operator, selection.series))
    if selection.event is not None:
        where.append(Filter(_EVENT_COLUMN[table], "=", selection.event))
    if selection.games is not None and table == "series":
        where.append(Filter("is_game", "=", selection.games))
    if selection.min_volume is not None:
        where.append(Filter("volume", ">=", selection.min_volume))
    return where + _closing(table, selection, now)


def _closing(table: str, selection: Selection, now: datetime) -> list[Filter]:
    where: list[Filter] = []
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


def _conditions(table: str, selection: Selection, now: datetime) -> list[Parts]:
    """Conditions on `r` that are no mere comparison of a column."""
    found: list[Parts] = []
    parent = Selection(
        series=selection.series, category=selection.category, games=selection.games, as_of=selection.as_of
    )
    if table == "markets" and parent.conditions:
        found.append(_parent("event_ticker", "events", "event_ticker", parent, now))
    if table == "events" and selection.games is not None:
        parent = Selection(games=selection.games, as_of=selection.as_of)
        found.append(_parent("series_ticker", "series", "ticker", parent, now))
    if table == "polymarket_tokens":
        found.append(_parent("condition_id", "polymarket_conditions", "condition_id", selection, now, deleted=False))
    if table == "series" and selection.tag is not None:
        statement = "EXISTS (SELECT FROM unnest(r.tags) t WHERE lower(t) = lower(%s))"
        found.append((sql.Composed([sql.SQL(statement)]), [selection.tag]))
    if table == "polymarket_conditions":
        either = selection.categories if selection.category is None else (selection.category,)
        if either is not None:
            words = [word.lower() for word in either]
            statement = "(r.tags && %s::text[] OR lower(r.category) = ANY(%s))"
            found.append((sql.Composed([sql.SQL(statement)]), [words, words]))
        if selection.words is not None:
            statement = "EXISTS (SELECT FROM unnest(%s::text[]) w WHERE position(lower(w) IN lower(r.question)) > 0)"
            found.append((sql.Composed([sql.SQL(statement)]), [list(selection.words)]))
    return found


def _parent(column: str, table: str, key: str, selection: Selection, now: datetime, *, deleted: bool = True) -> Parts:
    """That the column names a row which the selection shows; a row may outlive its parent's listing."""
    body, values = matching(table, selection, now, deleted=deleted)
    statement = sql.SQL("r.{column} IN (SELECT r.{key} {body})").format(
        column=sql.Identifier(column), key=sql.Identifier(key), body=body
    )
    return statement, values
