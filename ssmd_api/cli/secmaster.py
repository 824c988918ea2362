"""`ssmd secmaster`: sync the security master, and ask it, also for the past."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings
from ssmd_api.cli.tables import duration_of, moment_of, print_table, shown, with_database
from ssmd_core.errors import ConfigError, SsmdError

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.db.merge import SyncReport
    from ssmd_core.secmaster.queries import Page
    from ssmd_stream.secmaster.sync import SyncTask

secmaster_app = typer.Typer(help="What exists on each venue: sync it, ask it, also for the past.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsOfOption = Annotated[str | None, typer.Option("--as-of", help="As known at this moment, e.g. 2026-11-17T14:00Z.")]
LimitOption = Annotated[int, typer.Option(help="Rows at most; 10,000 is the most.")]


class SyncMode(StrEnum):
    """How much a sync asks the venue for."""

    full = "full"
    incremental = "incremental"


class Listed(StrEnum):
    """What can be listed."""

    series = "series"
    events = "events"
    markets = "markets"
    pairs = "pairs"
    conditions = "conditions"


_TABLES = {Listed.conditions: "polymarket_conditions"}
_COLUMNS = {
    Listed.series: ("ticker", "category", "frequency", "fee_type", "fee_multiplier", "volume", "title"),
    Listed.events: ("event_ticker", "category", "status", "strike_date", "market_count", "title"),
    Listed.markets: ("ticker", "status", "close_time", "yes_bid", "yes_ask", "last_price", "volume", "title"),
    Listed.pairs: ("pair_id", "symbol", "market_type", "status", "tick_size", "last_price", "mark_price"),
    Listed.conditions: ("condition_id", "category", "status", "end_date", "volume", "token_count", "question"),
}
_COUNTS = (
    "fetched",
    "repeated",
    "inserted",
    "changed",
    "unchanged",
    "resurrected",
    "deleted",
    "rejected",
    "missing",
    "newer",
)


@secmaster_app.command("sync")
def sync(
    scopes: Annotated[
        list[str] | None, typer.Argument(help="Such as kalshi/markets, or a feed for all of its; default everything.")
    ] = None,
    mode: Annotated[
        SyncMode, typer.Option(help="incremental: what is open or lately closed, where a sync can do that.")
    ] = SyncMode.full,
    rest_url: Annotated[str, typer.Option(help="Base of the REST interface, instead of the configured one.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Bring what the venues list into Postgres; exit 1 if one sync fails, the others are run all the same."""
    import asyncio

    import structlog
    from rich.console import Console

    from ssmd_stream.secmaster.sync import run_sync, tasks

    log = structlog.get_logger()
    with clear_errors():
        chosen = _chosen(tasks(), scopes or [], rest_url)
        found, console = settings(), Console(stderr=True)
        reports: list[SyncReport] = []
        failed: dict[str, str] = {}
        for number, task in enumerate(chosen, 1):
            # What was named can be refused a mode; what came with its feed takes the one it has.
            can = mode.value in task.modes or task.scope in (scopes or [])
            with console.status(f"{number}/{len(chosen)} {task.scope}"):
                try:
                    parents = [f"{task.feed}/{name}" for name in task.after]
                    if broken := [scope for scope in parents if scope in failed]:
                        raise SsmdError(f"not run, because {', '.join(broken)} failed")
                    one = run_sync(task.scope, found, mode=mode.value if can else task.modes[0], rest_url=rest_url)
                    reports.append(asyncio.run(one))
                except ConfigError:
                    raise
                except (SsmdError, OSError) as error:
                    failed[task.scope] = str(error)
                    typer.echo(f"ssmd: {task.scope}: {error}", err=True)
                except Exception as error:  # a defect in one sync must not cost the other venues theirs
                    failed[task.scope] = f"{type(error).__name__}: {error}"
                    log.exception("sync_failed", scope=task.scope)
                    typer.echo(f"ssmd: {task.scope}: {failed[task.scope]}", err=True)
        if as_json:
            print_json({"runs": [report.as_dict() for report in reports], "failed": failed})
        else:
            _print_reports(reports)
        if failed:
            raise typer.Exit(EXIT_FAILED)


