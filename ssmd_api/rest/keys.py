"""`/v1/keys`: keys, what they may, what they did. See `ssmd_api.auth.manage`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ssmd_api.auth import manage, reports
from ssmd_api.auth.access import ANY_KEY, Scope
from ssmd_api.auth.records import DEFAULT_OVERLAP_HOURS, MAX_LIMIT, MAX_OVERLAP_HOURS, KeyChange, NewKey
from ssmd_api.routing import Call, Route

_MAX_BODY_BYTES = 16 * 1024
_Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]
_MAX_USAGE_LIMIT = 100


class KeysQuery(msgspec.Struct):
    """Which keys.

    Attributes:
        user_email: of their owner.
        revoked: also those that are revoked.
        cursor: `nextCursor` of the part before.
    """

    user_email: str | None = None
    revoked: bool = False
    limit: _Limit = 100
    cursor: str | None = None


class UsageQuery(msgspec.Struct):
    """What of the usage.

    Attributes:
        days: the last ones, today included.
        limit: keys.
        cursor: `nextCursor` of the part before.
    """

    days: Annotated[int, Meta(ge=1, le=reports.MAX_DAYS)] = 30
    limit: Annotated[int, Meta(ge=1, le=_MAX_USAGE_LIMIT)] = 50
    cursor: str | None = None


class AccessQuery(msgspec.Struct):
    """What of the log.

    Attributes:
        since, until: moments; the latter exclusive.
        cursor: `nextCursor` of the part before.
    """

    key_prefix: str | None = None
    user_email: str | None = None
    feed: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: _Limit = 100
    cursor: str | None = None


class Rotation(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How a key is rotated.

    Attributes:
        overlap_hours: that the old key goes on to work.
    """

    overlap_hours: Annotated[int, Meta(ge=0, le=MAX_OVERLAP_HOURS)] = DEFAULT_OVERLAP_HOURS


async def _create(call: Call) -> Any:
    return await manage.create(call.services, call.principal, call.body)


async def _list(call: Call) -> Any:
    query: KeysQuery = call.query
    return await manage.page(
        call.services, call.principal,
        user_email=query.user_email, revoked=query.revoked, limit=query.limit, cursor=query.cursor,
    )  # fmt: skip


async def _me(call: Call) -> Any:
    return await manage.who_am_i(call.services, call.principal)


async def _usage(call: Call) -> Any:
    query: UsageQuery = call.query
    return await reports.usage(call.services, call.principal, days=query.days, limit=query.limit, cursor=query.cursor)


async def _access(call: Call) -> Any:
    query: AccessQuery = call.query
    return await reports.access(
        call.services, call.principal,
        key_prefix=query.key_prefix, user_email=query.user_email, feed=query.feed,
        since=query.since, until=query.until, limit=query.limit, cursor=query.cursor,
    )  # fmt: skip


async def _show(call: Call) -> Any:
    return await manage.find(call.services, call.principal, call.path["prefix"])


async def _change(call: Call) -> Any:
    return await manage.change(call.services, call.principal, call.path["prefix"], call.body)


async def _rotate(call: Call) -> Any:
    return await manage.rotate(call.services, call.principal, call.path["prefix"], call.body.overlap_hours)


async def _revoke(call: Call) -> Any:
    return await manage.revoke(call.services, call.principal, call.path["prefix"])


def _route(method: str, path: str, handler: Any, summary: str, **more: Any) -> Route:
    return Route(
        method=method, path=path, handler=handler, summary=summary, tag="keys", max_body_bytes=_MAX_BODY_BYTES, **more
    )


ROUTES = (
    _route(
        "POST", "/v1/keys", _create, "Make a key; this answer alone holds it.",
        scope=Scope.ADMIN_WRITE, body=NewKey, answer=manage.MadeKey, status=201,
    ),
    _route(
        "GET", "/v1/keys", _list, "Keys, the newest first: all with admin:read, otherwise one's own.",
        scope=ANY_KEY, query=KeysQuery, answer=manage.Keys,
    ),
    _route(
        "GET", "/v1/keys/me", _me, "The key that asks: what it may, and how often.",
        scope=ANY_KEY, answer=manage.WhoAmI,
    ),
    _route(
        "GET", "/v1/keys/usage", _usage, "What keys did, by day and by model.",
        scope=Scope.ADMIN_READ, query=UsageQuery, answer=reports.UsageReport,
    ),
    _route(
        "GET", "/v1/keys/access", _access, "Who got which data, the newest first.",
        scope=Scope.ADMIN_READ, query=AccessQuery, answer=reports.AccessLog,
    ),
    _route(
        "GET", "/v1/keys/{prefix}", _show, "One key: any with admin:read, otherwise one's own.",
        scope=ANY_KEY, answer=manage.KeyInfo,
    ),
    _route(
        "PATCH", "/v1/keys/{prefix}", _change, "Change what a key may.",
        scope=Scope.ADMIN_WRITE, body=KeyChange, answer=manage.KeyInfo,
    ),
    _route(
        "DELETE", "/v1/keys/{prefix}", _revoke, "Revoke a key: any with admin:write, otherwise one's own.",
        scope=ANY_KEY, answer=manage.KeyInfo,
    ),
    _route(
        "POST", "/v1/keys/{prefix}/rotate", _rotate,
        "A new key in the place of one, which expires: any with admin:write, otherwise the key that asks.",
        scope=ANY_KEY, body=Rotation, answer=manage.MadeKey, status=201,
    ),
)  # fmt: skip
