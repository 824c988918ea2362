"""The sensor of sealed hours, tick by tick."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from little_archive import TICKER, TRADE, LittleArchive, at

from ssmd_assets.defs.archives import sensors
from ssmd_assets.defs.archives.sensors import sealed_hours
from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib import sealed
from ssmd_assets.lib.sealed import Cursor

ELEVEN = at("2026-11-20T11:00")


class Ticks:
    """Ticks of the sensor, each with the cursor that the one before left."""

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.run_keys: set[str] = set()

    def __call__(self) -> dg.SensorResult:
        context = dg.build_sensor_context(cursor=self.cursor, resources={"environment": Environment()})
        result = sealed_hours(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return result

    def hours(self) -> list[str]:
        """Hours that a tick asks for and that Dagster would run, because their run key is new."""
        new = [request for request in self().run_requests or [] if request.run_key not in self.run_keys]
        self.run_keys.update(str(request.run_key) for request in new)
        return [str(request.partition_key) for request in new]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSMD_DATA", str(tmp_path))
    monkeypatch.setenv("SSMD_CLOCK", "2026-11-20T12:05:00Z")
    return tmp_path / "archive"


@pytest.fixture
def tick() -> Ticks:
    return Ticks()


def test_a_sealed_hour_is_reported_and_asked_for_once(root: Path, tick: Ticks) -> None:
    LittleArchive(root).seal_hour(ELEVEN)
    first = tick()
    (request,) = first.run_requests or []
    assert request.partition_key == "2026-11-20-11:00"
    selected = {key.to_user_string() for key in request.asset_selection or []}
    assert "kraken/spot/ticker" in selected
    assert all(key.startswith("kraken/spot/") for key in selected)
    archive, stream = sorted(first.asset_events, key=lambda event: event.asset_key.to_user_string())
    assert archive.asset_key.to_user_string() == "kraken/spot/archive"
    assert archive.partition == "2026-11-20-11:00"
    assert len(archive.tags["dagster/data_version"]) == 16
    assert stream.asset_key.to_user_string() == "kraken/spot/stream"
    assert stream.metadata["last_seq"].value == 12

    second = tick()
    assert not second.run_requests
    assert not second.asset_events
    assert "nothing new is sealed" in str(second.skip_reason.skip_message if second.skip_reason else "")


def test_all_feeds_of_an_hour_share_one_run(root: Path, tick: Ticks) -> None:
    LittleArchive(root).seal_hour(ELEVEN)
    LittleArchive(root, "kraken-futures", "futures").seal_hour(ELEVEN, [b'{"feed":"heartbeat","time":1}'])
    (request,) = tick().run_requests or []
    assert request.tags["ssmd/streams"] == "kraken-futures/futures,kraken/spot"


def test_an_hour_waits_for_its_slots_and_for_slower_feeds(
    root: Path, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSMD_CLOCK", "2026-11-20T12:00:20Z")
    LittleArchive(root).seal_hour(ELEVEN)
    slower = LittleArchive(root, "kraken-futures", "futures")
    for quarter in (0, 15, 30):
        slower.seal(ELEVEN.replace(minute=quarter), [b'{"feed":"heartbeat","time":1}'])
    waiting = tick()
    assert not waiting.run_requests
    assert "waiting for more slots of" in str(waiting.skip_reason.skip_message if waiting.skip_reason else "")

    slower.seal(ELEVEN.replace(minute=45), [b'{"feed":"heartbeat","time":1}'])
    (request,) = tick().run_requests or []
    assert request.tags["ssmd/streams"] == "kraken-futures/futures,kraken/spot"


def test_a_feed_that_stays_behind_holds_nobody_up_for_long(root: Path, tick: Ticks) -> None:
    LittleArchive(root).seal_hour(ELEVEN)
    LittleArchive(root, "kraken-futures", "futures").seal(ELEVEN, [b'{"feed":"heartbeat","time":1}'])
    (request,) = tick().run_requests or []
    assert request.tags["ssmd/streams"] == "kraken/spot"


@pytest.mark.parametrize("clock", ["2026-11-20T12:20:00Z", "2026-11-20T13:00:00Z"])
def test_a_broken_off_hour_is_asked_for(root: Path, tick: Ticks, monkeypatch: pytest.MonkeyPatch, clock: str) -> None:
    archive = LittleArchive(root)
    archive.seal(ELEVEN, [TICKER])
    assert tick.hours() == []
    if clock == "2026-11-20T12:20:00Z":
        archive.seal(at("2026-11-20T12:00"), [TICKER])
    monkeypatch.setenv("SSMD_CLOCK", clock)
    assert tick.hours() == ["2026-11-20-11:00"]


def test_late_and_resealed_files_ask_again(root: Path, tick: Ticks) -> None:
    archive = LittleArchive(root)
    archive.seal_hour(at("2026-11-20T10:00"))
    archive.seal_hour(ELEVEN)
    assert tick.hours() == ["2026-11-20-10:00", "2026-11-20-11:00"]
    archive.seal(ELEVEN, [TRADE], late=1)
    assert tick.hours() == ["2026-11-20-11:00"]
    archive.seal(ELEVEN, [TRADE, TRADE], late=1)
    archive.seal(at("2026-11-20T10:15"), [TRADE])
    assert tick.hours() == ["2026-11-20-10:00", "2026-11-20-11:00"]
    assert tick.hours() == []


def test_an_hour_resealed_while_its_run_is_on_runs_again(root: Path, tick: Ticks) -> None:
    """The edge that declarative automation loses: the request of one tick, the new digest before the next."""
    archive = LittleArchive(root)
    archive.seal_hour(ELEVEN)
    assert tick.hours() == ["2026-11-20-11:00"]
    archive.seal(ELEVEN, [TICKER] * 5)
    archive.seal(ELEVEN, [TICKER] * 6)
    assert tick.hours() == ["2026-11-20-11:00"]
    assert tick.hours() == []


def test_a_tick_is_bounded_by_count(root: Path, tick: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "MAX_HOURS_PER_TICK", 3)
    archive = LittleArchive(root)
    for day in ("2026-11-18", "2026-11-19"):
        for hour in range(4):
            archive.seal_hour(at(f"{day}T{hour:02d}:00"), [TICKER])
    asked = [tick.hours() for _ in range(4)]
    assert [len(hours) for hours in asked] == [3, 3, 2, 0]
    assert asked[0] == ["2026-11-19-00:00", "2026-11-19-01:00", "2026-11-19-02:00"]
    assert len({hour for hours in asked for hour in hours}) == 8


def test_a_tick_is_bounded_by_time_and_still_gets_on(root: Path, tick: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "DEADLINE_S", 0.0)
    archive = LittleArchive(root)
    for day in ("2026-11-17", "2026-11-18", "2026-11-19"):
        archive.seal_hour(at(f"{day}T00:00"), [TICKER])
    asked = [tick.hours() for _ in range(4)]
    assert asked == [["2026-11-19-00:00"], ["2026-11-18-00:00"], ["2026-11-17-00:00"], []]


def test_the_cursor_stays_small_and_an_old_day_is_still_watched(
    root: Path, tick: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "RECENT_DAYS", 1)
    archive = LittleArchive(root)
    for day in ("2026-11-18", "2026-11-19"):
        for hour in range(5):
            archive.seal_hour(at(f"{day}T{hour:02d}:00"), [TICKER])
    assert len(tick.hours()) == 10
    old = Cursor.read(tick.cursor).days["kraken/spot/2026-11-18"]
    assert not old.hours
    assert len(old.digest) == 16

    manifest = root / "kraken/spot/2026-11-18/manifest.json"
    manifest.write_bytes(manifest.read_bytes())  # touched, not changed
    assert tick.hours() == []
    archive.seal(at("2026-11-18T02:00"), [TRADE], late=1)
    asked = tick.hours()
    assert "2026-11-18-02:00" in asked
    assert all(hour.startswith("2026-11-18") for hour in asked)
    assert tick.hours() == []


def test_an_unreadable_manifest_is_named_and_hides_nothing_else(root: Path, tick: Ticks) -> None:
    LittleArchive(root).seal_hour(ELEVEN)
    broken = root / "polymarket/markets/2026-11-20"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    assert tick.hours() == ["2026-11-20-11:00"]
    skipped = tick()
    assert "polymarket/markets/2026-11-20/manifest.json" in str(
        skipped.skip_reason.skip_message if skipped.skip_reason else ""
    )


def test_an_old_archive_does_not_make_a_stream_look_alive(root: Path, tick: Ticks) -> None:
    LittleArchive(root).seal_hour(at("2026-03-01T11:00"))
    assert {event.asset_key.path[-1] for event in tick().asset_events} == {"archive"}


def test_an_hour_that_dagster_does_not_know_yet_waits(root: Path, tick: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMD_CLOCK", "2099-01-01T12:05:00Z")
    LittleArchive(root).seal_hour(datetime(2099, 1, 1, 11, tzinfo=UTC))
    assert tick.hours() == []


def test_a_cursor_of_another_version_is_forgotten() -> None:
    assert Cursor.read('{"version":99,"days":{"x":{}}}') == Cursor()
    assert Cursor.read("not JSON") == Cursor()
    assert Cursor.read(Cursor(live={"a/b": "2026-11-20T12:00:00Z"}).text()).live
