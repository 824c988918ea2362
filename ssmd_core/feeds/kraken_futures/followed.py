"""One product's book on one connection, followed by the sequence that begins with its snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ssmd_core.feeds.kraken_futures.book import Change, FuturesBook, Snapshot, book_of, decode_change
from ssmd_core.proof.book_events import BOOK
from ssmd_core.proof.rules import Counter, Hole
from ssmd_core.proof.verdicts import MINUTE_US, Verdicts
from ssmd_core.proof.wire_numbers import NumberError

Counters = dict[tuple[str, int], list[Counter]]


class Followed:
    """See module.

    Args:
        counters: gets what was counted, by (epoch, start of the minute in µs).
        good_us: receive time of what came before the first message; 0 if that was before the hour.

    Attributes:
        book: None before a snapshot and after an unsubscribe.
        good: nothing is missing since the snapshot.
        in_doubt: the archive has a hole; the next number will show whether this book lost anything in it.
        good_us: receive time of the last message that joined on.
        seq: newest number; -1 without a snapshot.
        recv_us, nats_seq: of the last message that changed the book.
    """

    __slots__ = (
        "_before",
        "_counters",
        "_failed",
        "_first",
        "_gaps",
        "_messages",
        "_minute",
        "_missing",
        "_passed",
        "_repeats",
        "_unverifiable",
        "_verdicts",
        "book",
        "epoch",
        "good",
        "good_us",
        "in_doubt",
        "nats_seq",
        "product",
        "recv_us",
        "seq",
    )

    def __init__(self, epoch: str, product: str, verdicts: Verdicts, counters: Counters, good_us: int) -> None:
        self.epoch = epoch
        self.product = product
        self.book: FuturesBook | None = None
        self.good = self.in_doubt = False
        self.good_us = good_us
        self.seq = -1
        self.recv_us = self.nats_seq = 0
        self._before: tuple[str, bytes, bytes] | None = None
        self._verdicts = verdicts
        self._counters = counters
        self._minute = 0
        self._first = -1
        self._messages = self._passed = self._failed = self._unverifiable = 0
        self._gaps = self._missing = self._repeats = 0

    def change(self, change: Change, recv_us: int, nats_seq: int) -> None:
        """The next `book` message."""
        minute = recv_us // MINUTE_US
        if minute != self._minute:
            self.flush()
            self._minute = minute
        self._messages += 1
        book = self.book
        seq = change.seq
        if book is None:
            self._unverifiable += 1
            self._distrust("no_snapshot", nats_seq, f"seq {seq} of a book whose snapshot was not seen")
            return
        content = (change.side, bytes(change.price), bytes(change.qty))
        if self._first < 0:
            self._first = seq
        if seq == self.seq + 1:
            self.seq = seq
            if self.good:
                self._passed += 1
                self.good_us = recv_us
                if self.in_doubt:
                    self._trust(recv_us)
            else:
                self._unverifiable += 1
        else:
            self._deviate(seq, content, nats_seq)
        self._before = content
        try:
            book.set(*content)
        except NumberError as error:
            self.stop()
            self._distrust("no_snapshot", nats_seq, f"a level cannot be read, so the book is not known: {error}")
            return
        self.recv_us = recv_us
        self.nats_seq = nats_seq

    def joins(self, number: int) -> bool:
        """Whether a run of changes that begins with this number can be taken at once."""
        return self.good and not self.in_doubt and number == self.seq + 1

    def run(
        self,
        data: bytes,
        starts: Sequence[int],
        stops: Sequence[int],
        recv_us: npt.NDArray[np.int64],
        nats_seq: npt.NDArray[np.uint64],
    ) -> int:
        """Changes whose numbers rise by one from the next one on, as lines in `data`.

        Returns:
            How many were taken; the one after them cannot be read.
        """
        assert self.book is not None
        last = self.book.set_many(self.product, data, starts, stops)
        done = len(starts) if last is None else last
        if not done:
            return 0
        minute = recv_us[:done] // MINUTE_US
        edges = [0, *(np.flatnonzero(minute[1:] != minute[:-1]) + 1).tolist(), done]
        for at, until in pairwise(edges):
            if minute[at] != self._minute:
                self.flush()
                self._minute = int(minute[at])
            if self._first < 0:
                self._first = self.seq + 1
            self.seq += until - at
            self._messages += until - at
            self._passed += until - at
        change = decode_change(data[starts[done - 1] : stops[done - 1]])
        self._before = (change.side, bytes(change.price), bytes(change.qty))
        self.good_us = self.recv_us = int(recv_us[done - 1])
        self.nats_seq = int(nats_seq[done - 1])
        return done

    def _deviate(self, seq: int, content: tuple[str, bytes, bytes], nats_seq: int) -> None:
        """A number that is not the next one."""
        if seq > self.seq:
            self._gaps += 1
            self._missing += seq - self.seq - 1
        else:
            self._repeats += 1
        if not self.good:
            self._unverifiable += 1
        elif seq == self.seq and content == self._before:
            # The same again sets its level to what it is.
            self._passed += 1
        else:
            self._failed += 1
            self.good = self.in_doubt = False
            self._distrust("sequence_gap" if seq > self.seq else "disorder", nats_seq, f"seq {seq} after {self.seq}")
        self.seq = max(self.seq, seq)

    def begin(self, snapshot: Snapshot, recv_us: int, nats_seq: int) -> None:
        """A `book_snapshot`: the book and its numbers begin anew."""
        self._verdicts.count(self.epoch, self.product, BOOK, recv_us, passed=1)
        try:
            self.book = book_of(snapshot.bids, snapshot.asks)
        except NumberError as error:
            self.stop()
            self._distrust("no_snapshot", nats_seq, f"the snapshot cannot be read: {error}")
            return
        self.good = True
        self.seq, self._before = snapshot.seq, None
        self.good_us = self.recv_us = recv_us
        self.nats_seq = nats_seq
        self._trust(recv_us)

    def _distrust(self, reason: str, nats_seq: int, detail: str, from_us: int | None = None) -> None:
        self._verdicts.distrust(
            self.epoch,
            self.product,
            BOOK,
            from_us=self.good_us if from_us is None else from_us,
            nats_seq=nats_seq,
            reason=reason,
            detail=detail,
        )

    def _trust(self, at_us: int) -> None:
        self.in_doubt = False
        self._verdicts.trust(self.epoch, self.product, BOOK, at_us)

    def refuse(self, recv_us: int, nats_seq: int, why: str) -> None:
        """A message for the product that cannot be read."""
        self._verdicts.count(self.epoch, self.product, BOOK, recv_us, unverifiable=1)
        self.stop()
        self._distrust("no_snapshot", nats_seq, f"a message cannot be read, so the book is not known: {why}")

    def lost(self, hole: Hole) -> None:
        """The archive lacks messages of the connection; the next number tells whether one was of this book."""
        if self.good:
            self.in_doubt = True
            detail = f"{hole.missing} messages after ordinal {hole.after_ordinal} are not in the archive"
            self._distrust("archive_hole", hole.nats_seq, detail, hole.before_us)

    @property
    def distrusted(self) -> bool:
        """Whether an interval is open."""
        return self._verdicts.distrusted(self.epoch, self.product, BOOK) is not None

    def stop(self) -> None:
        """The book ends: what still comes belongs to none."""
        self.book = None
        self.good = self.in_doubt = False
        self.seq = -1

    def end(self, at_us: int) -> None:
        """Nothing comes any more: an open interval ends here."""
        self.stop()
        self.good_us = at_us
        self.flush()
        self._verdicts.trust(self.epoch, self.product, BOOK, at_us)

    def flush(self) -> None:
        """Hand the minute's counts on."""
        if not self._messages:
            return
        at_us = self._minute * MINUTE_US
        self._verdicts.count(
            self.epoch,
            self.product,
            BOOK,
            at_us,
            messages=self._messages,
            passed=self._passed,
            failed=self._failed,
            unverifiable=self._unverifiable,
        )
        if self._first >= 0:
            counter = Counter(f"{BOOK} {self.product}", self._first, self.seq, self._gaps, self._missing, self._repeats)
            self._counters.setdefault((self.epoch, at_us), []).append(counter)
        self._first = -1
        self._messages = self._passed = self._failed = self._unverifiable = 0
        self._gaps = self._missing = self._repeats = 0
