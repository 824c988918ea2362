"""What was wanted, told in the archive: with it alone a reader knows what should have been captured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ssmd_core.config import SecmasterConfig
from ssmd_core.messages.control import INSTRUMENTS_PER_EVENT
from ssmd_stream.capture.epoch import Epoch
from ssmd_stream.capture.sessions.base import chunks
from ssmd_stream.capture.universe import Filter


def note_wanted(
    own: Epoch,
    event: Literal["wanted", "unwanted"],
    cause: str,
    why: Mapping[str, str],
    config: SecmasterConfig | None,
) -> None:
    """Publish events about instruments, one per reason and 500 instruments.

    Args:
        own: the connector's own epoch.
        cause: what brought the change: `start`, `change`, `reconcile`, `hour` (a repetition) or `asked`.
        why: instrument -> reason.
        config: the filter in force, if the security master decides.
    """
    fields: dict[str, Any] = {}
    if event == "wanted" and config is not None:
        fields["filter"] = Filter(config).describe()
    by_reason: dict[str, list[str]] = {}
    for instrument, reason in why.items():
        by_reason.setdefault(reason, []).append(instrument)
    for reason, instruments in by_reason.items():
        for chunk in chunks(instruments, INSTRUMENTS_PER_EVENT):
            own.control(event, cause=cause, reason=reason, instruments=chunk, **fields)
