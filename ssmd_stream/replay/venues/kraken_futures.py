"""Kraken Futures' end of a connection, WebSocket v1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from ssmd_stream.replay.generator.kraken_futures import KrakenFuturesExchange
from ssmd_stream.replay.protocol import Event, Interest, Replies, Session

FEEDS = frozenset({"ticker", "ticker_lite", "trade", "book", "heartbeat"})
HEARTBEAT_S = 1.0


class KrakenFuturesSession(Session):
    """One `subscribed` per product; a bad feed gets an alert, a bad product an error."""

    def __init__(
        self, exchange: KrakenFuturesExchange | None, now_ns: Callable[[], int], refuses: Callable[[str], bool]
    ) -> None:
        super().__init__(now_ns, refuses)
        self._exchange = exchange
        self._products: dict[str, set[str]] = {}

    @property
    def interest(self) -> Interest:
        return Interest(frozenset(self._products), frozenset[str]().union(*self._products.values()))

    def opening(self) -> list[bytes]:
        return [b'{"event":"info","version":1}']

    def idle(self, silent_s: float) -> list[bytes]:
        if "heartbeat" not in self._products or silent_s < HEARTBEAT_S:
            return []
        return [orjson.dumps({"feed": "heartbeat", "time": self._now_ns() // 1_000_000})]

    def receive(self, text: bytes) -> Replies:
        try:
            command = orjson.loads(text)
        except orjson.JSONDecodeError:
            command = None
        if not isinstance(command, dict):
            return Replies([_event("error", message="Json Error")], [])
        event, feed = command.get("event"), command.get("feed")
        if event == "challenge":
            return Replies([_event("challenge", message="226aee50-88fc-4618-a42a-34f7709570b2")], [])
        if event not in ("subscribe", "unsubscribe"):
            return Replies([_event("error", message="Invalid event")], [])
        if feed not in FEEDS or (event == "subscribe" and self._refuses("")):
            return Replies([_event("alert", message="Couldn't subscribe to invalid feed")], [])
        self.version += 1
        products = command.get("product_ids")
        ids = products if isinstance(products, list) else []
        return self._subscribe(feed, ids) if event == "subscribe" else self._unsubscribe(feed, ids)

    def _subscribe(self, feed: str, products: list[Any]) -> Replies:
        if feed == "heartbeat":
            self._products.setdefault(feed, set())
            return Replies([_event("subscribed", feed=feed)], [])
        if not products:
            return Replies([_event("error", message="Invalid product id")], [])
        control: list[bytes] = []
        data: list[bytes] = []
        for product in products:
            if self._unknown(product):
                control.append(_event("error", message="Invalid product id"))
                continue
            self._products.setdefault(feed, set()).add(product)
            control.append(_event("subscribed", feed=feed, product_ids=[product]))
            data += self._snapshots(feed, product)
        return Replies(control, data)

    def render(self, event: Event) -> bytes | None:
        return event.body.encode() if event.instrument in self._products.get(event.channel, ()) else None

    def _unsubscribe(self, feed: str, products: list[Any]) -> Replies:
        held = self._products.get(feed, set())
        wanted = [str(product) for product in products]
        held.difference_update(wanted)
        if not held:
            self._products.pop(feed, None)
        if not wanted:
            return Replies([_event("unsubscribed", feed=feed)], [])
        return Replies([_event("unsubscribed", feed=feed, product_ids=[product]) for product in wanted], [])

    def _snapshots(self, feed: str, product: str) -> list[bytes]:
        exchange = self._exchange
        if exchange is None:
            return []
        make = {
            "book": exchange.book_snapshot,
            "trade": exchange.trade_snapshot,
            "ticker": exchange.ticker,
            "ticker_lite": exchange.ticker_lite,
        }[feed]
        return [make(product).encode()]

    def _unknown(self, product: object) -> bool:
        if not isinstance(product, str) or self._refuses(product):
            return True
        return self._exchange is not None and product not in self._exchange.products


def _event(event: str, **members: object) -> bytes:
    return orjson.dumps({"event": event, **members})
