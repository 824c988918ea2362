"""From archive to parquet: every message accounted for, every number what the venue wrote."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_archive import LittleArchive, at

from ssmd_core.archive.manifest import FileEntry, load_manifest, save_manifest
from ssmd_core.archive.members import member
from ssmd_core.archive.tally import classify
from ssmd_core.datasets import order, project, writer
from ssmd_core.datasets.build import HourReport, build_hour
from ssmd_core.datasets.catalog import load_catalog
from ssmd_core.datasets.manifest import load_parquet_manifest
from ssmd_core.errors import ArchiveError, TornFileError
from ssmd_core.feeds import get
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import format_line

HOUR = at("2026-11-20T11:00:00")
DELTA = (
    b'{"type":"orderbook_delta","sid":1,"seq":%d,"msg":{"market_ticker":"KX-1","price_dollars":"0.5400",'
    b'"delta_fp":"-10.00","side":"no","ts":"2026-08-05T11:45:36.564039Z","ts_ms":1785930336564}}'
)


class Hour:
    """One stream's archive and the datasets made of it."""

    def __init__(self, root: Path, feed: str, stream: str = "x") -> None:
        self.feed = get(feed)
        self.stream = stream
        self.archive = LittleArchive(root / "archive", feed, stream)
        self.datasets = root / "datasets"

    def build(self, threads: int = 2) -> HourReport:
        report = build_hour(self.archive.root, self.datasets, self.feed, self.stream, HOUR, threads=threads)
        assert report.balanced, report
        return report

    def of(self, *messages: bytes) -> HourReport:
        """Seal the messages in the hour's first slot and build."""
        self.archive.seal(HOUR, messages)
        return self.build()

    @property
    def folder(self) -> Path:
        return self.datasets / self.feed.name / self.stream / f"{HOUR:%Y-%m-%d}"

    def table(self, message_type: str) -> pa.Table:
        return pq.read_table(self.folder / f"{message_type}_{HOUR:%H}00.parquet")

    def rows(self, message_type: str) -> list[dict[str, Any]]:
        return self.table(message_type).to_pylist()

    def rejects(self) -> list[dict[str, Any]]:
        path = self.folder / f"rejects_{HOUR:%H}00.jsonl.gz"
        return [json.loads(line) for line in gzip.open(path)] if path.exists() else []


def payloads(path: Path) -> list[bytes]:
    """The messages of a sample file, out of their recorder's wrapper where there is one."""
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    if "recv_ms" in path.name:
        inner = "event" if path.name.startswith("gold") else "raw"
        wrapper = msgspec.defstruct("Wrapper", [(inner, msgspec.Raw)])
        return [bytes(getattr(msgspec.json.decode(line, type=wrapper), inner)) for line in lines]
    return lines


def sample_files(samples: Path) -> Iterator[tuple[str, Path]]:
    for feed in ("kalshi", "kraken", "kraken-futures", "polymarket"):
        for path in sorted((samples / feed / "ws").iterdir()):
            yield feed, path


def test_every_sample_is_accounted_for(samples: Path, tmp_path: Path) -> None:
    for feed, path in sample_files(samples):
        hour = Hour(tmp_path / path.name, feed)
        messages = payloads(path)
        report = hour.of(*messages)
        kinds = [classify(hour.feed, message)[0] for message in messages]
        for kind in set(kinds):
            if hour.feed.schema_of(kind):
                assert report.accepted.get(kind, 0) + report.rejects.get(kind, 0) == kinds.count(kind)
                assert report.rows.get(kind), (path, kind, hour.rejects())
            else:
                assert report.no_schema[kind] == kinds.count(kind), (path, kind)
        assert not report.rejects, (path, hour.rejects()[:3])
        assert [source.records for source in report.sources] == [len(messages)]


def test_kalshi_numbers_are_the_venues(samples: Path, tmp_path: Path) -> None:
    messages = payloads(samples / "kalshi/ws/gold15m_trades_part.jsonl.gz")
    hour = Hour(tmp_path, "kalshi")
    hour.of(*messages)
    rows = hour.rows("trade")
    assert len(rows) == len(messages)
    for row, message in zip(rows, map(orjson.loads, messages), strict=True):
        body = message["msg"]
        assert row["price"] == Decimal(body["yes_price_dollars"])
        assert row["count"] == Decimal(body["count_fp"])
        assert (row["trade_id"], row["exchange_seq"], row["side"]) == (
            body["trade_id"],
            message["seq"],
            body["taker_side"],
        )
        assert row["ts"] == datetime.fromtimestamp(body["ts_ms"] // 1000, UTC) + timedelta(
            milliseconds=body["ts_ms"] % 1000
        )


