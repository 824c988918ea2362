"""What should have been captured in an hour, from the archive's control events and the security master's history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_core import feeds
from ssmd_core.archive.members import member
from ssmd_core.archive.paths import Slot, day_folder
from ssmd_core.clock import Clock
from ssmd_core.messages.control import Event, control_event
from ssmd_core.messages.lines import format_line
from ssmd_core.settings import Settings
from ssmd_stream.catalogue.catalogue import Catalogue, Entry, make_catalogue
from ssmd_stream.catalogue.intervals import Interval, intersection, minutes, union, without

HOUR = datetime(2026, 11, 22, 11, tzinfo=UTC)
START_US = int(HOUR.timestamp()) * 1_000_000
MINUTE_US = 60_000_000
FILTER = {"categories": ["Crypto"]}


def _us(minute: float) -> int:
    return START_US + int(minute * MINUTE_US)


class Hour:
    """Control events and frames of one hour, given by minute."""

    def __init__(self, root: Path, feed: str = "kalshi", stream: str = "crypto") -> None:
        self._root, self._feed, self._stream = root, feed, stream
        self._lines: list[tuple[int, str, bytes]] = []

    def event(self, minute: float, epoch: str, event: Event, *instruments: str, **fields: Any) -> None:
        if instruments:
            fields["instruments"] = instruments
        self.frame(minute, epoch, control_event(event, epoch.partition("-")[0], **fields))

    def asked(self, minute: float, epoch: str, *instruments: str, channels: Sequence[str] = ("ticker",)) -> None:
        for channel in channels:
            self.event(minute, epoch, "subscribe", *instruments, channel=channel)
            self.event(minute + 0.01, epoch, "acknowledged", *instruments, channel=channel)

    def wanted(self, minute: float, *instruments: str, cause: str = "change", epoch: str = "k0-a") -> None:
        self.event(minute, epoch, "wanted", *instruments, cause=cause, reason="active", filter=FILTER)

    def frame(self, minute: float, epoch: str, payload: bytes) -> None:
        self._lines.append((_us(minute), epoch, payload))

    def alive(self, epoch: str = "k0-a", to: float = 59.99) -> None:
        minute = 0.05
        while minute <= to:
            self.event(minute, epoch, "tick")
            minute += 0.25

    def seal(self, slots: int = 4) -> None:
        self._lines.sort(key=lambda line: line[0])
        ordinals: dict[str, int] = {}
        for quarter in range(slots):
            slot = Slot.of(_us(15 * quarter))
            folder = day_folder(self._root, self._feed, self._stream, slot.date)
            folder.mkdir(parents=True, exist_ok=True)
            content = b""
            for seq, (recv_us, epoch, payload) in enumerate(self._lines, 1):
                if Slot.of(recv_us) == slot:
                    ordinals[epoch] = ordinals.get(epoch, -1) + 1
                    content += format_line(payload, recv_us, seq, epoch, ordinals[epoch], wrapped=False) + b"\n"
            (folder / slot.file_name()).write_bytes(member(content) if content else b"")


def _settings(tmp_path: Path, database_url: str = "") -> Settings:
    return Settings(data=tmp_path, env="t", nats_url="", database_url=database_url, redis_url="", clock=Clock())


def _made(tmp_path: Path, database_url: str = "", feed: str = "kalshi", stream: str = "crypto") -> Catalogue:
    return asyncio.run(make_catalogue(_settings(tmp_path, database_url), feeds.get(feed), stream, HOUR))


def _entries(catalogue: Catalogue) -> dict[str, Entry]:
    return {entry.instrument: entry for entry in catalogue.entries}


def _minutes(intervals: Sequence[Interval]) -> list[tuple[float, float]]:
    return [(round((a - START_US) / MINUTE_US, 2), round((b - START_US) / MINUTE_US, 2)) for a, b in intervals]


@pytest.fixture
def hour(tmp_path: Path) -> Hour:
    return Hour(tmp_path / "archive")


def test_an_hour_of_changes(hour: Hour, tmp_path: Path) -> None:
    both = ("ticker", "trade")
    hour.alive()
    # Held since before the hour: the connections and the connector say so at its start.
    hour.wanted(0.02, "OLD", "GOES", cause="hour")
    for channel in both:
        hour.event(0.02, "c0-a", "coverage", "OLD", "GOES", channel=channel, state="acknowledged")
    hour.event(0.02, "c0-a", "coverage", "*", channel="market_lifecycle_v2", state="acknowledged")
    hour.frame(3, "c0-a", b'{"type":"ticker","sid":1,"msg":{"market_ticker":"OLD"}}')
    # Said to everybody, about markets that nobody asked for.
    hour.frame(3, "c0-a", b'{"type":"market_lifecycle_v2","sid":2,"msg":{"market_ticker":"FOREIGN"}}')
    hour.event(10, "k0-a", "unwanted", "GOES", cause="change", reason="status settled")
    for channel in both:
        hour.event(10, "c0-a", "unsubscribe", "GOES", channel=channel)
    # Becomes wanted, is subscribed at once on both channels; another is refused on one; a third is never asked for.
    hour.wanted(20, "NEW", "REFUSED", "FORGOTTEN")
    hour.asked(20.05, "c0-a", "NEW", channels=both)
    hour.asked(20.05, "c0-a", "REFUSED", channels=("ticker",))
    hour.event(20.05, "c0-a", "subscribe", "REFUSED", channel="trade")
    hour.event(20.1, "c0-a", "refused", "REFUSED", channel="trade", reason="11 Invalid parameter")
    # The connection is away for two minutes.
    hour.event(40, "c0-a", "closed", reason="reset", code=1006)
    hour.event(42, "c0-b", "open")
    hour.asked(42, "c0-b", "OLD", "NEW", channels=both)
    hour.seal()

    catalogue = _made(tmp_path)
    entries = _entries(catalogue)
    assert "FOREIGN" not in entries
    assert catalogue.channels == ["ticker", "trade"]
    assert catalogue.filter == FILTER
    assert catalogue.sealed_slots == 4
    assert _minutes(entries["OLD"].wanted) == [(0, 60)]
    assert _minutes(entries["OLD"].acknowledged) == [(0, 40), (42.01, 60)]
    assert entries["OLD"].frames == 1
    assert _minutes(entries["GOES"].asked) == _minutes(entries["GOES"].wanted) == [(0, 10)]
    assert not entries["GOES"].missing
    assert _minutes(entries["NEW"].missing) == [(20, 20.06), (40, 42.01)]
    assert _minutes(entries["REFUSED"].missing) == [(20, 60)]
    assert entries["REFUSED"].refused == {"trade": "11 Invalid parameter"}
    assert not entries["FORGOTTEN"].asked
    assert [entry.instrument for entry in catalogue.missed()] == ["FORGOTTEN", "NEW", "OLD", "REFUSED"]
    assert [entry.instrument for entry in catalogue.missed(150)] == ["FORGOTTEN", "REFUSED"]
    assert minutes(entries["OLD"].missing) == [40, 41, 42]
    summary = catalogue.summary()
    assert (summary["should_have"], summary["asked"], summary["refused"], summary["missed"]) == (5, 4, 1, 4)
    assert summary["open_by_secmaster"] is None


def test_killed_connector_is_missing_until_the_next_one_asks(hour: Hour, tmp_path: Path) -> None:
    hour.alive(to=20)
    hour.wanted(0.02, "A", "B", cause="hour")
    hour.event(0.02, "c0-a", "coverage", "A", "B", channel="ticker", state="acknowledged")
    hour.event(0.02, "c7-a", "coverage", "B", channel="ticker", state="acknowledged")
    hour.frame(19, "c0-a", b'{"type":"ticker","sid":1,"msg":{"market_ticker":"A"}}')
    hour.event(30, "k0-b", "open")
    hour.alive("k0-b")
    hour.wanted(30, "A", cause="start", epoch="k0-b")
    hour.event(30.1, "c0-b", "open")
    hour.asked(30.1, "c0-b", "A")
    hour.seal()
    entries = _entries(_made(tmp_path))
    assert _minutes(entries["A"].wanted) == [(0, 60)]
    assert _minutes(entries["A"].missing) == [(19, 30.11)]
    # The new connector does not want it: until then it should have been captured.
    assert _minutes(entries["B"].wanted) == [(0, 30)]
    assert _minutes(entries["B"].missing) == [(19, 30)]


def test_everything_asked_for_is_everything_covered(hour: Hour, tmp_path: Path) -> None:
    hour.event(5, "k0-a", "open")
    hour.event(5, "k0-a", "wanted", "*", cause="start", reason="configured")
    hour.alive()
    hour.event(5, "c0-a", "open")
    hour.asked(5, "c0-a", "*", channels=("ticker", "trade"))
    hour.frame(6, "c0-a", b'{"type":"ticker","sid":1,"msg":{"market_ticker":"A"}}')
    hour.seal(2)
    catalogue = _made(tmp_path)
    assert catalogue.wants_all
    (entry,) = catalogue.entries
    # Nothing is said of what is not sealed yet.
    assert _minutes(entry.acknowledged) == [(5.01, 30)]
    assert not entry.should_have
    assert catalogue.summary()["not_wanted_with_frames"] == 1


def test_tokens_are_covered_by_what_was_sent(tmp_path: Path) -> None:
    hour = Hour(tmp_path / "archive", "polymarket", "markets")
    hour.event(0, "k0-a", "open")
    hour.alive()
    hour.wanted(0, "1", "2", cause="start")
    hour.event(0.1, "c0-a", "open")
    for token in ("1", "2"):
        hour.event(0.1, "c0-a", "subscribe", token, channel="market")
    change = {"event_type": "price_change", "market": "0x", "price_changes": [{"asset_id": "1"}, {"asset_id": "2"}]}
    hour.frame(1, "c0-a", orjson.dumps(change))
    hour.frame(2, "c0-a", orjson.dumps({"event_type": "book", "market": "0x", "asset_id": "2"}))
    hour.frame(3, "c0-a", b'{"event_type":"new_market","asset_id":"3"}')
    hour.event(50, "c0-a", "unsubscribe", "2", channel="market")
    hour.seal()
    entries = _entries(_made(tmp_path, feed="polymarket", stream="markets"))
    assert {name: entry.frames for name, entry in entries.items()} == {"1": 1, "2": 2}
    assert _minutes(entries["1"].missing) == [(0, 0.1)]
    assert _minutes(entries["2"].missing) == [(0, 0.1), (50, 60)]


def _write_markets(database_url: str) -> None:
    def at(minutes: float) -> datetime:
        return HOUR + timedelta(minutes=minutes)

    with psycopg.connect(database_url, autocommit=True) as connection:

        def now(minute: float) -> None:
            connection.execute("SELECT set_config('ssmd.now', %s, false)", (at(minute).isoformat(),))

        def market(ticker: str, status: str, opens: float | None, closes: float, event: str = "KXBTC-1") -> None:
            times = [None if minute is None else at(minute) for minute in (opens, closes)]
            connection.execute(
                "INSERT INTO markets (ticker, event_ticker, title, status, open_time, close_time) "
                "VALUES (%s, %s, 'x', %s, %s, %s)",
                (ticker, event, status, *times),
            )

        now(-600)
        connection.execute("INSERT INTO series (ticker, title, category) VALUES ('KXBTC', 'x', 'Crypto')")
        connection.execute("INSERT INTO series (ticker, title, category) VALUES ('KXRAIN', 'x', 'Climate')")
        for event, series in (("KXBTC-1", "KXBTC"), ("KXRAIN-1", "KXRAIN")):
            connection.execute(
                "INSERT INTO events (event_ticker, series_ticker, title) VALUES (%s, %s, 'x')", (event, series)
            )
        market("ALL-HOUR", "active", -60, 600)
        market("OVER", "active", -60, -5)
        market("LATER", "initialized", 90, 600)
        market("OTHER", "active", -60, 600, "KXRAIN-1")
        market("EARLY", "active", -60, 600)
        market("SEEN-ACTIVE", "initialized", None, 600)
        now(25)
        connection.execute("UPDATE markets SET status = 'settled', yes_bid = 0.5 WHERE ticker = 'EARLY'")
        connection.execute("UPDATE markets SET status = 'active' WHERE ticker = 'SEEN-ACTIVE'")
        now(30)
        connection.execute("UPDATE markets SET yes_bid = 0.25 WHERE ticker IN ('EARLY', 'ALL-HOUR')")
        # Open from the tenth minute; the security master learns of it only at the fortieth.
        now(40)
        market("LATE-NEWS", "active", 10, 50)


def test_security_master_says_what_should_have_been_there(hour: Hour, tmp_path: Path, database_url: str) -> None:
    _write_markets(database_url)
    hour.alive()
    hour.wanted(0.02, "ALL-HOUR", "EARLY", cause="hour")
    hour.event(0.02, "c0-a", "coverage", "ALL-HOUR", "EARLY", channel="ticker", state="acknowledged")
    hour.event(26, "k0-a", "unwanted", "EARLY", cause="change", reason="status settled")
    hour.event(26, "c0-a", "unsubscribe", "EARLY", channel="ticker")
    hour.wanted(40.1, "LATE-NEWS")
    hour.asked(40.1, "c0-a", "LATE-NEWS")
    hour.seal()
    entries = _entries(catalogue := _made(tmp_path, database_url))
    opened = {name: _minutes([entry.open.during]) for name, entry in entries.items() if entry.open}
    assert opened == {
        "ALL-HOUR": [(0, 60)],
        "EARLY": [(0, 25)],
        "SEEN-ACTIVE": [(25, 60)],
        "LATE-NEWS": [(10, 50)],
    }
    assert _minutes(entries["LATE-NEWS"].missing) == [(10, 40.11)]
    assert entries["LATE-NEWS"].as_dict()["secmaster_knew_at"] == "2026-11-22T11:40:00.000000Z"
    assert _minutes(entries["SEEN-ACTIVE"].missing) == [(25, 60)]
    assert not entries["EARLY"].missing
    assert catalogue.summary()["open_by_secmaster"] == 4
    assert [entry.instrument for entry in catalogue.missed()] == ["LATE-NEWS", "SEEN-ACTIVE"]


def test_tokens_of_the_security_master(tmp_path: Path, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for minute, status in ((-60, "active"), (30, "closed")):
            now = (HOUR + timedelta(minutes=minute)).isoformat()
            connection.execute("SELECT set_config('ssmd.now', %s, false)", (now,))
            connection.execute(
                "INSERT INTO polymarket_conditions (condition_id, question, category, status) "
                "VALUES ('0xc', '?', 'Crypto', %s) ON CONFLICT (condition_id) DO UPDATE SET status = EXCLUDED.status",
                (status,),
            )
            connection.execute(
                "INSERT INTO polymarket_tokens (token_id, condition_id, outcome, outcome_index) "
                "VALUES ('1', '0xc', 'Yes', 0) ON CONFLICT DO NOTHING"
            )
    hour = Hour(tmp_path / "archive", "polymarket", "markets")
    hour.alive()
    hour.wanted(0.02, "9", cause="hour")
    hour.seal()
    entries = _entries(_made(tmp_path, database_url, "polymarket", "markets"))
    assert _minutes(entries["1"].missing) == [(0, 30)]


def test_command_shows_what_was_missed(hour: Hour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMD_DATA", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    arguments = ["catalogue", "kalshi", "crypto", "2026-11-22-11:00"]
    assert CliRunner().invoke(app, arguments).exit_code == 1  # nothing is sealed
    hour.alive()
    hour.wanted(0.02, "A", cause="hour")
    hour.wanted(30, "B")
    hour.event(0.02, "c0-a", "coverage", "A", channel="ticker", state="acknowledged")
    hour.seal()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "MISSED B  1800 s in minutes 30 to 59" in result.output
    document = orjson.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert document["missed"] == ["B"]
    assert document["instruments"][1]["should_have"]["wanted"] == [
        ["2026-11-22T11:30:00.000000Z", "2026-11-22T12:00:00.000000Z"]
    ]
    assert CliRunner().invoke(app, [*arguments[:3], "noon"]).exit_code == 2


def test_memory_grows_with_instruments_only(hour: Hour, tmp_path: Path) -> None:
    import tracemalloc

    names = [f"KXBTCD-26NOV2212-T{number}" for number in range(10_000)]
    hour.alive()
    for start in range(0, len(names), 500):
        chunk = names[start : start + 500]
        hour.wanted(0.02, *chunk, cause="hour")
        for channel in ("ticker", "trade", "orderbook_delta"):
            hour.event(0.02, "c0-a", "coverage", *chunk, channel=channel, state="acknowledged")
    for number in range(5_000):
        hour.frame(30, "c0-a", b'{"type":"ticker","sid":1,"msg":{"market_ticker":"KXBTCD-26NOV2212-T%d"}}' % number)
    hour.seal()
    tracemalloc.start()
    try:
        catalogue = _made(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(catalogue.entries) == 10_000
    assert not any(catalogue.missed())
    # 66 MB for 30,000 on three channels.
    assert peak < 30_000_000


_PIECES = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8)


def test_a_connection_lost_again_and_again(hour: Hour, tmp_path: Path) -> None:
    hour.alive()
    hour.wanted(0.02, "A", cause="hour")
    for minute in range(60):
        hour.event(minute, f"c0-{minute}", "open")
        hour.asked(minute + 0.1, f"c0-{minute}", "A")
        if minute % 2:
            hour.event(minute + 0.5, f"c0-{minute}", "closed", reason="reset", code=1006)
    hour.seal()
    (entry,) = _made(tmp_path).entries
    # Those that do not say that they ended count until their last word.
    assert len(entry.acknowledged) == 30
    assert round(sum(b - a for a, b in entry.acknowledged) / MINUTE_US, 2) == round(30 * (0.5 - 0.11), 2)


@given(_PIECES, _PIECES)
def test_sets_of_time_are_sets(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    def points(intervals: Sequence[tuple[int, int]]) -> set[int]:
        return {point for start, end in intervals for point in range(start, end)}

    one, other = union(left), union(right)
    assert points(one) == points(left)
    assert all(before.end < after.start for before, after in pairwise(one))
    assert points(intersection(one, other)) == points(left) & points(right)
    assert points(without(one, other)) == points(left) - points(right)
