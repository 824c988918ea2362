"""The daily audit: who got which data, which keys there are, what was used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from ssmd_core.mail.render import Mail, Section, mail

Row = dict[str, Any]

_EXPIRED_WITHIN = timedelta(days=7)
# A mail is read by a person; the rest is in the database.
_MAX_ROWS = 200

_ACCESSES = """
SELECT user_email, feed, date_from, date_to, msg_type, route, key_prefix,
  count(*) AS requests, sum(files_count)::bigint AS files, max(created_at) AS last_at
FROM data_access_log WHERE created_at >= %s AND created_at < %s
GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY last_at DESC, key_prefix, feed
"""
_ACTIVE = """
SELECT key_prefix, user_email, name, scopes, allowed_feeds, rate_limit_tier, created_at, expires_at, last_used_at
FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > %s) ORDER BY created_at, key_prefix
"""
_EXPIRED = """
SELECT key_prefix, user_email, name, expires_at
FROM api_keys WHERE revoked_at IS NULL AND expires_at <= %s AND expires_at > %s ORDER BY expires_at DESC, key_prefix
"""
_USAGE = """
SELECT key_prefix, k.user_email, k.rate_limit_tier,
  coalesce(a.requests, 0) AS requests, coalesce(a.rate_limit_hits, 0) AS rate_limit_hits,
  coalesce(a.response_bytes, 0) AS response_bytes, coalesce(l.requests, 0) AS llm_requests,
  coalesce(l.tokens, 0)::bigint AS llm_tokens, coalesce(l.cost_usd, 0) AS llm_cost_usd
FROM (SELECT * FROM api_usage_daily WHERE date = %s) a
FULL JOIN (
  SELECT key_prefix, sum(requests)::bigint AS requests, sum(prompt_tokens + completion_tokens) AS tokens,
    sum(cost_usd) AS cost_usd
  FROM llm_usage_daily WHERE date = %s GROUP BY 1
) l USING (key_prefix)
LEFT JOIN api_keys k USING (key_prefix)
ORDER BY requests DESC, key_prefix
"""


@dataclass(frozen=True, slots=True)
class Audit:
    """What is known about one day.

    Attributes:
        day: UTC.
        made_at: when it was asked; keys are those of this moment.
        accesses: equal ones counted together, the latest first.
        active_keys: neither revoked nor expired.
        expired_keys: in the seven days before `made_at`.
        usage: by key, on the day.
    """

    day: date
    made_at: datetime
    accesses: list[Row]
    active_keys: list[Row]
    expired_keys: list[Row]
    usage: list[Row]

    @property
    def access_count(self) -> int:
        """Requests that got data."""
        return sum(row["requests"] for row in self.accesses)


async def audit_of(connection: psycopg.AsyncConnection, day: date, now: datetime) -> Audit:
    """The audit of a day, from its first moment to its last, UTC.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    begin = datetime.combine(day, time(), UTC)
    accesses = await _rows(connection, _ACCESSES, begin, begin + timedelta(days=1))
    return Audit(
        day=day,
        made_at=now,
        accesses=accesses,
        active_keys=await _rows(connection, _ACTIVE, now),
        expired_keys=await _rows(connection, _EXPIRED, now, now - _EXPIRED_WITHIN),
        usage=await _rows(connection, _USAGE, day, day),
    )


def audit_mail(audit: Audit) -> Mail:
    """The audit as a mail."""
    sections = [
        Section(
            "Data access",
            audit.access_count,
            ("user", "feed", "days", "type", "files", "requests", "key", "route"),
            [
                (
                    row["user_email"], row["feed"], f"{row['date_from']} to {row['date_to']}", row["msg_type"] or "all",
                    row["files"], row["requests"], row["key_prefix"], row["route"],
                )
                for row in audit.accesses
            ],
        ),
        Section(
            "Active keys",
            len(audit.active_keys),
            ("key", "user", "name", "scopes", "feeds", "created", "expires", "last used"),
            [
                (
                    row["key_prefix"], row["user_email"], row["name"], row["scopes"], row["allowed_feeds"],
                    row["created_at"].date(), row["expires_at"] or "never", row["last_used_at"] or "never",
                )
                for row in audit.active_keys
            ],
        ),
        Section(
            "Keys that expired in the last 7 days",
            len(audit.expired_keys),
            ("key", "user", "name", "expired"),
            [(row["key_prefix"], row["user_email"], row["name"], row["expires_at"]) for row in audit.expired_keys],
        ),
        Section(
            "Usage by key",
            len(audit.usage),
            ("key", "user", "tier", "requests", "over the limit", "bytes", "chats", "tokens", "cost in $"),
            [
                (
                    row["key_prefix"], row["user_email"], row["rate_limit_tier"], row["requests"],
                    row["rate_limit_hits"], row["response_bytes"], row["llm_requests"], row["llm_tokens"],
                    row["llm_cost_usd"],
                )
                for row in audit.usage
            ],
        ),
    ]  # fmt: skip
    title = f"Data access audit of {audit.day}, UTC"
    footer = f"Made at {audit.made_at:%Y-%m-%d %H:%M:%S} UTC; the tables of keys are of that moment."
    return mail(f"[ssmd] data access audit {audit.day}", title, sections, footer, max_rows=_MAX_ROWS)


async def _rows(connection: psycopg.AsyncConnection, statement: str, *values: object) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchall()
