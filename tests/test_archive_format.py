"""Members, ordinals, manifests, and a stream's folder on disk: crashes, damage and full disks, without NATS."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd_core import feeds
from ssmd_core.archive import members
from ssmd_core.archive.manifest import Gap, Manifest, load_manifest, save_manifest
from ssmd_core.archive.members import iter_blocks, iter_chunks, iter_lines, member, salvage_lines
from ssmd_core.archive.ordinals import OrdinalSet
from ssmd_core.archive.paths import MANIFEST, SLOT_US, Slot, hour_files
from ssmd_core.archive.tally import classify, is_closed_event
from ssmd_core.archive.verify import verify_archive
from ssmd_core.errors import ArchiveError, TornFileError
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import format_line
from ssmd_stream.archive.folder import Folder, merge_gaps

KRAKEN = feeds.get("kraken")
START_US = int(datetime(2026, 11, 20, 23, 45, tzinfo=UTC).timestamp()) * 1_000_000
TRADE = b'{"channel":"trade","data":[{"symbol":"BTC/USD","price":%d}]}'


# Members.


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    return tmp_path / "1200.jsonl.gz"


@given(blocks=st.lists(st.binary(max_size=3000), max_size=5))
@settings(max_examples=50)
def test_members_give_their_content_back(tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("members") / "file.gz"
    path.write_bytes(b"".join(map(member, blocks)))
    assert b"".join(iter_blocks(path)) == b"".join(blocks)
    assert [member(block) for block in blocks] == [member(block) for block in blocks]


def test_large_members_and_long_lines_stream(torn: Path) -> None:
    chance = random.Random(3)
    lines = [chance.randbytes(size // 2).hex().encode() for size in (10, 5_000_000, 0, 300_000, 16 * 1024 * 1024, 1)]
    content = b"\n".join(lines) + b"\n"
    torn.write_bytes(member(content) + member(b"") + member(content))
    assert list(iter_lines(torn)) == lines * 2
    assert b"".join(iter_chunks(torn, 1_000_000)) == content * 2


def test_a_changed_byte_is_noticed_or_harmless(torn: Path) -> None:
    """The bits after the end of a deflate stream mean nothing; only the file's sha256 sees them change."""
    chance = random.Random(4)
    content = b"".join(b'{"n":%d,"x":"%s"}\n' % (n, chance.randbytes(12).hex().encode()) for n in range(60))
    whole = member(content[:900]) + member(content[900:])
    noticed = 0
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << chance.randrange(8)
        torn.write_bytes(changed)
        try:
            assert b"\n".join(iter_lines(torn)) + b"\n" == content
        except TornFileError:
            noticed += 1
    assert noticed >= len(whole) - 2


def test_trailing_junk_and_cuts_are_noticed(torn: Path) -> None:
    whole = member(b"one\ntwo\n")
    for junk in (b"\x00" * 100, whole[:-1], whole[:5], b"junk", b"\x1f\x8b"):
        torn.write_bytes(whole + junk)
        with pytest.raises(TornFileError) as caught:
            list(iter_lines(torn))
        assert caught.value.offset == len(whole)
    torn.write_bytes(member(b"one\ntw"))
    with pytest.raises(TornFileError, match="not whole"):
        list(iter_lines(torn))


