"""The proof leaves the house with the data: to an object store, and to a copy that can be checked alone."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from api_rig import ApiRig, api_settings
from gcs_rig import BUCKET, GcsRig, running_gcs
from told_archive import Told
from typer.testing import CliRunner, Result

import ssmd
from ssmd_api.auth.access import Scope
from ssmd_api.cli.main import app
from ssmd_core.feeds import get
from ssmd_core.proof.chain import read_chain
from ssmd_core.proof.hour import prove_hour
from ssmd_core.proof.keys import own_key
from ssmd_core.settings import Settings
from ssmd_core.storage.store import Storage
from ssmd_stream.upload.sync import sync_archive

DAY = "2026-11-20"
HOUR = datetime(2026, 11, 20, 22, tzinfo=UTC)
HOURS = 3  # the third is of the next day
OF_DAY = f"kraken/spot/{DAY}"
CHAIN = "proof/kraken/spot/chain.jsonl"
BACKFILL = f"backfill/{OF_DAY}/trade_2200.parquet"


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with proved hours of two days and a backfill; nobody's to change."""
    data = tmp_path_factory.mktemp("proved") / "data"
    seq, ordinals = 1, dict[str, int]()
    for number in range(HOURS):
        told = Told(data / "archive", HOUR + timedelta(hours=number), next_seq=seq, ordinals=ordinals)
        told.busy_hour()
        told.seal()
        seq, ordinals = told.next_seq, told.ordinals
        prove(data, number)
    (data / BACKFILL).parent.mkdir(parents=True)
    pq.write_table(pa.table({"trade_id": [1, 2]}), data / BACKFILL)
    return data


@pytest.fixture
def data(proved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(proved, tmp_path / "data"))


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsRig]:
    with running_gcs() as rig:
        yield rig


def prove(data: Path, number: int) -> None:
    settings = Settings.from_environment({"SSMD_DATA": str(data), "SSMD_CLOCK": "2026-11-21T15:00:00Z"})
    prove_hour(settings, get("kraken"), "spot", HOUR + timedelta(hours=number))


def prove_late(data: Path, number: int = 0) -> None:
    """Something came after the hour was proved, and it is proved again."""
    again = Told(data / "archive", HOUR + timedelta(hours=number), next_seq=100_000)
    again.busy_hour()
    again.seal()
    prove(data, number)


