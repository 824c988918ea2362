"""What a hash, or a best price, says of a token's book, and how that is told; see `integrity`."""

from __future__ import annotations

from typing import Final

from ssmd_core.feeds.polymarket.followed import Epoch, Suspect, Token
from ssmd_core.feeds.polymarket.wire import NUMBERS, ONE, Change, ChangeMessage, Message
from ssmd_core.proof.verdicts import MINUTE_US, Verdicts

#: The check of order books.
BOOKS: Final = "book"

# So many hashes in a row that fit nothing are not explained by a trade any more.
_MAX_SUSPECTS: Final = 8
_SIDES: Final = {"BUY", "SELL"}


def mirrored(one: Change, other: Change) -> bool:
    """Whether the two set the same level, seen from a market's two tokens."""
    if one.size != other.size or {one.side, other.side} != _SIDES:
        return False
    first, second = NUMBERS[one.price], NUMBERS[other.price]
    return first is not None and second is not None and first + second == ONE


class Judge:
    """Judges tokens, for the rule of an hour."""

    def __init__(self, verdicts: Verdicts) -> None:
        self._verdicts = verdicts

    def _judge(self, message: Message | ChangeMessage, token: Token, entry: Change) -> bool:
        """Compare the book with what a change says of it; whether the hash is ours."""
        recv_us, asset_id = message.recv_us, token.book.asset_id
        book = token.book
        book.changed_us, book.changed_nats = recv_us, message.nats_seq
        expected = entry.hash or message.hash or ""
        if book.settings is None and token.tries <= 0:
            fits = None
        else:
            hashed = book.hashed(message.timestamp)
            fits = book.fits(hashed, expected)
        if fits:
            self._fits(message.epoch, token, recv_us)
        elif book.settings is None or not expected:
            token.tries -= 1
            fits = None
            self._verdicts.count(message.epoch, asset_id, BOOKS, recv_us, unverifiable=1)
        elif token.broken:
            self._verdicts.count(message.epoch, asset_id, BOOKS, recv_us, failed=1)
        else:
            token.clean = False
            token.suspects.append(Suspect(recv_us, message.nats_seq, hashed, expected, token.good_us))
            if len(token.suspects) > _MAX_SUSPECTS:
                self._open(message.epoch, token)
        if entry.best_bid and not book.touch_is(entry.best_bid, entry.best_ask or ""):
            self._touch(message, token, entry, fits)
        return bool(fits)

    def _fits(self, epoch: str, token: Token, recv_us: int) -> None:
        """The hash is ours: the whole book is right, whatever was before."""
        if not token.clean:
            self._resolve(epoch, token, recv_us)
            self._verdicts.trust(epoch, token.book.asset_id, BOOKS, recv_us)
            token.broken, token.clean = False, True
        token.traded, token.good_us = False, recv_us
        minute = recv_us // MINUTE_US
        if minute != token.minute:
            self._count_passed(epoch, token)
            token.minute = minute
        token.passed += 1

    def _count_passed(self, epoch: str, token: Token) -> None:
        """Tell what has been counted in the token, a minute at a time: that is a tenth of the cost."""
        passed, token.passed = token.passed, 0
        if passed:
            at_us = token.minute * MINUTE_US
            self._verdicts.count(epoch, token.book.asset_id, BOOKS, at_us, messages=passed, passed=passed)

    def _resolve(self, epoch: str, token: Token, recv_us: int) -> None:
        """Judge the hashes that did not fit, with the settings that fit now; the book is right again at `recv_us`."""
        if not token.suspects:
            return
        suspects, token.suspects = token.suspects, []
        asset_id = token.book.asset_id
        for suspect in suspects:
            if token.book.fits(suspect.hashed, suspect.expected):
                self._verdicts.count(epoch, asset_id, BOOKS, suspect.recv_us, passed=1)
                self._verdicts.trust(epoch, asset_id, BOOKS, suspect.recv_us)
                token.good_us = suspect.recv_us
            else:
                self._fail(epoch, token, suspect)
        self._verdicts.trust(epoch, asset_id, BOOKS, recv_us)

    def _fail(self, epoch: str, token: Token, suspect: Suspect) -> None:
        self._verdicts.count(epoch, token.book.asset_id, BOOKS, suspect.recv_us, failed=1)
        self._verdicts.distrust(
            epoch,
            token.book.asset_id,
            BOOKS,
            from_us=token.good_us,
            nats_seq=suspect.nats,
            reason="checksum",
            detail=f"the venue's hash of the book is {suspect.expected!r:.60}, not ours",
        )

    def _open(self, epoch: str, token: Token) -> None:
        """No hash that fits has come: the book is broken, unless a trade explains the one that did not."""
        suspects, token.suspects = token.suspects, []
        if token.traded and len(suspects) == 1:
            suspect = suspects[0]
            self._verdicts.count(epoch, token.book.asset_id, BOOKS, suspect.recv_us, unverifiable=1)
            detail = f"after a trade the venue's hash is {suspect.expected!r:.60}; none that we know of fits"
            self._no_check(epoch, token.book.asset_id, token.good_us, suspect.nats, detail)
            return
        for suspect in suspects:
            self._fail(epoch, token, suspect)
        token.broken = True

    def _touch(self, message: Message | ChangeMessage, token: Token, entry: Change, fits: bool | None) -> None:
        """The best prices that the venue states are not those of the book."""
        asset_id, epoch, recv_us = token.book.asset_id, message.epoch, message.recv_us
        if fits is False:
            # The hash has said so.
            return
        detail = f"best bid and ask are {entry.best_bid!r:.40} and {entry.best_ask!r:.40}, not those of the book"
        self._verdicts.count(epoch, asset_id, BOOKS, recv_us, messages=0, failed=1)
        if fits is None:
            token.clean = False
            # An interval without a check is told as what it is now.
            self._verdicts.trust(epoch, asset_id, BOOKS, recv_us)
            token.broken = True
        self._verdicts.distrust(
            epoch,
            asset_id,
            BOOKS,
            from_us=recv_us if fits else token.good_us,
            nats_seq=message.nats_seq,
            reason="touch",
            detail=detail,
        )
        if fits:
            self._verdicts.trust(epoch, asset_id, BOOKS, recv_us)

    def _blind(self, epoch: Epoch, asset_id: str, message: Message | ChangeMessage) -> None:
        self._verdicts.count(message.epoch, asset_id, BOOKS, message.recv_us, unverifiable=1)
        if asset_id not in epoch.blind and asset_id not in epoch.ended:
            epoch.blind.add(asset_id)
            self._verdicts.distrust(
                message.epoch,
                asset_id,
                BOOKS,
                from_us=message.recv_us,
                nats_seq=message.nats_seq,
                reason="no_snapshot",
                detail="price change of a token before any book",
            )

    def _no_check(self, epoch: str, asset_id: str, from_us: int, nats: int, detail: str) -> None:
        self._verdicts.distrust(
            epoch, asset_id, BOOKS, from_us=from_us, nats_seq=nats, reason="no_check", detail=detail
        )
