"""The constants of liveness, on one connection: no frame and no pong, no market data, no data of one channel."""

from __future__ import annotations

from collections.abc import Mapping

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.feeds.base import Liveness
from ssmd_stream.capture.sessions.base import Session
from ssmd_stream.capture.stats import ShardStats


class Watchdogs:
    """Compares the counts of the receive path with those at the last look.

    Args:
        group_timeouts_s: silence after which a channel is resubscribed, None for never.

    Attributes:
        alive: Pings and Pongs that came.
        paused: whether reading is paused; no watchdog runs meanwhile.
    """

    def __init__(
        self,
        session: Session,
        stats: ShardStats,
        liveness: Liveness,
        group_timeouts_s: Mapping[str, float | None],
        clock: Clock,
        *,
        paused: bool,
    ) -> None:
        self._session = session
        self._stats = stats
        self._liveness = liveness
        self._group_timeouts_s = group_timeouts_s
        self._clock = clock
        self.alive = 0
        self.paused = paused
        self._seen_frames = (-1, -1)
        self._seen_data = {channel: -1 for channel in session.channels}
        self._moved_s = {channel: 0.0 for channel in session.channels}
        self._counts = {
            channel: [stats.by_type[kind] for kind, group in session.groups.items() if group == channel]
            for channel in session.channels
        }

    @property
    def look_s(self) -> float:
        """Pause between two looks: a quarter of a second, less where a limit is shorter than two."""
        liveness = self._liveness
        limits = [liveness.ping_interval_s, liveness.pong_timeout_s, liveness.data_timeout_s, 2.0]
        limits += [timeout_s for timeout_s in self._group_timeouts_s.values() if timeout_s is not None]
        return max(min(limits) / 8, 0.01)

    def sample(self, now_s: float) -> list[str]:
        """See which counts have moved since the last look.

        Returns:
            Channels that got market data.
        """
        stats = self._stats
        wall_s = self._clock.now_ns() / NS_PER_S
        frames = (stats.frames, self.alive)
        if frames != self._seen_frames or self.paused:
            if stats.frames != self._seen_frames[0] and self._seen_frames[0] >= 0:
                stats.last_frame_ts = wall_s
            self._seen_frames = frames
            stats.last_frame_s = now_s
        moved = []
        for channel, counts in self._counts.items():
            messages = sum(count.messages for count in counts)
            if messages != self._seen_data[channel]:
                if self._seen_data[channel] >= 0:
                    stats.rhythm.channel_rounds.pop(channel, None)
                    stats.last_data_s, stats.last_data_ts = now_s, wall_s
                    moved.append(channel)
                self._seen_data[channel] = messages
                self._moved_s[channel] = now_s
            elif self.paused or not self._session.wanted(channel):
                # A channel is watched from the moment that something of it is asked for.
                self._moved_s[channel] = now_s
        return moved

    @property
    def watched(self) -> list[str]:
        """Channels that must give data now."""
        return [c for c in self._session.channels if self._group_timeouts_s.get(c) and self._session.wanted(c)]

    def dead(self, now_s: float) -> str:
        """Why the connection must be given up; "" if it lives."""
        if self.paused:
            return ""
        liveness = self._liveness
        if now_s - self._stats.last_frame_s > liveness.pong_timeout_s:
            return f"no frame and no pong for {liveness.pong_timeout_s:g} s"
        return ""

    def starved(self, now_s: float) -> str:
        """Why the connection must be given up although it lives; "" if there is market data, or none is due."""
        timeout_s = self._liveness.data_timeout_s * self._stats.rhythm.patience
        watched = [] if self.paused else self.watched
        if watched and now_s - max(self._moved_s[c] for c in watched) > timeout_s:
            return f"no market data for {timeout_s:g} s"
        return ""

    def silent_channels(self, now_s: float) -> list[tuple[str, float]]:
        """Channels without data for longer than their limit, in s; their time begins anew."""
        silent = []
        for channel in [] if self.paused else self.watched:
            timeout_s = (self._group_timeouts_s[channel] or 0.0) * self._stats.rhythm.channel_patience(channel)
            if now_s - self._moved_s[channel] > timeout_s:
                self._moved_s[channel] = now_s
                silent.append((channel, timeout_s))
        return silent
