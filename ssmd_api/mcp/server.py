"""The MCP server: the tools as the SDK serves them. Importing this module imports the SDK, which takes 0.7 s."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import httpx2
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from starlette.types import Receive, Scope, Send

from ssmd_api.mcp.calls import UnknownToolError, call_tool
from ssmd_api.mcp.output import SCHEMA
from ssmd_api.mcp.tools import STRANGERS, TOOLS

_INSTRUCTIONS = (
    "Market data of Kalshi, Kraken, Kraken Futures and Polymarket as ssmd captured it: read only. Days and hours are "
    f"UTC by the time of receipt. Exact numbers are text; units stand beside them. {STRANGERS}"
)

_TOOLS = [
    types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.schema(),
        output_schema=SCHEMA,
        annotations=types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    )
    for tool in TOOLS.values()
]


def make_server(api: httpx2.AsyncClient) -> Server[Any]:
    """A server for one caller.

    Args:
        api: with the API's base URL and the caller's key.
    """

    async def list_tools(
        context: ServerRequestContext[Any], parameters: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        del context, parameters
        return types.ListToolsResult(tools=_TOOLS)

    async def call(context: ServerRequestContext[Any], parameters: types.CallToolRequestParams) -> types.CallToolResult:
        del context
        try:
            result = await call_tool(api, parameters.name, parameters.arguments or {})
        except UnknownToolError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from None
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=result.text)],
            structured_content=None if result.failed else result.value,
            is_error=result.failed,
        )

    return Server(
        "ssmd",
        version=version("ssmd"),
        title="ssmd market data",
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call,
    )


async def answer_http(api: httpx2.AsyncClient, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request.

    The SDK's manager holds what its sessions need; without sessions it may live as long as the request, and nothing
    of one caller can reach another.
    """
    manager = StreamableHTTPSessionManager(make_server(api), json_response=True, stateless=True)
    async with manager.run():
        await manager.handle_request(scope, receive, send)
