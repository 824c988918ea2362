"""What a file's lines add up to: the numbers that a manifest states and that `ssmd verify` derives again."""

from __future__ import annotations

import msgspec

from ssmd_core.archive.manifest import Epoch, FileEntry, Manifest
from ssmd_core.archive.ordinals import OrdinalSet
from ssmd_core.archive.paths import Slot
from ssmd_core.clock import rfc3339_us
from ssmd_core.errors import FrameError
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.control import CONTROL_TYPE, is_control
from ssmd_core.messages.lines import Line, parse_line

UNPARSED_TYPE = "unparsed"
MAX_TICKERS = 20_000
# Type words come off the wire: a venue that sends nonsense must not fill manifests and metrics with it.
MAX_TYPES = 200
MAX_TYPE_CHARS = 64
OTHER_TYPE = "other"
# Venue ids have 66 characters at most (Polymarket's condition ids); a longer one is left out of the list.
MAX_TICKER_CHARS = 200
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)
_CLOSED_EVENT = b'{"ssmd":{"event":"closed"'


def classify(feed: Feed, payload: bytes) -> tuple[str, str]:
    """Type and venue id of a message, as manifests count them: `control` for ssmd's events, `unparsed` without type."""
    if is_control(payload) and _is_json(payload):
        return CONTROL_TYPE, ""
    try:
        return feed.route(payload)
    except FrameError:
        return UNPARSED_TYPE, ""


class Tally:
    """Counts over lines, in the order they are added; `tickers` holds the first 20,000 seen."""

    def __init__(self) -> None:
        self.records = 0
        self.raw_bytes = 0
        self.first_seq = 0
        self.last_seq = 0
        self.records_by_type: dict[str, int] = {}
        self.tickers: set[str] = set()
        self.tickers_truncated = False
        self.epochs: dict[str, OrdinalSet] = {}
        self.closed_epochs: set[str] = set()

    def add(
        self, *, message_type: str, ticker: str, nats_seq: int, epoch: str, ordinal: int, line_bytes: int, closes: bool
    ) -> None:
        """Count one line; `line_bytes` without the line break, `closes` for the epoch's closing event."""
        if not self.records:
            self.first_seq = nats_seq
        self.records += 1
        self.raw_bytes += line_bytes + 1
        self.last_seq = nats_seq
        counts = self.records_by_type
        if message_type not in counts and (len(counts) >= MAX_TYPES or len(message_type) > MAX_TYPE_CHARS):
            message_type = OTHER_TYPE
        counts[message_type] = counts.get(message_type, 0) + 1
        if ticker and ticker not in self.tickers:
            if len(self.tickers) < MAX_TICKERS and len(ticker) <= MAX_TICKER_CHARS:
                self.tickers.add(ticker)
            else:
                self.tickers_truncated = True
        seen = self.epochs.get(epoch)
        if seen is None:
            seen = self.epochs[epoch] = OrdinalSet()
        seen.add(ordinal)
        if closes:
            self.closed_epochs.add(epoch)

    def add_line(self, feed: Feed, raw: bytes) -> Line:
        """Count a whole line (without line break) and take it apart.

        Raises:
            ArchiveError: it does not end in the archive's members.
        """
        line = parse_line(raw)
        payload, _, nats_seq, epoch, ordinal = line
        message_type, ticker = classify(feed, payload)
        self.add(
            message_type=message_type,
            ticker=ticker,
            nats_seq=nats_seq,
            epoch=epoch,
            ordinal=ordinal,
            line_bytes=len(raw),
            closes=is_closed_event(payload),
        )
        return line

    def entry(self, name: str, slot: Slot, *, file_bytes: int, sha256: str, sealed_at: str) -> FileEntry:
        """The manifest's entry of a file with these lines."""
        return FileEntry(
            name=name,
            start=rfc3339_us(slot.start_us),
            end=rfc3339_us(slot.end_us),
            records=self.records,
            raw_bytes=self.raw_bytes,
            bytes=file_bytes,
            first_seq=self.first_seq,
            last_seq=self.last_seq,
            records_by_type=dict(sorted(self.records_by_type.items())),
            sha256=sha256,
            sealed_at=sealed_at,
        )

    def merge_into(self, manifest: Manifest, entry: FileEntry) -> None:
        """Put a file's entry, epochs, tickers and types into its folder's manifest, in place of an older entry."""
        manifest.files = sorted(
            [other for other in manifest.files if other.name != entry.name] + [entry], key=lambda file: file.name
        )
        for name, seen in self.epochs.items():
            known = manifest.epochs.get(name)
            ranges = OrdinalSet([*(known.ranges if known else []), *seen.ranges]).ranges
            closed = name in self.closed_epochs or (known is not None and known.closed)
            manifest.epochs[name] = Epoch(ranges=ranges, closed=closed)
        manifest.epochs = dict(sorted(manifest.epochs.items()))
        tickers = sorted(self.tickers.union(manifest.tickers))
        manifest.tickers_truncated |= self.tickers_truncated or len(tickers) > MAX_TICKERS
        manifest.tickers = tickers[:MAX_TICKERS]
        manifest.message_types = sorted({*manifest.message_types, *self.records_by_type})


def _is_json(payload: bytes) -> bool:
    try:
        _ANYTHING.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def is_closed_event(payload: bytes) -> bool:
    """Whether the message is ssmd's closing event of its epoch."""
    return payload.startswith(_CLOSED_EVENT)
