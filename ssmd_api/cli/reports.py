"""`ssmd diagnosis analyze` and `ssmd volume analyze`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmd_api.cli.mail import PreviewOption
from ssmd_api.cli.output import clear_errors, print_json, service_environment
from ssmd_api.cli.quality import day_of
from ssmd_api.cli.secmaster import JsonOption
from ssmd_api.cli.tables import shown, with_database
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.reports.model import ModelSettings
    from ssmd_core.reports.store import Made

diagnosis_app = typer.Typer(help="What is wrong, why, and what to do.", no_args_is_help=True)
volume_app = typer.Typer(help="What was traded.", no_args_is_help=True)

DateOption = Annotated[str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="UTC; default yesterday.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Ask the model even if all is well, or it has answered for the same rows.")
]
NoMailOption = Annotated[bool, typer.Option("--no-mail", help="Send no mail.")]


@diagnosis_app.callback()
def _diagnosis() -> None:
    """What is wrong, why, and what to do."""


@volume_app.callback()
def _volume() -> None:
    """What was traded."""


@diagnosis_app.command("analyze")
def analyze_diagnosis(
    day: DateOption = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
    no_mail: NoMailOption = False,
    preview: PreviewOption = None,
) -> None:
    """Diagnose a day from seven days of scores, proofs, drift and reconciliations, store the report and mail it.

    With ANTHROPIC_API_KEY a language model is asked (SSMD_REPORT_MODEL), unless all is well; else, and whenever its
    answer cannot be used, fixed rules write the report.
    """

    async def work(connection: psycopg.AsyncConnection, wanted: _Wanted) -> Made:
        from ssmd_core.reports.diagnosis import diagnose

        return await diagnose(connection, wanted.day, model=wanted.model, force=force)

    _analyze(work, day, as_json=as_json, mail=not no_mail, force=force, preview=preview)


@volume_app.command("analyze")
def analyze_volume(
    day: DateOption = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
    no_mail: NoMailOption = False,
    preview: PreviewOption = None,
) -> None:
    """Count what was traded on a day, store a report on it and mail it; a model is asked as for the diagnosis."""

    async def work(connection: psycopg.AsyncConnection, wanted: _Wanted) -> Made:
        import asyncio

        from ssmd_core.datasets.coverage import Manifests
        from ssmd_core.reports.volume import analyze_volume as analyze
        from ssmd_core.reports.volume_inputs import read_volumes, with_titles

        settings = wanted.settings
        manifests = Manifests(settings.archive_root, settings.dataset_root)
        inputs = await asyncio.to_thread(read_volumes, manifests, wanted.day, wanted.now)
        inputs = await with_titles(connection, inputs, wanted.now)
        return await analyze(connection, wanted.day, inputs, model=wanted.model, force=force)

    _analyze(work, day, as_json=as_json, mail=not no_mail, force=force, preview=preview)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for."""

    day: date
    now: datetime
    settings: Settings
    model: ModelSettings | None


def _analyze(
    work: Callable[[psycopg.AsyncConnection, _Wanted], Awaitable[Made]],
    day: str | None,
    *,
    as_json: bool,
    mail: bool,
    force: bool,
    preview: Path | None,
) -> None:
    from ssmd_api.cli.mail import check_mail
    from ssmd_core.db.connect import now_of
    from ssmd_core.reports.model import ModelSettings

    with clear_errors():
        environment = service_environment()
        settings = Settings.from_environment(environment)
        now = now_of(settings.clock)
        wanted = _Wanted(
            day_of(day) or now.date() - timedelta(days=1), now, settings, ModelSettings.from_environment(environment)
        )
        if wanted.day > now.date():
            raise ConfigError(f"--date {wanted.day} has not begun")
        if mail and preview is None and _wants_mail(environment):
            check_mail(environment, preview)
        made = with_database(settings, lambda connection: work(connection, wanted))
        if as_json:
            print_json(_json(made))
        else:
            typer.echo("".join(f"{shown(line)}\n" for line in made.report.markdown.splitlines()), nl=False)
        if preview is not None or mail:
            _mail(made, environment, preview, force=force)


def _wants_mail(environment: Mapping[str, str]) -> bool:
    """Whether any of it is set; half of it is a mistake that is told, none is a choice."""
    return bool(environment.get("SMTP_HOST") or environment.get("SMTP_TO"))


def _mail(made: Made, environment: Mapping[str, str], preview: Path | None, *, force: bool) -> None:
    """Send or preview the mail; what is told of that is no part of the output."""
    from ssmd_api.cli.mail import deliver
    from ssmd_core.reports.mails import diagnosis_mail_of, volume_mail_of

    kind, day = made.report.kind, made.report.day
    if preview is None and not _wants_mail(environment):
        typer.echo("no mail: SMTP_HOST and SMTP_TO are not set", err=True)
        return
    if preview is None and not (made.needed or force):
        typer.echo("no mail: there is nothing to tell (--force sends it)", err=True)
        return
    mail_of = diagnosis_mail_of if kind == "diagnosis" else volume_mail_of
    with contextlib.redirect_stdout(sys.stderr):
        deliver(mail_of(made.report), preview, environment, f"{kind} of {day}")


def _json(made: Made) -> dict[str, object]:
    report = made.report
    return {
        **report.body,
        "input_sha256": report.input_sha256,
        "model": report.model,
        "stop_reason": report.stop_reason,
        "input_tokens": report.input_tokens,
        "output_tokens": report.output_tokens,
        "cost_usd": report.cost_usd,
        "dropped_claims": report.dropped_claims,
        "asked": made.asked,
        "cached": made.cached,
    }
