"""How much of what came when: the rows of the coverage ledger, one per connection epoch and minute.

Everything is summed a chunk at a time; what stays in memory is some hundred bytes a row, four bytes for every
instrument that was heard in a minute, and a histogram of ages where the venue states times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.datasets.convert import Converted
from ssmd_core.feeds.base import Feed
from ssmd_core.proof.lines import MINUTE_US, Lines, Longs, Names

# Ids come off the wire: nonsense must not fill the memory.
MAX_INSTRUMENTS: Final = 200_000
_OTHER: Final = "other instruments"
_US = pa.timestamp("us", tz="UTC")
# Before 2000 a venue's time is no time: Kraken's inactive pairs say 1970.
_OLDEST_US: Final = 946_684_800_000_000
_NEWEST_US: Final = 4_102_444_800_000_000
_NO_AGE: Final = np.iinfo(np.int64).max


def _edges() -> Longs:
    """Bounds of the ages' histogram in µs: 0.1 ms, then 5 % more each, to 28 hours; in whole numbers, everywhere the
    same."""
    edges = [100]
    while edges[-1] < 100_000_000_000:
        edges.append(max(edges[-1] * 21 // 20, edges[-1] + 1))
    return np.array(edges, np.int64)


AGE_EDGES_US: Final = _edges()

COVERAGE_SCHEMA = pa.schema(
    [
        pa.field("minute", _US, nullable=False),
        pa.field("epoch", pa.string(), nullable=False),
        pa.field("connection", pa.string(), nullable=False),
        pa.field("open_s", pa.decimal128(5, 2), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("asked", "acknowledged", "refused", "delivered")),
        pa.field("messages", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field(
            "by_type",
            pa.list_(pa.struct([("type", pa.string()), ("messages", pa.int64()), ("bytes", pa.int64())])),
            nullable=False,
        ),
        pa.field("first_ordinal", pa.int64()),
        pa.field("last_ordinal", pa.int64()),
        pa.field("missing_ordinals", pa.int64(), nullable=False),
        pa.field(
            "counters",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        *((name, pa.int64()) for name in ("first", "last", "gaps", "missing", "repeats")),
                    ]
                )
            ),
            nullable=False,
        ),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("sequence_gaps", "sequence_missing", "passed", "failed", "unverifiable")
        ),
        *(pa.field(name, pa.float64()) for name in ("offset_ms", "age_p50_ms", "age_p99_ms", "age_max_ms")),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("opens", "resubscribes", "errors")),
        pa.field("live_messages", pa.int64()),
    ]
)
"""Sorted by minute and epoch.

