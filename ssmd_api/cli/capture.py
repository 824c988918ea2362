"""`ssmd connector`, `ssmd archiver`, `ssmd replay`, `ssmd rehearse`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings

connector_app = typer.Typer(help="Capture: from a venue's sockets to JetStream.", no_args_is_help=True)
archiver_app = typer.Typer(help="Archive: from JetStream to sealed files.", no_args_is_help=True)

FeedOption = Annotated[str, typer.Option("--feed", "-f", help="kalshi, kraken, kraken-futures or polymarket.")]
FilesArgument = Annotated[list[Path], typer.Argument(help="Recordings: plain frames, wrapped frames or ssmd archives.")]


@connector_app.command("run")
def connector_run(
    feed: FeedOption,
    stream: Annotated[str, typer.Option("--stream", "-s", help="Stream of the feed, e.g. crypto, spot.")],
    url: Annotated[str, typer.Option(help="WebSocket endpoint instead of the configured one.")] = "",
    rest_url: Annotated[str, typer.Option(help="REST base instead of the configured one.")] = "",
    health_port: Annotated[int | None, typer.Option(help="Port of /health, /ready, /metrics.")] = None,
    instruments: Annotated[str, typer.Option(help="Comma-separated, instead of the configured ones.")] = "",
    channels: Annotated[str, typer.Option(help="Comma-separated, instead of the configured ones.")] = "",
    transport: Annotated[str, typer.Option(help="picows or websockets.")] = "",
) -> None:
    """Capture one stream until SIGTERM (exit 0 drained, 1 failed, 2 configuration, 3 all subscriptions refused)."""
    from ssmd_core.errors import ConfigError
    from ssmd_stream.capture.connector import run_connector
    from ssmd_stream.capture.options import ConnectorOptions

    with clear_errors():
        if transport not in ("", "picows", "websockets"):
            raise ConfigError(f"transport {transport!r} is neither picows nor websockets")
        options = ConnectorOptions(
            feed=feed,
            stream=stream,
            url=url,
            rest_url=rest_url,
            health_port=health_port,
            instruments=tuple(filter(None, instruments.split(","))),
            channels=tuple(filter(None, channels.split(","))),
            transport=transport,  # type: ignore[arg-type]  # checked above
        )
        raise typer.Exit(asyncio.run(run_connector(options, settings())))


@archiver_app.command("run")
def archiver_run(
    streams: Annotated[list[str], typer.Argument(metavar="FEED/STREAM…", help="e.g. kraken/spot polymarket/markets")],
    health_port: Annotated[int | None, typer.Option(help="Port of /health, /ready, /metrics.")] = None,
) -> None:
    """Archive streams until SIGTERM (exit 0 clean, 1 a stream failed, 2 configuration)."""
    from ssmd_core import feeds
    from ssmd_stream.archive.daemon import ArchiverOptions, run_archiver

    with clear_errors():
        found = settings()
        names = [feeds.parse_stream(text, found.env) for text in streams]
        raise typer.Exit(asyncio.run(run_archiver(ArchiverOptions(names, health_port=health_port), found)))


@connector_app.callback()
def _connector() -> None:
    """Capture: from a venue's sockets to JetStream."""


@archiver_app.callback()
def _archiver() -> None:
    """Archive: from JetStream to sealed files."""


def replay(
    feed: FeedOption,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Recordings; without one, traffic is generated.", show_default=False)
    ] = None,
    speed: Annotated[str, typer.Option(help="1 keeps the recording's timing, 10 is ten times faster, max.")] = "1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    frames_per_s: Annotated[
        float, typer.Option(help="Pace of generated frames and of recordings without times.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of generated traffic.")] = 0,
    sent_log: Annotated[Path | None, typer.Option(help="Append every frame sent to this file.")] = None,
    faults: Annotated[str, typer.Option(help='JSON, e.g. {"schedule":[{"kind":"silence","at":500}]}')] = "",
) -> None:
    """Play a venue over its own WebSocket protocol until Ctrl-C."""
    import msgspec

    from ssmd_core import feeds
    from ssmd_core.errors import ConfigError
    from ssmd_stream.replay.faults import Faults
    from ssmd_stream.replay.run import parse_speed, run

    with clear_errors():
        try:
            wanted = msgspec.json.decode(faults.encode(), type=Faults) if faults else Faults()
        except msgspec.DecodeError as error:
            raise ConfigError(f"--faults {faults!r}: {error}") from error
        raise typer.Exit(
            asyncio.run(
                run(
                    feeds.get(feed),
                    files or [],
                    speed=parse_speed(speed),
                    port=port,
                    frames_per_s=frames_per_s,
                    seed=seed,
                    sent_log=sent_log,
                    clock=settings().clock,
                    faults=wanted,
                    on_ready=lambda server: typer.echo(f"{server.url} {server.rest_url}".rstrip()),
                )
            )
        )


def rehearse(
    feed: FeedOption,
    files: FilesArgument,
    stream: Annotated[str, typer.Option(help="Stream to rehearse; default the feed's first.")] = "",
    out: Annotated[Path | None, typer.Option(help="Keep archive, datasets and logs here; must be empty.")] = None,
    speed: Annotated[str, typer.Option(help="1 keeps the recording's timing, max is as fast as it goes.")] = "max",
    kill: Annotated[
        list[str] | None, typer.Option(help="connector:N, archiver:N or nats:N: SIGKILL it N times; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the moments of the kills.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Play recordings through connector, NATS, archiver and parquet; exit 0 only if nothing was lost or twice."""
    import tempfile

    from ssmd_core import feeds
    from ssmd_stream.rehearsal.rehearse import parse_kills
    from ssmd_stream.rehearsal.rehearse import rehearse as run
    from ssmd_stream.replay.run import parse_speed

    with clear_errors(), tempfile.TemporaryDirectory(prefix="ssmd-rehearsal-") as temporary:
        known = feeds.get(feed)
        report = asyncio.run(
            run(
                known,
                stream or known.streams[0],
                files,
                out or Path(temporary),
                speed=parse_speed(speed),
                kills=parse_kills(kill or []),
                seed=seed,
                progress=lambda text: typer.echo(text, err=True),
            )
        )
        if out is None:
            report.out = ""
        if as_json:
            print_json(report.as_dict())
        else:
            for name, value in report.as_dict().items():
                if value not in ([], {}, ""):
                    typer.echo(f"{name:18} {value}")
        if not report.passed:
            raise typer.Exit(EXIT_FAILED)
