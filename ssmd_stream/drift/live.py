"""The sentinel on live messages: looks at a few of each type and second, and tells of every lasting change once.

At most 10 messages of a type are decoded in a second, so that a busy feed costs below a microsecond a frame in the
mean; a type that comes once a second is looked at whole. What is normal is kept in
`{data}/shapes/{feed}-{stream}.json`.
"""

from __future__ import annotations

import fcntl
from pathlib import Path

import orjson
import structlog

from ssmd_core.clock import NS_PER_S, NS_PER_US, rfc3339_us
from ssmd_core.drift.baseline import MESSAGES, Baseline
from ssmd_core.drift.findings import Finding
from ssmd_core.drift.kinds import decoded
from ssmd_core.drift.watch import Watch
from ssmd_core.feeds.base import Feed
from ssmd_core.sealed_json import write_durably

log = structlog.get_logger()

MESSAGES_PER_S = 10
# Books of Polymarket have 40 KB: what is decoded in a second stays below a millisecond.
BYTES_PER_S = 256 * 1024
# Message types come off the wire; those beyond are one.
_MAX_TYPES = 256
_REST = ""


class _Window:
    """A second of one message type."""

    __slots__ = ("bytes", "ends_ns", "messages")

    def __init__(self) -> None:
        self.ends_ns = 0
        self.messages = 0
        self.bytes = 0


class Sentinel:
    """Watches the messages of one stream; all connections of a connector may share it.

    Args:
        baseline: what is normal; learned on.
        path: where the baseline is kept; None: nowhere.
    """

    def __init__(self, feed: Feed, baseline: Baseline, path: Path | None = None) -> None:
        self._feed = feed
        self._path = path
        self._watch = Watch.of_feed(feed, baseline, MESSAGES)
        self._windows: dict[str, _Window] = {}

    def look(self, kind: str, payload: bytes, recv_ns: int) -> tuple[Finding, ...]:
        """Look at the next message; almost always nothing is found. Never raises.

        Args:
            kind: message type as routed, "" if it has none. ssmd's own events are not shown.
            recv_ns: receive time.
        """
        window = self._windows.get(kind)
        if window is None:
            window = self._window_of(kind)
        if recv_ns < window.ends_ns:
            if window.messages <= 0 or window.bytes <= 0:
                # A clock that was set back must not blind the type until it has caught up.
                if window.ends_ns - recv_ns <= NS_PER_S:
                    return ()
                self._begin(window, recv_ns)
        else:
            self._begin(window, recv_ns)
        window.messages -= 1
        window.bytes -= len(payload)
        return self._watch.see(kind, decoded(payload), recv_ns, f"received:{rfc3339_us(recv_ns // NS_PER_US)}")

    @staticmethod
    def _begin(window: _Window, recv_ns: int) -> None:
        window.ends_ns = recv_ns + NS_PER_S
        window.messages = MESSAGES_PER_S
        window.bytes = BYTES_PER_S

    def _window_of(self, kind: str) -> _Window:
        if len(self._windows) >= _MAX_TYPES:
            return self._windows.setdefault(_REST, _Window())
        return self._windows.setdefault(kind, _Window())

    def content(self) -> bytes:
        """The baseline as it is kept; some ms, and not for several threads."""
        return baseline_bytes(self._watch.baseline)

    def write(self, content: bytes) -> None:
        """Keep a `content`; from any thread. A failure is logged and costs a learning time after the next start."""
        if self._path is not None:
            write_baseline(self._path, content)

    def save(self) -> None:
        """Keep the baseline now."""
        self.write(self.content())


def baseline_path(folder: Path, feed_name: str, stream: str) -> Path:
    """Where a stream's baseline is kept."""
    return folder / f"{feed_name}-{stream}.json"


def load_baseline(path: Path) -> Baseline:
    """The baseline that was kept, or an empty one: without a file, and with one that cannot be read, which is logged
    and written over at the next save."""
    try:
        return Baseline.from_json(path.read_bytes())
    except FileNotFoundError:
        return Baseline()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        log.warning("baseline of shapes unreadable, learning anew", path=str(path), error=repr(error))
        return Baseline()


def baseline_bytes(baseline: Baseline) -> bytes:
    """A baseline as it is kept."""
    return orjson.dumps(baseline.document(), option=orjson.OPT_APPEND_NEWLINE)


def write_baseline(path: Path, content: bytes) -> None:
    """Keep a baseline, durably and whole; a failure is logged. While another process of the stream is at it, that one's
    is kept: it has learned the same."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_durably(path, content)
    except BlockingIOError:
        log.info("baseline of shapes is being saved by another process", path=str(path))
    except OSError as error:
        log.warning("baseline of shapes not saved", path=str(path), error=str(error))


def open_sentinel(feed: Feed, stream: str, folder: Path) -> Sentinel:
    """The sentinel of a stream, with what it has learned so far.

    Args:
        folder: `{data}/shapes`.
    """
    path = baseline_path(folder, feed.name, stream)
    return Sentinel(feed, load_baseline(path), path)
