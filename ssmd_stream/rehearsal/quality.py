"""What the demo's hour proves about itself, how it scores, and whether its diagnosis cites rows that exist."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg

from ssmd_core.datasets.coverage import Manifests
from ssmd_core.db.connect import connect
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.proof.chain import newest
from ssmd_core.proof.keys import own_key
from ssmd_core.proof.ledger import hour_id, read_ledger
from ssmd_core.proof.verify import verify_proof
from ssmd_core.quality.collect import score_and_store
from ssmd_core.quality.hourly import STREAM, HourScore
from ssmd_core.reports.diagnosis import diagnose
from ssmd_core.reports.model import ModelSettings
from ssmd_core.settings import Settings

# Citation id -> the row that it names.
_ROWS = {
    "score": "SELECT 1 FROM dq_daily_scores WHERE feed || ':' || check_date = %s",
    # A missing hour has no ledger, but a score of 0.
    "hour": (
        "SELECT 1 FROM (SELECT feed, stream, hour FROM ledger_hours UNION SELECT feed, stream, hour FROM "
        "dq_hourly_scores) h WHERE feed || '/' || stream || '/' || "
        "to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24') = %s"
    ),
    "drift": "SELECT 1 FROM drift_findings WHERE id::text = %s",
    "reconciliation": "SELECT 1 FROM trade_reconciliations WHERE id::text = %s",
}


@dataclass(frozen=True, slots=True)
class StreamProof:
    """One stream's line of the table.

    Attributes:
        word: of its ledger.
        score, coverage, integrity: of the hour, 0 to 100; None where nothing is known.
        passed, failed: comparisons with the venue's own numbers.
        untrusted: intervals.
        reason: first reason of a word that is not `complete`, "" if there is none.
        entry: number of its line in the chain.
    """

    stream: str
    word: str
    score: int | None
    coverage: int | None
    integrity: int | None
    passed: int
    failed: int
    untrusted: int
    reason: str
    entry: int


@dataclass
class QualityResult:
    """What was found; `problems` is empty if everything holds.

    Attributes:
        key: fingerprint of the key that signed.
        status, source, summary: of the diagnosis; the source is `model` or `rules`.
        advice: its recommendations.
        citations, resolved: in it, and those of them whose row is there.
    """

    streams: list[StreamProof] = field(default_factory=list)
    key: str = ""
    status: str = ""
    source: str = ""
    summary: str = ""
    advice: list[str] = field(default_factory=list)
    citations: int = 0
    resolved: int = 0
    problems: list[str] = field(default_factory=list)


async def quality_of(settings: Settings, names: list[StreamName], hour: datetime) -> QualityResult:
    """Score the hour, diagnose its day, check the chain and the citations.

    Raises:
        SsmdError: a file is damaged, or the database is away.
    """
    manifests = Manifests(settings.archive_root, settings.dataset_root)
    result = QualityResult(key=own_key(settings.data).fingerprint)
    model = ModelSettings.from_environment(os.environ)
    async with await connect(settings.database_url, name="demo", clock=settings.clock) as connection:
        scored = await score_and_store(connection, manifests, hour.date(), hour + timedelta(hours=1))
        made = await diagnose(connection, hour.date(), model=model, force=True)
        report = made.report
        cited = sorted(set(_citations(report.body)))
        resolved = [await _resolves(connection, citation) for citation in cited]
    scores = {(one.feed, one.stream): one for one in scored.hours if one.message_type == STREAM and one.hour == hour}
    for name in names:
        proof = _stream(settings, name, hour, scores.get((name.feed.name, name.stream)))
        if proof is None:
            result.problems.append(f"{name.folder} has no ledger of {hour_id(hour)}")
        else:
            result.streams.append(proof)
    result.status, result.source = report.status, report.source
    result.summary = str(report.body.get("summary", ""))
    result.advice = [str(one.get("text", "")) for one in report.body.get("recommendations", [])]
    result.citations, result.resolved = len(cited), sum(resolved)
    missing = [citation for citation, found in zip(cited, resolved, strict=True) if not found]
    result.problems += [f"the diagnosis cites {citation}, which is not there" for citation in missing]
    check = await asyncio.to_thread(verify_proof, settings.data)
    result.problems += check.problems
    return result


def _stream(settings: Settings, name: StreamName, hour: datetime, score: HourScore | None) -> StreamProof | None:
    ledger = read_ledger(settings.proof_root, name.feed.name, name.stream, hour)
    if ledger is None:
        return None
    entry = newest(settings.proof_root, name.feed.name, name.stream)[hour_id(hour)]
    first = ledger.reasons[0] if ledger.reasons and ledger.word == "degraded" else None
    return StreamProof(
        stream=name.folder,
        word=ledger.word,
        score=score.score if score else None,
        coverage=score.components["coverage"] if score else None,
        integrity=score.components["integrity"] if score else None,
        passed=ledger.totals.passed,
        failed=ledger.totals.failed,
        untrusted=ledger.totals.untrusted,
        reason=f"{first.code}: {first.detail}" if first else "",
        entry=entry.n,
    )


async def _resolves(connection: psycopg.AsyncConnection, citation: str) -> bool:
    kind, _, key = citation.partition(":")
    statement = _ROWS.get(kind)
    if statement is None:
        return False
    return await (await connection.execute(statement.encode(), (key,))).fetchone() is not None


def _citations(value: Any) -> Iterator[str]:
    """Every citation anywhere in a report's claims."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            if name in ("citations", "summary_citations"):
                yield from member
            elif name != "evidence":
                yield from _citations(member)
    elif isinstance(value, list):
        for member in value:
            yield from _citations(member)
