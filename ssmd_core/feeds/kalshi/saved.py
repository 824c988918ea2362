"""What one hour's rule hands to the next: books and counters of the connections still open, as bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from ssmd_core.feeds.kalshi.subscription import Broken, Gap, MarketBook, Subscription, Tell

_VERSION: Final = 1
# Deltas that were under way when a market was unsubscribed come within seconds.
_ENDED_US: Final = 60 * 1_000_000
# An empty book that nothing has touched for a day is of a market that is over.
_OVER_US: Final = 24 * 3600 * 1_000_000
_NO_GAP: Final = -1
_SUSPECT: Final = -2


@dataclass(slots=True)
class Epoch:
    """What is known of one connection.

    Attributes:
        opened: it was seen from its beginning.
        subscriptions: by sid.
    """

    opened: bool = False
    subscriptions: dict[int, Subscription] = field(default_factory=dict)


class _Broken(msgspec.Struct, array_like=True):
    from_us: int
    nats: int
    reason: str
    detail: str
    gap: int


class _Gap(msgspec.Struct, array_like=True):
    first: int
    last: int
    from_us: int
    found_us: int
    nats: int
    detail: str
    late: list[int]
    told: bool


class SavedBook(msgspec.Struct, array_like=True):
    """A book; `keys` (ascending) and `sizes` are int64 in this machine's order, see `MarketBook.levels`."""

    market: str
    keys: bytes
    sizes: bytes
    snapshot_seq: int | None
    last_seq: int
    broken: _Broken | None
    ended_us: int
    changed_us: int
    changed_nats: int

    def levels(self) -> dict[int, int]:
        """See `MarketBook.levels`."""
        keys, sizes = (np.frombuffer(column, np.int64).tolist() for column in (self.keys, self.sizes))
        return dict(zip(keys, sizes, strict=True))


class SavedSubscription(msgspec.Struct, array_like=True):
    """A subscription; see `Subscription`."""

    sid: int
    channel: str
    last: int | None
    last_us: int
    fresh: bool
    other: int | None
    recent: list[tuple[int, bytes]]
    gaps: list[_Gap]
    suspect: _Broken | None
    books: list[SavedBook]


class SavedEpoch(msgspec.Struct, array_like=True):
    """A connection; see `Epoch`."""

    name: str
    opened: bool
    subscriptions: list[SavedSubscription]


class _Saved(msgspec.Struct, array_like=True):
    version: int
    epochs: list[SavedEpoch]


_DECODER: Final = msgspec.msgpack.Decoder(_Saved)


def read(state: bytes) -> list[SavedEpoch]:
    """Take a state apart.

    Raises:
        ValueError: it is not one of this rule.
    """
    try:
        saved = _DECODER.decode(state)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a state of the Kalshi rule: {error}: {state[:40]!r}") from error
    if saved.version != _VERSION:
        raise ValueError(f"state of version {saved.version} of the Kalshi rule, {_VERSION} is wanted")
    return saved.epochs


def load(state: bytes, teller: Callable[[str], Tell]) -> dict[str, Epoch]:
    """The connections of a state.

    Args:
        teller: gives the reporter of an epoch's intervals.

    Raises:
        ValueError: it is not one of this rule.
    """
    epochs = {}
    for saved in read(state):
        epoch = epochs[saved.name] = Epoch(saved.opened)
        for each in saved.subscriptions:
            epoch.subscriptions[each.sid] = _loaded(each, teller(saved.name))
    return epochs


def save(epochs: Mapping[str, Epoch]) -> bytes:
    """The bytes of these connections."""
    saved = [
        SavedEpoch(name, epoch.opened, [_saved(epoch.subscriptions[sid]) for sid in sorted(epoch.subscriptions)])
        for name, epoch in sorted(epochs.items())
    ]
    return msgspec.msgpack.encode(_Saved(_VERSION, saved))


def _loaded(saved: SavedSubscription, tell: Tell) -> Subscription:
    subscription = Subscription(saved.sid, tell)
    subscription.channel, subscription.last, subscription.last_us = saved.channel, saved.last, saved.last_us
    subscription.fresh, subscription.other = saved.fresh, saved.other
    subscription.recent.update(saved.recent)
    gaps = subscription.gaps = [
        Gap(gap.first, gap.last, gap.from_us, gap.found_us, gap.nats, gap.detail, set(gap.late), gap.told)
        for gap in saved.gaps
    ]
    if saved.suspect is not None:
        suspect = saved.suspect
        subscription.suspect = Broken(suspect.from_us, suspect.nats, suspect.reason, suspect.detail)
    for book in saved.books:
        broken = None
        if book.broken is not None and book.broken.gap == _SUSPECT:
            broken = subscription.suspect
        elif book.broken is not None:
            gap = gaps[book.broken.gap] if 0 <= book.broken.gap < len(gaps) else None
            broken = Broken(book.broken.from_us, book.broken.nats, book.broken.reason, book.broken.detail, gap)
        subscription.books[book.market] = MarketBook(
            book.market,
            book.levels(),
            book.snapshot_seq,
            book.last_seq,
            broken,
            book.ended_us,
            book.changed_us,
            book.changed_nats,
        )
    return subscription


def _saved(subscription: Subscription) -> SavedSubscription:
    suspect = subscription.suspect
    return SavedSubscription(
        subscription.sid,
        subscription.channel,
        subscription.last,
        subscription.last_us,
        subscription.fresh,
        subscription.other,
        list(subscription.recent.items()),
        [
            _Gap(gap.first, gap.last, gap.from_us, gap.found_us, gap.nats, gap.detail, sorted(gap.late), gap.told)
            for gap in subscription.gaps
        ],
        None if suspect is None else _Broken(suspect.from_us, suspect.nats, suspect.reason, suspect.detail, _NO_GAP),
        [
            _saved_book(book, subscription)
            for _, book in sorted(subscription.books.items())
            if not _over(book, subscription.last_us)
        ],
    )


def _over(book: MarketBook, now_us: int) -> bool:
    if book.ended_us:
        return now_us - book.ended_us > _ENDED_US
    return not book.levels and book.broken is None and now_us - book.changed_us > _OVER_US


def _saved_book(book: MarketBook, subscription: Subscription) -> SavedBook:
    broken = None
    if book.broken is not None:
        gap = _NO_GAP
        if book.broken is subscription.suspect:
            gap = _SUSPECT
        elif book.broken.gap is not None and book.broken.gap in subscription.gaps:
            gap = subscription.gaps.index(book.broken.gap)
        broken = _Broken(book.broken.from_us, book.broken.nats, book.broken.reason, book.broken.detail, gap)
    keys = sorted(book.levels)
    return SavedBook(
        book.market,
        np.array(keys, np.int64).tobytes(),
        np.array([book.levels[key] for key in keys], np.int64).tobytes(),
        book.snapshot_seq,
        book.last_seq,
        broken,
        book.ended_us,
        book.changed_us,
        book.changed_nats,
    )
