"""`ssmd.Client` against a running API, and against one whose answers are spoiled on the way."""

from __future__ import annotations

import hashlib
import json
import shlex
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from api_rig import ApiRig
from examples import blocks
from faulty_front import Answer, Front, faulty_front
from hypothesis import given
from hypothesis import strategies as st

import ssmd
from ssmd.files import place, split_path
from ssmd_api.auth.access import Scope

DAY = "2026-11-20"
READ = (Scope.DATASETS_READ, Scope.SECMASTER_READ)


@pytest.fixture
def client(installed_api: ApiRig) -> Iterator[ssmd.Client]:
    """A client of the installation's API."""
    with ssmd.Client(installed_api.url, installed_api.key(*READ)) as found:
        yield found


@pytest.fixture
def front(installed_api: ApiRig) -> Iterator[Front]:
    """A front before the installation's API."""
    with faulty_front(installed_api.url) as found:
        yield found


@pytest.fixture
def fronted(front: Front, installed_api: ApiRig) -> Iterator[ssmd.Client]:
    """A client of the front."""
    with ssmd.Client(front.url, installed_api.key(*READ)) as found:
        yield found


def missing_hours() -> pytest.WarningsRecorder:
    """Hours of the day are missing, and that is told."""
    return pytest.warns(ssmd.MissingHoursWarning)


def cut(size: int) -> Callable[[Answer], Answer]:
    """Hang up after so many bytes."""
    return lambda answer: answer._replace(cut=size)


def instead(status: int, **headers: str) -> Callable[[Answer], Answer]:
    """Another status, with the API's form of an error."""
    body = json.dumps({"error": "spoiled", "code": "spoiled", "requestId": "r1"}).encode()
    return lambda answer: Answer(status, {**headers, "content-type": "application/json"}, body)


def edited(edit: Callable[[Any], object]) -> Callable[[Answer], Answer]:
    """Other JSON."""

    def spoil(answer: Answer) -> Answer:
        value = json.loads(answer.body)
        edit(value)
        return answer._replace(body=json.dumps(value).encode())

    return spoil


def test_questions(client: ssmd.Client) -> None:
    assert [feed["name"] for feed in client.feeds()] == ["kalshi", "kraken", "kraken-futures", "polymarket"]
    assert client.freshness("kraken")[0]["newest_hour"] == "1100"
    states = {row["hour"]: row["state"] for row in client.coverage("kraken", DAY, DAY)}
    assert len(states) == 24 and (states["1100"], states["1200"], states["1300"]) == ("built", "partial", "missing")
    words = {row["hour"]: row["word"] for row in client.coverage("kraken", DAY, DAY)}
    assert (words["1100"], words["1200"], words["1000"]) == ("degraded", None, "missing")
    trades = client.trades("kalshi", DAY, limit=2)
    assert len(trades) == 2 and trades[0]["trade_count"] >= trades[1]["trade_count"]
    markets = client.markets()
    assert [market["ticker"] for market in client.markets(limit=3)] == [market["ticker"] for market in markets][:3]
    ids = [market["ticker"] for market in markets]
    assert {found["id"] for found in client.lookup([*ids, "nothing"])} == set(ids)
    assert client.markets(as_of="2026-11-20T13:00:00Z") == []
    assert client.lookup(ids, as_of="2026-11-20T13:00:00Z") == []


def test_proof(client: ssmd.Client) -> None:
    hours = client.proved_hours("kalshi", DAY, DAY)
    assert [hour["hour"][11:13] for hour in hours] == ["12", "11"]
    assert client.proved_hours("kalshi", DAY, DAY, limit=1) == hours[:1]
    assert client.proved_hours("kalshi", DAY, DAY, word="complete") == []
    moment = datetime(2026, 11, 20, 12, 20, tzinfo=timezone(timedelta(hours=1)))
    ledger = client.ledger("kraken", moment)
    assert (ledger["hour"][:13], ledger["chain"]["n"]) == (f"{DAY}T11", 0)
    book = client.book("kraken", "BTC/USD", moment)
    assert book == client.book("kraken", "BTC/USD", f"{DAY}T11:20:00Z")
    with pytest.raises(ssmd.ApiError) as refused:
        client.book("kraken-futures", "PF_XBTUSD", f"{DAY}T11:20:00Z")
    assert refused.value.status == 409
    assert client.book("kraken-futures", "PF_XBTUSD", f"{DAY}T11:20:00Z", untrusted=True)["doubts"]
    assert [report["kind"] for report in client.reports(DAY, DAY)] == ["volume", "diagnosis"]


