"""An external asset for every stream's archive; the archive daemon writes it, the sensor reports it."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from ssmd_assets.lib.keys import OWNERS, STREAMS, archive_key, identifier, stream_key
from ssmd_assets.partitions import HOURLY

_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))


def archive_specs() -> list[dg.AssetSpec]:
    """One external asset a stream, partitioned by hour."""
    return [
        dg.AssetSpec(
            archive_key(feed, stream),
            deps=[stream_key(feed, stream)],
            description=(
                f"Sealed files `{feed.name}/{stream}/YYYY-MM-DD/HHMM.jsonl.gz`: every message of {feed.display_name} "
                f"byte for byte, one a line, four files an hour by receive time."
            ),
            group_name=identifier(feed.name),
            owners=OWNERS,
            kinds={"gzip", "json", feed.name},
            partitions_def=HOURLY,
            freshness_policy=_FRESHNESS,
        )
        for feed, stream in STREAMS
    ]
