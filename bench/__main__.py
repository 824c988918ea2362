"""`python -m bench [LINE …]`: measure, print a table, write bench/results.json."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from inspect import isawaitable
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

from bench.result import Result

# Cheap ones first. Each is a module with a function `run`.
LINES = ("live", "integrity", "capture", "latency", "archive", "memory", "parquet", "assets", "secmaster", "cdc", "api")
RESULTS = Path(__file__).with_name("results.json")


async def measure(line: str) -> list[Result]:
    """Run one line; servers and processes that it started have ended when it returns."""
    answer = import_module(f"bench.{line}").run()
    results: list[Result] = await answer if isawaitable(answer) else answer
    return results


def show(results: Sequence[Result], console: Console) -> None:
    """Print the table."""
    table = Table("what", *("value", "unit", "against", "ratio", "target", "met"))
    for column in (1, 4):
        table.columns[column].justify = "right"
    for result in results:
        table.add_row(
            result.name,
            f"{result.value:,.0f}" if result.value >= 1000 else f"{result.value:.3g}",
            result.unit,
            result.against,
            "" if result.ratio is None else f"{result.ratio:.2f}×",
            result.target_text,
            {True: "yes", False: "[bold]no[/bold]", None: ""}[result.met],
        )
    console.print(table)


def write(results: Sequence[Result], path: Path) -> None:
    """Write results.json; lines that were not run this time keep their entries."""
    fresh = [result.as_dict() for result in results]
    lines = {_line(entry["name"]) for entry in fresh}
    kept = json.loads(path.read_text()) if path.exists() else []
    kept = [entry for entry in kept if _line(entry["name"]) not in lines]
    path.write_text(json.dumps([*kept, *fresh], indent=2, ensure_ascii=False) + "\n")


def _line(name: str) -> str:
    return name.partition(":")[0]


def main() -> int:
    """Run the lines that are named, or all.

    Returns:
        0 if every line could be measured, whether or not it reached its target; else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"of {', '.join(LINES)}; default all")
    lines = parser.parse_args().lines or LINES
    for line in lines:
        if line not in LINES:
            parser.error(f"unknown line {line!r}; known: {', '.join(LINES)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    console = Console()
    if not console.is_terminal:
        console.width = 140
    results: list[Result] = []
    failed = 0
    for line in lines:
        start = time.monotonic()
        try:
            results += asyncio.run(measure(line))
        except Exception as error:
            failed += 1
            console.print(f"{line}: could not be measured: {type(error).__name__}: {error}", style="red")
        else:
            console.print(f"{line}: {time.monotonic() - start:.0f} s")
    show(results, console)
    write(results, RESULTS)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
