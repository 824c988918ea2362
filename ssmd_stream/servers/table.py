"""How the supervisor's state looks on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.table import Table
from rich.text import Text

from ssmd_stream.servers.state import State, UnitState

_STYLES: dict[State, str] = {
    "waiting": "dim",
    "starting": "cyan",
    "healthy": "green",
    "unhealthy": "bold yellow",
    "backoff": "bold red",
    "stopping": "cyan",
    "stopped": "dim",
    "failed": "bold red",
}


def render(units: Iterable[UnitState], now: datetime) -> Table:
    """A table of all units: name, state, for how long, pid, URL, detail."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "state", "since", "pid", "url", "detail"):
        table.add_column(
            heading, no_wrap=heading != "detail", justify="right" if heading in {"since", "pid"} else "left"
        )
    for unit in units:
        table.add_row(
            Text(unit.name),
            Text(unit.state, style=_STYLES[unit.state]),
            duration(int((now - unit.since).total_seconds())),
            str(unit.pid or ""),
            Text(unit.url),
            Text(one_line(unit.detail), overflow="ellipsis", no_wrap=True),
        )
    return table


def one_line(detail: str) -> str:
    """The first line and, of a detail that ends with a log, the last, where programs write why they gave up."""
    first, *rest = detail.strip().splitlines() or [""]
    return f"{first} … {rest[-1]}" if rest else first


def duration(seconds: int) -> str:
    """`42 s`, `3 min`, `5 h`, `2 d`: the largest unit that fits."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"
