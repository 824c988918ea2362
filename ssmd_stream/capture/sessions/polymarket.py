"""Polymarket's market channel: no acknowledgements, keepalive by text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ssmd_stream.capture.sessions.base import NOTHING, PONG, Action, Command, Reaction, Session, compact


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
    acknowledges: ClassVar = False

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
