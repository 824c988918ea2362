"""Feed and product of a Kraken Futures message."""

from __future__ import annotations

import msgspec

from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Route


class _Envelope(msgspec.Struct, gc=False):
    event: str = ""
    feed: str = ""
    product_id: str = ""


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def route(payload: bytes) -> Route:
    """Read `event` (replies, which may name a feed too) or `feed` (data), and `product_id`.

    Raises:
        FrameError: not a JSON object with one of them.
    """
    try:
        envelope = _ENVELOPE.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"not a Kraken Futures message: {error}: {payload[:120]!r}") from error
    kind = envelope.event or envelope.feed
    if not kind:
        raise FrameError(f"Kraken Futures message with neither event nor feed: {payload[:120]!r}")
    return Route(kind, envelope.product_id)
