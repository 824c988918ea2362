"""Type and ticker of a Kalshi message; nothing else of it is read on the hot path."""

from __future__ import annotations

import msgspec

from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Route


class _Body(msgspec.Struct, gc=False):
    market_ticker: str = ""
    event_ticker: str = ""


class _Envelope(msgspec.Struct, gc=False):
    type: str
    msg: _Body | None = None


class _TypeOnly(msgspec.Struct, gc=False):
    type: str


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_TYPE_ONLY = msgspec.json.Decoder(_TypeOnly)


def route(payload: bytes) -> Route:
    """Read `type` and `msg.market_ticker` (or `msg.event_ticker`).

    Raises:
        FrameError: not a JSON object with a `type`.
    """
    try:
        envelope = _ENVELOPE.decode(payload)
    except msgspec.ValidationError:
        # `msg` of a list reply is an array; a renamed or retyped ticker must not cost the message its type.
        try:
            return Route(_TYPE_ONLY.decode(payload).type, "")
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(f"Kalshi message without type: {error}: {payload[:120]!r}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"not a Kalshi message: {error}: {payload[:120]!r}") from error
    body = envelope.msg
    return Route(envelope.type, (body.market_ticker or body.event_ticker) if body else "")
