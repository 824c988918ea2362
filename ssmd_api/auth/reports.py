"""What keys did: usage by day and by model, and the log of data access."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from ssmd_api.auth import manage, records
from ssmd_api.auth.access import Principal, Scope
from ssmd_api.auth.limits import WINDOW_S
from ssmd_api.errors import InvalidRequestError
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_api.services import Services

MAX_DAYS = 90

_REQUESTS = """
SELECT key_prefix, date, requests, rate_limit_hits, response_bytes FROM api_usage_daily
WHERE key_prefix = ANY(%s) AND date > %s ORDER BY date
"""
_MODELS = """
SELECT key_prefix, date, model, requests, prompt_tokens, completion_tokens, cost_usd FROM llm_usage_daily
WHERE key_prefix = ANY(%s) AND date > %s ORDER BY date, model
"""
_TOTALS = """
SELECT k.key_prefix AS prefix, k.user_email, k.last_used_at, coalesce(a.requests, 0) AS requests,
  coalesce(a.rate_limit_hits, 0) AS rate_limit_hits, coalesce(a.response_bytes, 0) AS response_bytes,
  coalesce(l.requests, 0) AS llm_requests, coalesce(l.prompt_tokens, 0) AS prompt_tokens,
  coalesce(l.completion_tokens, 0) AS completion_tokens, coalesce(l.cost_usd, 0) AS cost_usd
FROM api_keys k
LEFT JOIN (
  SELECT key_prefix, sum(requests)::bigint AS requests, sum(rate_limit_hits)::bigint AS rate_limit_hits,
    sum(response_bytes)::bigint AS response_bytes
  FROM api_usage_daily WHERE date > %(since)s GROUP BY key_prefix
) a USING (key_prefix)
LEFT JOIN (
  SELECT key_prefix, sum(requests)::bigint AS requests, sum(prompt_tokens)::bigint AS prompt_tokens,
    sum(completion_tokens)::bigint AS completion_tokens, sum(cost_usd) AS cost_usd
  FROM llm_usage_daily WHERE date > %(since)s GROUP BY key_prefix
) l USING (key_prefix)
WHERE k.revoked_at IS NULL ORDER BY 4 DESC, k.key_prefix LIMIT %(limit)s
"""
# NULL is no condition.
_ACCESS = """
SELECT id, created_at, key_prefix, user_email, feed, date_from, date_to, msg_type, files_count, route, request_id
FROM data_access_log
WHERE (%(key_prefix)s::text IS NULL OR key_prefix = %(key_prefix)s)
  AND (%(user_email)s::text IS NULL OR user_email = %(user_email)s)
  AND (%(feed)s::text IS NULL OR feed = %(feed)s)
  AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
  AND (%(before)s::bigint IS NULL OR id < %(before)s)
ORDER BY id DESC LIMIT %(limit)s
"""


class DayUsage(msgspec.Struct, kw_only=True, rename="camel"):
    """One UTC day of a key."""

    date: date
    requests: int
    rate_limit_hits: int
    response_bytes: int


class DayModels(msgspec.Struct, kw_only=True, rename="camel"):
    """One UTC day of a key's model calls; dollars."""

    date: date
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    cost_usd: Decimal = Decimal(0)


class ModelUsage(msgspec.Struct, kw_only=True, rename="camel"):
    """One model, all days; dollars."""

    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    cost_usd: Decimal = Decimal(0)


class KeyUsage(msgspec.Struct, kw_only=True, rename="camel"):
    """What a key did.

    Attributes:
        limit: requests in any `window_seconds`.
        requests_in_window: now.
        requests, rate_limit_hits, response_bytes: of all days asked for; a refused request is a hit, no request.
        model_usage: the dearest first.
        days, daily_usage: requests, and model calls, by day; a day without any is left out.
    """

    key_prefix: str
    name: str
    user_email: str
    tier: str
    limit: int
    window_seconds: int
    requests_in_window: int
    last_used_at: datetime | None
    requests: int
    rate_limit_hits: int
    response_bytes: int
    days: list[DayUsage]
    total_llm_requests: int
    total_prompt_tokens: int
    total_completion_tokens: int
    total_cost_usd: Decimal
    model_usage: list[ModelUsage]
    daily_usage: list[DayModels]


class UsageReport(msgspec.Struct, kw_only=True, rename="camel"):
    """A part of the list of keys, with what they did."""

    usage: list[KeyUsage]
    next_cursor: str | None


class Access(msgspec.Struct, kw_only=True, rename="camel"):
    """Data of a feed that a key got.

    Attributes:
        date_from, date_to: days that it asked for, as far as it reaches.
        msg_type: None for all.
        files_count: that were read, or handed out.
        route: path pattern.
    """

    id: int
    created_at: datetime
    key_prefix: str
    user_email: str
    feed: str
    date_from: date
    date_to: date
    msg_type: str | None
    files_count: int
    route: str | None
    request_id: str | None


