"""Kraken Futures, WebSocket v1: acknowledgements name feed and products."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ssmd_stream.capture.sessions.base import NOTHING, Command, Notice, Reaction, Session, compact


class _Event(msgspec.Struct):
    event: str = ""
    feed: str = ""
    product_ids: list[str] = []
    message: str = ""


_EVENT = msgspec.json.Decoder(_Event)


class KrakenFuturesSession(Session):
    """See module."""

    groups: ClassVar = {
        "ticker": "ticker",
        "ticker_lite": "ticker_lite",
        "trade": "trade",
        "trade_snapshot": "trade",
        "book": "book",
        "book_snapshot": "book",
    }
    opening_kinds: ClassVar = {"book_snapshot": "book"}
    asked_channels: ClassVar = ("ticker", "book")

    def _subscribe_text(self, id_: int, channel: str, instruments: tuple[str, ...]) -> str:
        del id_
        return compact({"event": "subscribe", "feed": channel, "product_ids": instruments})

    def _unsubscribe(self, channel: str, instruments: tuple[str, ...]) -> list[Command]:
        text = compact({"event": "unsubscribe", "feed": channel, "product_ids": instruments})
        return [Command(self._next_id(), text, "unsubscribe", channel, instruments)]

    def _read(self, kind: str, payload: bytes) -> Reaction:
        if kind in ("alert", "error"):
            # Names neither feed nor product: what it was about stays unacknowledged and is settled when overdue.
            return self._error(_EVENT.decode(payload).message or kind)
        if kind not in ("subscribed", "subscribed_failed"):
            return NOTHING
        event = _EVENT.decode(payload)
        # 2021's venue echoed upper case for lower-case requests; today's takes upper case only.
        products = tuple(product.upper() for product in event.product_ids)
        for product in products:
            for id_ in list(self._pending_for(event.feed, product)):
                self._settle(id_, (product,))
        if kind == "subscribed":
            return Reaction((self._accept(event.feed, products),))
        reason = event.message or self._last_error or "subscribed_failed"
        notice: Notice = self._refuse(event.feed, products, reason)
        return Reaction((notice,))
