"""Keys, managed by keys: what REST, GraphQL and other doors do for a principal.

A key without `admin:read` sees its owner's keys; without `admin:write` it may revoke these and rotate itself. To rotate
another would hand out that one's rights. With `admin:write` a key may give any scope, feed and day by name; `*` stands
only in keys that the command line has made.
"""

from __future__ import annotations

from datetime import date, datetime

import msgspec
import structlog

from ssmd_api.auth import records
from ssmd_api.auth.access import Principal, Scope
from ssmd_api.auth.limits import WINDOW_S
from ssmd_api.auth.records import KeyChange, NewKey, Owner
from ssmd_api.errors import ForbiddenError
from ssmd_api.services import Services

log = structlog.get_logger()

_TABLE = "api_keys"


class KeyInfo(msgspec.Struct, kw_only=True, rename="camel"):
    """What may be told of a key.

    Attributes:
        prefix: its public part.
        created_by: prefix of the key that made it; None for the command line.
        rotated_from: prefix of the key that it replaces.
    """

    prefix: str
    name: str
    user_id: str
    user_email: str
    scopes: list[str]
    rate_limit_tier: str
    allowed_feeds: list[str]
    date_range_start: date
    date_range_end: date
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_by: str | None
    rotated_from: str | None


class MadeKey(KeyInfo, kw_only=True, rename="camel"):
    """A new key.

    Attributes:
        key: itself; nobody can ask for it later.
    """

    key: str


class Keys(msgspec.Struct, kw_only=True, rename="camel"):
    """A part of the list of keys.

    Attributes:
        next_cursor: to go on with; None at the end.
    """

    keys: list[KeyInfo]
    next_cursor: str | None


class RateLimit(msgspec.Struct, kw_only=True, rename="camel"):
    """How often a key may ask.

    Attributes:
        limit: requests in any `window_seconds`.
        used: of those, now.
    """

    tier: str
    limit: int
    window_seconds: int
    used: int


class WhoAmI(KeyInfo, kw_only=True, rename="camel"):
    """The key that asks.

    Attributes:
        effective_scopes: with those that its scopes imply.
        feeds: that it reaches.
    """

    effective_scopes: list[str]
    feeds: list[str]
    rate_limit: RateLimit


async def create(services: Services, principal: Principal, new: NewKey) -> MadeKey:
    """Make a key.

    Raises:
        ForbiddenError: not for this principal.
        InvalidRequestError: a value cannot be used.
        psycopg.Error: Postgres refused or went away.
    """
    principal.check_scope(Scope.ADMIN_WRITE)
    maker = Owner(principal.user_id, principal.user_email)
    owner = maker if new.user_email is None else Owner.of(new.user_email)
    tiers = await services.tiers.limits()
    async with services.writing() as connection:
        made = await records.insert(
            connection, new, owner, services.now, tiers=tiers, wildcards=(), created_by=principal.key_prefix
        )
    _changed(services, principal, "key_created", made.row["prefix"])
    return MadeKey(key=made.text, **made.row)


async def find(services: Services, principal: Principal, prefix: str) -> KeyInfo:
    """One key, revoked or not.

    Raises:
        ForbiddenError: not this principal's to see, or unknown to one that does not see all.
        NotFoundError: no such key.
        psycopg.Error: Postgres refused or went away.
    """
    await _check_own(services, principal, prefix, Scope.ADMIN_READ)
    async with services.reading() as connection:
        return KeyInfo(**await records.find(connection, prefix))


