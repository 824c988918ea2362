"""What Kraken calls assets: REST's `wsname` and most futures say XBT and XDG, WebSocket v2 says BTC and DOGE.

Source: Kraken's API reference, 2026.
"""

from __future__ import annotations

_RENAMED = {"XBT": "BTC", "XDG": "DOGE"}


def canonical(name: str) -> str:
    """An asset's name on WebSocket v2, from a side of `wsname` or of a futures symbol."""
    return _RENAMED.get(name, name)


def symbol_of(wsname: str) -> str:
    """A pair's name on WebSocket v2, e.g. `BTC/USD` from `XBT/USD`."""
    return "/".join(map(canonical, wsname.split("/")))
