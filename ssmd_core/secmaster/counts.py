"""Counts of the security master: now, and as known at a past moment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from ssmd_core.errors import ConfigError
from ssmd_core.secmaster.as_of import Filter, Row, check_moment
from ssmd_core.secmaster.selections import source_of

_TOP_CATEGORIES, _TOP_TAGS = 10, 20
MAX_DAYS = 366

#: What rows are counted by, by table.
GROUPS: dict[str, tuple[str, ...]] = {
    "series": ("category",),
    "events": ("status", "category"),
    "markets": ("status",),
    "pairs": ("exchange", "market_type", "status"),
    "polymarket_conditions": ("status", "category"),
}


async def stats(connection: psycopg.AsyncConnection, now: datetime) -> dict[str, dict[str, Any]]:
    """Counts of live rows by table; `by_category` and `by_tag` hold the most frequent ones, `categories` and `tags`
    how many there are.

    Args:
        now: what a fee must cover to be active.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    counted = {table: await table_stats(connection, table) for table in GROUPS}
    return counted | {"series_fees": await fee_stats(connection, now)}


async def table_stats(
    connection: psycopg.AsyncConnection,
    table: str,
    moment: datetime | None = None,
    market_types: Collection[str] | None = None,
) -> dict[str, Any]:
    """Counts of one table's rows, see `stats`.

    Args:
        table: a key of `GROUPS`.
        moment: as known then; default now.
        market_types: only pairs of these.

    Raises:
        ConfigError: a moment without a time zone.
        psycopg.Error: Postgres refused or went away.
    """
    where = [] if market_types is None else [Filter("market_type", "in", list(market_types))]
    source, values = source_of(table, where, moment)
    columns = GROUPS[table]
    names = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
    sets = sql.SQL(", ").join(sql.SQL("({})").format(sql.Identifier(column)) for column in columns)
    # One look at the rows gives every group and, without any, the total.
    statement = sql.SQL(
        "SELECT {names}, count(*), grouping({names}) FROM ({source}) r GROUP BY GROUPING SETS ({sets}, ())"
    ).format(names=names, source=source, sets=sets)
    groups: dict[str, Counter[str]] = {column: Counter() for column in columns}
    total = 0
    for *found, count, bits in await (await connection.execute(statement, values)).fetchall():
        # A set bit marks a column that is not grouped by; the first column has the highest.
        own = [n for n in range(len(columns)) if not bits & 1 << (len(columns) - 1 - n)]
        if own:
            groups[columns[own[0]]][found[own[0]] or ""] += count  # null and "" are both no category
        else:
            total = count
    counted: dict[str, Any] = {"total": total}
    for column, counts in groups.items():
        counted |= _named(column, [*counts.items()], _TOP_CATEGORIES if column == "category" else None)
    if table == "polymarket_conditions":
        statement = sql.SQL("SELECT tag, count(*) FROM ({source}) r, unnest(r.tags) tag GROUP BY 1").format(
            source=source
        )
        counted |= _named("tag", await (await connection.execute(statement, values)).fetchall(), _TOP_TAGS)
    return counted


async def fee_stats(
    connection: psycopg.AsyncConnection, moment: datetime, known_at: datetime | None = None
) -> dict[str, int]:
    """Fee intervals: `total`, `active` at the moment, `future` then; the others are over, called off or displaced.

    Args:
        known_at: leave out what became known later.

    Raises:
        ConfigError: a moment without a time zone.
        psycopg.Error: Postgres refused or went away.
    """
    check_moment(moment)
    source, values = source_of("series_fees", [], known_at)
    # An empty interval is one that was called off or displaced.
    statement = sql.SQL(
        "SELECT count(*) AS total, count(*) FILTER (WHERE r.effective_from <= %s AND (r.effective_to IS NULL OR "
        "r.effective_to > %s)) AS active, count(*) FILTER (WHERE r.effective_from > %s AND r.effective_to IS DISTINCT "
        "FROM r.effective_from) AS future FROM ({source}) r"
    ).format(source=source)
    [row] = await _rows(connection, statement, [moment, moment, moment, *values])
    return row


async def series_by_category(connection: psycopg.AsyncConnection, moment: datetime | None = None) -> list[Row]:
    """`category`, `total` and `games` of the series, by category.

    Raises:
        ConfigError: a moment without a time zone.
        psycopg.Error: Postgres refused or went away.
    """
    source, values = source_of("series", [], moment)
    statement = sql.SQL(
        "SELECT r.category, count(*) AS total, count(*) FILTER (WHERE r.is_game) AS games FROM ({source}) r "
        "GROUP BY 1 ORDER BY 1"
    ).format(source=source)
    return await _rows(connection, statement, values)


