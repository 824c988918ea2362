"""What is said of each hour, from the manifests alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from little_archive import BAD_TRADE, TICKER, TRADE, LittleArchive, at

from ssmd_core.archive.manifest import Gap, Manifest, load_manifest, save_manifest
from ssmd_core.archive.paths import day_folder
from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.coverage import (
    ArchiveDay,
    HourCoverage,
    HourState,
    Manifests,
    coverage,
    day_coverage,
    newest_hour,
)
from ssmd_core.datasets.coverage import _hour as hour_of
from ssmd_core.datasets.manifest import ParquetManifest, Stats
from ssmd_core.feeds import get

DAY = date(2026, 11, 20)
NOW = at("2026-11-20T16:14:59")
KRAKEN = get("kraken")


class Rig:
    """An archive, datasets, and what coverage says of them."""

    def __init__(self, folder: Path) -> None:
        self.archive = LittleArchive(folder / "archive")
        self.manifests = Manifests(folder / "archive", folder / "datasets")

    def seal(self, hour: int, slots: int = 4) -> None:
        for slot in range(slots):
            self.archive.seal(self._at(hour) + timedelta(minutes=15 * slot), [TICKER, TRADE, BAD_TRADE])

    def build(self, hour: int) -> None:
        build_hour(self.manifests.archive_root, self.manifests.dataset_root, KRAKEN, "spot", self._at(hour))

    def hours(self, now: datetime = NOW) -> dict[str, HourCoverage]:
        return {hour.hour: hour for hour in day_coverage(self.manifests, KRAKEN, "spot", DAY, now).hours}

    def note(self, *gaps: Gap) -> None:
        folder = day_folder(self.manifests.archive_root, "kraken", "spot", str(DAY))
        manifest = load_manifest(folder) or Manifest("kraken", "spot", str(DAY))
        manifest.gaps = list(gaps)
        save_manifest(folder, manifest)

    @staticmethod
    def _at(hour: int) -> datetime:
        return datetime(2026, 11, 20, hour, tzinfo=UTC)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_every_state_of_an_hour(rig: Rig) -> None:
    rig.seal(10)
    rig.seal(11)
    rig.seal(12)
    rig.seal(13, slots=2)
    rig.seal(14, slots=3)
    for hour in (11, 12, 14):
        rig.build(hour)
    rig.archive.seal(at("2026-11-20T12:15:00"), [TRADE], late=1)
    hours = rig.hours()
    expected = {"0900": "missing", "1000": "archived", "1100": "built", "1200": "stale", "1300": "partial",
                "1400": "partial", "1500": "missing", "1600": "future", "2300": "future"}  # fmt: skip
    assert {hour: str(hours[hour].state) for hour in expected} == expected
    assert [hour for hour, one in hours.items() if one.has_dataset] == ["1100", "1200", "1400"]
    assert [hours[hour].slots for hour in ("1100", "1200", "1300", "1500")] == [4, 4, 2, 0]
    assert (hours["1100"].records, hours["1100"].rejected, hours["1100"].missing_seqs) == (12, 4, 0)
    assert (hours["1000"].records, hours["1000"].rejected, hours["1000"].missing_seqs) == (12, None, None)
    assert hours["1200"].records == 13
    rig.build(12)
    assert rig.hours()["1200"].state is HourState.BUILT
    assert rig.hours(at("2026-11-20T16:15:00"))["1600"].state is HourState.MISSING
    assert {str(one.state) for one in rig.hours(at("2026-11-19T23:59:00")).values()} >= {"future", "built"}


def test_a_slot_sealed_anew_makes_its_hour_stale(rig: Rig) -> None:
    rig.seal(11)
    rig.build(11)
    rig.archive.seal(at("2026-11-20T11:30:00"), [TRADE])
    assert rig.hours()["1100"].state is HourState.STALE


def test_a_pruned_archive_leaves_what_was_built_of_it(rig: Rig) -> None:
    rig.seal(11)
    rig.build(11)
    shutil.rmtree(rig.manifests.archive_root)
    hour = rig.hours()["1100"]
    assert (hour.state, hour.slots, hour.records) == (HourState.BUILT, 4, 12)


def test_losses_stand_in_the_hour_where_they_are_and_dropped_duplicates_are_none(rig: Rig) -> None:
    rig.seal(11)
    rig.archive.next_seq += 5
    rig.seal(12)
    rig.note(
        Gap(3, 1, "duplicate", "2026-11-20T11:00:00Z"),
        Gap(12, 2, "expired", "2026-11-20T12:00:00Z"),
        Gap(20, 3, "deleted", "2026-11-20T12:30:00Z"),
    )
    hours = rig.hours()
    assert [(hours[h].gaps, hours[h].lost, hours[h].dropped) for h in ("1100", "1200")] == [(1, 2, 1), (2, 5, 0)]
    # The hole of two lies between the hours: nobody knows in which of them they would have come.
    assert hours["1100"].known_missing and not hours["1000"].known_missing
    assert not replace(hours["1100"], gaps=0, missing_seqs=1).known_missing
    assert replace(hours["1100"], gaps=0, missing_seqs=2).known_missing
    rig.build(11)
    assert rig.hours()["1100"].state is HourState.BUILT


def test_a_loss_before_anything_was_sealed_is_told(rig: Rig) -> None:
    day_folder(rig.manifests.archive_root, "kraken", "spot", str(DAY)).mkdir(parents=True)
    rig.note(Gap(0, 7, "expired", "2026-11-20T09:01:00Z"))
    assert (rig.hours()["0900"].lost, rig.hours()["0900"].state) == (7, HourState.MISSING)


@pytest.mark.parametrize(("root", "name"), [("archive", "manifest.json"), ("datasets", "parquet-manifest.json")])
def test_a_damaged_manifest_is_said_to_be_so(rig: Rig, root: str, name: str) -> None:
    rig.seal(11)
    rig.build(11)
    assert rig.hours()["1100"].state is HourState.BUILT
    path = rig.manifests.archive_root.parent / root / "kraken" / "spot" / str(DAY) / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"kraken", b"krakex", 1))
    found = day_coverage(rig.manifests, KRAKEN, "spot", DAY, NOW)
    assert {hour.state for hour in found.hours} == {HourState.DAMAGED}
    assert "sha256" in found.error
    path.write_bytes(content)
    assert rig.hours()["1100"].state is HourState.BUILT


@pytest.mark.parametrize("root", ["archive", "datasets"])
def test_a_manifest_of_another_day_is_no_manifest_of_this_one(rig: Rig, root: str) -> None:
    rig.seal(11)
    rig.build(11)
    stream = rig.manifests.archive_root.parent / root / "kraken" / "spot"
    shutil.copytree(stream / str(DAY), stream / "2026-11-19")
    found = day_coverage(rig.manifests, KRAKEN, "spot", date(2026, 11, 19), NOW)
    assert {hour.state for hour in found.hours} == {HourState.DAMAGED} and "is of kraken/spot" in found.error


def test_other_streams_are_found_and_nothing_else_is_taken_for_one(rig: Rig) -> None:
    LittleArchive(rig.manifests.archive_root, "kraken", "extra").seal(at("2026-11-19T11:00:00"), [TICKER])
    for name in ("..x", "A B", "spot.tmp"):
        (rig.manifests.archive_root / "kraken" / name / str(DAY)).mkdir(parents=True)
    assert rig.manifests.streams(KRAKEN) == ("spot", "extra")
    found = [(str(day.date), day.stream) for day in coverage(rig.manifests, KRAKEN, date(2026, 11, 19), DAY, NOW)]
    assert found == [("2026-11-19", "spot"), ("2026-11-20", "spot"), ("2026-11-19", "extra")]


def test_the_newest_hour_is_the_last_built_one_among_the_days(rig: Rig) -> None:
    assert newest_hour(rig.manifests, KRAKEN, DAY, DAY) is None
    rig.seal(9)
    rig.seal(11)
    rig.build(9)
    (rig.manifests.dataset_root / "kraken" / "spot" / "2026-11-21").mkdir()
    (rig.manifests.dataset_root / "kraken" / "spot" / "2026-13-45").mkdir()
    last = date(2027, 1, 1)
    assert newest_hour(rig.manifests, KRAKEN, date(2026, 1, 1), last) == at("2026-11-20T09:00:00")
    assert newest_hour(rig.manifests, KRAKEN, date(2026, 11, 21), last) is None


def test_what_is_kept_of_manifests_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmd_core.datasets.coverage._KEPT", 3)
    for day in range(1, 9):
        rig.archive.seal(datetime(2026, 11, day, 11, tzinfo=UTC), [TICKER])
        assert rig.manifests.archive("kraken", "spot", date(2026, 11, day)) is not None
    assert len(rig.manifests._kept) == 3


@given(sealed=st.sets(st.sampled_from(["1100", "1115", "1130", "1145", "1100-01", "1145-02"])), built=st.booleans(),
       changed=st.booleans())  # fmt: skip
def test_no_hour_is_built_without_four_slots_and_the_same_files(sealed: set[str], built: bool, changed: bool) -> None:
    from ssmd_core.archive.manifest import FileEntry

    names = [f"{name}.jsonl.gz" for name in sealed]
    files = [FileEntry(name, "", "", 1, 1, 1, 1, 1, {}, f"sha of {name}", "") for name in names]
    stats = Stats(sources={file.name: file.sha256 for file in files})
    if changed and files:
        files[0].sha256 = "another"
    day = ParquetManifest("kraken", "spot", str(DAY), hours={"1100": stats} if built else {})
    hour = hour_of(DAY, "1100", ArchiveDay(files), day, [], NOW)
    slots = len({name[:4] for name in names})
    assert hour.slots == slots
    assert (hour.state is HourState.BUILT) == (slots == 4 and built and not changed)
    assert (hour.state is HourState.MISSING) == (slots == 0)
    assert (hour.state is HourState.PARTIAL) == (0 < slots < 4)