async def page(
    services: Services,
    principal: Principal,
    *,
    user_email: str | None = None,
    revoked: bool = False,
    limit: int = 100,
    cursor: str | None = None,
) -> Keys:
    """Keys that the principal may see, the newest first.

    Args:
        user_email: only this owner's.
        revoked: also those that are.
        cursor: `next_cursor` of the part before.

    Raises:
        InvalidRequestError: a limit outside of 1 to `records.MAX_LIMIT`.
        psycopg.Error: Postgres refused or went away.
    """
    user_id = None if principal.has(Scope.ADMIN_READ) else principal.user_id
    async with services.reading() as connection:
        rows, next_cursor = await records.page(
            connection, user_id=user_id, user_email=user_email, revoked=revoked, limit=limit, cursor=cursor
        )
    return Keys(keys=[KeyInfo(**row) for row in rows], next_cursor=next_cursor)


async def change(services: Services, principal: Principal, prefix: str, wanted: KeyChange) -> KeyInfo:
    """Change scopes, tier, feeds, days or expiry of a key.

    Raises:
        ForbiddenError: not for this principal.
        InvalidRequestError: a value cannot be used, or the key is revoked.
        NotFoundError: no such key.
        psycopg.Error: Postgres refused or went away.
    """
    principal.check_scope(Scope.ADMIN_WRITE)
    tiers = await services.tiers.limits()
    async with services.writing() as connection:
        row = await records.change(connection, prefix, wanted, services.now, tiers=tiers, wildcards=())
    _changed(services, principal, "key_changed", prefix)
    return KeyInfo(**row)


async def rotate(
    services: Services, principal: Principal, prefix: str, overlap_hours: int = records.DEFAULT_OVERLAP_HOURS
) -> MadeKey:
    """A new key, by id and secret, with another's rights; that one expires after the overlap.

    Raises:
        ForbiddenError: another key than the principal's, which lacks admin:write.
        InvalidRequestError: the key is revoked, expired or has a successor already; an overlap out of range.
        NotFoundError: no such key.
        psycopg.Error: Postgres refused or went away.
    """
    if prefix != principal.key_prefix:
        principal.check_scope(Scope.ADMIN_WRITE)
    async with services.writing() as connection:
        made = await records.rotate(
            connection, prefix, services.now, overlap_hours=overlap_hours, created_by=principal.key_prefix
        )
    _changed(services, principal, "key_rotated", prefix)
    return MadeKey(key=made.text, **made.row)


async def revoke(services: Services, principal: Principal, prefix: str) -> KeyInfo:
    """Revoke a key for ever.

    Raises:
        ForbiddenError: another owner's key than the principal's, which lacks admin:write.
        NotFoundError: no such key.
        psycopg.Error: Postgres refused or went away.
    """
    await _check_own(services, principal, prefix, Scope.ADMIN_WRITE)
    async with services.writing() as connection:
        row = await records.revoke(connection, prefix)
    _changed(services, principal, "key_revoked", prefix)
    return KeyInfo(**row)


async def who_am_i(services: Services, principal: Principal) -> WhoAmI:
    """What the principal is, and how far it reaches.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    async with services.reading() as connection:
        row = await records.find(connection, principal.key_prefix)
    used = await services.limiter.used([principal.key_prefix])
    limit = RateLimit(
        tier=principal.tier,
        limit=await services.tiers.limit(principal.tier),
        window_seconds=int(WINDOW_S),
        used=used[principal.key_prefix],
    )
    return WhoAmI(
        effective_scopes=sorted(principal.scopes), feeds=list(principal.allowed_feeds), rate_limit=limit, **row
    )


async def _check_own(services: Services, principal: Principal, prefix: str, scope: Scope) -> None:
    """Refuse another owner's key to a principal without the scope; an unknown one likewise, so that nothing is told."""
    if principal.has(scope) or prefix == principal.key_prefix:
        return
    owners = await services.rows("SELECT user_id FROM api_keys WHERE key_prefix = %s", (prefix,))
    if not owners or owners[0]["user_id"] != principal.user_id:
        raise ForbiddenError(f"another owner's key needs the scope {scope}")


def _changed(services: Services, principal: Principal, what: str, prefix: str) -> None:
    services.changes.bump(_TABLE)
    log.info(what, prefix=prefix, by=principal.key_prefix)
