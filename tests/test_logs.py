"""Secrets never reach a log, whatever they hang on; the clock does what a rehearsal needs."""

from __future__ import annotations

import pytest

from ssmd_core.clock import NS_PER_S, Clock, rfc3339_us
from ssmd_core.errors import ConfigError
from ssmd_core.logs import redact


def test_redacts_at_any_depth() -> None:
    pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"
    event = {
        "event": f"key {pem} read",
        "url": "postgresql://ssmd:hunter2@127.0.0.1/ssmd",
        "headers": {"KALSHI-ACCESS-SIGNATURE": "c2ln", "User-Agent": "ssmd"},
        "lines": ["nats://a:b@host", {"password": "hunter2"}],
        "api_key": "k-1",
        "redis": "redis://:s3cr3t@127.0.0.1/0",
        "nats": "nats://t0k3n@127.0.0.1:4222",
        "odd": "postgresql://u:p@ss@127.0.0.1/x",
        "error": ConnectionError("nats://a:n0pe@host refused"),
        "KALSHI-ACCESS-KEY": "abc-123",
        "frames": 3,
    }
    text = repr(redact(None, "info", event))
    for secret in ("MIIEow", "hunter2", "c2ln", "k-1", "a:b@", "s3cr3t", "t0k3n", "p@ss", "ss@", "n0pe", "abc-123"):
        assert secret not in text
    assert "'frames': 3" in text
    assert "User-Agent" in text


def test_clock_is_shared_between_processes() -> None:
    clock = Clock.parse("2026-11-22T11:00:00Z@100")
    other = Clock.parse(clock.shared_text())
    assert abs(other.now_ns() - clock.now_ns()) < NS_PER_S
    assert rfc3339_us(clock.now_ns() // 1000).startswith("2026-11-22T11:00:")
    assert Clock.parse("").shared_text() == ""


def test_clock_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 1_000 * NS_PER_S
    monkeypatch.setattr("time.time_ns", lambda: now_ns)
    clock = Clock()
    assert clock.now_ns() == now_ns
    now_ns -= NS_PER_S
    assert clock.now_ns() == 1_000 * NS_PER_S
    now_ns -= 3_600 * NS_PER_S
    assert clock.now_ns() == now_ns
    assert clock.steps_back == 1
    now_ns += 7_200 * NS_PER_S
    assert clock.now_ns() == now_ns


@pytest.mark.parametrize("text", ["noon", "2026-11-22@fast", "1~x@2"])
def test_clock_refuses_nonsense(text: str) -> None:
    with pytest.raises(ConfigError, match="clock"):
        Clock.parse(text)
