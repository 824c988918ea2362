"""Polymarket's market channel: no acknowledgements, keepalive by text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ssmd_core.feeds.base import Feed
from ssmd_stream.capture.sessions.base import NOTHING, PONG, Action, Command, Reaction, Session, compact


class _Book(msgspec.Struct):
    asset_id: str = ""


_BOOK = msgspec.json.Decoder(_Book)


class PolymarketSession(Session):
    """See module. Instruments are token ids; the one channel is `market`."""

    # new_market is sent to everybody, whatever they subscribed, so it proves nothing about our tokens.
    groups: ClassVar = {
        name: "market"
        for name in (
            "book",
            "price_change",
            "last_trade_price",
            "best_bid_ask",
            "tick_size_change",
            "market_resolved",
        )
    }
    opening_kinds: ClassVar = {"book": "market"}
    asked_channels: ClassVar = ("market",)

    def __init__(self, feed: Feed, channels: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(feed, channels, options)
        # Messages are routed by condition, subscriptions made by token: opening books say which is whose.
        self._tokens: dict[str, set[str]] = {}

    @property
    def openings(self) -> Mapping[str, str]:
        wanted = all(options.get("initial_dump", True) for options in self.options.values())
        return self.opening_kinds if wanted else {}

    def opened(self, kind: str, payload: bytes, id_: str) -> tuple[str, ...]:
        del kind
        try:
            token = _BOOK.decode(payload).asset_id
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return ()
        if token not in self.subscriptions[self.channels[0]].asked:
            return ()
        self._tokens.setdefault(id_, set()).add(token)
        return (token,)

    def covered(self, ids: set[str]) -> int:
        # A price change names both tokens of its market; what comes for one counts for both.
        return sum(len(self._tokens.get(condition, ())) for condition in ids)

    def ask(self, recent: Sequence[str]) -> list[Command]:
        return super().ask([token for condition in recent for token in sorted(self._tokens.get(condition, ()))])

    def _ask(self, channel: str, instruments: Sequence[str], action: Action) -> list[Command]:
        # Without tokens there is no "all": the frame then only opens the channel for later additions.
        return super()._ask(channel, instruments, action) if instruments or not self._last_id else []

    def _subscribe_text(self, id_: int, channel: str, instruments: tuple[str, ...]) -> str:
        request: dict[str, object] = {"assets_ids": instruments, "custom_feature_enabled": True}
        if id_ == 1:
            request = {"type": channel, **request, "initial_dump": True}
        else:
            request["operation"] = "subscribe"
        request.update(self.options.get(channel, {}))
        return compact(request)

    def _unsubscribe(self, channel: str, instruments: tuple[str, ...]) -> list[Command]:
        text = compact({"operation": "unsubscribe", "assets_ids": instruments})
        return [Command(self._next_id(), text, "unsubscribe", channel, instruments)]

    def _read(self, kind: str, payload: bytes) -> Reaction:
        del kind
        return PONG if payload.strip() == b"PONG" else NOTHING
