"""Kalshi's end of a connection: handshake check, commands and replies."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ssmd_stream.replay.generator.kalshi import KalshiExchange
from ssmd_stream.replay.protocol import Event, Interest, Replies, Session

PATH = "/trade-api/ws/v2"
# How far a client's clock may be off. The venue does not publish its figure.
MAX_SKEW_MS = 30_000
CHANNELS = frozenset({"orderbook_delta", "ticker", "trade", "market_lifecycle_v2"})
_ERRORS = {
    1: "Unable to process message",
    2: "Params required",
    3: "Channels required",
    4: "Subscription IDs required",
    5: "Unknown command",
    7: "Unknown subscription ID",
    8: "Unknown channel name",
    11: "Invalid parameter",
    12: "Exactly one subscription ID is required",
    13: "Unsupported action",
    14: "Market Ticker required",
    15: "Action required",
}


@dataclass(frozen=True, slots=True)
class ClientKey:
    """An RSA key pair made on the spot, for servers and clients of tests and rehearsals.

    Attributes:
        access_key: the key id that the client sends.
        private_pem: PKCS#8 text for the client.
        public_key: for the server.
    """

    access_key: str
    private_pem: str
    public_key: rsa.RSAPublicKey


def make_test_key(access_key: str = "ssmd-replay") -> ClientKey:
    """A fresh 2048-bit key pair."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return ClientKey(access_key, pem.decode(), private.public_key())


def handshake_error(headers: Mapping[str, str], path: str, key: ClientKey, now_ms: int) -> str | None:
    """Why the handshake must be answered with HTTP 401; None if its signature is good and fresh."""
    timestamp = headers.get("KALSHI-ACCESS-TIMESTAMP", "")
    if headers.get("KALSHI-ACCESS-KEY") != key.access_key:
        return "unknown access key"
    if not timestamp.isdigit() or abs(now_ms - int(timestamp)) > MAX_SKEW_MS:
        return "timestamp missing or stale"
    try:
        signature = base64.b64decode(headers.get("KALSHI-ACCESS-SIGNATURE", ""), validate=True)
        key.public_key.verify(
            signature,
            f"{timestamp}GET{path.partition('?')[0]}".encode(),
            padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH),
            hashes.SHA256(),
        )
    except (binascii.Error, InvalidSignature):
        return "signature does not verify"
    return None


@dataclass(slots=True)
class _Subscription:
    sid: int
    channel: str
    seq: int = 0
    tickers: dict[str, None] = field(default_factory=dict)  # ordered set; empty with `everything`
    everything: bool = False
    skip_ack: bool = False


