"""A day of `kraken/spot` with an hour of every kind, for tests of scores; see `make_day`."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from told_archive import Told, trade

from ssmd_core.feeds import get
from ssmd_core.proof.hour import prove_hour
from ssmd_core.settings import Settings

DAY = date(2026, 11, 20)
TEN = datetime(2026, 11, 20, 10, tzinfo=UTC)
#: Six o'clock of the day after, when a day is scored.
SIX = "2026-11-21T06:00:00Z"
_OWN, _C0 = "k0-20261120T095900000-0001", "c0-20261120T095901000-0001"


def settings_of(data: Path, database_url: str = "", clock: str = SIX) -> Settings:
    """Settings of a data folder, at six with the clock standing still."""
    return Settings.from_environment({"SSMD_DATA": str(data), "DATABASE_URL": database_url, "SSMD_CLOCK": f"{clock}@0"})


def make_day(data: Path) -> None:
    """Capture begins at ten: 10 is complete, 11 lacks a minute (degraded), 12 is missing, 13 is empty, and 14 lies
    there archived and not built; nothing comes after it."""
    root = data / "archive"
    ten = Told(root, TEN)
    ten.busy_hour(_OWN, _C0)
    ten.seal()

    eleven = Told(root, TEN + timedelta(hours=1), next_seq=ten.next_seq, ordinals=ten.ordinals)
    eleven.busy_hour(_OWN, _C0)
    eleven.without(20, 21)
    again = "c0-20261120T112100000-0002"
    eleven.event(19.999, _C0, "closed", code=1006, reason="reset")
    eleven.said = [
        (at, again if epoch == _C0 and at > eleven.at(20) else epoch, what) for at, epoch, what in eleven.said
    ]
    eleven.event(21, again, "open", url="wss://x", local="127.0.0.1:1")
    eleven.event(21.001, again, "subscribe", channel="trade", instruments=["BTC/USD"])
    eleven.event(21.01, again, "acknowledged", channel="trade", instruments=["BTC/USD"])
    eleven.seal()

    one = Told(root, TEN + timedelta(hours=3), next_seq=eleven.next_seq)
    one.quiet_hour("k0-20261120T125900000-0003", "c0-20261120T125901000-0003")
    one.seal()

    two = Told(root, TEN + timedelta(hours=4), next_seq=one.next_seq, ordinals=one.ordinals)
    two.quiet_hour("k0-20261120T125900000-0003", "c0-20261120T125901000-0003")
    two.say(30, "c0-20261120T125901000-0003", trade(two.at(30), 1))
    two.seal()
    for hours in (0, 1, 3):
        prove_hour(settings_of(data), get("kraken"), "spot", TEN + timedelta(hours=hours))
