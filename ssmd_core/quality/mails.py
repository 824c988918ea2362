"""The health mail of a scored day."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import psycopg

from ssmd_core.mail.health import FeedHealth, HealthMail, health_mail
from ssmd_core.mail.render import Mail
from ssmd_core.quality.collect import Scored
from ssmd_core.quality.hourly import STREAM

_TREND_DAYS = 14
_TREND = """
SELECT check_date, feed, score, composite_score FROM dq_daily_scores
WHERE check_date > %s AND check_date <= %s ORDER BY check_date
"""
# Of several streams an hour is what its worst stream is.
_WORST = ("missing", "degraded", "complete", "empty")


async def health_mail_of(connection: psycopg.AsyncConnection, scored: Scored) -> Mail:
    """The mail, with the trend of two weeks.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    day = scored.day.day
    rows = await (await connection.execute(_TREND, (day - timedelta(days=_TREND_DAYS), day))).fetchall()
    composite: dict[date, int | None] = {}
    by_feed: dict[str, list[tuple[date, int | None]]] = {}
    for check_date, feed, score, of_all in rows:
        composite[check_date] = None if of_all is None else int(of_all)
        by_feed.setdefault(feed, []).append((check_date, int(score)))
    words = _words(scored)
    return health_mail(
        HealthMail(
            date=day,
            composite=scored.day.composite,
            grade=scored.day.status,
            feeds=[
                FeedHealth(
                    name=one.feed,
                    score=one.score,
                    letter=one.grade,
                    components=dict(one.components),
                    words=words.get(one.feed, [None] * 24),
                    trend=by_feed.get(one.feed, []),
                    note=one.issues[0] if one.issues else "",
                )
                for one in scored.day.feeds
            ],
            issues=scored.day.issues,
            trend=sorted(composite.items()),
        )
    )


def _words(scored: Scored) -> dict[str, list[str | None]]:
    """Word of each hour of each feed; None where nothing is proved."""
    start = datetime.combine(scored.day.day, time(), UTC)
    found: dict[str, list[str | None]] = {}
    for one in scored.hours:
        if one.message_type == STREAM:
            words = found.setdefault(one.feed, [None] * 24)
            number = int((one.hour - start) / timedelta(hours=1))
            of_streams = [word for word in (words[number], one.inputs["word"]) if word is not None]
            words[number] = min(of_streams, key=_WORST.index)
    return found
