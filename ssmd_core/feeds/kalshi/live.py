"""Kalshi's numbers, followed while a connection is open."""

from __future__ import annotations

from typing import Final

import msgspec

from ssmd_core.feeds.kalshi.sequenced import CHANNELS
from ssmd_core.feeds.kalshi.subscription import BOOKS
from ssmd_core.proof.rules import LiveCounts, Trouble


class _Number(msgspec.Struct, gc=False):
    sid: int = 0
    seq: int = 0


class _Sid(msgspec.Struct, gc=False):
    sid: int = 0
    channel: str = ""


class _Subscribed(msgspec.Struct, gc=False):
    msg: _Sid


_NUMBER: Final = msgspec.json.Decoder(_Number)
_SUBSCRIBED: Final = msgspec.json.Decoder(_Subscribed)
_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_CHANNEL_OF: Final = {kind: channel for kind, (channel, _) in CHANNELS.items()}


class LiveKalshi:
    """Implements `rules.LiveCheck`: whether every subscription's numbers follow one another; 0.5 µs a message.

    It reads two members and keeps one number per sid. A hole, a repeat or a number that runs backwards in the order
    book's subscription asks for a new one; it is not told again until a snapshot has come. Of other channels what is
    lost is lost: `Trouble.channel` is "". Levels are left to the hour's rule.
    """

    def __init__(self) -> None:
        self.counts = LiveCounts()
        self._last: dict[int, int] = {}
        self._channels: dict[int, str] = {}
        self._other: dict[int, int] = {}
        self._told: set[int] = set()

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        """See `LiveCheck`."""
        if kind == "ticker":
            return None
        if kind == "subscribed":
            self._subscribed(payload)
            return None
        try:
            number = _NUMBER.decode(payload)
        except _ERRORS:
            self.counts.unverifiable += 1
            return None
        sid, seq = number.sid, number.seq
        if seq < 1:
            if kind in _CHANNEL_OF:
                self.counts.unverifiable += 1
            return None
        last = self._last.get(sid, 0)
        self._last[sid] = seq
        if seq == last + 1:
            self.counts.passed += 1
            trouble = None
        else:
            trouble = self._trouble(kind, sid, seq, last)
        if kind == "orderbook_snapshot":
            self._told.discard(sid)
        elif kind == "unsubscribed":
            self._last.pop(sid, None)
            self._told.discard(sid)
        return trouble

    def _subscribed(self, payload: bytes) -> None:
        try:
            accepted = _SUBSCRIBED.decode(payload).msg
        except _ERRORS:
            self.counts.unverifiable += 1
            return
        self._last.setdefault(accepted.sid, 0)
        self._channels[accepted.sid] = accepted.channel

    def _trouble(self, kind: str, sid: int, seq: int, last: int) -> Trouble | None:
        counts = self.counts
        if seq == self._other.pop(sid, -1) + 1:
            # It began anew: told already when it ran backwards.
            counts.passed += 1
            return None
        counts.failed += 1
        if seq > last:
            counts.gaps += 1
            counts.missing += seq - last - 1
            reason, detail = "sequence_gap", f"seq {seq} after {last} on sid {sid}"
        else:
            # The highest number stays the last one, unless the count goes on from here.
            self._last[sid], self._other[sid] = last, seq
            reason, detail = "disorder", f"seq {seq} after {last} on sid {sid}: late, a repeat, or a new count"
        if (_CHANNEL_OF.get(kind) or self._channels.get(sid)) != BOOKS:
            return Trouble("", (), reason, detail)
        if sid in self._told:
            return None
        self._told.add(sid)
        return Trouble(BOOKS, (), reason, detail)