def test_kalshi_books_are_the_venues(samples: Path, tmp_path: Path) -> None:
    messages = payloads(samples / "kalshi/ws/gold15m_snapshots_39_windows.jsonl")
    hour = Hour(tmp_path, "kalshi")
    hour.of(*messages)
    for row, message in zip(hour.rows("orderbook_snapshot"), map(orjson.loads, messages), strict=True):
        for side in ("yes", "no"):
            wanted = message["msg"].get(f"{side}_dollars_fp")
            got = row[f"{side}_bids"]
            # Unknown is not empty: a side that is not in the message is null.
            assert got == (wanted and [{"price": Decimal(p), "size": Decimal(q)} for p, q in wanted])


def test_all_kalshi_generations_fill_the_same_columns(samples: Path, tmp_path: Path) -> None:
    for path in sorted((samples / "kalshi/ws").glob("docs_*.jsonl")):
        hour = Hour(tmp_path / path.name, "kalshi")
        hour.of(*payloads(path))
        ticker, trade = hour.rows("ticker")[0], hour.rows("trade")[0]
        delta, snapshot = hour.rows("orderbook_delta")[0], hour.rows("orderbook_snapshot")[0]
        event, created = hour.rows("event_lifecycle")[0], hour.rows("market_lifecycle_v2")[0]
        assert (ticker["last_price"], ticker["yes_ask"], ticker["volume"]) == (Decimal("0.48"), Decimal("0.53"), 33896)
        assert ticker["dollar_volume"] == 16948
        assert ticker["ts"] == trade["ts"] == at("2022-11-22T20:44:01" if trade["ts"].second == 1 else "")
        assert (trade["price"], trade["count"], trade["side"]) == (Decimal("0.36"), 136, "no")
        assert (delta["price"], delta["delta"], delta["side"]) == (Decimal("0.96"), -54, "yes")
        assert snapshot["yes_bids"][0] == {"price": Decimal("0.08"), "size": Decimal(300)}
        assert event["subtitle"] and created["event_type"] == "created" and created["floor_strike"] == "4487"
        assert (trade["trade_id"] is None) == ("2026-01-16" in path.name)


def test_old_cents_are_exact_dollars(samples: Path, tmp_path: Path) -> None:
    hour = Hour(tmp_path, "kalshi")
    hour.of(
        b'{"type":"ticker","sid":1,"msg":{"market_ticker":"A","price":12,"yes_bid":11,"no_ask":0,"ts":1732579880}}',
        b'{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"A","yes":[[8,300],[22,333]]}}',
        b'{"type":"market_lifecycle_v2","sid":1,"msg":{"market_ticker":"A","event_type":"determined","settlement_value":50}}',
    )
    ticker = hour.rows("ticker")[0]
    assert (ticker["last_price"], ticker["yes_bid"], ticker["no_ask"]) == (Decimal("0.12"), Decimal("0.11"), Decimal(0))
    assert ticker["yes_ask"] is None
    assert hour.rows("orderbook_snapshot")[0]["yes_bids"][1] == {"price": Decimal("0.22"), "size": Decimal(333)}
    assert hour.rows("orderbook_snapshot")[0]["no_bids"] is None
    assert hour.rows("market_lifecycle_v2")[0]["settlement_value"] == Decimal("0.5")


def test_kraken_numbers_and_ids(samples: Path, tmp_path: Path) -> None:
    hour = Hour(tmp_path, "kraken")
    hour.of(*payloads(samples / "kraken/ws/live_oneliners_2026.jsonl"))
    ids = [row["connection_id"] for row in hour.rows("status")]
    assert ids == ["15113583034416118705", "18125794168470749634", "9471984923908980762"]
    assert hour.rows("ticker")[1]["ask_qty"] == 0.00044780
    trades = hour.rows("trade")
    assert [(row["symbol"], row["trade_id"], row["is_snapshot"]) for row in trades[1:]] == [
        ("ETH/USD", "62886870", True),
        ("BTC/USD", "100320028", True),
    ]
    assert hour.table("trade").schema.field("price").type == pa.float64()
    instrument = Hour(tmp_path / "i", "kraken")
    instrument.of(*payloads(samples / "kraken/ws/instrument_snapshot_truncated.jsonl"))
    assert [row["qty_increment"] for row in instrument.rows("instrument")] == [1e-8, 1e-8, 1e-5, 1e-5]


