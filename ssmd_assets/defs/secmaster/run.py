"""One sync and what it left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg

from ssmd_assets.defs.secmaster.state import TableState, look
from ssmd_assets.defs.secmaster.syncs import Mode, Sync
from ssmd_assets.lib.text import visible
from ssmd_core.errors import SsmdError
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    from ssmd_core.db.merge import SyncReport, TableReport

_REASON_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync that has been committed.

    Attributes:
        report: what it did.
        states: of its tables, afterwards.
        watermarks: of its scope, by name.
    """

    report: SyncReport
    states: Mapping[str, TableState]
    watermarks: Mapping[str, datetime]

    @classmethod
    def make(cls, settings: Settings, sync: Sync, mode: Mode) -> Synced:
        """Run the sync, then look at its tables.

        Raises:
            dg.Failure: it failed and changed nothing. Only what time may mend may be repeated: an outage of the venue
                or of the database; not a refusal for good, a wrong setting or another run of the same sync.
        """
        from ssmd_core.db.connect import DatabaseError
        from ssmd_stream.secmaster.rest import RestError, RestFatalError
        from ssmd_stream.secmaster.sync import run_sync

        async def run() -> Synced:
            report = await run_sync(sync.scope, settings, mode=mode)
            return cls(report, *await look(settings, sync.scope, sync.tables, sync.part))

        try:
            return asyncio.run(run())
        except SsmdError as error:
            reason = visible(str(error)[:_REASON_CHARS])
            raise dg.Failure(
                f"{sync.scope}, {mode}: {reason}",
                metadata={"reason": reason, "error": type(error).__name__, "scope": sync.scope, "mode": mode},
                allow_retries=isinstance(error, RestError | DatabaseError) and not isinstance(error, RestFatalError),
            ) from error

    @property
    def full(self) -> bool:
        """Whether the venue was listed in full."""
        return self.report.mode == "full"

    def table(self, name: str) -> TableReport:
        """What was done to a table; zeros if nothing came for it."""
        from ssmd_core.db.merge import TableReport

        return self.report.tables.get(name) or TableReport()
