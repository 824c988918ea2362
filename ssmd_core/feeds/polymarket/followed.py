"""What the rule keeps of every token while it follows an hour."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ssmd_core.feeds.polymarket.book import TokenBook

#: Of a book whose hash fits nothing that we know, so many changes are tried: its settings may have been told since.
MAX_TRIES: Final = 3


class Suspect(NamedTuple):
    """A hash that did not fit, to be tried again."""

    recv_us: int
    nats: int
    hashed: Any
    expected: str
    good_us: int


class Token:
    """What is known of one token on one connection.

    Attributes:
        good_us: receive time of the last message whose hash was ours, or of the book.
        suspects: hashes since then that were not.
        traded: a trade or a tick size came since then.
        broken: an interval of the broken kind is open.
        tries: changes that may still be tried where no settings have fitted.
        clean: there is neither a suspect nor an open interval.
        partner: the market's other token while the two are in step; see `integrity`.
        minute, passed: hashes that fitted in that minute (since 1970) and are not yet counted.
    """

    __slots__ = ("book", "broken", "clean", "good_us", "minute", "partner", "passed", "suspects", "traded", "tries")

    def __init__(self, book: TokenBook) -> None:
        self.book = book
        self.good_us = 0
        self.suspects: list[Suspect] = []
        self.traded = False
        self.broken = False
        self.tries = MAX_TRIES
        self.clean = False
        self.minute = 0
        self.passed = 0
        self.partner: Token | None = None

    def part(self) -> None:
        """The two tokens are no longer in step."""
        if self.partner is not None:
            self.partner.partner = None
            self.partner = None


class Epoch:
    """One connection: tokens with a book, tokens without one, tokens that are no longer wanted."""

    __slots__ = ("blind", "ended", "tokens")

    def __init__(self) -> None:
        self.tokens: dict[str, Token] = {}
        self.blind: set[str] = set()
        self.ended: set[str] = set()
