"""Alerts of ticks: each tick tells what is on and what is over, and `ssmd_core.alerts` who knows it already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssmd_core.alerts import Alert
    from ssmd_core.settings import Settings


def tell(owner: str, settings: Settings, raised: Sequence[Alert], over: Sequence[str] = ()) -> None:
    """Raise and clear alerts, and send what is due of them.

    Blocks for at most 5 s, however many there are: a tick ends at 60 s. What is not sent by then is sent by the
    owner's next tick.

    Args:
        owner: whose; processes of one owner share what was told.
        over: keys.

    Raises:
        ConfigError: NTFY_URL or SMTP_* are set and cannot be used.
    """
    from ssmd_core.alerts import Alerter

    # Where nothing was ever told nothing can be over.
    if not raised and not (settings.data / "alerts" / f"{owner}.json").exists():
        return
    with Alerter.from_environment(owner, settings) as alerter:
        for alert in raised:
            alerter.raise_(alert)
        for key in over:
            alerter.clear(key)
