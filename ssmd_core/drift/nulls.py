"""Columns of an hour's parquet files that are empty though they used to be filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ssmd_core.drift.findings import Finding, null_column
from ssmd_core.feeds.base import Feed

#: Rows from which on a type's columns are judged, in the hour and in all earlier ones together. Of fewer rows a column
#: that is filled in one of ten may be empty by chance.
MIN_ROWS = 100
#: Share of nulls from which on a column is empty. Where a venue changes its format within the hour, the next one tells.
EMPTY = 0.99
#: Share of rows that had a value, below which a column is not expected to have one: `tick_size` of Polymarket's books
#: is in the opening ones alone, a tenth of the rows of an hour with a reconnect and none of those after it. A member
#: that was in every message and is renamed is missed in none.
FILLED = 0.5


class HourNulls(NamedTuple):
    """An hour's rows and shares of nulls, as in `HourReport`.

    Attributes:
        rows: by message type.
        null_rates: by message type and column.
    """

    rows: Mapping[str, int]
    null_rates: Mapping[str, Mapping[str, float]]


def null_columns(feed: Feed, hour: HourNulls, earlier: Sequence[HourNulls]) -> list[Finding]:
    """The columns that turned null, sorted.

    Args:
        earlier: some hours before, e.g. of the last day; their rows are taken together. None at all: nothing is found.
    """
    findings = []
    for message_type, rows in hour.rows.items():
        schema = feed.schema_of(message_type)
        if schema is None or rows < MIN_ROWS:
            continue
        before = sum(other.rows.get(message_type, 0) for other in earlier)
        rates = hour.null_rates.get(message_type, {})
        for column in schema.columns:
            if before < MIN_ROWS or rates.get(column.name, 0.0) < EMPTY:
                continue
            filled = sum(_filled(other, message_type, column.name) for other in earlier) / before
            if filled >= FILLED:
                sources = tuple(source.path for source in column.sources)
                findings.append(null_column(message_type, column.name, rows, filled, sources))
    return sorted(findings)


def _filled(hour: HourNulls, message_type: str, column: str) -> float:
    """Rows that had a value; a column that the hour does not know (an older schema) had none."""
    rate = hour.null_rates.get(message_type, {}).get(column, 1.0)
    return hour.rows.get(message_type, 0) * (1.0 - rate)
