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

#: No message leads out of these; only a full listing may.
TERMINAL = frozenset({"settled"})


def kalshi_status(word: str | None) -> str:
    """Our status for Kalshi's; `UNKNOWN` for a word that `KALSHI` does not hold, which the caller should tell."""
    return KALSHI.get(word or "", UNKNOWN)


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
