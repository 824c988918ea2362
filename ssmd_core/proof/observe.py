"""What sees every line of an hour while its datasets are built, and adds up the proof."""

from __future__ import annotations

from bisect import bisect_right
from decimal import Decimal
from typing import Any, Final, NamedTuple

from ssmd_core.archive.tally import UNPARSED_TYPE, classify
from ssmd_core.datasets.convert import Converted
from ssmd_core.drift.hour import HourDrift
from ssmd_core.feeds.base import Feed
from ssmd_core.messages.control import CONTROL_TYPE, is_control
from ssmd_core.messages.lines import Line
from ssmd_core.proof.connected import Life
from ssmd_core.proof.coverage import Coverage, Minute, minute_us
from ssmd_core.proof.ledger import EpochRef, Ledger
from ssmd_core.proof.lines import MINUTE_US, MINUTES, Lines, Reader
from ssmd_core.proof.live import LiveCounts
from ssmd_core.proof.ordinals import UNSTAMPED, Ordinals
from ssmd_core.proof.rules import Findings, HourChunk, HourRule, MinuteChecks
from ssmd_core.proof.subscriptions import OWN, Opening, Story, Subscriptions
from ssmd_core.proof.word import MAX_OFFSET_MS

#: Texts of a connection's own keepalive: no JSON, and no message that could be lost.
KEEPALIVES: Final = frozenset((b"", b"[]", b"PING", b"PONG"))
_CENT_US: Final = 10_000
_SHOWN: Final = 10
# A clock that is wrong is so in every message: three of them in each of three minutes are no accident.
_MIN_TIMED: Final = 3
_MIN_MINUTES: Final = 3


class ClockOffset(NamedTuple):
    """How far a clock is wrong.

    Attributes:
        offset_ms: smallest receive time minus venue time of the minutes concerned.
        from_us: the first one's start.
        minutes: how many.
    """

    offset_ms: float
    from_us: int
    minutes: int


