"""Ending a task that misses its first cancellation."""

from __future__ import annotations

import asyncio
import contextlib

from ssmd_stream.tasks import end_tasks


def test_a_swallowed_cancellation_is_repeated() -> None:
    async def deaf(times: int) -> str:
        for _ in range(times):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        await asyncio.sleep(60)
        return "never"

    async def failing() -> None:
        raise ValueError("seen")

    async def scenario() -> None:
        tasks = [asyncio.create_task(deaf(0)), asyncio.create_task(deaf(2)), asyncio.create_task(failing())]
        await asyncio.sleep(0.01)
        await asyncio.wait_for(end_tasks(None, *tasks), 5)
        assert [task.done() for task in tasks] == [True] * 3
        assert tasks[0].cancelled() and tasks[1].cancelled()

    asyncio.run(scenario())
