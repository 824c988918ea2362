"""Dagster: how long its definitions take to import, and what it adds to the making of one hour of all feeds."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench.hours import seal_hour
from bench.result import Result
from ssmd_core import feeds
from ssmd_core.archive.paths import hour_key
from ssmd_core.datasets.build import build_hour
from ssmd_core.errors import SsmdError
from ssmd_stream.rehearsal.demo import DATASETS
from ssmd_stream.rehearsal.rehearse import past_hour

IMPORT_S = 3.0
OVERHEAD_S = 10.0
MESSAGES = 4_000
REPEATS = 3


async def run(messages: int = MESSAGES, repeats: int = REPEATS) -> list[Result]:
    """Import alone, then one run of the hourly assets against the plain functions that they call."""
    imports_s = [await _seconds("-c", "import ssmd_assets.definitions") for _ in range(repeats)]
    hour = past_hour(datetime.now(UTC))
    with tempfile.TemporaryDirectory(prefix="ssmd-bench-") as folder:
        data, home = Path(folder), Path(folder) / "dagster"
        home.mkdir()
        plain_s = 0.0
        for feed in feeds.FEEDS.values():
            for stream in feed.streams:
                seal_hour(data / "archive", feed.name, stream, hour, messages)
                plain_s += build_hour(data / "archive", data / "plain", feed, stream, hour).seconds
        dagster_s = await _seconds(
            *("-m", "dagster", "asset", "materialize", "-m", "ssmd_assets.definitions", "--select", DATASETS),
            *("--partition", hour_key(hour)),
            environment={"SSMD_DATA": str(data), "DAGSTER_HOME": str(home)},
        )
        built = len(list((data / "datasets").glob("*/*/*/parquet-manifest.json")))
    if not built:
        raise SsmdError("Dagster made no dataset")
    return [
        Result(
            "dagster: import of the definitions",
            round(statistics.median(imports_s), 2),
            "s",
            "",
            target=IMPORT_S,
            sense="<=",
        ),
        Result(
            f"dagster: overhead of one hour of all feeds ({built} streams)",
            round(dagster_s - plain_s, 2),
            "s",
            f"plain functions: {plain_s:.2f} s",
            target=OVERHEAD_S,
            sense="<=",
        ),
    ]


async def _seconds(*arguments: str, environment: Mapping[str, str] | None = None) -> float:
    """Wall seconds of a Python process.

    Raises:
        SsmdError: it failed.
    """
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise SsmdError(f"{' '.join(arguments[:4])} ended with code {process.returncode}: {out[-500:]!r}")
    return time.perf_counter() - start
