"""A front before a real HTTP server that passes requests on, writes them down, and spoils answers when told to."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """An answer on its way.

    Attributes:
        cut: send so many bytes of the body and hang up; None for all.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None


class Seen(NamedTuple):
    """A request that came, header names in lower case, and the status it got."""

    path: str
    headers: dict[str, str]
    status: int


@dataclass
class Front:
    """What is to be spoiled, and what came.

    Attributes:
        faults: part of a path -> what to do to the next answers, one each.
    """

    url: str
    seen: list[Seen] = field(default_factory=list)
    faults: dict[str, list[Callable[[Answer], Answer]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def paths(self, part: str) -> list[str]:
        """Paths of requests with this in them."""
        return [seen.path for seen in self.seen if part in seen.path]


@contextmanager
def faulty_front(upstream: str) -> Iterator[Front]:
    """Serve meanwhile."""
    target = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            connection = http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=30)
            connection.putrequest("GET", self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, headers, response.read())
            connection.close()
            with front.lock:
                queue = next((queue for part, queue in front.faults.items() if part in self.path and queue), None)
                if queue is not None:
                    answer = queue.pop(0)(answer)
                lower = {name.lower(): value for name, value in self.headers.items()}
                front.seen.append(Seen(self.path, lower, answer.status))
            self.send_response(answer.status)
            for name, value in {
                **answer.headers,
                "content-length": str(len(answer.body)),
                "connection": "close",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[: answer.cut])

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    front = Front(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
