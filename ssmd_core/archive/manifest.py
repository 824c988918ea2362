"""`manifest.json`: what a day's folder of the archive holds and what is known to be missing from it.

Written whole, fsynced and renamed, after each sealed file and with each gap. It can be rebuilt from the files; a start
of the archiver does so for files that the manifest does not name.

Not everything in it can be derived again (`sealed_at`, the gaps), so its last member is the SHA-256 of its own bytes
with that member empty: a changed byte anywhere is noticed whenever it is loaded.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ssmd_core.archive.paths import MANIFEST
from ssmd_core.sealed_json import load_sealed, save_sealed

VERSION = "1.1.0"


class FileEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One sealed file.

    Attributes:
        name: file name.
        start, end: slot bounds, RFC 3339 UTC.
        records: lines.
        raw_bytes: decompressed bytes.
        bytes: file size.
        first_seq, last_seq: JetStream stream sequences of its first and last line.
        records_by_type: lines by the venue's message type; `control` for ssmd's own events, `unparsed` for what has
            no type.
        sha256: of the file.
        sealed_at: RFC 3339 UTC.
    """

    name: str
    start: str
    end: str
    records: int
    raw_bytes: int
    bytes: int
    first_seq: int
    last_seq: int
    records_by_type: dict[str, int]
    sha256: str
    sealed_at: str


class Gap(msgspec.Struct, forbid_unknown_fields=True):
    """Stream sequences that the archive does not hold.

    Attributes:
        after_seq: last sequence before the hole.
        missing: how many.
        reason: `expired` (gone from the stream before they were archived), `duplicate` (the same epoch and ordinal
            was archived before; nothing is lost), `deleted` (removed from the stream by somebody).
        detected_at: RFC 3339 UTC.
    """

    after_seq: int
    missing: int
    reason: str
    detected_at: str


class Epoch(msgspec.Struct, forbid_unknown_fields=True):
    """What the archive holds of one connection, on this day.

    Attributes:
        ranges: ordinals held, as [first, last] pairs in ascending order; one pair if nothing is missing.
        closed: whether its closing event is archived. An epoch without one ended with its process: what was on the
            socket then is lost and unknown.
    """

    ranges: list[tuple[int, int]]
    closed: bool = False

    @property
    def count(self) -> int:
        """How many messages of the epoch are held."""
        return sum(last - first + 1 for first, last in self.ranges)


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """A day's folder.

    Attributes:
        feed, stream, date: which.
        files: by name, sorted.
        gaps: in order of sequence.
        epochs: by name.
        tickers: venue ids seen, sorted; at most 20,000, then `tickers_truncated`.
        message_types: sorted.
        sha256: of the file with this member empty; set by `save_manifest`, checked by `load_manifest`.
    """

    feed: str
    stream: str
    date: str
    version: str = VERSION
    format: str = "jsonl"
    files: list[FileEntry] = []
    gaps: list[Gap] = []
    epochs: dict[str, Epoch] = {}
    tickers: list[str] = []
    tickers_truncated: bool = False
    message_types: list[str] = []
    sha256: str = ""

    @property
    def has_gaps(self) -> bool:
        """Whether anything was lost (a dropped duplicate is not a loss)."""
        return any(gap.reason != "duplicate" for gap in self.gaps)

    def file(self, name: str) -> FileEntry | None:
        return next((entry for entry in self.files if entry.name == name), None)


def load_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, None if there is none.

    Raises:
        ArchiveError: it cannot be read as one, or its content is not what was written.
    """
    return load_sealed(folder / MANIFEST, Manifest)


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the folder's manifest durably."""
    save_sealed(folder / MANIFEST, manifest)
