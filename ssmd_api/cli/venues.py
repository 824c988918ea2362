"""`ssmd series`, `ssmd kraken`, `ssmd polymarket`, and what `ssmd fees` and `ssmd secmaster` say about one table: the
security master's commands under the names by which people look for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmd_api.cli import secmaster
from ssmd_api.cli.fees import fees_app
from ssmd_api.cli.output import clear_errors, print_json, settings
from ssmd_api.cli.secmaster import AsOfOption, JsonOption, LimitOption, Listed, SyncMode, secmaster_app
from ssmd_api.cli.tables import moment_of, print_table, with_database

if TYPE_CHECKING:
    import psycopg

series_app = typer.Typer(help="Kalshi's series.", no_args_is_help=True)
kraken_app = typer.Typer(help="Kraken's spot pairs, perpetuals and futures.", no_args_is_help=True)
polymarket_app = typer.Typer(help="Polymarket's conditions and tokens.", no_args_is_help=True)

RestOption = Annotated[str, typer.Option(help="Base of the REST interface, instead of the configured one.")]
CategoryOption = Annotated[str | None, typer.Option(help="Such as Crypto.")]
StatusOption = Annotated[str | None, typer.Option(help="ssmd's: initialized, active, closed, settled, …")]
SeriesOption = Annotated[str | None, typer.Option(help="Ticker of a series.")]


@series_app.command("sync")
def series_sync(rest_url: RestOption = "", as_json: JsonOption = False) -> None:
    """Bring Kalshi's series into Postgres: `ssmd secmaster sync kalshi/series`."""
    secmaster.sync(["kalshi/series"], SyncMode.full, rest_url, as_json)


@series_app.command("stats")
def series_stats(as_json: JsonOption = False) -> None:
    """How many series there are by category, and how many of them are about games."""
    from ssmd_core.secmaster.health import series_by_category

    with clear_errors():
        rows = with_database(settings(), series_by_category)
        if as_json:
            print_json(rows)
            return
        lines = [(row["category"] or "none", row["total"], row["games"]) for row in rows]
        totals = [sum(row[name] for row in rows) for name in ("total", "games")]
        print_table(("category", "total", "games"), [*lines, ("all", *totals)])


@kraken_app.command("sync")
def kraken_sync(
    spot: Annotated[bool, typer.Option("--spot", help="Spot pairs only.")] = False,
    perps: Annotated[bool, typer.Option("--perps", help="Perpetuals and futures only.")] = False,
    rest_url: RestOption = "",
    as_json: JsonOption = False,
) -> None:
    """Bring Kraken's pairs into Postgres; without --spot and --perps both."""
    scopes = [scope for scope, wanted in (("kraken/pairs", spot), ("kraken-futures/pairs", perps)) if wanted]
    secmaster.sync(scopes or ["kraken/pairs", "kraken-futures/pairs"], SyncMode.full, rest_url, as_json)


@polymarket_app.command("sync")
def polymarket_sync(
    mode: Annotated[SyncMode, typer.Option(help="incremental: what is open or lately closed.")] = SyncMode.full,
    rest_url: RestOption = "",
    as_json: JsonOption = False,
) -> None:
    """Bring Polymarket's conditions and tokens into Postgres: `ssmd secmaster sync polymarket`."""
    secmaster.sync(["polymarket/conditions"], mode, rest_url, as_json)


@fees_app.command("sync")
def fees_sync(rest_url: RestOption = "", as_json: JsonOption = False) -> None:
    """Bring the changes of Kalshi's fees into Postgres: `ssmd secmaster sync kalshi/series_fees`."""
    secmaster.sync(["kalshi/series_fees"], SyncMode.full, rest_url, as_json)


@fees_app.command("stats")
def fees_stats(as_json: JsonOption = False) -> None:
    """How many fees there are, are in force, and are announced."""
    from ssmd_core.db.connect import now_of
    from ssmd_core.secmaster.counts import stats

    with clear_errors():
        found = settings()

        async def work(connection: psycopg.AsyncConnection) -> dict[str, Any]:
            return (await stats(connection, now_of(found.clock)))["series_fees"]

        counted = with_database(found, work)
        if as_json:
            print_json(counted)
        else:
            print_table(("fees", ""), list(counted.items()))


@secmaster_app.command("events")
def events(
    ticker: Annotated[str | None, typer.Argument(help="Everything about this event; without one a list.")] = None,
    category: CategoryOption = None,
    status: StatusOption = None,
    series: SeriesOption = None,
    as_of: AsOfOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Kalshi's events, the newest change first, or everything about one."""
    if ticker is not None:
        _show("events", ticker, as_of, as_json)
    else:
        secmaster.list_(
            Listed.events, category=category, status=status, series=series, as_of=as_of, limit=limit, as_json=as_json
        )


@secmaster_app.command("markets")
def markets(
    ticker: Annotated[str | None, typer.Argument(help="Everything about this market; without one a list.")] = None,
    category: CategoryOption = None,
    status: StatusOption = None,
    series: SeriesOption = None,
    event: Annotated[str | None, typer.Option(help="Ticker of an event.")] = None,
    as_of: AsOfOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Kalshi's markets, the newest change first, prices in dollars, or everything about one."""
    if ticker is not None:
        _show("markets", ticker, as_of, as_json)
    else:
        secmaster.list_(
            Listed.markets, category=category, status=status, series=series, event=event, as_of=as_of, limit=limit,
            as_json=as_json,
        )  # fmt: skip


def _show(table: str, key: str, as_of: str | None, as_json: bool) -> None:
    """One row of one table; `ssmd secmaster show` looks in all of them."""
    from ssmd_core.secmaster.as_of import UnknownKeyError
    from ssmd_core.secmaster.queries import find

    with clear_errors():
        moment = moment_of(as_of, "--as-of")

        async def work(connection: psycopg.AsyncConnection) -> dict[str, Any]:
            found = await find(connection, key, moment)
            if table not in found:
                raise UnknownKeyError(f"{key!r} is none of {table}, but of {', '.join(found)}")
            return found[table]

        row = with_database(settings(), work)
        if as_json:
            print_json(row)
        else:
            print_table(("column", "value"), [pair for pair in row.items() if pair[1] is not None])