def test_scan_over_urls_from_disk_and_from_a_cache_is_the_same(
    client: ssmd.Client, installed_api: ApiRig, tmp_path: Path
) -> None:
    wanted = ("kalshi", "trade", DAY, DAY)
    with missing_hours() as told:
        remote = client.scan(*wanted)
        local = client.scan(*wanted, local=installed_api.data)
        cached = client.scan(*wanted, cache=tmp_path)
        copied = ssmd.Client("http://127.0.0.1:1").scan(*wanted, local=tmp_path)
    frame = remote.collect()
    assert len(frame) == 108 and frame.schema["price"] == pl.Decimal(18, 6)
    assert all(other.collect().equals(frame) for other in (local, cached, copied))
    assert {warning.filename for warning in told} == {__file__}
    (over_api,) = told[0].message.missing  # type: ignore[union-attr]
    assert (over_api.stream, over_api.state, len(over_api.hours)) == ("crypto", "missing", 11)
    plan = remote.filter(pl.col("market_ticker") == "x").select(pl.col("price").sum()).explain()
    assert "PROJECT 2/18 COLUMNS" in plan and "SELECTION: " in plan
    with pytest.raises(ssmd.MissingHoursError, match=r"2026-11-20T00 to 2026-11-20T10 \(11 h\)"):
        client.scan(*wanted, strict=True)
    with missing_hours(), pytest.raises(ssmd.ClientError, match="no file of kraken trade from 2026-11-18"):
        client.scan("kraken", "trade", "2026-11-18", "2026-11-18")


def test_states_of_missing_hours(client: ssmd.Client, installed_api: ApiRig) -> None:
    with missing_hours() as told:
        client.files("kraken-futures", DAY, DAY, "trade")
    states = {one.state: len(one.hours) for one in told[0].message.missing}  # type: ignore[union-attr]
    assert states == {"missing": 11, "not_built": 1}
    key = installed_api.key(*READ, days=(date(2026, 11, 20), date(2026, 11, 20)))
    with ssmd.Client(installed_api.url, key) as narrow, missing_hours() as told:
        assert narrow.files("kalshi", "2026-11-19", DAY)
    first = told[0].message.missing[0]  # type: ignore[union-attr]
    assert (first.stream, first.state, len(first.hours)) == ("*", "not_allowed", 24)


def test_a_long_range_is_asked_for_by_weeks_and_a_full_week_by_halves(fronted: ssmd.Client, front: Front) -> None:
    full = json.dumps({"error": "too many files", "code": "invalid", "requestId": "r", "field": "from"}).encode()
    front.faults["from=2026-11-15"] = [lambda answer: Answer(400, {}, full)]
    with missing_hours():
        found = fronted.files("kalshi", "2026-11-08", "2026-11-23")
    assert len(found) == 11
    asked = [path.partition("&from=")[2].partition("&type")[0] for path in front.paths("/download")]
    spans = [tuple(part.partition("&to=")[::2]) for part in asked]
    assert spans == [
        ("2026-11-08", "2026-11-14"),
        ("2026-11-15", "2026-11-21"),
        ("2026-11-15", "2026-11-18"),
        ("2026-11-19", "2026-11-21"),
        ("2026-11-22", "2026-11-23"),
    ]


def test_days_out_of_reach_are_told_and_the_others_given(installed_api: ApiRig) -> None:
    key = installed_api.key(*READ, feeds=["kalshi"], days=(date(2026, 11, 20), date(2026, 11, 20)))
    with ssmd.Client(installed_api.url, key) as narrow:
        with missing_hours() as told:
            assert len(narrow.files("kalshi", "2026-11-01", "2026-12-05", "trade")) == 2
        (refused, _) = told[0].message.missing  # type: ignore[union-attr]
        assert (refused.state, len(refused.hours)) == ("not_allowed", 34 * 24)
        with pytest.raises(ssmd.ApiError, match="this key reaches 2026-11-20"):
            narrow.files("kalshi", "2026-11-01", "2026-11-19")


