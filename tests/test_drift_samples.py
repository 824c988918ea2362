"""The drift sentinel on the venues' own messages: the two format changes that broke everybody, live and in an archived
hour, and no alarm on any recording."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from little_archive import at

from ssmd_core.archive.manifest import Manifest, load_manifest, save_manifest
from ssmd_core.archive.members import member
from ssmd_core.archive.paths import Slot, day_folder
from ssmd_core.archive.tally import Tally
from ssmd_core.clock import NS_PER_S, rfc3339_us
from ssmd_core.datasets.build import HourReport, build_hour
from ssmd_core.drift.baseline import Baseline
from ssmd_core.drift.findings import Finding
from ssmd_core.drift.hour import HourDrift, findings_of, shapes_of
from ssmd_core.drift.nulls import HourNulls, null_columns
from ssmd_core.errors import FrameError
from ssmd_core.feeds import get
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.frames import split_frame
from ssmd_core.messages.lines import format_line
from ssmd_stream.drift.live import Sentinel
from ssmd_stream.replay.generator.frames import generate_frames

Message = dict[str, Any]
HOUR = at("2026-03-12T14:00:00")
CHANGE = HOUR + timedelta(minutes=37)
START_NS = int(HOUR.timestamp()) * NS_PER_S
OLD, BOTH, NEW = "docs_2026-01-16_old_cents", "docs_2026-02-27_transitional_both", "docs_2026-03-10_dollars_fp_only"


def kind_of(feed: Feed, payload: bytes) -> str:
    try:
        return feed.route(payload).type
    except FrameError:
        return ""


def recorded(path: Path) -> Iterator[bytes]:
    """The messages of a recording, out of a recorder's wrapper if it has one."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            if line.startswith((b'{"f"', b'{"recv_ms"')):
                wrapper = orjson.loads(line)
                yield from split_frame(orjson.dumps(wrapper.get("raw") or wrapper["event"]))
            else:
                yield from split_frame(line.rstrip())


# -- messages of a venue's generations, varied


class Kalshi:
    """Kalshi's messages of the docs of some days, with seeded values in the shape that they had."""

    TYPES = ("ticker", "trade", "orderbook_delta")
    FEED = get("kalshi")
    #: Members that were gone on 2026-03-12.
    DROPPED = frozenset(
        {
            ("ticker", "msg.price"),
            ("ticker", "msg.yes_bid"),
            ("ticker", "msg.yes_ask"),
            ("ticker", "msg.volume"),
            ("ticker", "msg.open_interest"),
            ("trade", "msg.yes_price"),
            ("trade", "msg.no_price"),
            ("trade", "msg.count"),
            ("orderbook_delta", "msg.price"),
            ("orderbook_delta", "msg.delta"),
        }
    )

    def __init__(self, samples: Path) -> None:
        self._shapes: dict[str, dict[str, Message]] = {}
        for name in (OLD, BOTH, NEW):
            every = [orjson.loads(raw) for raw in recorded(samples / f"kalshi/ws/{name}.jsonl")]
            self._shapes[name] = {message["type"]: message for message in every if message.get("type") in self.TYPES}
            assert len(self._shapes[name]) == len(self.TYPES)

    def message(self, generation: str, kind: str, cents: int, contracts: int) -> bytes:
        """One message; all its prices and all its sizes are the same."""
        shape = self._shapes[generation][kind]
        body = dict(shape["msg"])
        for name in body:
            base, _, form = name.rpartition("_")
            if form == "dollars" and base != "cost":
                body[name] = f"{Decimal(cents) / 100:.3f}"
            elif form == "fp":
                body[name] = f"{contracts}.00"
            elif name in ("price", "yes_price", "no_price", "yes_bid", "yes_ask", "no_bid"):
                body[name] = cents
            elif name in ("volume", "open_interest", "count", "delta"):
                body[name] = contracts
        return orjson.dumps(shape | {"msg": body})


class Polymarket:
    """Polymarket's price changes before and since 2025-09-15, with seeded values, and the messages around them."""

    FEED = get("polymarket")

    def __init__(self, samples: Path) -> None:
        ws = samples / "polymarket/ws"
        old = recorded(ws / "old_docs_changes_array_format.jsonl")
        session = [orjson.loads(raw) for raw in recorded(ws / "session_btc5m_2026-08-16_excerpt.jsonl")]
        self._old = next(said for said in map(orjson.loads, old) if said["event_type"] == "price_change")
        self._new = next(said for said in session if said["event_type"] == "price_change")
        self.books = [orjson.dumps(said) for said in session if said["event_type"] == "book"]

    def old(self, cents: int, shares: int) -> bytes:
        level = self._old["changes"][0] | {"price": f"0.{cents:02d}", "size": str(shares)}
        return orjson.dumps(self._old | {"changes": [level]})

    def new(self, cents: int, shares: int) -> bytes:
        entry = self._new["price_changes"][0] | {"price": f"0.{cents:02d}", "size": str(shares)}
        return orjson.dumps(self._new | {"price_changes": [entry]})


@pytest.fixture(scope="module")
def kalshi(samples: Path) -> Kalshi:
    return Kalshi(samples)


@pytest.fixture(scope="module")
def polymarket(samples: Path) -> Polymarket:
    return Polymarket(samples)


# -- live


def run(sentinel: Sentinel, feed: Feed, of_second: Callable[[int], Sequence[bytes]], start: int, end: int) -> Told:
    """Show each second's messages, evenly spaced; what was told, by second."""
    told: Told = []
    for second in range(start, end):
        every = of_second(second)
        for n, payload in enumerate(every):
            recv_ns = START_NS + second * NS_PER_S + n * NS_PER_S // len(every)
            told += [(second, finding) for finding in sentinel.look(kind_of(feed, payload), payload, recv_ns)]
    return told


Told = list[tuple[int, Finding]]


def test_kalshi_2026_03_12_live(kalshi: Kalshi) -> None:
    rng = random.Random(312)
    per_s = {"ticker": 10, "orderbook_delta": 30, "trade": 1}
    pools = {
        (generation, kind): [
            kalshi.message(generation, kind, rng.randrange(1, 100), rng.randrange(-50, 900)) for _ in range(200)
        ]
        for generation in (OLD, BOTH, NEW)
        for kind in per_s
    }

    def of_second(generation: str) -> Callable[[int], Sequence[bytes]]:
        return lambda _: [
            payload for kind, count in per_s.items() for payload in rng.sample(pools[generation, kind], count)
        ]

    sentinel = Sentinel(kalshi.FEED, Baseline())
    # Cents; then both forms side by side; then, at second 1,800, dollars alone.
    assert run(sentinel, kalshi.FEED, of_second(OLD), 0, 1500) == []
    told = run(sentinel, kalshi.FEED, of_second(BOTH), 1500, 1800)
    # The documentation of those days says that one member went earlier.
    assert [(finding.kind, finding.path) for _, finding in told] == [("dropped_field", "msg.no_bid_dollars")]
    told = run(sentinel, kalshi.FEED, of_second(NEW), 1800, 2400)
    dropped = {(finding.message_type, finding.path) for _, finding in told if finding.kind == "dropped_field"}
    assert dropped == Kalshi.DROPPED
    assert len(told) == len(dropped)
    assert max(second for second, _ in told) <= 1810
    # Nor when both forms come back for a while.
    assert run(sentinel, kalshi.FEED, of_second(BOTH), 2400, 2700) == []
    assert run(sentinel, kalshi.FEED, of_second(NEW), 2700, 3000) == []


def test_polymarket_2025_09_15_live(polymarket: Polymarket) -> None:
    rng = random.Random(915)
    old = [polymarket.old(rng.randrange(1, 100), rng.randrange(5000)) for _ in range(200)]
    new = [polymarket.new(rng.randrange(1, 100), rng.randrange(5000)) for _ in range(200)]

    def of_second(pool: list[bytes]) -> Callable[[int], Sequence[bytes]]:
        return lambda second: [*rng.sample(pool, 40), *(polymarket.books if second % 60 == 0 else ())]

    sentinel = Sentinel(polymarket.FEED, Baseline())
    assert run(sentinel, polymarket.FEED, of_second(old), 0, 1500) == []
    told = run(sentinel, polymarket.FEED, of_second(new), 1500, 1800)
    assert sorted((finding.kind, finding.path) for _, finding in told) == [
        ("dropped_field", "asset_id"),
        ("dropped_field", "changes"),
        ("dropped_field", "hash"),
    ]
    assert max(second for second, _ in told) <= 1510


# -- in an archived hour


def seal(root: Path, feed: Feed, stream: str, messages: Sequence[tuple[int, bytes]]) -> None:
    """Write sealed slots with these messages, which have their receive time in µs."""
    slots: dict[Slot, tuple[Tally, bytearray]] = {}
    for number, (recv_us, payload) in enumerate(messages):
        tally, raw = slots.setdefault(Slot.of(recv_us), (Tally(), bytearray()))
        line = format_line(payload, recv_us, number + 1, "c0-20260312T135900000-0001", number, wrapped=False)
        tally.add_line(feed, line)
        raw += line + b"\n"
    for slot, (tally, raw) in slots.items():
        folder = day_folder(root, feed.name, stream, slot.date)
        folder.mkdir(parents=True, exist_ok=True)
        content = member(bytes(raw))
        (folder / slot.file_name(0)).write_bytes(content)
        manifest = load_manifest(folder) or Manifest(feed.name, stream, slot.date)
        digest = hashlib.sha256(content).hexdigest()
        sealed_at = rfc3339_us(slot.end_us)
        entry = tally.entry(slot.file_name(0), slot, file_bytes=len(content), sha256=digest, sealed_at=sealed_at)
        tally.merge_into(manifest, entry)
        save_manifest(folder, manifest)


class Built:
    """An hour, archived and built with the sentinel as observer."""

    def __init__(
        self,
        folder: Path,
        feed: Feed,
        hour: datetime,
        messages: Sequence[tuple[int, bytes]],
        before: bytes | None = None,
    ) -> None:
        seal(folder / "archive", feed, "x", messages)
        made: list[HourDrift] = []

        def observe() -> HourDrift:
            made.append(HourDrift(feed, before))
            return made[-1]

        self._folder, self._hour = folder / "datasets", hour
        self.report: HourReport = build_hour(
            folder / "archive", self._folder, feed, "x", hour, threads=2, observe=observe
        )
        assert self.report.balanced
        assert self.report.messages == len(messages)
        self.content = made[-1].document()
        self.findings = made[-1].findings
        assert findings_of(self.content) == self.findings

    @property
    def nulls(self) -> HourNulls:
        return HourNulls(self.report.rows, self.report.null_rates)

    def rows(self, kind: str) -> list[Message]:
        (output,) = [output for output in self.report.outputs if output.message_type == kind]
        rows: list[Message] = pq.read_table(self._folder / output.path).to_pylist()
        return rows


def by_second(hour: datetime, of_second: Callable[[datetime], Sequence[bytes]], seconds: int = 3600) -> list[Any]:
    """Messages of an hour, evenly spaced within their seconds."""
    timed = []
    for second in range(seconds):
        moment = hour + timedelta(seconds=second)
        every = of_second(moment)
        for n, payload in enumerate(every):
            timed.append((int(moment.timestamp()) * 1_000_000 + n * 1_000_000 // len(every), payload))
    return timed


def minute_of(finding: Finding) -> str:
    return f"{datetime.fromtimestamp(finding.at_us / 1e6, HOUR.tzinfo):%H:%M}"


def test_kalshi_2026_03_12_in_an_archived_hour(kalshi: Kalshi, tmp_path: Path) -> None:
    rng = random.Random(1437)
    expected: dict[str, list[tuple[Decimal, Decimal]]] = {kind: [] for kind in Kalshi.TYPES}

    def of_second(moment: datetime) -> Sequence[bytes]:
        messages = []
        for kind in Kalshi.TYPES:
            cents, contracts = rng.randrange(1, 100), rng.randrange(-50, 900)
            expected[kind].append((Decimal(cents) / 100, Decimal(contracts)))
            messages.append(kalshi.message(BOTH if moment < CHANGE else NEW, kind, cents, contracts))
        return messages

    built = Built(tmp_path, kalshi.FEED, HOUR, by_second(HOUR, of_second))
    assert built.report.rejects == {}
    assert built.report.rows == {kind: 3600 for kind in Kalshi.TYPES}
    columns = {"ticker": ("last_price", "volume"), "trade": ("price", "count"), "orderbook_delta": ("price", "delta")}
    for kind, (price, size) in columns.items():
        assert [(row[price], row[size]) for row in built.rows(kind)] == expected[kind]
    assert {(finding.message_type, finding.path) for finding in built.findings} == Kalshi.DROPPED
    for finding in built.findings:
        assert (finding.kind, minute_of(finding)) == ("dropped_field", "14:37")
        assert finding.evidence.startswith("seq:66")
    assert "It fills last_price." in next(f.detail for f in built.findings if f.path == "msg.price")
    # Half a message a second is looked at.
    assert {kind: shape.messages for kind, shape in shapes_of(built.content).types.items()} == dict.fromkeys(
        Kalshi.TYPES, 1800
    )
    again = Built(tmp_path / "again", kalshi.FEED, HOUR, by_second(HOUR, of_second, 60))
    assert again.findings == []
    # The columns are filled from the new members: nothing turned null.
    assert null_columns(kalshi.FEED, built.nulls, [built.nulls]) == []


def test_polymarket_2025_09_15_in_an_archived_hour(polymarket: Polymarket, tmp_path: Path) -> None:
    rng = random.Random(915)
    expected = []

    def of_second(moment: datetime) -> Sequence[bytes]:
        cents, shares = rng.randrange(1, 100), rng.randrange(5000)
        expected.append((Decimal(cents) / 100, Decimal(shares)))
        return [(polymarket.old if moment < CHANGE else polymarket.new)(cents, shares)]

    built = Built(tmp_path, polymarket.FEED, HOUR, by_second(HOUR, of_second))
    assert (built.report.rejects, built.report.rows) == ({}, {"price_change": 3600})
    rows = built.rows("price_change")
    assert [(row["price"], row["size"]) for row in rows] == expected
    assert all(row["asset_id"] and row["hash"] for row in rows)
    assert [row["best_bid"] is None for row in rows] == [True] * 2220 + [False] * 1380
    assert {(finding.path, minute_of(finding)) for finding in built.findings} == {
        (path, "14:37") for path in ("asset_id", "changes", "hash")
    }


def test_a_change_that_the_registry_does_not_know(kalshi: Kalshi, tmp_path: Path) -> None:
    """At 14:37 the venue renames a member that may be null and one that must be there."""
    renamed = {b'"price_dollars"': b'"px_dollars"', b'"count_fp"': b'"qty_fp"'}

    def of_second(moment: datetime) -> Sequence[bytes]:
        messages = [kalshi.message(NEW, kind, 48, 5) for kind in ("ticker", "trade")]
        if moment >= CHANGE:
            messages = [payload.replace(old, new) for payload in messages for old, new in [*renamed.items()][:1]]
            messages[1] = messages[1].replace(b'"count_fp"', b'"qty_fp"')
        return messages

    before = Built(
        tmp_path / "13", kalshi.FEED, HOUR - timedelta(hours=1), by_second(HOUR - timedelta(hours=1), of_second, 2400)
    )
    assert before.findings == []
    built = Built(tmp_path / "14", kalshi.FEED, HOUR, by_second(HOUR, of_second, 2400), before.content)
    assert {(finding.message_type, finding.kind, finding.path, minute_of(finding)) for finding in built.findings} == {
        ("ticker", "dropped_field", "msg.price_dollars", "14:37"),
        ("ticker", "new_field", "msg.px_dollars", "14:37"),
        ("trade", "dropped_field", "msg.count_fp", "14:37"),
        ("trade", "new_field", "msg.qty_fp", "14:37"),
    }
    # Nothing is lost: the trades after the change are rejects, with their lines.
    assert built.report.rows == {"ticker": 2400, "trade": 2220}
    assert built.report.rejects == {"trade": 180}
    assert [row["last_price"] is None for row in built.rows("ticker")] == [False] * 2220 + [True] * 180
    assert null_columns(kalshi.FEED, built.nulls, [before.nulls]) == []
    later = HOUR + timedelta(hours=1)
    after = Built(tmp_path / "15", kalshi.FEED, later, by_second(later, of_second, 2400), built.content)
    assert after.findings == []
    nulls = null_columns(kalshi.FEED, after.nulls, [before.nulls, built.nulls])
    assert [(finding.message_type, finding.path) for finding in nulls] == [("ticker", "last_price")]
    # Without what the hour before knew, the hour's own first 20 minutes are enough.
    alone = Built(tmp_path / "alone", kalshi.FEED, HOUR, by_second(HOUR, of_second, 2400))
    assert [finding.evidence for finding in alone.findings] == [finding.evidence for finding in built.findings]
    same = Built(tmp_path / "same", kalshi.FEED, HOUR, by_second(HOUR, of_second, 2400), before.content)
    assert same.content == built.content


def test_a_type_that_the_registry_does_not_know(kalshi: Kalshi, tmp_path: Path) -> None:
    def of_second(moment: datetime) -> Sequence[bytes]:
        strange = [b'{"type":"ticker_v3","sid":1,"msg":{"market_ticker":"KX-1"}}'] if moment >= CHANGE else []
        return [
            kalshi.message(NEW, "trade", 48, 5),
            *strange,
            b'{"id":1,"type":"subscribed","msg":{"channel":"trade"}}',
        ]

    built = Built(tmp_path, kalshi.FEED, HOUR, by_second(HOUR, of_second))
    assert [(f.kind, f.message_type, minute_of(f)) for f in built.findings] == [("new_type", "ticker_v3", "14:37")]
    assert built.report.no_schema == {"subscribed": 3600, "ticker_v3": 1380}


# -- no false alarms

#: Of documentation and fixtures: types that ssmd does not subscribe, and clients' commands.
_FOREIGN = ("docs", "fixtures", "live_oneliners")


@pytest.mark.parametrize("name", ["kalshi", "kraken", "kraken-futures", "polymarket"])
def test_no_recording_raises_an_alarm(samples: Path, name: str) -> None:
    feed = get(name)
    for path in sorted((samples / name / "ws").glob("*.jsonl*")):
        messages = list(recorded(path))[:4_000]
        messages *= max(2, 2_000 // len(messages))
        step_ns = 2 * 3600 * NS_PER_S // len(messages)
        sentinel = Sentinel(feed, Baseline())
        told = []
        for n, payload in enumerate(messages):
            told += sentinel.look(kind_of(feed, payload), payload, START_NS + n * step_ns)
        # What no feed of ours should send is told when it is seen first, and never again.
        foreign = path.name.startswith(_FOREIGN) or "docs" in path.name
        first_round_us = (START_NS + len(messages) * step_ns // 2) // 1000
        assert all(foreign and finding.kind == "new_type" and finding.at_us <= first_round_us for finding in told), (
            path.name,
            told,
        )


@pytest.mark.parametrize("name", ["kalshi", "kraken", "kraken-futures", "polymarket"])
def test_no_generated_hour_raises_an_alarm(name: str) -> None:
    feed = get(name)
    sentinel = Sentinel(feed, Baseline())
    # Two hours of frames, one every 1.2 s: 20 minutes to learn, the rest must be silent.
    told = []
    for n, frame in enumerate(generate_frames(name, 6_000, seed=7, frames_per_s=1 / 1.2)):
        for payload in split_frame(frame):
            told += sentinel.look(kind_of(feed, payload), payload, START_NS + n * 1_200_000_000)
    assert told == []
