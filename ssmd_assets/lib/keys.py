"""Asset keys and names, from the registry of feeds.

Dagster allows letters, digits and underscores in names, so `kraken-futures` is `kraken_futures` here and only here.
"""

from __future__ import annotations

import dagster as dg

from ssmd_core.feeds import FEEDS
from ssmd_core.feeds.base import Feed

OWNERS = ["team:market-data"]
DATA_VERSION_TAG = "dagster/data_version"

STREAMS: tuple[tuple[Feed, str], ...] = tuple((feed, stream) for feed in FEEDS.values() for stream in feed.streams)


def identifier(text: str) -> str:
    """A feed's, stream's or message type's name as Dagster accepts it."""
    return text.replace("-", "_")


def stream_key(feed: Feed, stream: str) -> dg.AssetKey:
    """`[feed, stream, "stream"]`: the JetStream stream."""
    return dg.AssetKey([identifier(feed.name), identifier(stream), "stream"])


def archive_key(feed: Feed, stream: str) -> dg.AssetKey:
    """`[feed, stream, "archive"]`: its sealed files."""
    return dg.AssetKey([identifier(feed.name), identifier(stream), "archive"])


def rejects_key(feed: Feed, stream: str) -> dg.AssetKey:
    """`[feed, stream, "rejects"]`: what of an hour became no row, and the books of the hour."""
    return dg.AssetKey([identifier(feed.name), identifier(stream), "rejects"])


def ledger_key(feed: Feed, stream: str) -> dg.AssetKey:
    """`[feed, stream, "ledger"]`: what the hour proves about itself, signed."""
    return dg.AssetKey([identifier(feed.name), identifier(stream), "ledger"])


def dataset_key(feed: Feed, stream: str, message_type: str) -> dg.AssetKey:
    """`[feed, stream, message type]`: its parquet files."""
    return dg.AssetKey([identifier(feed.name), identifier(stream), identifier(message_type)])


def dataset_types(feed: Feed) -> tuple[str, ...]:
    """The feed's message types that have a schema, in the registry's order."""
    return tuple(name for name, kind in feed.message_types.items() if kind.schema is not None)


def hour_keys(feed: Feed, stream: str) -> list[dg.AssetKey]:
    """Every asset that is made when an hour of the stream is."""
    return [
        *(dataset_key(feed, stream, name) for name in dataset_types(feed)),
        rejects_key(feed, stream),
        ledger_key(feed, stream),
    ]


def rest_key(feed: Feed) -> dg.AssetKey:
    """`[feed, "rest"]`: the venue's REST interface."""
    return dg.AssetKey([identifier(feed.name), "rest"])


def secmaster_key(feed: Feed, table: str) -> dg.AssetKey:
    """`[feed, "secmaster", table]`: what the venue lists, in a table of Postgres."""
    return dg.AssetKey([identifier(feed.name), "secmaster", table])