def test_kraken_futures(samples: Path, tmp_path: Path) -> None:
    hour = Hour(tmp_path, "kraken-futures")
    hour.of(*payloads(samples / "kraken-futures/ws/live_oneliners_2026.jsonl"))
    ticker = hour.rows("ticker")[0]
    assert ticker["relative_funding_rate"] == 2.747066666667e-6
    assert ticker["relative_funding_rate_prediction"] == -7.043125e-7
    assert ticker["time"] == datetime(2026, 8, 6, 19, 58, 58, 5000, UTC)
    assert [row["seq"] for row in hour.rows("trade_snapshot")] == [421131, 421130, 421129]
    snapshot = hour.rows("book_snapshot")[0]
    assert (snapshot["tick_size"], snapshot["asks"][-1]) == (None, {"price": 65120.0, "size": 4.0})


def test_polymarket_generations(samples: Path, tmp_path: Path) -> None:
    messages = [
        payload
        for name in (
            "old_market_channel_2024_2025",
            "old_docs_changes_array_format",
            "session_btc5m_2026-08-16_excerpt",
        )
        for payload in payloads(samples / f"polymarket/ws/{name}.jsonl")
    ]
    book = orjson.loads(next(message for message in messages if b'"bids"' in message and b'"tick_size"' in message))
    without_type = orjson.dumps({name: value for name, value in book.items() if name != "event_type"})
    hour = Hour(tmp_path, "polymarket")
    hour.of(*messages, without_type)
    changes = hour.rows("price_change")
    assert changes[0]["price"] == Decimal("0.514") and changes[0]["best_bid"] is None
    assert [row["price"] for row in changes[1:4]] == [Decimal("0.4"), Decimal("0.5"), Decimal("0.3")]
    assert {row["asset_id"][:6] for row in changes[1:4]} == {"713210"}
    newest = [orjson.loads(message) for message in messages if b"price_changes" in message]
    wanted = [
        (entry["asset_id"], Decimal(entry["price"]), Decimal(entry["size"]), entry["hash"])
        for message in newest
        for entry in message["price_changes"]
    ]
    assert [(row["asset_id"], row["price"], row["size"], row["hash"]) for row in changes[4:]] == wanted
    row = hour.rows("book")[-1]
    assert row["hash"] == book["hash"] and row["asks"][0]["size"] == Decimal(book["asks"][0]["size"])
    assert row["bids_json"] == orjson.dumps(book["bids"]).decode()


def test_what_breaks_the_schema_is_rejected_with_its_reason(tmp_path: Path) -> None:
    trade = b'{"type":"trade","sid":2,"msg":{"market_ticker":"A","yes_price_dollars":%s,"count_fp":"1.00",%s"ts_ms":1}}'
    side = b'"taker_side":"yes",'
    cases = {
        trade % (b'"0.1234567"', side): "at most 6 digits after the point",
        trade % (b"0.10000000000000000000001", side): "at most 6 digits after the point",
        trade % (b'"1234567890123"', side): "too large",
        trade % (b'"abc"', side): "is not a number",
        trade % (b'"0x10"', side): "is not a number",
        trade % (b'"1_0"', side): "is not a number",
        trade % (b'""', side): "missing required column price",
        trade % (b"null", side): "missing required column price",
        trade % (b'"0.5"', b""): "missing required column side",
        trade % (b'"0.5"', b'"taker_side":{"a":1},'): "neither text nor a number",
        trade.replace(b'"market_ticker"', b'"ticker"') % (b'"0.5"', side): "missing required column market_ticker",
        trade.replace(b'"ts_ms":1', b'"ts_ms":1.5e99') % (b'"0.5"', side): "is not a time",
        b'{"type":"orderbook_snapshot","seq":1,"msg":{"market_ticker":"A","yes_dollars_fp":5}}': "is not an array",
        b'{"type":"orderbook_snapshot","seq":1,"msg":{"market_ticker":"A","yes_dollars_fp":[["1"]]}}': "is not a pair",
        b'{"type":"orderbook_delta","msg":{"market_ticker":"A","side":"no","price":1.5,"delta":1}}': "number of cents",
    }
    good = trade % (b'"0.5"', side)
    hour = Hour(tmp_path, "kalshi")
    report = hour.of(good, *cases, good)
    rejects = hour.rejects()
    assert sum(report.rejects.values()) == len(cases) == len(rejects)
    for number, (entry, (payload, reason)) in enumerate(zip(rejects, cases.items(), strict=True)):
        assert reason in entry["reason"], entry
        assert (entry["file"], entry["line"], entry["nats_seq"]) == ("1100.jsonl.gz", number + 2, number + 2)
        assert entry["raw"].startswith(payload[:-1].decode())
    assert report.accepted == {"trade": 2}
    assert report.rejects_file is not None and (hour.datasets / report.rejects_file).is_file()


