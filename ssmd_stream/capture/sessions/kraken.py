"""Kraken spot, WebSocket v2: one acknowledgement per symbol, paired by `req_id`."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ssmd_stream.capture.sessions.base import ALL, NOTHING, PONG, Command, Notice, Reaction, Session, compact

# The checksum covers ten levels whatever the depth; 25 gives readers a usable book for half as many bytes again.
DEFAULT_BOOK_DEPTH = 25


class _Result(msgspec.Struct):
    channel: str = ""
    symbol: str = ""
    warnings: list[str] | None = None


class _Reply(msgspec.Struct):
    method: str = ""
    success: bool | None = None
    error: str = ""
    symbol: str = ""
    req_id: int = 0
    result: _Result | None = None


_REPLY = msgspec.json.Decoder(_Reply)


class KrakenSession(Session):
    """See module."""

    groups: ClassVar = {name: name for name in ("ticker", "trade", "book", "instrument", "ohlc")}
    quiet_channels: ClassVar = frozenset({"instrument"})
    opening_kinds: ClassVar = {"book": "book", "ticker": "ticker"}
    asked_channels: ClassVar = ("ticker", "book")

    def listed(self, channel: str) -> bool:
        return channel != "instrument"

    def _subscribe_text(self, id_: int, channel: str, instruments: tuple[str, ...]) -> str:
        params: dict[str, object] = {"channel": channel}
        if instruments:
            params["symbol"] = instruments
        if channel == "book":
            params["depth"] = DEFAULT_BOOK_DEPTH
        # Trades are not repeated unless asked for; the last 50 close the hole that a reconnect leaves.
        params["snapshot"] = True
        params.update(self.options.get(channel, {}))
        return compact({"method": "subscribe", "params": params, "req_id": id_})

    def _unsubscribe(self, channel: str, instruments: tuple[str, ...]) -> list[Command]:
        params: dict[str, object] = {"channel": channel, "symbol": instruments}
        if channel == "book":
            params["depth"] = self.options.get(channel, {}).get("depth", DEFAULT_BOOK_DEPTH)
        id_ = self._next_id()
        text = compact({"method": "unsubscribe", "params": params, "req_id": id_})
        return [Command(id_, text, "unsubscribe", channel, instruments)]

    def _read(self, kind: str, payload: bytes) -> Reaction:
        if kind == "pong":
            return PONG
        if kind != "subscribe":
            return NOTHING
        reply = _REPLY.decode(payload)
        if reply.success:
            result = reply.result or _Result()
            instruments = (result.symbol,) if result.symbol else ()
            self._settle_symbol(reply.req_id, result.channel, result.symbol or ALL)
            notices = [self._accept(result.channel, instruments)]
            notices += [Notice("error", result.channel, instruments, warning) for warning in result.warnings or ()]
            return Reaction(tuple(notices))
        return self._refusal(reply)

    def _settle_symbol(self, id_: int, channel: str, symbol: str) -> None:
        for pending_id in [id_] if id_ else list(self._pending_for(channel, symbol)):
            self._settle(pending_id, (symbol,))

    def _refusal(self, reply: _Reply) -> Reaction:
        pending = self._pending.get(reply.req_id)
        if pending is None:
            # Without a req_id only the symbol tells, and it may be pending on several channels.
            channels = [channel for channel in self.channels if any(self._pending_for(channel, reply.symbol))]
            if len(channels) != 1:
                return self._error(f"{reply.error} {reply.symbol}".strip())
            self._settle_symbol(0, channels[0], reply.symbol)
            return Reaction((self._refuse(channels[0], (reply.symbol,), reply.error),))
        channel = pending.command.channel
        # Some refusals name no symbol ("Subscription depth not supported"): they end the whole command.
        symbols = (reply.symbol,) if reply.symbol else tuple(sorted(pending.waiting))
        self._settle(reply.req_id, symbols)
        return Reaction((self._refuse(channel, tuple(s for s in symbols if s != ALL), reply.error),))
