"""A small archive for tests of what reads one: sealed slots with lines, gzip members and manifests as archived."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ssmd_core.archive.manifest import FileEntry, Manifest, load_manifest, save_manifest
from ssmd_core.archive.members import member
from ssmd_core.archive.paths import Slot, day_folder
from ssmd_core.archive.tally import classify
from ssmd_core.clock import rfc3339_us
from ssmd_core.feeds import get
from ssmd_core.messages.lines import format_line, needs_wrapping

TICKER = (
    b'{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":86210.1,"bid_qty":1.5,"ask":86210.2,'
    b'"ask_qty":0.25,"last":86210.2,"volume":1803.25,"vwap":86001.5,"low":85000.0,"high":87000.5,"change":210.1,'
    b'"change_pct":0.24,"timestamp":"2026-11-20T11:00:00.123456Z"}]}'
)
TRADE = (
    b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":86210.2,"qty":0.01,'
    b'"ord_type":"market","trade_id":4665906,"timestamp":"2026-11-20T11:00:00.123456Z"}]}'
)
BAD_TRADE = b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","qty":0.01}]}'


class LittleArchive:
    """Writes sealed slots of one stream.

    Args:
        root: the archive's root.
        feed, stream: which stream.
    """

    def __init__(self, root: Path, feed: str = "kraken", stream: str = "spot") -> None:
        self.root, self.feed, self.stream = root, get(feed), stream
        self.next_seq = 1
        self._ordinal = 0

    def seal(self, start: datetime, messages: Sequence[bytes], *, late: int = 0) -> Path:
        """Write and seal one slot, or seal it anew; `late` numbers a file that came after."""
        slot = Slot.of(int(start.timestamp()) * 1_000_000)
        folder = day_folder(self.root, self.feed.name, self.stream, slot.date)
        folder.mkdir(parents=True, exist_ok=True)
        first_seq = self.next_seq
        lines = []
        for message in messages:
            wrapped = needs_wrapping(message) or classify(self.feed, message)[0] == "unparsed"
            received_us = slot.start_us + len(lines)
            lines.append(
                format_line(
                    message, received_us, self.next_seq, "c0-20261120T105900000-0001", self._ordinal, wrapped=wrapped
                )
                + b"\n"
            )
            self.next_seq += 1
            self._ordinal += 1
        raw = b"".join(lines)
        content = member(raw)
        path = folder / slot.file_name(late)
        path.write_bytes(content)
        entry = FileEntry(
            name=path.name,
            start=rfc3339_us(slot.start_us),
            end=rfc3339_us(slot.end_us),
            records=len(lines),
            raw_bytes=len(raw),
            bytes=len(content),
            first_seq=first_seq,
            last_seq=self.next_seq - 1,
            records_by_type=dict(Counter(classify(self.feed, message)[0] for message in messages)),
            sha256=hashlib.sha256(content).hexdigest(),
            sealed_at=rfc3339_us(slot.end_us + 1_000_000),
        )
        manifest = load_manifest(folder) or Manifest(self.feed.name, self.stream, slot.date)
        manifest.files = sorted(
            [*(old for old in manifest.files if old.name != entry.name), entry], key=lambda file: file.name
        )
        save_manifest(folder, manifest)
        return path

    def seal_hour(self, hour: datetime, messages: Sequence[bytes] = (TICKER, TICKER, TRADE)) -> None:
        """Seal the four slots of an hour, each with these messages."""
        for quarter in range(4):
            self.seal(hour + timedelta(minutes=15 * quarter), messages)


def at(text: str) -> datetime:
    """A moment, UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
