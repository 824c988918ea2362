"""`ssmd faults`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ssmd_stream.rehearsal.faults import Outcome


def faults(
    seed: Annotated[int, typer.Option(help="Of the generated traffic and of the faults.")] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="Only these: a feed, or a kind of fault such as mute, gap, drift. Repeat.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Write the table as Markdown, e.g. docs/faults.md.")] = None,
) -> None:
    """Play venues that go wrong, and measure how soon capture says so; exit code 1 if something was seen too late.

    Takes about two minutes: the constants are those of production.
    """
    import asyncio
    import logging

    import structlog

    from ssmd_stream.rehearsal.fault_list import cases
    from ssmd_stream.rehearsal.faults import markdown, run_faults

    known = cases()
    for word in only or ():
        if not any(word in (case.feed, case.key) for case in known):
            words = sorted({case.feed for case in known} | {case.key for case in known})
            raise typer.BadParameter(f"{word!r} is none of {', '.join(words)}", param_hint="--only")
    wanted = set(only or ())
    # Words of the same sort widen the choice, a feed and a kind together narrow it.
    feeds, keys = {case.feed for case in known} & wanted, {case.key for case in known} & wanted
    chosen = [case for case in known if (not feeds or case.feed in feeds) and (not keys or case.key in keys)]
    # Trouble is what is wanted here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    def tell(outcome: Outcome) -> None:
        after = "not seen" if outcome.after_s is None else f"{outcome.after_s:.1f} s"
        typer.echo(f"{outcome.case.feed}: {outcome.case.name}: {after}", err=True)

    outcomes = asyncio.run(run_faults(chosen, seed=seed, progress=tell))
    _show(outcomes)
    if write is not None:
        write.write_text(markdown(outcomes, seed))
    if not all(outcome.passed for outcome in outcomes):
        raise typer.Exit(1)


def _show(outcomes: list[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("fault", "venue", "must be seen", "after s", "limit s", "ok")
    for each in outcomes:
        after = "–" if each.after_s is None else f"{each.after_s:.1f}"
        verdict = "yes" if each.passed else "[bold]no[/bold]"
        table.add_row(each.case.name, each.case.feed, each.case.must, after, f"{each.case.limit_s:g}", verdict)
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(table)
