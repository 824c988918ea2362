"""Ending tasks that may miss a cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_S = 0.5


async def end_tasks(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel the tasks and wait until they have ended, however they end.

    Cancelled once is not enough: `asyncio.wait_for` of Python 3.11, which nats-py's requests use, swallows a
    cancellation that comes in the moment of its result, and a loop around it then goes on for ever.
    """
    given = [task for task in tasks if task is not None]
    pending = {task for task in given if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_S)
    for task in given:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain of it
