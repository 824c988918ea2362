"""A provider of language models, on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class FakeUpstream:
    """Both APIs on one port; `answer` decides what is said.

    Attributes:
        asked: bodies and headers of the requests.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.answer: Callable[[dict[str, Any]], Response | dict[str, Any]] = lambda body: {}
        self.delay_s = 0.0
        self.url = ""

    async def _respond(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append((body, dict(request.headers)))
        await asyncio.sleep(self.delay_s)
        said = self.answer(body)
        return said if isinstance(said, Response) else Response(json.dumps(said), media_type="application/json")

    @contextmanager
    def running(self) -> Iterator[FakeUpstream]:
        paths = ("/v1/messages", "/openai/chat/completions")
        app = Starlette(routes=[Route(path, self._respond, methods=["POST"]) for path in paths])
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            pass
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(10)
