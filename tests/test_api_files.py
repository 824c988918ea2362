"""Feeds, catalog, downloads, signed URLs and the files behind them; `ssmd share`."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import polars
import pytest
from api_rig import ApiRig, api_settings
from gcs_rig import BUCKET, running_gcs
from hypothesis import given
from hypothesis import strategies as st
from installation import CLOCK, Installation
from little_archive import TRADE, LittleArchive, at
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_api.errors import ForbiddenError
from ssmd_api.files.content import parse_range
from ssmd_api.files.keyring import FILE, Keyring
from ssmd_api.files.signing import Grant, check, signature, signed_url
from ssmd_core.archive.manifest import FileEntry, Manifest, save_manifest
from ssmd_core.archive.paths import MANIFEST
from ssmd_core.errors import ConfigError
from ssmd_core.storage.store import Storage
from ssmd_stream.upload.sync import sync_archive

DAY = "2026-11-20"
READ = "datasets:read"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEY = bytes(range(32))
GRANT = Grant("api.test", f"datasets/kraken/spot/{DAY}/trade_1100.parquet", 1_795_180_000, "sk_live_abcdefgh", "0" * 64)


def download(rig: ApiRig, key: str, feed: str = "kraken", **more: Any) -> Any:
    return rig.json("/v1/data/download", key, **{"feed": feed, "from": DAY, "to": DAY, **more})


def trades(rig: ApiRig, key: str) -> dict[str, Any]:
    found: dict[str, Any] = download(rig, key, type="trade")["files"][0]
    return found


@pytest.fixture(scope="module")
def rig(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRig]:
    """One API on the installation for all tests that change nothing but keys of their own."""
    data = tmp_path_factory.mktemp("files")
    for tree in ("archive", "datasets"):
        (data / tree).symlink_to(installation.data / tree)
    with (
        installation.copy(f"files_{os.getpid()}") as url,
        ApiRig(api_settings(url, data, SSMD_CLOCK=CLOCK)).running() as rig,
    ):
        yield rig


@pytest.fixture
def own_files(installed_api: ApiRig) -> ApiRig:
    """The installation's API on a copy of its files: these may be changed."""
    for tree in ("archive", "datasets"):
        link = installed_api.data / tree
        real = link.resolve()
        link.unlink()
        for feed in ("kraken",):
            shutil.copytree(real / feed, link / feed)
        if tree == "datasets":
            shutil.copy(real / "catalog.json", link)
    return installed_api


# --- listing


def test_feeds_and_catalog_tell_what_the_key_reaches(rig: ApiRig) -> None:
    everything = rig.json("/v1/data/feeds", rig.key(READ))
    assert [entry["name"] for entry in everything["feeds"]] == ["kalshi", "kraken", "kraken-futures", "polymarket"]
    kraken = everything["feeds"][1]
    assert (
        kraken["dateMin"] == kraken["dateMax"] == DAY and kraken["totalFiles"] > 0 and "trade" in kraken["messageTypes"]
    )
    own = rig.key(READ, feeds=["kraken"])
    assert [entry["name"] for entry in rig.json("/v1/data/feeds", own)["feeds"]] == ["kraken"]
    assert rig.get("/v1/data/feeds", own, feed="kalshi").status_code == 403
    assert {entry["feed"] for entry in rig.json("/v1/data/catalog", own)["feeds"]} == {"kraken"}
    days = rig.json("/v1/data/catalog", own, feed="kraken")
    assert [(day["date"], day["hours"]) for day in days["dates"]] == [(DAY, ["1100"])]
    # The catalog's sums are of all days; a key for others gets none of them.
    elsewhere = rig.key(READ, days=(date(2026, 11, 21), date(2026, 11, 30)))
    assert {entry["totalFiles"] for entry in rig.json("/v1/data/feeds", elsewhere)["feeds"]} == {0}
    assert {entry["dateMin"] for entry in rig.json("/v1/data/feeds", elsewhere)["feeds"]} == {None}
    assert rig.json("/v1/data/catalog", elsewhere)["feeds"] == []
    moved = rig.http.get(f"/datasets?feed=kraken&from={DAY}")
    assert moved.status_code == 301 and moved.headers["location"] == f"/v1/data/catalog?feed=kraken&from={DAY}"


