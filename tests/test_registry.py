"""What a feed must provide. A new venue passes this file and changes nothing else of the registry."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmd_core import feeds
from ssmd_core.errors import ConfigError, FrameError, UnknownFeedError
from ssmd_core.feeds.base import META_COLUMNS, Feed
from ssmd_core.feeds.subjects import MAX_ID_CHARS, StreamName, subject_id
from ssmd_core.proof.rules import INTEGRITY_SCHEMA, UNTRUSTED_SCHEMA, book_replay, hour_rule, live_check
from ssmd_stream.capture.sessions import session_factory
from ssmd_stream.replay.generator.frames import ALL_CHANNELS, generate_frames

EVERY_FEED = pytest.mark.parametrize("feed", feeds.FEEDS.values(), ids=list(feeds.FEEDS))
# The datasets of the reference system, whose names and columns users already have.
REFERENCE = {
    "kalshi_ticker": (
        "market_ticker yes_bid yes_ask no_bid no_ask last_price volume open_interest ts exchange_clock sid"
    ),
    "kalshi_trade": "market_ticker price count side ts trade_id exchange_seq sid",
    "kalshi_lifecycle": "market_ticker event_type open_ts close_ts additional_metadata",
    "kraken_ticker": "symbol bid bid_qty ask ask_qty last volume vwap high low change change_pct",
    "kraken_trade": "symbol side price qty ord_type trade_id timestamp",
    "kraken_futures_ticker": (
        "product_id bid bid_size ask ask_size last volume volume_quote open high low change index_price mark_price "
        "open_interest funding_rate funding_rate_prediction next_funding_rate_time time"
    ),
    "kraken_futures_trade": "product_id uid side trade_type seq qty price time",
    "polymarket_book": "asset_id market timestamp_ms hash bids_json asks_json",
    "polymarket_trade": "asset_id market price side size fee_rate_bps timestamp_ms",
    "polymarket_price_change": "market timestamp_ms asset_id price size side hash best_bid best_ask",
    "polymarket_best_bid_ask": "market asset_id best_bid best_ask spread timestamp_ms",
}


@EVERY_FEED
def test_declares_how_to_reach_it(feed: Feed) -> None:
    assert "prod" in feed.websocket_urls
    assert all(urlsplit(url).scheme == "wss" for url in feed.websocket_urls.values())
    assert urlsplit(feed.rest_url).scheme == "https"
    assert feed.streams and feed.default_channels
    assert feed.limits.max_frame_bytes >= 16 * 1024 * 1024
    assert feed.integrity_rule
    for stream in feed.streams:
        assert StreamName("prod", feed, stream).filter.startswith(f"prod.{feed.name}.")


@EVERY_FEED
def test_has_an_integrity_rule(feed: Feed) -> None:
    findings = hour_rule(feed, None).finish(0, 3_600_000_000)
    assert findings.integrity.schema == INTEGRITY_SCHEMA and findings.untrusted.schema == UNTRUSTED_SCHEMA
    assert live_check(feed).check("nonsense", b"\xff{") is None
    assert book_replay(feed, "nothing", None).book() is None


@EVERY_FEED
def test_declares_its_message_types(feed: Feed) -> None:
    assert any(kind.token == "control" for kind in feed.message_types.values()) or feed.auth == "none"
    for name, kind in feed.message_types.items():
        assert kind.name == name
        assert re.fullmatch(r"[a-z_]+", kind.token)
        assert kind.description
        if kind.schema is None:
            continue
        columns = [column.name for column in kind.schema.columns]
        assert len(columns) == len(set(columns))
        assert not {column.name for column in META_COLUMNS}.intersection(columns)
        for column in kind.schema.columns:
            assert column.sources, f"{kind.schema.name}.{column.name} comes from nowhere"
            exact = not column.type.startswith("float") or feed.name.startswith("kraken")
            assert exact, f"{kind.schema.name}.{column.name} would round what the venue wrote"


def test_keeps_the_reference_datasets() -> None:
    schemas = {
        kind.schema.name: kind.schema
        for feed in feeds.FEEDS.values()
        for kind in feed.message_types.values()
        if kind.schema
    }
    for name, wanted in REFERENCE.items():
        have = [column.name for column in schemas[name].columns]
        assert [column for column in wanted.split() if column not in have] == [], name


@EVERY_FEED
def test_can_be_subscribed_and_played(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    if feed.auth == "kalshi_rsa_pss":
        from ssmd_stream.replay.venues.kalshi import make_test_key

        monkeypatch.setenv("KALSHI_API_KEY", "test")
        monkeypatch.setenv("KALSHI_PRIVATE_KEY", make_test_key().private_pem)
    assert session_factory(feed, feed.default_channels, {}, feed.websocket_urls["prod"])().open(["X"])
    assert set(feed.default_channels) <= set(ALL_CHANNELS[feed.name])
    types = {feed.route(frame).type for frame in generate_frames(feed.name, 200, seed=1) if frame[:1] == b"{"}
    assert types <= set(feed.message_types)


@EVERY_FEED
@given(payload=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_routing_raises_nothing_else(feed: Feed, payload: bytes) -> None:
    try:
        route = feed.route(payload)
    except FrameError:
        return
    assert route.type


@pytest.mark.parametrize(
    "payload",
    [b"[" * 100_000, b'{"type":' + b'{"a":' * 50_000, b'{"type":"x","msg":NaN}', b'{"type":"\xff"}', b"\x00", b""],
)
@EVERY_FEED
def test_routing_survives_hostile_frames(feed: Feed, payload: bytes) -> None:
    with pytest.raises(FrameError):
        feed.route(payload)


@given(st.text(max_size=300))
def test_subject_ids_are_safe(text: str) -> None:
    token = subject_id(text)
    assert token
    assert len(token) <= MAX_ID_CHARS
    assert re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", token)
    assert subject_id(token) == token


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownFeedError, match="nasdaq"):
        feeds.get("nasdaq")
    with pytest.raises(ConfigError, match="Crypto!"):
        StreamName("prod", feeds.get("kalshi"), "Crypto!")


def test_schema_pages_are_current(tmp_path: Path) -> None:
    from ssmd_core.datasets.schema_docs import write_schema_docs

    write_schema_docs(tmp_path)
    stored = Path(__file__).resolve().parents[1] / "docs" / "schemas"
    for page in tmp_path.iterdir():
        assert (stored / page.name).read_text() == page.read_text(), f"{page.name} is stale: run make schemas"