class Watcher:
    """Implements `datasets.build.Observer`.

    Args:
        before: the ledger of the hour before; None if that hour was not proved.
    """

    def __init__(self, feed: Feed, start_us: int, rule: HourRule, drift: HourDrift, before: Ledger | None) -> None:
        carried = before.epochs if before else {}
        self._feed = feed
        self.reader = Reader(feed, start_us)
        self.coverage = Coverage(feed)
        self.ordinals = Ordinals(
            self.reader,
            start_us,
            None
            if before is None
            else {name: ref.last_ordinal for name, ref in carried.items() if ref.last_ordinal is not None},
        )
        self.subscriptions = Subscriptions(feed.limits, start_us)
        self.live = LiveCounts(feed, self.reader)
        self.rule = rule
        self.drift = drift
        self.control_events = 0
        self.unreadable: list[Line] = []
        self.unreadable_count = 0
        self._start_us = start_us
        self._known = {name for name, ref in carried.items() if ref.known}

    def take(self, converted: Converted) -> None:
        """The next lines of the hour."""
        lines = self.reader.read(converted)
        self.coverage.take(converted, lines)
        holes = self.ordinals.take(lines)
        self.live.take(lines)
        self._read_events(lines)
        chunk = converted.split.chunk
        self.rule.take(
            HourChunk(
                tables=converted.tables,
                numbers=converted.line_numbers,
                data=chunk.data,
                offsets=chunk.offsets,
                others=[line for _, line in lines.others],
                holes=holes,
            )
        )
        self.drift.take(converted)

    def _read_events(self, lines: Lines) -> None:
        subscriptions, epochs = self.subscriptions, self.reader.epochs
        for _, line in lines.others:
            if is_control(line.payload):
                self.control_events += 1
                subscriptions.read(line)
            elif line.payload.strip() not in KEEPALIVES and classify(self._feed, line.payload)[0] == UNPARSED_TYPE:
                self.unreadable_count += 1
                if len(self.unreadable) < _SHOWN:
                    self.unreadable.append(line)
        for epoch, event, nats_seq in subscriptions.minute_events:
            self.live.compare(epochs.code(epoch), event, nats_seq)
        subscriptions.minute_events.clear()
        for epoch_code, chosen in lines.epochs():
            first, last = int(chosen[0]), int(chosen[-1])
            subscriptions.saw(
                epochs.names[epoch_code], int(lines.recv_us[first]), int(lines.recv_us[last]), int(lines.nats_seq[last])
            )

    # -- what it adds up to

    def rows(self, found: dict[str, Life], findings: Findings) -> list[dict[str, Any]]:
        """Rows of `COVERAGE_SCHEMA`: of every epoch and minute with a message or an open connection."""
        missing = {epoch: state.missing_by_minute() for epoch, state in self.ordinals.epochs.items()}
        rows = []
        for name, life in found.items():
            epoch = self.reader.epochs.code(name)
            for minute in range(MINUTES):
                sums = self.coverage.minutes.get((epoch, minute))
                begins_us = minute_us(self._start_us, minute)
                open_us = min(life.to_us, begins_us + MINUTE_US) - max(life.from_us, begins_us)
                if sums is None and open_us <= 0:
                    continue
                checks = findings.minutes.get((name, begins_us), MinuteChecks())
                rows.append(
                    self._row(life, minute, sums or Minute(), max(open_us, 0), checks)
                    | {
                        "missing_ordinals": missing.get(epoch, {}).get(minute, 0),
                        "live_messages": self.live.messages.get((epoch, begins_us)),
                    }
                )
        return rows

    def _row(self, life: Life, minute: int, sums: Minute, open_us: int, checks: MinuteChecks) -> dict[str, Any]:
        story = life.story
        opening = story.minutes.get(minute, Opening())
        asked, acknowledged, refused = story.levels.get(minute, (0, 0, 0))
        return {
            "minute": minute_us(self._start_us, minute),
            "epoch": story.name,
            "connection": story.connection,
            "open_s": _seconds(open_us),
            "asked": asked,
            "acknowledged": acknowledged,
            "refused": refused,
            "delivered": 0 if sums.delivered is None else len(sums.delivered),
            "messages": sums.messages,
            "bytes": sums.bytes,
            "by_type": sorted(
                (
                    {"type": self.reader.kinds.names[kind], "messages": messages, "bytes": size}
                    for kind, (messages, size) in sums.by_type.items()
                ),
                key=lambda of_type: str(of_type["type"]),
            ),
            "first_ordinal": sums.first_ordinal,
            "last_ordinal": sums.last_ordinal,
            "counters": [counter._asdict() for counter in checks.counters[: MinuteChecks.MAX_COUNTERS]],
            "sequence_gaps": sum(counter.gaps for counter in checks.counters),
            "sequence_missing": sum(counter.missing for counter in checks.counters),
            "passed": checks.passed,
            "failed": checks.failed,
            "unverifiable": checks.unverifiable,
            "offset_ms": sums.offset_ms,
            "age_p50_ms": sums.quantile_ms(0.5),
            "age_p99_ms": sums.quantile_ms(0.99),
            "age_max_ms": sums.age_max_ms,
            "opens": opening.opens,
            "resubscribes": opening.resubscribes,
            "errors": opening.errors,
        }

    def epochs(self, found: dict[str, Life]) -> dict[str, EpochRef]:
        """Every epoch, by name."""
        minutes: dict[int, list[Minute]] = {}
        for (code, _), sums in self.coverage.minutes.items():
            minutes.setdefault(code, []).append(sums)
        refs = {}
        for name in sorted(found):
            life = found[name]
            epoch = self.reader.epochs.code(name)
            of_epoch = minutes.get(epoch, [])
            offsets = [sums.offset_ms for sums in of_epoch if sums.offset_ms is not None]
            ordinals = self.ordinals.epochs.get(epoch)
            refs[name] = EpochRef(
                connection=life.story.connection,
                messages=sum(sums.messages for sums in of_epoch),
                first_ordinal=ordinals.first if ordinals else None,
                last_ordinal=ordinals.last if ordinals else None,
                missing_ordinals=ordinals.missing if ordinals else 0,
                opened=life.story.opened,
                closed=life.story.closed_us is not None,
                open=life.to_us >= self._start_us + MINUTES * MINUTE_US,
                known=self.known(life.story),
                open_s=(life.to_us - life.from_us) // _CENT_US / 100,
                offset_ms=min(offsets) if offsets else None,
            )
        return refs

    def open_connections(self, before: Ledger | None) -> set[str]:
        """Connections that were open when the hour before ended."""
        epochs = before.epochs.values() if before else ()
        return {ref.connection for ref in epochs if ref.open and ref.connection not in (OWN, UNSTAMPED)}

    def known(self, story: Story) -> bool:
        """Whether the epoch's opening is proved."""
        return story.opened or story.name in self._known

    def untold(self, found: dict[str, Life]) -> list[Life]:
        """Connections that brought market data of which nothing says that it was asked for."""
        unasked = []
        for life in found.values():
            story = life.story
            if story.tells or story.connection in (OWN, UNSTAMPED) or not story.speaks:
                continue
            epoch = self.reader.epochs.code(story.name)
            kinds = {
                kind for (code, _), sums in self.coverage.minutes.items() if code == epoch for kind in sums.by_type
            }
            if any(self.is_market(self.reader.kinds.names[kind]) for kind in kinds):
                unasked.append(life)
        return unasked

    def is_market(self, kind: str) -> bool:
        """Whether messages of a type are about the market, not talk about the connection."""
        known = self._feed.message_types.get(kind)
        return kind not in (CONTROL_TYPE, UNPARSED_TYPE) and (known is None or known.token != CONTROL_TYPE)

    def clocks(self, found: dict[str, Life]) -> dict[str, ClockOffset]:
        """Epochs whose clock and the venue's were apart: minute after minute by the same time.

        What is old by nature, as the last trade of a quiet market, is of any age.
        """
        offsets: dict[str, list[tuple[int, float]]] = {}
        for (code, minute), sums in sorted(self.coverage.minutes.items()):
            offset_ms = sums.offset_ms
            if offset_ms is not None and sums.timed >= _MIN_TIMED and abs(offset_ms) > MAX_OFFSET_MS:
                offsets.setdefault(self.reader.epochs.names[code], []).append((minute, offset_ms))
        apart = {}
        for name, of_epoch in offsets.items():
            ordered = sorted(offset_ms for _, offset_ms in of_epoch)
            counts = [bisect_right(ordered, offset_ms + MAX_OFFSET_MS) - i for i, offset_ms in enumerate(ordered)]
            most = max(counts)
            if name in found and most >= _MIN_MINUTES:
                least = ordered[counts.index(most)]
                minutes = [minute for minute, offset_ms in of_epoch if least <= offset_ms <= least + MAX_OFFSET_MS]
                apart[name] = ClockOffset(least, minute_us(self._start_us, minutes[0]), len(minutes))
        return apart


def _seconds(us: int) -> Decimal:
    """Microseconds as seconds with two digits, cut: 60 only for a whole minute."""
    return Decimal(us // _CENT_US).scaleb(-2)
