"""Counts that the receive path keeps, and the subject of every message. Both outlive reconnects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ssmd_core.feeds.base import Route
from ssmd_core.feeds.subjects import StreamName, subject_id
from ssmd_core.proof.rules import LiveCounts
from ssmd_stream.capture.silence import Rhythm

# Subjects are cached by (type, id). 200,000 of them are about 60 MB at worst, more instruments than a shard carries.
MAX_TARGETS = 200_000
CONTROL = "control"
UNPARSED = "unparsed"
_KEEPALIVE_TEXTS = frozenset({b"PONG", b"PING", b"[]"})


class Count:
    """Messages of one type.

    Attributes:
        messages, bytes: how many there were, and their size.
        due_ns: receive time from which on the next one is looked at more closely; see `Connection`.
        sample_ns: receive time from which on the next one is a sample.
    """

    __slots__ = ("bytes", "due_ns", "messages", "sample_ns")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.due_ns = 0
        self.sample_ns = 0


class Target:
    """Where a message goes and where it is counted.

    Attributes:
        control: whether it is about the connection rather than the market.
        kind, id: of market data, as in `Route`.
        fresh: whether nothing has come for it in this minute.
    """

    __slots__ = ("control", "count", "fresh", "id", "kind", "subject")

    def __init__(self, subject: str, count: Count, control: bool, kind: str = "", id_: str = "") -> None:
        self.subject = subject
        self.count = count
        self.control = control
        self.kind = kind
        self.id = id_
        self.fresh = bool(kind)


class ShardStats:
    """Counts of one shard since the connector started, and its present state.

    Attributes:
        frames, bytes: received.
        by_type: messages by the venue's type, and `control` for keepalive texts.
        unparsed: messages that could not be typed.
        unmapped: messages whose instrument is not in the pair map.
        connected: whether a connection is open now.
        down_since_s: monotonic time since when there is none.
        up_since_s: monotonic time since when there is one.
        last_frame_s, last_data_s: monotonic times of the last frame and the last market data, 0 for never.
        last_frame_ts, last_data_ts, last_pong_ts: the same, and the last pong, as epoch seconds; 0 for never.
        failing: the last attempt to connect failed.
        connect_failures, connect_failures_in_a_row: attempts that failed, all and since the last one that did not.
        last_error: why the last connection ended or could not be opened.
        rhythm: how its market data comes.
        checks: what the live checks of its connections have counted.
        troubles: what they and the drift sentinel found, by reason.
    """

    def __init__(self, message_types: Mapping[str, object], now_s: float) -> None:
        self.frames = 0
        self.bytes = 0
        self.by_type = {name: Count() for name in message_types}
        self.keepalives = Count()
        self.unparsed = Count()
        self.unmapped = Count()
        self.oversized = 0
        self.connects = 0
        self.connect_failures = 0
        self.connect_failures_in_a_row = 0
        self.resubscribes = 0
        self.venue_errors = 0
        self.acknowledged = 0
        self.unsubscribed = 0
        self.connected = False
        self.down_since_s = now_s
        self.up_since_s = 0.0
        self.last_frame_s = 0.0
        self.last_data_s = 0.0
        self.last_frame_ts = 0.0
        self.last_data_ts = 0.0
        self.last_pong_ts = 0.0
        self.paused_s = 0.0
        self.last_error = ""
        self.all_refused = False
        self.failing = False
        self.rhythm = Rhythm()
        self.checks = LiveCounts()
        self.troubles: Counter[str] = Counter()


class Router:
    """Subjects of one shard's messages.

    Args:
        stream: gives the subjects.
        connection: connection name, for the control subject.
        stats: where the targets count.
        pair_map: venue's symbol -> id used in subjects; None if the symbol itself is used. May be filled later:
            call `forget` then.
    """

    def __init__(
        self, stream: StreamName, connection: str, stats: ShardStats, pair_map: Mapping[str, str] | None
    ) -> None:
        self._stream = stream
        self._stats = stats
        self._pair_map = pair_map
        self.targets: dict[Route, Target] = {}
        control = stream.subject(CONTROL, connection)
        self._control = {name: Target(control, count, True) for name, count in stats.by_type.items()}
        self._keepalive = Target(control, stats.keepalives, True)
        self._unparsed = Target(stream.subject(UNPARSED, stream.feed.name), stats.unparsed, False)
        self.control_subject = control

    def forget(self) -> None:
        """Derive subjects anew, after the pair map changed."""
        self.targets.clear()

    def resolve(self, route: Route) -> Target:
        """The target of a routed message, from now on in `targets`."""
        known = self._stream.feed.message_types.get(route.type)
        if known is None:
            return self._unparsed
        if known.token == CONTROL:
            target = self._control[route.type]
        else:
            subject = self._stream.subject(known.token, self._id(route))
            target = Target(subject, self._stats.by_type[route.type], False, route.type, route.id)
        if len(self.targets) >= MAX_TARGETS:
            self.targets.clear()
        self.targets[route] = target
        return target

    def _id(self, route: Route) -> str:
        if self._pair_map is None or not route.id:
            return subject_id(route.id)
        mapped = self._pair_map.get(route.id)
        if mapped is None:
            self._stats.unmapped.messages += 1
        return subject_id(mapped or route.id)

    def unroutable(self, payload: bytes) -> Target:
        """The target of a message whose type cannot be read."""
        return self._keepalive if payload.strip() in _KEEPALIVE_TEXTS else self._unparsed
