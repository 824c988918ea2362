"""The chain of ledgers: what is changed, removed or signed by somebody else is found."""

from __future__ import annotations

import base64
import hashlib
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from told_archive import Told

from ssmd_core import feeds
from ssmd_core.datasets.verify import verify_datasets
from ssmd_core.errors import ArchiveError, ConfigError
from ssmd_core.feeds.base import Feed
from ssmd_core.proof.chain import append, chain_path, parse_entry, read_chain, writing
from ssmd_core.proof.hour import prove_hour
from ssmd_core.proof.keys import is_signed, own_key, trusted_keys
from ssmd_core.proof.ledger import proof_file
from ssmd_core.proof.rules import INTEGRITY_SCHEMA, UNTRUSTED_SCHEMA, Findings, HourChunk, HourRule
from ssmd_core.proof.verify import ProofCheck, Rederiver, verify_proof
from ssmd_core.proof.word import CODES, INFORMING, Facts, Seen, judge
from ssmd_core.settings import Settings

HOUR = datetime(2026, 11, 20, 11, tzinfo=UTC)
KRAKEN = feeds.get("kraken")
HOURS = 3


class NoRule:
    """A rule that finds nothing."""

    def take(self, chunk: HourChunk) -> None: ...

    def finish(self, start_us: int, end_us: int) -> Findings:
        return Findings(INTEGRITY_SCHEMA.empty_table(), UNTRUSTED_SCHEMA.empty_table(), {})

    def state(self) -> bytes:
        return b"state"


def no_rule(feed: Feed, state: bytes | None) -> HourRule:
    return NoRule()


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with three proved hours; nobody's to change."""
    data = tmp_path_factory.mktemp("proved") / "data"
    settings = settings_of(data)
    seq, ordinals = 1, {}
    for number in range(HOURS):
        hour = HOUR + timedelta(hours=number)
        told = Told(settings.archive_root, hour, next_seq=seq, ordinals=ordinals)
        told.busy_hour()
        told.seal()
        seq, ordinals = told.next_seq, told.ordinals
        prove_hour(settings, KRAKEN, "spot", hour, make_rule=no_rule)
    return data


@pytest.fixture
def data(proved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(proved, tmp_path / "data"))


def settings_of(data: Path) -> Settings:
    return Settings.from_environment({"SSMD_DATA": str(data), "SSMD_CLOCK": "2026-11-20T15:00:00Z"})


def verified(data: Path, *, deep: bool = False, **environment: str) -> ProofCheck:
    check = verify_proof(data, environment)
    if deep:
        built = verify_datasets(data / "datasets", data / "archive", Rederiver(data, check, no_rule).build)
        check.problems += built.problems
    return check


def chain(data: Path) -> list[bytes]:
    return chain_path(data / "proof", "kraken", "spot").read_bytes().splitlines()


def put_chain(data: Path, lines: list[bytes]) -> None:
    chain_path(data / "proof", "kraken", "spot").write_bytes(b"".join(line + b"\n" for line in lines))


def file_of(data: Path, kind: str, number: int = 1) -> Path:
    return proof_file(data / "proof", "kraken", "spot", HOUR + timedelta(hours=number), kind)


def test_what_was_proved_holds(data: Path) -> None:
    check = verified(data, deep=True)
    assert (check.problems, check.notes) == ([], [])
    assert (check.hours, check.entries, check.rederived) == (HOURS, HOURS, HOURS)
    assert [entry.n for entry in read_chain(data / "proof", "kraken", "spot")] == [0, 1, 2]


def test_proving_again_changes_nothing(data: Path) -> None:
    before = {path: path.read_bytes() for path in (data / "proof").rglob("*") if path.is_file()}
    prove_hour(settings_of(data), KRAKEN, "spot", HOUR, make_rule=no_rule)
    assert {path: path.read_bytes() for path in (data / "proof").rglob("*") if path.is_file()} == before


def _remove(name: str) -> Callable[[Path], None]:
    return lambda data: (data / name).unlink()


def _drop_line(at: int) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        lines = chain(data)
        del lines[at]
        put_chain(data, lines)

    return damage


