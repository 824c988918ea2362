"""`ssmd ledger`: prove hours, show what stands behind an hour's word, and the key that signs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmd_api.cli.output import clear_errors, print_json, service_environment, settings

if TYPE_CHECKING:
    from ssmd_core.feeds.subjects import StreamName
    from ssmd_core.proof.ledger import Ledger
    from ssmd_core.settings import Settings

ledger_app = typer.Typer(help="The signed ledger of every hour: what was asked for, what came, what is missing.")

_STREAM = typer.Argument(help="FEED/STREAM, e.g. kraken/spot.")
_HOUR = typer.Argument(help="YYYY-MM-DD-HH:00 or YYYY-MM-DDTHH, UTC.")


@ledger_app.command("prove")
def prove(
    stream: Annotated[str, _STREAM],
    hour: Annotated[str | None, _HOUR] = None,
    every: Annotated[bool, typer.Option("--all", help="Every archived hour that is not proved, in order.")] = False,
) -> None:
    """Build an hour's datasets and prove it; a line in the chain is added only if something has changed."""
    from ssmd_core.errors import ConfigError, SsmdError
    from ssmd_core.proof.hour import archived_hours, is_due, is_proved

    with clear_errors():
        found = settings()
        name = _stream(stream, found)
        if (hour is None) == (not every):
            raise ConfigError("name an hour, or --all")
        if hour is not None:
            if not _prove(found, name, _hour(hour)):
                raise SsmdError(f"no sealed file of {stream} for {hour} in {found.archive_root}")
            return
        hours = archived_hours(found.archive_root, name.feed.name, name.stream)
        if not hours:
            raise SsmdError(f"no sealed file of {stream} in {found.archive_root}")
        due = [each for each in hours if is_due(found, name.feed, name.stream, each)]
        proved = 0
        for each in due:
            # Asked when its turn comes: it may stand on the hour that was proved just now.
            if not is_proved(found, name.feed, name.stream, each):
                proved += _prove(found, name, each)
        waiting = f", {len(hours) - len(due)} not sealed yet" if len(due) < len(hours) else ""
        typer.echo(f"{len(hours)} archived hours, {proved} proved now, {len(due) - proved} before{waiting}")


@ledger_app.command("show")
def show(
    stream: Annotated[str, _STREAM],
    hour: Annotated[str, _HOUR],
    minutes: Annotated[bool, typer.Option("--minutes", help="The ledger's rows too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger as JSON.")] = False,
) -> None:
    """Show an hour's word, its reasons and its sums."""
    from ssmd_core.errors import SsmdError
    from ssmd_core.proof.chain import newest
    from ssmd_core.proof.ledger import as_dict, hour_id, proof_file, read_ledger

    with clear_errors():
        found = settings()
        name = _stream(stream, found)
        wanted = _hour(hour)
        ledger = read_ledger(found.proof_root, name.feed.name, name.stream, wanted)
        if ledger is None:
            raise SsmdError(f"{stream} {hour_id(wanted)} is not proved yet; `ssmd ledger prove {stream} {hour}`")
        entry = newest(found.proof_root, name.feed.name, name.stream)[ledger.hour]
        if as_json:
            print_json(as_dict(ledger) | {"ledger_sha256": entry.ledger, "n": entry.n, "sealed_at": entry.sealed_at})
            return
        _say(ledger)
        typer.echo(f"  line {entry.n + 1} of the chain, sealed {entry.sealed_at}, ledger {entry.ledger}")
        if minutes:
            _print_minutes(proof_file(found.proof_root, name.feed.name, name.stream, wanted, "coverage"))


@ledger_app.command("key")
def key(
    new: Annotated[bool, typer.Option("--new", help="Make a key in place of one that is lost.")] = False,
) -> None:
    """Print the public key that this installation signs with, and its fingerprint; a first key is made."""
    from ssmd_core.proof.keys import new_key, own_key

    with clear_errors():
        found = settings()
        own = new_key(found.data) if new else own_key(found.data, service_environment())
        typer.echo(f"{own.public}  {own.fingerprint}")


def _prove(found: Settings, name: StreamName, hour: datetime) -> bool:
    from ssmd_core.proof.hour import prove_hour

    _, ledger = prove_hour(found, name.feed, name.stream, hour)
    if ledger is not None:
        _say(ledger)
    return ledger is not None


def _say(ledger: Ledger) -> None:
    from ssmd_core.text import shown

    totals = ledger.totals
    typer.echo(
        f"{ledger.feed}/{ledger.stream} {ledger.hour}  {ledger.word}  {totals.messages} messages, "
        f"{totals.asked} asked, {totals.acknowledged} acknowledged, {totals.delivered} delivered; "
        f"{totals.passed} checks passed, {totals.failed} failed, {totals.unverifiable} not possible"
    )
    for reason in ledger.reasons:
        typer.echo(f"  {reason.code}: {shown(reason.detail)}")
        if reason.evidence:
            typer.echo(f"    see {shown(', '.join(reason.evidence))}")


def _print_minutes(path: Path) -> None:
    import pyarrow.parquet as pq

    from ssmd_api.cli.tables import print_table

    columns = ["minute", "connection", "open_s", "asked", "acknowledged", "refused", "delivered", "messages", "bytes"]
    columns += ["missing_ordinals", "sequence_gaps", "passed", "failed", "offset_ms", "age_p99_ms", "opens", "errors"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    print_table(columns, [[row[name] for name in columns] for row in rows])


def _stream(text: str, found: Settings) -> StreamName:
    from ssmd_core import feeds

    return feeds.parse_stream(text, found.env)


def _hour(text: str) -> datetime:
    from ssmd_core.archive.paths import parse_hour
    from ssmd_core.errors import ConfigError
    from ssmd_core.proof.ledger import parse_hour_id

    try:
        return parse_hour_id(text)
    except ValueError:
        try:
            return parse_hour(text)
        except ValueError as error:
            raise ConfigError(str(error)) from error
