"""Trades that the archive misses, from REST, in datasets of their own: `{data}/backfill/{feed}/{stream}/{day}/`.

A file `{type}_{HH}00.parquet` has those columns of the feed's trade dataset that REST tells too, with their types, and
`_source` (`rest`), `_fetched_at`, `_reason` (which reconciliation asked) and `_raw` (the row as JSON, numbers as the
venue wrote them). Its hour is that of the venue's time, for nothing was received. It is never part of the capture: who
wants both takes the union on the trade's id. The same rows give the same bytes, `_fetched_at` apart; a row that is
there stays as it is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ssmd_core.archive.paths import day_folder
from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.datasets.manifest import locked
from ssmd_core.errors import DatasetError
from ssmd_core.feeds.base import Feed
from ssmd_core.sealed_json import fsync_folder
from ssmd_stream.reconcile.archived import COLUMNS as TRADE_COLUMNS
from ssmd_stream.reconcile.trades import VenueTrade

SOURCE = "rest"
#: Columns of the trade dataset that a REST row fills, by feed; what is not named stands on WebSocket only.
COLUMNS = {
    "kalshi": (
        "market_ticker", "price", "no_price", "count", "side", "taker_side", "taker_outcome_side", "taker_book_side",
        "is_block_trade", "ts", "trade_id",
    ),
    "kraken": ("symbol", "side", "price", "qty", "ord_type", "trade_id", "timestamp"),
    "kraken-futures": ("product_id", "uid", "side", "trade_type", "qty", "price", "time"),
    "polymarket": ("asset_id", "market", "price", "side", "size", "timestamp_ms", "transaction_hash"),
}  # fmt: skip
_ADDED = (
    pa.field("_source", pa.string(), nullable=False),
    pa.field("_fetched_at", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("_reason", pa.string(), nullable=False),
    pa.field("_account", pa.string(), nullable=False),
    pa.field("_raw", pa.string(), nullable=False),
)
_Row = dict[str, Any]


class Backfill:
    """The backfill dataset of one hour.

    Args:
        root: of all backfills.
        feed, stream, hour: whose.
    """

    def __init__(self, root: Path, feed: Feed, stream: str, hour: datetime) -> None:
        self._feed = feed
        self._folder = day_folder(root, feed.name, stream, f"{hour:%Y-%m-%d}")
        self.path = self._folder / f"{feed.trades.message_type}_{hour:%H}00.parquet"
        self._schema = _schema(feed)
        self._time = TRADE_COLUMNS[feed.name].time

    def add(self, trades: Iterable[VenueTrade], reason: str, fetched_at: datetime) -> int:
        """Add the trades that are not there yet; how many these were.

        Args:
            reason: which reconciliation found them missing.

        Raises:
            DatasetError: the file that is there cannot be read.
        """
        # Through the columns' types, so that a number has one form whoever told it.
        told = [self._row(trade, reason, fetched_at) for trade in trades]
        new: list[_Row] = pa.Table.from_pylist(told, schema=self._schema).to_pylist()
        if not new:
            return 0
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder):
            rows = self._rows()
            there = Counter(map(self._identity, rows))
            added = 0
            for row in new:
                # A multiset: what is there once and missing twice is added once.
                if there[self._identity(row)]:
                    there[self._identity(row)] -= 1
                else:
                    rows.append(row)
                    added += 1
            if added:
                self._write(sorted(rows, key=self._order))
        return added

    def _row(self, trade: VenueTrade, reason: str, fetched_at: datetime) -> _Row:
        return {
            **trade.columns,
            "_source": SOURCE,
            "_fetched_at": fetched_at.astimezone(UTC),
            "_reason": reason,
            "_account": trade.account,
            "_raw": trade.raw,
        }

    def _identity(self, row: _Row) -> tuple[Any, ...]:
        # Texts beside the trade, such as a user's name, may change from one day to the next.
        return (*(row[name] for name in COLUMNS[self._feed.name]), row["_account"])

    def _order(self, row: _Row) -> tuple[str, ...]:
        return tuple(map(str, (row[self._time], *self._identity(row), row["_raw"])))

    def _rows(self) -> list[_Row]:
        if not self.path.is_file():
            return []
        try:
            rows: list[_Row] = pq.read_table(self.path, schema=self._schema).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{self.path}: cannot be read: {error}") from error
        return rows

    def _write(self, rows: Sequence[_Row]) -> None:
        table = pa.Table.from_pylist(list(rows), schema=self._schema)
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("wb") as file:
            pq.write_table(table, file, compression="zstd", store_decimal_as_integer=True)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        fsync_folder(self._folder)


def _schema(feed: Feed) -> pa.Schema:
    schema = feed.required_schema(feed.trades.message_type)
    known = arrow_schema(schema)
    return pa.schema(
        [*(known.field(name) for name in COLUMNS[feed.name]), *_ADDED],
        metadata={"ssmd.schema_name": f"{schema.name}_backfill", "ssmd.schema_version": schema.version},
    )
