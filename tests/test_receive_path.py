"""Whatever a venue sends is published, once, in order, on a well-formed subject; nothing breaks the receive path."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssmd_core import feeds
from ssmd_core.clock import Clock
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.messages.frames import split_frame
from ssmd_core.messages.headers import Stamp
from ssmd_stream.capture.connection import Connection, Setting
from ssmd_stream.capture.sessions import session_factory
from ssmd_stream.capture.stats import Router, ShardStats
from ssmd_stream.replay.venues.kalshi import make_test_key

_KEY = make_test_key()
_CREDENTIALS = {"KALSHI_API_KEY": _KEY.access_key, "KALSHI_PRIVATE_KEY": _KEY.private_pem}
_MAKE = {
    name: session_factory(feed, feed.default_channels, {}, feed.websocket_urls["prod"], _CREDENTIALS)
    for name, feed in feeds.FEEDS.items()
}
_SUBJECT = re.compile(r"t\.[a-z-]+\.x\.json\.[a-z_]+\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")

_SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
_TYPES = (
    "ticker trade book instrument orderbook_delta price_change error subscribe subscribed heartbeat control unparsed"
)
_NAME = st.sampled_from([*_TYPES.split(), "*", ">", "a b", "..", "", "a.b", "é", "BTC/USD", "x" * 200])
_OBJECT = st.dictionaries(
    st.sampled_from(
        ["type", "channel", "method", "feed", "event", "event_type", "product_id", "market", "data", "msg", "ssmd"]
    ),
    _SCALAR | _NAME | st.dictionaries(st.just("market_ticker"), _NAME) | st.lists(st.just({"symbol": "*"}), max_size=2),
    max_size=5,
)
_FRAME = (
    st.binary(max_size=30)
    | _OBJECT.map(lambda value: json.dumps(value).encode())
    | st.lists(_OBJECT | _SCALAR, max_size=4).map(lambda value: json.dumps(value).encode())
    | _OBJECT.map(lambda value: b" \n" + json.dumps(value).encode() + b"\n")
)


async def _receive(feed_name: str, frames: list[bytes]) -> tuple[list[tuple[str, bytes, Stamp]], ShardStats]:
    published: list[tuple[str, bytes, Stamp]] = []

    def publish(subject: str, payload: bytes, stamp: Stamp, /) -> None:
        published.append((subject, payload, stamp))

    feed = feeds.get(feed_name)
    stats = ShardStats(feed.message_types, 0.0)
    setting = Setting(feed, "ws://h", "picows", Clock(), publish, feed.liveness, {})
    router = Router(StreamName("t", feed, "x"), "c0", stats, {} if feed_name == "kraken" else None)
    connection = Connection("c0", _MAKE[feed_name](), (), setting, router=router, stats=stats, paused=False)
    connection.session.open(())
    for frame in frames:
        connection.on_message(frame)
    return published, stats


@settings(max_examples=300, deadline=None)
@given(feed=st.sampled_from(sorted(feeds.FEEDS)), frames=st.lists(_FRAME, max_size=4))
@example(feed="kalshi", frames=[b"", b"{", b"[", b"[]", b"PONG", b"\x00\xff", b'{"type":"\\ud800"}', b"[" * 100_000])
@example(feed="kalshi", frames=[b'{"a":' * 50_000, b'{"type":"ticker","sid":99999999999999999999999999}'])
@example(feed="kalshi", frames=[b'{"type":"ticker","type":"trade","msg":{"market_ticker":"a.*.>"}}'])
@example(feed="polymarket", frames=[b'[{"event_type":"book","market":"0x1"},PONG]', b'[{"event_type":"book"}, 1]'])
def test_every_message_is_published_once_and_in_order(feed: str, frames: list[bytes]) -> None:
    published, stats = asyncio.run(_receive(feed, frames))
    own = [m for m in published if m[1].startswith(b'{"ssmd":{"event":') and ".control." in m[0]]
    sent = [message for frame in frames for message in split_frame(frame)]
    assert [message[1] for message in published if message not in own] == sent
    assert [stamp.ordinal for _, _, stamp in published] == list(range(len(published)))
    assert len({stamp.epoch for _, _, stamp in published}) <= 1
    for subject, _, _ in published:
        assert _SUBJECT.fullmatch(subject), subject
    counted = (
        sum(each.messages for each in stats.by_type.values()) + stats.unparsed.messages + stats.keepalives.messages
    )
    assert (stats.frames, counted) == (len(frames), len(sent))
    assert stats.bytes == sum(map(len, frames))


def test_an_unknown_type_is_unparsed_and_a_known_one_keeps_its_id() -> None:
    frames: list[dict[str, Any]] = [
        {"type": "ticker", "msg": {"market_ticker": "KXBTCD-26FEB0620-T72999.99"}},
        {"type": "brand_new", "msg": {"market_ticker": "A"}},
        {"type": "event_lifecycle", "msg": {"event_ticker": "E-1"}},
    ]
    published, _ = asyncio.run(_receive("kalshi", [json.dumps(frame).encode() for frame in frames]))
    assert [subject for subject, _, _ in published] == [
        "t.kalshi.x.json.ticker.KXBTCD-26FEB0620-T72999.99",
        "t.kalshi.x.json.unparsed.kalshi",
        "t.kalshi.x.json.event_lifecycle.E-1",
    ]