@secmaster_app.command("list")
def list_(
    what: Listed,
    category: Annotated[str | None, typer.Option(help="Of a condition: its category or one of its tags.")] = None,
    status: Annotated[str | None, typer.Option(help="ssmd's: initialized, active, closed, settled, …")] = None,
    series: Annotated[str | None, typer.Option(help="Ticker of a series.")] = None,
    event: Annotated[str | None, typer.Option(help="Ticker of an event.")] = None,
    exchange: Annotated[str | None, typer.Option()] = None,
    market_type: Annotated[str | None, typer.Option(help="spot, perpetual or future.")] = None,
    base: Annotated[str | None, typer.Option(help="Such as BTC.")] = None,
    quote: Annotated[str | None, typer.Option(help="Such as USD.")] = None,
    closing_before: Annotated[str | None, typer.Option(help="A moment.")] = None,
    closing_after: Annotated[str | None, typer.Option(help="A moment.")] = None,
    closing_within: Annotated[str | None, typer.Option(help="Such as 30m, 48h or 2d.")] = None,
    as_of: AsOfOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """What there is, the newest change first."""
    from ssmd_core.db.connect import now_of
    from ssmd_core.secmaster.queries import rows_of
    from ssmd_core.secmaster.selections import Selection

    with clear_errors():
        found = settings()
        selection = Selection(
            category=category, status=status, series=series, event=event, exchange=exchange,
            market_type=market_type, base=base, quote=quote, as_of=moment_of(as_of, "--as-of"),
            closing_before=moment_of(closing_before, "--closing-before"),
            closing_after=moment_of(closing_after, "--closing-after"),
            closing_within=duration_of(closing_within, "--closing-within"),
        )  # fmt: skip

        async def work(connection: psycopg.AsyncConnection) -> Page:
            table = _TABLES.get(what, what.value)
            return await rows_of(connection, table, selection, limit=limit, now=now_of(found.clock))

        print_page(with_database(found, work), _COLUMNS[what], as_json)


@secmaster_app.command("open")
def open_(
    series: Annotated[str | None, typer.Option(help="Ticker of a series.")] = None,
    category: Annotated[str | None, typer.Option()] = None,
    as_of: AsOfOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Kalshi's markets that are, or were, open for trading, with their strikes and fees."""
    from contextlib import aclosing

    from ssmd_core.db.connect import now_of
    from ssmd_core.secmaster.as_of import Row, open_markets
    from ssmd_core.secmaster.queries import Page, check_limit

    with clear_errors():
        found = settings()
        moment = moment_of(as_of, "--as-of") or now_of(found.clock)
        check_limit(limit)

        async def work(connection: psycopg.AsyncConnection) -> Page:
            rows: list[Row] = []
            async with aclosing(open_markets(connection, moment, series=series, category=category)) as markets:
                async for row in markets:
                    if len(rows) == limit:
                        return Page(rows, True)
                    rows.append(row)
            return Page(rows, False)

        columns = ("ticker", "close_time", "strike_type", "floor_strike", "cap_strike", "yes_bid", "yes_ask",
                   "fee_type", "fee_multiplier")  # fmt: skip
        print_page(with_database(found, work), columns, as_json)


@secmaster_app.command("show")
def show(
    key: Annotated[str, typer.Argument(metavar="ID", help="Of a market, event, series, fee, pair, condition, token.")],
    as_of: AsOfOption = None,
    history: Annotated[bool, typer.Option("--history", help="Every version, with what changed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Everything about one id."""
    from ssmd_core.secmaster import as_of as past
    from ssmd_core.secmaster.queries import find

    with clear_errors():
        moment = moment_of(as_of, "--as-of")
        if history and moment is not None:
            raise ConfigError("--history shows every version, --as-of one: choose")

        async def work(connection: psycopg.AsyncConnection) -> dict[str, list[past.Row]]:
            if not history:
                return {table: [row] for table, row in (await find(connection, key, moment)).items()}
            return await past.histories(connection, key)

        for table, rows in (found := with_database(settings(), work)).items():
            if not as_json:
                typer.echo(f"{table} {shown(key)}")
                if history:
                    print_table(("known from", "effective at", "change"), _changes(rows))
                else:
                    print_table(("column", "value"), [pair for pair in rows[0].items() if pair[1] is not None])
        if as_json:
            print_json(found if history else {table: rows[0] for table, rows in found.items()})


@secmaster_app.command("stats")
def stats(as_json: JsonOption = False) -> None:
    """How many there are, by status, category, exchange and so on."""
    from ssmd_core.db.connect import now_of
    from ssmd_core.secmaster.counts import stats as count

    with clear_errors():
        found = settings()

        async def work(connection: psycopg.AsyncConnection) -> dict[str, dict[str, Any]]:
            return await count(connection, now_of(found.clock))

        counted = with_database(found, work)
        if as_json:
            print_json(counted)
            return
        for table, counts in counted.items():
            rows = [(name, value) for name, value in counts.items() if not isinstance(value, dict)]
            groups = [(name, value) for name, value in counts.items() if isinstance(value, dict)]
            rows += [(name, ", ".join(f"{each or 'none'} {n}" for each, n in group.items())) for name, group in groups]
            print_table((table, ""), rows)


@secmaster_app.command("runs")
def runs(
    scope: Annotated[str | None, typer.Argument(help="Such as kalshi/markets.")] = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """The last syncs: what they changed, rejected, and refused to delete."""
    from ssmd_core.secmaster import queries

    with clear_errors():

        async def work(connection: psycopg.AsyncConnection) -> list[dict[str, Any]]:
            return await queries.runs(connection, scope=scope, limit=limit)

        rows = with_database(settings(), work)
        if as_json:
            print_json(rows)
            return
        lines: list[tuple[Any, ...]] = []
        for row in rows:
            report = row["report"]
            for table, counts in report.get("tables", {}).items():
                lines.append((row["finished_at"], row["scope"], row["mode"], table, _told(counts)))
            if not report.get("tables"):
                lines.append((row["finished_at"], row["scope"], row["mode"], "", "nothing listed"))
        print_table(("finished", "scope", "mode", "table", "what it did"), lines)


def _told(counts: dict[str, Any]) -> str:
    """What happened to a table, without the zeros, and why deletes were refused if they were."""
    parts = [f"{counts[name]:,} {name}" for name in _COUNTS if counts.get(name)]
    return ", ".join([*parts, *filter(None, [counts.get("refused")])]) or "nothing listed"


def print_page(page: Page, columns: tuple[str, ...], as_json: bool) -> None:
    """A list, and whether there is more of it."""
    if as_json:
        print_json({"rows": page.rows, "more": page.more})
        return
    present = [column for column in columns if not page.rows or column in page.rows[0]]
    print_table(present, [[row[column] for column in present] for row in page.rows])
    if page.more:
        typer.echo(f"the first {len(page.rows)}; there are more: raise --limit, or narrow the selection", err=True)


def _chosen(known: dict[str, SyncTask], scopes: list[str], rest_url: str) -> list[SyncTask]:
    """The named syncs, in the order in which they refer to each other."""
    for scope in scopes:
        if scope not in known and scope not in {task.feed for task in known.values()}:
            raise ConfigError(f"no sync {scope!r}; known: {', '.join(known)}")
    chosen = [task for task in known.values() if not scopes or task.scope in scopes or task.feed in scopes]
    if rest_url and len({task.feed for task in chosen}) > 1:
        raise ConfigError("--rest-url is one venue's: name its feed or a sync")
    return chosen


def _print_reports(reports: list[SyncReport]) -> None:
    rows = [
        (report.scope, report.mode, f"{report.seconds:.1f}", table, _told(counts))
        for report in reports
        for table, counts in report.as_dict()["tables"].items()
    ]
    print_table(("scope", "mode", "seconds", "table", "what it did"), rows)
    for report in reports:
        for text, count in report.warnings.items():
            typer.echo(f"{report.scope}: {shown(text)}" + (f" ({count}×)" if count > 1 else ""), err=True)
        for reject in report.rejects:
            typer.echo(f"{report.scope}: rejected {reject.table} {shown(reject.key)}: {shown(reject.reason)}", err=True)


def _changes(versions: list[dict[str, Any]]) -> list[tuple[Any, Any, str]]:
    """Per version its time and what differs from the one before."""
    marks = {"effective_at", "known_from", "known_to", "version"}
    rows, before = [], dict[str, Any]()
    for version in versions:
        values = {name: value for name, value in version.items() if name not in marks}
        if not before:
            text = "first known"
        else:
            different = [name for name, value in values.items() if value != before[name]]
            text = "; ".join(f"{name}: {shown(before[name])} → {shown(values[name])}" for name in different)
        rows.append((version["known_from"], version["effective_at"], text or "written again"))
        before = values
    return rows
