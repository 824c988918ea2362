"""One subscription (sid) of one connection: its counter, and the books that hang on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from ssmd_core.proof.verdicts import MINUTE_US

BOOKS: Final = "orderbook_delta"
#: All instruments of a channel.
ALL: Final = "*"

#: How many numbers back a message may lie to count as late or as a repeat; what comes from farther back shows that the
#: counter itself ran backwards.
REORDER_HORIZON: Final = 32


class Tell(Protocol):
    """Reports an interval; see `UNTRUSTED_SCHEMA`."""

    def __call__(
        self, instrument: str, check: str, from_us: int, to_us: int | None, nats: int, reason: str, detail: str
    ) -> None: ...


@dataclass(slots=True)
class Gap:
    """A hole in the counter, while what is missing may still come.

    Attributes:
        first, last: numbers missing.
        late: those that came after all.
        from_us, found_us: receive times of the neighbours.
        nats: message that shows it.
        told: already reported.
    """

    first: int
    last: int
    from_us: int
    found_us: int
    nats: int
    detail: str
    late: set[int] = field(default_factory=set)
    told: bool = False


@dataclass(slots=True)
class Broken:
    """Why a book is not to be trusted, and since when.

    Attributes:
        gap: if the arrival of what is missing there would mend the book.
    """

    from_us: int
    nats: int
    reason: str
    detail: str
    gap: Gap | None = None


@dataclass(slots=True)
class MarketBook:
    """One market's book.

    Attributes:
        levels: size by price * 2 + side, in 10^-6.
        snapshot_seq: number of the newest snapshot; None before the first.
        last_seq: highest number of a delta.
        broken: None while the book is right.
        ended_us: receive time of its unsubscription, 0 before.
        changed_us, changed_nats: last message that changed it.
    """

    market: str
    levels: dict[int, int] = field(default_factory=dict)
    snapshot_seq: int | None = None
    last_seq: int = 0
    broken: Broken | None = None
    ended_us: int = 0
    changed_us: int = 0
    changed_nats: int = 0


@dataclass(slots=True)
class Seen:
    """A counter's figures of one minute; see `rules.Counter`."""

    first: int
    last: int
    gaps: int = 0
    missing: int = 0
    repeats: int = 0


@dataclass(slots=True)
class Message:
    """One message of the subscription; `payload` gives the venue's bytes."""

    seq: int
    nats: int
    recv_us: int
    instrument: str
    payload: Callable[[], bytes]


