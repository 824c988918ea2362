"""What the archive's datasets say was traded: the same trades as the venue's, read from parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssmd_core.archive.paths import day_folder
from ssmd_core.datasets.manifest import load_parquet_manifest
from ssmd_core.errors import DatasetError
from ssmd_core.feeds.base import Feed
from ssmd_stream.reconcile.trades import NO_NUMBER, US_PER_MS, Trade

_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class TradeColumns:
    """Where a feed's datasets tell trades.

    Attributes:
        types: message types; the feed's own of trades first.
        instrument: by which REST is asked.
        asset, id, time, price, size, side: see `Trade`; `time` is a timestamp, or ms since 1970.
    """

    types: tuple[str, ...]
    instrument: str
    asset: str
    id: str
    time: str
    price: str
    size: str
    side: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, each once."""
        wanted = (self.instrument, self.asset, self.id, self.time, self.price, self.size, self.side, "_received_at")
        return tuple(dict.fromkeys(name for name in wanted if name is not None))


#: By feed. Snapshots after a subscribe hold trades, too: what a gap lost may stand there.
COLUMNS = {
    "kalshi": TradeColumns(
        ("trade",), "market_ticker", "market_ticker", "trade_id", "ts", "price", "count", "side"
    ),
    "kraken": TradeColumns(("trade",), "symbol", "symbol", "trade_id", "timestamp", "price", "qty", "side"),
    "kraken-futures": TradeColumns(
        ("trade", "trade_snapshot"), "product_id", "product_id", "uid", "time", "price", "qty", "side"
    ),
    # The side is the taker's here and the row's party's in REST.
    "polymarket": TradeColumns(
        ("last_trade_price",), "market", "asset_id", "transaction_hash", "timestamp_ms", "price", "size", None
    ),
}  # fmt: skip


class ArchivedTrades:
    """Trades of one stream around one hour.

    A message is kept in the hour in which it was received, and a trade counts in the hour of the venue's time: so the
    hours before and after are read as well, where they have been built.

    Args:
        dataset_root: of the datasets.
        feed, stream: whose.
        hour: UTC.
    """

    def __init__(self, dataset_root: Path, feed: Feed, stream: str, hour: datetime) -> None:
        self._root = dataset_root
        self._feed = feed
        self._stream = stream
        self._hour = hour
        self.columns = COLUMNS[feed.name]
        #: Whether the hour, and those before and after it, have been built.
        self.built, self.built_before, self.built_after = (
            self._is_built(each) for each in (hour, hour - _HOUR, hour + _HOUR)
        )

    def instruments(self) -> Counter[str]:
        """Archived trades of the hour by instrument; 0 for instruments of which there is only another message."""
        found: Counter[str] = Counter()
        quotes = self._feed.quotes.message_type
        for message_type in (self.columns.types[0], quotes):
            table = self._read(self._hour, message_type, (self.columns.instrument,))
            if table is None:
                continue
            counts = table.group_by(self.columns.instrument).aggregate([([], "count_all")])
            for name, count in zip(*(counts.column(place).to_pylist() for place in (0, 1)), strict=True):
                if name is not None:
                    found[name] += count if message_type != quotes else 0
        return found

    def trades(self, instrument: str, start_us: int, end_us: int) -> list[Trade]:
        """Trades of [start, end) of the venue's time; all that tell one trade, snapshots too.

        Raises:
            DatasetError: a file cannot be read.
        """
        names = self.columns
        found: list[Trade] = []
        for table in self._tables:
            rows = table.filter(pc.field(names.instrument) == instrument)
            rows = rows.filter((pc.field("us") >= start_us) & (pc.field("us") < end_us))
            approximate = pa.types.is_floating(rows.schema.field(names.price).type)
            for row in rows.to_pylist():
                found.append(
                    Trade(
                        id=row.get(names.id) or "",
                        asset=row[names.asset],
                        time_us=row["us"],
                        price=_exact(row[names.price]),
                        size=_exact(row[names.size]),
                        side=row.get(names.side) if names.side else None,
                        approximate=approximate,
                    )
                )
        return found

    @cached_property
    def _tables(self) -> tuple[pa.Table, ...]:
        return tuple(self._loaded())

    def _loaded(self) -> Iterator[pa.Table]:
        names = self.columns
        for hour in (self._hour - _HOUR, self._hour, self._hour + _HOUR):
            for message_type in names.types:
                table = self._read(hour, message_type, names.names)
                if table is None:
                    continue
                us = pc.cast(table.column("_received_at"), pa.int64())
                time = table.column(names.time)
                told = pc.multiply(time, US_PER_MS) if pa.types.is_integer(time.type) else pc.cast(time, pa.int64())
                # A message without the venue's time happened about when it came.
                yield table.append_column("us", pc.coalesce(told, us))

    def _read(self, hour: datetime, message_type: str, names: tuple[str, ...]) -> pa.Table | None:
        path = self._folder(hour) / f"{message_type}_{hour:%H}00.parquet"
        if not path.is_file():
            return None
        try:
            file = pq.ParquetFile(path)
            # A column that a file of an older schema lacks is null in all of its rows.
            return file.read(columns=[name for name in names if name in file.schema_arrow.names])
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{path}: cannot be read: {error}") from error

    def _folder(self, hour: datetime) -> Path:
        return day_folder(self._root, self._feed.name, self._stream, f"{hour:%Y-%m-%d}")

    def _is_built(self, hour: datetime) -> bool:
        manifest = load_parquet_manifest(self._folder(hour))
        return manifest is not None and f"{hour:%H}00" in manifest.hours


def _exact(value: Any) -> Decimal:
    """The number; of a float64 the shortest decimal that gives the same one; `NO_NUMBER` where there is none.

    After a venue has renamed a member, a column is null until the registry knows the new name.
    """
    number = value if isinstance(value, Decimal) else NO_NUMBER if value is None else Decimal(repr(value))
    return number if number.is_finite() else NO_NUMBER


def newest_hour(dataset_root: Path, feed: Feed, stream: str) -> datetime | None:
    """The last hour of the stream that has been built."""
    folder = dataset_root / feed.name / stream
    days = sorted((path.name for path in folder.iterdir() if path.is_dir()), reverse=True) if folder.is_dir() else []
    for day in days:
        manifest = load_parquet_manifest(folder / day)
        if manifest is not None and manifest.hours:
            return datetime.fromisoformat(f"{day}T{max(manifest.hours)[:2]}:00:00+00:00")
    return None
