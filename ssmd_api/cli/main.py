"""`ssmd`: the command line. Heavy imports stand inside the commands, so that `ssmd --help` is there at once."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmd_api.cli import (
    alerts,
    api,
    book,
    cache,
    capture,
    catalogue,
    cdc,
    config,
    consumers,
    data,
    database,
    faults,
    fees,
    health,
    keys,
    ledger,
    mail,
    quality,
    reports,
    schedule,
    secmaster,
    share,
    stack,
    sync,
    units,
    venues,
)
from ssmd_api.cli import mcp as mcp_commands

app = typer.Typer(
    name="ssmd",
    help="Market data of Kalshi, Kraken, Kraken Futures and Polymarket: captured completely, archived byte for byte.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(stack.demo)
app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("status")(stack.status)
app.command("init")(config.init)
app.command("replay")(capture.replay)
app.command("rehearse")(capture.rehearse)
app.command("faults")(faults.faults)
app.command("verify")(data.verify)
app.command("catalogue")(catalogue.catalogue)
app.command("book")(book.book)
app.command("audit-email")(mail.audit_email)
capture.connector_app.command("list")(units.connector_list)
capture.connector_app.command("status")(units.connector_status)
capture.archiver_app.command("list")(units.archiver_list)
capture.archiver_app.command("status")(units.archiver_status)
app.add_typer(capture.connector_app, name="connector")
app.add_typer(capture.archiver_app, name="archiver")
app.add_typer(cdc.cdc_app, name="cdc")
app.add_typer(cache.cache_app, name="cache")
app.add_typer(consumers.lifecycle_app, name="lifecycle")
app.add_typer(consumers.funding_app, name="funding-rates")
app.add_typer(data.dataset_app, name="dataset")
app.add_typer(secmaster.secmaster_app, name="secmaster")
app.add_typer(fees.fees_app, name="fees")
app.add_typer(venues.series_app, name="series")
app.add_typer(venues.kraken_app, name="kraken")
app.add_typer(venues.polymarket_app, name="polymarket")
health.health_app.command("daily")(quality.daily)
app.add_typer(health.health_app, name="health")
app.add_typer(alerts.alerts_app, name="alerts")
app.add_typer(ledger.ledger_app, name="ledger")
app.add_typer(reports.diagnosis_app, name="diagnosis")
app.add_typer(reports.volume_app, name="volume")
app.add_typer(schedule.schedule_app, name="schedule")
app.add_typer(database.db_app, name="db")
app.add_typer(keys.keys_app, name="keys")
app.add_typer(share.share_app, name="share")
app.add_typer(sync.sync_app, name="sync")
app.add_typer(api.api_app, name="api")
app.add_typer(mcp_commands.mcp_app, name="mcp")
app.add_typer(config.feed_app, name="feed")
app.add_typer(config.env_app, name="env")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ssmd {version('ssmd')}")
        raise typer.Exit()


@app.callback()
def _logging(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, not only trouble.")] = False,
    _: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """Market data of Kalshi, Kraken, Kraken Futures and Polymarket: captured completely, archived byte for byte."""
    import logging

    from ssmd_core import logs

    logs.configure(logging.INFO if verbose else logging.WARNING)


def main() -> None:
    """Entry point."""
    app()
