"""`ssmd alerts`: whom they reach, and what is wrong right now."""

from __future__ import annotations

from typing import Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, service_environment
from ssmd_api.cli.tables import print_table

alerts_app = typer.Typer(help="Alerts: what is wrong right now, and whom it reaches.", no_args_is_help=True)


@alerts_app.command("test")
def test() -> None:
    """Send a test through every channel that is set, once each; exit 1 if one does not take it, 2 if none is set."""
    from ssmd_core.alerts.alert import Message
    from ssmd_core.alerts.channels import ChannelError, channels_of
    from ssmd_core.errors import ConfigError

    with clear_errors():
        channels = channels_of(service_environment())
        if not channels:
            raise ConfigError("alerts reach nobody: set NTFY_URL, or SMTP_HOST and SMTP_TO")
        message = Message("test", "raised", "info", "A test", "Alerts reach you. Nothing is wrong.")
        failed = False
        for channel in channels:
            try:
                channel.send(message)
            except ChannelError as error:
                failed = True
                typer.echo(f"FAILED {error}")
            else:
                typer.echo(f"sent by {channel.name}")
        if failed:
            raise typer.Exit(EXIT_FAILED)


@alerts_app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """Every alert that is on, of all processes on this data folder; exit 1 if there is one."""
    from datetime import UTC, datetime

    from ssmd_core.alerts.state import Memory
    from ssmd_core.clock import NS_PER_S
    from ssmd_core.settings import Settings

    with clear_errors():
        settings = Settings.from_environment(service_environment())
        rows = []
        for path in sorted((settings.data / "alerts").glob("*.json")):
            memory = Memory(path.stem, path)
            memory.load(settings.clock.now_ns() / NS_PER_S)
            for key in memory.raised:
                entry = memory.entries[key]
                since = datetime.fromtimestamp(entry.since_s, UTC)
                told = "yes" if entry.told == "on" else "not yet"
                rows.append((entry.severity, since, told, path.stem, key, entry.title, entry.text))
        columns = ("severity", "since", "told", "owner", "key", "title", "text")
        if as_json:
            print_json([dict(zip(columns, row, strict=True)) for row in rows])
        elif rows:
            print_table(columns[:-1], [row[:-1] for row in rows])
        else:
            typer.echo("no alert is on")
        if rows:
            raise typer.Exit(EXIT_FAILED)
