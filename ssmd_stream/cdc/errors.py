"""Why CDC stops."""

from __future__ import annotations

from ssmd_core.errors import SsmdError


class ResnapshotNeededError(SsmdError):
    """Changes were lost, or whether any were cannot be told: `ssmd cdc resnapshot` publishes what differs."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. Run `ssmd cdc resnapshot`: it makes a new slot and publishes what differs")


class RewoundError(ResnapshotNeededError):
    """Postgres does not hold what it once sent: an older copy of its data was restored, or a standby that lagged."""


class SlotBusyError(SsmdError):
    """Another process reads from the slot, or is making it."""


class ReplicationError(SsmdError):
    """The replication connection cannot be had or has ended; the text carries Postgres's reason.

    Attributes:
        sqlstate: Postgres's code; "" if the connection itself failed.
    """

    def __init__(self, reason: str, sqlstate: str = "") -> None:
        super().__init__(reason)
        self.sqlstate = sqlstate


class OversizedChangeError(SsmdError):
    """A change is larger than the NATS server takes. Nothing is lost: it stays in the slot, with all after it."""


class LinkLostError(SsmdError):
    """The connection to NATS cannot be used any more; the text says why."""
