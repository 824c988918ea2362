"""What was traded on a day, per feed: counted over the datasets, with titles of the security master."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from ssmd_core.datasets.coverage import DayCoverage, HourCoverage, HourState, Manifests, day_coverage
from ssmd_core.errors import ArchiveError, DatasetError
from ssmd_core.feeds import FEEDS, get
from ssmd_core.feeds.base import Feed, Schema
from ssmd_core.secmaster.as_of import Filter, as_of

TOP = 5
# Days without anything archived or built, after which a feed counts as new: the same as for its scores.
_DAYS_BEFORE = 7
_MEMORY_BYTES = 512 * 1024 * 1024
#: Table, its key, the column of the title; of the instrument itself, or of what it belongs to.
_TITLES = {"kalshi": ("markets", "ticker", "title"), "polymarket": ("polymarket_tokens", "token_id", "outcome")}


@dataclass(frozen=True, slots=True)
class TopTicker:
    """An instrument with much trade.

    Attributes:
        ticker: as the venue writes it.
        trade_count: trades of the day.
        volume: sum of their sizes.
        title: as the security master has it; "" if it has none.
    """

    ticker: str
    trade_count: int
    volume: Decimal | float
    title: str = ""


@dataclass(frozen=True, slots=True)
class VolumeInput:
    """What was traded on a feed.

    Attributes:
        trade_count, active_tickers: None if no hour of the day has a dataset: nothing is known then.
        volume: sum of sizes; None also where instruments have different units.
        unit: of the sizes.
        top: the instruments with the most volume; with the most trades where volumes cannot be compared.
        missing_hours: `HH00`, over and without a dataset.
    """

    feed: str
    trade_count: int | None
    volume: Decimal | float | None
    unit: str
    active_tickers: int | None
    top: tuple[TopTicker, ...] = ()
    missing_hours: tuple[str, ...] = ()


def read_volumes(manifests: Manifests, day: date, now: datetime) -> list[VolumeInput]:
    """Count the trades of every feed that has any dataset on the day; takes seconds: run it in a thread.

    Args:
        now: later hours are not missing.

    Raises:
        ArchiveError: a manifest is damaged.
        DatasetError: a parquet file cannot be read.
    """
    found = []
    for feed in FEEDS.values():
        volume = read_volume(manifests, feed, day, now)
        if volume is not None:
            found.append(volume)
    return found


def read_volume(manifests: Manifests, feed: Feed, day: date, now: datetime) -> VolumeInput | None:
    """Count the trades of one feed in the streams that the registry names; None without anything archived or built.

    Raises:
        ArchiveError, DatasetError: see `read_volumes`.
    """
    trades = feed.trades
    schema = feed.required_schema(trades.message_type)
    paths: list[str] = []
    missing: set[str] = set()
    there = built = False
    for stream in feed.streams:
        covered = day_coverage(manifests, feed, stream, day, now)
        if covered.error:
            raise ArchiveError(covered.error)
        there |= any(map(_is_there, covered.hours))
        built |= any(hour.has_dataset for hour in covered.hours)
        began = _began(manifests, feed, stream, day, now, covered)
        missing |= {
            h.hour for h in covered.hours if h.hour >= began and not h.has_dataset and h.state is not HourState.FUTURE
        }
        folder = manifests.dataset_root.resolve() / feed.name / stream / str(day)
        for file in covered.files:
            # The path is made here, not read: it stays below the root whatever a manifest says.
            if file.message_type == trades.message_type and _major(file.schema_version) == _major(schema.version):
                paths.append(str(folder / f"{trades.message_type}_{file.hour}.parquet"))
    if not there:
        return None
    unit = next(column.unit for column in schema.columns if column.name == trades.size)
    rows = _count(manifests.dataset_root, feed, schema, paths) if paths else []
    top = tuple(
        TopTicker(row["ticker"], row["trade_count"], row["volume"]) for row in rows if row["ticker"] is not None
    )
    nothing = 0 if built else None
    return VolumeInput(
        feed=feed.name,
        trade_count=rows[0]["all_trades"] if rows else nothing,
        volume=(rows[0]["all_volume"] if rows else nothing) if trades.additive else None,
        unit=unit,
        active_tickers=rows[0]["all_tickers"] if rows else nothing,
        top=top,
        missing_hours=tuple(sorted(missing)),
    )


def _began(manifests: Manifests, feed: Feed, stream: str, day: date, now: datetime, covered: DayCoverage) -> str:
    """The first hour that can be missing, as `HH00`: on the day on which the capture began that of its first data."""
    first = next((hour.hour for hour in covered.hours if _is_there(hour)), "0000")
    if first == "0000":
        return first
    for back in range(1, _DAYS_BEFORE + 1):
        before = day_coverage(manifests, feed, stream, day - timedelta(days=back), now)
        if before.error or any(map(_is_there, before.hours)):
            return "0000"
    return first


def _is_there(hour: HourCoverage) -> bool:
    return bool(hour.slots) or hour.has_dataset


def _count(root: Path, feed: Feed, schema: Schema, paths: Sequence[str]) -> list[dict[str, Any]]:
    """The first instruments, each with the sums of all. Columns are the registry's; paths are a parameter."""
    import duckdb

    trades = feed.trades
    sizes = next(column.type for column in schema.columns if column.name == trades.size)
    total = "fsum" if sizes == "float64" else "sum"
    where = f'WHERE "{trades.repeats}" IS NOT TRUE' if trades.repeats else ""
    order = "volume DESC" if trades.additive else "trade_count DESC"
    statement = (
        f'WITH per AS (SELECT "{trades.instrument}" AS ticker, count(*) AS trade_count, {total}("{trades.size}") '
        f"AS volume FROM read_parquet($files, union_by_name = true) {where} GROUP BY ticker) "
        "SELECT ticker, trade_count, volume, (sum(trade_count) OVER ())::BIGINT AS all_trades, "
        f"{total}(volume) OVER () AS all_volume, count(*) OVER () AS all_tickers "
        f"FROM per ORDER BY {order}, ticker LIMIT {TOP}"
    )
    # The same bounds as of the API's engine: what a file's bytes might do to DuckDB reaches nothing else.
    with contextlib.closing(duckdb.connect(":memory:", config={"threads": 2})) as connection:
        connection.execute(f"SET memory_limit = '{_MEMORY_BYTES // 1024}KiB'")
        connection.execute("SET temp_directory = ''")
        connection.execute("SET allowed_directories = ?", [[f"{root.resolve()}/"]])
        connection.execute("SET enable_external_access = false")
        try:
            cursor = connection.execute(statement, {"files": list(paths)})
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except duckdb.Error as error:
            raise DatasetError(f"the trades of {feed.name} cannot be counted: {error}") from error