def test_a_column_that_a_version_lacks_is_null(tmp_path: Path) -> None:
    day = tmp_path / "datasets/kalshi/crypto/2026-11-20"
    day.mkdir(parents=True)
    pl.DataFrame({"price": [1], "old": ["x"]}, schema={"price": pl.Int32, "old": pl.String}).write_parquet(
        day / "trade_0000.parquet"
    )
    pl.DataFrame({"price": [2, 3], "new": [True, False]}).write_parquet(day / "trade_0100.parquet")
    (day / "trade_9900.parquet").write_bytes(b"of somebody else")
    with missing_hours():
        frame = ssmd.Client().scan("kalshi", "trade", DAY, DAY, local=tmp_path)
    assert frame.collect().to_dict(as_series=False) == {
        "price": [1, 2, 3],
        "old": ["x", None, None],
        "new": [None, True, False],
    }
    assert frame.select("new").collect()["new"].to_list() == [None, True, False]


def test_a_download_that_breaks_off_goes_on(fronted: ssmd.Client, front: Front, tmp_path: Path) -> None:
    to = tmp_path / "to"
    front.faults["trade_1100.parquet"] = [cut(3000), instead(503), cut(5000)]
    front.faults["trade_1200.parquet"] = [instead(403)]
    with missing_hours():
        paths = fronted.download("kalshi", "trade", DAY, DAY, to=to)
    files = {file.path: file for file in _files(fronted)}
    for path in paths:
        file = files[path.relative_to(to).as_posix()]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
    assert sorted(to.rglob("*.parquet*")) == sorted(paths), "parts are left"
    ranges = [(seen.headers.get("range"), seen.headers.get("if-range")) for seen in front.seen if "1100.p" in seen.path]
    sha256 = files[paths[0].relative_to(to).as_posix()].sha256
    assert ranges[:2] == [(None, None), ("bytes=3000-", f'"{sha256}"')] and ranges[-1][0] == "bytes=8000-"
    assert all("authorization" not in seen.headers for seen in front.seen if "/v1/files/" in seen.path)
    assert all("authorization" in seen.headers for seen in front.seen if "/v1/data/" in seen.path)

    front.seen.clear()
    paths[0].write_bytes(b"damaged")
    part = paths[0].with_name(f".{paths[0].name}.{sha256[:16]}.part")
    part.write_bytes(b"a part of something else")
    with missing_hours():
        fronted.download("kalshi", "trade", DAY, DAY, to=to)
    assert hashlib.sha256(paths[0].read_bytes()).hexdigest() == sha256
    assert not front.paths("trade_1200.parquet"), "what is whole is not fetched again"


def test_two_downloads_into_one_folder_bring_each_file_once(fronted: ssmd.Client, front: Front, tmp_path: Path) -> None:
    with missing_hours(), ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(fronted.download, "kraken", None, DAY, DAY, to=tmp_path / "new") for _ in range(3)]
        first, *others = (task.result() for task in tasks)
    assert others == [first, first] and sorted((tmp_path / "new").rglob("*.*")) == sorted(first)
    assert len(front.paths("/v1/files")) == len(first)


def test_what_is_not_what_the_api_says_is_not_kept(fronted: ssmd.Client, front: Front, tmp_path: Path) -> None:
    to = tmp_path / "to"
    flipped = [lambda answer: answer._replace(body=b"X" + answer.body[1:])] * 3
    front.faults["trade_1100.parquet"] = [*flipped]
    with missing_hours(), pytest.raises(ssmd.IntegrityError, match="is not the file of SHA-256"):
        fronted.download("kalshi", "trade", DAY, DAY, to=to)
    assert not list(to.rglob("trade_1100.parquet"))
    front.faults["trade_1100.parquet"] = [lambda answer: answer._replace(body=answer.body + b"more")]
    with missing_hours(), pytest.raises(ssmd.IntegrityError, match="more comes than its"):
        fronted.download("kalshi", "trade", DAY, DAY, to=to)


def test_a_path_that_leads_elsewhere_is_refused(fronted: ssmd.Client, front: Front, tmp_path: Path) -> None:
    another = "datasets/kraken/spot/2026-11-20/trade_1100.parquet"
    for path in ("datasets/../../evil.parquet", "/etc/passwd", another):
        front.faults["/v1/data/download"] = [edited(lambda told, path=path: told["files"][0].update(path=path))]
        with pytest.raises(ssmd.IntegrityError):
            fronted.download("kalshi", "trade", DAY, DAY, to=tmp_path / "to")
    assert not (tmp_path / "to").exists() and not (tmp_path / "evil.parquet").exists()


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"datasets/[a-z./\\]{0,9}/[a-z./]{0,9}/2026-1[0-9]-[0-9]{2}/[a-z./]{1,9}_\d{4}\.parquet"),
    )
)
def test_no_path_leaves_the_folder(path: str) -> None:
    try:
        parts = split_path(path)
    except ssmd.IntegrityError:
        return
    assert path == f"datasets/{parts.feed}/{parts.stream}/{parts.hour:%Y-%m-%d}/{parts.type}_{parts.hour:%H}00.parquet"
    assert ".." not in path.split("/")


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/datasets").symlink_to(tmp_path)
    with pytest.raises(ssmd.IntegrityError, match="leads out"):
        place(tmp_path / "to", "datasets/kalshi/crypto/2026-11-20/trade_1100.parquet")
    assert not (tmp_path / "kalshi").exists()


