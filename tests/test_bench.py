"""The benchmark's machinery, on the cheapest line in a tiny size: what it measures is not the tests' business."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from bench import archive, assets
from bench.__main__ import write
from bench.result import Result


def test_a_line_gives_results(tmp_path: Path) -> None:
    results = asyncio.run(archive.run(messages=25_000, plain=1_000, feed="kraken-futures"))
    path = tmp_path / "results.json"
    write(results, path)
    (entry,) = json.loads(path.read_text())
    assert list(entry) == ["name", "value", "unit", "against", "ratio", "target", "met"]
    assert entry["value"] > 0
    assert entry["ratio"] > 0


def test_the_line_that_asks_dagster_asks_for_what_needs_no_server() -> None:
    imported, overhead = asyncio.run(assets.run(messages=100, repeats=1))
    assert imported.value > 0
    assert "4 streams" in overhead.name


def test_another_run_replaces_only_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write([Result("a: x", 1.0, "s", ""), Result("b: x", 1.0, "s", "")], path)
    write([Result("b: y", 2.0, "s", "")], path)
    assert [entry["name"] for entry in json.loads(path.read_text())] == ["a: x", "b: y"]


def test_targets() -> None:
    assert Result("a: ratio", 5.0, "s", "b", 0.9, 1.0, judged="ratio").met is False
    assert Result("a: value", 5.0, "s", "", None, 5.0, "<=").met is True
    assert Result("a: told", 5.0, "s", "").met is None