class KalshiSession(Session):
    """Sids count from 1; each sid has its own `seq`, which `ok` and `unsubscribed` consume as well."""

    ping_body = b"heartbeat"

    def __init__(
        self, exchange: KalshiExchange | None, now_ns: Callable[[], int], refuses: Callable[[str], bool]
    ) -> None:
        super().__init__(now_ns, refuses)
        self._exchange = exchange
        self._next_sid = 1
        self._by_channel: dict[str, _Subscription] = {}

    @property
    def interest(self) -> Interest:
        tickers: set[str] = set()
        for subscription in self._by_channel.values():
            if subscription.everything:
                return Interest(frozenset(self._by_channel), None)
            tickers.update(subscription.tickers)
        return Interest(frozenset(self._by_channel), frozenset(tickers))

    def receive(self, text: bytes) -> Replies:
        try:
            command = orjson.loads(text)
        except orjson.JSONDecodeError:
            command = None
        if not isinstance(command, dict):
            return Replies([_error(0, 1)], [])
        self.version += 1
        id_ = command["id"] if isinstance(command.get("id"), int) else 0
        name = command.get("cmd")
        if name == "list_subscriptions":
            live = [{"channel": each.channel, "sid": each.sid} for each in self._by_channel.values()]
            return Replies([_reply(id_, type="ok", msg=live)], [])
        handlers = {
            "subscribe": self._subscribe,
            "update_subscription": self._update,
            "unsubscribe": self._unsubscribe,
        }
        handler = handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            return Replies([_error(id_, 5)], [])
        params = command.get("params")
        return handler(id_, params) if isinstance(params, dict) else Replies([_error(id_, 2)], [])

    def render(self, event: Event) -> bytes | None:
        subscription = self._by_channel.get(event.channel)
        if subscription is None or not (
            subscription.everything or not event.instrument or event.instrument in subscription.tickers
        ):
            return None
        return self._frame(subscription, event.type, event.body)

    def _frame(self, subscription: _Subscription, type_: str, body: str, id_: int = 0) -> bytes:
        head = f'{{"id":{id_},"type":"{type_}"' if id_ else f'{{"type":"{type_}"'
        if subscription.channel == "ticker":
            return f'{head},"sid":{subscription.sid},"msg":{body}}}'.encode()
        subscription.seq += 1
        return f'{head},"sid":{subscription.sid},"seq":{subscription.seq},"msg":{body}}}'.encode()

    def _subscribe(self, id_: int, params: dict[str, Any]) -> Replies:
        channels = params.get("channels")
        if not isinstance(channels, list) or not channels:
            return Replies([_error(id_, 3)], [])
        tickers = _tickers(params)
        if self._refuses("") or any(self._refuses(ticker) for ticker in tickers):
            return Replies([_error(id_, 1)], [])
        control: list[bytes] = []
        data: list[bytes] = []
        for channel in channels:
            if channel not in CHANNELS:
                control.append(_error(id_, 8))
                continue
            if channel == "orderbook_delta" and not tickers:
                control.append(_error(id_, 14))
                continue
            subscription = self._by_channel.get(channel)
            if subscription is None:
                subscription = self._by_channel[channel] = _Subscription(self._next_sid, channel)
                self._next_sid += 1
                control.append(_reply(id_, type="subscribed", msg={"channel": channel, "sid": subscription.sid}))
                added = self._add(subscription, tickers, params)
            else:
                added = self._add(subscription, tickers, params)
                control.append(self._ok(id_, subscription))
            data += self._snapshots(subscription, added, initial=bool(params.get("send_initial_snapshot")))
        return Replies(control, data)

    def _update(self, id_: int, params: dict[str, Any]) -> Replies:
        sids = params.get("sids", [params["sid"]] if "sid" in params else [])
        if not isinstance(sids, list) or len(sids) != 1:
            return Replies([_error(id_, 12)], [])
        subscription = self._by_sid(sids[0])
        tickers = _tickers(params)
        action = params.get("action")
        code = 7 if subscription is None else 15 if not action else 14 if not tickers else 0
        if subscription is None or code:
            return Replies([_error(id_, code)], [])
        control: list[bytes] = []
        data: list[bytes] = []
        if action == "add_markets":
            added = self._add(subscription, tickers, {})
            control.append(self._ok(id_, subscription))
            data = self._snapshots(subscription, added, initial=False)
        elif action == "delete_markets":
            for ticker in tickers:
                subscription.tickers.pop(ticker, None)
            control.append(self._ok(id_, subscription))
        elif action == "get_snapshot" and self._exchange is not None and subscription.channel == "orderbook_delta":
            for ticker in tickers:
                if ticker in self._exchange.markets:
                    body = self._exchange.snapshot(ticker)
                    data.append(self._frame(subscription, "orderbook_snapshot", body, id_))
        else:
            control.append(_error(id_, 13))
        return Replies(control, data)

    def _unsubscribe(self, id_: int, params: dict[str, Any]) -> Replies:
        sids = params.get("sids")
        if not isinstance(sids, list) or not sids:
            return Replies([_error(id_, 4)], [])
        control: list[bytes] = []
        for sid in sids:
            subscription = self._by_sid(sid)
            if subscription is None:
                control.append(_error(id_, 7))
                continue
            del self._by_channel[subscription.channel]
            subscription.seq += 1
            control.append(_reply(id_, sid=subscription.sid, seq=subscription.seq, type="unsubscribed"))
        return Replies(control, [])

    def _by_sid(self, sid: object) -> _Subscription | None:
        return next((each for each in self._by_channel.values() if each.sid == sid), None)

    def _add(self, subscription: _Subscription, tickers: list[str], params: dict[str, Any]) -> list[str]:
        subscription.skip_ack |= bool(params.get("skip_ticker_ack"))
        if not tickers:
            subscription.everything = True
            return []
        added = [ticker for ticker in tickers if ticker not in subscription.tickers]
        subscription.tickers.update(dict.fromkeys(tickers))
        return added

    def _ok(self, id_: int, subscription: _Subscription) -> bytes:
        subscription.seq += 1
        msg = {} if subscription.skip_ack else {"market_tickers": list(subscription.tickers)}
        return _reply(id_, sid=subscription.sid, seq=subscription.seq, type="ok", msg=msg)

    def _snapshots(self, subscription: _Subscription, tickers: list[str], *, initial: bool) -> list[bytes]:
        exchange = self._exchange
        if exchange is None:
            return []
        known = [ticker for ticker in tickers if ticker in exchange.markets]
        if subscription.channel == "orderbook_delta":
            return [self._frame(subscription, "orderbook_snapshot", exchange.snapshot(ticker)) for ticker in known]
        if subscription.channel == "ticker" and initial:
            return [self._frame(subscription, "ticker", exchange.ticker(ticker)) for ticker in known]
        return []


def _tickers(params: dict[str, Any]) -> list[str]:
    values = params.get("market_tickers", [params["market_ticker"]] if "market_ticker" in params else [])
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _reply(id_: int, **members: Any) -> bytes:
    return orjson.dumps({"id": id_, **members} if id_ else members)


def _error(id_: int, code: int) -> bytes:
    return _reply(id_, type="error", msg={"code": code, "msg": _ERRORS[code]})