class Subscription:
    """Checks the numbers of a subscription and knows which of its books are right.

    A book is broken by a hole until its next snapshot, or until all that was missing has come late: a delta is a
    signed change, so the order of two deltas does not matter to the sum.

    Attributes:
        last: highest number seen without a doubt; None before the first.
        last_us: receive time of the last message.
        fresh: the venue has (again) accepted a subscription under this sid; 1 may be next.
        recent: the last `REORDER_HORIZON` messages, to know a repeat by.
        other: number after which the counter may have begun anew.
        mended: books that the latest message, once it is applied, makes right again.
    """

    def __init__(self, sid: int, tell: Tell) -> None:
        self.sid = sid
        self.channel = ""
        self.last: int | None = None
        self.last_us = 0
        self.fresh = False
        self.other: int | None = None
        self.recent: OrderedDict[int, bytes] = OrderedDict()
        self.gaps: list[Gap] = []
        self.suspect: Broken | None = None
        self.books: dict[str, MarketBook] = {}
        self.minutes: dict[int, Seen] = {}
        self.mended: list[MarketBook] = []
        self._tell = tell

    @property
    def calm(self) -> bool:
        """Whether only the next number can follow: nothing is pending."""
        return self.last is not None and not self.gaps and self.suspect is None and self.other is None

    def book(self, market: str) -> MarketBook:
        """The market's book, made if there is none."""
        found = self.books.get(market)
        if found is None:
            found = self.books[market] = MarketBook(market)
        return found

    # -- the counter

    def number(self, message: Message, *, from_start: bool) -> str:
        """Follow the counter.

        Args:
            from_start: the connection was seen from its beginning, so that the first number must be 1.

        Returns:
            `next`, `first` (nothing to compare with), `gap`, `late`, `repeat` or `backwards`.
        """
        seq, last = message.seq, self.last
        seen = self._count(message)
        if last is None:
            verdict = "next" if seq == 1 else "gap" if from_start or self.fresh else "first"
            if verdict == "gap":
                self._open_gap(0, message, seen)
            self.last = seq
        elif seq == last + 1:
            verdict, self.last, self.other = "next", seq, None
            self._clear_suspicion(message)
        elif self.other is not None and seq == self.other + 1:
            # The counter has begun anew: what was missing of the old count will not come.
            verdict, self.last, self.other = "next", seq, None
            self._settle_gaps(None)
        elif seq == 1 and self.fresh:
            self.end_books(message.recv_us)
            self._settle_gaps(None)
            verdict, self.last, self.other = "next", 1, None
        elif seq > last + 1:
            verdict = "gap"
            self._open_gap(last, message, seen)
            self.last, self.other = seq, None
        else:
            verdict = self._behind(message, seen)
        if verdict in ("next", "gap", "first"):
            self.fresh = False
        self.last_us = message.recv_us
        if verdict != "repeat":
            self.remember(seq, message.payload())
        self._settle_gaps(self.last)
        return verdict

    def run(self, first: int, last: int, recv_us: int) -> None:
        """Numbers that follow one another without a fault, `first` after the last one; counted by the caller."""
        assert self.calm and self.last is not None and first == self.last + 1
        self.last, self.last_us, self.fresh = last, recv_us, False

    def remember(self, seq: int, payload: bytes) -> None:
        """Keep what a message said."""
        self.recent[seq] = payload
        self.recent.move_to_end(seq)
        if len(self.recent) > REORDER_HORIZON:
            self.recent.popitem(last=False)

    def count(self, minute: int, first: int, last: int) -> Seen:
        """Note numbers seen in a minute (in minutes since 1970)."""
        seen = self.minutes.get(minute)
        if seen is None:
            seen = self.minutes[minute] = Seen(first, last)
        seen.last = last
        return seen

    def _count(self, message: Message) -> Seen:
        return self.count(message.recv_us // MINUTE_US, message.seq, message.seq)

    def _open_gap(self, last: int, message: Message, seen: Seen) -> None:
        missing = message.seq - last - 1
        seen.gaps += 1
        seen.missing += missing
        if last:
            detail = f"seq {message.seq} after {last} on sid {self.sid}"
        else:
            detail = f"seq {message.seq} is the first on sid {self.sid}"
        since_us = self.last_us or message.recv_us
        suspect, self.suspect = self.suspect, None
        if suspect is not None:
            self._tell_suspicion(suspect, message.recv_us)
        gap = Gap(last + 1, message.seq - 1, since_us, message.recv_us, message.nats, detail)
        self.gaps.append(gap)
        for book in self.books.values():
            if book.broken is None:
                book.broken = Broken(since_us, message.nats, "sequence_gap", detail, gap)
            elif book.broken is suspect:
                book.broken = Broken(suspect.from_us, suspect.nats, suspect.reason, suspect.detail, gap)

    def _behind(self, message: Message, seen: Seen) -> str:
        """A number not above the last: late, a repeat, or a counter that ran backwards."""
        seq = message.seq
        for gap in self.gaps:
            if gap.first <= seq <= gap.last and seq not in gap.late:
                gap.late.add(seq)
                if len(gap.late) == gap.last - gap.first + 1:
                    self._fill(gap, message)
                return "late"
        seen.repeats += 1
        if seq in self.recent and self.recent[seq] == message.payload():
            detail = f"seq {seq} came again after {self.last} on sid {self.sid}; it counts once"
            self._tell(
                message.instrument or ALL, self.channel, self.last_us, message.recv_us, message.nats, "disorder", detail
            )
            return "repeat"
        detail = f"seq {seq} after {self.last} on sid {self.sid}: the counter ran backwards"
        self._tell(ALL, self.channel, self.last_us, message.recv_us, message.nats, "disorder", detail)
        for book in self.books.values():
            if book.broken is None:
                book.broken = Broken(self.last_us, message.nats, "disorder", detail)
            else:
                book.broken.gap = None
        self.other = seq
        return "backwards"

    def _fill(self, gap: Gap, message: Message) -> None:
        """All that was missing has come late."""
        self.gaps.remove(gap)
        seen = self.minutes.get(gap.found_us // MINUTE_US)
        if seen is not None and seen.gaps:
            seen.gaps -= 1
            seen.missing -= gap.last - gap.first + 1
        detail = f"{gap.detail}; {gap.first} to {gap.last} came late"
        if not gap.told:
            self._tell(ALL, self.channel, gap.from_us, message.recv_us, gap.nats, "disorder", detail)
        for book in self.books.values():
            broken = book.broken
            if broken is None or broken.gap is not gap:
                continue
            later = next((other for other in self.gaps if other.found_us >= gap.found_us), None)
            reason = "disorder" if broken.reason == "sequence_gap" else broken.reason
            self._tell(book.market, BOOKS, broken.from_us, message.recv_us, broken.nats, reason, detail)
            book.broken = None
            if later is not None:
                book.broken = Broken(later.from_us, later.nats, "sequence_gap", later.detail, later)
            else:
                self.mended.append(book)

    def _settle_gaps(self, last: int | None) -> None:
        """Give up waiting for what is missing too far back; None: for everything."""
        while self.gaps and (last is None or last - self.gaps[0].last > REORDER_HORIZON):
            gap = self.gaps.pop(0)
            self._tell_gap(gap)
            for book in self.books.values():
                if book.broken is not None and book.broken.gap is gap:
                    book.broken.gap = None

    def _tell_gap(self, gap: Gap) -> None:
        if not gap.told:
            gap.told = True
            self._tell(ALL, self.channel, gap.from_us, gap.found_us, gap.nats, "sequence_gap", gap.detail)

    # -- holes of the archive

    def suspect_all(self, nats: int, since_us: int, detail: str) -> None:
        """Messages of the connection are missing in the archive; the next number tells whether they were ours."""
        if self.suspect is not None or self.last is None:
            return
        self.suspect = Broken(since_us, nats, "archive_hole", detail)
        for book in self.books.values():
            if book.broken is None:
                book.broken = self.suspect

    def _clear_suspicion(self, message: Message) -> None:
        """The number that follows has come: nothing of this subscription was lost."""
        suspect, self.suspect = self.suspect, None
        if suspect is None:
            return
        self._tell_suspicion(suspect, message.recv_us)
        for book in self.books.values():
            if book.broken is suspect:
                self.mend(book, message.recv_us)

    def _tell_suspicion(self, suspect: Broken, to_us: int | None) -> None:
        self._tell(ALL, self.channel, suspect.from_us, to_us, suspect.nats, suspect.reason, suspect.detail)

    # -- books

    def mend(self, book: MarketBook, at_us: int) -> None:
        """The book is right again, or has ended."""
        broken, book.broken = book.broken, None
        if broken is not None:
            self._tell(book.market, BOOKS, broken.from_us, at_us, broken.nats, broken.reason, broken.detail)

    def end_books(self, at_us: int, markets: tuple[str, ...] = (ALL,)) -> None:
        """Books that are no longer subscribed."""
        for market in self.books if ALL in markets else markets:
            book = self.books.get(market)
            if book is not None and not book.ended_us:
                self.mend(book, at_us)
                book.levels, book.snapshot_seq, book.ended_us = {}, None, at_us

    def end(self, at_us: int) -> None:
        """The connection has closed."""
        self.end_books(at_us)
        self._settle_gaps(None)
        suspect, self.suspect = self.suspect, None
        if suspect is not None:
            self._tell_suspicion(suspect, at_us)

    def tell_open(self) -> None:
        """Report what is still open when the hour ends."""
        for gap in self.gaps:
            self._tell_gap(gap)
        if self.suspect is not None:
            self._tell_suspicion(self.suspect, None)
        for book in self.books.values():
            broken = book.broken
            if broken is not None:
                self._tell(book.market, BOOKS, broken.from_us, None, broken.nats, broken.reason, broken.detail)


def level_detail(key: int, size: int) -> str:
    """A sentence about a level; `key` as in `MarketBook.levels`, `size` in 10^-6 contracts."""
    sign, size = ("-", -size) if size < 0 else ("", size)
    side = "no" if key % 2 else "yes"
    price = f"{key // 2 // 10**6}.{key // 2 % 10**6:06d}"
    return f"level {side} {price} fell to {sign}{size // 10**6}.{size % 10**6:06d} contracts"
