"""Lifecycle messages in the database: kept once, and what they change, in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ssmd_core.clock import Clock
from ssmd_core.db.connect import now_of
from ssmd_core.db.tables import SYNCED, Synced
from ssmd_stream.consumers import lifecycle
from ssmd_stream.consumers.database import BusyError
from ssmd_stream.consumers.lifecycle import EventSeed, Kept, Key, LifecycleMessage, Row
from ssmd_stream.secmaster.sweep import refresh_events

_EVENTS, _MARKETS = SYNCED["events"], SYNCED["markets"]
_JSON = msgspec.json.Encoder(decimal_format="number")
_WRITER_LOCK = 7_354


@dataclass(slots=True)
class Applied:
    """What a batch did.

    Attributes:
        kept: messages kept, by the venue's word; words that ssmd does not know under `unknown`.
        duplicates: messages that had been kept before.
        written: rows written, by table.
        statuses: markets that got this status.
        unknown_series: events made of a series that is not in the database.
        unknown_markets: messages about a market that has no row; they count as soon as it has one.
        unreadable: members taken as missing because they could not be read.
    """

    kept: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    written: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    unknown_series: int = 0
    unknown_markets: int = 0
    unreadable: int = 0


async def apply(connection: psycopg.AsyncConnection, batch: Sequence[LifecycleMessage], clock: Clock) -> Applied:
    """Keep the messages and change what they change; to be called inside of a transaction.

    Messages that are kept already change nothing.

    Raises:
        BusyError: another session made one of the rows at the same moment.
        psycopg.Error: the transaction cannot be finished.
    """
    done = Applied()
    # One writer at a time: of two that keep the halves of a market's story at once, neither would see the whole.
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_WRITER_LOCK,))
    fresh = await _keep(connection, batch)
    news = [one for one in {(one.stream, one.nats_seq): one for one in batch}.values() if _key(one) in fresh]
    done.duplicates = len(batch) - len(news)
    for one in news:
        done.kept[one.event_type if one.event_type in lifecycle.KNOWN_EVENTS else "unknown"] += 1
        done.unreadable += len(one.problems)
    changing = [one for one in news if one.event_type in lifecycle.KNOWN_EVENTS]
    if not changing:
        return done
    markets = {one.ticker for one in changing if not one.about_event}
    history = await _history(connection, markets)
    # Markets before events, as the sweep does it.
    stored = await _locked(connection, _MARKETS, markets)
    seeds = _seeds(history, stored)
    events = {one.ticker for one in changing if one.about_event} | set(seeds)
    event_history = await _history(connection, events)
    await _write_events(connection, events, event_history, fresh, seeds, done)
    touched = await _write_markets(connection, stored, history, fresh, now_of(clock), done)
    if touched:
        done.written["events"] += await refresh_events(connection, touched)
    return done


def _key(one: LifecycleMessage) -> Key:
    return one.stream, one.nats_seq


async def _keep(connection: psycopg.AsyncConnection, batch: Sequence[LifecycleMessage]) -> set[Key]:
    """Keys of the messages that were not kept before."""
    rows = [
        (
            one.stream,
            one.nats_seq,
            one.ticker,
            one.event_type,
            one.values.get("open_time"),
            one.values.get("close_time"),
            one.settled_ts,
            one.values.get("result"),
            one.values.get("settlement_value"),
            bytes(one.metadata).decode(),
            one.received_at,
        )
        for one in batch
    ]
    # Two consumers of the same stream must meet their rows in the same order.
    columns = [list(column) for column in zip(*sorted(rows, key=lambda row: row[:2]), strict=True)]
    cursor = await connection.execute(
        "INSERT INTO market_lifecycle_events (stream, nats_seq, market_ticker, event_type, open_ts, close_ts, "
        "settled_ts, result, settlement_value, metadata, received_at) "
        "SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[], "
        "%s::timestamptz[], %s::timestamptz[], %s::text[], %s::numeric[], %s::jsonb[], %s::timestamptz[]) "
        "ON CONFLICT (stream, nats_seq) DO NOTHING RETURNING stream, nats_seq",
        columns,
    )
    return {(stream, nats_seq) for stream, nats_seq in await cursor.fetchall()}


async def _history(connection: psycopg.AsyncConnection, tickers: Collection[str]) -> dict[str, list[Kept]]:
    """Every kept message that changes something, by ticker; each ticker is there."""
    cursor = await connection.execute(
        "SELECT stream, nats_seq, market_ticker, event_type, received_at, metadata::text "
        "FROM market_lifecycle_events WHERE market_ticker = ANY(%s) AND event_type = ANY(%s)",
        (sorted(tickers), list(lifecycle.KNOWN_EVENTS)),
    )
    found: dict[str, list[Kept]] = {ticker: [] for ticker in tickers}
    async for stream, nats_seq, ticker, event_type, received_at, metadata in cursor:
        one = lifecycle.kept((stream, nats_seq), event_type, received_at, lifecycle.decode_json(metadata))
        found[ticker].append(one)
    return found


def _seeds(history: Mapping[str, Sequence[Kept]], stored: Collection[str]) -> dict[str, EventSeed]:
    """Events of the markets that are to be made, by ticker."""
    seeds: dict[str, EventSeed] = {}
    for ticker in sorted(history.keys() - set(stored)):
        if found := lifecycle.seed_of(ticker, history[ticker]):
            seeds.setdefault(*found)
    return seeds


async def _write_events(
    connection: psycopg.AsyncConnection,
    tickers: Collection[str],
    history: Mapping[str, Sequence[Kept]],
    fresh: Collection[Key],
    seeds: Mapping[str, EventSeed],
    done: Applied,
) -> None:
    stored = await _locked(connection, _EVENTS, tickers)
    series = {
        ticker: stored[ticker]["series_ticker"]
        if ticker in stored and not history[ticker]
        else lifecycle.series_of(ticker, history[ticker])
        for ticker in tickers
    }
    cursor = await connection.execute(
        "SELECT ticker, category FROM series WHERE ticker = ANY(%s)", (sorted(set(series.values())),)
    )
    categories: dict[str, str] = dict(await cursor.fetchall())
    for ticker in sorted(tickers):
        row = lifecycle.plan_event(
            stored.get(ticker),
            ticker,
            history[ticker],
            fresh,
            seeds.get(ticker),
            categories.get(series[ticker]),
        )
        if row and ticker not in stored and series[ticker] not in categories:
            done.unknown_series += 1
        await _write(connection, _EVENTS, ticker, row, ticker in stored, done)


async def _write_markets(
    connection: psycopg.AsyncConnection,
    stored: Mapping[str, Mapping[str, Any]],
    history: Mapping[str, Sequence[Kept]],
    fresh: Collection[Key],
    now: datetime,
    done: Applied,
) -> set[str]:
    """Write what changes; the events of markets whose status did."""
    touched = set()
    for ticker in sorted(history):
        before = stored.get(ticker)
        row = lifecycle.plan_market(before, ticker, history[ticker], fresh, now)
        if row is None:
            done.unknown_markets += 1
            continue
        await _write(connection, _MARKETS, ticker, row, before is not None, done)
        if "status" in row:
            done.statuses[row["status"]] += 1
            touched.add(row["event_ticker"] if before is None else before["event_ticker"])
    return touched


async def _locked(connection: psycopg.AsyncConnection, table: Synced, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows by key, locked in the keys' order, JSON columns decoded exactly."""
    names = [
        sql.SQL("{0}::text AS {0}" if name in lifecycle.JSON_COLUMNS else "{}").format(sql.Identifier(name))
        for name in (table.key, *table.columns)
    ]
    statement = sql.SQL("SELECT {} FROM {} WHERE {key} = ANY(%s) ORDER BY {key} FOR NO KEY UPDATE").format(
        sql.SQL(", ").join(names), sql.Identifier(table.name), key=sql.Identifier(table.key)
    )
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, (sorted(keys),))
        rows = await cursor.fetchall()
    for row in rows:
        for name in lifecycle.JSON_COLUMNS:
            if row.get(name) is not None:
                row[name] = lifecycle.decode_json(row[name])
    return {row[table.key]: row for row in rows}


async def _write(
    connection: psycopg.AsyncConnection, table: Synced, key: str, row: Row | None, stored: bool, done: Applied
) -> None:
    if not row:
        return
    names = list(row)
    values = [
        Jsonb(row[name], dumps=_JSON.encode) if name in lifecycle.JSON_COLUMNS and row[name] is not None else row[name]
        for name in names
    ]
    parts = {"table": sql.Identifier(table.name), "key": sql.Identifier(table.key)}
    if stored:
        changes = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in names)
        statement = sql.SQL("UPDATE {table} SET {changes} WHERE {key} = %s").format(changes=changes, **parts)
        cursor = await connection.execute(statement, (*values, key))
    else:
        statement = sql.SQL("INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING").format(
            names=sql.SQL(", ").join(map(sql.Identifier, (table.key, *names))),
            marks=sql.SQL(", ").join([sql.Placeholder()] * (len(names) + 1)),
            **parts,
        )
        cursor = await connection.execute(statement, (key, *values))
        if cursor.rowcount == 0:
            raise BusyError(f"{table.name} {key} was made by another session")
    done.written[table.name] += cursor.rowcount