def test_lines_that_are_no_messages(tmp_path: Path) -> None:
    def line(payload: bytes, seq: int) -> bytes:
        return format_line(payload, 1, seq, "c0", seq, wrapped=False) + b"\n"

    hour = Hour(tmp_path, "kalshi")
    path = hour.archive.seal(HOUR, [])
    (path.parent / "manifest.json").unlink()
    lines = [
        line(DELTA % 1, 1),
        b'{"type":"orderbook_delta","half a li\n',
        line(b'{"type":"trade","msg":{"count_fp":NaN}}', 3),
        line(b'{"type":"orderbook_delta","msg":\xff\xfe}', 4),
        line(b'{"channel":"ticker","data":[]}', 5),
        line(b'{"type":"orderbook_delta","msg":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 6),
        b"\n",
        line(DELTA.replace(b'"side":"no"', b'"side":"no","side":"yes"') % 8, 8),
        line(DELTA % 9, 9),
    ]
    path.write_bytes(member(b"".join(lines)))
    report = hour.build()
    assert report.accepted == {"orderbook_delta": 3}
    assert [row["_nats_seq"] for row in hour.rows("orderbook_delta")] == [1, 8, 9]
    assert [entry["line"] for entry in hour.rejects()] == [2, 3, 4, 5, 6, 7]
    assert all(entry["reason"] and entry["file"] == path.name for entry in hour.rejects())
    assert "raw_base64" in hour.rejects()[2]
    assert report.messages == len(lines)


def test_wrapped_and_control_messages(tmp_path: Path) -> None:
    wrapped = (DELTA % 7).replace(b'"side":"no"', b'"side":"no","_nats_seq":99,\n"_epoch":"x"')
    hour = Hour(tmp_path, "kalshi")
    report = hour.of(control_event("open", "c0"), wrapped, b"PONG", b"[]", b'{"type":"ok","sid":1,"seq":2}', DELTA % 8)
    assert report.no_schema == {"control": 1, "unparsed": 2, "ok": 1}
    assert [(row["_nats_seq"], row["exchange_seq"]) for row in hour.rows("orderbook_delta")] == [(2, 7), (6, 8)]


def test_a_file_of_another_feed_becomes_rejects(samples: Path, tmp_path: Path) -> None:
    foreign = LittleArchive(tmp_path / "archive", "polymarket", "x")
    path = foreign.seal(HOUR, payloads(samples / "polymarket/ws/session_btc5m_2026-08-16_excerpt.jsonl"))
    hour = Hour(tmp_path, "kalshi")
    folder = hour.archive.root / "kalshi" / "x" / path.parent.name
    folder.mkdir(parents=True)
    path.replace(folder / path.name)
    report = hour.build()
    assert report.rejects == {"unparsed": 70} and not report.rows and not report.outputs
    assert "Kalshi" in hour.rejects()[0]["reason"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "junk"])
def test_a_damaged_file_fails_the_hour_and_leaves_the_old_one(tmp_path: Path, damage: str) -> None:
    hour = Hour(tmp_path, "kalshi")
    hour.of(*(DELTA % number for number in range(1000)))
    before = {path.name: path.read_bytes() for path in hour.folder.iterdir() if path.is_file()}
    path = hour.archive.root / "kalshi/x/2026-11-20/1100.jsonl.gz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-20:]
    elif damage == "flipped":
        content[-6] ^= 1
    else:
        content += b"junk"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"sha256"):
        hour.build()
    (path.parent / "manifest.json").unlink()
    with pytest.raises(TornFileError, match=r"1100\.jsonl\.gz: member at byte"):
        hour.build()
    assert {path.name: path.read_bytes() for path in hour.folder.iterdir() if path.is_file()} == before