def test_an_empty_installation_answers_too(api: ApiRig) -> None:
    key = api.key(READ)
    assert api.json("/v1/data/feeds", key)["catalogGeneratedAt"] is None
    assert api.json("/v1/data/catalog", key) == {"catalogGeneratedAt": None, "feeds": []}
    assert download(api, key)["files"] == []
    assert api.json("/v1/data/catalog", key, feed="kraken")["dates"] == []


def test_an_answer_has_at_most_two_hundred_files(api: ApiRig) -> None:
    key, folder = api.key(READ), api.data / "archive/kraken/spot" / DAY
    folder.mkdir(parents=True)
    files = [
        FileEntry(f"1100-{late:02d}.jsonl.gz", "", "", 1, 1, 1, late, late, {}, "0" * 64, "") for late in range(1, 202)
    ]
    save_manifest(folder, Manifest("kraken", "spot", DAY, files=files[:200]))
    assert len(download(api, key, kind="raw")["files"]) == 200
    save_manifest(folder, Manifest("kraken", "spot", DAY, files=files))
    refused = api.get("/v1/data/download", key, **{"feed": "kraken", "from": DAY, "to": DAY, "kind": "raw"})
    assert refused.status_code == 400 and "201 files" in refused.json()["error"]


def test_downloads_are_what_the_manifests_name(rig: ApiRig) -> None:
    key = rig.key(READ)
    answer = download(rig, key)
    assert (answer["feed"], answer["from"], answer["to"], answer["expiresIn"]) == ("kraken", DAY, DAY, 43_200)
    for file in answer["files"]:
        content = httpx2.get(file["signedUrl"]).content
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
        assert polars.read_parquet(content).height == file["rowCount"]
    # Ten hours before the first, one that has three of four slots; the running one is not missing.
    states = {hour["hour"]: hour["state"] for hour in answer["missing"]}
    assert states == {**{f"{hour:02d}00": "missing" for hour in range(11)}, "1200": "not_built"}
    raw = download(rig, key, kind="raw")
    assert [file["name"] for file in raw["files"]] == [
        f"{hour}.jsonl.gz" for hour in (1100, 1115, 1130, 1145, 1200, 1215, 1230)
    ]
    assert {hour["state"] for hour in raw["missing"] if hour["hour"] == "1200"} == {"partial"}
    content = httpx2.get(raw["files"][0]["signedUrl"]).content
    assert content[:2] == b"\x1f\x8b" and hashlib.sha256(content).hexdigest() == raw["files"][0]["sha256"]


def test_polars_scans_signed_urls(rig: ApiRig) -> None:
    files = download(rig, rig.key(READ), "kalshi", type="trade")["files"]
    frame = polars.scan_parquet([file["signedUrl"] for file in files]).select("_nats_seq").collect()
    assert frame.height == sum(file["rowCount"] for file in files)


@pytest.mark.parametrize(
    ("given", "status", "field"),
    [
        ({}, 400, "feed"),
        ({"feed": "kraken"}, 400, "from"),
        ({"feed": "nasdaq", "from": "2026-11-20", "to": "2026-11-01"}, 400, "feed"),
        ({"feed": "kalshi", "from": "2026-13-45", "to": DAY}, 400, "from"),
        ({"feed": "kalshi", "from": "2026-11-21", "to": DAY}, 400, "from"),
        ({"feed": "kalshi", "from": "2026-11-01", "to": "2026-11-08"}, 400, "to"),
        ({"feed": "kalshi", "from": DAY, "to": DAY}, 403, "feed"),
        ({"feed": "kraken", "from": "2026-11-01", "to": "2026-11-07"}, 403, "from"),
        ({"feed": "kraken", "from": DAY, "to": DAY, "expires": "13h"}, 400, "expires"),
        ({"feed": "kraken", "from": DAY, "to": DAY, "expires": "0h"}, 400, "expires"),
        ({"feed": "kraken", "from": DAY, "to": DAY, "type": "../trade"}, 400, "type"),
        ({"feed": "kraken", "from": DAY, "to": DAY, "type": "trade", "kind": "raw"}, 400, "type"),
        ({"feed": "kraken", "from": DAY, "to": DAY, "stream": "../futures"}, 400, "stream"),
        ({"feed": "kraken", "from": DAY, "to": DAY, "kind": "csv"}, 400, "kind"),
    ],
)
def test_downloads_that_are_refused(rig: ApiRig, given: dict[str, str], status: int, field: str) -> None:
    key = rig.key(READ, feeds=["kraken"], days=(date(2026, 11, 18), date(2026, 11, 30)))
    response = rig.get("/v1/data/download", key, **given)
    assert (response.status_code, response.json().get("field", "")) == (status, field), response.text


