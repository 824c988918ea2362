"""The venues' words for where a market stands, and ours.

Ours: `initialized` (listed, not yet open: nothing to subscribe to), `active`, `suspended` and `inactive` (Polymarket
only), `closed` (no trading, no final result; also every word that nobody knows), `settled`.
"""

from __future__ import annotations

from collections.abc import Mapping

# Guessing `active` for an unknown word would subscribe to dead markets, guessing `settled` would hide living ones.
UNKNOWN = "closed"

#: Kalshi's market status, in REST answers, to ours. A pause (`inactive`) is a close that may end again.
KALSHI: Mapping[str, str] = {
    "initialized": "initialized",
    "open": "active",
    "active": "active",
    "closed": "closed",
    "inactive": "closed",
    "disputed": "closed",
    "amended": "closed",
    "determined": "settled",
    "settled": "settled",
    "finalized": "settled",
}

#: Words that `GET /markets?status=` takes, which are others than those in its answers, to the answers' words.
KALSHI_QUERY: Mapping[str, frozenset[str]] = {
    "unopened": frozenset({"initialized"}),
    "open": frozenset({"active"}),
    "paused": frozenset({"inactive"}),
    "closed": frozenset({"closed", "determined", "disputed", "amended"}),
    "settled": frozenset({"finalized"}),
}

TERMINAL = frozenset({"settled"})

# `active` and `closed` follow each other in both directions: pauses, and closes that are moved.
_RANK: Mapping[str, int] = {
    "initialized": 0,
    "inactive": 1,
    "suspended": 1,
    "active": 1,
    "closed": 1,
    "settled": 2,
}


def kalshi_status(word: str | None) -> str:
    """Our status for Kalshi's; `UNKNOWN` for a word that `KALSHI` does not hold, which the caller should tell."""
    return KALSHI.get(word or "", UNKNOWN)


def may_follow(before: str, after: str) -> bool:
    """Whether a lifecycle message may take a row from one status to another.

    Messages come late and again: a `created` must not take an active market back to `initialized`, and nothing opens a
    settled one again. A full listing is newer than any of them and may say what it likes.
    """
    return _RANK[after] >= _RANK[before]


def polymarket_status(*, active: bool | None, closed: bool | None, accepting_orders: bool | None, winner: bool) -> str:
    """Our status of a condition; a missing flag is what an open market would have.

    Args:
        winner: whether a winning outcome is known.
    """
    if closed:
        return "settled" if winner else "closed"
    if active is False:
        return "inactive"
    return "suspended" if accepting_orders is False else "active"
