"""Answers kept as bytes until one of their tables changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ssmd_api.jsons import encode
from ssmd_api.services import Services

Make = Callable[[], Awaitable[Any]]

#: For answers that follow from the tables alone; only memory limits them.
AS_LONG_AS_TRUE_S = 3600.0
#: For answers that also depend on what time it is.
CLOCK_S = 1.0


async def kept(
    services: Services,
    key: object,
    tables: tuple[str, ...],
    make: Make,
    max_age_s: float = AS_LONG_AS_TRUE_S,
) -> bytes:
    """The kept answer, or a new one, which is kept.

    Args:
        key: everything that the answer depends on beside the tables: the question and the feeds of the asker.
        tables: synced ones.
        make: gives the JSON value.
    """
    if (found := services.answers.find(key)) is not None:
        return found
    generation = services.changes.generation(tables)
    body = encode(await make())
    services.answers.keep(key, body, tables, generation, max_age_s)
    return body
