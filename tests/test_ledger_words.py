"""What must cost an hour its word `complete`, and what must not: everyday events and accidents of a capture."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from told_archive import Told, trade
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_core import feeds
from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.coverage import Manifests, day_coverage
from ssmd_core.errors import ConfigError
from ssmd_core.proof.hour import is_due, is_proved, prove_hour
from ssmd_core.proof.keys import new_key, own_key
from ssmd_core.proof.ledger import Ledger, proof_folder, read_ledger
from ssmd_core.proof.rules import INTEGRITY_SCHEMA, UNTRUSTED_SCHEMA, Findings, HourChunk
from ssmd_core.proof.verify import verify_proof
from ssmd_core.proof.words import Words
from ssmd_core.settings import Settings

HOUR = datetime(2026, 11, 20, 11, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)
KRAKEN = feeds.get("kraken")
OWN, C0, C1 = "k0-20261120T100000000-0001", "c0-20261120T100001000-0001", "c1-20261120T100001000-0001"


class Rule:
    """Finds nothing but a book of `C0` without a snapshot, if told to."""

    def __init__(self, without_snapshot: bool) -> None:
        self.without_snapshot = without_snapshot

    def take(self, chunk: HourChunk) -> None: ...

    def finish(self, start_us: int, end_us: int) -> Findings:
        row = {"instrument": "BTC/USD", "check": "book", "epoch": C0, "from": start_us, "to": None}
        row |= {"reason": "no_snapshot", "detail": "never seen", "nats_seq": 1}
        found = pa.Table.from_pylist([row] if self.without_snapshot else [], UNTRUSTED_SCHEMA)
        return Findings(INTEGRITY_SCHEMA.empty_table(), found, {})

    def state(self) -> bytes:
        return b""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"SSMD_DATA": str(tmp_path / "data"), "SSMD_CLOCK": "2026-11-20T15:00:00Z"})


def prove(settings: Settings, hour: datetime = HOUR, *, without_snapshot: bool = False) -> Ledger:
    _, ledger = prove_hour(settings, KRAKEN, "spot", hour, make_rule=lambda *_: Rule(without_snapshot))
    assert ledger is not None
    return ledger


def codes(ledger: Ledger) -> dict[str, int]:
    return {reason.code: reason.count for reason in ledger.reasons if reason.code != "carried_state_missing"}


def busy(settings: Settings, before: Told | None = None) -> Told:
    """An hour with a trade every ten seconds; the one after `before`."""
    archive = Told(settings.archive_root, HOUR)
    if before is not None:
        archive = Told(settings.archive_root, NEXT, next_seq=before.next_seq, ordinals=before.ordinals)
    archive.busy_hour()
    return archive


def acknowledge(archive: Told, minute: float, epoch: str, *instruments: str) -> None:
    for number, event in enumerate(("subscribe", "acknowledged")):
        archive.event(minute + number / 1000, epoch, event, channel="trade", instruments=instruments)  # type: ignore[arg-type]


def quiet_connection(archive: Told, minute: float, name: str, *instruments: str) -> str:
    """A connection that opens within the hour."""
    opened = archive.at(minute)
    epoch = f"{name}-{opened:%Y%m%dT%H%M%S}000-0002"
    archive.event(minute, epoch, "open", url="wss://x", local="127.0.0.1:1")
    acknowledge(archive, minute + 0.01, epoch, *instruments)
    return epoch


# -- what was missed


def test_what_is_wanted_and_asked_for_nowhere_is_told(settings: Settings) -> None:
    archive = busy(settings)
    archive.event(0.001, OWN, "wanted", cause="hour", instruments=["ETH/USD", "SOL/USD"])
    archive.event(10, OWN, "wanted", cause="change", instruments=["XRP/USD", "ADA/USD", "DOT/USD"])
    acknowledge(archive, 11.5, C0, "XRP/USD")
    acknowledge(archive, 20, C0, "ADA/USD")
    archive.event(30, OWN, "unwanted", cause="change", instruments=["SOL/USD", "DOT/USD"])
    archive.seal()
    ledger = prove(settings)
    assert codes(ledger) == {"not_acknowledged": 2}
    assert "ETH/USD first: wanted, and asked for on no connection" in ledger.reasons[0].detail
    assert "ADA/USD was wanted for 600 s" in ledger.reasons[0].detail


def test_an_hour_in_which_nobody_knew_what_is_wanted_is_not_empty(settings: Settings) -> None:
    archive = Told(settings.archive_root, HOUR)
    for tick in range(240):
        archive.event(tick / 4 + 0.2, OWN, "tick", connected=0)
    archive.seal()
    assert codes(prove(settings)) == {"not_connected": 3600}
    # The security master wants nothing: then nothing is missed.
    archive.event(0.001, OWN, "wanted", cause="hour", instruments=[])
    archive.seal()
    assert prove(settings).word == "empty"


def test_an_hour_of_frames_that_nobody_can_read_is_not_empty(settings: Settings) -> None:
    archive = Told(settings.archive_root, HOUR)
    archive.quiet_hour()
    for minute in range(60):
        archive.say(minute + 0.3, C0, b"PONG")
    archive.seal()
    assert prove(settings).word == "empty"
    for minute in range(60):
        archive.say(minute + 0.5, C0, b"<html>maintenance")
    archive.seal()
    assert (prove(settings).word, codes(prove(settings))) == ("degraded", {"rejects": 60})


@pytest.mark.parametrize(("first", "end"), [(20, 25), (0, 5)], ids=["within", "at the start"])
def test_a_connector_that_stood_still_did_not_capture(settings: Settings, first: float, end: float) -> None:
    archive = busy(settings)
    archive.without(first, end)
    if not first:
        archive.event(5, OWN, "wanted", cause="hour", instruments=["BTC/USD"])
        archive.event(5, C0, "coverage", channel="trade", state="acknowledged", instruments=["BTC/USD"])
    archive.seal()
    assert codes(prove(settings)) == {"not_connected": pytest.approx(300, abs=16)}, prove(settings).reasons


def test_data_of_a_connection_that_does_not_say_what_it_asked_for_proves_nothing(settings: Settings) -> None:
    archive = busy(settings)
    archive.event(0.002, C1, "trouble", channel="", instruments=[], reason="no_check", detail="")
    archive.say(1, C1, trade(archive.at(1), 1))
    archive.seal()
    assert codes(prove(settings)) == {"not_acknowledged": 1}


def test_what_was_asked_for_and_never_opened_is_told(settings: Settings) -> None:
    archive = busy(settings)
    acknowledge(archive, 1, C0, "ETH/USD", "SOL/USD", "XRP/USD")
    late = {"channel": "trade", "reason": "no_snapshot", "detail": "without an opening message in 10 s"}
    archive.event(1.2, C0, "trouble", instruments=["ETH/USD", "SOL/USD", "XRP/USD"], **late)
    archive.say(1.5, C0, trade(archive.at(1.5), 9, "ETH/USD"))
    archive.event(30, C0, "unsubscribe", channel="trade", instruments=["XRP/USD"])
    archive.seal()
    ledger = prove(settings)
    assert codes(ledger) == {"not_acknowledged": 1}
    assert "nothing came of SOL/USD" in ledger.reasons[0].detail


def test_an_epoch_that_the_hour_before_has_not_seen_begins_with_its_first_message(settings: Settings) -> None:
    first = busy(settings)
    first.seal()
    prove(settings)
    second = busy(settings, first)
    # Made at 11:59:59: its opening and four more are lost.
    late = "c1-20261120T115959000-0002"
    second.lose(0, late, 5)
    acknowledge(second, 0.2, late, "ETH/USD")
    second.seal()
    assert codes(prove(settings, NEXT)) == {"ordinals_missing": 5}


def test_a_connector_that_is_killed_within_seconds_of_the_hours_end_is_seen(settings: Settings) -> None:
    archive = busy(settings)
    for tick in range(720):
        archive.event(tick / 12 + 0.01, OWN, "tick", connected=1)
    archive.without(59.7, 60)
    archive.seal()
    assert codes(prove(settings)) == {"not_connected": 24}


# -- what must not cost the word


def test_a_connector_that_is_relieved_without_a_pause_costs_nothing(settings: Settings) -> None:
    archive = busy(settings)
    archive.without(30.5, 60)
    own = "k0-20261120T113000000-0002"
    archive.event(30, own, "open", url="wss://x", channels=["trade"])
    archive.event(30.001, own, "wanted", cause="start", instruments=["BTC/USD"])
    epoch = quiet_connection(archive, 30.02, "c0", "BTC/USD")
    for tick in range(120):
        archive.event(30.1 + tick / 4, own, "tick", connected=1)
        archive.say(30.1 + tick / 4, epoch, trade(archive.at(30.099 + tick / 4), tick))
    archive.event(30.51, C0, "closed", code=1000, reason="connector stops")
    archive.event(30.52, OWN, "closed", code=0, reason="connector stops")
    archive.seal()
    ledger = prove(settings)
    assert (ledger.word, codes(ledger)) == ("complete", {"handover": 1}), ledger.reasons


def test_a_new_connection_for_new_instruments_may_take_seconds_to_open(settings: Settings) -> None:
    archive = busy(settings)
    archive.event(30, OWN, "wanted", cause="change", instruments=["ETH/USD"])
    epoch = quiet_connection(archive, 30.05, "c1", "ETH/USD")
    # Its market closes: the connection goes, and nothing is missed.
    archive.event(50, OWN, "unwanted", cause="change", instruments=["ETH/USD"])
    archive.event(50.001, epoch, "unsubscribe", channel="trade", instruments=["ETH/USD"])
    archive.event(50.1, epoch, "closed", code=1000, reason="no instruments left")
    archive.seal()
    ledger = prove(settings)
    assert (ledger.word, codes(ledger)) == ("complete", {})


def test_after_a_kill_fewer_connections_are_due(settings: Settings) -> None:
    first = busy(settings)
    first.without(30, 60)
    first.event(0.002, C1, "coverage", channel="trade", state="acknowledged", instruments=["ETH/USD"])
    first.say(29, C1, trade(first.at(29), 1, "ETH/USD"))
    own = "k0-20261120T113100000-0002"
    first.event(31, own, "open", url="wss://x", channels=["trade"])
    first.event(31.001, own, "wanted", cause="start", instruments=["BTC/USD", "ETH/USD"])
    epoch = quiet_connection(first, 31.01, "c0", "BTC/USD", "ETH/USD")
    for tick in range(116):
        first.event(31.1 + tick / 4, own, "tick", connected=1)
    first.seal()
    ledger = prove(settings)
    # c0 from its last trade, c1 from its own, both to what came after the kill.
    assert codes(ledger) == {"not_connected": 65 + 120}
    second = Told(settings.archive_root, NEXT, next_seq=first.next_seq, ordinals=first.ordinals)
    second.busy_hour(own, epoch)
    second.event(0.003, epoch, "coverage", channel="trade", state="acknowledged", instruments=["ETH/USD"])
    second.seal()
    assert (prove(settings, NEXT).word, codes(prove(settings, NEXT))) == ("complete", {})


def test_a_snapshot_that_came_before_anything_was_proved_costs_no_hour(settings: Settings) -> None:
    first = busy(settings)
    first.seal()
    second = busy(settings, first)
    second.seal()
    for hour in (HOUR, NEXT):
        ledger = prove(settings, hour, without_snapshot=True)
        assert ledger.word == "complete"
        assert [reason.code for reason in ledger.reasons] == ["carried_state_missing"]


def test_a_batch_that_is_sent_again_may_overtake_its_minute(settings: Settings) -> None:
    archive = Told(settings.archive_root, HOUR)
    archive.quiet_hour()
    archive.lose(10.3, C0)
    archive.say(10.1, C0, trade(archive.at(10.1), 1))
    archive.say(10.5, C0, trade(archive.at(10.5), 2))
    minute = {"minute": "2026-11-20T11:10:00Z", "ordinals": [1, 3], "types": {"trade": [3, 600]}}
    archive.event(11.001, C0, "minute", **minute)
    archive.seal()
    assert codes(prove(settings)) == {"ordinals_missing": 1, "live_count_differs": 1}
    # The same message, archived behind the minute that speaks of it.
    archive.said = [line for line in archive.said if line[2] != 1]
    late = (archive.at(11.5), C0, trade(archive.at(10.3), 3))
    archive.said.append(late)
    ordinals = iter([0, 1, 3, 4, 2])
    archive.number = lambda epoch: next(ordinals) if epoch == C0 else None
    archive.seal()
    assert codes(prove(settings)) == {}


# -- proving again, and keys


def test_an_hour_is_due_when_its_slots_are_there_or_will_not_come(settings: Settings) -> None:
    archive = busy(settings)
    archive.seal(3)
    at = {
        clock: Settings.from_environment({"SSMD_DATA": str(settings.data), "SSMD_CLOCK": clock})
        for clock in ("2026-11-20T11:50:00Z", "2026-11-20T12:29:00Z", "2026-11-20T12:30:00Z")
    }
    assert [is_due(each, KRAKEN, "spot", HOUR) for each in at.values()] == [False, False, True]
    archive.seal()
    assert is_due(at["2026-11-20T12:29:00Z"], KRAKEN, "spot", HOUR)


def test_no_word_for_datasets_that_were_built_of_more_than_the_ledger_stands_on(settings: Settings) -> None:
    def word() -> str | None:
        manifests = Manifests(settings.archive_root, settings.dataset_root)
        covered = day_coverage(manifests, KRAKEN, "spot", HOUR.date(), NEXT).hours[11]
        return Words(settings.proof_root).word("kraken", "spot", HOUR.date(), 11, covered, NEXT)

    archive = busy(settings)
    archive.seal()
    prove(settings)
    assert word() == "complete"
    archive.say(59, C0, trade(archive.at(59), 1000))
    archive.seal()
    build_hour(settings.archive_root, settings.dataset_root, KRAKEN, "spot", HOUR)
    assert word() is None
    prove(settings)
    assert word() == "complete"


def test_a_lost_key_is_not_replaced_in_silence(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = busy(settings)
    archive.seal()
    prove(settings)
    old = own_key(settings.data, {})
    path = settings.data / "keys" / "ledger.pem"
    path.chmod(0o644)
    assert any("mode 0644" in note for note in verify_proof(settings.data, {}).notes)
    path.unlink()
    with pytest.raises(ConfigError, match="ssmd ledger key --new"):
        own_key(settings.data, {})
    monkeypatch.setenv("SSMD_DATA", str(settings.data))
    assert CliRunner().invoke(app, ["ledger", "key", "--new"]).exit_code == 0
    assert own_key(settings.data, {}).public == new_key(settings.data).public != old.public
    [problem] = verify_proof(settings.data, {}).problems
    assert "not trusted" in problem and old.fingerprint in problem
    both = {"SSMD_LEDGER_TRUSTED": f"{old.public}, {own_key(settings.data, {}).public}"}
    assert verify_proof(settings.data, both).problems == []


_PROVE = """
import sys
from datetime import datetime, UTC
from ssmd_core import feeds
from ssmd_core.proof.hour import prove_hour
from ssmd_core.settings import Settings
settings = Settings.from_environment({"SSMD_DATA": sys.argv[1], "SSMD_CLOCK": "2026-11-20T15:00:00Z"})
while True:
    for hour in (11, 12):
        prove_hour(settings, feeds.get("kraken"), "spot", datetime(2026, 11, 20, hour, tzinfo=UTC))
        print("proved", flush=True)
    for path in settings.proof_root.glob("kraken/spot/*/*_1[12]00*"):
        path.unlink()
"""


def test_a_prover_that_is_killed_leaves_no_half_hour(settings: Settings) -> None:
    first = busy(settings)
    first.seal()
    second = busy(settings, first)
    second.seal()
    chance = random.Random(7)
    kills: dict[str, Any] = {"proved": 0, "not": 0}
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", _PROVE, str(settings.data)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"proved\n"
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for hour in (HOUR, NEXT):
            ledger = read_ledger(settings.proof_root, "kraken", "spot", hour)
            kills["proved" if ledger else "not"] += 1
            assert ledger is None or ledger.hour == f"{hour:%Y-%m-%dT%H}"
    for hour in (HOUR, NEXT):
        prove_hour(settings, KRAKEN, "spot", hour)
        assert is_proved(settings, KRAKEN, "spot", hour)
    assert verify_proof(settings.data, {}).problems == []
    assert not list(proof_folder(settings.proof_root, "kraken", "spot", HOUR).glob(".*.tmp"))
