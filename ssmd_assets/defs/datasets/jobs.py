"""The job that the sensor runs for an hour, and that a backfill of all feeds runs for many."""

import dagster as dg

from ssmd_assets.lib.keys import STREAMS, hour_keys

hourly_datasets = dg.define_asset_job(
    "hourly_datasets",
    selection=dg.AssetSelection.assets(*(key for feed, stream in STREAMS for key in hour_keys(feed, stream))),
    description="Parquet files of an hour, of every feed that has sealed files in it.",
)
