"""`ssmd api`: the HTTP service."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmd_api.cli.output import clear_errors, service_environment
from ssmd_api.settings import DEFAULT_PORT

api_app = typer.Typer(help="The HTTP service: REST, GraphQL, signed URLs, MCP, the page.", no_args_is_help=True)


@api_app.command("run")
def run(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535)] = DEFAULT_PORT,
) -> None:
    """Serve until Ctrl-C."""
    import uvloop

    from ssmd_api.serve import serve
    from ssmd_api.settings import ApiSettings

    with clear_errors():
        uvloop.run(serve(ApiSettings.from_environment(service_environment()), host, port))
