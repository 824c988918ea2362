"""What a pass over an hour has seen, put together: the hour's word, its reasons, its sums and the files behind them."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssmd_core.archive.tally import UNPARSED_TYPE
from ssmd_core.datasets.coverage import Manifests, day_coverage
from ssmd_core.datasets.order import file_sha256
from ssmd_core.datasets.report import HourReport
from ssmd_core.drift.nulls import MIN_ROWS, HourNulls, null_columns
from ssmd_core.feeds.base import Feed
from ssmd_core.proof.connected import Life, gaps, lives, overlapping_connectors
from ssmd_core.proof.coverage import coverage_table
from ssmd_core.proof.ledger import Carried, Ledger, SourceRef, Totals, encode, hour_id, proof_file
from ssmd_core.proof.observe import Watcher
from ssmd_core.proof.rules import REASONS, Findings
from ssmd_core.proof.subscriptions import OWN, Told
from ssmd_core.proof.wanted import ALL
from ssmd_core.proof.word import Facts, Seen, judge, minute_evidence

HOUR: Final = timedelta(hours=1)
_MOST: Final = 5
_DRIFT: Final = "drift"


@dataclass(frozen=True, slots=True)
class Before:
    """What the hour before hands on.

    Attributes:
        carried: its names.
        ledger, state, shapes: its ledger, the rule's state, its shapes.
    """

    carried: Carried
    ledger: Ledger
    state: bytes
    shapes: bytes


@dataclass(frozen=True, slots=True)
class Derived:
    """What an hour's archive proves.

    Attributes:
        files: contents by kind, see `ledger.FILES`.
    """

    ledger: Ledger
    files: Mapping[str, bytes]


def output_name(feed: str, stream: str, hour: datetime, kind: str) -> str:
    """The name of a proof's file in a ledger: relative to the data folder, with `/`."""
    return proof_file(Path("proof"), feed, stream, hour, kind).as_posix()


