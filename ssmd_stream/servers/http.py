"""The one HTTP request that supervision needs: GET a health page."""

from __future__ import annotations

import aiohttp
import msgspec

TIMEOUT_S = 3.0
_REASON_CHARS = 200


async def health_reason(url: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """None if GET `url` answers 200, else why not: `reason` of a JSON body, the status, or the connection's error."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            body = await response.read()
            if response.status == 200:
                return None
            return _reason(body) or f"HTTP {response.status}"
    except TimeoutError:
        return f"no answer in {timeout_s:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return str(error)[:_REASON_CHARS] or type(error).__name__


def _reason(body: bytes) -> str | None:
    """`reason`, or NATS's `error`, of a JSON object; None if the body is something else."""
    try:
        page = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    if not isinstance(page, dict):
        return None
    for key in ("reason", "error"):
        if isinstance(page.get(key), str):
            return str(page[key])[:_REASON_CHARS]
    return None