def test_a_line_without_end_is_refused_before_memory_is(torn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_LINE_BYTES", 3_000_000)
    torn.write_bytes(member(b"x" * 8_000_000))
    with pytest.raises(TornFileError, match="longer"):
        list(iter_lines(torn))


def test_salvage_keeps_every_proven_line_before_the_damage(torn: Path) -> None:
    chance = random.Random(5)
    lines = [b"%d %s" % (number, chance.randbytes(9).hex().encode()) for number in range(40)]
    blocks = [lines[:10], lines[10:11], lines[11:30], lines[30:]]
    packed = [member(b"\n".join(block) + b"\n") for block in blocks]
    ends = [sum(map(len, packed[: index + 1])) for index in range(len(packed))]
    whole = b"".join(packed)
    for position in range(len(whole)):
        intact = sum(end <= position for end in ends)
        expected = [line for block in blocks[:intact] for line in block]
        flipped = bytearray(whole)
        flipped[position] ^= 1 << chance.randrange(8)
        for damaged, kind in ((bytes(flipped), "flipped"), (whole[:position], "cut")):
            torn.write_bytes(damaged)
            salvage = salvage_lines(torn)
            kept = list(salvage)
            if kind == "flipped" and kept == lines:
                continue  # a bit after the end of a deflate stream
            assert kept == expected, (kind, position)
            assert salvage.whole_bytes == (ends[intact - 1] if intact else 0)
            assert bool(salvage.damage) == (kind == "flipped" or position not in (0, *ends))
            if kind == "cut" and salvage.damage:
                assert salvage.cut


# Ordinals.


@given(
    numbers=st.lists(st.integers(0, 60), max_size=80),
    ranges=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 6)).map(lambda pair: (pair[0], sum(pair))), max_size=4
    ),
)
def test_an_ordinal_set_is_a_set(numbers: list[int], ranges: list[tuple[int, int]]) -> None:
    plain = {number for first, last in ranges for number in range(first, last + 1)}
    packed = OrdinalSet(ranges)
    for number in numbers:
        assert packed.add(number) == (number not in plain)
        plain.add(number)
    assert {number for first, last in packed.ranges for number in range(first, last + 1)} == plain
    assert all(after[0] > before[1] + 1 for before, after in zip(packed.ranges, packed.ranges[1:], strict=False))
    for number in range(70):
        assert (number in packed) == (number in plain)
        assert packed.overlaps(number, number + 2) == bool(plain & {number, number + 1, number + 2})
        end = number
        while end in plain:
            end += 1
        assert packed.run_end(number) == end - 1


# Manifests.


def test_a_manifest_notices_every_changed_byte(tmp_path: Path) -> None:
    manifest = Manifest("kraken", "spot", "2026-11-20", gaps=[Gap(5, 2, "expired", "2026-11-20T00:00:00Z")])
    save_manifest(tmp_path, manifest)
    content = (tmp_path / MANIFEST).read_bytes()
    loaded = load_manifest(tmp_path)
    assert loaded is not None
    assert loaded.gaps == manifest.gaps
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        (tmp_path / MANIFEST).write_bytes(changed)
        with pytest.raises(ArchiveError, match=MANIFEST):
            load_manifest(tmp_path)
    for other in (content[:-1], content + b"\n", b"", b"{}", content.replace(b'"gaps"', b'"gapz"')):
        (tmp_path / MANIFEST).write_bytes(other)
        with pytest.raises(ArchiveError, match=MANIFEST):
            load_manifest(tmp_path)


def test_gaps_are_told_once() -> None:
    def gap(after_seq: int, missing: int, reason: str = "expired", at: str = "2026-11-20T00:00:00Z") -> Gap:
        return Gap(after_seq, missing, reason, at)

    assert merge_gaps([gap(4, 1), gap(5, 1), gap(4, 1), gap(9, 2)]) == [gap(4, 2), gap(9, 2)]
    assert merge_gaps([gap(4, 3), gap(5, 1, "deleted")]) == [gap(4, 3)]
    assert merge_gaps([gap(4, 3), gap(5, 4, "deleted")]) == [gap(4, 3), gap(7, 2, "deleted")]
    assert merge_gaps([gap(4, 1), gap(5, 1, "duplicate")]) == [gap(4, 1), gap(5, 1, "duplicate")]


# A folder, written as the archiver does.


