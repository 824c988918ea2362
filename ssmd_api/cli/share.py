"""`ssmd share`: signed URLs on stdout, one a line; everything else on stderr."""

from __future__ import annotations

from enum import StrEnum
from itertools import groupby
from typing import Annotated, Any

import typer

from ssmd_api.cli.output import clear_errors, print_json
from ssmd_core.errors import ConfigError, SsmdError

share_app = typer.Typer(help="Signed URLs of captured data, from a running API (SSMD_API_URL, SSMD_API_KEY).")


class FileKind(StrEnum):
    """Which files."""

    parquet = "parquet"
    raw = "raw"
    proof = "proof"
    backfill = "backfill"


@share_app.callback(invoke_without_command=True)
def share(
    context: typer.Context,
    feed: Annotated[str, typer.Option(help="Such as kalshi.")] = "",
    date: Annotated[str, typer.Option(help="One day, YYYY-MM-DD.")] = "",
    from_: Annotated[str, typer.Option("--from", help="First day.")] = "",
    to: Annotated[str, typer.Option("--to", help="Last day; seven days at most.")] = "",
    type_: Annotated[str, typer.Option("--type", help="One message type; default all.")] = "",
    kind: Annotated[
        FileKind, typer.Option(help="raw: the archive's own .jsonl.gz files; proof: ledgers and chain.")
    ] = FileKind.parquet,
    expires: Annotated[str, typer.Option(help="How long the URLs hold, 1h to 12h.")] = "12h",
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's whole answer.")] = False,
) -> None:
    """Print signed URLs of files, one a line; exit 1 if there is no file."""
    if context.invoked_subcommand is not None:
        return
    from ssmd_api.cli.remote import get

    with clear_errors():
        if not feed:
            raise ConfigError("--feed is missing; `ssmd share feeds` lists feeds")
        if bool(date) == bool(from_ or to) or bool(from_) != bool(to):
            raise ConfigError("give --date, or --from and --to")
        answer = get(
            "/v1/data/download",
            feed=feed,
            from_=date or from_,
            to=date or to,
            type=type_ or None,
            kind=kind.value,
            expires=expires,
        )
        _tell(answer)
        if as_json:
            print_json(answer)
        else:
            for file in answer["files"]:
                typer.echo(file["signedUrl"])
        if not answer["files"]:
            raise SsmdError(f"no {kind} file of {feed} from {answer['from']} to {answer['to']}")


@share_app.command("feeds")
def feeds(as_json: Annotated[bool, typer.Option("--json", help="Print the API's whole answer.")] = False) -> None:
    """List the feeds that the key reaches, and what there is of them."""
    from ssmd_api.cli.remote import get
    from ssmd_api.cli.tables import print_table

    with clear_errors():
        answer = get("/v1/data/feeds")
        if as_json:
            print_json(answer)
            return
        columns = ("FEED", "STREAM", "FROM", "TO", "FILES", "ROWS", "TYPES")
        members = ("name", "stream", "dateMin", "dateMax", "totalFiles", "totalRows", "messageTypes")
        print_table(columns, ([entry[member] for member in members] for entry in answer["feeds"]))


def _tell(answer: Any) -> None:
    files = answer["files"]
    size = sum(file["bytes"] for file in files)
    until = f", until {files[0]['expiresAt']}" if files else ""
    count = f"{len(files)} file{'' if len(files) == 1 else 's'}"
    typer.echo(f"{count}, {size} bytes, {answer['from']} to {answer['to']}{until}", err=True)
    for (state, stream, date), hours in groupby(
        answer["missing"], lambda hour: (hour["state"], hour["stream"], hour["date"])
    ):
        names = [hour["hour"] for hour in hours]
        span = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, {len(names)} hours"
        typer.echo(f"{state.replace('_', ' ')}: {stream} {date} {span}", err=True)
