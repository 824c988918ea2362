"""What belongs to many rows of the security master, each kind in one statement: single rows, lists, history, fees.

A row that was asked for with `asOf` carries that moment as `_moment`, so that what belongs to it is read as of then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple, TypeAlias

from psycopg import sql

from ssmd_api.graphql.cursors import Place
from ssmd_api.services import Services
from ssmd_core.db.tables import SYNCED
from ssmd_core.secmaster.as_of import Filter, versions_at
from ssmd_core.secmaster.selections import source_of

Row: TypeAlias = dict[str, Any]
MOMENT = "_moment"
_ALL_VERSIONS = 2**63 - 1


class Part(NamedTuple):
    """Which part of a list is wanted.

    Attributes:
        first: rows; one more is read, to know whether there are further ones.
        after: place of the row before; None for the beginning.
        moment: as known then; None for now.
    """

    first: int
    after: Place | None
    moment: datetime | None


async def row_of(services: Services, table: str, key: str, moment: datetime | None) -> Row | None:
    """One row, None if there is none; fetched together with those of other requests.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    if moment is None:
        return await services.loaders.row(table, key)
    return await _load(services, _rows_as_of, (table, moment, key))  # type: ignore[no-any-return]  # what it gives


async def children(services: Services, table: str, column: str, parent: str, part: Part) -> list[Row]:
    """Rows whose column names the parent, in the order of their keys; all parents' in one statement.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    key = (table, column, part, parent)
    return await _load(services, _children, key)  # type: ignore[no-any-return]  # what it gives


async def versions(services: Services, table: str, key: str, part: Part, days: tuple[date, date]) -> list[Row]:
    """What a row said, the newest first, with `known_from` and `known_to`; only what held at some time of the days.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    asked = (table, part, *_bounds(days, part.moment), key)
    return await _load(services, _versions, asked)  # type: ignore[no-any-return]  # what it gives


async def snapshots(
    services: Services, pair: str, part: Part, span: tuple[datetime | None, datetime | None], days: tuple[date, date]
) -> list[Row]:
    """A pair's snapshots, newest first; only those of the days.

    Args:
        span: first and last moment, both inclusive.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    begin, end = _bounds(days, part.moment)
    asked = (part, max(begin, span[0] or begin), end, span[1] or end, pair)
    return await _load(services, _snapshots, asked)  # type: ignore[no-any-return]  # what it gives


async def fee_terms(services: Services, event: str, moment: datetime | None) -> Row | None:
    """The fees of an event's markets: its own ones, as known at the moment, else the series' in force then; None if
    none are known.

    Args:
        moment: None for now.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    return await _load(services, _fee_terms, (moment, event))  # type: ignore[no-any-return]  # what it gives


_Fetch: TypeAlias = Callable[..., Awaitable[dict[str, Any]]]


async def _load(services: Services, fetch: _Fetch, key: tuple[Any, ...]) -> Any:
    """One of the values that `fetch` gives for many ids.

    Args:
        key: further arguments of `fetch`, and the id.
    """
    return await services.loaders.load(f"graphql/{fetch.__name__}", key, _grouped(services, fetch))


def _grouped(services: Services, fetch: _Fetch) -> Callable[[list[Any]], Any]:
    """For a loader whose keys end with an id: one call of `fetch` for all ids that are asked for in the same way."""

    async def batch(keys: list[tuple[Any, ...]]) -> list[Any]:
        groups: dict[tuple[Any, ...], list[str]] = {}
        for key in keys:
            groups.setdefault(key[:-1], []).append(key[-1])
        found: dict[tuple[Any, ...], dict[str, Any] | Exception] = {}
        for how, ids in groups.items():
            try:
                found[how] = await fetch(services, list(dict.fromkeys(ids)), *how)
            except Exception as error:  # told to those who asked for it, not to the others
                found[how] = error
        answers: list[Any] = []
        for key in keys:
            group = found[key[:-1]]
            answers.append(group if isinstance(group, Exception) else group.get(key[-1]))
        return answers

    return batch


async def _rows_as_of(services: Services, keys: list[str], table: str, moment: datetime) -> dict[str, Any]:
    rows = marked(await _run(services, *versions_at(table, moment, keys=keys)), moment)
    return {row[SYNCED[table].key]: row for row in rows}