class Writer:
    """Puts messages into a folder as the archiver does, committing after each call of `write`."""

    def __init__(self, root: Path) -> None:
        self.folder = Folder(root, KRAKEN, "spot")
        self.folder.lock()
        self.folder.recover()

    def line(self, seq: int, recv_us: int, payload: bytes, epoch: str, ordinal: int) -> None:
        slot = Slot.of(recv_us)
        assert not self.folder.seen_before(epoch, ordinal)
        if self.folder.starts_new(slot):
            self.folder.commit()
            self.folder.seal_before(slot)
        opened = self.folder.slot_for(recv_us)
        line = format_line(payload, recv_us, seq, epoch, ordinal, wrapped=False)
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
        self.folder.note_archived(seq)

    def write(self, first: int, last: int, recv_us: int = START_US) -> None:
        for seq in range(first, last + 1):
            self.line(seq, recv_us + seq, TRADE % seq, "c0-a", seq - 1)
        self.folder.commit()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Callable[[], Writer]]:
    """Makes writers on one folder; each closes the one before, as if its process had ended."""
    made: list[Writer] = []

    def make() -> Writer:
        if made:
            made[-1].folder.close()
        made.append(Writer(tmp_path / "archive"))
        return made[-1]

    yield make
    made[-1].folder.close()


def all_lines(root: Path) -> list[bytes]:
    return [line for path in sorted(root.rglob("*.jsonl.gz")) for line in iter_lines(path)]


def seal(writer: Writer) -> None:
    writer.folder.commit()
    writer.folder.seal_before(Slot.of(START_US + 10 * SLOT_US))


def test_a_part_cut_anywhere_in_its_last_member_goes_on_and_seals_the_same_lines(
    tmp_path: Path, writer: Callable[[], Writer]
) -> None:
    first = writer()
    first.write(1, 5)
    part = next((tmp_path / "archive").rglob("*.part"))
    committed = part.stat().st_size
    first.write(6, 9)
    content = part.read_bytes()
    digests = set()
    for cut in range(committed, len(content) + 1):
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(content[:cut])
        again = writer()
        assert again.folder.last_seq == (9 if cut == len(content) else 5)
        again.write(again.folder.last_seq + 1, 12)
        seal(again)
        assert verify_archive(tmp_path / "archive").problems == []
        lines = all_lines(tmp_path / "archive")
        assert len(lines) == 12
        digests.add(b"\n".join(lines))
        assert not list(part.parent.glob("*.damaged*")), "a crash leaves nothing behind"
        shutil.rmtree(part.parent)
    assert len(digests) == 1


def test_a_damaged_part_is_kept_beside_and_its_messages_come_again(
    tmp_path: Path, writer: Callable[[], Writer]
) -> None:
    first = writer()
    first.write(1, 5)
    part = next((tmp_path / "archive").rglob("*.part"))
    committed = part.stat().st_size
    first.write(6, 9)
    content = bytearray(part.read_bytes())
    content[committed + 30] ^= 4
    for damaged in (bytes(content), content[:committed] + b"\x00" * 40, content[:committed] + b"junk"):
        part.write_bytes(damaged)
        again = writer()
        assert again.folder.last_seq == 5
    assert len(list(part.parent.glob("*.damaged*"))) == 3
    again.write(6, 9)
    seal(again)
    check = verify_archive(tmp_path / "archive")
    assert check.problems == []
    assert any("damaged" in note for note in check.notes)


def test_a_sealed_file_that_no_manifest_names_is_taken_in(tmp_path: Path, writer: Callable[[], Writer]) -> None:
    first = writer()
    first.write(1, 5)
    first.write(6, 9, START_US + SLOT_US)
    seal(first)
    sealed = sorted((tmp_path / "archive").rglob("*.jsonl.gz"))
    assert [path.parent.name for path in sealed] == ["2026-11-20", "2026-11-21"], "the slots cross midnight"
    for path in sealed:
        (path.parent / MANIFEST).unlink()
    (sealed[0].parent / "manifest.json.tmp").write_bytes(b"{")
    assert writer().folder.last_seq == 9
    assert verify_archive(tmp_path / "archive").problems == []
    assert not list((tmp_path / "archive").rglob("*.tmp"))


