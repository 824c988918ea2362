"""A message of an alert, as a mail."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ssmd_core.mail.render import Mail, badge, page

if TYPE_CHECKING:
    from ssmd_core.alerts.alert import Message

_COLOURS = {"info": "grey", "warning": "YELLOW", "critical": "RED"}


def alert_mail(message: Message) -> Mail:
    """The mail; one line of the alert's text is one line of it."""
    word = {"over": "OVER", "summary": "ALERTS"}.get(message.kind, message.severity.upper())
    colour = "GREEN" if message.kind == "over" else _COLOURS[message.severity]
    lines = "".join(f"<p>{escape(line)}</p>" for line in message.text.splitlines())
    body = f"<h1>{badge(word, colour)} {escape(message.title)}</h1>{lines}"
    return page(f"[ssmd] {word} {message.title}", body, f"{word} {message.title}\n\n{message.text}\n")
