"""`ssmd audit-email`, and how every command with a mail sends or previews it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmd_api.cli.output import clear_errors, service_environment
from ssmd_api.cli.tables import with_database
from ssmd_core.errors import ConfigError
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    import psycopg

    from ssmd_api.mail.audit import Audit
    from ssmd_core.mail.render import Mail

PreviewOption = Annotated[
    Path | None,
    typer.Option("--preview", metavar="FILE", help="Write the HTML to FILE and its text beside it; send nothing."),
]


def audit_email(
    day: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="UTC; default yesterday.")] = None,
    preview: PreviewOption = None,
) -> None:
    """Mail who got which data on a day, which keys there are, what was used (exit 2 without SMTP_HOST and SMTP_TO)."""
    from ssmd_api.mail.audit import audit_mail, audit_of
    from ssmd_core.db.connect import now_of

    with clear_errors():
        environment = service_environment()
        found = Settings.from_environment(environment)
        now = now_of(found.clock)
        wanted = _day(day) or now.date() - timedelta(days=1)
        check_mail(environment, preview)

        async def work(connection: psycopg.AsyncConnection) -> Audit:
            return await audit_of(connection, wanted, now)

        audit = with_database(found, work)
        told = f"{audit.access_count:,} accesses on {wanted}, {len(audit.active_keys):,} active keys"
        deliver(audit_mail(audit), preview, environment, told)


def check_mail(environment: Mapping[str, str], preview: Path | None) -> None:
    """Look at once whether a mail could be sent: without that the work for it is for nothing.

    Raises:
        ConfigError: it is to be sent, not only written, and a setting is missing for that.
    """
    from ssmd_core.mail.smtp import SmtpSettings

    if preview is None:
        SmtpSettings.from_environment(environment)


def deliver(mail: Mail, preview: Path | None, environment: Mapping[str, str], told: str) -> None:
    """Write a mail to the preview's file, or send it, and say which.

    Args:
        told: what is in it, in one line.

    Raises:
        ConfigError: a setting is missing.
        MailError: it could not be sent.
        OSError: it could not be written.
    """
    from ssmd_core.mail.preview import write_preview
    from ssmd_core.mail.smtp import SmtpSettings, send

    if preview is not None:
        beside = write_preview(mail, preview)
        typer.echo(f"wrote {preview} and {beside}: {told}")
        return
    smtp = SmtpSettings.from_environment(environment)
    send(mail, smtp)
    typer.echo(f"sent to {', '.join(smtp.recipients)}: {told}")


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--day {text!r} is not a day such as 2026-11-20") from error
