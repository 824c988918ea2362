"""When silence is suspicious: measured against the connection's own habit, and settled by asking the venue for data.

A constant is too long for a busy connection and too short for a quiet one. So the longest pause of the last ten minutes
says what is unusual; then something is asked for that the venue must answer with market data. Only if that does not
come either is the connection given up, so that a quiet hour costs a question now and then, not a reconnect.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

# A pause three times as long as any of the last ten minutes is unusual; below five seconds nothing is.
UNUSUAL = 3.0
SHORTEST_S = 5.0
# A quiet connection is asked after so long: 45 s, the answer's 3 s and a look are below a minute.
LONGEST_S = 45.0
ANSWER_S = 3.0
# Where nothing can be asked for, a longer pause must do, and only where data is dense.
UNUSUAL_UNASKED = 5.0
SHORTEST_UNASKED_S = 8.0
DENSE_S = 2.0
# Answers alone are no market data: a connection that was dense and gives nothing else for so long is stuck.
STUCK_S = 30.0
WINDOW_S = 600.0
_BUCKET_S = 30.0
# So much must have been seen before a habit is one.
_SETTLED_S = 5.0
_SETTLED_PAUSES = 10
_MAX_ROUNDS = 6


class _Bucket(NamedTuple):
    begun_s: float
    longest_s: float


class Rhythm:
    """The pauses between market data of one shard in the last ten minutes; outlives its connections.

    Pauses shorter than the time between two looks (a quarter of a second) are not told apart.
    """

    def __init__(self) -> None:
        self._buckets: deque[_Bucket] = deque()
        self._pauses = 0
        self._first_s: float | None = None
        #: Connections given up as mute since data last came by itself for a while; doubles the patience each time.
        self.rounds = 0
        #: The same of single channels that stayed silent while others gave data.
        self.channel_rounds: dict[str, int] = {}

    @property
    def patience(self) -> float:
        """By how much longer than usual a silence may last: a venue that is closed for two hours, or a market that has
        ended, is not to be connected to anew every minute."""
        return 2.0**self.rounds

    def channel_patience(self, channel: str) -> float:
        """The same of a channel."""
        return 2.0 ** self.channel_rounds.get(channel, 0)

    def channel_given_up(self, channel: str) -> None:
        """A connection was given up because this channel stayed silent."""
        self.channel_rounds[channel] = min(self.channel_rounds.get(channel, 0) + 1, _MAX_ROUNDS)

    def note(self, pause_s: float, now_s: float) -> None:
        """Data came after a pause."""
        self._pauses += 1
        if self._first_s is None:
            self._first_s = now_s - pause_s
        if not self._buckets or now_s - self._buckets[-1].begun_s >= _BUCKET_S:
            self._buckets.append(_Bucket(now_s, pause_s))
        elif pause_s > self._buckets[-1].longest_s:
            self._buckets[-1] = self._buckets[-1]._replace(longest_s=pause_s)
        while self._buckets[0].begun_s < now_s - WINDOW_S:
            self._buckets.popleft()

    def longest_s(self, now_s: float) -> float | None:
        """The longest pause; None while too little has been seen."""
        if self._first_s is None or self._pauses < _SETTLED_PAUSES or now_s - self._first_s < _SETTLED_S:
            return None
        return max((each.longest_s for each in self._buckets if each.begun_s >= now_s - WINDOW_S), default=None)


class Silence:
    """Watches one connection's market data.

    Args:
        rhythm: of the shard.
        asks: whether the venue can be asked for market data.
        now_s: monotonic time at which data begins to be due.
    """

    def __init__(self, rhythm: Rhythm, *, asks: bool, now_s: float) -> None:
        self._rhythm = rhythm
        self._asks = asks
        self._asked_s: float | None = None
        #: When data last came, and when it last came without having been asked for.
        self.last_s = now_s
        self.unasked_s = now_s
        self._flowing_s = self._begun_s = now_s
        self._counts = False

    def restart(self, now_s: float) -> None:
        """Data is not due (nothing is subscribed, reading is paused): the silence begins anew."""
        self._asked_s = None
        self.last_s = self.unasked_s = self._flowing_s = self._begun_s = now_s
        self._counts = False

    def data(self, now_s: float) -> None:
        """Market data came since the last look."""
        if self._asked_s is None or now_s - self._asked_s > ANSWER_S:
            # The first data of a connection is what the subscription brings; the pause before it is not the market's.
            if self._counts:
                self._rhythm.note(now_s - self.unasked_s, now_s)
            if now_s - self.unasked_s > SHORTEST_S:
                self._flowing_s = now_s
            if now_s - self._flowing_s > 2 * STUCK_S or now_s - self._begun_s > WINDOW_S:
                self._rhythm.rounds = 0
            self.unasked_s = now_s
            self._counts = True
        self._asked_s = None
        self.last_s = now_s

    def look(self, now_s: float) -> tuple[Literal["fine", "ask", "mute"], str]:
        """What to do about the silence, and why."""
        silent_s = now_s - self.last_s
        why = f"no market data for {silent_s:.0f} s"
        longest_s = self._rhythm.longest_s(now_s)
        dense = longest_s is not None and longest_s <= DENSE_S
        patience = self._rhythm.patience
        usual_s = LONGEST_S if longest_s is None else min(max(SHORTEST_S, UNUSUAL * longest_s), LONGEST_S)
        if self._asked_s is not None:
            unanswered_s = now_s - self._asked_s
            if unanswered_s > ANSWER_S and silent_s > usual_s * patience:
                return "mute", f"{why}, and none when asked for it"
            return ("ask", why) if unanswered_s > LONGEST_S else ("fine", "")
        if not self._asks:
            limit_s = max(SHORTEST_UNASKED_S, UNUSUAL_UNASKED * (longest_s or 0.0)) * patience
            mute = dense and silent_s > limit_s
            return ("mute", f"{why}, where no pause was longer than {longest_s:.1f} s") if mute else ("fine", "")
        if dense and now_s - self.unasked_s > STUCK_S * patience:
            return "mute", f"only what was asked for in {now_s - self.unasked_s:.0f} s"
        # A question costs little, so only the giving up is put off beyond the longest wait.
        return ("ask", why) if silent_s > min(usual_s * patience, LONGEST_S) else ("fine", "")

    def asked(self, now_s: float) -> None:
        """The venue has been asked for data."""
        self._asked_s = now_s

    def given_up(self, now_s: float) -> None:
        """The connection was given up as mute."""
        if self._asked_s is None:
            # It may have been the market that fell silent: from now on such a pause is not unusual.
            self._rhythm.note(now_s - self.unasked_s, now_s)
        self._rhythm.rounds = min(self._rhythm.rounds + 1, _MAX_ROUNDS)
