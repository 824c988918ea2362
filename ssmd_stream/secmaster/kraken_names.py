"""What Kraken calls assets: the same ones bear up to three names.

WebSocket v2 says BTC and DOGE; REST's `wsname` and most futures say XBT and XDG; REST's `base` and `quote` say XXBT,
XXDG and ZUSD. ssmd stores what the venue wrote and, beside it, the name of WebSocket v2.
Source: Kraken's API reference, 2026; that both ways of REST lead to the same name is measured on AssetPairs of April
2021.
"""

from __future__ import annotations

from typing import Any

from ssmd_core.db.merge import Reject, SyncRun
from ssmd_core.feeds.kraken.names import canonical
from ssmd_stream.secmaster.fields import reject_key

# Assets of Kraken's first years carry X (crypto) or Z (money) in front. No newer one does, though XAUT, XTZ or ZRX
# look as if they did: a list, because a rule about the first letter would turn XAUT into AUT.
_PREFIXED = frozenset(
    {
        *("XETC", "XETH", "XICN", "XLTC", "XMLN", "XNMC", "XREP", "XXBT", "XXDG", "XXLM", "XXMR", "XXRP", "XXVN"),
        *("XZEC", "ZAUD", "ZCAD", "ZEUR", "ZGBP", "ZJPY", "ZKRW", "ZUSD"),
    }
)


def canonical_of_raw(name: str) -> str:
    """The same from `base` or `quote` of AssetPairs."""
    return canonical(name[1:] if name in _PREFIXED else name)


def reject_pair(run: SyncRun, key: Any, reason: object) -> None:
    """Note a pair that cannot be taken; `key` is its native id, as far as it has one."""
    native_id = reject_key(key)
    run.reject(Reject("pairs", native_id and f"kraken:{native_id}", str(reason)))
