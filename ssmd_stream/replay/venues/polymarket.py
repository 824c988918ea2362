"""Polymarket's end of a connection, market channel."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from ssmd_stream.replay.generator.polymarket import PolymarketExchange
from ssmd_stream.replay.protocol import Event, Interest, Replies, Session

# Only with `custom_feature_enabled`.
_CUSTOM = frozenset({"best_bid_ask", "new_market", "market_resolved"})


class PolymarketSession(Session):
    """No acknowledgement and no error text: unknown tokens get `[]`. Text `PING` is answered with text `PONG`."""

    def __init__(
        self, exchange: PolymarketExchange | None, now_ns: Callable[[], int], refuses: Callable[[str], bool]
    ) -> None:
        super().__init__(now_ns, refuses)
        self._exchange = exchange
        self._tokens: set[str] = set()
        self._conditions: set[str] = set()
        self._custom = False

    @property
    def interest(self) -> Interest:
        return Interest(frozenset({"market"} if self._tokens else ()), frozenset(self._tokens))

    def receive(self, text: bytes) -> Replies:
        if text.strip() == b"PING":
            return Replies([b"PONG"], [])
        try:
            command = orjson.loads(text)
        except orjson.JSONDecodeError:
            command = None
        tokens = command.get("assets_ids") if isinstance(command, dict) else None
        if not isinstance(command, dict) or not isinstance(tokens, list):
            return Replies([b"INVALID OPERATION"], [])
        self.version += 1
        if command.get("operation") == "unsubscribe":
            self._tokens.difference_update(tokens)
            self._note_conditions()
            return Replies([], [])
        self._custom |= command.get("custom_feature_enabled") is True
        known = [token for token in tokens if isinstance(token, str) and not self._unknown(token)]
        self._tokens.update(known)
        self._note_conditions()
        if not known:
            return Replies([b"[]\n"], [])
        if self._exchange is None or command.get("initial_dump") is False:
            return Replies([], [])
        books = ",".join(self._exchange.book(token, opening=True) for token in known)
        return Replies([], [f"[{books}]".encode()])

    def render(self, event: Event) -> bytes | None:
        if event.type in _CUSTOM and not self._custom:
            return None
        if not event.instrument:
            return event.body.encode() if self._tokens else None
        if event.instrument not in self._tokens and event.instrument not in self._conditions:
            return None
        return event.body.encode()

    def _note_conditions(self) -> None:
        """price_change and market_resolved are sent by market, to whoever holds one of its tokens."""
        if self._exchange is not None:
            books = self._exchange.by_token
            self._conditions = {books[token].condition for token in self._tokens if token in books}

    def _unknown(self, token: str) -> bool:
        if self._refuses("") or self._refuses(token):
            return True
        return self._exchange is not None and token not in self._exchange.by_token
