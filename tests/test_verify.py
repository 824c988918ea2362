"""`verify` names the place of one changed byte in any file, and of everything else that does not hold."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ssmd_core import feeds
from ssmd_core.archive.manifest import Gap, Manifest, load_manifest, save_manifest
from ssmd_core.archive.members import iter_lines, member
from ssmd_core.archive.ordinals import OrdinalSet
from ssmd_core.archive.paths import MANIFEST, SLOT_US, Slot
from ssmd_core.archive.tally import classify, is_closed_event
from ssmd_core.archive.verify import ArchiveCheck, _Stream, _verify_epochs, verify_archive
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import format_line
from ssmd_stream.archive.folder import Folder

KRAKEN = feeds.get("kraken")
START_US = 1_795_000_000_000_000 // SLOT_US * SLOT_US
TRADE = b'{"channel":"trade","data":[{"symbol":"BTC/USD","price":%d}]}'
FLIPS = 60  # of each file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two days: three sealed slots, a gap, an epoch with its closing event and one without."""
    root = tmp_path_factory.mktemp("archive")
    folder = Folder(root, KRAKEN, "spot")
    folder.lock()
    folder.recover()
    seq = 0

    def add(payload: bytes, recv_us: int, epoch: str, ordinal: int) -> None:
        nonlocal seq
        seq += 1
        slot = Slot.of(recv_us)
        if folder.starts_new(slot):
            folder.commit()
            folder.seal_before(slot)
        opened = folder.slot_for(recv_us)
        line = format_line(payload, recv_us, seq, epoch, ordinal, wrapped=payload == b"PONG")
        opened.append(line)
        message_type, ticker = classify(KRAKEN, payload)
        opened.tally.add(
            message_type=message_type,
            ticker=ticker,
            nats_seq=seq,
            epoch=epoch,
            ordinal=ordinal,
            line_bytes=len(line),
            closes=is_closed_event(payload),
        )

    for number in range(40):
        if number == 20:
            folder.note_gap(Slot.of(START_US).date, Gap(seq, 1, "duplicate", "2026-11-18T11:00:00Z"))
            seq += 1
        slot_us = START_US + (SLOT_US if number >= 15 else 0) + (96 * SLOT_US if number >= 30 else 0)
        add(b"PONG" if number == 7 else TRADE % number, slot_us + number, "c0-a", number)
        if number % 6 == 0:
            folder.commit()
    add(control_event("closed", "c0"), START_US + 97 * SLOT_US + 50, "c0-a", 40)
    add(TRADE % 0, START_US + 97 * SLOT_US + 51, "c1-a", 0)
    folder.commit()
    folder.seal_before(Slot.of(START_US + 200 * SLOT_US))
    folder.close()
    return root


@pytest.fixture
def archive(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "archive"))


def test_a_sound_archive_passes(archive: Path) -> None:
    check = verify_archive(archive)
    assert check.problems == []
    assert (check.files, check.records, check.lost) == (3, 42, 0)
    assert any("c1-a" in note for note in check.notes)
    assert verify_archive(archive / "kraken" / "spot").files == 3
    assert verify_archive(next(archive.rglob("2026-*"))).problems == []


def test_one_changed_byte_of_any_file_is_named(archive: Path) -> None:
    chance = random.Random(11)
    for path in sorted(path for path in archive.rglob("*") if path.is_file() and not path.name.startswith(".")):
        content = path.read_bytes()
        for position in chance.sample(range(len(content)), min(FLIPS, len(content))):
            changed = bytearray(content)
            changed[position] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            problems = verify_archive(archive).problems
            assert any(str(path) in problem for problem in problems), (path.name, position, problems)
            assert all(str(path) in problem for problem in problems), "nothing else is blamed"
        path.write_bytes(content)
    assert verify_archive(archive).problems == []


def forge(archive: Path, change: Callable[[Manifest], None]) -> Path:
    """Change the first day's manifest and give it the right checksum: somebody meant it."""
    folder = min(path.parent for path in archive.rglob(MANIFEST))
    manifest = load_manifest(folder)
    assert manifest is not None
    change(manifest)
    save_manifest(folder, manifest)
    return folder


