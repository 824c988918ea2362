"""`ssmd up`, `ssmd down`, `ssmd status`, `ssmd demo`: everything at once."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings

if TYPE_CHECKING:
    from rich.console import Console

    from ssmd_stream.rehearsal.demo import DemoResult
    from ssmd_stream.rehearsal.quality import QualityResult
    from ssmd_stream.rehearsal.secmaster import SecmasterResult
    from ssmd_stream.servers.state import SupervisorState

# All at once take 25 s on two cores, after an unclean end some more; draining takes 30 s at most.
UP_S, DOWN_S = 120.0, 90.0
SHOWN_UNITS = ("api", "dagster-webserver")

DataOption = Annotated[Path | None, typer.Option(help="Data folder instead of SSMD_DATA or .data.")]


def up(
    data: DataOption = None,
    capture: Annotated[
        bool, typer.Option(help="Run connectors and archiver, not only the servers and Dagster.")
    ] = True,
    background: Annotated[
        bool, typer.Option("--background", help="Return once all is up; end with ssmd down.")
    ] = False,
) -> None:
    """Start and supervise everything until Ctrl-C: NATS, Postgres, Valkey, connectors, archiver, Dagster, the API."""
    from rich.console import Console

    from ssmd_stream.servers.supervisor import run_supervised
    from ssmd_stream.stack import children

    with clear_errors():
        found = settings(data)
        found.data.mkdir(parents=True, exist_ok=True)
        if background:
            _up_in_background(found.data, capture=capture)
            return
        console = Console()
        plan = children(found, capture=capture)
        for notice in plan.notices:
            console.print(notice, markup=False)
        raise typer.Exit(asyncio.run(run_supervised(found, plan.make, console)))


def _up_in_background(data: Path, *, capture: bool) -> None:
    """Start `ssmd up` on its own and wait until all of it is healthy.

    Raises:
        SsmdError: it ended, or is not healthy after two minutes.
    """
    import subprocess
    import time

    from ssmd_core.errors import ConfigError, SsmdError
    from ssmd_stream.servers.state import read_state

    if (state := read_state(data)) is not None and state.running:
        raise ConfigError(f"ssmd up runs on {data} already, process {state.pid}")
    log_path = data / "logs" / "up.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ssmd_api.cli", "up", "--data", str(data), *([] if capture else ["--no-capture"])]
    with log_path.open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline_s = time.monotonic() + UP_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise SsmdError(f"ssmd up ended with code {process.returncode}; see {log_path}")
        state = read_state(data)
        if state is not None and state.pid == process.pid and state.healthy and _has_all(state):
            for unit in state.units:
                if unit.name in SHOWN_UNITS:
                    typer.echo(f"{unit.name:18} {unit.url}")
            return
        time.sleep(0.1)
    raise SsmdError(f"not everything is up after {UP_S:.0f} s: see `ssmd status` and {log_path}; `ssmd down` ends it")


def _has_all(state: SupervisorState) -> bool:
    """Whether the state tells of the children yet, not of the servers alone."""
    return set(SHOWN_UNITS) <= {unit.name for unit in state.units}


def down(data: DataOption = None) -> None:
    """End the `ssmd up` that runs on a data folder, and wait until it has drained."""
    import psutil

    from ssmd_core.errors import SsmdError
    from ssmd_stream.servers.state import read_state

    with clear_errors():
        folder = settings(data).data
        state = read_state(folder)
        if state is None or not state.running:
            typer.echo(f"nothing is running on {folder}", err=True)
            return
        process = psutil.Process(state.pid)
        process.terminate()
        try:
            process.wait(DOWN_S)
        except psutil.TimeoutExpired:
            raise SsmdError(f"process {state.pid} has not ended after {DOWN_S:.0f} s") from None


def status(
    data: DataOption = None, as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON.")] = False
) -> None:
    """What `ssmd up` runs on a data folder; exit 0 only if all of it is healthy."""
    import msgspec

    from ssmd_stream.servers.state import read_state

    with clear_errors():
        found = settings(data)
        state = read_state(found.data)
        if state is None or not state.running:
            typer.echo(f"nothing is running on {found.data}", err=True)
            raise typer.Exit(EXIT_FAILED)
        if as_json:
            print_json([msgspec.to_builtins(unit) for unit in state.units])
        else:
            for unit in state.units:
                typer.echo(f"{unit.name:28} {unit.state:10} {unit.url or '-':40} {unit.detail}")
        if not state.healthy:
            raise typer.Exit(EXIT_FAILED)


def demo(
    data: Annotated[Path, typer.Option(help="Folder of the demo; emptied first.")] = Path(".data/demo"),
    seconds: Annotated[float, typer.Option(min=5, max=120, help="How long the venues talk.")] = 15.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Capture four generated venues, archive, let Dagster build parquet, verify; exit 0 only if nothing is missing."""
    import dataclasses

    from ssmd_core.errors import ConfigError
    from ssmd_stream.rehearsal.demo import MARKER, run_demo
    from ssmd_stream.servers.state import read_state

    with clear_errors():
        folder = data.absolute()
        if folder.exists():
            if any(folder.iterdir()) and not (folder / MARKER).exists():
                raise ConfigError(f"{folder} is not empty and not a demo's: choose another folder")
            state = read_state(folder)
            if state is not None and state.running:
                raise ConfigError(f"{folder} is in use by ssmd up, process {state.pid}: stop it first")
            shutil.rmtree(folder)
        result = asyncio.run(run_demo(folder, seconds, lambda text: typer.echo(f"· {text}", err=True)))
        if as_json:
            print_json({**dataclasses.asdict(result), "passed": result.passed})
        else:
            _print_demo(result, folder)
        if not result.passed:
            raise typer.Exit(EXIT_FAILED)


