"""The sentinel on REST bodies: one watch per venue for all that this process asks.

An endpoint is what a message type is for frames; its name is the path with ids left out, and the parameters whose
values are words: `/markets/{}/orderbook`, `/markets/keyset?closed=true`. Listings of closed and of open markets are not
alike, nor are the pages of one sweep and the next, so a body's members are judged after a day, and a member is dropped
if it stays away for an hour. The registry knows nothing of bodies: an endpoint is never news.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from ssmd_core.clock import NS_PER_S, NS_PER_US, rfc3339_us
from ssmd_core.drift.baseline import BODIES, Baseline
from ssmd_core.drift.facts import TypeFacts
from ssmd_core.drift.findings import Finding
from ssmd_core.drift.shapes import Shapes
from ssmd_core.drift.watch import Watch
from ssmd_stream.drift.live import baseline_bytes, baseline_path, load_baseline, write_baseline

log = structlog.get_logger()

SOURCE = "rest"
#: Pages of a sweep come up to 50 times a second and are alike.
SPACING_NS = NS_PER_S
_MAX_ENDPOINT_CHARS = 64
_MAX_FINDINGS = 1_000
_MAX_ENDPOINTS = 200
_SEGMENT = re.compile(r"[a-z][a-z_-]{0,31}[0-9]{0,2}|[0-9]{1,2}|[A-Z][A-Za-z]{1,15}")
_WORD = re.compile(r"[a-z][a-z_]{0,15}")

Params = Mapping[str, str] | Sequence[tuple[str, str]]


class Bodies:
    """The bodies of one venue.

    Args:
        baseline: what is normal; learned on.
        path: where the baseline is kept; None: nowhere.

    Attributes:
        shapes: what was seen since the last `take_shapes`, for the first-seen log.
    """

    def __init__(self, feed: str, baseline: Baseline, path: Path | None) -> None:
        self.shapes = Shapes()
        self._feed = feed
        self._path = path
        self._findings: deque[Finding] = deque(maxlen=_MAX_FINDINGS)
        self._watch = Watch(feed, baseline, BODIES, lambda _endpoint: TypeFacts(None), None)
        self._next_ns: dict[str, int] = {}

    def look(self, endpoint: str, document: Any, at_ns: int) -> None:
        """Look at a body of an endpoint, unless one was looked at within the last second. Never raises."""
        since_ns = at_ns - self._next_ns.get(endpoint, 0)
        if -SPACING_NS < since_ns < 0:
            return
        if endpoint in self._next_ns or len(self._next_ns) < _MAX_ENDPOINTS:
            self._next_ns[endpoint] = at_ns + SPACING_NS
        self.shapes.add_value(endpoint, document)
        for finding in self._watch.see(endpoint, document, at_ns, f"received:{rfc3339_us(at_ns // NS_PER_US)}"):
            log.warning("drift", feed=self._feed, source=SOURCE, kind=finding.kind, detail=finding.detail)
            self._findings.append(finding)

    def take_shapes(self) -> Shapes:
        """What was seen since the last call."""
        taken, self.shapes = self.shapes, Shapes()
        return taken

    def take_findings(self) -> list[Finding]:
        """What was found since the last call; the last thousand."""
        taken = [*self._findings]
        self._findings.clear()
        return taken

    def save(self) -> None:
        """Keep the baseline; a failure is logged."""
        if self._path is not None:
            write_baseline(self._path, baseline_bytes(self._watch.baseline))


_open: dict[str, Bodies] = {}


def open_bodies(feed: str, folder: Path) -> Bodies:
    """Begin to watch a venue's bodies in this process, with what was learned so far.

    Args:
        feed: feed name.
        folder: `{data}/shapes`.
    """
    path = baseline_path(folder, feed, SOURCE)
    bodies = _open[feed] = Bodies(feed, load_baseline(path), path)
    return bodies


def close_bodies(feed: str) -> None:
    """Keep what was learned and watch no longer."""
    bodies = _open.pop(feed, None)
    if bodies is not None:
        bodies.save()


def observe_document(feed: str, path: str, params: Params | None, document: Any, at_ns: int) -> None:
    """Look at a body that has been decoded, if the venue's bodies are watched in this process. Never raises.

    Args:
        feed: feed name.
        path: of the request, below the interface's base.
        at_ns: when it came.
    """
    bodies = _open.get(feed)
    if bodies is not None:
        bodies.look(endpoint_of(path, params), document, at_ns)


def endpoint_of(path: str, params: Params | None) -> str:
    """Name of an endpoint, 64 characters at most: its path without ids, and the parameters whose values are words."""
    name = "/".join(segment if not segment or _SEGMENT.fullmatch(segment) else "{}" for segment in path.split("/"))
    pairs = params.items() if isinstance(params, Mapping) else params or ()
    words = sorted({f"{key}={value}" for key, value in pairs if _WORD.fullmatch(str(value)) and _WORD.fullmatch(key)})
    return (name + ("?" + "&".join(words) if words else ""))[:_MAX_ENDPOINT_CHARS]
