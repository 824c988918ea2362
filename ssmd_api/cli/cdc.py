"""`ssmd cdc`: changes of the security master, from Postgres to JetStream."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings

if TYPE_CHECKING:
    from ssmd_stream.cdc.resnapshot import ResnapshotReport

cdc_app = typer.Typer(help="Change data capture: from Postgres to JetStream.", no_args_is_help=True)

SlotOption = Annotated[str, typer.Option(help="Replication slot.")]


@cdc_app.command("run")
def cdc_run(
    slot: SlotOption = "ssmd_cdc",
    health_port: Annotated[int | None, typer.Option(help="Port of /health, /ready, /metrics.")] = None,
) -> None:
    """Publish changes until SIGTERM.

    Exit 0 stopped, 1 a change cannot be published, 2 configuration, 4 changes were lost: run `ssmd cdc resnapshot`.
    """
    from ssmd_stream.cdc.daemon import CdcOptions, run_cdc

    with clear_errors():
        raise typer.Exit(asyncio.run(run_cdc(CdcOptions(slot=slot, health_port=health_port), settings())))


@cdc_app.command("resnapshot")
def cdc_resnapshot(slot: SlotOption = "ssmd_cdc") -> None:
    """Make a new slot, publish what differs between the tables and the stream, and print what that was.

    Waits for transactions that are open, and logs whose. Stopped by SIGINT or SIGTERM it can be run again, and must be.
    """
    from ssmd_core.db.connect import check_url

    with clear_errors():
        found = settings()
        check_url(found.database_url)
        try:
            report = asyncio.run(_resnapshot(slot, found.nats_url, found.database_url))
        except asyncio.CancelledError as error:
            typer.echo("ssmd: stopped; run it again before `ssmd cdc run`", err=True)
            raise typer.Exit(128 + signal.SIGTERM) from error
        print_json(dataclasses.asdict(report))


async def _resnapshot(slot: str, nats_url: str, database_url: str) -> ResnapshotReport:
    """Stopped by SIGTERM as by SIGINT: if the process merely ended, Postgres would go on making the slot."""
    from ssmd_stream.cdc.resnapshot import resnapshot

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await resnapshot(slot, nats_url, database_url)


@cdc_app.command("status")
def cdc_status(slot: SlotOption = "ssmd_cdc") -> None:
    """Print how the slot, the stream and the record stand; exit 1 if they do not agree."""
    from ssmd_core.db.connect import check_url
    from ssmd_stream.cdc.status import cdc_status as ask

    with clear_errors():
        found = settings()
        check_url(found.database_url)
        status = asyncio.run(ask(slot, found.nats_url, found.database_url))
        print_json(status)
        if status["problem"]:
            raise typer.Exit(EXIT_FAILED)