def test_a_damaged_manifest_stops_the_archiver_and_is_not_overwritten(
    tmp_path: Path, writer: Callable[[], Writer]
) -> None:
    first = writer()
    first.write(1, 5)
    seal(first)
    manifest = next((tmp_path / "archive").rglob(MANIFEST))
    changed = manifest.read_bytes().replace(b'"sealed_at": "2', b'"sealed_at": "3')
    manifest.write_bytes(changed)
    with pytest.raises(ArchiveError, match=MANIFEST):
        writer()
    assert manifest.read_bytes() == changed


def test_a_crash_between_the_commits_of_two_slots_loses_nothing(tmp_path: Path, writer: Callable[[], Writer]) -> None:
    """Slots are committed one after the other: the later one may be on disk while the earlier one is not."""
    first = writer()
    first.write(1, 3)
    later_us = START_US + SLOT_US
    first.line(4, later_us, TRADE % 4, "c0-a", 3)
    first.line(5, START_US + 5, TRADE % 5, "c0-a", 4)  # a straggler: both are open now
    first.line(6, later_us, TRADE % 6, "c0-a", 5)
    assert len(first.folder.open) == 2
    first.folder.open[later_us].commit()
    again = writer()
    assert again.folder.last_seq == 4
    assert again.folder.ahead is not None
    assert 6 in again.folder.ahead
    assert again.folder.missing_before(8) == [(5, 5), (7, 7)]
    again.line(5, START_US + 5, TRADE % 5, "c0-a", 4)
    assert again.folder.last_seq == 6
    seal(again)
    assert verify_archive(tmp_path / "archive").problems == []
    assert len(all_lines(tmp_path / "archive")) == 6


def test_a_gap_is_on_disk_before_the_lines_behind_it(tmp_path: Path, writer: Callable[[], Writer]) -> None:
    first = writer()
    first.write(1, 3)
    first.folder.note_gap("2026-11-20", Gap(3, 2, "expired", "2026-11-20T23:46:00Z"))
    first.folder.note_archived(5)
    first.folder.commit()
    assert writer().folder.last_seq == 5, "and an archiver that dies here does not forget it"
    again = writer()
    for seq in (6, 7):
        again.line(seq, START_US + seq, TRADE % seq, "c0-b", seq - 6)
    again.line(8, START_US + 8, control_event("closed", "c0"), "c0-b", 2)
    # A gap in the manifest whose neighbours were never written must not be skipped over.
    again.folder.commit()
    again.folder.note_gap("2026-11-20", Gap(9, 1, "duplicate", "2026-11-20T23:47:00Z"))
    again.folder.commit()
    last = writer()
    assert last.folder.last_seq == 8
    last.line(9, START_US + 9, TRADE % 9, "c0-c", 0)
    assert last.folder.last_seq == 10
    seal(last)
    check = verify_archive(tmp_path / "archive")
    assert check.problems == []
    assert check.lost == 2


class FullDisk:
    """Stands for a slot's file on a disk that fills up: writes what fits, then raises ENOSPC."""

    def __init__(self, file: object, room: int) -> None:
        self.file = file
        self.room = room
        self.truncates = True

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def write(self, content: memoryview) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        fits = content[: self.room]
        self.room -= len(fits)
        return self.file.write(fits)  # type: ignore[attr-defined,no-any-return]

    def truncate(self, size: int) -> None:
        if not self.truncates:
            raise OSError(5, "Input/output error")
        self.file.truncate(size)  # type: ignore[attr-defined]