def below(folder: Path, *trees: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for tree in trees
        for path in (folder / tree).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def local(tmp_path: Path) -> Storage:
    return Storage.open(f"file://{tmp_path}/store", {})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def run(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == code, (done.output, done.exception)
    return done


# --- to the object store


def test_the_proof_goes_along_and_the_chain_goes_last(data: Path, tmp_path: Path, gcs: GcsRig) -> None:
    store, prefix = Storage.open(f"gs://{BUCKET}/{tmp_path.name}", gcs.environment(tmp_path)), f"{tmp_path.name}/"
    gcs.writes.clear()
    report = sync_archive(data, store)
    assert (report.problems, report.notes) == ([], [])
    there = {name.removeprefix(prefix) for name in gcs.names() if name.startswith(prefix)}
    wanted = below(data, "proof", "backfill")
    assert {name for name in there if name.startswith(("proof/", "backfill/"))} == set(wanted)
    assert len(wanted) == 6 * HOURS + 2 and all(gcs.content(prefix + name) == wanted[name] for name in wanted)
    written = [name.removeprefix(prefix) for name in gcs.writes]
    assert written[-2:] == [CHAIN, "datasets/catalog.json"]
    for number, name in enumerate(written):
        if "/ledger_" in name:  # behind what it names: its proof, and its datasets
            named = json.loads(wanted[name])["outputs"]
            assert named.keys() <= set(written[:number])
    assert gcs.metadata(prefix + CHAIN)["contentType"] == "application/x-ndjson"
    # An hour proved again: its changed files, its ledger, the chain with one line more.
    prove_late(data, 2)
    gcs.writes.clear()
    assert sync_archive(data, store, repair=True).problems == []  # the archive's files were made anew
    assert gcs.content(prefix + CHAIN) == (data / CHAIN).read_bytes() != wanted[CHAIN]
    gcs.writes.clear()
    again = sync_archive(data, store)
    assert again.holds and (again.uploaded, again.proved, gcs.writes) == (0, 0, [])


def test_a_store_that_is_a_folder_verifies_like_the_house(data: Path, tmp_path: Path) -> None:
    """Everything that was proved can be derived again from what was uploaded, without any secret."""
    assert sync_archive(data, local(tmp_path), ["kraken/spot"]).holds
    shutil.copy(data / "datasets/catalog.json", tmp_path / "store/datasets")
    done = json.loads(run("verify", f"{tmp_path}/store", "--json").stdout)
    assert (done["ledgers"], done["rederived"], done["problems"]) == (HOURS, HOURS, [])


def test_a_chain_in_the_store_only_grows(data: Path, tmp_path: Path) -> None:
    store, there = local(tmp_path), tmp_path / "store" / CHAIN
    whole = (data / CHAIN).read_bytes()
    lines = whole.splitlines(keepends=True)
    assert sync_archive(data, store).holds
    # A folder from before: neither it nor a repair shortens what was said.
    (data / CHAIN).write_bytes(b"".join(lines[:-1]))
    for repair in (False, True):
        (problem,) = sync_archive(data, store, repair=repair).problems
        assert problem.startswith(f"{CHAIN}: the store holds a longer one") and there.read_bytes() == whole
    # As long, and another one.
    (data / CHAIN).write_bytes(whole)
    flip(there)
    (problem,) = sync_archive(data, store).problems
    assert problem.startswith(f"{CHAIN}: the store holds another one")
    assert sync_archive(data, store, repair=True).holds and there.read_bytes() == whole
    # Without its record a run knows a beginning for a beginning; a torn line does not leave.
    (data / "uploads.sqlite").unlink()
    there.write_bytes(lines[0])
    (data / CHAIN).write_bytes(whole + lines[0][:40])
    assert sync_archive(data, store).holds and there.read_bytes() == whole


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: flip(data / f"proof/{OF_DAY}/coverage_2200.parquet"), "coverage_2200.parquet: changed after"),
        (lambda data: (data / f"proof/{OF_DAY}/untrusted_2200.parquet").unlink(), "untrusted_2200.parquet"),
        (lambda data: flip(data / f"proof/{OF_DAY}/ledger_2200.json"), "ledger_2200.json: its hash is"),
        (lambda data: (data / f"proof/{OF_DAY}/ledger_2200.json").unlink(), "ledger_2200.json"),
    ],
)
def test_a_chain_waits_for_what_it_names(data: Path, tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(data)
    report = sync_archive(data, local(tmp_path))
    assert len(report.problems) == 1 and told in report.problems[0]
    assert report.notes[-1].startswith(f"{CHAIN}: not uploaded")
    there = below(tmp_path / "store", "proof")
    assert "proof/kraken/spot/2026-11-21/ledger_0000.json" in there  # other days do not wait
    assert CHAIN not in there and f"proof/{OF_DAY}/ledger_2200.json" not in there


# --- to a researcher


@pytest.fixture
def shell(api: ApiRig, proved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A shell that knows the API, in an empty folder; the API has a data folder of its own."""
    shutil.copytree(proved, api.data, dirs_exist_ok=True)
    monkeypatch.setenv("SSMD_API_URL", api.url)
    monkeypatch.setenv("SSMD_API_KEY", api.key(Scope.DATASETS_READ))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(rig: ApiRig, key: str, **more: Any) -> Any:
    return rig.json("/v1/data/download", key, **{"feed": "kraken", "from": DAY, "to": DAY, "kind": "proof", **more})


def test_what_is_offered_is_what_the_newest_ledgers_name(api: ApiRig, shell: Path) -> None:
    key = api.key(Scope.DATASETS_READ, feeds=["kraken"], days=(date(2026, 11, 20), date(2026, 11, 20)))
    answer = offered(api, key, **{"to": "2026-11-22"})
    expected = {f"proof/{OF_DAY}/{name}" for name in below(api.data / "proof" / OF_DAY, ".")} | {CHAIN}
    assert {file["path"] for file in answer["files"]} == expected and len(expected) == 13
    assert (answer["kind"], answer["to"]) == ("proof", DAY)
    chain = answer["files"][-1]
    assert (chain["type"], chain["date"], chain["hour"], chain["rowCount"]) == ("chain", "", "", None)
    for file in answer["files"]:
        got = httpx2.get(file["signedUrl"])
        assert got.status_code == 200 and got.content == (api.data / file["path"]).read_bytes()
    states = {hour["hour"]: hour["state"] for hour in answer["missing"]}
    assert states == {f"{hour:02d}00": "missing" for hour in range(22)}
    (backfill,) = offered(api, key, kind="backfill")["files"]
    assert (backfill["path"], backfill["rowCount"]) == (BACKFILL, 2)
    assert httpx2.get(backfill["signedUrl"]).content == (api.data / BACKFILL).read_bytes()
    assert {file["type"] for file in offered(api, key, type="ledger")["files"]} == {"ledger"}
    refused = api.get("/v1/data/download", key, feed="kraken", kind="proof", type="trade", **{"from": DAY, "to": DAY})
    assert (refused.status_code, refused.json()["field"]) == (400, "type")
    # Who does not reach the feed, or no day of it, reaches no chain either; and a key that is taken away ends all.
    assert api.get("/v1/data/download", key, feed="kalshi", kind="proof", **{"from": DAY, "to": DAY}).status_code == 403
    day = "2026-11-21"
    assert api.get("/v1/data/download", key, feed="kraken", kind="proof", **{"from": day, "to": day}).status_code == 403
    api.sql("UPDATE api_keys SET allowed_feeds = '{kalshi}' WHERE %s LIKE key_prefix || '%%'", (key,))
    until = datetime.now(UTC) + timedelta(seconds=5)
    while (status := httpx2.get(chain["signedUrl"]).status_code) == 200 and datetime.now(UTC) < until:
        pass
    assert status == 403


def test_an_hour_that_is_proved_again_is_not_mixed(api: ApiRig, shell: Path) -> None:
    key = api.key(Scope.DATASETS_READ)
    before = {file["path"]: file["signedUrl"] for file in offered(api, key)["files"]}
    name = f"proof/{OF_DAY}/ledger_2300.json"
    (api.data / CHAIN).write_bytes((api.data / CHAIN).read_bytes().replace(b"T23", b"T19"))
    answer = offered(api, key)
    assert {file["hour"] for file in answer["files"]} == {"2200", ""}
    assert [hour["hour"] for hour in answer["missing"] if hour["state"] == "not_proved"] == ["2300"]
    assert httpx2.get(before[name]).status_code == 404 and httpx2.get(before[CHAIN]).status_code == 410


def test_from_a_bucket(proved: Path, database_url: str, tmp_path: Path, gcs: GcsRig) -> None:
    data = Path(shutil.copytree(proved, tmp_path / "data"))
    environment, url = gcs.environment(tmp_path), f"gs://{BUCKET}/{tmp_path.name}"
    assert sync_archive(data, Storage.open(url, environment)).holds
    prove_late(data, 1)  # is not there yet
    settings = api_settings(database_url, data, SSMD_STORAGE_URL=url, **environment)
    with ApiRig(settings).running() as rig, pytest.warns(ssmd.MissingHoursWarning):
        client = ssmd.Client(rig.url, rig.key(Scope.DATASETS_READ))
        for kind in ("parquet", "proof", "backfill"):
            client.download("kraken", None, DAY, DAY, to=tmp_path / "copy", kind=kind)
        client.close()
    expected = below(proved, f"datasets/{OF_DAY}", f"proof/{OF_DAY}", f"backfill/{OF_DAY}")
    del expected[f"datasets/{OF_DAY}/parquet-manifest.json"]
    expected[CHAIN] = (proved / CHAIN).read_bytes()
    assert below(tmp_path / "copy", "datasets", "proof", "backfill") == expected
    assert "0 problems" in run("verify", f"{tmp_path}/copy").stdout


def test_a_copy_is_checked_alone(api: ApiRig, shell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("sync", "data", "kraken", DAY, "--backfill")
    key = own_key(api.data, {})
    assert done.stdout.splitlines()[:2] == [
        "market-data: 2 files of parquet, 1 files of backfill, 13 files of proof",
        f"signed with {key.public}  {key.fingerprint}",
    ]
    assert f"export SSMD_LEDGER_TRUSTED={key.public}" in done.stdout
    assert "kraken/spot missing 2026-11-20T00 to 2026-11-20T21 (22 h)" in done.stderr
    found = run("verify", "market-data")
    assert found.stdout == "12 files compared with 2 ledgers in 3 signed lines; 0 problems\n"
    assert all(word in found.stderr for word in ("without its archive", "1 of its 3 hours", "not trusted"))
    monkeypatch.setenv("SSMD_LEDGER_TRUSTED", key.public)
    assert "not trusted" not in run("verify", "market-data").stderr
    monkeypatch.setenv("SSMD_LEDGER_TRUSTED", base64.b64encode(bytes(32)).decode())
    assert "a key that is not trusted" in run("verify", "market-data", code=1).stdout
    monkeypatch.delenv("SSMD_LEDGER_TRUSTED")
    # The next day goes on where this one ends; what is there is not fetched again.
    assert "1 files of parquet, 7 files of proof" in run("sync", "data", "kraken", "2026-11-21").stdout
    assert "3 ledgers in 3 signed lines; 0 problems" in run("verify", "market-data").stdout
    assert run("sync", "data", "kraken", DAY, "--no-proof", "--into", "bare").stdout == "bare: 2 files of parquet\n"
    assert "without archive and proof" in run("verify", "bare", code=2).stderr


def _drop_line(copy: Path) -> None:
    lines = (copy / CHAIN).read_bytes().splitlines(keepends=True)
    (copy / CHAIN).write_bytes(b"".join(lines[:1] + lines[2:]))


def _rename(copy: Path) -> None:
    path = copy / f"datasets/{OF_DAY}/trade_2200.parquet"
    path.rename(path.with_name("ticker_2200.parquet"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda copy: flip(copy / f"datasets/{OF_DAY}/trade_2200.parquet"), "trade_2200.parquet: its hash is"),
        (lambda copy: flip(copy / f"proof/{OF_DAY}/coverage_2200.parquet"), "coverage_2200.parquet: its hash is"),
        (lambda copy: flip(copy / f"proof/{OF_DAY}/ledger_2200.json"), "ledger_2200.json: its hash is"),
        (lambda copy: (copy / f"proof/{OF_DAY}/ledger_2200.json").unlink(), "the chain names it, but it is not there"),
        (_drop_line, "line 2: does not stand behind"),
        (_rename, "ticker_2200.parquet: the ledger of 2026-11-20T22 does not name it"),
    ],
)
def test_damage_in_a_copy_is_found(proved: Path, tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(proved / "datasets", copy / "datasets")
    shutil.copytree(proved / "proof", copy / "proof")
    assert "0 problems" in run("verify", str(copy)).stdout
    damage(copy)
    assert told in run("verify", str(copy), code=1).stdout


def test_a_part_of_the_types_is_a_note(proved: Path, tmp_path: Path) -> None:
    shutil.copytree(proved / "proof", tmp_path / "copy/proof")
    other = tmp_path / "copy/datasets/kraken/spot/2026-11-19"
    other.mkdir(parents=True)
    (other / "trade_0400.parquet").write_bytes(b"of an hour that nobody proved")
    done = run("verify", str(tmp_path / "copy"))
    assert f"{HOURS} files that ledgers name are not in this copy" in done.stderr
    assert "1 datasets are of hours that it does not name, such as 2026-11-19T04" in done.stderr


def test_a_copy_remembers_what_was_said(api: ApiRig, shell: Path) -> None:
    """Who changes the past after it was copied is found by the copy, and cannot overwrite it."""
    run("sync", "data", "kraken", DAY)
    copied = (shell / "market-data" / CHAIN).read_bytes()
    prove_late(api.data, 1)
    assert "proved anew since: fetch it again" in _stale(api, shell)
    run("sync", "data", "kraken", DAY)
    grown = (shell / "market-data" / CHAIN).read_bytes()
    assert grown.startswith(copied) and len(read_chain(shell / "market-data/proof", "kraken", "spot")) == HOURS + 1
    run("verify", "market-data")
    for path in (api.data / CHAIN, api.data / "keys/ledger.pem"):
        path.unlink()
    for number in range(HOURS):
        prove(api.data, number)
    assert "does not go on where the chain that is there ends" in run("sync", "data", "kraken", DAY, code=1).stderr
    assert (shell / "market-data" / CHAIN).read_bytes() == grown


def _stale(api: ApiRig, shell: Path) -> str:
    """What is told where the chain is newer than the rest."""
    stale = Path(shutil.copytree(shell / "market-data", shell / "stale"))
    shutil.copy(api.data / CHAIN, stale / CHAIN)
    return run("verify", str(stale), code=1).stdout