async def with_titles(
    connection: psycopg.AsyncConnection, inputs: Sequence[VolumeInput], moment: datetime
) -> list[VolumeInput]:
    """The same with titles, as the security master had them at a moment: Kalshi's of the market, Polymarket's question
    and outcome.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    found = []
    for one in inputs:
        # Tickers are what a venue wrote, and no text in Postgres has a NUL.
        tickers = [top.ticker for top in one.top if "\0" not in top.ticker]
        titles = await _titles(connection, get(one.feed), tickers, moment) if tickers else {}
        found.append(replace(one, top=tuple(replace(top, title=titles.get(top.ticker, "")) for top in one.top)))
    return found


async def _titles(
    connection: psycopg.AsyncConnection, feed: Feed, tickers: Sequence[str], moment: datetime
) -> dict[str, str]:
    if feed.name not in _TITLES:
        return {}
    table, key, title = _TITLES[feed.name]
    rows = {row[key]: row async for row in as_of(connection, table, moment, keys=tickers)}
    if feed.name != "polymarket":
        return {ticker: row[title] for ticker, row in rows.items()}
    conditions = sorted({row["condition_id"] for row in rows.values()})
    questions = {
        row["condition_id"]: row["question"]
        async for row in as_of(
            connection, "polymarket_conditions", moment, where=[Filter("condition_id", "in", conditions)]
        )
    }
    return {ticker: f"{questions.get(row['condition_id'], '')} – {row[title]}" for ticker, row in rows.items()}


def _major(version: str) -> str:
    return version.partition(".")[0]
