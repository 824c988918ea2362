"""`ssmd audit-email`."""

from __future__ import annotations

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


def audit_email(
    day: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="UTC; default yesterday.")] = None,
    preview: Annotated[Path | None, typer.Option(help="Write the HTML to this file, and send nothing.")] = None,
) -> None:
    """Mail who got which data on a day, which keys there are, what was used (exit 2 without SMTP_HOST and SMTP_TO)."""
    from ssmd_api.mail.audit import audit_mail, audit_of
    from ssmd_api.mail.smtp import SmtpSettings, send
    from ssmd_core.db.connect import now_of

    with clear_errors():
        environment = service_environment()
        found = Settings.from_environment(environment)
        now = now_of(found.clock)
        wanted = _day(day) or now.date() - timedelta(days=1)
        # Read first: without them the questions to the database are for nothing.
        smtp = None if preview else SmtpSettings.from_environment(environment)

        async def work(connection: psycopg.AsyncConnection) -> Audit:
            return await audit_of(connection, wanted, now)

        audit = with_database(found, work)
        mail = audit_mail(audit)
        told = f"{audit.access_count:,} accesses on {wanted}, {len(audit.active_keys):,} active keys"
        if preview is not None:
            preview.write_text(mail.html, encoding="utf-8")
            typer.echo(f"wrote {preview}: {told}")
        if smtp is not None:
            send(mail, smtp)
            typer.echo(f"sent to {', '.join(smtp.recipients)}: {told}")


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--day {text!r} is not a day such as 2026-11-20") from error