def test_days_are_cut_to_the_key_and_the_access_is_written_down(rig: ApiRig) -> None:
    key = rig.key(READ, days=(date(2026, 11, 20), date(2026, 11, 30)), expires_in=timedelta(hours=3))
    answer = download(rig, key, **{"from": "2026-11-16", "to": "2026-11-22", "type": "trade"})
    assert (answer["from"], answer["to"]) == (DAY, "2026-11-22")
    for _ in range(3):
        assert httpx2.get(answer["files"][0]["signedUrl"], headers={"Range": "bytes=0-9"}).status_code == 206
    rows = rig.sql(
        "SELECT route, feed, date_from::text, date_to::text, msg_type, files_count FROM data_access_log "
        "WHERE key_prefix = %s ORDER BY id",
        (_prefix(rig, key),),
    )
    assert rows == [
        ("/v1/data/download", "kraken", DAY, "2026-11-22", "trade", len(answer["files"])),
        ("/v1/files/{path:path}", "kraken", DAY, DAY, "trade", 1),
    ]


# --- signatures


def test_a_grant_holds_until_it_expires() -> None:
    right = signature("k1", KEY, GRANT)
    ends = datetime.fromtimestamp(GRANT.expires, UTC)
    check(GRANT, "k1", right, {"k1": KEY}, ends - timedelta(seconds=1))
    for moment in (ends, ends + timedelta(days=1), ends - timedelta(hours=12, seconds=90)):
        with pytest.raises(ForbiddenError):
            check(GRANT, "k1", right, {"k1": KEY}, moment)


@given(st.sampled_from(Grant._fields), st.text(max_size=70) | st.integers(0, 2**40))
def test_another_grant_has_another_signature(field: str, value: str | int) -> None:
    changed = GRANT._replace(**{field: int(value) if field == "expires" and isinstance(value, int) else str(value)})
    if (changed.host.lower(), *map(str, changed[1:])) != (GRANT.host, *map(str, GRANT[1:])):
        with pytest.raises(ForbiddenError, match="does not fit"):
            check(changed, "k1", signature("k1", KEY, GRANT), {"k1": KEY}, NOW)


def test_texts_do_not_run_into_each_other() -> None:
    """What moves from one text to the next, separators included, is signed differently."""
    path, prefix = GRANT.path, GRANT.key_prefix
    signatures = {
        signature("k1", KEY, GRANT),
        signature("k1", KEY, GRANT._replace(path=path[:-1], expires=int(f"7{GRANT.expires}"))),
        signature("k1", KEY, GRANT._replace(path=f"{path}\n{GRANT.expires}")),
        signature("k1", KEY, GRANT._replace(key_prefix=prefix + "0", sha256="0" * 63)),
        signature("k1", KEY, GRANT._replace(key_prefix=f"{prefix}64:", sha256="0" * 61)),
        signature("k11", KEY, GRANT),
    }
    assert len(signatures) == 6


def test_signing_keys_rotate(tmp_path: Path) -> None:
    one, two = base64.b64encode(KEY).decode(), base64.urlsafe_b64encode(b"\xff" * 32).decode()
    old = Keyring({"SSMD_SIGNING_KEYS": f"old:{one}"}, tmp_path).keys
    both = Keyring({"SSMD_SIGNING_KEYS": f"new:{two}, old:{one}"}, tmp_path).keys
    assert next(iter(both)) == "new"
    url = dict(parse_qsl(urlsplit(signed_url("http://api.test", "old", old["old"], GRANT)).query))
    check(GRANT, "old", url["signature"], both, NOW)
    with pytest.raises(ForbiddenError):
        check(GRANT, "old", url["signature"], {"new": both["new"]}, NOW)
    assert not (tmp_path / FILE).exists()
    for text in ("old", f"a b:{one}", f"a:{one},a:{two}", "a:????", f"a:{one[:20]}", ",", f"{one}"):
        with pytest.raises(ConfigError) as caught:
            Keyring({"SSMD_SIGNING_KEYS": text}, tmp_path)
        assert one[:16] not in str(caught.value)


