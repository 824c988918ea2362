"""The books of all connections of an hour: where each begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from ssmd_core.proof.book_events import End, connection_of
from ssmd_core.proof.rules import Hole


class OneBook(Protocol):
    """A book that is followed."""

    def stop(self) -> None:
        """It ends: what still comes belongs to no book."""

    def end(self, at_us: int) -> None:
        """Nothing comes any more: an open interval ends here."""

    def lost(self, hole: Hole) -> None:
        """The archive lacks messages of its connection."""


B = TypeVar("B", bound=OneBook)


class Books(Generic[B]):
    """Books by epoch and instrument.

    Args:
        make: makes one, from epoch, instrument, and the receive time of what came before its first message; 0 if that
            was before the first hour that was proved.
        going_on: epochs that were open when the hour began.
    """

    def __init__(self, make: Callable[[str, str, int], B], going_on: Iterable[str]) -> None:
        self._make = make
        # On other epochs, books may have begun before the first hour that was proved.
        self._known = set(going_on)
        self._seen: set[str] = set()
        self._ended: set[str] = set()
        self._books: dict[str, dict[str, B]] = {}

    def __iter__(self) -> Iterator[B]:
        """All books, sorted by epoch and instrument."""
        return (books[instrument] for _, books in sorted(self._books.items()) for instrument in sorted(books))

    def saw(self, epochs: Iterable[str]) -> None:
        """Messages came on these epochs."""
        self._seen.update(epochs)

    def of(self, epoch: str) -> dict[str, B]:
        """The books of an epoch, by instrument; not to be changed."""
        return self._books.setdefault(epoch, {})

    def get(self, epoch: str, instrument: str, recv_us: int) -> B:
        """The book, made if there is none; `recv_us` is the receive time of the message that speaks of it."""
        books = self.of(epoch)
        book = books.get(instrument)
        if book is None:
            book = books[instrument] = self._make(epoch, instrument, recv_us if epoch in self._known else 0)
        return book

    def take_end(self, end: End, epoch: str, at_us: int) -> None:
        """End what the event says."""
        if end.kind == "open":
            self._known.add(epoch)
            connection = connection_of(epoch)
            for other in [name for name in self._books if name != epoch and connection_of(name) == connection]:
                self.end_epoch(other, at_us)
        elif end.kind == "closed":
            self.end_epoch(epoch, at_us)
        else:
            books = self._books.get(epoch, {})
            for instrument in list(books) if end.instruments is None else end.instruments:
                if instrument not in books:
                    continue
                if end.kind == "unsubscribe":
                    books[instrument].stop()
                else:
                    books[instrument].end(at_us)

    def take_hole(self, hole: Hole) -> None:
        """Every book of the epoch may have lost a message."""
        for book in self._books.get(hole.epoch, {}).values():
            book.lost(hole)

    def end_epoch(self, epoch: str, at_us: int) -> None:
        """The connection is gone."""
        for book in self._books.pop(epoch, {}).values():
            book.end(at_us)
        self._ended.add(epoch)

    def end_silent(self, start_us: int) -> None:
        """End the epochs of which the whole hour, from `start_us` on, has nothing.

        A connection speaks every second, if only by a tick of ours: one that was silent for an hour is gone.
        """
        for epoch in [epoch for epoch in self._books if epoch not in self._seen]:
            self.end_epoch(epoch, start_us)

    def going_on(self) -> list[str]:
        """Epochs still open, sorted."""
        return sorted(self._seen - self._ended)