`epoch`: connection epoch; that of the connector itself (`k0-…`) has rows too. `open_s`: how long it was open in the
minute. `asked`, `acknowledged`, `refused`: instruments at the end of the minute, or of the connection; acknowledged on
every channel, refused on any. `delivered`: instruments with at least one message in the minute, of types that come only
for what was subscribed. `messages`, `bytes`: archived messages and the venue's own bytes, by type `control` for ssmd's
events and `unparsed` for what has no type. `first_ordinal` to `missing_ordinals`: of the epoch; a hole counts in the
minute behind it. `counters` and checks: what the venue's rule found. `offset_ms`: smallest receive time minus venue
time. `age_…`: receive time minus venue time, quantiles to 5 %. `live_messages`: what the connection itself counted in
the minute; null if it does not say.
"""


@dataclass(slots=True)
class Minute:
    """What one epoch brought in one minute."""

    messages: int = 0
    bytes: int = 0
    by_type: dict[int, list[int]] = field(default_factory=dict)
    first_ordinal: int | None = None
    last_ordinal: int | None = None
    delivered: npt.NDArray[np.int32] | None = None
    ages: Longs | None = None
    age_min_us: int = _NO_AGE
    age_max_us: int = -_NO_AGE

    def quantile_ms(self, share: float) -> float | None:
        """The age that this share of the messages does not exceed, to 5 %."""
        if self.ages is None:
            return None
        total = int(self.ages.sum())
        at = int(np.searchsorted(np.cumsum(self.ages), max(1, -(-total * round(share * 100) // 100))))
        bound = int(AGE_EDGES_US[min(at, len(AGE_EDGES_US) - 1)])
        return min(max(bound, self.age_min_us), self.age_max_us) / 1000

    @property
    def timed(self) -> int:
        """How many messages stated a time."""
        return 0 if self.ages is None else int(self.ages.sum())

    @property
    def offset_ms(self) -> float | None:
        """Smallest age."""
        return None if self.ages is None else self.age_min_us / 1000

    @property
    def age_max_ms(self) -> float | None:
        """Largest age."""
        return None if self.ages is None else self.age_max_us / 1000


class Coverage:
    """Sums over the lines of an hour.

    Attributes:
        minutes: by (number of the epoch, minute of the hour).
        instruments: every instrument that was heard.
    """

    def __init__(self, feed: Feed) -> None:
        self.minutes: dict[tuple[int, int], Minute] = {}
        self.instruments = Names(MAX_INSTRUMENTS, _OTHER)
        self._kinds = feed.message_types

    def minute(self, epoch: int, minute: int) -> Minute:
        """Sums of one epoch and minute."""
        found = self.minutes.get((epoch, minute))
        if found is None:
            found = self.minutes[epoch, minute] = Minute()
        return found

    def take(self, converted: Converted, lines: Lines) -> None:
        """Add a chunk."""
        if not len(lines.order):
            return
        rows = [self.minute(epoch, minute) for epoch, minute, _, _ in lines.groups()]
        self._count(lines, rows)
        ages = np.full(len(lines.epoch), _NO_AGE, np.int64)
        heard: list[Longs] = []
        for name, table in converted.tables.items():
            kind = self._kinds[name]
            numbers = converted.line_numbers[name]
            if kind.instrument:
                codes = self.instruments.codes(table[kind.instrument])
                # A row's group in the upper half, its instrument in the lower.
                heard.append((lines.group[numbers].astype(np.int64) << 32 | codes)[codes >= 0])
            if kind.venue_time:
                venue_us, known = _venue_times(table, kind.venue_time)
                of_rows = numbers[known]
                ages[of_rows] = lines.recv_us[of_rows] - venue_us[known]
        self._hear(heard, rows)
        self._age(ages, lines, rows)

    def _count(self, lines: Lines, rows: list[Minute]) -> None:
        order, starts = lines.order, lines.starts
        ordinals = lines.ordinal[order]
        first, last = np.minimum.reduceat(ordinals, starts), np.maximum.reduceat(ordinals, starts)
        kinds = int(lines.kind.max()) + 1
        group = lines.group[order].astype(np.int64) * kinds + lines.kind[order]
        size = len(rows) * kinds
        messages = np.bincount(group, minlength=size).reshape(-1, kinds)
        # Sums of whole numbers below 2^53 are exact as floats.
        sizes = np.bincount(group, lines.payload_bytes[order], size).astype(np.int64).reshape(-1, kinds)
        for i, row in enumerate(rows):
            row.messages += int(messages[i].sum())
            row.bytes += int(sizes[i].sum())
            row.first_ordinal = _least(row.first_ordinal, int(first[i]))
            row.last_ordinal = max(int(last[i]), row.last_ordinal or 0)
            for kind in np.flatnonzero(messages[i]).tolist():
                sums = row.by_type.setdefault(kind, [0, 0])
                sums[0] += int(messages[i, kind])
                sums[1] += int(sizes[i, kind])

    def _hear(self, heard: list[Longs], rows: list[Minute]) -> None:
        if not heard:
            return
        pairs = np.sort(pc.unique(pa.array(np.concatenate(heard))).to_numpy())
        groups, codes = pairs >> 32, (pairs & 0xFFFFFFFF).astype(np.int32)
        breaks = np.flatnonzero(groups[1:] != groups[:-1]) + 1
        for part in np.split(np.arange(len(pairs)), breaks):
            if len(part):
                row = rows[int(groups[part[0]])]
                row.delivered = codes[part] if row.delivered is None else np.union1d(row.delivered, codes[part])

    def _age(self, ages: Longs, lines: Lines, rows: list[Minute]) -> None:
        there = np.flatnonzero((ages != _NO_AGE) & (lines.group >= 0))
        if not len(there):
            return
        of_there, groups = ages[there], lines.group[there].astype(np.int64)
        bins = len(AGE_EDGES_US) + 1
        counts = np.bincount(
            groups * bins + np.searchsorted(AGE_EDGES_US, of_there), minlength=len(rows) * bins
        ).reshape(-1, bins)
        least, most = np.full(len(rows), _NO_AGE, np.int64), np.full(len(rows), -_NO_AGE, np.int64)
        np.minimum.at(least, groups, of_there)
        np.maximum.at(most, groups, of_there)
        for i in np.flatnonzero(counts.any(axis=1)).tolist():
            row = rows[i]
            row.ages = counts[i].copy() if row.ages is None else row.ages + counts[i]
            row.age_min_us = min(row.age_min_us, int(least[i]))
            row.age_max_us = max(row.age_max_us, int(most[i]))


def _venue_times(table: pa.Table, column: str) -> tuple[Longs, npt.NDArray[np.bool_]]:
    """Venue times in µs, and which rows have one that is a time of the message itself."""
    values = table[column]
    scale = 1 if pa.types.is_timestamp(values.type) else 1000
    numbers = values.cast(pa.int64()).fill_null(0).to_numpy()
    known = (numbers > _OLDEST_US // scale) & (numbers < _NEWEST_US // scale)
    if "is_snapshot" in table.column_names:
        known &= ~table["is_snapshot"].fill_null(False).to_numpy()
    return numbers * np.where(known, scale, 0), known


def _least(known: int | None, new: int) -> int:
    return new if known is None else min(known, new)


def coverage_table(rows: list[dict[str, Any]]) -> pa.Table:
    """The rows as a table, sorted."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: (row["minute"], row["epoch"])), COVERAGE_SCHEMA)


def minute_us(start_us: int, minute: int) -> int:
    """Start of a minute of the hour."""
    return start_us + minute * MINUTE_US
