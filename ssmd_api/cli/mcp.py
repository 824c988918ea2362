"""`ssmd mcp`: ssmd's tools for agents."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmd_api.cli.output import clear_errors, print_json
from ssmd_api.cli.remote import api_and_key

mcp_app = typer.Typer(help="Tools for agents (MCP); the API serves them at /mcp, too.", no_args_is_help=True)


@mcp_app.command("run")
def run() -> None:
    """Serve over stdin and stdout with SSMD_API_URL and SSMD_API_KEY until stdin ends; a client starts it."""
    import asyncio
    import signal

    with clear_errors():
        url, key = api_and_key()
        # A thread waits for stdin and cannot be cancelled: Python's own handler would wait for it; nothing is kept.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

        from ssmd_api.mcp.stdio import run as serve

        asyncio.run(serve(url, key))


@mcp_app.command("tools")
def tools(
    as_json: Annotated[bool, typer.Option("--json", help="With the schemas of their arguments.")] = False,
) -> None:
    """List the tools."""
    from ssmd_api.cli.tables import print_table
    from ssmd_api.mcp.tools import TOOLS

    if as_json:
        print_json(
            [
                {"name": tool.name, "description": tool.description, "arguments": tool.schema()}
                for tool in TOOLS.values()
            ]
        )
    else:
        print_table(["tool", "takes"], [[tool.name, list(tool.schema()["properties"])] for tool in TOOLS.values()])