def _change_row(data: Path) -> None:
    path = file_of(data, "coverage")
    table = pq.read_table(path)
    index = table.schema.get_field_index("messages")
    pq.write_table(table.set_column(index, table.schema.field(index), pc.add(table["messages"], 1)), path)


def _change_word(data: Path) -> None:
    path = file_of(data, "ledger")
    path.write_bytes(path.read_bytes().replace(b'"word":"complete"', b'"word":"empty"'))


def _change_line(data: Path) -> None:
    lines = chain(data)
    lines[1] = lines[1].replace(b'"word":"complete"', b'"word":"degraded"')
    put_chain(data, lines)


def _resign(data: Path) -> None:
    """Somebody else says the same, with a key of their own, and continues the chain."""
    other = own_key(data, {"SSMD_LEDGER_KEY": base64.b64encode(bytes(range(32))).decode()})
    lines = chain(data)[:2]
    put_chain(data, lines)
    old = parse_entry(chain(data)[1])
    with writing(data / "proof", "kraken", "spot"):
        put_chain(data, lines[:1])
        append(
            data / "proof",
            "kraken",
            "spot",
            other,
            hour=old.hour,
            word=old.word,
            ledger=old.ledger,
            sealed_at=old.sealed_at,
        )


def _garble_line(data: Path) -> None:
    lines = chain(data)
    lines[1] = b'{"n":1,'
    put_chain(data, lines)


def _fork(data: Path) -> None:
    """Two writers without a lock have both continued the second line."""
    lines = chain(data)
    entry = parse_entry(lines[2])
    entry.sealed_at = "2026-11-20T15:00:01.000000Z"
    entry.signature = base64.b64encode(own_key(data, {}).sign(entry.signed_bytes())).decode()
    put_chain(data, [*lines, entry.line()])


def _tear(data: Path) -> None:
    path = chain_path(data / "proof", "kraken", "spot")
    path.write_bytes(path.read_bytes()[:-20])


