"""`ssmd health trades`: archived trades against the venue's REST trades."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ssmd_api.cli.output import EXIT_FAILED, clear_errors, print_json, settings
from ssmd_api.cli.tables import duration_of, moment_of, print_table

if TYPE_CHECKING:
    from ssmd_core.feeds.base import Feed
    from ssmd_core.settings import Settings
    from ssmd_stream.reconcile.report import HourReport

#: Nothing wrong was found, but not everything could be compared.
EXIT_INCOMPLETE = 3
# A month of one stream; Kraken's REST answers once a second.
MAX_HOURS = 31 * 24

_HOUR = timedelta(hours=1)


def trades(
    target: Annotated[str, typer.Argument(metavar="FEED[/STREAM]", help="E.g. kraken or kalshi/crypto.")],
    instrument: Annotated[list[str] | None, typer.Option(help="Only these; may be given several times.")] = None,
    hour: Annotated[str | None, typer.Option(help="YYYY-MM-DD-HH:00, UTC; by default the last one built.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Start of the window, ISO 8601.")] = None,
    to: Annotated[
        str | None, typer.Option(help="End of the window; by default the end of the last hour built.")
    ] = None,
    window: Annotated[str | None, typer.Option(help="Length of the window, up to its end, e.g. 5m.")] = None,
    detailed: Annotated[bool, typer.Option(help="Show what is missing, differing and extra.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report.")] = False,
    no_backfill: Annotated[bool, typer.Option("--no-backfill", help="Do not keep what is missing.")] = False,
) -> None:
    """Compare archived trades with the venue's; exit 1 if they differ, 3 if not all could be compared."""
    from ssmd_stream.reconcile.run import reconcile_hour_sync

    with clear_errors():
        found = settings()
        feed, streams = _streams_of(target)
        reports: list[HourReport] = []
        for stream in streams:
            start, end = _window(found, feed, stream, hour, from_, to, window)
            at = start.replace(minute=0, second=0, microsecond=0)
            while at < end:
                report = reconcile_hour_sync(
                    found,
                    feed,
                    stream,
                    at,
                    window=(max(start, at), min(end, at + _HOUR)),
                    instruments=instrument or (),
                    backfill=not no_backfill,
                )
                reports.append(report)
                at += _HOUR
        if as_json:
            print_json([report.as_dict() for report in reports])
        else:
            for report in reports:
                _print(report, detailed=detailed)
        if not found.database_url:
            typer.echo("ssmd: not stored: DATABASE_URL is not set", err=True)
        if any(report.wrong for report in reports):
            raise typer.Exit(EXIT_FAILED)
        if any(report.incomplete or not report.results for report in reports):
            raise typer.Exit(EXIT_INCOMPLETE)


def _streams_of(target: str) -> tuple[Feed, tuple[str, ...]]:
    """The feed, and the stream that was named or all that it has.

    Raises:
        ConfigError: no such feed, or no name of a stream.
    """
    from ssmd_core import feeds
    from ssmd_core.feeds.subjects import StreamName

    name, _, stream = target.partition("/")
    feed = feeds.get(name)
    return feed, (StreamName("any", feed, stream).stream,) if stream else feed.streams


def _window(
    found: Settings,
    feed: Feed,
    stream: str,
    hour: str | None,
    from_: str | None,
    to: str | None,
    window: str | None,
) -> tuple[datetime, datetime]:
    """The window that the options mean.

    Raises:
        ConfigError: they contradict each other, cannot be read, or nothing has been built.
    """
    from ssmd_core.archive.paths import parse_hour
    from ssmd_core.errors import ConfigError
    from ssmd_stream.reconcile.archived import newest_hour

    length = duration_of(window, "--window")
    start, end = moment_of(from_, "--from"), moment_of(to, "--to")
    if hour is not None:
        if start or end:
            raise ConfigError("--hour goes with neither --from nor --to")
        try:
            start = parse_hour(hour)
        except ValueError as error:
            raise ConfigError(f"--hour: {error}") from error
        end = start + _HOUR
        start = max(start, end - length) if length else start
    elif start is None or end is None:
        if start is not None and length is not None:
            raise ConfigError("--window ends at --to; with --from give --to")
        newest = newest_hour(found.dataset_root, feed, stream)
        if end is None and newest is None:
            raise ConfigError(f"no hour of {feed.name}/{stream} has been built in {found.dataset_root}")
        end = end or (newest + _HOUR if newest else None)
        assert end is not None
        start = start or end - (length or _HOUR)
    elif length is not None:
        raise ConfigError("--window goes with --from and --to only one at a time")
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    if not start < end or end - start > MAX_HOURS * _HOUR:
        raise ConfigError(f"window {start.isoformat()} to {end.isoformat()} is empty or longer than 31 days")
    return start, end


def _print(report: HourReport, *, detailed: bool) -> None:
    rate = report.match_rate
    typer.echo(
        f"{report.feed}/{report.stream} {report.hour:%Y-%m-%d %H:00}: {report.bound}; "
        f"match rate {'unknown' if rate is None else rate}"
    )
    if report.results:
        print_table(
            ("instrument", "status", "venue", "archive", "matched", "missing", "extra", "differing", "rate", "detail"),
            [
                (
                    result.instrument,
                    result.status,
                    result.venue_trades,
                    result.archived_trades,
                    result.matched,
                    result.missing,
                    result.extra,
                    result.differing,
                    result.match_rate,
                    result.detail,
                )
                for result in report.results
            ],
        )
    if report.backfill_added:
        typer.echo(f"{report.backfill_added} missing trades were added to {report.backfill_path}")
    if detailed:
        items = [(result.instrument, item) for result in report.results for item in result.sample]
        if items:
            print_table(
                ("instrument", "what", "id", "time", "venue", "archive"),
                [
                    (name, item["what"], item["id"], item["time"], _numbers(item["venue"]), _numbers(item["archive"]))
                    for name, item in items
                ],
            )


def _numbers(side: dict[str, str | None] | None) -> str:
    return f"{side['size'] or 'nothing'} at {side['price'] or 'no price'}" if side else ""