async def _children(services: Services, parents: list[str], table: str, column: str, part: Part) -> dict[str, Any]:
    key, own = sql.Identifier(SYNCED[table].key), sql.Identifier(column)
    behind = sql.SQL("AND {} > %s").format(key) if part.after else sql.SQL("")
    after = list(part.after or ())
    if part.moment is None:
        statement = sql.SQL(
            "SELECT c.* FROM unnest(%s::text[]) p(k) CROSS JOIN LATERAL (SELECT * FROM {table} t WHERE t.{own} = p.k "
            "AND t.deleted_at IS NULL {behind} ORDER BY t.{key} LIMIT %s) c"
        ).format(table=sql.Identifier(table), own=own, key=key, behind=behind)
        values: list[object] = [parents, *after, part.first + 1]
    else:
        # Only rows that the table still holds, deleted ones too: a row never changes whose it is, and a walk through
        # all of history takes a second per 200,000 rows.
        known = sql.SQL("SELECT {key} AS k FROM {table} WHERE {own} = ANY(%s)").format(
            key=key, table=sql.Identifier(table), own=own
        )
        keys = [row["k"] for row in await _run(services, known, [parents])]
        source, values = versions_at(table, part.moment, keys=keys, where=[Filter(column, "in", parents)])
        statement = sql.SQL(
            "SELECT c.* FROM (SELECT v.*, row_number() OVER (PARTITION BY {own} ORDER BY {key}) AS n "
            "FROM ({source}) v WHERE true {behind}) c WHERE n <= %s ORDER BY {key}"
        ).format(own=own, key=key, source=source, behind=behind)
        values += [*after, part.first + 1]
    return _by(parents, column, marked(await _run(services, statement, values), part.moment))


async def _versions(
    services: Services, keys: list[str], table: str, part: Part, begin: datetime, end: datetime
) -> dict[str, Any]:
    one = SYNCED[table]
    statement = sql.SQL(
        "SELECT c.* FROM unnest(%s::text[]) p(k) CROSS JOIN LATERAL (SELECT * FROM (SELECT *, lead(known_from) OVER "
        "(ORDER BY version) AS known_to FROM {history} h WHERE h.{key} = p.k AND h.known_from < %s) v "
        "WHERE (v.known_to IS NULL OR v.known_to > %s) AND v.version < %s ORDER BY v.version DESC LIMIT %s) c"
    ).format(history=sql.Identifier(one.history), key=sql.Identifier(one.key))
    after = part.after[0] if part.after else _ALL_VERSIONS
    return _by(keys, one.key, await _run(services, statement, [keys, end, begin, after, part.first + 1]))


async def _snapshots(
    services: Services, pairs: list[str], part: Part, begin: datetime, end: datetime, last: datetime
) -> dict[str, Any]:
    behind = "AND (t.snapshot_at, t.id) < (%s::timestamptz, %s)" if part.after else ""
    statement = sql.SQL(
        "SELECT c.* FROM unnest(%s::text[]) p(k) CROSS JOIN LATERAL (SELECT * FROM pair_snapshots t "
        "WHERE t.pair_id = p.k AND t.snapshot_at >= %s AND t.snapshot_at < %s AND t.snapshot_at <= %s {behind} "
        "ORDER BY t.snapshot_at DESC, t.id DESC LIMIT %s) c"
    ).format(behind=sql.SQL(behind))
    values = [pairs, begin, end, last, *(part.after or ()), part.first + 1]
    return _by(pairs, "pair_id", await _run(services, statement, values))


async def _fee_terms(services: Services, events: list[str], moment: datetime | None) -> dict[str, Any]:
    source, values = source_of("events", [Filter("event_ticker", "in", events)], moment, keys=events)
    at = moment or services.now
    statement = sql.SQL(
        "SELECT e.event_ticker, e.series_ticker, coalesce(e.fee_type_override, f.fee_type) AS fee_type, "
        "coalesce(e.fee_multiplier_override, f.fee_multiplier) AS fee_multiplier, f.source_id, f.effective_from, "
        "f.effective_to, e.fee_type_override IS NOT NULL OR e.fee_multiplier_override IS NOT NULL AS overridden "
        "FROM ({source}) e JOIN series_fees f ON f.series_ticker = e.series_ticker AND f.deleted_at IS NULL "
        "AND f.effective_from <= %s AND (f.effective_to IS NULL OR f.effective_to > %s)"
    ).format(source=source)
    rows = await _run(services, statement, [*values, at, at])
    return {row["event_ticker"]: row for row in rows}


def _bounds(days: tuple[date, date], moment: datetime | None) -> tuple[datetime, datetime]:
    """The days' first moment and the first one after them; not beyond `moment`, which is one of theirs."""
    begin = datetime.combine(days[0], time(), UTC)
    end = datetime.max.replace(tzinfo=UTC)
    if days[1] < date.max:
        end = datetime.combine(days[1] + timedelta(days=1), time(), UTC)
    if moment is not None and moment < end:
        end = moment + timedelta(microseconds=1)
    return begin, end


def _by(parents: list[str], column: str, rows: list[Row]) -> dict[str, Any]:
    found: dict[str, Any] = {parent: [] for parent in parents}
    for row in rows:
        found[row[column]].append(row)
    return found


def marked(rows: list[Row], moment: datetime | None) -> list[Row]:
    """The rows, with the moment for which they were read."""
    if moment is not None:
        for row in rows:
            row[MOMENT] = moment
    return rows


async def _run(services: Services, statement: sql.Composed, values: Sequence[object]) -> list[Row]:
    return await services.rows(statement.as_string(None), values)
