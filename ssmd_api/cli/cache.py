"""`ssmd cache`: the security master in Valkey or Redis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings
from ssmd_api.cli.tables import shown

if TYPE_CHECKING:
    from rich.tree import Tree

cache_app = typer.Typer(help="The market tree in Valkey or Redis, for whoever reads it often.", no_args_is_help=True)


@cache_app.command("run")
def cache_run(
    health_port: Annotated[int | None, typer.Option(help="Port of /health, /ready, /metrics.")] = None,
) -> None:
    """Build the cache from Postgres and follow CDC until SIGTERM (exit 0 stopped, 2 configuration)."""
    from ssmd_stream.cache.daemon import CacheOptions, run_cache

    with clear_errors():
        raise typer.Exit(asyncio.run(run_cache(CacheOptions(health_port=health_port), settings())))


@cache_app.command("show")
def cache_show(
    event: Annotated[str, typer.Option("--event", "-e", help="Markets of an event.")] = "",
    series: Annotated[str, typer.Option("--series", "-s", help="Events of a series, with their markets.")] = "",
    category: Annotated[str, typer.Option("--category", "-c", help="Series of a category.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
) -> None:
    """Print a branch of the tree as Redis has it; without options the categories (exit 1 if it is empty)."""
    with clear_errors():
        tree = asyncio.run(_read(settings().redis_url, event, series, category))
        if as_json:
            print_json(tree)
        else:
            from rich.console import Console

            Console().print(_drawn(event or series or category or "categories", tree))
        if not tree:
            raise typer.Exit(EXIT_FAILED)


async def _read(redis_url: str, event: str, series: str, category: str) -> dict[str, Any]:
    import orjson
    from redis.exceptions import RedisError

    from ssmd_core.errors import SsmdError
    from ssmd_stream.cache.read import CacheReader
    from ssmd_stream.cache.store import client

    async def rows(table: str, parent: str) -> dict[str, Any]:
        return {key: orjson.loads(row) for key, row in sorted((await reader.rows(table, parent)).items())}

    connection = client(redis_url, name="show")
    reader = CacheReader(connection)
    try:
        if event:
            return await rows("markets", event)
        if series:
            events = await rows("events", series)
            return {key: {**row, "markets": await rows("markets", key)} for key, row in events.items()}
        if category:
            return await rows("series", category)
        return dict(sorted((await reader.categories()).items()))
    except (RedisError, OSError) as error:
        raise SsmdError(f"Redis: {error}") from error
    finally:
        await connection.aclose()


def _drawn(name: str, rows: dict[str, Any]) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    # Titles are strangers': neither markup nor control characters act in them.
    tree = Tree(Text(shown(name)))
    for key, row in rows.items():
        if not isinstance(row, dict):
            tree.add(Text(shown(f"{key}: {row} series")))
            continue
        words = [key, row.get("status"), row.get("title")]
        if "yes_bid" in row:
            words[2:2] = [f"{row['yes_bid'] or '-'} / {row['yes_ask'] or '-'}"]
        tree.add(_drawn(" ".join(filter(None, words)), row.get("markets", {})))
    return tree
