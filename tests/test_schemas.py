"""The registry's schemas: complete, consistent, documented, and read alike by the fast path and in plain Python."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from test_datasets import payloads, sample_files

from ssmd_core.archive.tally import classify
from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.datasets.project import Projector, connect
from ssmd_core.datasets.reference import RowError, message_rows
from ssmd_core.datasets.schema_docs import schema_page, write_schema_docs
from ssmd_core.datasets.sql import has_query
from ssmd_core.feeds import FEEDS
from ssmd_core.feeds.base import Feed, Schema
from ssmd_core.messages.lines import format_line, needs_wrapping, parse_line

DOCS = Path(__file__).parents[1] / "docs" / "schemas"
TYPES = {
    "kalshi": "ticker trade orderbook_snapshot orderbook_delta market_lifecycle_v2 event_lifecycle event_fee_update",
    "kraken": "ticker trade book instrument status",
    "kraken-futures": "ticker ticker_lite trade trade_snapshot book_snapshot book",
    "polymarket": "book price_change last_trade_price best_bid_ask tick_size_change new_market market_resolved",
}
# Columns of the reference system's datasets, which keep their names.
REFERENCE = {
    "kalshi_ticker": "market_ticker yes_bid yes_ask no_bid no_ask last_price volume open_interest ts exchange_clock "
    "sid _shard_id",
    "kalshi_trade": "market_ticker price count side ts trade_id exchange_seq sid _shard_id",
    "kalshi_lifecycle": "market_ticker event_type open_ts close_ts additional_metadata",
    "kraken_ticker": "symbol bid bid_qty ask ask_qty last volume vwap high low change change_pct",
    "kraken_trade": "symbol side price qty ord_type trade_id timestamp",
    "kraken_futures_ticker": "product_id bid bid_size ask ask_size last volume volume_quote open high low change "
    "index_price mark_price open_interest funding_rate funding_rate_prediction next_funding_rate_time time",
    "kraken_futures_trade": "product_id uid side trade_type seq qty price time",
    "polymarket_book": "asset_id market timestamp_ms hash bids_json asks_json",
    "polymarket_trade": "asset_id market price side size fee_rate_bps timestamp_ms",
    "polymarket_price_change": "market timestamp_ms asset_id price size side hash best_bid best_ask",
    "polymarket_best_bid_ask": "market asset_id best_bid best_ask spread timestamp_ms",
}


def schemas() -> dict[str, Schema]:
    return {
        kind.schema.name: kind.schema for feed in FEEDS.values() for kind in feed.message_types.values() if kind.schema
    }


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
def test_every_message_type_has_its_schema(feed: Feed) -> None:
    assert {name for name, kind in feed.message_types.items() if kind.schema} == set(TYPES[feed.name].split())
    for kind in feed.message_types.values():
        assert kind.description, kind.name


def test_reference_datasets_keep_their_columns() -> None:
    known = schemas()
    for name, columns in REFERENCE.items():
        assert set(columns.split()) <= set(arrow_schema(known[name]).names), name


def test_venue_prices_are_decimal_or_float_as_the_venue_sends_them() -> None:
    for name, schema in schemas().items():
        types = {column.type for column in schema.columns}
        if name.startswith("kraken"):
            assert not any("decimal" in kind for kind in types), name
        else:
            assert "float64" not in types and "levels_float" not in types, name
        names = arrow_schema(schema).names
        assert len(names) == len(set(names)) and names[-4:] == ["_nats_seq", "_received_at", "_epoch", "_ordinal"]


def test_schema_pages_are_current(tmp_path: Path) -> None:
    for path in write_schema_docs(tmp_path):
        assert (DOCS / path.name).read_text() == path.read_text(), "run `make schemas`"


def test_a_page_names_every_column() -> None:
    page = schema_page(FEEDS["polymarket"])
    assert "| `best_bid` | decimal128(18, 6) | yes | dollars | `item.best_bid` |" in page


@lru_cache
def sample_messages(samples: Path) -> dict[tuple[str, str], list[bytes]]:
    """At most 30 messages of every type."""
    found: dict[tuple[str, str], list[bytes]] = {}
    for feed, path in sample_files(samples):
        for payload in payloads(path):
            kind = classify(FEEDS[feed], payload)[0]
            if FEEDS[feed].schema_of(kind) and len(of_kind := found.setdefault((feed, kind), [])) < 30:
                of_kind.append(payload)
    return found


def agree(feed: Feed, kind: str, messages: list[bytes]) -> int:
    """Check that what the fast path converts is what plain Python makes of it; the messages it converted."""
    schema = feed.schema_of(kind)
    assert schema is not None
    lines = [
        format_line(payload, 1_700_000_000_000_001 + i, i + 1, "c0", i, wrapped=False)
        for i, payload in enumerate(messages)
    ]
    with connect() as connection, structlog.testing.capture_logs() as logs:
        made = Projector(feed, kind, schema, connection).project(
            pa.array([line.decode() for line in lines], pa.large_string()), np.arange(len(lines), dtype=np.int32), True
        )
    assert not logs
    left = set(made.left.tolist())
    expected: list[dict[str, Any]] = []
    for i, line in enumerate(lines):
        if i in left:
            continue
        try:
            rows = message_rows(schema, parse_line(line))
        except RowError as error:
            pytest.fail(f"the fast path took {line!r}, but {error}")
        expected += rows
    assert made.rows.equals(pa.Table.from_pylist(expected, schema=arrow_schema(schema)))
    return len(lines) - len(left)


def test_both_paths_agree_on_samples(samples: Path) -> None:
    for (feed, kind), messages in sample_messages(samples).items():
        schema = FEEDS[feed].schema_of(kind)
        assert schema is not None
        if has_query(schema):
            assert agree(FEEDS[feed], kind, messages) > 0, (feed, kind)


_STRANGE_TEXTS = (
    *("", "0x10", "1_000", " 5", "+5", "007", "-0", ".5", "5.", "1e3", "1e-08", "NaN", "inf", "true", "[1]", "{}"),
    *('é\n"\\', "2026-08-05T11:45:36Z", "2026-08-05T11:45:36.1234567Z", "2026-08-05T11:45Z", "2026-08-05", "snapshot"),
    *("9223372036854775808", "18446744073709551616", "123456789012.123456", "1234567890123", "0.1234567", "1e-400"),
)
STRANGE = st.one_of(
    st.sampled_from(_STRANGE_TEXTS),
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.one_of(st.none(), st.text(max_size=2), st.integers(0, 3)), max_size=3),
    st.just({"price": "1", "size": None}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand in a message."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, member in members for place in places(member, (*path, key)))]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_both_paths_agree_on_strange_messages(samples: Path, data: st.DataObject) -> None:
    found = sample_messages(samples)
    feed_name, kind = data.draw(st.sampled_from(sorted(found)))
    feed = FEEDS[feed_name]
    schema = feed.schema_of(kind)
    if schema is None or not has_query(schema):
        return
    messages = []
    for original in found[feed_name, kind][:8]:
        message = copy.deepcopy(orjson.loads(original))
        *parents, last = data.draw(st.sampled_from(places(message)[1:60]))
        owner = message
        for key in parents:
            owner = owner[key]
        owner[last] = data.draw(STRANGE)
        try:
            payload = orjson.dumps(message)
        except (orjson.JSONEncodeError, UnicodeEncodeError):
            continue
        if not needs_wrapping(payload) and classify(feed, payload)[0] == kind:
            messages.append(payload)
    if messages:
        agree(feed, kind, messages)
