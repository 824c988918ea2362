"""`ssmd init`, `ssmd feed`, `ssmd env`: the configuration files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, settings

feed_app = typer.Typer(help="feed.yaml files: where a venue is and what it allows.", no_args_is_help=True)
env_app = typer.Typer(help="env.yaml files: what a stream captures.", no_args_is_help=True)


def init() -> None:
    """Write feed.yaml and env.yaml of every feed, with the values that hold without them; existing files stay."""
    from ssmd_core import config

    with clear_errors():
        root = settings().config_root
        for path in config.init(root, datetime.now(UTC).date()):
            typer.echo(f"wrote {path}")
        _report_problems(root)


@feed_app.command("list")
def feed_list() -> None:
    """The feeds that ssmd knows, and whether a file changes them."""
    from ssmd_core import config, feeds

    with clear_errors():
        root = settings().config_root
        for feed in feeds.FEEDS.values():
            path = config.feed_path(root, feed)
            where = str(path) if path.exists() else "registry"
            typer.echo(f"{feed.name:16} {', '.join(feed.streams):10} {feed.websocket_urls['prod']}  ({where})")


@feed_app.command("show")
def feed_show(name: str) -> None:
    """The feed.yaml in force."""
    from ssmd_core import config, feeds

    with clear_errors():
        feed = feeds.get(name)
        found = config.find_feed(settings().config_root, feed)
        typer.echo(config.show(found or config.default_feed(feed, datetime.now(UTC).date())), nl=False)


@feed_app.command("create")
def feed_create(
    name: str, endpoint: Annotated[str, typer.Option(help="wss:// URL; default the venue's.")] = ""
) -> None:
    """Write a feed.yaml."""
    from ssmd_core import config, feeds

    with clear_errors():
        path = config.create_feed(settings().config_root, feeds.get(name), datetime.now(UTC).date(), endpoint)
        typer.echo(f"wrote {path}")


@feed_app.command("validate")
def feed_validate() -> None:
    """Check every configuration file; exit code 1 if one cannot be used."""
    with clear_errors():
        _report_problems(settings().config_root)


@env_app.command("list")
def env_list() -> None:
    """The env.yaml files."""
    from ssmd_core import config

    with clear_errors():
        for path in config.list_files(settings().config_root, "environments"):
            typer.echo(str(path))


@env_app.command("show")
def env_show(feed: str, stream: str) -> None:
    """The env.yaml in force."""
    from ssmd_core import config, feeds

    with clear_errors():
        known = feeds.get(feed)
        found = config.find_env(settings().config_root, known, stream)
        typer.echo(config.show(found or config.default_env(known, stream)), nl=False)


@env_app.command("create")
def env_create(feed: str, stream: str) -> None:
    """Write an env.yaml."""
    from ssmd_core import config, feeds

    with clear_errors():
        typer.echo(f"wrote {config.create_env(settings().config_root, feeds.get(feed), stream)}")


def _report_problems(root: Path) -> None:
    from ssmd_core import config

    problems = config.validate(root)
    for path, problem in problems.items():
        typer.echo(f"{path}: {problem or 'ok'}")
    if any(problems.values()):
        raise typer.Exit(EXIT_FAILED)