async def markets_by_day(
    connection: psycopg.AsyncConnection, first: date, last: date, moment: datetime | None, now: datetime
) -> list[Row]:
    """How many markets came and went on each day (UTC): `date`, `added`, `closed`, `settled`.

    A market is added when the venue made it (where it does not say: when ssmd first knew it), closed at its closing
    time if it is closed without a result, and settled when the venue settled it (where it does not say: at its closing
    time).

    Args:
        moment: as known then; default now.
        now: the clock's time; what is to come is not counted.

    Raises:
        ConfigError: more than `MAX_DAYS` days, a moment without a time zone.
        psycopg.Error: Postgres refused or went away.
    """
    days = _days(first, last)
    source, values = source_of("markets", [], moment)
    made = (
        "r.created_at" if moment is None
        else "(SELECT min(h.known_from) FROM markets_history h WHERE h.ticker = r.ticker)"
    )  # fmt: skip
    statement = sql.SQL(
        "SELECT (d.at AT TIME ZONE 'UTC')::date AS date, d.what, count(*) AS count FROM ({source}) r "
        "CROSS JOIN LATERAL (VALUES ('added', coalesce(r.venue_created_at, {made})), "
        "('closed', CASE WHEN r.status = 'closed' THEN r.close_time END), "
        "('settled', CASE WHEN r.status = 'settled' THEN coalesce(r.settled_at, r.close_time) END)) d (what, at) "
        "WHERE d.at >= %s AND d.at < %s AND d.at <= %s GROUP BY 1, 2"
    ).format(source=source, made=sql.SQL(made))
    begin, end = _bounds(first, last)
    counted: dict[date, Row] = {day: {"date": day, "added": 0, "closed": 0, "settled": 0} for day in days}
    for row in await _rows(connection, statement, [*values, begin, end, moment or now]):
        counted[row["date"]][row["what"]] = row["count"]
    return list(counted.values())


async def trading_by_category(
    connection: psycopg.AsyncConnection, first: date, last: date, moment: datetime | None
) -> list[Row]:
    """How many markets could be traded at some time of each day (UTC): `date`, `categories` and `total`.

    A market counts from its opening time (where it has none: from when the venue made it) up to its closing time,
    whatever became of it; one that has not opened is not counted. The category is its event's, `Unknown` without one.

    Args:
        moment: as known then; default now.

    Raises:
        ConfigError: more than `MAX_DAYS` days, a moment without a time zone.
        psycopg.Error: Postgres refused or went away.
    """
    days = _days(first, last)
    markets, values = source_of("markets", [], moment)
    events, more = source_of("events", [], moment, deleted=True)
    begin, end = _bounds(first, last)
    opened = sql.SQL("coalesce(r.open_time, r.venue_created_at)")
    statement = sql.SQL(
        "SELECT coalesce(nullif(e.category, ''), 'Unknown') AS category, "
        "(greatest({opened}, %s) AT TIME ZONE 'UTC')::date AS first, "
        "((least(r.close_time, %s) - interval '1 microsecond') AT TIME ZONE 'UTC')::date AS last, count(*) AS count "
        "FROM ({markets}) r LEFT JOIN ({events}) e ON e.event_ticker = r.event_ticker "
        "WHERE r.status <> 'initialized' AND coalesce({opened}, %s) < %s "
        "AND (r.close_time IS NULL OR r.close_time > greatest({opened}, %s)) GROUP BY 1, 2, 3"
    ).format(markets=markets, events=events, opened=opened)
    begins: dict[date, Counter[str]] = defaultdict(Counter)
    ends: dict[date, Counter[str]] = defaultdict(Counter)
    for row in await _rows(connection, statement, [begin, end, *values, *more, begin, end, begin]):
        begins[row["first"]][row["category"]] += row["count"]
        ends[row["last"]][row["category"]] += row["count"]
    found, trading = list[Row](), Counter[str]()
    for day in days:
        trading += begins[day]
        found.append({"date": day, "categories": dict(sorted(trading.items())), "total": trading.total()})
        trading -= ends[day]
    return found


def day_begin(day: date) -> datetime:
    """The first moment of a day, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def day_end(day: date) -> datetime:
    """The first moment behind a day, UTC; of the last day that there is, its last one."""
    return datetime.max.replace(tzinfo=UTC) if day == date.max else day_begin(day) + timedelta(days=1)


def _days(first: date, last: date) -> list[date]:
    count = (last - first).days + 1
    if count > MAX_DAYS:
        raise ConfigError(f"{first} to {last} are {count} days, {MAX_DAYS} is the most")
    return [first + timedelta(days=number) for number in range(count)]


def _bounds(first: date, last: date) -> tuple[datetime, datetime]:
    """The first moment of the days and the first one behind them."""
    return day_begin(first), day_end(last)


def _named(column: str, pairs: list[tuple[str, int]], top: int | None) -> dict[str, Any]:
    """Counts, the highest first, and how many there are where only the top of them is told."""
    counts = dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
    if top is None:
        return {f"by_{column}": counts}
    plural = "categories" if column == "category" else f"{column}s"
    return {f"by_{column}": dict(list(counts.items())[:top]), plural: len(counts)}


async def _rows(connection: psycopg.AsyncConnection, statement: sql.Composed, values: list[object]) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()