def set_file(name: str, value: object) -> Callable[[Manifest], None]:
    return lambda manifest: setattr(manifest.files[0], name, value)


FORGERIES: dict[str, Callable[[Manifest], None]] = {
    "records": set_file("records", 3),
    "raw_bytes": set_file("raw_bytes", 3),
    "bytes": set_file("bytes", 3),
    "first_seq": set_file("first_seq", 2),
    "last_seq": set_file("last_seq", 99),
    "records_by_type": set_file("records_by_type", {"trade": 15}),
    "start": set_file("start", "2026-11-18T00:00:00.000000Z"),
    "end": set_file("end", "2026-11-18T00:00:00.000000Z"),
    "sha256": set_file("sha256", "0" * 64),
    "epochs": lambda manifest: manifest.epochs.clear(),
    "closed": lambda manifest: setattr(manifest.epochs["c0-a"], "closed", True),
    "tickers": lambda manifest: manifest.tickers.append("ETH/USD"),
    "message_types": lambda manifest: manifest.message_types.remove("trade"),
    "tickers_truncated": lambda manifest: setattr(manifest, "tickers_truncated", True),
    "neither archived nor": lambda manifest: manifest.gaps.clear(),
    "archived too": lambda manifest: manifest.gaps.append(Gap(3, 2, "expired", "2026-11-18T11:00:00Z")),
    "not its folder": lambda manifest: setattr(manifest, "stream", "futures"),
    "unknown feed": lambda manifest: setattr(manifest, "feed", "nowhere"),
    "not in the manifest": lambda manifest: manifest.files.clear(),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_manifest_is_named(archive: Path, what: str) -> None:
    folder = forge(archive, FORGERIES[what])
    problems = verify_archive(archive).problems
    assert any(what in problem and str(folder.parent) in problem for problem in problems), problems


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change a file's lines and pack them properly."""
    path.write_bytes(member(b"".join(line + b"\n" for line in change(list(iter_lines(path))))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "records is 14"),
        (lambda lines: [*lines, lines[-1]], "line 16: sequence 15 after 15"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 2: sequence 1 after 2"),
        (lambda lines: [b"{}", *lines], "line 1: line does not end"),
        (lambda lines: [lines[0].replace(b'"_received_at":1', b'"_received_at":2'), *lines[1:]], "outside its slot"),
        (lambda lines: [lines[0], lines[1].replace(b'"_ordinal":1', b'"_ordinal":0'), *lines[2:]], "archived twice"),
    ],
)
def test_a_forged_file_is_named_with_its_line(
    archive: Path, change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    path = min(archive.rglob("*.jsonl.gz"))
    rewrite(path, change)
    problems = verify_archive(archive).problems
    assert any(str(path) in problem and said in problem for problem in problems), problems


def test_missing_files_are_named(archive: Path) -> None:
    path = min(archive.rglob("*.jsonl.gz"))
    content = path.read_bytes()
    path.unlink()
    assert f"{path}: in the manifest but not there" in verify_archive(archive).problems
    path.write_bytes(content)
    (path.parent / MANIFEST).unlink()
    assert f"{path.parent}: no {MANIFEST}" in verify_archive(archive).problems


def test_a_message_archived_on_two_days_is_found(archive: Path) -> None:
    first, *_, last = sorted(archive.rglob("*.jsonl.gz"))
    assert first.parent != last.parent
    rewrite(last, lambda lines: [lines[0].replace(b'"_ordinal":30', b'"_ordinal":3'), *lines[1:]])
    assert any("c0-a:3 is archived twice" in problem for problem in verify_archive(archive).problems)


def test_declared_losses_excuse_no_more_holes_than_they_hold() -> None:
    """One lost sequence must not switch the proof off for every other message of the stream."""
    for declared, found in ((1, True), (2, False)):
        check = ArchiveCheck()
        stream = _Stream()
        stream.epochs["c0-a"] = OrdinalSet([(0, 10), (13, 20)])
        _verify_epochs(Path("spot"), stream, check, lost=declared)
        assert any("lacks ordinals [(11, 12)]" in problem for problem in check.problems) is found
