"""Generated traffic is what the venues' own integrity rules accept; the checks are proved on real captures first."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from decimal import Decimal
from hashlib import sha1
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from ssmd_core.feeds import get
from ssmd_core.messages.frames import split_frame
from ssmd_stream.replay.generator.frames import ALL_CHANNELS, generate_frames
from ssmd_stream.replay.protocol import Traffic
from ssmd_stream.replay.venues.registry import make_exchange, make_session

FRAMES = 5_000


def messages(frames: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    """Numbers stay text: checksums are made of it."""
    for frame in frames:
        for message in split_frame(frame):
            yield json.loads(message, parse_float=str, parse_int=str)


# -- independent checks ------------------------------------------------------------------------------------------


def kraken_checksums(frames: Iterable[bytes], depth: int) -> tuple[int, int]:
    """(messages, matching checksums) of book messages, by the venue's rules."""
    books: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    total = good = 0
    for message in messages(frames):
        if message.get("channel") != "book":
            continue
        data = message["data"][0]
        if message["type"] == "snapshot":
            books[data["symbol"]] = ({}, {})
        bids, asks = books[data["symbol"]]
        for side, name, best_first in ((bids, "bids", -1), (asks, "asks", 1)):
            for level in data[name]:
                if Decimal(level["qty"]) == 0:
                    side.pop(level["price"], None)
                else:
                    side[level["price"]] = level["qty"]
            for price in sorted(side, key=lambda text: best_first * Decimal(text))[depth:]:
                del side[price]
        text = ""
        for side, best_first in ((asks, 1), (bids, -1)):
            for price in sorted(side, key=lambda text: best_first * Decimal(text))[:10]:
                text += price.replace(".", "").lstrip("0") + side[price].replace(".", "").lstrip("0")
        total += 1
        good += crc32(text.encode()) == int(data["checksum"])
        if bids and asks:
            assert max(map(Decimal, bids)) < min(map(Decimal, asks))
    return total, good


def polymarket_hashes(frames: Iterable[bytes]) -> tuple[int, int]:
    """(hashes, matching ones) of books and price changes."""
    books: dict[str, dict[str, dict[Decimal, tuple[str, str]]]] = {}
    facts: dict[str, list[str]] = {}
    total = good = 0

    def matches(market: str, token: str, timestamp: str, expected: str) -> bool:
        sides = [
            "["
            + ",".join(f'{{"price":"{p}","size":"{s}"}}' for _, (p, s) in sorted(side.items(), reverse=falling))
            + "]"
            for side, falling in ((books[token]["BUY"], False), (books[token]["SELL"], True))
        ]
        tick, last = facts[token]
        text = (
            f'{{"market":"{market}","asset_id":"{token}","timestamp":"{timestamp}","hash":"","bids":{sides[0]},'
            f'"asks":{sides[1]},"min_order_size":"5","tick_size":"{tick}","neg_risk":false,"last_trade_price":"{last}"}}'
        )
        return sha1(text.encode()).hexdigest() == expected

    for message in messages(frames):
        kind = message["event_type"]
        if kind == "book":
            token = message["asset_id"]
            if "tick_size" in message:
                facts[token] = [message["tick_size"], message["last_trade_price"]]
            books[token] = {
                "BUY": {Decimal(x["price"]): (x["price"], x["size"]) for x in message["bids"]},
                "SELL": {Decimal(x["price"]): (x["price"], x["size"]) for x in message["asks"]},
            }
            total += 1
            good += matches(message["market"], token, message["timestamp"], message["hash"])
        elif kind == "tick_size_change":
            facts[message["asset_id"]][0] = message["new_tick_size"]
        elif kind == "last_trade_price":
            facts[message["asset_id"]][1] = message["price"]
        elif kind == "price_change":
            for entry in message["price_changes"]:
                if entry["asset_id"] not in books:
                    continue  # the excerpt holds the opening books of four tokens only
                side = books[entry["asset_id"]][entry["side"]]
                price = Decimal(entry["price"])
                if Decimal(entry["size"]) == 0:
                    side.pop(price, None)
                else:
                    side[price] = (entry["price"], entry["size"])
            for entry in message["price_changes"]:
                token = entry["asset_id"]
                if token not in books:
                    continue
                total += 1
                good += matches(message["market"], token, message["timestamp"], entry["hash"])
                bids, asks = books[token]["BUY"], books[token]["SELL"]
                assert Decimal(entry["best_bid"]) == (max(bids) if bids else 0)
                assert Decimal(entry["best_ask"]) == (min(asks) if asks else 1)
    return total, good