def test_a_signing_key_is_made_once_and_kept_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: dict(Keyring({}, tmp_path).keys), range(8)))
    assert all(keys == found[0] for keys in found) and len(found[0]) == 1
    path = tmp_path / FILE
    assert path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]
    keyring = Keyring({}, tmp_path)
    first = dict(keyring.keys)
    content = json.loads(path.read_text())
    content["keys"].insert(0, {"id": "next", "key": base64.b64encode(b"n" * 32).decode()})
    path.write_text(json.dumps(content))
    assert list(keyring.keys) == ["next", *first]  # without a restart
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="0640"):
        Keyring({}, tmp_path)


# --- serving


def test_a_tampered_url_is_refused(rig: ApiRig) -> None:
    url = trades(rig, rig.key(READ))["signedUrl"]
    other = rig.key(READ)
    parts, query = urlsplit(url), dict(parse_qsl(urlsplit(url).query))
    assert httpx2.get(url).status_code == 200
    # The order of parameters says nothing; everything else does.
    assert httpx2.get(f"{url.partition('?')[0]}?{urlencode(dict(reversed(query.items())))}").status_code == 200
    changed = {
        "expires": str(int(query["expires"]) + 1),
        "for": _prefix(rig, other),
        "sha256": "f" * 64,
        "key": query["key"] + "0",
        "signature": query["signature"][:-2] + ("AA" if query["signature"][-2:] != "AA" else "BB"),
    }
    for name, value in changed.items():
        got = httpx2.get(f"{url.partition('?')[0]}?{urlencode({**query, name: value})}")
        assert got.status_code == 403, (name, got.text)
    assert httpx2.get(f"{url}&extra=1").status_code == 400
    assert httpx2.get(f"{url}&expires={query['expires']}").status_code == 400
    assert httpx2.get(url.partition("?")[0]).status_code == 400
    assert httpx2.get(url, headers={"Host": "elsewhere.test"}).status_code == 403
    assert httpx2.post(url).status_code == 405
    for path in (
        parts.path.replace("trade_", "ticker_"),
        parts.path.replace("trade", "tr%C3%A4de"),
        parts.path + "%00",
    ):
        assert httpx2.get(url.replace(parts.path, path)).status_code in {403, 404}


HOSTILE_PATHS = (
    "datasets/../signing-keys.json", "datasets/%2e%2e/signing-keys.json", "datasets/..%5csigning-keys.json",
    "%2fetc%2fpasswd", "file:%2f%2f%2fetc%2fpasswd", "signing-keys.json", "datasets/catalog.json",
    f"archive/kraken/spot/{DAY}/manifest.json", f"datasets/kraken/spot/{DAY}/.lock",
    f"archive/kraken/spot/{DAY}/1300.jsonl.gz.part", f"datasets/kraken/spot/{DAY}/{'a' * 3000}_1100.parquet",
    f"archive/kraken/spot/{DAY}/../../../../signing-keys.json", f"datasets/kraken/spot/{DAY}/trade_1100.parquet%00",
)  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_nothing_else_is_served_even_with_a_right_signature(rig: ApiRig, path: str) -> None:
    """As if the signing key were known: what stands in no manifest stays where it is."""
    url = trades(rig, rig.key(READ))["signedUrl"]
    decoded = httpx2.URL(f"http://x/{path}").path[1:]
    assert get_signed(rig, url, path, decoded).status_code in {403, 404}


def test_a_url_holds_no_longer_than_twelve_hours(rig: ApiRig) -> None:
    """With a right signature, too: as if an older release, or somebody with the key, had made it."""
    file = trades(rig, rig.key(READ))
    now = int(datetime.now(UTC).timestamp())
    for expires, status in ((now + 60, 200), (now - 1, 403), (now + 13 * 3600, 403), (10**17, 403), (-1, 403)):
        got = get_signed(rig, file["signedUrl"], file["path"], file["path"], expires=expires)
        assert got.status_code == status, expires


