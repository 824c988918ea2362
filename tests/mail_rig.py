"""Servers that take alerts: SMTP that keeps its mails, and HTTP that plays ntfy, well or badly."""

from __future__ import annotations

import email
import email.policy
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from ssmd_stream.servers.ports import choose_port


class Inbox:
    """What a server took; `refuse` are recipients that it does not."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.refuse: set[str] = set()
        self.answer = "250 OK"

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, to: str, options: list[str]) -> str:
        if to in self.refuse:
            return "550 no such user"
        envelope.rcpt_tos.append(to)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        self.envelopes.append(envelope)
        return self.answer


@contextmanager
def smtp_server(inbox: Inbox, **options: Any) -> Iterator[int]:
    """A server on a free port."""
    port = choose_port(None)
    controller = Controller(inbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


class Ntfy:
    """What an ntfy server got.

    Attributes:
        url: of a topic of it.
        got: published documents, with their headers as `headers`.
        answers: statuses of the next answers; 0 closes the connection, -1 never answers; then 200.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/alerts-6c1f"
        self.got: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.asked = 0
        self.stopped = threading.Event()

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.got]


@contextmanager
def ntfy_server() -> Iterator[Ntfy]:
    """One on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            ntfy.asked += 1
            status = ntfy.answers.pop(0) if ntfy.answers else 200
            if status == -1:
                ntfy.stopped.wait(30)
            if status <= 0:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if status == 200:
                ntfy.got.append(json.loads(body) | {"path": self.path, "headers": dict(self.headers)})
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    ntfy = Ntfy(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield ntfy
    finally:
        ntfy.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