def kalshi_books(frames: Iterable[bytes], *, may_lock: bool = False) -> Counter[str]:
    """Contiguous seq per sid, no negative level, YES and NO bids below 1 together; counts by type."""
    seqs: dict[str, int] = {}
    books: dict[str, dict[str, dict[Decimal, Decimal]]] = {}
    kinds: Counter[str] = Counter()
    for message in messages(frames):
        kinds[message["type"]] += 1
        if "seq" in message:
            seq = int(message["seq"])
            assert seq == seqs.get(message["sid"], 0) + 1
            seqs[message["sid"]] = seq
        else:
            assert message["type"] == "ticker"
        body = message["msg"]
        if message["type"] == "orderbook_snapshot":
            books[body["market_ticker"]] = {
                side: {Decimal(price): Decimal(size) for price, size in body.get(f"{side}_dollars_fp", [])}
                for side in ("yes", "no")
            }
        elif message["type"] == "orderbook_delta":
            side = books[body["market_ticker"]][body["side"]]
            price = Decimal(body["price_dollars"])
            size = side.get(price, Decimal(0)) + Decimal(body["delta_fp"])
            assert size >= 0
            if size:
                side[price] = size
            else:
                del side[price]
            best = [max(levels, default=Decimal(0)) for levels in books[body["market_ticker"]].values()]
            assert may_lock or sum(best) < 1
        elif message["type"] == "trade":
            assert Decimal(body["yes_price_dollars"]) + Decimal(body["no_price_dollars"]) == 1
    return kinds


# -- proved on real captures, then on the generator --------------------------------------------------------------


def test_kraken_check_on_real_capture(samples: Path) -> None:
    lines = gzip.decompress((samples / "kraken/ws/book_btcusd_depth25_2026-08.jsonl.gz").read_bytes()).splitlines()
    total, good = kraken_checksums(lines, 25)
    assert total == good == 2_052


def test_polymarket_check_on_real_capture(samples: Path) -> None:
    path = samples / "polymarket/ws/session_btc5m_2026-08-16_excerpt.jsonl"
    # Four books and 42 consecutive price changes; what follows is from later in the session.
    assert polymarket_hashes(path.read_bytes().splitlines()[:46]) == (86, 86)


def test_kalshi_check_on_real_capture(samples: Path) -> None:
    lines = gzip.decompress((samples / "kalshi/ws/btc15m_session_2026-05-11.jsonl.gz").read_bytes()).splitlines()
    data = [line for line in lines[:20_000] if b'"type":"orderbook_' in line]
    # Delta by delta the real book is locked (YES 0.75 and NO 0.25) for a message or two.
    assert kalshi_books(data, may_lock=True)["orderbook_delta"] > 10_000


@pytest.mark.parametrize("seed", [1, 2])
def test_generated_kraken(seed: int) -> None:
    frames = generate_frames("kraken", FRAMES, seed=seed)
    total, good = kraken_checksums(frames, 10)
    assert total == good > 1_000
    ids: dict[str, int] = {}
    for message in messages(frames):
        if message["channel"] == "trade":
            for row in message["data"]:
                assert int(row["trade_id"]) == ids.get(row["symbol"], int(row["trade_id"]) - 1) + 1
                ids[row["symbol"]] = int(row["trade_id"])
    assert len(ids) == 8


