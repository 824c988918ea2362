"""A load of HTTP requests on loopback: keep-alive connections, as fast as answers come or at a given pace.

A process of its own (`python -m bench.http_load PLAN`), because a generator in the server's process would be measured
with it. The plan is JSON on standard input, the result JSON on standard output; it ends by itself.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from typing import cast

import msgspec
import uvloop

_LENGTH = b"content-length: "


class Plan(msgspec.Struct):
    """What to send.

    Attributes:
        requests: whole HTTP/1.1 requests, sent in turn.
        seconds: how long, after `warm_up_s` that do not count.
        per_second: pace over all connections; None: each connection sends as soon as it has its answer. At a pace a
            request's time runs from when it was due, so that a stall of the server is seen by all that had to wait.
    """

    host: str
    port: int
    requests: list[str]
    connections: int
    seconds: float
    warm_up_s: float = 1.0
    per_second: float | None = None


class Load(msgspec.Struct):
    """What came of it.

    Attributes:
        refused: answers that are not 200.
        p50_ms, p99_ms: from sent (or due) to the answer's last byte.
    """

    answers: int
    refused: int
    per_second: float
    p50_ms: float
    p99_ms: float
    first_refusal: str = ""


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, requests: Sequence[bytes], begin_s: float, step_s: float | None, times: list[float]) -> None:
        self._requests = cycle(requests)
        self._due_s = begin_s
        self._step_s = step_s
        self._times = times
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._sent_s = 0.0
        self._wanted = 0
        self._got = bytearray()
        self.counting = False
        self.answers = 0
        self.refused = 0
        self.first_refusal = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._next()

    def _next(self) -> None:
        now_s = self._loop.time()
        if self._step_s is None:
            self._send(now_s)
        elif self._due_s <= now_s:
            self._send(self._due_s)
        else:
            self._loop.call_at(self._due_s, self._send, self._due_s)

    def _send(self, from_s: float) -> None:
        if self._transport.is_closing():
            return
        self._sent_s = from_s
        if self._step_s is not None:
            self._due_s += self._step_s
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._wanted:
            end = self._got.find(b"\r\n\r\n")
            if end < 0:
                return
            at = self._got.find(_LENGTH, 0, end)
            length = int(self._got[at + len(_LENGTH) : self._got.find(b"\r", at)]) if at >= 0 else 0
            self._wanted = end + 4 + length
        if len(self._got) < self._wanted:
            return
        if self.counting:
            self._times.append(self._loop.time() - self._sent_s)
            self.answers += 1
            if not self._got.startswith(b"HTTP/1.1 200"):
                self.refused += 1
                self.first_refusal = self.first_refusal or self._got[:600].decode(errors="replace")
        self._got.clear()
        self._wanted = 0
        self._next()

    def close(self) -> None:
        """Hang up."""
        self._transport.abort()


async def load(plan: Plan) -> Load:
    """Send it."""
    loop = asyncio.get_running_loop()
    requests = [text.encode() for text in plan.requests]
    times: list[float] = []
    step_s = None if plan.per_second is None else plan.connections / plan.per_second
    begin_s = loop.time() + 0.05
    connections = []
    for number in range(plan.connections):
        own = list(islice(cycle(requests), number * 97 % len(requests), number * 97 % len(requests) + len(requests)))
        shift_s = 0.0 if step_s is None else step_s * number / plan.connections
        _, connection = await loop.create_connection(
            lambda own=own, shift_s=shift_s: _Connection(own, begin_s + shift_s, step_s, times),  # type: ignore[misc]  # bound now
            plan.host,
            plan.port,
        )
        connections.append(connection)
    await asyncio.sleep(plan.warm_up_s)
    for connection in connections:
        connection.counting = True
    start_s = loop.time()
    await asyncio.sleep(plan.seconds)
    took_s = loop.time() - start_s
    for connection in connections:
        connection.counting = False
        connection.close()
    times.sort()
    answers = sum(connection.answers for connection in connections)
    return Load(
        answers=answers,
        refused=sum(connection.refused for connection in connections),
        per_second=answers / took_s,
        p50_ms=1000 * times[len(times) // 2] if times else 0.0,
        p99_ms=1000 * times[int(len(times) * 0.99)] if times else 0.0,
        first_refusal=next((each.first_refusal for each in connections if each.first_refusal), ""),
    )


def main() -> None:
    """Entry point."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(load(plan))))


if __name__ == "__main__":
    main()
