"""Kalshi's integrity rule: the number of every subscription, and books that never go below nothing.

Checks are named by channel: `orderbook_delta`, `trade`, `market_lifecycle_v2`. The counter is shared by all markets of
a subscription (sid), so it is followed before anything is split by market, and `ok` and `unsubscribed` replies count.
`ticker` has no number and is not checked.

Intervals:

* of a market, check `orderbook_delta`: its book must not be trusted;
* of `*`: something of the channel is missing (or out of order), of which instruments nobody knows.
"""

from __future__ import annotations

from collections import defaultdict

from ssmd_core.feeds.kalshi.live import LiveKalshi
from ssmd_core.feeds.kalshi.passes import Pass
from ssmd_core.feeds.kalshi.replay import KalshiReplay
from ssmd_core.feeds.kalshi.saved import Epoch, load, save
from ssmd_core.feeds.kalshi.sequenced import Chunk, Group
from ssmd_core.feeds.kalshi.subscription import BOOKS, Subscription, Tell
from ssmd_core.proof.book_events import connection_of
from ssmd_core.proof.rules import ALL_CHECKS, Counter, Findings, HourChunk
from ssmd_core.proof.verdicts import MINUTE_US, Verdicts

__all__ = ["BOOKS", "KalshiRule", "book_replay", "hour_rule", "live_check"]


def hour_rule(state: bytes | None) -> KalshiRule:
    """The rule of one hour; see `proof.rules`."""
    return KalshiRule(state)


def live_check() -> LiveKalshi:
    """The check of one connection; see `proof.rules`."""
    return LiveKalshi()


def book_replay(instrument: str, state: bytes | None) -> KalshiReplay:
    """A replay of one market's book; see `proof.rules`."""
    return KalshiReplay(instrument, state)


class KalshiRule:
    """Implements `rules.HourRule`. A chunk of 50,000 faultless deltas takes about 0.5 µs each.

    Args:
        state: what the hour before left.

    Raises:
        ValueError: that is not a state.
    """

    def __init__(self, state: bytes | None) -> None:
        self._verdicts = Verdicts()
        self._epochs: dict[str, Epoch] = load(state, self._teller) if state is not None else {}
        self._seen: set[str] = set()
        self._counters: defaultdict[tuple[str, int], list[Counter]] = defaultdict(list)

    def take(self, chunk: HourChunk) -> None:
        """See `HourRule`."""
        read = Chunk(chunk)
        self._seen |= read.epochs
        groups: defaultdict[str, dict[int, Group]] = defaultdict(dict)
        for group in read.groups():
            groups[group.epoch][group.sid] = group
        for name in sorted(groups.keys() | read.events.keys()):
            epoch = self._epochs.setdefault(name, Epoch())
            events = read.events.get(name, [])
            for sid in sorted(
                epoch.subscriptions.keys()
                | groups[name].keys()
                | {event.sid for event in events if event.what == "subscribed"}
            ):
                subscription = epoch.subscriptions.get(sid)
                if subscription is None:
                    subscription = epoch.subscriptions[sid] = Subscription(sid, self._teller(name))
                Pass(self._verdicts, read, name, subscription).run(groups[name].get(sid), events, epoch.opened)
            epoch.opened |= any(event.what == "open" for event in events)
            if any(event.what == "closed" for event in events):
                self._finish_minutes(name, epoch)
                del self._epochs[name]
        self._end_replaced(read)

    def _end_replaced(self, read: Chunk) -> None:
        """A connector that was killed closes nothing: the next opening of its connection tells that it is gone."""
        opened = {
            name: event for name, events in sorted(read.events.items()) for event in events if event.what == "open"
        }
        for name, event in sorted(opened.items(), key=lambda item: item[1].nats):
            for other in sorted(self._epochs.keys() - {name}):
                newer = other in opened and opened[other].nats > event.nats
                if connection_of(other) == connection_of(name) and not newer:
                    self._end_epoch(other, event.recv_us)
                    del self._epochs[other]

    def _end_epoch(self, name: str, at_us: int) -> None:
        for subscription in self._epochs[name].subscriptions.values():
            subscription.end(at_us)
        self._finish_minutes(name, self._epochs[name])

    def finish(self, start_us: int, end_us: int) -> Findings:
        """See `HourRule`. A connection of which the whole hour held nothing is gone."""
        for name in sorted(self._epochs.keys() - self._seen):
            self._end_epoch(name, start_us)
        for name, epoch in self._epochs.items():
            self._finish_minutes(name, epoch)
            for subscription in epoch.subscriptions.values():
                subscription.tell_open()
        return self._verdicts.findings(start_us, end_us, self._counters)

    def state(self) -> bytes:
        """See `HourRule`. Connections of which the whole hour held nothing are left out."""
        return save({name: epoch for name, epoch in self._epochs.items() if name in self._seen})

    def _teller(self, epoch: str) -> Tell:
        verdicts = self._verdicts

        def tell(
            instrument: str, check: str, from_us: int, to_us: int | None, nats: int, reason: str, detail: str
        ) -> None:
            # Intervals are told when they end, so that none is open meanwhile.
            check = check or ALL_CHECKS
            verdicts.distrust(epoch, instrument, check, from_us=from_us, nats_seq=nats, reason=reason, detail=detail)
            if to_us is not None:
                verdicts.trust(epoch, instrument, check, to_us)

        return tell

    def _finish_minutes(self, name: str, epoch: Epoch) -> None:
        for sid, subscription in sorted(epoch.subscriptions.items()):
            for minute, seen in subscription.minutes.items():
                counter = Counter(f"sid {sid}", seen.first, seen.last, seen.gaps, seen.missing, seen.repeats)
                self._counters[name, minute * MINUTE_US].append(counter)
            subscription.minutes.clear()