def test_requests_are_repeated_when_that_helps(fronted: ssmd.Client, front: Front, installed_api: ApiRig) -> None:
    front.faults["/feeds"] = [instead(503), instead(429, **{"retry-after": "1"}), cut(5)]
    assert len(fronted.feeds()) == 4 and len(front.paths("/feeds")) == 4
    front.faults["/feeds"] = [instead(429, **{"retry-after": "3600"})]
    with pytest.raises(ssmd.ApiError) as refused:
        fronted.feeds()
    assert (refused.value.status, refused.value.code, refused.value.request_id) == (429, "spoiled", "r1")
    with ssmd.Client(installed_api.url, installed_api.key(*READ, feeds=["kalshi"])) as narrow:
        with pytest.raises(ssmd.ApiError, match="does not reach the feed kraken") as forbidden:
            narrow.trades("kraken", DAY)
        assert (forbidden.value.status, forbidden.value.code, forbidden.value.field) == (403, "forbidden", "feed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with ssmd.Client(f"http://127.0.0.1:{port}") as alone, pytest.raises(ssmd.ApiError) as unreachable:
        alone.feeds()
    assert (unreachable.value.status, unreachable.value.code) == (0, "unreachable")


def test_a_key_that_is_none_is_told_of(installed_api: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSMD_API_KEY", raising=False)
    with ssmd.Client(installed_api.url) as keyless, pytest.raises(ssmd.ApiError, match="set SSMD_API_KEY"):
        keyless.feeds()
    with ssmd.Client(installed_api.url, installed_api.key(*READ) + "\n") as from_a_file:
        assert from_a_file.feeds()
    with pytest.raises(ValueError, match="characters"):
        ssmd.Client(installed_api.url, "schlüssel")


def test_the_pages(installed_api: ApiRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the quickstart and of the client's page, one after the other."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "SSMD_API_URL": installed_api.url,
        "SSMD_API_KEY": installed_api.key(*READ),
        "DATABASE_URL": installed_api.database_url,
    }.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    for page in ("researcher-quickstart.md", "api/python.md"):
        for block in blocks("bash", page):
            for line in block.text.splitlines():
                command = [str(Path(sys.executable).parent / "ssmd"), *shlex.split(line)[1:]]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, (block.name, done.stderr)
        for block in blocks("python", page):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ssmd.MissingHoursWarning)
                exec(compile(block.text, block.name, "exec"), names)
    assert len(names["paths"]) == 2


def test_import_is_light() -> None:
    """It is the first line of every notebook; polars comes with the first scan."""
    code = "import sys, ssmd; print({'polars', 'ssmd_core', 'ssmd_api'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def _files(client: ssmd.Client) -> list[ssmd.File]:
    with missing_hours():
        return client.files("kalshi", DAY, DAY, "trade")


@given(
    st.dictionaries(
        st.sampled_from(["path", "sha256", "bytes", "rowCount", "signedUrl", "expiresAt"]),
        st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.lists(st.integers())),
    )
)
def test_an_answer_of_another_form_is_an_error_of_this_client(strange: dict[str, Any]) -> None:
    right = {
        "path": "datasets/kalshi/crypto/2026-11-20/trade_1100.parquet",
        "sha256": "0" * 64,
        "bytes": 1,
        "rowCount": 1,
        "signedUrl": "/v1/files/x",
        "expiresAt": "2026-11-20T12:00:00.000Z",
    }
    assert ssmd.File.parse(right, "https://ssmd.example").url == "https://ssmd.example/v1/files/x"
    try:
        found = ssmd.File.parse({**right, **strange}, "https://ssmd.example")
    except ssmd.ClientError:
        return
    assert found.bytes >= 0 and found.url.startswith("http") and len(found.sha256) == 64
