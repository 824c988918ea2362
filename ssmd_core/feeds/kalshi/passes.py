"""One subscription's messages of a chunk: long stretches without a fault at once, the rest one by one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np

from ssmd_core.feeds.kalshi.sequenced import DELTA, OTHER, SNAPSHOT, UNREADABLE, Chunk, Event, Group, Ints
from ssmd_core.feeds.kalshi.subscription import (
    ALL,
    BOOKS,
    REORDER_HORIZON,
    Broken,
    MarketBook,
    Message,
    Subscription,
    level_detail,
)
from ssmd_core.proof.verdicts import MINUTE_US, Verdicts

#: Shorter stretches are followed one by one: below it numpy's calls cost more than they save.
MIN_STRETCH: Final = 128
# price * 2 + side of one dollar has 21 bits.
_LEVEL_BITS: Final = 22
_LEVEL_MASK: Final = (1 << _LEVEL_BITS) - 1


class Pass:
    """Takes one subscription through a chunk."""

    def __init__(self, verdicts: Verdicts, chunk: Chunk, epoch: str, subscription: Subscription) -> None:
        self._verdicts = verdicts
        self._chunk = chunk
        self._epoch = epoch
        self._subscription = subscription
        self._from_start = False

    def run(self, group: Group | None, events: Sequence[Event], opened: bool) -> None:
        """Follow the messages, and what happens to the connection between them.

        Args:
            opened: the connection was seen from its beginning.
        """
        self._from_start = opened
        at = 0
        if group is not None:
            self._subscription.channel = self._subscription.channel or group.channel
            self._group = group
            faults = (np.diff(group.seq) != 1) | (group.kind[1:] == SNAPSHOT) | (group.kind[1:] == UNREADABLE)
            self._breaks = [*(np.flatnonzero(faults) + 1).tolist(), len(group.seq)]
        for event in events:
            if group is not None:
                end = int(np.searchsorted(group.nats, event.nats))
                self._follow(at, end)
                at = max(at, end)
            self._react(event)
        if group is not None:
            self._follow(at, len(group.seq))

    def _react(self, event: Event) -> None:
        subscription = self._subscription
        if event.what == "open":
            self._from_start = True
        elif event.what == "subscribed":
            if event.sid == subscription.sid:
                subscription.channel = event.channel or subscription.channel
                subscription.fresh = True
                subscription.last_us = subscription.last_us or event.recv_us
        elif event.what == "hole":
            subscription.suspect_all(event.nats, event.since_us, event.detail)
        elif event.what == "closed":
            subscription.end(event.recv_us)
        elif event.channel == BOOKS == subscription.channel:
            subscription.end_books(event.recv_us, event.instruments or (ALL,))

    def _follow(self, start: int, end: int) -> None:
        at = start
        subscription, group = self._subscription, self._group
        while at < end:
            until = min(self._breaks[bisect_right(self._breaks, at)], end)
            if (
                until - at >= MIN_STRETCH
                and subscription.calm
                and group.kind[at] in (DELTA, OTHER)
                and group.seq[at] == (subscription.last or 0) + 1
            ):
                self._stretch(at, until)
                at = until
            else:
                self._single(at)
                at += 1

    # -- one by one

    def _single(self, at: int) -> None:
        group, subscription = self._group, self._subscription
        line = int(group.line[at])
        name = self._chunk.names[group.name[at]]
        message = Message(
            int(group.seq[at]),
            int(group.nats[at]),
            int(group.recv_us[at]),
            name,
            lambda: self._chunk.payload(line),
        )
        before_us = subscription.last_us or message.recv_us
        verdict = "unnumbered" if message.seq < 1 else subscription.number(message, from_start=self._from_start)
        kind = group.kind[at]
        compared = verdict == "next"
        if kind == DELTA:
            compared &= self._delta(at, message, verdict, before_us)
        elif kind == SNAPSHOT:
            self._snapshot(at, message, verdict)
        elif kind == UNREADABLE:
            self._unreadable(message, before_us)
        while subscription.mended:
            self._refuse_negative(subscription.mended.pop(), message)
        if name:
            unverifiable = verdict in ("next", "first", "unnumbered") and not compared
            self._count(name, message.recv_us, messages=1, passed=int(compared), unverifiable=int(unverifiable))
        if verdict in ("gap", "late", "backwards"):
            self._count(ALL, message.recv_us, failed=1)
        elif verdict == "repeat":
            self._count(name or ALL, message.recv_us, failed=1)

    def _count(
        self, name: str, recv_us: int, *, messages: int = 0, passed: int = 0, failed: int = 0, unverifiable: int = 0
    ) -> None:
        self._verdicts.count(
            self._epoch,
            name,
            self._subscription.channel or ALL,
            recv_us,
            messages=messages,
            passed=passed,
            failed=failed,
            unverifiable=unverifiable,
        )

    def _delta(self, at: int, message: Message, verdict: str, before_us: int) -> bool:
        """Apply a delta; False if there is no book to apply it to."""
        if verdict == "repeat":
            return True
        book = self._subscription.book(message.instrument)
        book.last_seq = max(book.last_seq, message.seq)
        if book.snapshot_seq is None:
            self._without_snapshot(book, message.recv_us, message.nats)
            return False
        if verdict == "late" and message.seq < book.snapshot_seq:
            return True
        group = self._group
        key = int(group.price[at]) * 2 + int(group.side[at])
        size = book.levels.get(key, 0) + int(group.change[at])
        if size:
            book.levels[key] = size
        else:
            book.levels.pop(key, None)
        book.changed_us, book.changed_nats = message.recv_us, message.nats
        if size < 0 and book.broken is None:
            book.broken = Broken(before_us, message.nats, "negative_level", level_detail(key, size))
        return True

    def _without_snapshot(self, book: MarketBook, recv_us: int, nats: int) -> None:
        # Deltas that were on their way when the market was unsubscribed belong to no book.
        if book.broken is None and not book.ended_us:
            book.broken = Broken(
                recv_us, nats, "no_snapshot", f"delta on sid {self._subscription.sid} before any snapshot"
            )

    def _snapshot(self, at: int, message: Message, verdict: str) -> None:
        if verdict == "repeat":
            return
        subscription = self._subscription
        book = subscription.book(message.instrument)
        if verdict == "late" and message.seq < book.last_seq:
            # Older than what has been applied since. Whether the book is right, its deltas alone decide.
            return
        keys, sizes = self._chunk.levels(int(self._group.row[at]))
        book.levels = {key: size for key, size in zip(keys.tolist(), sizes.tolist(), strict=True) if size}
        book.snapshot_seq = book.last_seq = message.seq
        book.ended_us = 0
        book.changed_us, book.changed_nats = message.recv_us, message.nats
        subscription.mend(book, message.recv_us)
        pending = next((gap for gap in subscription.gaps if gap.last > message.seq), None)
        if pending is not None:
            book.broken = Broken(pending.from_us, pending.nats, "sequence_gap", pending.detail, pending)
        else:
            self._refuse_negative(book, message)

    def _refuse_negative(self, book: MarketBook, message: Message) -> None:
        key = min(book.levels, key=book.levels.__getitem__, default=0)
        if book.broken is None and (size := book.levels.get(key, 0)) < 0:
            book.broken = Broken(message.recv_us, message.nats, "negative_level", level_detail(key, size))

    def _unreadable(self, message: Message, before_us: int) -> None:
        subscription = self._subscription
        books = [subscription.book(message.instrument)] if message.instrument else list(subscription.books.values())
        detail = f"seq {message.seq} on sid {subscription.sid} cannot be applied: it breaks its schema"
        for book in books:
            if book.broken is None and not book.ended_us:
                book.broken = Broken(before_us, message.nats, "sequence_gap", detail)
            elif book.broken is not None:
                book.broken.gap = None

    # -- many at once

    def _stretch(self, start: int, end: int) -> None:
        """Messages whose numbers follow one another, none of them a snapshot."""
        group, subscription = self._group, self._subscription
        before_us = subscription.last_us
        seq, recv_us, name = group.seq[start:end], group.recv_us[start:end], group.name[start:end]
        minutes = recv_us // MINUTE_US
        starts = np.flatnonzero(np.r_[True, np.diff(minutes) != 0])
        for first, last in zip(starts.tolist(), [*(starts[1:] - 1).tolist(), end - start - 1], strict=True):
            subscription.count(int(minutes[first]), int(seq[first]), int(seq[last]))
        subscription.run(int(seq[0]), int(seq[-1]), int(recv_us[-1]))
        for at in range(max(start, end - REORDER_HORIZON), end):
            subscription.remember(int(group.seq[at]), self._chunk.payload(int(group.line[at])))
        base = int(minutes.min())
        codes, counts = np.unique((name << 32) | (minutes - base), return_counts=True)
        blind = self._deltas(start, end, before_us)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            instrument = self._chunk.names[code >> 32]
            if not instrument:
                continue
            at_us = (base + (code & 0xFFFFFFFF)) * MINUTE_US
            unseen = count if code >> 32 in blind else 0
            self._count(instrument, at_us, messages=count, passed=count - unseen, unverifiable=unseen)

    def _deltas(self, start: int, end: int, before_us: int) -> set[int]:
        """Apply the stretch's deltas; the names that have no book."""
        group, subscription = self._group, self._subscription
        rows = np.flatnonzero(group.kind[start:end] == DELTA) + start
        blind: set[int] = set()
        if not len(rows):
            return blind
        names, firsts = np.unique(group.name[rows], return_index=True)
        lasts = len(rows) - 1 - np.unique(group.name[rows][::-1], return_index=True)[1]
        books: dict[int, MarketBook] = {}
        for name, first, last in zip(names.tolist(), rows[firsts].tolist(), rows[lasts].tolist(), strict=True):
            book = books[name] = subscription.book(self._chunk.names[name])
            book.last_seq = int(group.seq[last])
            if book.snapshot_seq is None:
                blind.add(name)
                self._without_snapshot(book, int(group.recv_us[first]), int(group.nats[first]))
            else:
                book.changed_us, book.changed_nats = int(group.recv_us[last]), int(group.nats[last])
        if blind:
            rows = rows[~np.isin(group.name[rows], list(blind))]
        if len(rows):
            self._levels(rows, books, before_us, start)
        return blind

    def _levels(self, rows: Ints, books: dict[int, MarketBook], before_us: int, start: int) -> None:
        """Running sizes of every level that the deltas touch: the sum of its changes on what it held before."""
        group = self._group
        key = (group.name[rows] << _LEVEL_BITS) | (group.price[rows] * 2 + group.side[rows])
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.r_[True, np.diff(key) != 0])
        last = np.r_[first[1:], len(key)] - 1
        sums = np.cumsum(group.change[rows][order])
        levels = [(books[code >> _LEVEL_BITS], code & _LEVEL_MASK) for code in key[first].tolist()]
        held = np.array([book.levels.get(level, 0) for book, level in levels], np.int64)
        base = held - np.r_[0, sums[last[:-1]]]
        sizes = sums + np.repeat(base, last - first + 1)
        for (book, level), size in zip(levels, sizes[last].tolist(), strict=True):
            if size:
                book.levels[level] = size
            else:
                book.levels.pop(level, None)
        below = np.flatnonzero(sizes < 0)
        for at in below[np.argsort(order[below])].tolist():
            row = int(rows[order[at]])
            book = books[int(key[at]) >> _LEVEL_BITS]
            if book.broken is None:
                since_us = int(group.recv_us[row - 1]) if row > start else before_us
                detail = level_detail(int(key[at]) & _LEVEL_MASK, int(sizes[at]))
                book.broken = Broken(since_us, int(group.nats[row]), "negative_level", detail)
