"""`ssmd sync`: what has been captured, brought to where it is kept, and to who reads it."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, service_environment, settings

_KEY = re.compile(r"[A-Za-z0-9+/]{43}=\Z")

if TYPE_CHECKING:
    from ssmd_core.proof.chain import Entry

sync_app = typer.Typer(help="Copy what has been captured: to an object store, from an API.", no_args_is_help=True)


@sync_app.callback()
def _sync() -> None:
    """Copy what has been captured: to an object store, from an API."""


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
    """Upload sealed files, datasets, proofs and backfills, and read back what arrived; exit 1 if something is not right
    there.

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


@sync_app.command("data")
def data(
    feed: Annotated[str, typer.Argument(help="Such as kalshi.")],
    first: Annotated[str, typer.Argument(metavar="FROM", help="First day, YYYY-MM-DD, UTC.")],
    last: Annotated[str, typer.Argument(metavar="TO", help="Last day; default the first.")] = "",
    into: Annotated[Path, typer.Option(help="Folder; datasets/ and proof/ are made in it.")] = Path("market-data"),
    type_: Annotated[str, typer.Option("--type", help="One message type; default all.")] = "",
    proof: Annotated[bool, typer.Option(help="The hours' ledgers with what they name, and the chain.")] = True,
    backfill: Annotated[bool, typer.Option("--backfill", help="Trades that were fetched afterwards, too.")] = False,
) -> None:
    """Download datasets and their proof from a running API (SSMD_API_URL, SSMD_API_KEY); `ssmd verify FOLDER` checks
    them then.

    What is there is not fetched again. Hours that are missing are named; exit 1 if a file cannot be had.
    """
    from ssmd import Client, ClientError, MissingHoursWarning
    from ssmd_api.cli.remote import api_and_key
    from ssmd_core.errors import ConfigError, SsmdError

    with clear_errors():
        wanted = {"parquet": True, "backfill": backfill, "proof": proof}
        counts = {}
        try:
            client = Client(*api_and_key())
            with client, warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", MissingHoursWarning)
                for kind in (kind for kind, is_wanted in wanted.items() if is_wanted):
                    only = type_ or None if kind == "parquet" else None
                    counts[kind] = len(client.download(feed, only, first, last or first, to=into, kind=kind))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        except ClientError as error:
            raise SsmdError(str(error)) from error
        missing = [warning.message.missing for warning in told if isinstance(warning.message, MissingHoursWarning)]
        for line in dict.fromkeys(str(one) for of_kind in missing for one in of_kind):
            typer.echo(f"note: {line}", err=True)
        typer.echo(f"{into}: " + ", ".join(f"{count} files of {kind}" for kind, count in counts.items()))
        if not any(counts.values()):
            raise SsmdError(f"there is no file of {feed} from {first} to {last or first}")
        if proof:
            _tell_signer(into, feed)


def _tell_signer(folder: Path, feed: str) -> None:
    """Whose signature the proof carries, and how to trust it from now on."""
    from ssmd_core.proof.chain import read_chain
    from ssmd_core.proof.keys import TRUSTED, fingerprint

    root = folder / "proof"
    entries: list[Entry] = []
    for path in sorted((root / feed).glob("*/")):
        entries += read_chain(root, feed, path.name)
    keys = list(dict.fromkeys(entry.key for entry in entries))
    for key in keys:
        # What is no key is not shown as one: the line is made to be copied into a shell.
        typer.echo(f"signed with {key}  {fingerprint(key)}" if _KEY.match(key) else f"signed with no key: {key[:60]!a}")
    if keys and _KEY.match(keys[-1]):
        typer.echo(
            f"Ask who runs the installation for its key (`ssmd ledger key`). If it is this one:\n"
            f"  export {TRUSTED}={keys[-1]}\n"
            f"  ssmd verify {shlex.quote(str(folder))}"
        )
