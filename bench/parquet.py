"""Archive to parquet against DuckDB with hand-written columns and polars: `python -m bench.parquet`.

Each contender reads the same `.jsonl.gz`, written by ssmd's archive, in a cold process; the median of three rounds
counts. DuckDB and polars only convert; ssmd also verifies every gzip member, checks every value against its schema,
keeps rejects, counts every message and writes its manifests.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.result import Result
from ssmd_core.archive.members import member
from ssmd_core.feeds import get
from ssmd_core.messages.lines import format_line

HOUR = datetime(2026, 11, 20, 11, tzinfo=UTC)
SAMPLES = Path(os.environ.get("SSMD_SAMPLES") or Path(__file__).resolve().parents[2] / "shared" / "samples")
RAW_BYTES = 450_000_000
ROUNDS = 3
MEMBER_BYTES = 4_000_000
META = "_nats_seq:'UBIGINT',_received_at:'BIGINT',_epoch:'VARCHAR',_ordinal:'BIGINT'"
META_SELECT = "_nats_seq,make_timestamptz(_received_at) AS _received_at,_epoch,_ordinal"
COPY = (
    "COPY (SELECT {select} FROM read_json('{source}',format='newline_delimited',columns={{{columns}}})) "
    "TO '{to}' (FORMAT parquet, COMPRESSION zstd)"
)


class Case(NamedTuple):
    """One shape of messages.

    Attributes:
        feed, message_type: which.
        sample: file of real messages.
        select, columns: DuckDB's query, with the types that ssmd writes.
    """

    feed: str
    message_type: str
    sample: str
    select: str
    columns: str


CASES = {
    "flat": Case(
        "kalshi",
        "orderbook_delta",
        "kalshi/ws/gold15m_orderbook_trade_2026-08-05.jsonl.gz",
        f"sid,seq,msg.*,{META_SELECT}",
        "type:'VARCHAR',sid:'BIGINT',seq:'BIGINT',msg:'STRUCT(market_ticker VARCHAR,market_id VARCHAR,"
        "price_dollars DECIMAL(18,6),delta_fp DECIMAL(18,6),side VARCHAR,ts TIMESTAMP,ts_ms BIGINT)'," + META,
    ),
    "nested": Case(
        "polymarket",
        "price_change",
        "polymarket/ws/session_btc5m_2026-08-16_excerpt.jsonl",
        f"market,timestamp,unnest(price_changes,recursive:=true),{META_SELECT}",
        "event_type:'VARCHAR',market:'VARCHAR',timestamp:'BIGINT',price_changes:'STRUCT(asset_id VARCHAR,"
        "price DECIMAL(18,6),size DECIMAL(18,6),side VARCHAR,hash VARCHAR,best_bid DECIMAL(18,6),"
        "best_ask DECIMAL(18,6))[]'," + META,
    ),
}


class Cost(NamedTuple):
    """What one process took.

    Attributes:
        wall_s, cpu_s: seconds.
        rss_mb: peak, MB of 10^6 bytes.
    """

    wall_s: float
    cpu_s: float
    rss_mb: float


def messages(case: Case) -> list[bytes]:
    """Real messages of the case's type, or ones like them where there are no samples."""
    path = SAMPLES / case.sample
    if path.is_file():
        content = path.read_bytes()
        lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
        return [line for line in lines if f'"{case.message_type}"'.encode() in line]
    return [synthetic(case, number) for number in range(2_000)]


def synthetic(case: Case, number: int) -> bytes:
    """A message of the shape and length of the real ones."""
    key = hashlib.sha256(str(number).encode()).hexdigest()
    price = f"0.{1 + number % 98:02d}"
    if case.feed == "kalshi":
        head = f'{{"type":"orderbook_delta","sid":1,"seq":{number},"msg":{{"market_ticker":"KXGOLD15M-26AUG050800-00",'
        body = f'"market_id":"{key[:8]}-31ea-42c8-ba7a-b230c49efe64","price_dollars":"{price}00","delta_fp":"-7.00",'
        tail = f'"side":"no","ts":"2026-08-05T11:45:36.564039Z","ts_ms":{1785930336564 + number}}}}}'
        return (head + body + tail).encode()
    token = int(key, 16)
    change = f'"best_ask":"0.83","best_bid":"0.82","hash":"{key[:40]}","price":"{price}","side":"BUY","size":"7.53"'
    changes = f'{{"asset_id":"{token % 10**77}",{change}}},{{"asset_id":"{token % 10**76}",{change}}}'
    head = f'{{"event_type":"price_change","market":"0x{key}","price_changes":[{changes}],'
    return (head + f'"timestamp":"{1785930336564 + number}"}}').encode()