def get_signed(rig: ApiRig, url: str, path: str, decoded: str, **more: int) -> httpx2.Response:
    query = {**dict(parse_qsl(urlsplit(url).query)), **{name: str(value) for name, value in more.items()}}
    key_id, key = next(iter(rig.services.files.keys().items()))
    grant = Grant(urlsplit(url).netloc, decoded, int(query["expires"]), query["for"], query["sha256"])
    return httpx2.get(
        f"{rig.url}/v1/files/{path}?{urlencode({**query, 'key': key_id, 'signature': signature(key_id, key, grant)})}"
    )


def test_links_out_and_unlisted_files_are_not_served(own_files: ApiRig, tmp_path: Path) -> None:
    file = trades(own_files, own_files.key(READ))
    path = own_files.data / file["path"]
    secret = tmp_path / "secret"
    secret.write_bytes(path.read_bytes())
    unlisted = path.with_name("ticker_2300.parquet")
    unlisted.write_bytes(path.read_bytes())
    name = str(unlisted.relative_to(own_files.data))
    assert get_signed(own_files, file["signedUrl"], name, name).status_code == 404
    path.unlink()
    path.symlink_to(secret)
    assert httpx2.get(file["signedUrl"]).status_code == 410
    path.unlink()
    os.mkfifo(path)  # would be waited for, if it were opened as a file is
    assert httpx2.get(file["signedUrl"], timeout=5).status_code == 410


def test_a_file_that_has_changed_is_gone(own_files: ApiRig) -> None:
    file = trades(own_files, own_files.key(READ))
    path = own_files.data / file["path"]
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))  # in place, of the same size, the manifest as it was
    response = httpx2.get(file["signedUrl"], headers={"Range": "bytes=10-"})
    assert response.status_code == 410 and response.json()["code"] == "gone"
    (path.parent / "parquet-manifest.json").write_bytes(b"{}")
    damaged = own_files.get("/v1/data/download", own_files.key(READ), **{"feed": "kraken", "from": DAY, "to": DAY})
    assert damaged.status_code == 503 and str(own_files.data) not in damaged.text


def test_a_url_ends_with_its_key(rig: ApiRig) -> None:
    key = rig.key(READ)
    url, raw = (
        trades(rig, key)["signedUrl"],
        download(rig, key, kind="raw")["files"][0]["signedUrl"],
    )
    assert httpx2.get(url).status_code == httpx2.get(raw).status_code == 200
    prefix = _prefix(rig, key)
    edits = (
        "UPDATE api_keys SET date_range_end = '2026-11-01'",
        "UPDATE api_keys SET date_range_end = '2099-01-01', allowed_feeds = '{kalshi}'",
        "UPDATE api_keys SET allowed_feeds = '{*}', scopes = '{secmaster:read}'",
        "UPDATE api_keys SET scopes = '{datasets:read}', revoked_at = now()",
    )
    for edit in edits:
        rig.sql(f"{edit} WHERE key_prefix = %s", (prefix,))
        until = datetime.now(UTC) + timedelta(seconds=5)
        while (status := httpx2.get(url).status_code) == 200 and datetime.now(UTC) < until:
            pass
        assert status == 403, edit
    assert httpx2.get(raw).status_code == 403
    short = rig.key(READ, expires_in=timedelta(minutes=30))
    rig.sql("UPDATE api_keys SET expires_at = %s WHERE key_prefix = %s", (f"{DAY} 13:40+00", _prefix(rig, short)))
    until = datetime.now(UTC) + timedelta(seconds=5)
    while (left := download(rig, short)["expiresIn"]) > 1_800 and datetime.now(UTC) < until:
        pass
    assert 0 < left <= 1_800


def _prefix(rig: ApiRig, key: str) -> str:
    found: str = rig.sql("SELECT key_prefix FROM api_keys WHERE %s LIKE key_prefix || '%%'", (key,))[0][0]
    return found


