"""Mails of assets: a mail that cannot be sent never fails the run whose results stand already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import dagster as dg

from ssmd_assets.lib.text import visible

if TYPE_CHECKING:
    from ssmd_core.mail.render import Mail

_BACKFILL = "dagster/backfill"


def send_mail(context: dg.AssetExecutionContext, mail: Mail) -> str:
    """Send where a mail server is set.

    Returns:
        What became of it, for the metadata.
    """
    from ssmd_core.errors import ConfigError
    from ssmd_core.mail.smtp import MailError, SmtpSettings, send

    if not os.environ.get("SMTP_HOST"):
        return "not sent: SMTP_HOST is not set"
    # Thirty old days scored anew are no thirty mornings.
    if _BACKFILL in context.run.tags:
        return "not sent: the run is part of a backfill"
    try:
        smtp = SmtpSettings.from_environment(os.environ)
        send(mail, smtp)
    except (ConfigError, MailError) as error:
        reason = visible(str(error))
        context.log.error(f"the mail was not sent: {reason}")
        return f"not sent: {reason}"
    return f"sent to {visible(', '.join(smtp.recipients))}"
