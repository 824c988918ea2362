"""Kraken spot's end of a connection, WebSocket v2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import orjson

from ssmd_stream.replay.generator.kraken import KrakenExchange, KrakenPair, qty
from ssmd_stream.replay.protocol import Event, Interest, Replies, Session, iso

CHANNELS = frozenset({"ticker", "trade", "book", "instrument", "heartbeat"})
DEPTHS = frozenset({10, 25, 100, 500, 1000})
# Names that v2 does not know: the old ones of the v1 protocol, and one that nobody lists.
_OLD_BASES = ("XBT/", "XDG/", "NOPE/")
HEARTBEAT_S = 1.0


class _BookView:
    """What a client that obeys the rules holds of one book: the best `depth` levels of each side."""

    def __init__(self, pair: KrakenPair, depth: int) -> None:
        self._pair = pair
        self._depth = depth
        self._bids, self._asks = self._top()

    def frame(self, type_: str, bids: dict[int, int], asks: dict[int, int], timestamp: str) -> bytes:
        return (
            f'{{"channel":"book","type":"{type_}","data":[{{"symbol":"{self._pair.spec.symbol}",'
            f'"bids":[{self._levels(bids)}],"asks":[{self._levels(asks)}],"checksum":{self._checksum()},'
            f'"timestamp":"{timestamp}"}}]}}'
        ).encode()

    def snapshot(self, timestamp: str) -> bytes:
        """The whole view, best levels first."""
        return self.frame("snapshot", self._bids, self._asks, timestamp)

    def update(self, timestamp: str) -> bytes | None:
        """What changed since the last frame; None if the view did not. Levels pushed out of it are not named: the
        client truncates."""
        bids, asks = self._top()
        bid_changes = _changes(self._bids, bids, self._pair.ladder.bid_sizes)
        ask_changes = _changes(self._asks, asks, self._pair.ladder.ask_sizes)
        if not bid_changes and not ask_changes:
            return None
        self._bids, self._asks = bids, asks
        return self.frame("update", bid_changes, ask_changes, timestamp)

    def _top(self) -> tuple[dict[int, int], dict[int, int]]:
        ladder = self._pair.ladder
        bids = {price: ladder.bid_sizes[price] for price in reversed(ladder.bids[-self._depth :])}
        asks = {price: ladder.ask_sizes[price] for price in ladder.asks[: self._depth]}
        return bids, asks

    def _levels(self, levels: dict[int, int]) -> str:
        price = self._pair.price
        return ",".join(f'{{"price":{price(level)},"qty":{qty(size)}}}' for level, size in levels.items())

    def _checksum(self) -> int:
        # The wire text without "." and leading zeros is the number of units. Asks first, ten of each side.
        parts = [f"{price}{size}" for side in (self._asks, self._bids) for price, size in list(side.items())[:10]]
        return crc32("".join(parts).encode())


def _changes(before: dict[int, int], after: dict[int, int], book: dict[int, int]) -> dict[int, int]:
    changes = {price: size for price, size in after.items() if before.get(price) != size}
    changes.update((price, 0) for price in before if price not in after and price not in book)
    return changes


class KrakenSession(Session):
    """One acknowledgement per symbol; a refused symbol leaves the connection and its heartbeats alive."""

    def __init__(
        self, exchange: KrakenExchange | None, now_ns: Callable[[], int], refuses: Callable[[str], bool]
    ) -> None:
        super().__init__(now_ns, refuses)
        self._exchange = exchange
        self._symbols: dict[str, set[str]] = {}  # by channel; instrument and heartbeat have none
        self._views: dict[str, _BookView] = {}

    @property
    def interest(self) -> Interest:
        return Interest(frozenset(self._symbols), frozenset[str]().union(*self._symbols.values()))

    def opening(self) -> list[bytes]:
        # A connection id beyond 2^63 is what the venue really sends.
        status = {
            "version": "2.0.10", "system": "online", "api_version": "v2",
            "connection_id": 15_113_583_034_416_118_705, "upcoming_maintenance": [], "emergency": [],
        }  # fmt: skip
        return [orjson.dumps({"channel": "status", "type": "update", "data": [status]})]

    def idle(self, silent_s: float) -> list[bytes]:
        return [b'{"channel":"heartbeat"}'] if self._symbols and silent_s >= HEARTBEAT_S else []

    def receive(self, text: bytes) -> Replies:
        received = iso(self._now_ns())
        try:
            command = orjson.loads(text)
        except orjson.JSONDecodeError:
            command = None
        if not isinstance(command, dict):
            return Replies([orjson.dumps({"error": "Malformed request", "success": False, "time_in": received})], [])
        method = command.get("method")
        common: dict[str, Any] = {"method": method}
        if isinstance(command.get("req_id"), int):
            common["req_id"] = command["req_id"]
        if method == "ping":
            return Replies(
                [
                    orjson.dumps({**common, "time_in": received, "time_out": iso(self._now_ns())}).replace(
                        b'"method":"ping"', b'"method":"pong"'
                    )
                ],
                [],
            )
        params = command.get("params")
        if method not in ("subscribe", "unsubscribe") or not isinstance(params, dict):
            return Replies([self._refusal(common, "Unsupported request", received)], [])
        self.version += 1
        if method == "unsubscribe":
            return self._unsubscribe(common, params, received)
        return self._subscribe(common, params, received)

    def render(self, event: Event) -> bytes | None:
        symbols = self._symbols.get(event.channel)
        if symbols is None or (event.instrument and event.instrument not in symbols):
            return None
        if event.channel == "book":
            return self._views[event.instrument].update(event.body)
        return event.body.encode()

    def _subscribe(self, common: dict[str, Any], params: dict[str, Any], received: str) -> Replies:
        channel = params.get("channel")
        if channel not in CHANNELS:
            return Replies([self._refusal(common, f"Channel {channel} is not supported", received)], [])
        result: dict[str, Any] = {"channel": channel}
        depth = params.get("depth", 10)
        if channel == "book":
            if depth not in DEPTHS:
                return Replies([self._refusal(common, "Subscription depth not supported", received)], [])
            result["depth"] = depth
        elif channel == "ticker":
            result["event_trigger"] = params.get("event_trigger", "trades")
        snapshot = params.get("snapshot", channel != "trade")
        if channel in ("instrument", "heartbeat"):
            if self._refuses(""):
                return Replies([self._refusal(common, "Internal error", received)], [])
            self._symbols.setdefault(channel, set())
            if channel == "instrument":
                result["snapshot"] = snapshot
            data: list[bytes] = []
            if channel == "instrument" and snapshot and self._exchange is not None:
                data.append(self._exchange.instrument_snapshot().encode())
            return Replies([self._ack(common, result, received)], data)
        symbols = params.get("symbol")
        if not isinstance(symbols, list) or not symbols:
            return Replies([self._refusal(common, "Symbol(s) missing", received)], [])
        control: list[bytes] = []
        accepted: list[str] = []
        for symbol in symbols:
            if self._unknown(symbol):
                error = f"Currency pair not supported {symbol}"
                control.append(self._refusal(common, error, received, symbol=symbol))
                continue
            self._symbols.setdefault(channel, set()).add(symbol)
            accepted.append(symbol)
            control.append(self._ack(common, {**result, "snapshot": snapshot, "symbol": symbol}, received))
        return Replies(control, self._snapshots(channel, accepted, depth, snapshot=snapshot))

    def _snapshots(self, channel: str, symbols: list[str], depth: int, *, snapshot: bool) -> list[bytes]:
        exchange = self._exchange
        if exchange is None or not symbols:
            return []
        if channel == "book":
            for symbol in symbols:
                self._views[symbol] = _BookView(exchange.pairs[symbol], depth)
            now = iso(self._now_ns())
            return [self._views[symbol].snapshot(now) for symbol in symbols] if snapshot else []
        if not snapshot:
            return []
        if channel == "trade":
            return [exchange.trade_snapshot(symbols).encode()]
        return [exchange.ticker(symbol, "snapshot").encode() for symbol in symbols]

    def _unsubscribe(self, common: dict[str, Any], params: dict[str, Any], received: str) -> Replies:
        channel = params.get("channel")
        held = self._symbols.get(channel, set()) if isinstance(channel, str) else set()
        symbols = params.get("symbol")
        control: list[bytes] = []
        for symbol in symbols if isinstance(symbols, list) else []:
            if symbol in held:
                held.discard(symbol)
                control.append(self._ack(common, {"channel": channel, "symbol": symbol}, received))
            else:
                control.append(self._refusal(common, "Subscription Not Found", received, symbol=symbol))
        if isinstance(channel, str) and not held and channel in self._symbols:
            del self._symbols[channel]
            if not symbols:
                control.append(self._ack(common, {"channel": channel}, received))
        return Replies(control, [])

    def _unknown(self, symbol: object) -> bool:
        if not isinstance(symbol, str) or symbol.startswith(_OLD_BASES) or self._refuses(symbol):
            return True
        return self._exchange is not None and symbol not in self._exchange.pairs

    def _ack(self, common: dict[str, Any], result: dict[str, Any], received: str) -> bytes:
        times = {"time_in": received, "time_out": iso(self._now_ns())}
        return orjson.dumps({"method": common["method"], "result": result, "success": True, **times, **common})

    def _refusal(self, common: dict[str, Any], error: str, received: str, **members: Any) -> bytes:
        times = {"time_in": received, "time_out": iso(self._now_ns())}
        return orjson.dumps({"error": error, **common, "success": False, **members, **times})