@pytest.mark.parametrize("depth", [10, 25])
def test_generated_kraken_book_of_any_depth(depth: int) -> None:
    exchange = make_exchange("kraken", 5, lambda: 1_795_348_800_000_000_000)
    session = make_session("kraken", exchange, lambda: 0, lambda _: False)
    command = {"method": "subscribe", "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": depth}}
    frames = session.receive(json.dumps(command).encode()).data
    traffic = Traffic(exchange)
    while len(frames) < 3_000:
        frames += [frame for _, frame in traffic.step([session])]
    total, good = kraken_checksums(frames, depth)
    assert total == good == 3_000


@pytest.mark.parametrize("seed", [1, 2])
def test_generated_polymarket(seed: int) -> None:
    total, good = polymarket_hashes(generate_frames("polymarket", FRAMES, seed=seed))
    assert total == good > 5_000


@pytest.mark.parametrize("seed", [1, 2])
def test_generated_kalshi(seed: int) -> None:
    kinds = kalshi_books(generate_frames("kalshi", FRAMES, seed=seed))
    assert kinds["orderbook_delta"] > 2_000


def test_generated_kalshi_acks_take_sequence_numbers() -> None:
    exchange = make_exchange("kalshi", 5, lambda: 1_795_348_800_000_000_000)
    session = make_session("kalshi", exchange, lambda: 0, lambda _: False)
    first, second = exchange.instruments[:2]

    def command(**members: object) -> list[bytes]:
        replies = session.receive(json.dumps(members).encode())
        return [frame for frame in replies.control + replies.data if b'"seq"' in frame]

    frames = command(id=1, cmd="subscribe", params={"channels": ["orderbook_delta"], "market_ticker": first})
    traffic = Traffic(exchange)
    for action in ("add_markets", "get_snapshot", "delete_markets"):
        for _ in range(100):
            frames += [frame for _, frame in traffic.step([session])]
        params = {"sid": 1, "market_tickers": [second], "action": action}
        frames += command(id=2, cmd="update_subscription", params=params)
    frames += command(id=3, cmd="unsubscribe", params={"sids": [1]})
    assert traffic.step([session]) == []
    assert [json.loads(frame)["seq"] for frame in frames] == list(range(1, len(frames) + 1))


@pytest.mark.parametrize("seed", [1, 2])
def test_generated_kraken_futures(seed: int) -> None:
    seqs: dict[tuple[str, str], int] = {}
    books: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for message in messages(generate_frames("kraken-futures", FRAMES, seed=seed)):
        feed, product = message["feed"], message["product_id"]
        if feed == "book_snapshot":
            seqs["book", product] = int(message["seq"])
            books[product] = {
                "buy": {level["price"]: level["qty"] for level in message["bids"]},
                "sell": {level["price"]: level["qty"] for level in message["asks"]},
            }
        elif feed == "trade_snapshot":
            seqs["trade", product] = int(message["trades"][0]["seq"])
            assert len(message["trades"]) <= 100
        elif feed in ("book", "trade"):
            assert int(message["seq"]) == seqs[feed, product] + 1
            seqs[feed, product] = int(message["seq"])
            if feed == "book":
                side = books[product][message["side"]]
                if float(message["qty"]) == 0:
                    del side[message["price"]]
                else:
                    side[message["price"]] = message["qty"]
                if all(books[product].values()):
                    assert max(map(float, books[product]["buy"])) < min(map(float, books[product]["sell"]))
    assert len(seqs) == 12


@pytest.mark.parametrize("name", sorted(ALL_CHANNELS))
def test_every_market_message_type_occurs_and_repeats_exactly(name: str) -> None:
    frames = generate_frames(name, FRAMES, seed=7)
    assert frames == generate_frames(name, FRAMES, seed=7)
    assert frames != generate_frames(name, FRAMES, seed=8)
    feed = get(name)
    seen = {feed.route(message).type for frame in frames for message in split_frame(frame)}
    assert seen == {kind.name for kind in feed.message_types.values() if kind.token != "control"}