def test_ranges_and_conditions(rig: ApiRig) -> None:
    file = trades(rig, rig.key(READ))
    url, tag = file["signedUrl"], f'"{file["sha256"]}"'

    def get(**headers: str) -> httpx2.Response:
        return httpx2.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})

    whole = get()
    size = len(whole.content)
    assert whole.headers["etag"] == tag and whole.headers["content-type"] == "application/vnd.apache.parquet"
    assert whole.headers["content-disposition"] == f'attachment; filename="{DAY}-trade_1100.parquet"'
    assert whole.headers["accept-ranges"] == "bytes" and "content-encoding" not in whole.headers
    for asked, start, end in (
        ("bytes=0-0", 0, 1), ("bytes=4-99", 4, 100), ("bytes=10-", 10, size), ("bytes=-8", size - 8, size),
        (f"bytes=-{size * 2}", 0, size), (f"bytes=5-{size * 9}", 5, size), (f"bytes={size - 1}-", size - 1, size),
    ):  # fmt: skip
        part = get(Range=asked, If_Range=tag)
        assert (part.status_code, part.content) == (206, whole.content[start:end]), asked
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    for asked in (f"bytes={size}-", "bytes=-0", f"bytes={'9' * 18}-"):
        refused = get(Range=asked)
        assert refused.status_code == 416 and refused.headers["content-range"] == f"bytes */{size}"
    for asked in ("bytes=0-1,4-5", "bytes=5-2", "bytes=", "pages=1-2", "bytes=a-b", f"bytes={'9' * 40}-"):
        assert (get(Range=asked).status_code, get(Range=asked).content) == (200, whole.content), asked
    for other in ('"0"', f"W/{tag}", "Fri, 20 Nov 2026 12:00:00 GMT"):
        assert get(Range="bytes=0-3", If_Range=other).status_code == 200
    for known in (tag, f'"x", W/{tag}', "*"):
        same = get(If_None_Match=known)
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert get(If_None_Match='"x"').status_code == 200
    head = httpx2.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 1_000))
def test_a_range_lies_within_the_file(text: str, size: int) -> None:
    try:
        span = parse_range(text, size)
    except ValueError:
        return
    assert span is None or 0 <= span.start < span.end <= size


def test_urls_name_the_public_address(database_url: str, tmp_path: Path) -> None:
    LittleArchive(tmp_path / "archive").seal(at(f"{DAY}T11:00"), [TRADE])
    settings = api_settings(
        database_url, tmp_path, SSMD_API_PUBLIC_URL="https://data.example.org:443", SSMD_CLOCK=CLOCK
    )
    with ApiRig(settings).running() as rig:
        (file,) = download(rig, rig.key(READ), kind="raw")["files"]
        assert file["signedUrl"].startswith(
            f"https://data.example.org/v1/files/archive/kraken/spot/{DAY}/1100.jsonl.gz?"
        )
        target = file["signedUrl"].removeprefix("https://data.example.org")
        assert rig.http.get(target, headers={"Host": "data.example.org"}).status_code == 200
        assert rig.http.get(target).status_code == 403


# --- from a bucket


def test_downloads_come_from_the_bucket_where_there_is_one(installation: Installation, tmp_path: Path) -> None:
    with running_gcs() as gcs, installation.copy("files_of_a_bucket") as database_url:
        environment = gcs.environment(tmp_path)
        url = f"gs://{BUCKET}/ssmd"
        (tmp_path / "empty").mkdir()
        data = tmp_path / "uploading"
        data.mkdir()
        for tree in ("archive", "datasets"):
            (data / tree).symlink_to(installation.data / tree)
        assert sync_archive(data, Storage.open(url, environment)).holds
        settings = api_settings(database_url, tmp_path / "empty", SSMD_CLOCK=CLOCK, SSMD_STORAGE_URL=url, **environment)
        with ApiRig(settings).running() as rig:
            key = rig.key(READ)
            for kind in ("parquet", "raw"):
                answer = download(rig, key, kind=kind)
                assert answer["files"]
                for file in answer["files"]:
                    assert "X-Goog-Signature" in file["signedUrl"] and "X-Goog-Expires=43200" in file["signedUrl"]
                    got = httpx2.get(file["signedUrl"])
                    assert hashlib.sha256(got.content).hexdigest() == file["sha256"]
                    assert got.headers["content-disposition"] == f'attachment; filename="{DAY}-{file["name"]}"'
            assert rig.json("/v1/data/feeds", key)["catalogGeneratedAt"]
            # What is built here, and not there yet, is told apart from what nobody has.
            (rig.data / "archive").symlink_to(installation.data / "archive")
            (rig.data / "datasets").symlink_to(installation.data / "datasets")
            partial = gcs.content(f"ssmd/datasets/kraken/spot/{DAY}/parquet-manifest.json")
            gcs.ask(
                "DELETE", f"/storage/v1/b/{BUCKET}/o/ssmd%2Fdatasets%2Fkraken%2Fspot%2F{DAY}%2Fparquet-manifest.json"
            )
            behind = download(rig, key)
            states = {hour["hour"]: hour["state"] for hour in behind["missing"]}
            assert (states["1000"], states["1100"], states["1200"]) == ("missing", "not_uploaded", "not_built")
            gcs.write(f"ssmd/datasets/kraken/spot/{DAY}/parquet-manifest.json", partial, {})
            # A manifest that has changed there is seen; a damaged one is not believed.
            name = f"ssmd/archive/kraken/spot/{DAY}/{MANIFEST}"
            gcs.write(name, gcs.content(name).replace(b"kraken", b"krakeN", 1), {})
            damaged = rig.get("/v1/data/download", key, **{"feed": "kraken", "from": DAY, "to": DAY})
            assert damaged.status_code == 503 and damaged.json()["code"] == "unavailable"


