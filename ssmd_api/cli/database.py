"""`ssmd db`: the database's schema."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, settings

db_app = typer.Typer(help="The schema of ssmd's database.", no_args_is_help=True)


@db_app.command("upgrade")
def upgrade(revision: Annotated[str, typer.Argument(help="An id, or head.")] = "head") -> None:
    """Bring the schema to a revision, the newest by default; never back: that would drop data."""
    from ssmd_core.db.migrate import head, migrate, revision_of
    from ssmd_core.errors import ConfigError

    with clear_errors():
        url = settings().database_url
        wanted = head() if revision == "head" else revision
        before = revision_of(url)
        # Ids are numbers of four digits.
        if wanted == "base" or wanted < before:
            raise ConfigError(f"revision {revision!r} is older than the database's {before!r}: nothing is dropped here")
        after = migrate(url, wanted)
        typer.echo(f"at {after}" if after == before else f"from {before or 'nothing'} to {after}")


@db_app.command("revision")
def revision() -> None:
    """The revision that the database is at; exit 1 if it is not the newest."""
    from ssmd_core.db.migrate import head, revision_of

    with clear_errors():
        present, newest = revision_of(settings().database_url), head()
        typer.echo(f"{present or 'none'}" + ("" if present == newest else f", newest is {newest}"))
        if present != newest:
            raise typer.Exit(EXIT_FAILED)