DAY = "kraken/spot/2026-11-20"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param(_remove(f"proof/{DAY}/coverage_1200.parquet"), "coverage_1200.parquet: the ledger", id="file"),
        pytest.param(_remove(f"proof/{DAY}/ledger_1200.json"), "the chain names it, but it is not", id="ledger"),
        pytest.param(_remove(f"datasets/{DAY}/trade_1200.parquet"), "but it is not there", id="dataset"),
        pytest.param(_remove(f"archive/{DAY}/1215.jsonl.gz"), "1215.jsonl.gz", id="source"),
        pytest.param(_remove("proof/kraken/spot/chain.jsonl"), "chain.jsonl: not there, but ledgers are", id="chain"),
        pytest.param(_drop_line(1), "line 2: does not stand behind", id="line"),
        pytest.param(_drop_line(0), "a line was removed", id="first line"),
        pytest.param(_drop_line(2), "no line of 2026-11-20T13", id="last line"),
        pytest.param(_change_row, "coverage_1200.parquet: its hash is", id="row"),
        pytest.param(_change_word, "ledger_1200.json: its hash is", id="word"),
        pytest.param(_change_line, "line 2: 2026-11-20T12: its signature does not match", id="line changed"),
        pytest.param(_resign, "a key that is not trusted", id="other key"),
        pytest.param(_garble_line, "line 2: cannot be read", id="unreadable"),
        pytest.param(_fork, "two writers have continued the same line", id="fork"),
        pytest.param(_tear, "the last line is torn", id="torn"),
    ],
)
def test_damage_is_found(data: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(data)
    problems = verified(data, deep="source" in told or "1215" in told).problems
    assert any(told in problem for problem in problems), problems


def test_a_changed_row_is_found_even_with_every_hash_made_anew(data: Path) -> None:
    _change_row(data)
    coverage, ledger = file_of(data, "coverage"), file_of(data, "ledger")
    said = orjson.loads(ledger.read_bytes())
    said["outputs"][coverage.relative_to(data).as_posix()] = hashlib.sha256(coverage.read_bytes()).hexdigest()
    ledger.write_bytes(orjson.dumps(said, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
    with writing(data / "proof", "kraken", "spot"):
        append(
            data / "proof",
            "kraken",
            "spot",
            own_key(data, {}),
            hour="2026-11-20T12",
            word="complete",
            ledger=hashlib.sha256(ledger.read_bytes()).hexdigest(),
            sealed_at="2026-11-20T15:00:00.000000Z",
        )
    # The hour after it does not begin with this ledger, and the archive gives another one.
    assert any("prove it again" in problem for problem in verified(data).problems)
    assert any(
        problem == f"{coverage}: says something else than its archive gives"
        for problem in verified(data, deep=True).problems
    )


def test_a_changed_archive_makes_a_line_that_supersedes(data: Path) -> None:
    settings = settings_of(data)
    again = Told(settings.archive_root, HOUR + timedelta(hours=2), next_seq=10_000)
    again.quiet_hour()
    again.seal()
    assert any("1300.jsonl.gz: its hash is" in problem for problem in verified(data).problems)
    prove_hour(settings, KRAKEN, "spot", HOUR + timedelta(hours=2), make_rule=no_rule)
    assert [entry.hour[-2:] for entry in read_chain(data / "proof", "kraken", "spot")] == ["11", "12", "13", "13"]
    assert verified(data).problems == []


def test_a_hole_between_proved_hours_is_told(data: Path) -> None:
    for path in (data / "proof" / DAY).glob("*_1200.*"):
        path.unlink()
    _drop_line(1)(data)
    assert any("a hole: 2026-11-20T12 are archived and not proved" in text for text in verified(data).problems)


def test_a_pruned_archive_is_a_note(data: Path) -> None:
    shutil.rmtree(data / "archive" / "kraken")
    check = verified(data)
    assert check.problems == []
    assert len(check.notes) == HOURS and all("pruned" in note for note in check.notes)


def test_without_a_key_the_first_one_is_found_and_not_trusted(data: Path) -> None:
    (data / "keys" / "ledger.pem").unlink()
    check = verified(data)
    assert check.problems == []
    assert any("was found, not trusted" in note for note in check.notes)
    own = parse_entry(chain(data)[0]).key
    assert verified(data, SSMD_LEDGER_TRUSTED=own).notes == []
    stranger = base64.b64encode(bytes(32)).decode()
    assert len(verified(data, SSMD_LEDGER_TRUSTED=stranger).problems) == 1


def test_two_writers_wait_for_each_other(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from ssmd_core.proof.chain import append, writing\n"
        "from ssmd_core.proof.keys import own_key\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "key = own_key(root, {})\n"
        "for n in range(50):\n"
        "    with writing(root, 'kraken', 'spot'):\n"
        "        append(root, 'kraken', 'spot', key, hour=f'{sys.argv[2]}-{n}', word='complete', ledger='0' * 64,\n"
        "               sealed_at='2026-11-20T15:00:00.000000Z')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    entries = read_chain(tmp_path, "kraken", "spot")
    assert [entry.n for entry in entries] == list(range(100))
    assert len({entry.key for entry in entries}) == 1
    lines = [entry.line() for entry in entries]
    hashes = ["0" * 64, *(hashlib.sha256(line).hexdigest() for line in lines[:-1])]
    assert [entry.previous for entry in entries] == hashes


def test_a_torn_last_line_is_cut_off(data: Path) -> None:
    _tear(data)
    prove_hour(settings_of(data), KRAKEN, "spot", HOUR + timedelta(hours=2), make_rule=no_rule)
    assert verified(data).problems == []


def test_keys(tmp_path: Path) -> None:
    assert trusted_keys(tmp_path, {}) == ()
    own = own_key(tmp_path, {})
    path = tmp_path / "keys" / "ledger.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert own_key(tmp_path, {}).public == own.public
    assert trusted_keys(tmp_path, {}) == (own.public,)
    raw = base64.b64encode(bytes(range(32))).decode()
    given = own_key(tmp_path, {"SSMD_LEDGER_KEY": raw})
    expected = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()
    assert base64.b64decode(given.public) == expected
    assert own_key(tmp_path / "other", {"SSMD_LEDGER_KEY": str(path)}).public == own.public
    signature = base64.b64encode(given.sign(b"content")).decode()
    assert is_signed(given.public, signature, b"content")
    assert not is_signed(given.public, signature, b"other")
    assert not is_signed(own.public, signature, b"content")
    assert not is_signed("?", signature, b"content")
    for bad in ("secret!", "AAAA", str(tmp_path / "absent.pem")):
        with pytest.raises(ConfigError) as caught:
            own_key(tmp_path, {"SSMD_LEDGER_KEY": bad})
        assert bad not in str(caught.value)
    with pytest.raises(ConfigError, match="not a public key"):
        trusted_keys(tmp_path, {"SSMD_LEDGER_TRUSTED": "AAAA"})


@given(st.binary(max_size=300))
def test_any_line_is_an_entry_or_an_error(line: bytes) -> None:
    try:
        parse_entry(line)
    except ArchiveError as error:
        assert "not a line of a chain" in str(error)


SEALED = ("1100", "1115", "1130", "1145")
A, B = Seen("one", 2, evidence=["seq:1"]), Seen("other", 3)


@pytest.mark.parametrize(
    ("facts", "word", "codes"),
    [
        (Facts(SEALED, 5, 9), "complete", []),
        (Facts(SEALED, 0, 9), "empty", []),
        (Facts(SEALED[:3], 0, 9), "degraded", ["slots_missing"]),
        (Facts(SEALED, 5, 0), "degraded", ["no_control_events"]),
        (Facts(SEALED, 0, 0), "degraded", ["no_control_events"]),
        (Facts(SEALED, 5, 9, not_carried=["c0-x"]), "complete", ["carried_state_missing"]),
        (Facts(SEALED, 0, 9, not_carried=["c0-x"]), "empty", ["carried_state_missing"]),
        (Facts(SEALED, 0, 9, connected=[A]), "degraded", ["not_connected"]),
        (Facts(SEALED, 0, 9, acknowledged=[A]), "degraded", ["not_acknowledged"]),
        (Facts(SEALED, 5, 9, offsets_ms={"c0": (-180_000.0, 0, 3)}), "degraded", ["clock_offset"]),
        (Facts(SEALED, 5, 9, connectors=[Seen("a and b", 1, 0, 120_000_000)]), "complete", ["handover"]),
        (Facts(SEALED, 5, 9, connectors=[Seen("a and b", 1, 0, 120_000_001)]), "degraded", ["two_connectors"]),
        (
            Facts(SEALED[:1], 5, 9, lost=[A], ordinals=[A, B], refused=[B], live=[A], untrusted=[B], failed=[A]),
            "degraded",
            [
                "slots_missing",
                "messages_lost",
                "ordinals_missing",
                "refused",
                "live_count_differs",
                "untrusted",
                "checks_failed",
            ],
        ),
        (
            Facts(SEALED, 5, 9, drift=[A], rejects=[A], nulls=[A], connectors=[A]),
            "degraded",
            ["drift", "rejects", "null_column", "two_connectors"],
        ),
    ],
)
def test_the_word(facts: Facts, word: str, codes: list[str]) -> None:
    found, reasons = judge(facts)
    assert (found, [reason.code for reason in reasons]) == (word, codes)
    assert set(codes) <= set(CODES) and set(CODES) >= INFORMING
    for reason in reasons:
        assert reason.detail and reason.count


def test_a_reason_adds_up() -> None:
    _, [reason] = judge(Facts(SEALED, 5, 9, ordinals=[A, B]))
    assert (reason.count, reason.evidence) == (5, ["seq:1"])
    assert reason.detail == "5 messages were received and are not in the archive: one; other"


def test_a_ledger_of_nothing_has_rows_of_nothing(data: Path) -> None:
    table = pq.read_table(file_of(data, "untrusted"))
    assert table.schema.equals(UNTRUSTED_SCHEMA) and isinstance(table, pa.Table) and len(table) == 0
