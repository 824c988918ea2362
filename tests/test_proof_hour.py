"""The ledger of an hour follows from its archive alone."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from told_archive import Told, trade

from ssmd_core import feeds
from ssmd_core.archive.members import iter_lines
from ssmd_core.archive.paths import hour_files
from ssmd_core.archive.tally import classify
from ssmd_core.datasets import order
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.lines import parse_line
from ssmd_core.proof.hour import archived_hours, is_proved, prove_hour
from ssmd_core.proof.ledger import Ledger, proof_file, proof_folder, read_ledger, read_state
from ssmd_core.proof.load import load_ledger
from ssmd_core.proof.rules import INTEGRITY_SCHEMA, UNTRUSTED_SCHEMA, Findings, Hole, HourChunk, HourRule
from ssmd_core.settings import Settings

HOUR = datetime(2026, 11, 20, 11, tzinfo=UTC)
KRAKEN = feeds.get("kraken")
OWN, C0 = "k0-20261120T100000000-0001", "c0-20261120T100001000-0001"


class CountingRule:
    """A rule that finds nothing, counts trades and remembers the holes."""

    def __init__(self, state: bytes | None) -> None:
        self.trades = int(state or b"0")
        self.holes: list[Hole] = []
        self.lines = 0

    def take(self, chunk: HourChunk) -> None:
        self.holes += chunk.holes
        for number in chunk.numbers.get("trade", ()):
            assert chunk.line(int(number)).endswith(b"}")
            self.trades += 1
        self.lines += len(chunk.others)

    def finish(self, start_us: int, end_us: int) -> Findings:
        assert end_us - start_us == 3_600_000_000
        return Findings(INTEGRITY_SCHEMA.empty_table(), UNTRUSTED_SCHEMA.empty_table(), {})

    def state(self) -> bytes:
        return str(self.trades).encode()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SSMD_DATA": str(tmp_path / "data"), "SSMD_CLOCK": "2026-11-20T13:00:00Z"})


def prove(
    settings: Settings, hour: datetime = HOUR, make_rule: Callable[[Feed, bytes | None], HourRule] | None = None
) -> Ledger:
    _, ledger = prove_hour(
        settings, KRAKEN, "spot", hour, make_rule=make_rule or (lambda feed, state: CountingRule(state))
    )
    assert ledger is not None
    return ledger


def rows(settings: Settings, hour: datetime = HOUR) -> pa.Table:
    return pq.read_table(proof_file(settings.proof_root, "kraken", "spot", hour, "coverage"))


def codes(ledger: Ledger) -> dict[str, int]:
    return {reason.code: reason.count for reason in ledger.reasons if reason.code != "carried_state_missing"}


def told(settings: Settings) -> Told:
    return Told(settings.archive_root, HOUR)


def test_a_whole_hour_is_complete(settings: Settings) -> None:
    archive = told(settings)
    archive.busy_hour()
    archive.seal()
    ledger = prove(settings)
    assert (ledger.word, codes(ledger)) == ("complete", {})
    assert ledger.totals.market_messages == 360
    assert (ledger.totals.asked, ledger.totals.acknowledged, ledger.totals.delivered) == (1, 1, 1)
    of_connection = rows(settings).filter(pa.compute.equal(rows(settings)["connection"], "c0")).to_pylist()
    assert len(of_connection) == 60
    assert sum(row["open_s"] for row in of_connection) == 3600
    assert {row["acknowledged"] for row in of_connection} == {1}
    assert {row["delivered"] for row in of_connection} == {1}
    assert sum(row["messages"] for row in of_connection) == 361
    payloads = sum(len(trade(archive.at(number / 6 + 0.099), number)) for number in range(360))
    by_type = [of for row in of_connection for of in row["by_type"] if of["type"] == "trade"]
    assert (sum(of["messages"] for of in by_type), sum(of["bytes"] for of in by_type)) == (360, payloads)
    # The venue's time is 0.06 s before the receive time.
    assert {row["offset_ms"] for row in of_connection} == {60.0}
    assert all(abs(row["age_p50_ms"] - 60) <= 3 for row in of_connection)


def test_a_quiet_hour_is_empty_only_if_coverage_proves_it(settings: Settings) -> None:
    archive = told(settings)
    archive.quiet_hour()
    archive.seal()
    assert prove(settings).word == "empty"


def test_a_mute_hour_is_not_empty(settings: Settings) -> None:
    archive = told(settings)
    archive.quiet_hour()
    archive.event(30, C0, "trouble", channel="trade", instruments=["BTC/USD"], reason="mute", detail="nothing in 600 s")
    archive.seal()
    ledger = prove(settings)
    assert ledger.word == "degraded"
    assert codes(ledger) == {"not_connected": 1}
    assert "mute: nothing in 600 s" in ledger.reasons[0].detail


def test_a_reconnect_costs_its_seconds(settings: Settings) -> None:
    archive = told(settings)
    archive.busy_hour()
    archive.without(20, 21)
    for tick in range(4):
        archive.event(20.2 + tick / 4, OWN, "tick", connected=0)
    again = "c0-20261120T112100000-0002"
    archive.event(19.999, C0, "closed", code=1006, reason="reset")
    archive.event(21, again, "open", url="wss://x", local="127.0.0.1:1")
    archive.event(21.001, again, "subscribe", channel="trade", instruments=["BTC/USD"])
    archive.event(21.01, again, "acknowledged", channel="trade", instruments=["BTC/USD"])
    archive.say(59.9, again, trade(archive.at(59.9), 1))
    archive.seal()
    ledger = prove(settings)
    assert ledger.word == "degraded"
    assert ledger.totals.not_connected_s == pytest.approx(60.06, abs=0.01)
    assert ledger.totals.reconnects == 1
    reason = next(reason for reason in ledger.reasons if reason.code == "not_connected")
    assert (reason.from_, reason.to) == ("2026-11-20T11:19:59.940000Z", "2026-11-20T11:21:00.000000Z")


def test_a_late_start_costs_what_came_before(settings: Settings) -> None:
    archive = told(settings)
    own, first = "k0-20261120T110700000-0002", "c0-20261120T110701000-0002"
    archive.event(7, own, "open", url="wss://x", channels=["trade"])
    archive.event(7.001, own, "wanted", cause="start", instruments=["BTC/USD"])
    archive.event(7.02, first, "open", url="wss://x", local="127.0.0.1:1")
    archive.event(7.03, first, "subscribe", channel="trade", instruments=["BTC/USD"])
    archive.event(7.04, first, "acknowledged", channel="trade", instruments=["BTC/USD"])
    for tick in range(7, 60):
        archive.event(tick + 0.9, own, "tick", connected=1)
        archive.say(tick + 0.95, first, trade(archive.at(tick + 0.95), tick))
    archive.seal()
    ledger = prove(settings)
    assert ledger.totals.not_connected_s == pytest.approx(421.2)
    assert set(codes(ledger)) == {"not_connected"}
    assert ledger.totals.reconnects == 0


def test_a_connection_of_instruments_that_came_later_was_not_due_before(settings: Settings) -> None:
    archive = told(settings)
    archive.busy_hour()
    archive.event(30, OWN, "wanted", cause="change", instruments=["ETH/USD"])
    later = "c1-20261120T113000500-0001"
    archive.event(30, later, "open", url="wss://x", local="127.0.0.1:2")
    archive.event(30.001, later, "subscribe", channel="trade", instruments=["ETH/USD"])
    archive.event(30.01, later, "acknowledged", channel="trade", instruments=["ETH/USD"])
    archive.seal()
    ledger = prove(settings)
    assert (ledger.word, codes(ledger)) == ("complete", {})
    assert ledger.totals.asked == 2


def test_what_is_never_acknowledged_or_refused_is_told(settings: Settings) -> None:
    archive = told(settings)
    archive.busy_hour()
    archive.event(10, C0, "subscribe", channel="trade", instruments=["ETH/USD", "SOL/USD", "XRP/USD"])
    # An answer within 30 s is in time.
    archive.event(10.4, C0, "acknowledged", channel="trade", instruments=["XRP/USD"])
    archive.event(10.45, C0, "refused", channel="trade", instruments=["SOL/USD"], reason="Currency pair not supported")
    archive.seal()
    ledger = prove(settings)
    assert codes(ledger) == {"not_acknowledged": 1, "refused": 1}
    assert (ledger.totals.asked, ledger.totals.acknowledged, ledger.totals.refused) == (4, 2, 1)
    assert any("Currency pair not supported" in reason.detail for reason in ledger.reasons)


def test_a_lost_message_is_a_hole_that_the_rule_is_told_of(settings: Settings) -> None:
    rules: list[CountingRule] = []

    def make(_: Feed, state: bytes | None) -> HourRule:
        rules.append(CountingRule(state))
        return rules[-1]

    archive = told(settings)
    archive.quiet_hour()
    for number in range(60):
        if number == 25:
            archive.lose(25.4, C0, 3)
        archive.say(number + 0.5, C0, trade(archive.at(number + 0.5), number))
    archive.seal()
    ledger = prove(settings, make_rule=make)
    assert codes(ledger) == {"ordinals_missing": 3}
    assert ledger.epochs[C0].missing_ordinals == 3
    [hole] = rules[-1].holes
    assert (hole.epoch, hole.after_ordinal, hole.missing) == (C0, 25, 3)
    assert hole.before_us == archive.at(24.5).timestamp() * 1e6
    assert hole.after_us == archive.at(25.5).timestamp() * 1e6
    assert [row["missing_ordinals"] for row in rows(settings).to_pylist() if row["missing_ordinals"]] == [3]
    assert any("11:25:00Z/" + C0 in evidence for evidence in ledger.reasons[-1].evidence + ledger.reasons[0].evidence)


def test_the_live_count_is_compared(settings: Settings) -> None:
    archive = told(settings)
    archive.quiet_hour()
    for minute, first, lied in ((10, 1, 0), (11, 4, 2)):
        archive.say(minute + 0.1, C0, trade(archive.at(minute + 0.1), 1))
        archive.say(minute + 0.2, C0, trade(archive.at(minute + 0.2), 2))
        archive.event(
            minute + 1.001,
            C0,
            "minute",
            minute=f"2026-11-20T11:{minute}:00Z",
            ordinals=[first, first + 1],
            types={"trade": [2 + lied, 400]},
        )
    archive.seal()
    ledger = prove(settings)
    assert codes(ledger) == {"live_count_differs": 2}
    assert "4 trade counted, 2 archived" in ledger.reasons[0].detail
    live = {row["minute"].minute: row["live_messages"] for row in rows(settings).to_pylist() if row["live_messages"]}
    assert live == {10: 2, 11: 4}


def test_clocks_three_minutes_apart(settings: Settings) -> None:
    archive = told(settings)
    archive.quiet_hour()
    for number in range(360):
        at = archive.at(number / 6 + 0.1)
        archive.say(number / 6 + 0.1, C0, trade(at - timedelta(minutes=3 if number < 30 else 0), number))
    archive.seal()
    ledger = prove(settings)
    assert codes(ledger) == {"clock_offset": 1}
    assert "180.0 s behind" in ledger.reasons[0].detail
    assert "in 5 minutes" in ledger.reasons[0].detail


def test_what_is_old_by_nature_or_once_in_the_future_is_no_wrong_clock(settings: Settings) -> None:
    archive = told(settings)
    archive.quiet_hour()
    for number in range(120):
        # A quiet market's last trades, hours old, each of another age.
        at = archive.at(number / 2) - timedelta(seconds=3600 + 97 * number)
        archive.say(number / 2 + 0.1, C0, trade(at, number))
    for number in range(3):
        archive.say(50 + number / 100, C0, trade(archive.at(55), 1000 + number))
    archive.seal()
    ledger = prove(settings)
    assert (ledger.word, codes(ledger)) == ("complete", {})


def test_two_connectors_at_once_are_told(settings: Settings) -> None:
    archive = told(settings)
    archive.busy_hour()
    other = "k0-20261120T112000000-0009"
    archive.event(20, other, "open", url="wss://x", channels=["trade"])
    for tick in range(20, 40):
        archive.event(tick + 0.7, other, "tick", connected=0)
    archive.event(40, other, "closed", reason="connector stops", code=0, messages=22)
    archive.seal()
    assert "two_connectors" in codes(prove(settings))


def test_without_control_events_nothing_is_proved(settings: Settings) -> None:
    archive = told(settings)
    for number in range(10):
        archive.say(number, C0, trade(archive.at(number), number))
    archive.seal(3)
    ledger = prove(settings)
    assert (ledger.word, codes(ledger)) == ("degraded", {"slots_missing": 1, "no_control_events": 1})


def test_rejects_and_what_cannot_be_read_stop_nothing(settings: Settings) -> None:
    archive = told(settings)
    archive.busy_hour()
    archive.say(1, C0, b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","qty":0.01}]}')
    archive.say(2, C0, b"PONG\xff")
    archive.say(3, C0, b'{"ssmd":{"event":"acknowledged","connection":"c0","channel":["x"],"instruments":7}}')
    archive.say(3, C0, b'{"ssmd":[]}')
    archive.say(4, C0, b'{"ssmd":{"event":"minute","connection":"c0","ordinals":"x"}}')
    huge = b'{"ssmd":{"event":"minute","minute":"2026-11-20T11:03:00Z","ordinals":[0,1],"types":{"trade":[%d]}}}'
    archive.say(4, C0, huge % 10**18)
    archive.say(5, C0, b'{"channel":"brand_new","data":[1]}')
    archive.seal()
    ledger = prove(settings)
    assert codes(ledger)["rejects"] == 2
    assert any("1 without a type" in reason.detail for reason in ledger.reasons)
    assert codes(ledger)["live_count_differs"] == 2
    assert ledger.totals.unparsed == 1
    assert ledger.totals.messages == 600 + 2 + 7
    assert sum(row["messages"] for row in rows(settings).to_pylist()) == 600 + 2 + 7


def test_the_next_hour_begins_with_what_this_one_leaves(settings: Settings) -> None:
    archive = told(settings)
    archive.busy_hour()
    archive.seal()
    first = prove(settings)
    assert [reason.code for reason in first.reasons] == ["carried_state_missing"]
    following = Told(
        settings.archive_root, HOUR + timedelta(hours=1), next_seq=archive.next_seq, ordinals=archive.ordinals
    )
    following.lose(0, C0)
    following.busy_hour()
    following.seal()
    second = prove(settings, HOUR + timedelta(hours=1))
    assert codes(second) == {"ordinals_missing": 1}
    assert second.carried is not None and second.carried.hour == "2026-11-20T11"
    assert read_state(settings.proof_root, "kraken", "spot", HOUR + timedelta(hours=1)) == b"720"
    assert archived_hours(settings.archive_root, "kraken", "spot") == [HOUR, HOUR + timedelta(hours=1)]
    assert is_proved(settings, KRAKEN, "spot", HOUR + timedelta(hours=1))
    # The hour before becomes another one: what stands on it is no longer proved.
    archive.say(59, C0, trade(archive.at(59), 1000))
    archive.seal()
    prove(settings)
    assert is_proved(settings, KRAKEN, "spot", HOUR)
    assert not is_proved(settings, KRAKEN, "spot", HOUR + timedelta(hours=1))


def test_everything_is_rebuilt_from_the_archive_alone(settings: Settings, database_url: str) -> None:
    asyncio.run(_rebuild(settings, database_url))


async def _rebuild(settings: Settings, database_url: str) -> None:
    archive = told(settings)
    archive.busy_hour()
    archive.lose(59.8, C0)
    archive.say(59.85, C0, b'{"channel":"a\\u0000b\\\\u0000","data":[1]}')
    archive.say(59.9, C0, trade(archive.at(59.9), 1))
    archive.seal()
    now = HOUR + timedelta(hours=2)
    folder = proof_folder(settings.proof_root, "kraken", "spot", HOUR)

    async def proved_and_loaded() -> tuple[dict[str, bytes], list[tuple[object, ...]]]:
        prove(settings)
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            for _ in range(2):
                assert await load_ledger(connection, settings.proof_root, "kraken", "spot", HOUR, now=now)
            cursor = await connection.execute("SELECT * FROM ledger_minutes ORDER BY minute, epoch")
            minutes = await cursor.fetchall()
            cursor = await connection.execute("SELECT feed, stream, hour, word, reasons, totals FROM ledger_hours")
            return {path.name: path.read_bytes() for path in folder.iterdir()}, [*minutes, *await cursor.fetchall()]

    before = await proved_and_loaded()
    shutil.rmtree(settings.proof_root)
    shutil.rmtree(settings.dataset_root)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        assert not await load_ledger(connection, settings.proof_root, "kraken", "spot", HOUR, now=now)
        assert await (await connection.execute("SELECT FROM ledger_minutes")).fetchall() == []
    assert await proved_and_loaded() == before
    assert len(before[1]) == 121
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        late = now + timedelta(days=40)
        assert await load_ledger(connection, settings.proof_root, "kraken", "spot", HOUR, now=late)
        assert await (await connection.execute("SELECT FROM ledger_minutes")).fetchall() == []
        assert len(await (await connection.execute("SELECT FROM ledger_hours")).fetchall()) == 1


def test_an_hour_without_an_archive_needs_no_ledger(settings: Settings) -> None:
    report, ledger = prove_hour(settings, KRAKEN, "spot", HOUR, make_rule=lambda feed, state: CountingRule(state))
    assert ledger is None
    assert not report.sources
    assert read_ledger(settings.proof_root, "kraken", "spot", HOUR) is None
    assert not settings.proof_root.exists()


@pytest.mark.parametrize("feed", feeds.FEEDS.values(), ids=list(feeds.FEEDS))
def test_the_registry_names_columns_that_there_are(feed: Feed) -> None:
    times, instruments = 0, 0
    for kind in feed.message_types.values():
        columns = {column.name: column.type for column in kind.schema.columns} if kind.schema else {}
        assert not kind.venue_time or columns[kind.venue_time] in ("timestamp", "int64")
        assert not kind.instrument or columns[kind.instrument] == "string"
        times += bool(kind.venue_time)
        instruments += bool(kind.instrument)
    assert times >= 2 and instruments >= 2


@pytest.mark.parametrize("seed", range(3))
def test_counts_do_not_depend_on_how_the_hour_is_cut(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    archive = told(settings)
    archive.quiet_hour()
    epochs = [C0, "c1-20261120T100001000-0001", "c2-20261120T111000000-0001"]
    for number in range(1500):
        minute, epoch = chance.uniform(10, 59.9), chance.choice(epochs)
        match chance.randrange(8):
            case 0:
                archive.lose(minute, epoch, chance.randint(1, 4))
            case 1:
                archive.say(minute, epoch, b'{"channel":"heartbeat"}')
            case 2:
                archive.say(minute, epoch, b"PONG " + bytes(chance.choices(range(256), k=9)))
            case 3:
                archive.say(minute, epoch, b'{"channel":"trade","type":"update","data":[]}')
            case 4:
                note = b'"_note":"\\u005f",' if chance.random() < 0.2 else b""
                archive.say(minute, epoch, b"{" + note + trade(archive.at(minute), number)[1:])
            case _:
                archive.say(minute, epoch, trade(archive.at(minute), number, f"T{chance.randrange(40)}/USD"))
    archive.seal()
    ledger = prove(settings)
    whole = rows(settings).to_pylist()
    monkeypatch.setattr(order, "CHUNK_BYTES", 10_000)
    assert prove(settings) == ledger
    assert rows(settings).to_pylist() == whole

    expected: dict[tuple[str, int], Counter[tuple[str, str]]] = {}
    for path in hour_files(settings.archive_root / "kraken/spot/2026-11-20", HOUR):
        for raw in iter_lines(path):
            line = parse_line(raw)
            kind, _ = classify(KRAKEN, line.payload)
            at = (line.recv_us // 60_000_000) % 60
            sums = expected.setdefault((line.epoch, at), Counter())
            sums[kind, "messages"] += 1
            sums[kind, "bytes"] += len(line.payload)
    found = {
        (row["epoch"], row["minute"].minute): Counter(
            {(of["type"], what): of[what] for of in row["by_type"] for what in ("messages", "bytes")}
        )
        for row in whole
        if row["messages"]
    }
    assert found == expected
    lost = sum(line[2] for line in archive.said if isinstance(line[2], int) and line[1] != epochs[1])
    # What an epoch lost before its first and behind its last message cannot be known of one that is older.
    assert ledger.totals.missing_ordinals > 0
    assert abs(sum(ledger.epochs[name].missing_ordinals for name in (C0, epochs[2])) - lost) <= 8