@pytest.mark.parametrize("truncates", [True, False])
def test_a_full_disk_costs_no_line_and_tears_no_file(
    tmp_path: Path, writer: Callable[[], Writer], truncates: bool
) -> None:
    first = writer()
    first.write(1, 5)
    opened = next(iter(first.folder.open.values()))
    whole = opened.part.stat().st_size
    disk = opened._file = FullDisk(opened._file, 20)  # type: ignore[assignment]
    disk.truncates = truncates
    for _ in range(2):
        with pytest.raises(OSError, match=r"No space|Input"):
            first.write(6, 9) if first.folder.last_seq == 5 else first.folder.commit()
    assert opened.part.stat().st_size == (whole if truncates else whole + 20)
    with pytest.raises(ArchiveError, match="uncommitted"):
        opened.seal()
    disk.room, disk.truncates = 10**9, True
    first.folder.commit()
    seal(first)
    assert verify_archive(tmp_path / "archive").problems == []
    assert len(all_lines(tmp_path / "archive")) == 9


def test_sealing_goes_on_where_a_full_disk_stopped_it(
    tmp_path: Path, writer: Callable[[], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = writer()
    first.write(1, 5)
    first.write(6, 9, START_US + SLOT_US)
    real = save_manifest

    def full(folder: Path, manifest: Manifest) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssmd_stream.archive.folder.save_manifest", full)
    later = Slot.of(START_US + 5 * SLOT_US)
    with pytest.raises(OSError, match="No space"):
        first.folder.seal_before(later)
    monkeypatch.setattr("ssmd_stream.archive.folder.save_manifest", real)
    assert [path.name for path in first.folder.seal_before(later)] == ["0000.jsonl.gz"]
    assert first.folder.seal_before(later) == []
    assert verify_archive(tmp_path / "archive").problems == []


def test_a_clock_that_jumps_a_day_ahead_and_back_makes_late_files_only(
    tmp_path: Path, writer: Callable[[], Writer]
) -> None:
    day_us = 96 * SLOT_US
    first = writer()
    first.write(1, 2)
    first.write(3, 4, START_US + day_us)
    first.write(5, 6)
    first.write(7, 8, START_US + SLOT_US)
    first.write(9, 10, START_US + 2 * SLOT_US)
    assert len(first.folder.open) == 2, "the one ahead stays open, the others do not pile up"
    first.write(11, 12, START_US + day_us)
    first.write(13, 14, START_US + day_us + SLOT_US)
    seal(first)
    first.folder.seal_before(Slot.of(START_US + 2 * day_us))
    check = verify_archive(tmp_path / "archive")
    assert check.problems == []
    assert check.records == 14
    day = tmp_path / "archive" / "kraken" / "spot" / "2026-11-20"
    names = [path.name for path in hour_files(day, datetime(2026, 11, 20, 23, tzinfo=UTC))]
    assert names == ["2345.jsonl.gz", "2345-01.jsonl.gz"]


def test_two_archivers_cannot_share_a_folder(tmp_path: Path, writer: Callable[[], Writer]) -> None:
    writer()
    with pytest.raises(ArchiveError, match="another archiver"):
        Folder(tmp_path / "archive", KRAKEN, "spot").lock()


def test_a_remade_stream_is_not_mixed_with_the_old_one(writer: Callable[[], Writer]) -> None:
    first = writer()
    first.folder.belong_to("2026-11-20T00:00:00Z")
    first.folder.belong_to("2026-11-20T01:00:00Z")  # nothing archived yet
    first.write(1, 5)
    again = writer()
    again.folder.belong_to("2026-11-20T01:00:00Z")
    with pytest.raises(ArchiveError, match="recreated"):
        again.folder.belong_to("2026-11-20T02:00:00Z")


def test_only_days_are_read(tmp_path: Path, writer: Callable[[], Writer]) -> None:
    first = writer()
    first.write(1, 5)
    (first.folder.path / "lost+found").mkdir()
    os.close(os.open(first.folder.path / "lost+found" / "1200.jsonl.gz", os.O_CREAT))
    assert writer().folder.last_seq == 5
