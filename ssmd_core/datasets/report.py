"""What came of one hour: the sums that must add up, the files read and the files written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An archive file that was read.

    Attributes:
        name: in the day's folder.
        sha256: of the bytes that were read.
        records: lines.
        first_seq, last_seq: lowest and highest JetStream sequence; 0 without lines.
    """

    name: str
    sha256: str
    records: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A parquet file that was written.

    Attributes:
        path: relative to the dataset root.
        message_type: the venue's word.
        rows, bytes, sha256: of the file.
        schema_name, schema_version: of its columns.
    """

    path: str
    message_type: str
    rows: int
    bytes: int
    sha256: str
    schema_name: str
    schema_version: str


@dataclass(slots=True)
class HourReport:
    """One hour of one stream.

    Attributes:
        feed, stream: which.
        hour: partition key, `YYYY-MM-DD-HH:00`.
        sources: archive files read, by name.
        messages: archive lines, duplicates left out.
        accepted: messages that became rows (or none, if their array was empty), by type.
        rows: parquet rows by type.
        rejects: messages that break their schema, by type; `unparsed` for lines that are no message of the feed.
        no_schema: messages of types without a dataset; `control` are ssmd's own events, `unparsed` what the archive
            had wrapped because it has no type.
        duplicate_seqs: lines that repeat another line, byte for byte.
        seq_gaps: holes in the sequences as (sequence before, how many).
        null_rates: share of nulls by type and column.
        outputs: files written.
        rejects_file: path relative to the dataset root; None if nothing was rejected.
        seconds: how long it took.
    """

    feed: str
    stream: str
    hour: str
    sources: list[SourceFile] = field(default_factory=list)
    messages: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)
    no_schema: dict[str, int] = field(default_factory=dict)
    duplicate_seqs: int = 0
    seq_gaps: list[tuple[int, int]] = field(default_factory=list)
    null_rates: dict[str, dict[str, float]] = field(default_factory=dict)
    outputs: list[OutputFile] = field(default_factory=list)
    rejects_file: str | None = None
    seconds: float = 0.0

    @property
    def balanced(self) -> bool:
        """Whether every message is accounted for exactly once."""
        counted = (*self.accepted.values(), *self.rejects.values(), *self.no_schema.values())
        return self.messages == sum(counted)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"balanced": self.balanced}
