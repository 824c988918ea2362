"""`ssmd lifecycle`, `ssmd funding-rates`: consumers from JetStream to Postgres."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ssmd_api.cli.output import clear_errors, settings

lifecycle_app = typer.Typer(help="What becomes of Kalshi's markets, into the database.", no_args_is_help=True)
funding_app = typer.Typer(help="Funding rates of Kraken Futures, into the database.", no_args_is_help=True)

HealthPortOption = Annotated[int | None, typer.Option(help="Port of /health, /ready, /metrics.")]


@lifecycle_app.command("run")
def lifecycle_run(
    streams: Annotated[list[str], typer.Argument(metavar="FEED/STREAM…", help="e.g. kalshi/crypto")],
    health_port: HealthPortOption = None,
) -> None:
    """Follow lifecycle messages, open and close markets in time, until SIGTERM (exit 0 clean, 1 failed, 2 usage)."""
    from ssmd_core import feeds
    from ssmd_stream.consumers.lifecycle_daemon import run_lifecycle
    from ssmd_stream.consumers.service import HealthPort

    with clear_errors():
        found = settings()
        names = [feeds.parse_stream(text, found.env) for text in streams]
        raise typer.Exit(asyncio.run(run_lifecycle(names, found, HealthPort(port=health_port))))


@funding_app.command("run")
def funding_run(
    streams: Annotated[list[str], typer.Argument(metavar="FEED/STREAM…", help="e.g. kraken-futures/futures")],
    interval_s: Annotated[float, typer.Option(help="Seconds between two snapshots.")] = 300.0,
    health_port: HealthPortOption = None,
) -> None:
    """Write a snapshot of every product's newest ticker, until SIGTERM (exit 0 clean, 1 failed, 2 usage)."""
    from ssmd_core import feeds
    from ssmd_stream.consumers.funding_daemon import run_funding_rates
    from ssmd_stream.consumers.service import HealthPort

    with clear_errors():
        found = settings()
        names = [feeds.parse_stream(text, found.env) for text in streams]
        run = run_funding_rates(names, found, HealthPort(port=health_port), interval_s=interval_s)
        raise typer.Exit(asyncio.run(run))


@lifecycle_app.callback()
def _lifecycle() -> None:
    """What becomes of Kalshi's markets, into the database."""


@funding_app.callback()
def _funding() -> None:
    """Funding rates of Kraken Futures, into the database."""