class Prover:
    """Puts together what one pass over the hour has seen."""

    def __init__(
        self, feed: Feed, stream: str, hour: datetime, report: HourReport, watcher: Watcher, before: Before | None
    ) -> None:
        self._feed, self._stream, self._hour = feed, stream, hour
        self._report, self._watcher, self._before = report, watcher, before
        self._start_us = int(hour.timestamp()) * 1_000_000
        self._end_us = self._start_us + 3_600_000_000
        self._without_snapshot: set[str] = set()

    def prove(self, archive_root: Path, dataset_root: Path) -> Derived:
        """The ledger and its files."""
        watcher, report = self._watcher, self._report
        found = lives(watcher.subscriptions, self._end_us)
        for life in found.values():
            watcher.subscriptions.finish(life.story, life.to_us)
        findings = watcher.rule.finish(self._start_us, self._end_us)
        drifted = watcher.drift.findings
        rows = watcher.rows(found, findings)
        files = {
            "coverage": _parquet(coverage_table(rows)),
            "integrity": _parquet(findings.integrity),
            "untrusted": _parquet(findings.untrusted),
            "shapes": watcher.drift.document(),
            "state": gzip.compress(watcher.rule.state(), 6, mtime=0),
        }
        disconnected = gaps(
            watcher.subscriptions,
            found,
            self._start_us,
            self._end_us,
            watcher.open_connections(self._before.ledger if self._before else None),
        )
        totals = self._totals(found, findings, disconnected)
        seen_nulls, null_rows, null_rates = self._nulls()
        facts = Facts(
            sealed=sorted({source.name[:4] for source in report.sources}),
            market_messages=totals.market_messages,
            control_events=watcher.control_events,
            lost=self._lost(archive_root, dataset_root),
            ordinals=self._holes(found),
            connected=[*disconnected, *self._mute(totals.market_messages)],
            acknowledged=[
                *self._told("overdue", "waited longer than it may for its acknowledgement"),
                *self._unasked(found),
            ],
            refused=self._told("refused", "refused"),
            live=[
                Seen(each.detail, each.messages, each.minute_us or None, None, [f"seq:{each.nats_seq}"])
                for each in watcher.live.settled(watcher.ordinals)
            ],
            untrusted=self._untrusted(findings.untrusted),
            failed=self._failed(findings),
            drift=[Seen(each.detail, 1, each.at_us, None, [each.evidence] if each.evidence else []) for each in drifted]
            or self._troubles(_DRIFT),
            rejects=[*self._rejects(), *self._unreadable()],
            nulls=seen_nulls,
            connectors=overlapping_connectors(found),
            offsets_ms=watcher.clocks(found),
            not_carried=self._not_carried(found),
        )
        word, reasons = judge(facts)
        outputs = {
            output_name(self._feed.name, self._stream, self._hour, kind): hashlib.sha256(content).hexdigest()
            for kind, content in files.items()
        }
        outputs |= {f"datasets/{output.path}": output.sha256 for output in report.outputs}
        if report.rejects_file:
            outputs[f"datasets/{report.rejects_file}"] = file_sha256(dataset_root / report.rejects_file)
        ledger = Ledger(
            feed=self._feed.name,
            stream=self._stream,
            hour=hour_id(self._hour),
            word=word,
            reasons=reasons,
            sources=[SourceRef(source.name, source.sha256, source.records) for source in report.sources],
            outputs=outputs,
            carried=self._before.carried if self._before else None,
            totals=totals,
            epochs=watcher.epochs(found),
            rows=null_rows,
            null_rates=null_rates,
            shapes_changed=len(drifted),
        )
        return Derived(ledger, files | {"ledger": encode(ledger)})

    # -- sums

    def _totals(self, found: dict[str, Life], findings: Findings, disconnected: list[Seen]) -> Totals:
        watcher, coverage = self._watcher, self._watcher.coverage
        by_kind: Counter[str] = Counter()
        for sums in coverage.minutes.values():
            for kind, (messages, _) in sums.by_type.items():
                by_kind[watcher.reader.kinds.names[kind]] += messages
        unparsed = by_kind.pop(UNPARSED_TYPE, 0)
        control = sum(messages for kind, messages in by_kind.items() if not watcher.is_market(kind))
        subscriptions = watcher.subscriptions
        checks = list(findings.minutes.values())
        connections = [life.story for life in found.values() if life.story.connection != OWN]
        known = {story.connection for story in connections if not story.opened}
        known |= watcher.open_connections(self._before.ledger if self._before else None)
        opens = Counter(story.connection for story in connections if story.opened)
        return Totals(
            messages=self._report.messages,
            market_messages=by_kind.total() - control,
            control_messages=control,
            unparsed=unparsed,
            bytes=sum(sums.bytes for sums in coverage.minutes.values()),
            rejects=sum(self._report.rejects.values()),
            asked=_named(subscriptions.asked),
            acknowledged=_named(subscriptions.acknowledged),
            refused=_named(subscriptions.refused),
            delivered=len(coverage.instruments.names),
            passed=sum(each.passed for each in checks),
            failed=sum(each.failed for each in checks),
            unverifiable=sum(each.unverifiable for each in checks),
            gaps=sum(counter.gaps for each in checks for counter in each.counters),
            missing=sum(counter.missing for each in checks for counter in each.counters),
            missing_ordinals=sum(state.missing for state in watcher.ordinals.epochs.values()),
            untrusted=len(findings.untrusted),
            connections=len({story.connection for story in connections}),
            opens=opens.total(),
            reconnects=sum(count - (name not in known) for name, count in opens.items()),
            resubscribes=sum(each.resubscribes for story in connections for each in story.minutes.values()),
            errors=sum(each.errors for life in found.values() for each in life.story.minutes.values()),
            not_connected_s=sum(((each.to_us or 0) - (each.from_us or 0)) // 10_000 for each in disconnected) / 100,
        )

    # -- what is wrong

    def _lost(self, archive_root: Path, dataset_root: Path) -> list[Seen]:
        # Long after it, so that no slot of the hour counts as one to come.
        day = day_coverage(
            Manifests(archive_root, dataset_root), self._feed, self._stream, self._hour.date(), self._hour + 24 * HOUR
        )
        if day.error:
            return [Seen(day.error, 0)]
        of_hour = day.hours[self._hour.hour]
        folder = f"archive:{self._feed.name}/{self._stream}/{self._hour:%Y-%m-%d}/manifest.json"
        if of_hour.gaps:
            text = f"the archive's manifest states {of_hour.gaps} holes with {of_hour.lost} messages"
            return [Seen(text, of_hour.lost, evidence=[folder])]
        missing = (of_hour.missing_seqs or 0) - of_hour.dropped
        if missing > 0:
            after = [f"seq:{seq}" for seq, _ in self._report.seq_gaps[:_MOST]]
            return [Seen(f"{missing} sequences of the stream are not in the archive", missing, evidence=after)]
        return []

    def _holes(self, found: dict[str, Life]) -> list[Seen]:
        seen = []
        for epoch, state in sorted(self._watcher.ordinals.epochs.items()):
            name = self._watcher.reader.epochs.names[epoch]
            if state.holes and name in found:
                minutes = [self._start_us + hole.minute * 60_000_000 for hole in state.holes]
                text = f"{state.missing} of {name}, the first one {state.holes[0].first}"
                evidence = [minute_evidence(self._feed.name, self._stream, at, name) for at in minutes[:_MOST]]
                seen.append(Seen(text, state.missing, min(minutes), max(minutes) + 60_000_000, evidence))
        return seen

    def _mute(self, market_messages: int) -> list[Seen]:
        """Troubles that mean that nothing came; and, where nothing came at all, every error."""
        seen = []
        for story in self._watcher.subscriptions.stories.values():
            for told in story.troubles:
                reason = told.text.partition(":")[0]
                if reason != _DRIFT and reason not in REASONS:
                    seen.append(self._seen(story.connection, told, 1))
            if not market_messages:
                seen += [self._seen(story.connection, told, 1) for told in story.errors]
        return seen

    def _troubles(self, reason: str) -> list[Seen]:
        return [
            self._seen(story.connection, told, told.count)
            for story in self._watcher.subscriptions.stories.values()
            for told in story.troubles
            if told.text.partition(":")[0] == reason
        ]

    def _told(self, what: str, text: str) -> list[Seen]:
        return [
            Seen(f"{story.connection} {told.text} {text}", told.count, told.at_us, None, [f"seq:{told.nats_seq}"])
            for story in self._watcher.subscriptions.stories.values()
            for told in (story.overdue if what == "overdue" else story.refused)
        ]

    def _unasked(self, found: dict[str, Life]) -> list[Seen]:
        """What was wanted and not asked for, or asked for and never opened; and connections that do not say."""
        subscriptions, seen = self._watcher.subscriptions, []
        if never := subscriptions.wanted.never(self._end_us):
            text = f"{next(iter(never))[:80]} first: wanted, and asked for on no connection"
            seen.append(Seen(text, len(never), min(never.values())))
        if late := subscriptions.wanted.late:
            name, (since_us, at_us) = max(sorted(late.items()), key=lambda item: item[1][1] - item[1][0])
            text = f"{name[:80]} was wanted for {(at_us - since_us) / 1e6:.0f} s until it was asked for"
            seen.append(Seen(text, len(late), since_us, at_us))
        heard = set(self._watcher.coverage.instruments.names)
        mute = {name: told for name, told in sorted(subscriptions.unopened.items()) if name not in heard}
        if mute:
            name, told = next(iter(mute.items()))
            text = f"{told.text}: nothing came of {name[:80]}, though it was asked for"
            seen.append(Seen(text, len(mute), told.at_us, None, [f"seq:{told.nats_seq}"]))
        for life in self._watcher.untold(found):
            text = f"{life.story.name} brought data, and nothing says what was asked for on it"
            seen.append(Seen(text, 1, life.from_us, life.to_us, [f"seq:{life.story.last_seq}"]))
        return seen

    def _unreadable(self) -> list[Seen]:
        watcher = self._watcher
        if not watcher.unreadable_count:
            return []
        where = [f"seq:{line.nats_seq}" for line in watcher.unreadable]
        text = f"{watcher.unreadable_count} without a type that can be read"
        return [Seen(text, watcher.unreadable_count, watcher.unreadable[0].recv_us, None, where)]

    def _seen(self, connection: str, told: Told, count: int) -> Seen:
        return Seen(f"{connection}: {told.text}", count, told.at_us, None, [f"seq:{told.nats_seq}"])

    def _untrusted(self, untrusted: pa.Table) -> list[Seen]:
        """Intervals of damage; and books without a snapshot where one should have been seen."""
        counts = Counter[str]()
        evidence: dict[str, list[str]] = {}
        stories = self._watcher.subscriptions.stories
        unknown = {name for name, story in stories.items() if not self._watcher.known(story)}
        wanted = ["instrument", "epoch", "reason"]
        for batch in untrusted.select(wanted).to_batches(max_chunksize=10_000):
            for instrument, epoch, reason in zip(*(batch[name].to_pylist() for name in wanted), strict=True):
                if reason == "no_check":
                    continue
                # A snapshot that came in an hour that is not proved is no fault of this one.
                if reason == "no_snapshot" and epoch in unknown:
                    self._without_snapshot.add(epoch)
                    continue
                counts[reason] += 1
                where = evidence.setdefault(reason, [])
                if len(where) < _MOST:
                    hour = hour_id(self._hour)
                    where.append(f"untrusted:{self._feed.name}/{self._stream}/{hour}/{instrument}")
        return [Seen(f"{count} {reason}", count, evidence=evidence[reason]) for reason, count in sorted(counts.items())]

    def _failed(self, findings: Findings) -> list[Seen]:
        broken = findings.integrity.filter(pc.greater(findings.integrity["failed"], 0))
        if not len(broken):
            return []
        failed = int(pc.sum(broken["failed"]).as_py())
        instruments = len(pc.unique(broken["instrument"]))
        first = f"{broken['check'][0].as_py()} of {broken['instrument'][0].as_py()}"
        from_us, to_us = int(pc.min(broken["from"]).value), int(pc.max(broken["to"]).value)
        return [Seen(f"{failed} on {instruments} instruments, {first} first", failed, from_us, to_us)]

    def _rejects(self) -> list[Seen]:
        rejects = self._report.rejects
        where = [f"archive:{self._report.rejects_file}"] if self._report.rejects_file else []
        return [Seen(f"{count} {kind}", count, evidence=where) for kind, count in sorted(rejects.items())]

    def _nulls(self) -> tuple[list[Seen], dict[str, int], dict[str, dict[str, float]]]:
        """Columns that turned null, and the shares of nulls that the next hour is compared with."""
        report, before = self._report, self._before
        earlier = [HourNulls(before.ledger.rows, before.ledger.null_rates)] if before else []
        turned = null_columns(self._feed, HourNulls(report.rows, report.null_rates), earlier)
        rows = dict(before.ledger.rows) if before else {}
        rates = dict(before.ledger.null_rates) if before else {}
        # A type whose column is gone is compared with what it was until the column is back.
        bad = {finding.message_type for finding in turned}
        for kind, count in report.rows.items():
            if kind not in bad and (count >= MIN_ROWS or kind not in rows):
                rows[kind], rates[kind] = count, report.null_rates[kind]
        return [Seen(finding.detail) for finding in turned], rows, rates

    def _not_carried(self, found: dict[str, Life]) -> list[str]:
        if self._before is not None:
            return sorted(self._without_snapshot)
        return sorted(name for name, life in found.items() if not life.story.opened and life.story.connection != OWN)


def _named(instruments: set[str]) -> int:
    """How many instruments; "everything" counts as one, where none is named."""
    return len(instruments - {ALL}) or len(instruments)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=True)
    return sink.getvalue()
