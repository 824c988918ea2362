"""Daily quality scores and the gaps behind them, as the tables hold them: a day that nobody scored is not there."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date
from decimal import Decimal
from typing import Any

from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_api.services import Services
from ssmd_core.quality.formulas import grade_of

_SCORES = (
    "SELECT check_date, feed, score, composite_score, gap_count, coverage_pct, expected_messages, actual_messages, "
    "details FROM dq_daily_scores WHERE feed = ANY(%s) AND check_date BETWEEN %s AND %s "
    "AND (%s::date IS NULL OR check_date < %s OR (check_date = %s AND feed > %s)) "
    "ORDER BY check_date DESC, feed LIMIT %s"
)
# Written at the top or, by another spelling of the members, below `completeness`.
_GAPS = (
    "SELECT s.check_date, s.feed, g.value AS gap, g.ordinality AS number FROM dq_daily_scores s, "
    "LATERAL (SELECT CASE WHEN jsonb_typeof(s.details->'gaps') = 'array' THEN s.details->'gaps' "
    "WHEN jsonb_typeof(s.details->'completeness'->'gaps') = 'array' THEN s.details->'completeness'->'gaps' "
    "ELSE '[]' END AS gaps) d, jsonb_array_elements(d.gaps) WITH ORDINALITY g "
    "WHERE s.feed = %s AND s.check_date BETWEEN %s AND %s AND jsonb_typeof(g.value) = 'object' "
    "AND (%s::date IS NULL OR s.check_date < %s OR (s.check_date = %s AND g.ordinality > %s)) "
    "ORDER BY s.check_date DESC, g.ordinality LIMIT %s"
)


async def daily_scores(
    services: Services, feeds: Collection[str], first: date, last: date, *, limit: int, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """Scores of days, the newest first, and the cursor of the next page.

    The grade is that of the feed's own score: the composite is the same for all feeds of a day.

    Raises:
        InvalidRequestError: a cursor of another list.
        psycopg.Error: Postgres refused or went away.
    """
    question = ("scores", sorted(feeds), first, last)
    day, feed = decode_cursor(question, cursor, (date, str)) if cursor is not None else (None, "")
    rows = await services.rows(_SCORES, (list(feeds), first, last, day, day, day, feed, limit + 1))
    found = [
        {
            "date": row["check_date"],
            "feed": row["feed"],
            "score": float(row["score"]),
            "composite_score": _float(row["composite_score"]),
            "grade": grade_of(row["score"]),
            "gap_count": row["gap_count"],
            "coverage_pct": _float(row["coverage_pct"]),
            "expected_messages": row["expected_messages"],
            "actual_messages": row["actual_messages"],
            "details": row["details"],
        }
        for row in rows[:limit]
    ]
    following = encode_cursor(question, (found[-1]["date"], found[-1]["feed"])) if len(rows) > limit else None
    return found, following


async def service_levels(services: Services, feeds: Collection[str], first: date, last: date) -> list[dict[str, Any]]:
    """Per feed the means over the days that were scored; a feed without one is not there, an unknown value is None.

    `coverage_pct` is the share of the hours with data. `uptime_pct` is the share of the time in which what was asked
    for was subscribed on an open connection, as the ledgers prove it; None where no hour is proved.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    rows = await services.rows(
        "SELECT feed, score, coverage_pct, gap_count, details FROM dq_daily_scores WHERE feed = ANY(%s) "
        "AND check_date BETWEEN %s AND %s ORDER BY feed, check_date",
        (list(feeds), first, last),
    )
    by_feed: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_feed.setdefault(row["feed"], []).append(row)
    found = []
    for feed, days in by_feed.items():
        coverage = _mean([float(day["score"] if day["coverage_pct"] is None else day["coverage_pct"]) for day in days])
        gaps = [day["gap_count"] for day in days if day["gap_count"] is not None]
        found.append(
            {
                "feed": feed,
                "uptime_pct": _mean(_told(days, "coverage")),
                "avg_latency_ms": _mean(_told(days, "avg_latency_ms", "avgLatencyMs")),
                "freshness_minutes": _mean(_told(days, "freshness_minutes", "freshnessMinutes", "freshnessMins")),
                "gap_count": sum(gaps) if gaps else None,
                "coverage_pct": coverage,
                "days_measured": len(days),
            }
        )
    return found


async def gaps_of(
    services: Services, feed: str, first: date, last: date, *, limit: int, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """Gaps that the days' scores name, the newest day first, and the cursor of the next page.

    Raises:
        InvalidRequestError: a cursor of another list.
        psycopg.Error: Postgres refused or went away.
    """
    question = ("gaps", feed, first, last)
    day, number = decode_cursor(question, cursor, (date, int)) if cursor is not None else (None, 0)
    rows = await services.rows(_GAPS, (feed, first, last, day, day, day, number, limit + 1))
    found = [
        {
            "start": _text(row["gap"].get("start")),
            "end": _text(row["gap"].get("end")),
            "duration_minutes": _number(row["gap"].get("duration_minutes", row["gap"].get("durationMinutes"))),
            "feed": row["feed"],
            "date": row["check_date"],
        }
        for row in rows[:limit]
    ]
    following = None
    if len(rows) > limit:
        following = encode_cursor(question, (found[-1]["date"], rows[limit - 1]["number"]))
    return found, following


def _told(days: list[dict[str, Any]], *names: str) -> list[float]:
    """A number of each day's details, or of their members `sla` and `inputs`, where there is one."""
    found = []
    for day in days:
        details = day["details"]
        for place in (details, details.get("sla"), details.get("inputs")) if isinstance(details, dict) else ():
            values = [_number(place.get(name)) for name in names] if isinstance(place, dict) else []
            if told := [value for value in values if value is not None]:
                found.append(told[0])
                break
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
