"""Sending a mail over SMTP."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.mail.render import Mail
from ssmd_core.text import shown

_TIMEOUT_S = 20.0
_TLS_PORT, _SUBMISSION_PORT = 465, 587
# An address as a header and a command of SMTP can hold it: nothing that ends a line or starts another address.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")


class MailError(SsmdError):
    """A mail that was not taken by the server, or not for everybody."""


class PartlyRefusedError(MailError):
    """A mail that the server took for some of its recipients: sent again, those would get it twice."""


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """Where mails go.

    Attributes:
        host, port: `SMTP_HOST`, `SMTP_PORT` (587; on 465 TLS from the first byte on).
        user, password: `SMTP_USER`, `SMTP_PASS`; both "" to send without a login.
        sender: `SMTP_FROM`; default the user.
        recipients: `SMTP_TO`, separated by commas.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    sender: str
    recipients: tuple[str, ...]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> SmtpSettings:
        """Read the environment.

        Raises:
            ConfigError: something is missing, or cannot be used.
        """
        if missing := [name for name in ("SMTP_HOST", "SMTP_TO") if not environment.get(name)]:
            raise ConfigError(f"no mail can be sent: {' and '.join(missing)} not set")
        user, password = environment.get("SMTP_USER", ""), environment.get("SMTP_PASS", "")
        if bool(user) != bool(password):
            raise ConfigError("SMTP_USER and SMTP_PASS belong together: set both or none")
        sender = environment.get("SMTP_FROM") or user
        if not sender:
            raise ConfigError("SMTP_FROM is not set, and without SMTP_USER there is no other sender")
        port = environment.get("SMTP_PORT") or str(_SUBMISSION_PORT)
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise ConfigError(f"SMTP_PORT {port!r} is not a port")
        recipients = tuple(part.strip() for part in environment["SMTP_TO"].split(",") if part.strip())
        for name, address in [("SMTP_FROM", sender), *(("SMTP_TO", one) for one in recipients or ("",))]:
            if not _ADDRESS.fullmatch(address):
                raise ConfigError(f"{name}: {address!r} is not an address such as you@example.com")
        return cls(environment["SMTP_HOST"], int(port), user, password, sender, recipients)


def send(mail: Mail, settings: SmtpSettings) -> None:
    """Give a mail to the server: over TLS where it offers that, and never a password without it.

    Raises:
        MailError: the server cannot be reached, offers no TLS for the login, or refuses.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        _send(_message(mail, settings), settings, where)
    except smtplib.SMTPAuthenticationError as error:
        # The server's words are left out: some repeat what they were sent.
        raise MailError(f"{where} refuses the login of {settings.user} ({error.smtp_code})") from None
    except smtplib.SMTPRecipientsRefused as error:
        raise MailError(f"{where} refuses to deliver to {_refused(error.recipients)}") from error
    except smtplib.SMTPResponseException as error:
        text = error.smtp_error.decode("ascii", "replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        raise MailError(f"{where} refuses the mail: {error.smtp_code} {shown(text)}") from error
    except smtplib.SMTPServerDisconnected as error:
        raise MailError(f"{where} closed the connection") from error
    except ssl.SSLError as error:
        raise MailError(f"{where}: no TLS: {error.reason or error}") from error
    except (smtplib.SMTPException, OSError) as error:
        raise MailError(f"{where}: {error}") from error


def _send(message: EmailMessage, settings: SmtpSettings, where: str) -> None:
    context = ssl.create_default_context()
    if settings.port == _TLS_PORT:
        client: smtplib.SMTP = smtplib.SMTP_SSL(settings.host, settings.port, timeout=_TIMEOUT_S, context=context)
    else:
        client = smtplib.SMTP(settings.host, settings.port, timeout=_TIMEOUT_S)
    with client:
        client.ehlo_or_helo_if_needed()
        if settings.port != _TLS_PORT:
            if client.has_extn("starttls"):
                client.starttls(context=context)
            elif settings.user:
                raise MailError(f"{where} offers no TLS, and the password is not sent without it")
        if settings.user:
            client.login(settings.user, settings.password)
        if refused := client.send_message(message):
            raise PartlyRefusedError(f"{where} delivers to some only, not to {_refused(refused)}")


def _message(mail: Mail, settings: SmtpSettings) -> EmailMessage:
    """The mail with its headers; the library refuses a line break in any of them."""
    message = EmailMessage()
    message["Subject"] = mail.subject
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.recipients)
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=settings.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    # Left to itself the library looks at ten lines only, and may choose the one that makes three bytes of each.
    encodings = [None if part.isascii() else "base64" for part in (mail.text, mail.html)]
    message.set_content(mail.text, cte=encodings[0])
    message.add_alternative(mail.html, subtype="html", cte=encodings[1])
    if mail.images:
        # multipart/related around the HTML alone: readers of the plain text get no attachments.
        page = message.get_body(("html",))
        assert page is not None
        for image in mail.images:
            page.add_related(
                image.png, "image", "png", cid=f"<{image.cid}>", filename=f"{image.cid}.png", disposition="inline"
            )
    return message


def _refused(recipients: Mapping[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{address} ({code})" for address, (code, _) in recipients.items())
