"""An hour that has been made: the builder's report beside what the archive's manifest knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ssmd_assets.lib.sealed import SLOTS_PER_HOUR
from ssmd_core.archive.manifest import FileEntry, Gap, load_manifest
from ssmd_core.archive.paths import day_folder
from ssmd_core.datasets.report import HourReport, OutputFile
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    from ssmd_core.drift.findings import Finding as Drift
    from ssmd_core.proof.ledger import Ledger

# Proved hours further back do not say what is usual today.
_USUAL_SINCE = timedelta(days=3)


class Hole(NamedTuple):
    """Sequences that the hour's files do not hold.

    Attributes:
        after_seq: last sequence before the hole.
        missing: how many.
        reason: `duplicate` (dropped by the archiver), `neighbouring hour` (in a file of it), `expired` or `deleted`
            (as the manifest has it), else `unknown`.
        lost: how many of them are lost.
    """

    after_seq: int
    missing: int
    reason: str
    lost: int


@dataclass(frozen=True)
class Hour:
    """One hour of one stream.

    Attributes:
        feed, stream: which stream.
        report: what the builder did.
        ledger: what the hour proves about itself; None without a sealed file.
        turned_null: columns that are empty, and were not in the newest hour before that is proved.
        gaps: what the manifests of the day and of the days beside it know of missing sequences.
        earlier, later: files of the hours before and after, of the same days.
    """

    feed: Feed
    stream: str
    report: HourReport
    ledger: Ledger | None = None
    turned_null: tuple[Drift, ...] = ()
    gaps: tuple[Gap, ...] = ()
    earlier: tuple[FileEntry, ...] = ()
    later: tuple[FileEntry, ...] = ()

    @classmethod
    def make(cls, settings: Settings, feed: Feed, stream: str, hour: datetime) -> Hour:
        """Build the hour's files and prove it.

        Raises:
            ArchiveError: a file of the archive, or its manifest, is not what it must be.
            DatasetError: the hour cannot be turned into parquet.
        """
        from ssmd_core.proof.hour import prove_hour  # duckdb and pyarrow, which the definitions need not load

        report, ledger = prove_hour(settings, feed, stream, hour)
        days = (hour + timedelta(days=offset) for offset in (-1, 0, 1))
        folders = (day_folder(settings.archive_root, feed.name, stream, f"{day:%Y-%m-%d}") for day in days)
        manifests = [manifest for folder in folders if (manifest := load_manifest(folder))]
        files = [(datetime.fromisoformat(file.start), file) for manifest in manifests for file in manifest.files]
        return cls(
            feed,
            stream,
            report,
            ledger,
            turned_null=turned_null(settings, feed, stream, hour, report),
            gaps=tuple(gap for manifest in manifests for gap in manifest.gaps),
            earlier=tuple(file for start, file in files if start < hour),
            later=tuple(file for start, file in files if start >= hour + timedelta(hours=1)),
        )

    @property
    def slots(self) -> int:
        """How many of the four slots are sealed."""
        return len({source.name[:4] for source in self.report.sources})

    @cached_property
    def holes(self) -> list[Hole]:
        """Missing sequences, from the end of the hour before to the end of this one."""
        holes = [self._explain(after_seq, missing) for after_seq, missing in self.report.seq_gaps]
        first_seq = min((source.first_seq for source in self.report.sources if source.records), default=0)
        before = max((file.last_seq for file in self.earlier if file.first_seq < first_seq), default=first_seq)
        if before < first_seq - 1:
            holes.insert(0, self._explain(before, first_seq - 1 - before))
        return holes

    def _explain(self, after_seq: int, missing: int) -> Hole:
        last_seq = after_seq + missing
        dropped = 0
        reason = "unknown"
        for gap in self.gaps:
            overlap = min(last_seq, gap.after_seq + gap.missing) - max(after_seq, gap.after_seq)
            if overlap > 0 and gap.reason == "duplicate":
                dropped += overlap
            elif overlap > 0:
                reason = gap.reason
        if dropped >= missing:
            return Hole(after_seq, missing, "duplicate", 0)
        # Receive times of several connections interleave: around the full hour a sequence may lie in a neighbour.
        if reason == "unknown" and any(
            file.first_seq <= after_seq + 1 and file.last_seq >= last_seq for file in (*self.earlier, *self.later)
        ):
            return Hole(after_seq, missing, "neighbouring hour", 0)
        return Hole(after_seq, missing, reason, missing - dropped)

    @property
    def lost(self) -> int:
        """Messages missing."""
        return sum(hole.lost for hole in self.holes)

    @property
    def whole(self) -> bool:
        """Whether the archive proves that a type without a message had none."""
        return self.slots == SLOTS_PER_HOUR and not self.lost

    @property
    def source_files(self) -> dict[str, str]:
        """Hash of each file that the hour was made of."""
        return {source.name: source.sha256 for source in self.report.sources}

    def output(self, message_type: str) -> OutputFile | None:
        """The type's file, None if it has no rows."""
        return next((output for output in self.report.outputs if output.message_type == message_type), None)

    def nulls(self, message_type: str) -> Mapping[str, float]:
        """Null shares above 0, to four digits: events are kept for years, so they stay small."""
        rates = self.report.null_rates.get(message_type, {})
        return {name: round(share, 4) for name, share in rates.items() if share}


def turned_null(settings: Settings, feed: Feed, stream: str, hour: datetime, report: HourReport) -> tuple[Drift, ...]:
    """Columns of the hour that are empty and used to be filled, by the sentinel's rule.

    The ledger compares with the hour just before. Here it is the newest one that is proved, so that a change during a
    pause of the capture is seen too. It depends on what is proved on disk, not on the order of materialisations.

    Raises:
        ArchiveError: the ledger of that hour is damaged.
    """
    from ssmd_core.drift.nulls import HourNulls, null_columns
    from ssmd_core.proof.chain import newest
    from ssmd_core.proof.ledger import hour_id, parse_hour_id, read_ledger

    first, last = hour_id(hour - _USUAL_SINCE), hour_id(hour)
    proved = newest(settings.proof_root, feed.name, stream)
    before = max((name for name in proved if first <= name < last), default=None)
    ledger = read_ledger(settings.proof_root, feed.name, stream, parse_hour_id(before)) if before else None
    if ledger is None:
        return ()
    found = null_columns(feed, HourNulls(report.rows, report.null_rates), [HourNulls(ledger.rows, ledger.null_rates)])
    return tuple(found)
