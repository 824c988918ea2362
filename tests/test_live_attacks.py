"""A live connection against storms, hostile frames, clocks that step, and files that others write too."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from live_rig import NOON_NS, Rig, Told

from ssmd_core import feeds
from ssmd_core.alerts import Alert, state
from ssmd_core.alerts.state import Memory
from ssmd_core.clock import NS_PER_S
from ssmd_core.drift.baseline import Baseline
from ssmd_core.drift.findings import Finding
from ssmd_core.proof.rules import Trouble, live_check
from ssmd_stream.capture.alarms import Alarms
from ssmd_stream.capture.silence import WINDOW_S, Rhythm, Silence
from ssmd_stream.capture.watch import DRIFT_QUIET_S, MAX_EVENTS, QUIET_S
from ssmd_stream.capture.watchdogs import Watchdogs
from ssmd_stream.drift.live import Sentinel, load_baseline, write_baseline

HOUR_NS = 3600 * NS_PER_S
BOOK = b'{"channel":"book","type":"update","data":[{"symbol":"S0/USD"}]}'


# -- storms


def test_five_hundred_broken_books_are_asked_for_in_a_few_commands() -> None:
    async def run() -> Rig:
        names = tuple(f"S{n}/USD" for n in range(500))
        rig = Rig(feeds.get("kraken"), names, ("book",))
        while not rig.connection._commands.empty():
            rig.connection.session.sent(rig.connection._commands.get_nowait(), 0.0)
        for name in names:
            rig.rule.found = [Trouble("book", (name,), "checksum", f"{name}: 1 is not 2")]
            rig.connection.on_message(BOOK)
        rig.connection._watch.supervise((), True, asyncio.get_running_loop().time())
        return rig

    rig = asyncio.run(run())
    # 100 instruments a command, one to end and one to begin.
    assert rig.connection._commands.qsize() == 10
    assert rig.stats.troubles == {"checksum": 500}
    assert len(rig.events("trouble")) == MAX_EVENTS
    assert rig.told.keys == {"checksum:kraken/x/c0"}


def test_alerts_end_with_what_they_were_about() -> None:
    told, now_s = Told(), [0.0]
    alarms = Alarms("kraken", "x", told, lambda: now_s[0])
    alarms.raise_("drift", "member a is gone", "", for_s=DRIFT_QUIET_S)
    alarms.raise_("down", "c1", "", "critical")
    alarms.raise_("down", "c2", "", "critical")
    now_s[0] = DRIFT_QUIET_S - 1
    alarms.expire()
    alarms.gone("c1")
    assert told.keys == {"drift:kraken/x/member a is gone", "down:kraken/x/c2"}
    now_s[0] += 1
    alarms.expire()
    assert told.keys == {"down:kraken/x/c2"}


def test_instruments_that_did_not_open_are_told_per_connection() -> None:
    async def run() -> Rig:
        rig = Rig(feeds.get("kraken"), ("A/USD",), ("book",))
        for _ in range(20):  # asked for again five times at most, however often it is late
            rig.connection._watch._late("book", ("A/USD",), 0.0)
        assert sum(rig.connection._watch._renewals._due.values()) == 0.0
        rig.connection.on_close(1000, "bye")
        return rig

    rig = asyncio.run(run())
    # One alert; it is over unless the next connection finds the same.
    assert rig.told.keys == {"undelivered:kraken/x/c0"}
    rig.alarms.expire()
    assert rig.told.keys == {"undelivered:kraken/x/c0"}
    rig.now_s += QUIET_S
    rig.alarms.expire()
    assert rig.told.keys == set()


# -- silence


def _mute(silence: Silence, now_s: float, for_s: float) -> int:
    """How often a venue that answers nothing is given up."""
    given_up, until_s = 0, now_s + for_s
    while now_s < until_s:
        now_s += 0.25
        verdict, _ = silence.look(now_s)
        if verdict == "ask":
            silence.asked(now_s)
        elif verdict == "mute":
            given_up += 1
            silence.given_up(now_s)
            silence.restart(now_s)
    return given_up


def test_two_hours_of_maintenance_cost_a_handful_of_connections() -> None:
    rhythm = Rhythm()
    assert _mute(Silence(rhythm, asks=True, now_s=0.0), 0.0, 7200.0) <= 7
    # A quiet market that speaks for ten minutes is watched as before: found mute within a minute.
    silence = Silence(rhythm, asks=True, now_s=8000.0)
    now_s = 8000.0
    while now_s < 8000.0 + WINDOW_S + 60:
        now_s += 20.0
        silence.data(now_s)
    assert rhythm.rounds == 0
    assert _mute(silence, now_s, 60.0) == 1


def test_constants_of_silence_are_patient_too() -> None:
    rig_feed = feeds.get("kraken")

    async def run() -> Iterator[bool]:
        rig = Rig(rig_feed, ("A/USD",), ("trade",))
        dogs: Watchdogs = rig.connection._dogs
        dogs._group_timeouts_s = {"trade": 300.0}
        dogs._moved_s["trade"] = 0.0
        found = [bool(dogs.starved(61.0)), bool(dogs.silent_channels(301.0))]
        rig.stats.rhythm.rounds = 1
        rig.stats.rhythm.channel_given_up("trade")
        dogs._moved_s["trade"] = 0.0
        return iter([*found, bool(dogs.starved(61.0)), bool(dogs.silent_channels(301.0))])

    assert list(asyncio.run(run())) == [True, True, False, False]


def test_a_silent_connection_asks_for_what_spoke_last() -> None:
    async def run() -> list[str]:
        names = tuple(f"S{n}/USD" for n in range(9))
        session = Rig(feeds.get("kraken"), names, ("ticker",)).connection.session
        session.subscriptions["ticker"].accepted.update(names)
        spread = [name for command in session.ask([]) for name in command.instruments]
        assert len(set(spread)) == 3
        session.subscriptions["ticker"].accepted.update(names)
        return [name for command in session.ask(["S4/USD", "ended", "S7/USD"]) for name in command.instruments]

    assert asyncio.run(run()) == ["S4/USD", "S7/USD"] * 2


# -- ordinals, minutes, clocks


def test_nothing_follows_the_end_of_an_epoch_and_no_clock_step_breaks_its_counts() -> None:
    trade = b'{"type":"trade","sid":1,"seq":%d,"msg":{"market_ticker":"A","ts_ms":%d}}'

    async def run() -> Rig:
        rig = Rig(feeds.get("kalshi"), ("A",), ("trade",))
        for step_s in (0, 61, 3600, 61, -3600, 61, 61):
            rig.clock.at_ns += step_s * NS_PER_S
            rig.connection._watch.minute(rig.clock.at_ns)
            rig.connection.on_message(trade % (1, rig.clock.at_ns // 1_000_000))
        rig.connection.on_close(1000, "bye")
        rig.clock.at_ns += HOUR_NS
        rig.connection._epoch.control("error", reason="late")
        rig.connection._watch.minute(rig.clock.at_ns)
        return rig

    rig = asyncio.run(run())
    ordinals = [stamp.ordinal for _, stamp in rig.published]
    assert ordinals == list(range(len(ordinals)))
    assert rig.events("closed")[0]["messages"] == len(ordinals)
    minutes = rig.events("minute")
    # Each begins where the one before ended, and together they hold all but the last minute event and the end.
    assert [minute["ordinals"][0] for minute in minutes] == [0, *(each["ordinals"][1] + 1 for each in minutes[:-1])]
    assert sum(minute["types"].get("trade", [0])[0] for minute in minutes) == 7
    assert all(minute["age_ms"] is not None for minute in minutes if "trade" in minute["types"])


def test_alerts_follow_a_clock_that_is_set_back(tmp_path: Path) -> None:
    memory = Memory("x", tmp_path / "x.json")
    alert, now_s = Alert("k", "t", "t"), 1e9
    memory.turn_back(now_s)
    for _ in range(2):  # it flaps, so its end is told when it has been away for ten minutes
        if (message := memory.raise_(alert, now_s)) is not None:
            memory.settle(message, True, now_s)
        if (message := memory.clear("k", now_s)) is not None:
            memory.settle(message, True, now_s)
    memory.raise_(alert, now_s)
    memory.turn_back(now_s - 3600)
    told = [message.kind for message in memory.due(now_s - 3600 + state.QUIET_S + 1, last=False)]
    assert told == ["back"]


# -- frames

OBJECT = {
    "kalshi": b'{"type":"trade","sid":1,"seq":1,"msg":{"market_ticker":"A"}}',
    "kraken": b'{"channel":"trade","type":"update","data":[{"symbol":"A/USD","trade_id":1}]}',
    "kraken-futures": b'{"feed":"trade","product_id":"A","seq":1}',
    "polymarket": b'{"event_type":"last_trade_price","asset_id":"1","market":"0x1","price":"0.5"}',
}


@pytest.mark.parametrize("feed_name", list(OBJECT))
def test_hostile_frames_go_the_whole_way(feed_name: str) -> None:
    feed, usual = feeds.get(feed_name), OBJECT[feed_name]
    inner = usual[:-1]
    hostile = [
        b"",
        b"\x00",
        usual + b"\x00",
        usual[:20],
        inner + b',"x":"\xff\xfe"}',
        inner + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        inner + b',"seq":9223372036854775813,"x":1e400,"y":' + b"9" * 5_000 + b"}",
        inner + b"," + inner[1:] + b"}",
        inner + b',"x":"' + b"a" * 2_000_000 + b'"}',
        inner + b',"x":NaN}',
        b"[" + b",".join([usual] * 100_000) + b"]",
        b"[" * 100_000,
    ]
    expected = len(hostile) - 1 + 100_000

    async def run() -> Rig:
        rig = Rig(feed, ("A",), rule=live_check(feed), sentinel=Sentinel(feed, Baseline()))
        for frame in hostile:
            rig.connection.on_message(frame)
        return rig

    rig = asyncio.run(run())
    data = [payload for payload, _ in rig.published if not payload.startswith(b'{"ssmd":')]
    assert len(data) == expected
    assert [stamp.ordinal for _, stamp in rig.published] == list(range(len(rig.published)))
    assert not [event for event in rig.events("error") if "looked at" in event["reason"]]


def test_whatever_breaks_over_a_message_the_connection_lives() -> None:
    class Broken:
        def look(self, kind: str, payload: bytes, recv_ns: int) -> tuple[Finding, ...]:
            raise ZeroDivisionError(kind)

    async def run() -> Rig:
        rig = Rig(feeds.get("kalshi"), ("A",), ("trade",), sentinel=Broken())
        for _ in range(500):
            rig.connection.on_message(OBJECT["kalshi"])
        return rig

    rig = asyncio.run(run())
    assert rig.stats.by_type["trade"].messages == 500
    assert [event["reason"] for event in rig.events("error")] == [
        "a message could not be looked at: ZeroDivisionError: trade"
    ]


def test_polymarket_watches_one_token_of_each_market() -> None:
    def change(*tokens: str, bid: str = "0.4") -> bytes:
        entry = {"price": "0.3", "size": "1", "side": "BUY", "best_bid": bid, "best_ask": "0.6", "hash": "x"}
        entries = [{"asset_id": token, **entry} for token in tokens]
        return orjson.dumps({"event_type": "price_change", "market": "m", "price_changes": entries})

    def book(token: str) -> bytes:
        sides = {"bids": [{"price": "0.4", "size": "5"}], "asks": [{"price": "0.6", "size": "5"}]}
        return orjson.dumps({"event_type": "book", "market": "m", "asset_id": token, "timestamp": "1", **sides})

    feed = feeds.get("polymarket")
    check = live_check(feed)
    for token in ("7", "8"):
        check.check("book", book(token))
    assert check.check("price_change", change("8", "7")) is None
    assert (check.counts.passed, check.counts.unverifiable) == (1, 0)
    trouble = check.check("price_change", change("8", "7", bid="0.5"))
    assert trouble is not None and trouble[:3] == ("market", ("7", "8"), "touch")
    # Where only the other one is subscribed, that one is watched.
    alone = live_check(feed)
    alone.check("book", book("8"))
    trouble = alone.check("price_change", change("7", "8", bid="0.5"))
    assert trouble is not None and trouble.instruments == ("8",)


# -- files


def _writes(path: Path, size: int) -> None:
    content = orjson.dumps({"version": 1, "types": {}, "pad": "x" * size}) + b"\n"
    for _ in range(60):
        write_baseline(path, content)


def test_two_connectors_of_one_stream_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "kraken-spot.json"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writes, args=(path, size)) for size in (100, 200_000)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert orjson.loads(path.read_bytes())["version"] == 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name, path.name + ".lock"]


def test_a_baseline_of_the_future_is_judged_all_the_same(tmp_path: Path) -> None:
    feed, path = feeds.get("kalshi"), tmp_path / "b.json"
    learned = Sentinel(feed, Baseline(), path)
    learned.look("trade", OBJECT["kalshi"], NOON_NS + 10**6 * HOUR_NS)
    learned.save()
    sentinel = Sentinel(feed, load_baseline(path))
    found = []
    for n in range(1_600):
        message = OBJECT["kalshi"] if n < 1_500 else OBJECT["kalshi"].replace(b'"A"', b'"A","b":1')
        found += sentinel.look("trade", message, NOON_NS + n * NS_PER_S)
    assert [(each.kind, each.path) for each in found] == [("new_field", "msg.b")]
