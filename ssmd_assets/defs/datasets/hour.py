"""An hour that has been made: the builder's report beside what the archive's manifest knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from ssmd_assets.lib.sealed import SLOTS_PER_HOUR
from ssmd_core.archive.manifest import Gap, load_manifest
from ssmd_core.archive.paths import day_folder
from ssmd_core.datasets.report import HourReport, OutputFile
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings

# With fewer rows a column may be empty by chance.
MIN_ROWS_FOR_NULLS = 100
_FILLED = 0.5


@dataclass(frozen=True)
class Hour:
    """One hour of one stream.

    Attributes:
        feed, stream: which stream.
        report: what the builder did.
        gaps: what the day's manifest knows of missing sequences.
    """

    feed: Feed
    stream: str
    report: HourReport
    gaps: tuple[Gap, ...]

    @classmethod
    def make(cls, settings: Settings, feed: Feed, stream: str, hour: datetime) -> Hour:
        """Build the hour's files.

        Raises:
            ArchiveError: a file of the archive, or its manifest, is not what it must be.
            DatasetError: the hour cannot be turned into parquet.
        """
        from ssmd_core.datasets.build import build_hour  # duckdb and pyarrow, which the definitions need not load

        report = build_hour(settings.archive_root, settings.dataset_root, feed, stream, hour)
        manifest = load_manifest(day_folder(settings.archive_root, feed.name, stream, f"{hour:%Y-%m-%d}"))
        return cls(feed, stream, report, tuple(manifest.gaps) if manifest else ())

    @property
    def slots(self) -> int:
        """How many of the four slots are sealed."""
        return len({source.name[:4] for source in self.report.sources})

    @cached_property
    def holes(self) -> list[tuple[int, int, str]]:
        """Missing sequences: the one before, how many, and the manifest's reason or `unknown`."""
        reasons = {gap.after_seq: gap.reason for gap in self.gaps}
        return [(after, missing, reasons.get(after, "unknown")) for after, missing in self.report.seq_gaps]

    @property
    def lost(self) -> int:
        """Messages missing; a duplicate that the archiver dropped is not."""
        return sum(missing for _, missing, reason in self.holes if reason != "duplicate")

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

    def filled(self, message_type: str) -> list[str]:
        """Columns in which at least half of the rows hold a value; none where there are too few rows to tell."""
        if self.report.rows.get(message_type, 0) < MIN_ROWS_FOR_NULLS:
            return []
        rates = self.report.null_rates.get(message_type, {})
        return sorted(name for name, share in rates.items() if share <= _FILLED)
