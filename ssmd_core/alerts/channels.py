"""Where alerts go: an ntfy topic, and mail. Each `send` blocks; the sender calls it from a thread of its own."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
import structlog

from ssmd_core.alerts.alert import Message
from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.mail.alert import alert_mail
from ssmd_core.mail.smtp import MailError, PartlyRefusedError, SmtpSettings, send

_log = structlog.get_logger(__name__)

# A server that drips one byte every few seconds is cut off after the second of them.
_TIMEOUT_S = 10.0
_DEADLINE_S = 20.0
# ntfy turns a longer message into an attachment (docs.ntfy.sh/publish, limitations).
_MAX_NTFY_BYTES = 4_096
_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,512}")
# ntfy: 3 default, 4 high, 5 urgent; tags are short codes of emoji.
_PRIORITIES = {"info": 3, "warning": 4, "critical": 5}
_TAGS = {"info": "information_source", "warning": "warning", "critical": "rotating_light"}
_OVER_TAG = "white_check_mark"


class ChannelError(SsmdError):
    """A message that a channel did not take.

    Attributes:
        final: another try would end the same.
    """

    def __init__(self, text: str, *, final: bool) -> None:
        super().__init__(text)
        self.final = final


class Channel(Protocol):
    """Something that reaches people."""

    @property
    def name(self) -> str:
        """For logs and `/health`: no secrets, and a topic is one."""

    def send(self, message: Message) -> None:
        """Tell it.

        Raises:
            ChannelError: it was not taken.
        """


@dataclass(frozen=True, slots=True)
class NtfyChannel:
    """A topic of an ntfy server; made by `from_environment`.

    Attributes:
        host, port, tls: the server.
        topic: whoever knows it can read along, so it is never logged.
        token: "" for none.
    """

    host: str
    port: int
    tls: bool
    topic: str = field(repr=False)
    token: str = field(repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> NtfyChannel:
        """Read `NTFY_URL` (`https://host/topic`; `http` for this machine only) and `NTFY_TOKEN`.

        Raises:
            ConfigError: they cannot be used. The text shows neither topic nor token.
        """
        # Heavy (YAML, pydantic), and only this needs it.
        from ssmd_core.config import check_endpoint

        url, token = environment["NTFY_URL"].strip(), environment.get("NTFY_TOKEN", "").strip()
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname or ""
        except ValueError as error:
            raise ConfigError(f"NTFY_URL is not a URL: {error}") from None
        if "@" in parts.netloc:
            raise ConfigError(f"NTFY_URL at {host!r} carries credentials; use NTFY_TOKEN")
        check_endpoint(f"{parts.scheme}://{parts.netloc}", ("https", "http"))
        if parts.scheme == "http" and not _is_loopback(host):
            raise ConfigError(f"NTFY_URL at {host!r} must be https: only this machine is spoken to without TLS")
        topic = parts.path.strip("/")
        if not _TOPIC.fullmatch(topic) or parts.query or parts.fragment:
            raise ConfigError(
                f"NTFY_URL at {host!r} must end in a topic of 1 to 64 letters, digits, - and _, such as "
                "https://ntfy.sh/my-topic"
            )
        if token and not _TOKEN.fullmatch(token):
            raise ConfigError("NTFY_TOKEN holds characters that a token cannot have")
        tls = parts.scheme == "https"
        return cls(host, port or (443 if tls else 80), tls, topic, token)

    @property
    def name(self) -> str:
        """Without the topic."""
        return f"ntfy at {self.host}"

    def send(self, message: Message) -> None:
        """Publish as JSON: titles in any script, and nothing of a stranger's text in a header.

        Raises:
            ChannelError: the server cannot be reached, is too slow, or answers anything but 2xx; redirects are not
                followed.
        """
        body = msgspec.json.encode(
            {
                "topic": self.topic,
                "title": message.title,
                "message": _cut(message.text or message.title),
                "priority": _PRIORITIES[message.severity],
                "tags": [_OVER_TAG if message.kind == "over" else _TAGS[message.severity]],
            }
        )
        headers = {"Content-Type": "application/json", "User-Agent": "ssmd"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            status = self._post(body, headers)
        except (OSError, http.client.HTTPException) as error:
            # The library's text may repeat what a server sent; its kind is enough.
            what = str(error) if isinstance(error, OSError) and str(error) else type(error).__name__
            raise ChannelError(f"{self.name}: {what}", final=False) from error
        if not 200 <= status < 300:
            redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
            final = status < 500 and status not in {408, 429}
            raise ChannelError(f"{self.name} answers {status}{redirect}", final=final)

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(self.host, self.port, timeout=_TIMEOUT_S, context=ssl.create_default_context())
            if self.tls
            else http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        )

        def cut_off() -> None:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

        guard = threading.Timer(_DEADLINE_S, cut_off)
        guard.daemon = True
        guard.start()
        try:
            connection.request("POST", "/", body, headers)
            return connection.getresponse().status
        finally:
            guard.cancel()
            connection.close()


@dataclass(frozen=True, slots=True)
class MailChannel:
    """Mail over SMTP."""

    settings: SmtpSettings

    @property
    def name(self) -> str:
        """Without addresses."""
        return f"mail by {self.settings.host} to {len(self.settings.recipients)}"

    def send(self, message: Message) -> None:
        """Mail it.

        Raises:
            ChannelError: the server took it for nobody.
        """
        try:
            send(alert_mail(message), self.settings)
        except PartlyRefusedError as error:
            # The others have it; sent again they would have it twice.
            _log.warning("alerts.mail_partly_refused", error=str(error))
        except MailError as error:
            raise ChannelError(str(error), final=False) from error


def channels_of(environment: Mapping[str, str]) -> list[Channel]:
    """The channels that an environment sets: `NTFY_URL`, and `SMTP_HOST` with `SMTP_TO`; none if it sets none.

    Raises:
        ConfigError: one is set and cannot be used.
    """
    found: list[Channel] = []
    if environment.get("NTFY_URL", "").strip():
        found.append(NtfyChannel.from_environment(environment))
    if environment.get("SMTP_HOST") or environment.get("SMTP_TO"):
        found.append(MailChannel(SmtpSettings.from_environment(environment)))
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cut(text: str) -> str:
    """At most 4,096 bytes of UTF-8, whole characters."""
    data = text.encode()
    return text if len(data) <= _MAX_NTFY_BYTES else data[: _MAX_NTFY_BYTES - 3].decode(errors="ignore") + "…"
