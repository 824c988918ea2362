"""Partitions: an hour or a day, UTC, by receive time."""

from __future__ import annotations

from datetime import datetime

import dagster as dg

from ssmd_core.archive.paths import hour_key

# A literal, never derived from now(): Dagster serialises partition subsets against it. The hours of eleven
# years fit into the 100,000 partitions that Dagster advises as the most for an asset.
HOURLY = dg.HourlyPartitionsDefinition(start_date="2026-01-01-00:00", timezone="UTC")
#: Scores and reports: a day can be scored once it is over.
DAILY = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="UTC")


def is_partition(hour: datetime) -> bool:
    """Whether Dagster knows the hour: it is not before the start date, and it has ended by the system's clock."""
    return HOURLY.has_partition_key(hour_key(hour))
