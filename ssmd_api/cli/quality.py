"""`ssmd health daily`: score a day."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmd_api.cli.mail import PreviewOption, check_mail, deliver
from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, service_environment
from ssmd_api.cli.secmaster import JsonOption
from ssmd_api.cli.tables import print_table, with_database
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.mail.render import Mail
    from ssmd_core.quality.collect import Scored
    from ssmd_core.quality.daily import FeedScore


def daily(
    day: Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="UTC; default yesterday.")] = None,
    as_json: JsonOption = False,
    mail: Annotated[bool, typer.Option("--mail", help="Send the health mail (SMTP_HOST, SMTP_TO).")] = False,
    preview: PreviewOption = None,
) -> None:
    """Score a day and write it down: every hour, every feed, every parquet file; exit 1 if the day is RED."""
    from ssmd_core.datasets.coverage import Manifests
    from ssmd_core.db.connect import now_of
    from ssmd_core.quality.collect import score_and_store
    from ssmd_core.quality.mails import health_mail_of
    from ssmd_stream.proved import load_missing

    with clear_errors():
        environment = service_environment()
        settings = Settings.from_environment(environment)
        now = now_of(settings.clock)
        wanted = day_of(day) or now.date() - timedelta(days=1)
        if wanted > now.date():
            raise ConfigError(f"--date {wanted} has not begun")

        if mail:
            check_mail(environment, preview)

        async def work(connection: psycopg.AsyncConnection) -> tuple[Scored, Mail]:
            await load_missing(connection, settings, wanted, wanted)
            manifests = Manifests(settings.archive_root, settings.dataset_root)
            scored = await score_and_store(connection, manifests, wanted, now)
            return scored, await health_mail_of(connection, scored)

        scored, message = with_database(settings, work)
        if as_json:
            print_json(asdict(scored.day) | {"feeds": [_json(one) for one in scored.day.feeds]})
        else:
            _print(scored)
        if mail or preview is not None:
            # Whoever reads JSON from stdout gets nothing else on it.
            with contextlib.redirect_stdout(sys.stderr):
                deliver(message, preview, environment, f"health of {wanted}")
        if scored.day.status == "RED":
            raise typer.Exit(EXIT_FAILED)


def day_of(text: str | None) -> date | None:
    """A day from an option.

    Raises:
        ConfigError: it is none.
    """
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a day such as 2026-11-20") from error


def _print(scored: Scored) -> None:
    day = scored.day
    composite = "no feed is captured" if day.composite is None else f"{day.composite} of 100"
    typer.echo(f"{day.day}: {day.status}, {composite}")
    names = ("coverage", "integrity", "connector", "completeness", "parquet", "sla", "archive", "funding")
    print_table(
        ("feed", "score", "grade", "status", *names),
        [
            (one.feed, one.score, one.grade, one.status, *(_known(one.components[name]) for name in names))
            for one in day.feeds
        ],
    )
    for issue in day.issues:
        typer.echo(f"- {issue}")
    if day.not_captured:
        typer.echo(f"not captured: {', '.join(day.not_captured)}")


def _json(one: FeedScore) -> dict[str, Any]:
    # A named tuple would be written as the text of its repr.
    return asdict(one) | {"gaps": [gap._asdict() for gap in one.gaps]}


def _known(value: int | None) -> str:
    return "-" if value is None else str(value)
