"""Which process runs on which core."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def measured_core() -> int:
    """The core of the process that is measured."""
    return min(_allowed())


def other_core() -> int:
    """The core of the servers, sources and readers; the same one on a machine with one core."""
    return max(_allowed())


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Run this thread, and what it starts meanwhile, on one core; children keep it. Does nothing outside Linux."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