def write_hour(root: Path, case: Case, raw_bytes: int) -> Path:
    """Archive the messages over and over until they have so many bytes; the file."""
    folder = root / case.feed / "bench" / f"{HOUR:%Y-%m-%d}"
    folder.mkdir(parents=True)
    path = folder / f"{HOUR:%H}00.jsonl.gz"
    start_us = int(HOUR.timestamp()) * 1_000_000
    with path.open("wb") as file:
        pending: list[bytes] = []
        held = written = 0
        for number, payload in enumerate(itertools.cycle(messages(case))):
            line = format_line(
                payload, start_us + number * 50, number + 1, "c0-20261120T105900000-0001", number, wrapped=False
            )
            pending.append(line + b"\n")
            held += len(line) + 1
            if held >= MEMBER_BYTES:
                file.write(member(b"".join(pending)))
                written += held
                pending, held = [], 0
                if written >= raw_bytes:
                    break
    return path


def contend(name: str, case: Case, root: Path, to: Path) -> None:
    """Run one contender in this process."""
    source = next((root / case.feed / "bench" / f"{HOUR:%Y-%m-%d}").glob("*.gz"))
    if name == "duckdb":
        import duckdb

        duckdb.sql(COPY.format(select=case.select, columns=case.columns, source=source, to=to / "duckdb.parquet"))
    elif name == "polars":
        import polars

        polars.scan_ndjson(source).sink_parquet(to / "polars.parquet")
    else:
        import structlog

        from ssmd_core.datasets.build import build_hour

        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
        report = build_hour(root, to, get(case.feed), "bench", HOUR)
        assert report.balanced and report.messages == report.accepted[case.message_type]


def measure(arguments: Iterable[str]) -> Cost:
    """Run a contender in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "bench.parquet", *arguments])
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise RuntimeError(f"bench.parquet {arguments} ended with status {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e6)


def run(raw_bytes: int = RAW_BYTES, rounds: int = ROUNDS) -> list[Result]:
    """Speed, file size and memory, flat and nested."""
    results: list[Result] = []
    for shape, case in CASES.items():
        with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as temporary:
            folder = Path(temporary)
            to = folder / "out"
            to.mkdir()
            write_hour(folder / "archive", case, raw_bytes)
            write_hour(folder / "small", case, raw_bytes // 10)
            costs: dict[str, list[Cost]] = {"ssmd": [], "duckdb": [], "polars": []}
            for _ in range(rounds):
                for name, taken in costs.items():
                    taken.append(measure((name, shape, str(folder / "archive"), str(to))))
            small = measure(("ssmd", shape, str(folder / "small"), str(folder / "small-out")))
            wall = {name: statistics.median(cost.wall_s for cost in taken) for name, taken in costs.items()}
            rss = max(cost.rss_mb for cost in costs["ssmd"])
            ours = next(to.rglob(f"{case.message_type}_*.parquet")).stat().st_size
            theirs = (to / "duckdb.parquet").stat().st_size
        speed = raw_bytes / 1e6 / wall["ssmd"]
        for other, target in (("duckdb", 1.0), ("polars", 3.0)):
            ratio = wall[other] / wall["ssmd"]
            name = f"parquet: {shape}, against {other}"
            results.append(Result(name, speed, "MB/s of JSON", other, ratio, target, judged="ratio"))
        results += [
            Result(f"parquet: {shape}, file", ours / 1e6, "MB", "duckdb", ours / theirs, 1.0, "<=", "ratio"),
            Result(f"parquet: {shape}, memory", rss, "MB", "512 MB", None, 512.0, "<="),
            Result(f"parquet: {shape}, memory at ten times the hour", rss, "MB", "a tenth", rss / small.rss_mb),
        ]
    return results


def main() -> None:
    """Without arguments the whole bench; with them one contender."""
    if len(sys.argv) > 1:
        name, shape, root, to = sys.argv[1:]
        contend(name, CASES[shape], Path(root), Path(to))
    else:
        for result in run():
            print(json.dumps(result.as_dict()))


if __name__ == "__main__":
    main()
