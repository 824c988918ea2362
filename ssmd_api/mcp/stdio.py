"""`ssmd mcp run`: the tools over stdin and stdout, for a client that starts the server itself."""

from __future__ import annotations

import httpx2
from mcp.server.stdio import stdio_server

from ssmd_api.mcp.calls import TIMEOUT_S
from ssmd_api.mcp.server import make_server


async def run(url: str, key: str) -> None:
    """Serve until stdin ends.

    Args:
        url: base URL of the API.
    """
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S) as api:
        server = make_server(api)
        async with stdio_server() as (messages_in, messages_out):
            await server.run(messages_in, messages_out, server.create_initialization_options())