def test_late_files_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "CHUNK_BYTES", 2000)
    hour = Hour(tmp_path, "kalshi")
    hour.archive.seal(HOUR, [DELTA % number for number in range(100)])
    first = hour.archive.root / "kalshi/x/2026-11-20/1100.jsonl.gz"
    hour.archive.next_seq = 151
    hour.archive.seal(HOUR + timedelta(minutes=15), [DELTA % number for number in range(150, 200)])
    hour.archive.next_seq = 101
    late = hour.archive.seal(HOUR, [DELTA % number for number in range(100, 140)], late=1)
    # Archived twice, and another message under a sequence that is taken.
    repeated = gzip.decompress(first.read_bytes()).splitlines(keepends=True)[:5]
    conflict = repeated[0].replace(b'"_ordinal":0', b'"_ordinal":77')
    (late.parent / "manifest.json").unlink()
    late.write_bytes(late.read_bytes() + member(b"".join([*repeated, conflict])))
    report = hour.build()
    assert [row["exchange_seq"] for row in hour.rows("orderbook_delta")] == [*range(140), *range(150, 200)]
    assert report.duplicate_seqs == 5
    assert report.seq_gaps == [(140, 10)]
    assert report.messages == 191 and report.rejects == {"orderbook_delta": 1}
    assert {(entry["file"], entry["line"]) for entry in hour.rejects()} == {("1100-01.jsonl.gz", 46)}
    assert [source.last_seq for source in report.sources] == [100, 140, 200]


def test_same_input_same_bytes(samples: Path, tmp_path: Path) -> None:
    messages = payloads(samples / "kalshi/ws/gold15m_orderbook_trade_2026-08-05.jsonl.gz")
    hashes = []
    for threads, folder in ((1, "a"), (2, "b"), (2, "b")):
        hour = Hour(tmp_path / folder, "kalshi")
        if not hour.archive.root.exists():
            hour.archive.seal(HOUR, messages)
        report = hour.build(threads)
        hashes.append([output.sha256 for output in report.outputs])
    assert hashes[0] == hashes[1] == hashes[2] and len(hashes[0]) == 3


def test_parquet_file(tmp_path: Path) -> None:
    hour = Hour(tmp_path, "kalshi")
    report = hour.of(*(DELTA % number for number in range(250_000)))
    path = hour.datasets / report.outputs[0].path
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    assert groups == [100_000, 100_000, 50_000]
    metadata = file.metadata.metadata
    assert metadata[b"ssmd.schema_name"] == b"kalshi_orderbook_delta"
    assert metadata[b"ssmd.schema_version"] == b"1.0.0"
    source = json.loads(metadata[b"ssmd.source"])
    assert source["files"] == [
        {
            "name": "1100.jsonl.gz",
            "sha256": report.sources[0].sha256,
            "records": 250_000,
            "first_seq": 1,
            "last_seq": 250_000,
        }
    ]
    schema = file.schema_arrow
    assert schema.names[-4:] == ["_nats_seq", "_received_at", "_epoch", "_ordinal"]
    assert not schema.field("price").nullable and schema.field("ts").nullable
    assert schema.field("price").type == pa.decimal128(18, 6)
    assert schema.field("price").metadata[b"unit"] == b"dollars"
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.read(["_nats_seq"])["_nats_seq"].to_pylist() == list(range(1, 250_001))


def test_manifest_and_catalog(tmp_path: Path) -> None:
    hour = Hour(tmp_path, "kalshi")
    hour.of(DELTA % 1, b'{"type":"trade","msg":{}}')
    assert {path.name for path in hour.folder.glob("*_1100.*")} == {
        "orderbook_delta_1100.parquet",
        "rejects_1100.jsonl.gz",
    }
    report = hour.of(b'{"type":"ticker","msg":{"market_ticker":"A","ts":1}}')
    # What the earlier build wrote and this one did not is gone.
    assert {path.name for path in hour.folder.glob("*_1100.*")} == {"ticker_1100.parquet"}
    manifest = load_parquet_manifest(hour.folder)
    assert manifest is not None
    assert [(entry.path, entry.row_count) for entry in manifest.files] == [(report.outputs[0].path, 1)]
    assert manifest.hours["1100"].accepted == {"ticker": 1} and manifest.totals.messages == 1
    assert set(manifest.schemas) == {"ticker"}
    catalog = load_catalog(hour.datasets)
    assert catalog is not None
    [entry] = catalog.feeds
    assert (entry.prefix, entry.message_types, entry.total_rows) == ("kalshi/x", ["ticker"], 1)
    assert not list(hour.folder.glob(".build-*"))


