"""Names of stored files, and the port on object stores."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit
from urllib.request import urlopen

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from gcs_rig import BUCKET, EMAIL, GcsRig, running_gcs
from hypothesis import example, given
from hypothesis import strategies as st

from ssmd_core.errors import ConfigError
from ssmd_core.storage.layout import Kind, parse_path
from ssmd_core.storage.store import Storage, StorageError

GOOD = "datasets/kraken/spot/2026-11-20/trade_1100.parquet"
HOSTILE = (
    "", "/", "/etc/passwd", "..", f"../{GOOD}", "datasets/../../../etc/passwd",
    "datasets/kraken/spot/../../signing-keys.json",
    "datasets/kraken/spot/2026-11-20/..", "datasets/kraken/spot/2026-11-20/../2026-11-20/trade_1100.parquet",
    f"/{GOOD}", f"//{GOOD}", f"./{GOOD}", f"file:///{GOOD}", f"{GOOD}\0", f"{GOOD}\0.jpg", GOOD.replace("/", "\\"),
    "datasets/kraken/spot/2026-11-20/..\\..\\x_1100.parquet", "datasets/kraken/%2e%2e/2026-11-20/trade_1100.parquet",
    "datasets/kraken/spot/2026-11-20/%2e%2e%2fx_1100.parquet", "datasets/kraken/spot/2026-02-30/trade_1100.parquet",
    "datasets/kraken/spot/2026-11-20/parquet-manifest.json", "datasets/catalog.json", "signing-keys.json",
    "archive/kraken/spot/2026-11-20/manifest.json", "archive/kraken/spot/2026-11-20/1100.jsonl.gz.part",
    "datasets/kraken/spot/2026-11-20/.lock", "datasets/kraken/spot/2026-11-20/rejects_1100.jsonl.gz",
    "archive/kraken/spot/2026-11-20/trade_1100.parquet", f"{GOOD}\n", f" {GOOD}", f"{GOOD}/", GOOD + "a" * 600,
    "datasets/kraken/spot/２０２６-11-20/trade_1100.parquet",
    "datasets/kraken/sp\u2024ot/2026-11-20/trade_1100.parquet", "proof/kraken/spot/.lock", "proof/kraken/chain.jsonl",
    "proof/kraken/spot/2026-11-20/chain.jsonl", "proof/kraken/spot/2026-11-20/trade_1100.parquet", "keys/ledger.pem",
    "datasets/kraken/spot/chain.jsonl", "proof/kraken/../chain.jsonl", "proof/kraken/spot/2026-11-20/ledger_1100.tmp",
)  # fmt: skip


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsRig]:
    with running_gcs() as rig:
        yield rig


@pytest.mark.parametrize("path", HOSTILE)
def test_what_is_no_data_file_has_no_parts(path: str) -> None:
    assert parse_path(path) is None


@given(st.text(max_size=80))
@example("archive/a/b/2026-11-20/1100-01.jsonl.gz")
@example("proof/a/b/2026-11-20/state_1100.bin.gz")
@example("proof/a/b/chain.jsonl")
def test_only_the_exact_form_passes(text: str) -> None:
    found = parse_path(text)
    if found is not None:
        assert found.day.file(found.name) == text and ".." not in text


def test_a_path_and_its_parts() -> None:
    stored = parse_path(GOOD)
    assert stored is not None
    assert stored.day == (Kind.PARQUET, "kraken", "spot", "2026-11-20")
    assert (stored.type, stored.hour, stored.download_name) == ("trade", "1100", "2026-11-20-trade_1100.parquet")
    chain = parse_path("proof/kraken/spot/chain.jsonl")
    assert chain is not None and chain.day.folder == "proof/kraken/spot"
    assert (chain.type, chain.hour, chain.download_name) == ("chain", "", "kraken-spot-chain.jsonl")


def stores(kind: str, folder: Path, gcs: GcsRig) -> Storage:
    if kind == "gs":
        return Storage.open(f"gs://{BUCKET}/{folder.name}", gcs.environment(folder))
    return Storage.open({"file": f"file://{folder}/store", "memory": "memory://"}[kind], {})


@pytest.mark.parametrize("kind", ["file", "memory", "gs"])
def test_an_object_there_and_back(kind: str, tmp_path: Path, gcs: GcsRig) -> None:
    store = stores(kind, tmp_path, gcs)
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 80_000)  # 20 MB: three parts
    assert store.head(GOOD) is None and store.digest(GOOD) is None
    assert asyncio.run(store.read(GOOD, most_bytes=100)) is None
    store.put(GOOD, b"parquet", {"Content-Type": "application/vnd.apache.parquet", "sha256": "ff"})
    store.put("archive/kraken/spot/2026-11-20/1100.jsonl.gz", large, {"sha256": "ee"})
    small = store.digest(GOOD)
    assert small is not None and small.size_bytes == 7 and small.sha256 == hashlib.sha256(b"parquet").hexdigest()
    assert small.stated_sha256 == ("ff" if kind == "gs" else "")
    found = store.digest("archive/kraken/spot/2026-11-20/1100.jsonl.gz")
    assert found is not None and found.sha256 == hashlib.sha256(large.read_bytes()).hexdigest()
    listed = {one.path: one for one in store.objects("archive/kraken/spot")}
    # What is listed is what was read: by this, a later run knows that nothing has changed.
    assert {path: one.version for path, one in listed.items()} == {
        "archive/kraken/spot/2026-11-20/1100.jsonl.gz": found.version
    }
    assert list(store.objects("archive/kraken/spo")) == []
    content, version = asyncio.run(store.read(GOOD, most_bytes=100))  # type: ignore[misc]  # it is there
    assert content == b"parquet"
    assert asyncio.run(store.read(GOOD, known=version, most_bytes=100)) == "same"
    with pytest.raises(StorageError, match="7 bytes, 3 is the most"):
        asyncio.run(store.read(GOOD, most_bytes=3))


def test_gcs_urls_are_signed_as_google_checks_them(tmp_path: Path, gcs: GcsRig) -> None:
    store = stores("gs", tmp_path, gcs)
    store.put(GOOD, b"parquet", {"Content-Type": "application/x-test"})
    assert store.signs
    url, other = asyncio.run(store.sign([GOOD, "datasets/with space+&.parquet"], timedelta(hours=12)))
    with urlopen(url, timeout=10) as response:  # what fake-gcs-server gives; it does not check signatures
        assert response.read() == b"parquet" and response.headers["Content-Type"] == "application/x-test"
    for one in (url, other):
        parts = urlsplit(one)
        query = dict(parse_qsl(parts.query))
        signature = bytes.fromhex(query.pop("X-Goog-Signature"))
        date = query["X-Goog-Date"]
        scope = f"{date[:8]}/auto/storage/goog4_request"
        assert query["X-Goog-Credential"] == f"{EMAIL}/{scope}" and query["X-Goog-Expires"] == "43200"
        canonical_query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
        # The documented canonical request; the host is Google's, whatever answers for it here.
        request = f"GET\n{parts.path}\n{canonical_query}\nhost:storage.googleapis.com\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"GOOG4-RSA-SHA256\n{date}\n{scope}\n{digest}".encode()
        gcs.public_key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())


def test_s3_urls_are_signed_as_amazon_checks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCESS_KEY_ID", "AKTEST"), ("SECRET_ACCESS_KEY", "secret"), ("REGION", "eu-west-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    (url,) = asyncio.run(Storage.open("s3://captured/ssmd", {}).sign([GOOD], timedelta(hours=1)))
    parts = urlsplit(url)
    assert parts.path.endswith(f"/ssmd/{GOOD}")
    query = dict(parse_qsl(parts.query))
    signature, date = query.pop("X-Amz-Signature"), query["X-Amz-Date"]
    assert query["X-Amz-Expires"] == "3600"
    canonical_query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
    request = f"GET\n{parts.path}\n{canonical_query}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{date}\n{date[:8]}/eu-west-1/s3/aws4_request\n{sha256(request.encode()).hexdigest()}"
    key = b"AWS4secret"
    for step in (date[:8], "eu-west-1", "s3", "aws4_request", text):
        key = hmac.digest(key, step.encode(), sha256)
    assert key.hex() == signature


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ftp://somewhere/x", "none of"),
        ("", "names no folder"),
        ("file://relative", "names no folder"),
        ("gs://", "cannot be used"),
    ],
)
def test_a_url_that_is_no_store(url: str, word: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(word)):
        Storage.open(url, {})


def test_a_store_that_is_away_is_said_in_one_line(tmp_path: Path, gcs: GcsRig) -> None:
    environment = {**gcs.environment(tmp_path), "STORAGE_EMULATOR_HOST": "127.0.0.1:9"}
    store = Storage.open(f"gs://{BUCKET}", environment, timeout_s=1, retry_s=1)
    with pytest.raises(StorageError) as caught:
        store.digest(GOOD)
    assert "\n" not in str(caught.value) and GOOD in str(caught.value)