class AccessLog(msgspec.Struct, kw_only=True, rename="camel"):
    """A part of the log, the newest first."""

    access: list[Access]
    next_cursor: str | None


async def usage(
    services: Services, principal: Principal, *, days: int = 30, limit: int = 50, cursor: str | None = None
) -> UsageReport:
    """What keys did, the newest key first; the number of statements does not depend on how many there are.

    Args:
        days: the last ones, today included; at most `MAX_DAYS`.

    Raises:
        ForbiddenError: not for this principal.
        InvalidRequestError: days or limit out of range.
        psycopg.Error: Postgres refused or went away.
    """
    principal.check_scope(Scope.ADMIN_READ)
    if not 1 <= days <= MAX_DAYS:
        raise InvalidRequestError(f"days: {days} is not between 1 and {MAX_DAYS}", field="days")
    await services.usage.flush()
    found = await manage.page(services, principal, limit=limit, cursor=cursor)
    prefixes = [key.prefix for key in found.keys]
    since = services.now.date() - timedelta(days=days)
    requests = by_key(await services.rows(_REQUESTS, (prefixes, since)))
    models = by_key(await services.rows(_MODELS, (prefixes, since)))
    limits, used = await services.tiers.limits(), await services.limiter.used(prefixes)
    return UsageReport(
        usage=[
            KeyUsage(
                key_prefix=key.prefix, name=key.name, user_email=key.user_email, tier=key.rate_limit_tier,
                limit=limits.get(key.rate_limit_tier, limits["standard"]), window_seconds=int(WINDOW_S),
                requests_in_window=used[key.prefix], last_used_at=key.last_used_at,
                **_requests(requests[key.prefix]), **_models(models[key.prefix]),
            )
            for key in found.keys
        ],
        next_cursor=found.next_cursor,
    )  # fmt: skip


async def access(
    services: Services,
    principal: Principal,
    *,
    key_prefix: str | None = None,
    user_email: str | None = None,
    feed: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> AccessLog:
    """The log of data access.

    Args:
        since, until: the latter exclusive.
        cursor: `next_cursor` of the part before.

    Raises:
        ForbiddenError: not for this principal.
        InvalidRequestError: a limit or cursor that cannot be used.
        psycopg.Error: Postgres refused or went away.
    """
    principal.check_scope(Scope.ADMIN_READ)
    records.check_limit(limit)
    values: dict[str, Any] = {
        "key_prefix": key_prefix, "user_email": user_email, "feed": feed, "since": since, "until": until,
    }  # fmt: skip
    question = ("access", *values.items())
    values["before"] = decode_cursor(question, cursor, (int,))[0] if cursor is not None else None
    rows = await services.rows(_ACCESS, {**values, "limit": limit + 1})
    return AccessLog(
        access=[Access(**row) for row in rows[:limit]],
        next_cursor=encode_cursor(question, (rows[limit - 1]["id"],)) if len(rows) > limit else None,
    )


async def totals(connection: psycopg.AsyncConnection, today: date, *, days: int, limit: int) -> list[records.Row]:
    """What keys that are not revoked did in the last days, the busiest first; what a process still counts is missing.

    Raises:
        InvalidRequestError: a limit out of range.
        psycopg.Error: Postgres refused or went away.
    """
    records.check_limit(limit)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_TOTALS.encode(), {"since": today - timedelta(days=days), "limit": limit})
        return await cursor.fetchall()


def by_key(rows: Iterable[records.Row]) -> defaultdict[str, list[records.Row]]:
    """Rows of each key, without their prefix."""
    found: defaultdict[str, list[records.Row]] = defaultdict(list)
    for row in rows:
        found[row.pop("key_prefix")].append(row)
    return found


def _requests(rows: list[records.Row]) -> dict[str, Any]:
    names = ("requests", "rate_limit_hits", "response_bytes")
    return {"days": [DayUsage(**row) for row in rows], **{name: sum(row[name] for row in rows) for name in names}}


def _models(rows: list[records.Row]) -> dict[str, Any]:
    models: dict[str, ModelUsage] = {}
    days: dict[date, DayModels] = {}
    for row in rows:
        for one in (
            models.setdefault(row["model"], ModelUsage(model=row["model"])),
            days.setdefault(row["date"], DayModels(date=row["date"])),
        ):
            one.prompt_tokens += row["prompt_tokens"]
            one.completion_tokens += row["completion_tokens"]
            one.requests += row["requests"]
            one.cost_usd += row["cost_usd"]
    return {
        "model_usage": sorted(models.values(), key=lambda one: (-one.cost_usd, one.model)),
        "daily_usage": list(days.values()),
        "total_llm_requests": sum(one.requests for one in days.values()),
        "total_prompt_tokens": sum(one.prompt_tokens for one in days.values()),
        "total_completion_tokens": sum(one.completion_tokens for one in days.values()),
        "total_cost_usd": sum((one.cost_usd for one in days.values()), Decimal(0)),
    }
