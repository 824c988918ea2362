"""`ssmd health`: whether what there is can be trusted."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import typer

from ssmd_api.cli import reconcile
from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings
from ssmd_api.cli.secmaster import JsonOption
from ssmd_api.cli.tables import print_table, with_database

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.secmaster.health import Health

health_app = typer.Typer(help="Whether what there is can be trusted.", no_args_is_help=True)
health_app.command("trades")(reconcile.trades)

_SHOWN = 20


@health_app.callback()
def _health() -> None:
    """Whether what there is can be trusted."""


@health_app.command("secmaster")
def secmaster(as_json: JsonOption = False) -> None:
    """Counts, last syncs, pairs with a wrong id or out of date; exit 1 if something is wrong."""
    from ssmd_core.db.connect import now_of
    from ssmd_core.secmaster.counts import stats
    from ssmd_core.secmaster.health import check
    from ssmd_stream.secmaster.sync import tasks

    with clear_errors():
        found = settings()
        now = now_of(found.clock)

        async def work(connection: psycopg.AsyncConnection) -> tuple[Health, dict[str, dict[str, Any]]]:
            return await check(connection, list(tasks()), now), await stats(connection, now)

        health, counted = with_database(found, work)
        if as_json:
            print_json({**dataclasses.asdict(health), "stats": counted})
        else:
            print_table(("table", "live rows"), [(table, counts["total"]) for table, counts in counted.items()])
            print_table(
                ("sync", "mode", "finished"),
                [(row["scope"], row["mode"], row["finished_at"] or "never") for row in health.syncs],
            )
            examples = [
                *((pair, "id without its exchange") for pair in health.pairs_without_namespace[:_SHOWN]),
                *((row["pair_id"], f"not seen since {row['seen_at']:%Y-%m-%d %H:%M}") for row in health.stale_pairs),
            ]
            if examples:
                print_table(("pair", "what is wrong"), examples[:_SHOWN])
            for problem in health.problems:
                typer.echo(f"PROBLEM {problem}")
        if health.problems:
            raise typer.Exit(EXIT_FAILED)
