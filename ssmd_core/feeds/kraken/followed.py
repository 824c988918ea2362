"""One symbol's book on one connection, followed message by message and judged by its checksums."""

from __future__ import annotations

from typing import Final

from ssmd_core.feeds.kraken.book import Item, KrakenBook, depth_for
from ssmd_core.proof.book_events import BOOK
from ssmd_core.proof.rules import Hole
from ssmd_core.proof.verdicts import MINUTE_US, Verdicts
from ssmd_core.proof.wire_numbers import NumberError

#: What `Item.checksum` is where the message has none.
NO_CHECKSUM: Final = -1


class Followed:
    """See module.

    Args:
        good_us: receive time of what came before the first message; 0 if that was before the hour.

    Attributes:
        depth: acknowledged depth, levels per side; None if no acknowledgement was seen.
        book: None before a snapshot and after an unsubscribe.
        good: every checksum since the snapshot was right, and nothing is missing.
        good_us: receive time of the last message that was right.
        recv_us, nats_seq: of the last message that changed the book.
    """

    __slots__ = (
        "_failed",
        "_messages",
        "_minute",
        "_passed",
        "_unverifiable",
        "_verdicts",
        "book",
        "depth",
        "epoch",
        "good",
        "good_us",
        "nats_seq",
        "recv_us",
        "symbol",
    )

    def __init__(self, epoch: str, symbol: str, verdicts: Verdicts, good_us: int) -> None:
        self.epoch = epoch
        self.symbol = symbol
        self.depth: int | None = None
        self.book: KrakenBook | None = None
        self.good = False
        self.good_us = good_us
        self.recv_us = 0
        self.nats_seq = 0
        self._verdicts = verdicts
        self._minute = 0
        self._messages = self._passed = self._failed = self._unverifiable = 0

    def take(self, kind: str, item: Item, recv_us: int, nats_seq: int) -> None:
        """The symbol's part of the next message."""
        minute = recv_us // MINUTE_US
        if minute != self._minute:
            self.flush()
            self._minute = minute
        self._messages += 1
        book = self.book
        if kind == "snapshot":
            self._begin(item, recv_us, nats_seq)
        elif book is None:
            self._unverifiable += 1
            self.distrust("no_snapshot", nats_seq, "an update of a book whose snapshot was not seen")
        else:
            self._update(book, item, recv_us, nats_seq)

    def _update(self, book: KrakenBook, item: Item, recv_us: int, nats_seq: int) -> None:
        try:
            checksum = book.apply(item)
        except NumberError as error:
            self._unverifiable += 1
            self.distrust("checksum", nats_seq, f"no checksum can be made: {error}")
            return
        self.recv_us = recv_us
        self.nats_seq = nats_seq
        if not self.good:
            # Not compared: the checksum is blind below the tenth level, so its agreeing again would prove nothing.
            self._unverifiable += 1
        elif checksum == item.checksum:
            self._passed += 1
            self.good_us = recv_us
        elif item.checksum == NO_CHECKSUM:
            self._unverifiable += 1
        else:
            self._fail(item.checksum, checksum, nats_seq)

    def _begin(self, item: Item, recv_us: int, nats_seq: int) -> None:
        """A snapshot: the book begins anew."""
        book = KrakenBook(depth_for(self.depth, item))
        if self.book is None and not self.good_us:
            self.good_us = recv_us
        try:
            checksum = book.apply(item)
        except NumberError as error:
            self.book = None
            self._unverifiable += 1
            self.distrust("no_snapshot", nats_seq, f"the snapshot cannot be read: {error}")
            return
        self.book, self.good = book, True
        self.recv_us, self.nats_seq = recv_us, nats_seq
        if item.checksum not in (checksum, NO_CHECKSUM):
            self._fail(item.checksum, checksum, nats_seq)
            return
        if item.checksum == NO_CHECKSUM:
            self._unverifiable += 1
        else:
            self._passed += 1
        self.good_us = recv_us
        self._verdicts.trust(self.epoch, self.symbol, BOOK, recv_us)

    def _fail(self, theirs: int, ours: int, nats_seq: int) -> None:
        self._failed += 1
        self.distrust("checksum", nats_seq, f"the venue's checksum is {theirs}, the book's is {ours}")

    def distrust(self, reason: str, nats_seq: int, detail: str, from_us: int | None = None) -> None:
        """The book is not good any more, until its next snapshot."""
        self.good = False
        self._verdicts.distrust(
            self.epoch,
            self.symbol,
            BOOK,
            from_us=self.good_us if from_us is None else from_us,
            nats_seq=nats_seq,
            reason=reason,
            detail=detail,
        )

    def lost(self, hole: Hole) -> None:
        """The archive lacks messages of the connection: nothing shows that none of them was of this book."""
        if self.book is not None:
            detail = f"{hole.missing} messages after ordinal {hole.after_ordinal} are not in the archive"
            self.distrust("archive_hole", hole.nats_seq, detail, hole.before_us)

    def refuse(self, recv_us: int, nats_seq: int, why: str) -> None:
        """A message for the symbol that cannot be read."""
        self._verdicts.count(self.epoch, self.symbol, BOOK, recv_us, unverifiable=1)
        self.distrust("checksum" if self.book else "no_snapshot", nats_seq, f"a message cannot be read: {why}")

    @property
    def distrusted(self) -> bool:
        """Whether an interval is open."""
        return self._verdicts.distrusted(self.epoch, self.symbol, BOOK) is not None

    def stop(self) -> None:
        """The book ends: what still comes belongs to none."""
        self.book, self.good = None, False

    def end(self, at_us: int) -> None:
        """Nothing comes any more: an open interval ends here."""
        self.stop()
        self.good_us = at_us
        self.flush()
        self._verdicts.trust(self.epoch, self.symbol, BOOK, at_us)

    def flush(self) -> None:
        """Hand the minute's counts to the verdicts."""
        if self._messages:
            self._verdicts.count(
                self.epoch,
                self.symbol,
                BOOK,
                self._minute * MINUTE_US,
                messages=self._messages,
                passed=self._passed,
                failed=self._failed,
                unverifiable=self._unverifiable,
            )
            self._messages = self._passed = self._failed = self._unverifiable = 0
