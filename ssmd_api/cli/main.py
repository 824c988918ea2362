"""`ssmd`: the command line. Heavy imports stand inside the commands, so that `ssmd --help` is there at once."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmd_api.cli import api, cache, capture, catalogue, cdc, config, consumers, data, database, fees, secmaster, stack

app = typer.Typer(
    name="ssmd",
    help="Market data of Kalshi, Kraken, Kraken Futures and Polymarket: captured completely, archived byte for byte.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(stack.demo)
app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("status")(stack.status)
app.command("init")(config.init)
app.command("replay")(capture.replay)
app.command("rehearse")(capture.rehearse)
app.command("verify")(data.verify)
app.command("catalogue")(catalogue.catalogue)
app.add_typer(capture.connector_app, name="connector")
app.add_typer(capture.archiver_app, name="archiver")
app.add_typer(cdc.cdc_app, name="cdc")
app.add_typer(cache.cache_app, name="cache")
app.add_typer(consumers.lifecycle_app, name="lifecycle")
app.add_typer(consumers.funding_app, name="funding-rates")
app.add_typer(data.dataset_app, name="dataset")
app.add_typer(secmaster.secmaster_app, name="secmaster")
app.add_typer(fees.fees_app, name="fees")
app.add_typer(database.db_app, name="db")
app.add_typer(api.api_app, name="api")
app.add_typer(config.feed_app, name="feed")
app.add_typer(config.env_app, name="env")


@app.callback()
def _logging(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, not only trouble.")] = False,
) -> None:
    """Market data of Kalshi, Kraken, Kraken Futures and Polymarket: captured completely, archived byte for byte."""
    import logging

    from ssmd_core import logs

    logs.configure(logging.INFO if verbose else logging.WARNING)


def main() -> None:
    """Entry point."""
    app()
