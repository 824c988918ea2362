"""Fixtures that every test may use. Servers are real, on free ports, in temporary folders."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssmd_stream.servers.nats import NatsServer

_SAMPLES = Path(os.environ.get("SSMD_SAMPLES") or Path(__file__).resolve().parents[2] / "shared" / "samples")


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of real captures (its README says which are byte-exact)."""
    if not _SAMPLES.is_dir():
        pytest.skip(f"no samples at {_SAMPLES}; set SSMD_SAMPLES to their folder")
    return _SAMPLES


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of one NATS server for the whole session (sync_interval always): use stream names of your own."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), port=None, monitor_port=None)
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS server of one's own: `kill()` ends it as a crash would, `await start()` brings it back as it was."""
    server = NatsServer(tmp_path / "nats", port=None, monitor_port=None)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())