def test_an_hour_without_files_touches_nothing(tmp_path: Path) -> None:
    hour = Hour(tmp_path, "kalshi")
    hour.of(DELTA % 1)
    (hour.archive.root / "kalshi/x/2026-11-20/1100.jsonl.gz").unlink()
    report = hour.build()
    assert not report.sources and not report.messages
    assert (hour.folder / "orderbook_delta_1100.parquet").is_file()


def test_an_empty_file_gives_no_parquet(tmp_path: Path) -> None:
    hour = Hour(tmp_path, "kalshi")
    report = hour.of()
    assert len(report.sources) == 1 and not report.outputs and report.rejects_file is None


NUMBERS = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.decimals(min_value=-1000, max_value=1000, places=6).map(str),
    st.from_regex(r"-?[0-9]{1,14}(\.[0-9]{1,8})?", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
)


@settings(max_examples=40, deadline=None)
@given(numbers=st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1, max_size=40))
def test_decimal_text_survives_exactly_or_is_rejected(
    tmp_path_factory: pytest.TempPathFactory, numbers: Sequence[tuple[str, bool]]
) -> None:
    def is_json_number(text: str) -> bool:
        try:
            return json.loads(text) is not None
        except ValueError:
            return False

    texts = [(text, quoted or not is_json_number(text)) for text, quoted in numbers]
    messages = [
        b'{"type":"trade","msg":{"market_ticker":"A","yes_price_dollars":%s,"count_fp":"1","taker_side":"no","ts":1}}'
        % (f'"{text}"' if quoted else text).encode()
        for text, quoted in texts
    ]
    hour = Hour(tmp_path_factory.mktemp("decimals"), "kalshi")
    report = hour.of(*messages)
    kept = {row["_nats_seq"]: row["price"] for row in hour.rows("trade")} if report.rows else {}
    for seq, (text, _) in enumerate(texts, 1):
        exact = Decimal(text)
        fits = exact == exact.quantize(Decimal("0.000001")) if abs(exact) < 10**12 else False
        assert (seq in kept) == fits, text
        if fits:
            assert kept[seq] == exact


def test_large_rows_close_their_group_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "CHUNK_BYTES", 300_000)
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 50_000)
    monkeypatch.setattr(project, "_LEVELS_SLICE_BYTES", 100_000)
    levels = b",".join(b'{"price":"0.%d","size":"%d"}' % (n, n) for n in range(10, 99))
    book = b'{"event_type":"book","asset_id":"1","market":"m","bids":[%s],"asks":[]}' % levels
    hour = Hour(tmp_path, "polymarket")
    report = hour.of(*([book] * 300))
    file = pq.ParquetFile(hour.datasets / report.outputs[0].path)
    assert file.metadata.num_row_groups > 1
    assert file.read(["_nats_seq"])["_nats_seq"].to_pylist() == list(range(1, 301))
    assert len(hour.rows("book")[-1]["bids"]) == 89


def test_an_hour_with_a_sealed_slot_gone_is_not_built_smaller(tmp_path: Path) -> None:
    hour = Hour(tmp_path, "kraken")
    trade = b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":1.5,"qty":2.0,'
    hour.of(trade + b'"ord_type":"limit","trade_id":1,"timestamp":"2026-09-25T17:48:26.844359Z"}]}')
    before = hour.table("trade")
    folder = next(hour.archive.root.rglob("*.jsonl.gz")).parent
    manifest = load_manifest(folder)
    assert manifest is not None
    entry = FileEntry(f"{HOUR:%H}45-07.jsonl.gz", "", "", 1, 1, 1, 2, 2, {}, "0" * 64, "")
    manifest.files.append(entry)
    save_manifest(folder, manifest)
    with pytest.raises(ArchiveError, match=f"{entry.name}: in the manifest but not there"):
        hour.build()
    assert hour.table("trade").equals(before)
