"""`ssmd replay`: play a venue until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from ssmd_core.clock import Clock
from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.feeds.base import Feed
from ssmd_stream.replay.faults import Faults
from ssmd_stream.replay.recording import Recording
from ssmd_stream.replay.server import DEFAULT_PACE, Generated, ReplayServer

_log = structlog.get_logger()


def parse_speed(text: str) -> float | None:
    """`max` is None (as fast as the reader takes it), else a factor above 0.

    Raises:
        ConfigError: neither.
    """
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise ConfigError(f"speed {text!r} is neither a number above 0 nor max")
    return speed


async def run(
    feed: Feed,
    files: Sequence[Path],
    *,
    speed: float | None = 1.0,
    port: int = 0,
    rest_port: int = 0,
    frames_per_s: float | None = DEFAULT_PACE,
    seed: int = 0,
    sent_log: Path | None = None,
    clock: Clock | None = None,
    faults: Faults | None = None,
    on_ready: Callable[[ReplayServer], None] | None = None,
) -> int:
    """Serve the files, or generated traffic if there are none, until SIGINT or SIGTERM.

    Args:
        speed: see `ReplayServer`; generated traffic has `frames_per_s` instead (None: as fast as readers take it).
        on_ready: called once the server listens, e.g. to print its URL.

    Returns:
        0; 1 if a recording could not be read to its end (what was readable has been served).

    Raises:
        ConfigError: a file is not there.
    """
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise ConfigError(f"no such recording: {', '.join(missing)}")
    source = Recording.from_files(files) if files else Generated(seed=seed, frames_per_s=frames_per_s)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    code = 0
    try:
        async with ReplayServer(
            feed,
            source,
            port=port,
            rest_port=rest_port,
            speed=speed,
            frames_per_s=frames_per_s or DEFAULT_PACE,
            sent_log=sent_log,
            clock=clock,
            faults=faults,
        ) as server:
            if on_ready is not None:
                on_ready(server)
            played = asyncio.create_task(server.finished())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait((played, stopped), return_when=asyncio.FIRST_COMPLETED)
            if played.done():
                try:
                    played.result()
                    _log.info("replay_finished", feed=feed.name, frames=server.data_frames)
                except (SsmdError, OSError) as error:
                    _log.error("replay_incomplete", feed=feed.name, frames=server.data_frames, error=str(error))
                    code = 1
                await stopped
            played.cancel()
            with contextlib.suppress(asyncio.CancelledError, SsmdError, OSError):
                await played
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return code
