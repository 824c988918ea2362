"""Clients that send or take next to nothing, or far too much."""

from __future__ import annotations

import socket
import time

import pytest
from api_rig import ApiRig

from ssmd_api import connections


def connect(api: ApiRig, sent: bytes, *, buffer_bytes: int = 0) -> socket.socket:
    client = socket.socket()
    if buffer_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    client.settimeout(5)
    client.connect(("127.0.0.1", int(api.url.rpartition(":")[2])))
    client.sendall(sent)
    return client


def all_of(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    with client:
        try:
            return b"".join(iter(lambda: client.recv(65_536), b""))
        except ConnectionResetError:
            return b"reset"


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", 0),
        (HEALTH, 0),  # a head without an end
        (HEALTH + b"\r\n" + b"\r\n", 1),  # uvicorn's own timer is ended by the second empty line
        (HEALTH + b"\r\n" + b"GET /hea", 1),
        (HEALTH + b"Content-Length: 9\r\n\r\n" + b"1", 1),
    ],
)
def test_a_client_that_says_nothing_more_is_closed(
    sent: bytes, answers: int, api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.2)
    began_s = time.monotonic()
    first = sent.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if answers else sent
    client = connect(api, first)
    time.sleep(0.1)
    client.sendall(sent[len(first) :])
    assert all_of(client).count(b"HTTP/1.1 200") == answers
    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    "begin", [b"GET /", b"GET / HTTP/1.1\r\nX: ", HEALTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: "]
)
def test_a_head_without_end_is_refused(begin: bytes, api: ApiRig) -> None:
    client = connect(api, begin)
    with pytest.raises(ConnectionError):
        for _ in range(100):
            client.sendall(b"x" * 65_536)
            time.sleep(0.001)
    client.close()
    big = {"X-Big": "x" * 30_000}
    assert api.http.get("/health", headers=big).status_code == 200
    assert api.http.post("/mcp", content=b"x" * 200_000).status_code in {401, 413}


def test_a_client_that_takes_nothing_is_closed_and_a_slow_one_is_not(
    api: ApiRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STUCK_S", 0.4)
    bundle = api.http.get("/static/docs/swagger-ui-bundle.js")
    request = b"GET /static/docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\nConnection: %b\r\n\r\n"
    # Six of them are more than the system's own buffers take.
    stuck = connect(api, 6 * (request % b"keep-alive"), buffer_bytes=4096)
    slow = connect(api, request % b"close", buffer_bytes=65_536)
    parts = []
    with slow:
        while part := slow.recv(32_768):
            parts.append(part)
            time.sleep(0.02)
    assert b"".join(parts).endswith(bundle.content)
    with stuck:
        time.sleep(0.5)
        assert len(all_of(stuck)) < 6 * len(bundle.content)
