"""Event type and condition id of a Polymarket message."""

from __future__ import annotations

import msgspec

from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Route

# msgspec refuses every value of a `Raw | None` member, so absence is this object.
_ABSENT = msgspec.Raw()


class _Envelope(msgspec.Struct, gc=False):
    event_type: str = ""
    market: str = ""
    bids: msgspec.Raw = _ABSENT
    asks: msgspec.Raw = _ABSENT
    buys: msgspec.Raw = _ABSENT
    sells: msgspec.Raw = _ABSENT
    price_changes: msgspec.Raw = _ABSENT


_ENVELOPE = msgspec.json.Decoder(_Envelope)


def route(payload: bytes) -> Route:
    """Read `event_type` and `market`.

    Some frames of every generation carry no `event_type`: with `bids`, `asks`, `buys` or `sells` they are books,
    with `price_changes` price changes (`Schema.sources` of those types do not need the member either).

    Raises:
        FrameError: not a JSON object of one of these kinds.
    """
    try:
        envelope = _ENVELOPE.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"not a Polymarket message: {error}: {payload[:120]!r}") from error
    kind = envelope.event_type
    if not kind:
        if envelope.price_changes is not _ABSENT:
            kind = "price_change"
        elif any(side is not _ABSENT for side in (envelope.bids, envelope.asks, envelope.buys, envelope.sells)):
            kind = "book"
        else:
            raise FrameError(f"Polymarket message without event_type: {payload[:120]!r}")
    return Route(kind, envelope.market)
