"""Kalshi: signed handshake, numbered commands, subscriptions by sid."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ssmd_core.errors import ConfigError
from ssmd_core.feeds.base import Feed
from ssmd_stream.capture.sessions.base import ALL, NOTHING, Command, Notice, Reaction, Session, chunks, compact

API_KEY = "KALSHI_API_KEY"
PRIVATE_KEY = "KALSHI_PRIVATE_KEY"

# After these the subscription is dead and must be made anew: channel error, internal error, buffer overflow.
TERMINAL_CODES = frozenset({10, 17, 25})
# Worth sending again: command timeout, too many requests.
RETRIED_CODES = frozenset({18, 27})
MAX_ATTEMPTS = 3


class KalshiSigner:
    """Signs handshakes: RSA-PSS, SHA-256, salt as long as the digest, over `<ts_ms>GET<path>`.

    Args:
        key_id: API key id.
        pem: private key, PKCS#8 or PKCS#1 PEM text, unencrypted.

    Raises:
        ConfigError: the text is no such key. The text itself is never repeated.
    """

    def __init__(self, key_id: str, pem: str) -> None:
        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{PRIVATE_KEY} is not an unencrypted PEM private key: {type(error).__name__}") from None
        if not isinstance(key, RSAPrivateKey):
            raise ConfigError(f"{PRIVATE_KEY} is a {type(key).__name__}, Kalshi needs an RSA key")
        self._key_id = key_id
        self._key = key

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> KalshiSigner:
        """Read `KALSHI_API_KEY` and `KALSHI_PRIVATE_KEY` (PEM text, or path of a PEM file).

        Raises:
            ConfigError: one is missing or cannot be used.
        """
        values = os.environ if environment is None else environment
        key_id, pem = values.get(API_KEY, "").strip(), values.get(PRIVATE_KEY, "").strip()
        if not key_id or not pem:
            missing = " and ".join(name for name, value in ((API_KEY, key_id), (PRIVATE_KEY, pem)) if not value)
            raise ConfigError(
                f"Kalshi needs {API_KEY} (the key's id) and {PRIVATE_KEY} (PEM text or the path of a PEM file); "
                f"missing: {missing}"
            )
        if "-----BEGIN" not in pem:
            try:
                pem = Path(pem).expanduser().read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"{PRIVATE_KEY} is neither PEM text nor a readable file: {type(error).__name__}"
                ) from None
        # Environment files often hold the line breaks as two characters.
        return cls(key_id, pem.replace("\\n", "\n"))

    def headers(self, path: str, now_ms: int) -> dict[str, str]:
        """The three headers of a handshake for `path` (no host, no query) at `now_ms`."""
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.DIGEST_LENGTH)
        signature = self._key.sign(f"{now_ms}GET{path}".encode(), pss, hashes.SHA256())
        return {
            "KALSHI-ACCESS-KEY": self._key_id,
            "KALSHI-ACCESS-TIMESTAMP": str(now_ms),
            "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
        }


class _Body(msgspec.Struct):
    channel: str = ""
    sid: int = 0
    code: int = 0
    msg: str = ""
    market_ticker: str = ""
    market_tickers: list[str] = []


class _Reply(msgspec.Struct):
    type: str
    id: int = 0
    sid: int = 0
    msg: msgspec.Raw = msgspec.Raw()


_REPLY = msgspec.json.Decoder(_Reply)
_BODY = msgspec.json.Decoder(_Body)


class KalshiSession(Session):
    """See module. Instruments are market tickers; none means all markets.

    Args:
        signer: signs the handshake.
        url: endpoint, whose path is signed.
    """

    groups: ClassVar = {
        "ticker": "ticker",
        "trade": "trade",
        "orderbook_snapshot": "orderbook_delta",
        "orderbook_delta": "orderbook_delta",
        "market_lifecycle_v2": "market_lifecycle_v2",
        "event_lifecycle": "market_lifecycle_v2",
        "event_fee_update": "market_lifecycle_v2",
    }
    quiet_channels: ClassVar = frozenset({"market_lifecycle_v2", "multivariate_market_lifecycle"})
    opening_kinds: ClassVar = {"orderbook_snapshot": "orderbook_delta"}
    asked_channels: ClassVar = ("orderbook_delta",)

    def __init__(
        self,
        feed: Feed,
        channels: Sequence[str],
        options: Mapping[str, Mapping[str, Any]],
        signer: KalshiSigner,
        url: str,
    ) -> None:
        super().__init__(feed, channels, options)
        self._signer = signer
        self._path = urlsplit(url).path
        self._sids: dict[str, int] = {}
        self._removals: dict[str, list[tuple[str, ...]]] = {}
        self._deleting: dict[int, Command] = {}

    def headers(self, now_ns: int) -> dict[str, str]:
        return self._signer.headers(self._path, now_ns // 1_000_000)

    def listed(self, channel: str) -> bool:
        # Lifecycle channels take no filter.
        return channel not in self.quiet_channels

    def _subscribe_text(self, id_: int, channel: str, instruments: tuple[str, ...]) -> str:
        params: dict[str, object] = {"channels": [channel]}
        if instruments:
            params["market_tickers"] = instruments
        if channel == "orderbook_delta":
            # The venue announced that the default will flip to true.
            params["use_yes_price"] = False
        params.update(self.options.get(channel, {}))
        # A repeated subscribe adds to the channel's subscription since 2025-10-01, so later chunks look like the first.
        return compact({"id": id_, "cmd": "subscribe", "params": params})

    def renew(self, channel: str, instruments: Sequence[str], times: int = 0) -> list[Command]:
        # `get_snapshot` brings a fresh book in the sid's own order and leaves the subscription alone: no deltas are
        # lost between an end and a beginning, and one command does. If it did not help, the markets are taken off the
        # sid and added again.
        sid = self._sids.get(channel)
        if channel != "orderbook_delta" or sid is None or times:
            return super().renew(channel, instruments, times)
        asked = self.subscriptions[channel].asked
        named = tuple(name for name in instruments or asked if name in asked and name != ALL)
        commands = []
        for chunk in chunks(named, self.feed.limits.instruments_per_command):
            id_ = self._next_id()
            params = {"sids": [sid], "market_tickers": chunk, "action": "get_snapshot"}
            text = compact({"id": id_, "cmd": "update_subscription", "params": params})
            commands.append(Command(id_, text, "resubscribe", channel, chunk))
        return commands

    def _unsubscribe(self, channel: str, instruments: tuple[str, ...]) -> list[Command]:
        if channel not in self._sids:
            self._removals.setdefault(channel, []).append(instruments)
            return []
        return [self._delete(channel, instruments)]

    def _delete(self, channel: str, instruments: tuple[str, ...], attempt: int = 1) -> Command:
        # Unsubscribing the sid would end all markets of the channel.
        id_ = self._next_id()
        params = {"sids": [self._sids[channel]], "market_tickers": instruments, "action": "delete_markets"}
        text = compact({"id": id_, "cmd": "update_subscription", "params": params})
        command = self._deleting[id_] = Command(id_, text, "unsubscribe", channel, instruments, attempt)
        return command

    def _end(self, channel: str, instruments: Sequence[str]) -> list[Command]:
        del instruments
        # Whatever was to be removed goes with the sid.
        self._removals.pop(channel, None)
        self._deleting = {id_: command for id_, command in self._deleting.items() if command.channel != channel}
        sid = self._sids.pop(channel, None)
        if sid is None:
            return []
        id_ = self._next_id()
        text = compact({"id": id_, "cmd": "unsubscribe", "params": {"sids": [sid]}})
        return [Command(id_, text, "unsubscribe", channel, ())]

    def _read(self, kind: str, payload: bytes) -> Reaction:
        if kind not in ("subscribed", "ok", "error"):
            return NOTHING
        reply = _REPLY.decode(payload)
        # The reply to list_subscriptions carries an array, old replies nothing.
        body = _BODY.decode(reply.msg) if bytes(reply.msg).startswith(b"{") else _Body()
        if kind == "error":
            return self._on_error(reply, body)
        self._deleting.pop(reply.id, None)
        pending = self._pending.get(reply.id)
        settled = self._settle(reply.id)
        if pending is None or settled is None:
            return NOTHING
        channel = pending.command.channel
        sid = body.sid or reply.sid
        if sid:
            self._sids[channel] = sid
        commands = [
            self._delete(channel, gone)
            for instruments in (self._removals.pop(channel, []) if sid else [])
            if (gone := self._unasked(channel, instruments))
        ]
        notices = (self._accept(channel, _names(settled)),) if settled else ()
        return Reaction(notices, tuple(commands))

    def _unasked(self, channel: str, instruments: tuple[str, ...]) -> tuple[str, ...]:
        """Those that have not been asked for again since they were to be removed."""
        asked = self.subscriptions[channel].asked
        return tuple(name for name in instruments if name not in asked)

    def _on_error(self, reply: _Reply, body: _Body) -> Reaction:
        reason = f"{body.code} {body.msg}".strip()
        pending = self._pending.get(reply.id)
        channel = next((name for name, sid in self._sids.items() if sid == reply.sid), "") if reply.sid else ""
        if not channel and pending is not None:
            channel = pending.command.channel
        if body.code in TERMINAL_CODES and channel:
            # The sid is gone already: nothing to unsubscribe.
            self._sids.pop(channel, None)
            return Reaction((Notice("resubscribe", channel, (), reason),))
        if deleting := self._deleting.pop(reply.id, None):
            return self._on_delete_error(deleting, body.code, reason)
        settled = self._settle(reply.id)
        if pending is None or settled is None:
            return self._error(reason)
        if not settled:
            return NOTHING
        command = pending.command
        if body.code in RETRIED_CODES and command.attempt < MAX_ATTEMPTS:
            again = self._command(command.channel, _names(settled), command.action, command.attempt + 1)
            return Reaction((Notice("error", command.channel, _names(settled), reason),), (again,))
        return Reaction((self._refuse(command.channel, _names(settled), reason),))

    def _on_delete_error(self, command: Command, code: int, reason: str) -> Reaction:
        notice = Notice("error", command.channel, command.instruments, f"not unsubscribed: {reason}")
        gone = self._unasked(command.channel, command.instruments)
        if code in RETRIED_CODES and command.attempt < MAX_ATTEMPTS and gone and command.channel in self._sids:
            return Reaction((notice,), (self._delete(command.channel, gone, command.attempt + 1),))
        return Reaction((notice,))


def _names(settled: tuple[str, ...]) -> tuple[str, ...]:
    """Instruments as commands and notices name them: all is none."""
    return () if settled == (ALL,) else settled
