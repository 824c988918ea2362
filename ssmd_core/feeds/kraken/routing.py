"""Channel and symbol of a Kraken v2 message."""

from __future__ import annotations

import msgspec

from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Route


class _Item(msgspec.Struct, gc=False):
    symbol: str = ""


class _Envelope(msgspec.Struct, gc=False):
    channel: str = ""
    method: str = ""
    data: list[_Item] = []


class _TypeOnly(msgspec.Struct, gc=False):
    channel: str = ""
    method: str = ""


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_TYPE_ONLY = msgspec.json.Decoder(_TypeOnly)


def route(payload: bytes) -> Route:
    """Read `channel` (data) or `method` (replies), and the symbol of the first element of `data`.

    Raises:
        FrameError: not a JSON object with one of them.
    """
    try:
        envelope: _Envelope | _TypeOnly = _ENVELOPE.decode(payload)
    except msgspec.ValidationError:
        # `data` of the instrument channel is an object.
        try:
            envelope = _TYPE_ONLY.decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise FrameError(f"Kraken message without channel: {error}: {payload[:120]!r}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"not a Kraken message: {error}: {payload[:120]!r}") from error
    kind = envelope.channel or envelope.method
    if not kind:
        raise FrameError(f"Kraken message with neither channel nor method: {payload[:120]!r}")
    data = envelope.data if isinstance(envelope, _Envelope) else []
    return Route(kind, data[0].symbol if data else "")
