"""An external asset for every stream that the capture daemons fill."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from ssmd_assets.lib.keys import OWNERS, STREAMS, identifier, stream_key

# The sensor reports a stream whenever a slot of it has been sealed, that is every 15 minutes.
_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=60), warn_window=timedelta(minutes=35))


def stream_specs() -> list[dg.AssetSpec]:
    """One external asset a stream."""
    return [
        dg.AssetSpec(
            stream_key(feed, stream),
            description=(
                f"{feed.display_name} as it arrives: JetStream stream of `{feed.name}/{stream}`, published by the "
                f"capture daemon with receive time, epoch and ordinal of every message."
            ),
            group_name=identifier(feed.name),
            owners=OWNERS,
            kinds={"nats", feed.name},
            freshness_policy=_FRESHNESS,
            metadata={
                "endpoint": dg.MetadataValue.url(feed.websocket_urls["prod"]),
                "integrity_rule": feed.integrity_rule,
                "message_types": sorted(feed.message_types),
            },
        )
        for feed, stream in STREAMS
    ]
