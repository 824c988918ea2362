"""Check specs by partition: the one place that touches this preview part of Dagster.

A check without partitions shows the last result only, so a rebuilt old hour would hide today's failure. Recorded by
hour, the failing hours can be counted.
"""

from __future__ import annotations

import warnings

import dagster as dg

from ssmd_assets.partitions import DAILY, HOURLY


def hourly_check(name: str, asset: dg.AssetKey, description: str, *, blocking: bool) -> dg.AssetCheckSpec:
    """A check that is evaluated by the step which makes its asset, once an hour."""
    return _check(name, asset, description, HOURLY, blocking=blocking)


def daily_check(name: str, asset: dg.AssetKey, description: str) -> dg.AssetCheckSpec:
    """Likewise once a day; none of them blocks."""
    return _check(name, asset, description, DAILY, blocking=False)


def _check(
    name: str, asset: dg.AssetKey, description: str, partitions: dg.PartitionsDefinition[str], *, blocking: bool
) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            name, asset=asset, description=description, blocking=blocking, partitions_def=partitions
        )