# --- the command line


@pytest.fixture
def shell(rig: ApiRig, monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    """A shell that knows the API and a key for one feed."""
    monkeypatch.setenv("SSMD_API_URL", rig.url)
    monkeypatch.setenv("SSMD_API_KEY", rig.key(READ, feeds=["kraken"]))
    yield CliRunner()


def test_share_prints_urls_and_nothing_else(shell: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    done = shell.invoke(app, ["share", "--feed", "kraken", "--date", DAY, "--type", "trade"])
    assert done.exit_code == 0, done.output
    urls = done.stdout.splitlines()
    assert urls and all(httpx2.get(url).status_code == 200 for url in urls)
    assert done.stderr.splitlines()[1:] == [
        f"missing: spot {DAY} 0000 to 1000, 11 hours",
        f"not built: spot {DAY} 1200",
    ]
    answer = json.loads(shell.invoke(app, ["share", "--feed", "kraken", "--from", DAY, "--to", DAY, "--json"]).stdout)
    assert answer["files"] and answer["feed"] == "kraken"
    listed = shell.invoke(app, ["share", "feeds"])
    assert listed.exit_code == 0 and "kraken" in listed.stdout and "kalshi" not in listed.stdout
    for arguments, code, words in (
        (["--feed", "kalshi", "--date", DAY], 1, "does not reach the feed kalshi (403, request "),
        (["--feed", "kraken", "--date", "2026-11-19"], 1, "no parquet file of kraken"),
        (["--feed", "kraken", "--date", "yesterday"], 2, "(400, request "),
        (["--feed", "kraken"], 2, "--date"),
        (["--date", DAY], 2, "--feed"),
        (["--feed", "kraken", "--date", DAY, "--to", DAY], 2, "--date, or"),
    ):
        failed = shell.invoke(app, ["share", *arguments])
        assert (failed.exit_code, failed.stdout) == (code, "") and words in failed.stderr, failed.stderr
        assert failed.stderr.splitlines()[-1].startswith("ssmd: ")
    monkeypatch.setenv("SSMD_API_URL", "http://127.0.0.1:9")
    assert "does not answer" in shell.invoke(app, ["share", "feeds"]).stderr
    monkeypatch.setenv("SSMD_API_URL", "nonsense")
    assert shell.invoke(app, ["share", "feeds"]).exit_code == 2
    monkeypatch.setenv("SSMD_API_URL", "http://127.0.0.1:9")
    for secret in ("sk_test_secret\nx", "sk_test_secret\u00e9"):  # what no header can hold
        monkeypatch.setenv("SSMD_API_KEY", secret)
        refused = shell.invoke(app, ["share", "feeds"])
        assert refused.exit_code == 2 and "secret" not in refused.stderr and "SSMD_API_KEY" in refused.stderr
    monkeypatch.delenv("SSMD_API_KEY")
    assert shell.invoke(app, ["share", "feeds"]).exit_code == 2