def first_steps(folder: Path, programs: Path, day: str) -> str:
    """Lines for a shell: start the installation, make a key, list feeds, read a file through a signed URL.

    Args:
        folder: the demo's data folder.
        programs: folder of `ssmd` and `python`.
        day: YYYY-MM-DD of the demo's hour.
    """
    ssmd, python = shlex.quote(str(programs / "ssmd")), shlex.quote(str(programs / "python"))
    columns = "'market_ticker', 'price', 'count', '_received_at'"
    read = f"import sys, polars; print(polars.read_parquet(sys.argv[1]).select({columns}))"
    create = f"{ssmd} keys create --email you@example.com --scopes '*' --feeds '*'"
    return f"""\
export SSMD_DATA={shlex.quote(str(folder))}
{ssmd} up --no-capture --background
export SSMD_API_KEY=$({create} --date-from {day} --date-to 2099-12-31)
{ssmd} share feeds
URL=$({ssmd} share --feed kalshi --type trade --date {day} | head -n 1)
{python} -c "{read}" "$URL"
"""


def _print_secmaster(secmaster: SecmasterResult, console: Console) -> None:
    from rich.table import Table

    table = Table(title="Security master: what the venues list", padding=(0, 0))
    for name in ("feed", "listed", "inserted", "rejected", "changed by a second sync"):
        table.add_column(name, justify="left" if name == "feed" else "right", no_wrap=True)
    for venue in secmaster.venues:
        counts = (venue.listed, venue.inserted, venue.rejected, venue.changed_again)
        table.add_row(venue.feed, *(f"{count:,}" for count in counts))
    console.print(table)
    typer.echo(
        f"cdc       {secmaster.cdc_events:,} events on SECMASTER_CDC; the second sync added "
        f"{secmaster.wal_records_again} WAL records to the tables and {secmaster.cdc_events_again} events"
    )


def _print_quality(quality: QualityResult, console: Console) -> None:
    from rich.table import Table

    table = Table(title="Quality: what the hour proves about itself", padding=(0, 0))
    for name in ("feed", "word", "score", "coverage", "integrity", "passed", "failed", "untrusted", "chain"):
        table.add_column(name, justify="left" if name in ("feed", "word") else "right", no_wrap=True)
    for one in quality.streams:
        known = ("-" if value is None else str(value) for value in (one.score, one.coverage, one.integrity))
        counts = (f"{one.passed:,}", f"{one.failed:,}", f"{one.untrusted:,}", f"#{one.entry}")
        table.add_row(one.stream.partition("/")[0], one.word, *known, *counts)
    console.print(table)
    for one in quality.streams:
        if one.reason:
            typer.echo(f"degraded  {one.stream}: {one.reason}")
    typer.echo(f"ledger    {len(quality.streams)} hours hash-chained and signed with the Ed25519 key {quality.key}")
    typer.echo(
        f"diagnosis {quality.status}, by {quality.source}: {quality.summary} "
        f"({quality.resolved} of {quality.citations} citations resolve)"
    )
    for number, advice in enumerate(quality.advice[:3], start=1):
        typer.echo(f"          {number}. {advice}")


def _print_demo(result: DemoResult, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"The hour {result.hour} UTC, {result.total_s:.0f} s from start to here", padding=(0, 0))
    for name in ("feed", "sent", "captured", "archived", "rejected", "lost", "duplicated"):
        table.add_column(name, justify="left" if name == "feed" else "right", no_wrap=True)
    for feed in result.feeds:
        counts = (feed.sent, feed.captured, feed.archived, feed.rejected, feed.lost, feed.duplicated)
        table.add_row(feed.stream.partition("/")[0], *(f"{count:,}" for count in counts))
    console.print(table)
    files = [(feed.archive_files, feed.parquet_files, feed.rows) for feed in result.feeds]
    archives, parquets, rows = (sum(column) for column in zip(*files, strict=True))
    typer.echo("sent: frames; captured (acknowledged by NATS) and archived: messages, a frame may hold several")
    if result.secmaster is not None:
        _print_secmaster(result.secmaster, console)
    typer.echo(f"archive   {archives} sealed files in {folder}/archive")
    typer.echo(f"datasets  {parquets} parquet files, {rows:,} rows, in {folder}/datasets")
    if result.quality is not None:
        _print_quality(result.quality, console)
    for problem in [*result.problems, *(result.quality.problems if result.quality else ())]:
        typer.echo(f"PROBLEM   {problem}")
    if result.passed:
        typer.echo("verified  every archive file derived again, every parquet file rebuilt to the same bytes")
        typer.echo(f"check it  .venv/bin/ssmd verify {folder}")
        typer.echo("look      list feeds and read a file through a signed URL; paste these lines into a shell:\n")
        typer.echo(first_steps(folder, Path(sys.executable).parent, result.hour[:10]))
        typer.echo(
            "Then open the address of `api` in a browser: the page, API docs, GraphiQL and Dagster. Its key is in"
        )
        typer.echo("$SSMD_API_KEY; `.venv/bin/ssmd down` in the same shell ends everything.")
