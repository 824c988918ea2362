"""The daily diagnosis: what is wrong, why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import psycopg

from ssmd_core.quality.formulas import GREEN_FROM
from ssmd_core.reports.answers import MAX_CLAIM_CHARS, DiagnosisAnswer, FeedClaim, TrendClaim
from ssmd_core.reports.claims import Sieve, unique
from ssmd_core.reports.collect import RunFailure, read_rows
from ssmd_core.reports.evidence import Evidence, milder, worst
from ssmd_core.reports.findings import all_green, evidence_of
from ssmd_core.reports.making import Body, NothingLeftError, dropped_remark, make
from ssmd_core.reports.model import ModelSettings
from ssmd_core.reports.rules import diagnose_by_rules, feed_by_rules, summary_by_rules, trend_by_rules
from ssmd_core.reports.store import Made
from ssmd_core.reports.texts import clean


async def diagnose(
    connection: psycopg.AsyncConnection,
    day: date,
    *,
    model: ModelSettings | None,
    run_failures: Sequence[RunFailure] = (),
    force: bool = False,
) -> Made:
    """Diagnose a day and store the report.

    A model is asked unless all is well, or it has already answered for the same rows. Whatever goes wrong with it, the
    rules write the report and its note says why.

    Args:
        connection: in autocommit, so that no transaction is open while the model thinks.
        day: UTC.
        model: None to ask none.
        run_failures: failed runs of the seven days that end with the day, newest first.
        force: ask the model in any case.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    evidence = evidence_of(await read_rows(connection, day, run_failures, green_from=GREEN_FROM))
    return await make(
        connection,
        evidence,
        model=model,
        force=force,
        form=DiagnosisAnswer,
        by_rules=diagnose_by_rules,
        from_answer=body_of,
        not_needed=_not_needed(evidence),
        # That nothing at all is known of a day is news.
        needed=not all_green(evidence),
    )


def _not_needed(evidence: Evidence) -> str:
    if not evidence.items:
        return "there are no rows that a model could look at."
    return "all is well, so no model was asked." if all_green(evidence) else ""


def body_of(evidence: Evidence, answer: DiagnosisAnswer) -> tuple[Body, int, list[str]]:
    """What is kept of an answer, how many of its claims are not, and what the report must say of that.

    A claim about a feed is at least as severe as the rows, and what they say of a feed that is not GREEN is told, by
    rules if the model does not tell it. The whole is as severe as the rows and the claims that are kept.

    Raises:
        NothingLeftError: no claim could be kept.
    """
    sieve = Sieve(evidence)
    summary = sieve.kept([answer.summary])
    claims = sieve.kept(answer.feeds, about="feed")
    trends = _trends(evidence, sieve.kept(answer.trends, about="feed"), sieve)
    recommendations = sieve.kept(answer.recommendations)
    if not (claims or trends or recommendations) and (sieve.dropped or not summary):
        raise NothingLeftError(sieve.dropped)

    remarks = dropped_remark(sieve.dropped)
    feeds = {claim.feed: _feed(claim) for claim in claims}
    by_rules = [
        told
        for feed, status in evidence.statuses.items()
        if feed not in feeds and status != "GREEN" and (told := feed_by_rules(evidence, feed))
    ]
    feeds |= {told["feed"]: told for told in by_rules}
    status = worst((evidence.status, *(told["status"] for told in feeds.values())))
    if milder(answer.overall_status, evidence.status):
        # Its summary was written for another day than this one.
        summary = []
        remarks.append(
            f"The answer called the day {answer.overall_status}, milder than the rows; the summary is by rules."
        )
    elif milder(status, answer.overall_status):
        remarks.append(f"The answer called the day {answer.overall_status}, which no claim of it shows.")
    if by_rules:
        remarks.append(f"Told by rules, not by the model: {', '.join(told['feed'] for told in by_rules)}.")
    told_feeds = [feeds[feed] for feed in sorted(feeds)]
    if summary:
        said: Body = {
            "summary": clean(summary[0].text, MAX_CLAIM_CHARS),
            "summary_citations": unique(summary[0].citations),
        }
    else:
        said = summary_by_rules(evidence, told_feeds, status)
    body: dict[str, Any] = {
        "overall_status": status,
        **said,
        "feeds": told_feeds,
        "trends": trends,
        "recommendations": [
            {"text": clean(one.text, MAX_CLAIM_CHARS), "citations": unique(one.citations)} for one in recommendations
        ],
    }
    return body, sieve.dropped, remarks


def _trends(evidence: Evidence, claims: Sequence[TrendClaim], sieve: Sieve) -> list[Body]:
    """The trends that the scores show, too: a direction is a number's, not a matter of opinion."""
    found = []
    for claim in claims:
        by_rules = trend_by_rules(evidence, claim.feed)
        if by_rules and by_rules["direction"] == claim.direction:
            found.append({**by_rules, "note": clean(claim.note, MAX_CLAIM_CHARS), "citations": unique(claim.citations)})
        else:
            sieve.dropped += 1
    return found


def _feed(claim: FeedClaim) -> Body:
    return {
        "feed": claim.feed,
        "status": claim.status,
        "issue": clean(claim.issue, MAX_CLAIM_CHARS),
        "likely_cause": clean(claim.likely_cause, MAX_CLAIM_CHARS),
        "action": clean(claim.action, MAX_CLAIM_CHARS),
        "citations": unique(claim.citations),
    }
