"""`ssmd sync`: what has been captured, brought to where it is kept."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, service_environment, settings

sync_app = typer.Typer(help="Copy what has been captured to an object store.", no_args_is_help=True)


@sync_app.callback()
def _sync() -> None:
    """Copy what has been captured to an object store."""


@sync_app.command("archive")
def archive(
    streams: Annotated[
        list[str] | None, typer.Argument(help="FEED/STREAM, such as kraken/spot; default everything.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="gs://bucket/prefix, s3://bucket/prefix or a folder, instead of SSMD_STORAGE_URL.")
    ] = "",
    read_all: Annotated[
        bool, typer.Option("--read-all", help="Read back also what was found right before and has not changed.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write anew what lies there with other bytes; else it is only named.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Upload sealed files, datasets and manifests, and read back what arrived; exit 1 if something is not right there.

    Nothing is ever deleted, here or there.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ssmd_core.db.connect import DatabaseError
    from ssmd_core.errors import ConfigError
    from ssmd_core.storage.store import Storage
    from ssmd_stream.upload.log import write_log
    from ssmd_stream.upload.sync import sync_archive

    with clear_errors():
        found, environment = settings(), service_environment()
        url = to or environment.get("SSMD_STORAGE_URL", "")
        if not url:
            raise ConfigError("no object store: set SSMD_STORAGE_URL, e.g. gs://bucket/prefix, or give --to")
        storage = Storage.open(url, environment)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("looking", total=None)

            def progress(done: int, total: int, path: str) -> None:
                bar.update(task, completed=done, total=total, description=path)

            report = sync_archive(
                found.data, storage, streams or (), read_all=read_all, repair=repair, progress=progress
            )
        if not report.days:
            raise ConfigError(f"nothing is sealed in {found.data}: does SSMD_DATA name the data folder?")
        try:
            write_log(found, report)
        except DatabaseError as error:
            report.notes.append(f"archiver_sync_log was not written: {error}")
        for note in report.notes:
            typer.echo(f"note: {note}", err=True)
        if as_json:
            print_json(report.as_dict())
        else:
            for problem in report.problems:
                typer.echo(f"FAILED {problem}")
            typer.echo(
                f"{report.storage}: {report.uploaded} objects uploaded ({report.uploaded_bytes} bytes), "
                f"{report.proved} read back, {report.unchanged} unchanged, in {report.days} folders; "
                f"{len(report.problems)} problems"
            )
        if not report.holds:
            raise typer.Exit(EXIT_FAILED)
