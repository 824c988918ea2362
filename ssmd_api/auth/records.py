"""Rows of `api_keys`: what may stand in one, and the statements that write it. Who may do so stands in `manage`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import psycopg
from msgspec import UNSET, Meta, UnsetType
from psycopg.rows import dict_row

from ssmd_api.auth.access import ALL, Scope
from ssmd_api.auth.keys import Environment, make_key
from ssmd_api.errors import InvalidRequestError, NotFoundError
from ssmd_api.params import shown
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_core.feeds import FEEDS

Row = dict[str, Any]

#: Hours until a key expires, at most: 30 days.
MAX_EXPIRY_HOURS = 720
MAX_OVERLAP_HOURS = 720
DEFAULT_OVERLAP_HOURS = 24
MAX_LIMIT = 1_000
#: Columns that may hold `*`.
WILDCARDS = ("scopes", "allowed_feeds")
_MAX_TEXT_CHARS = 255
_PREFIX_CHARS = 16
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")

#: What may be told of a key; its hash is not among it.
_COLUMNS = (
    "key_prefix AS prefix, name, user_id, user_email, scopes, rate_limit_tier, allowed_feeds, date_range_start, "
    "date_range_end, created_at, last_used_at, expires_at, revoked_at, created_by, rotated_from"
)
_INSERT = f"""
INSERT INTO api_keys (id, key_prefix, key_hash, name, user_id, user_email, scopes, rate_limit_tier, allowed_feeds,
  date_range_start, date_range_end, expires_at, created_by, rotated_from)
VALUES (%(id)s, %(prefix)s, %(key_hash)s, %(name)s, %(user_id)s, %(user_email)s, %(scopes)s, %(rate_limit_tier)s,
  %(allowed_feeds)s, %(date_range_start)s, %(date_range_end)s, %(expires_at)s, %(created_by)s, %(rotated_from)s)
RETURNING {_COLUMNS}
"""
_UPDATE = f"""
UPDATE api_keys SET scopes = %(scopes)s, rate_limit_tier = %(rate_limit_tier)s, allowed_feeds = %(allowed_feeds)s,
  date_range_start = %(date_range_start)s, date_range_end = %(date_range_end)s, expires_at = %(expires_at)s
WHERE key_prefix = %(prefix)s RETURNING {_COLUMNS}
"""
# NULL is no condition.
_LIST = f"""
SELECT {_COLUMNS} FROM api_keys
WHERE (%(user_id)s::text IS NULL OR user_id = %(user_id)s)
  AND (%(user_email)s::text IS NULL OR lower(user_email) = lower(%(user_email)s))
  AND (%(revoked)s OR revoked_at IS NULL)
  AND (%(prefix)s::text IS NULL OR (created_at, key_prefix) < (%(created_at)s, %(prefix)s))
ORDER BY created_at DESC, key_prefix DESC LIMIT %(limit)s
"""


class NewKey(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A key to make.

    Attributes:
        date_range_start, date_range_end: days that it reaches, inclusive.
        environment: part of the key's text, nothing else depends on it.
        user_email: who gets it and owns it; None for whoever makes it.
        expires_in_hours: None for never.
    """

    name: str
    scopes: list[str]
    allowed_feeds: list[str]
    date_range_start: date
    date_range_end: date
    rate_limit_tier: str = "standard"
    environment: Literal["live", "test"] = "live"
    user_email: str | None = None
    expires_in_hours: Annotated[int, Meta(ge=1, le=MAX_EXPIRY_HOURS)] | None = None


class KeyChange(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What of a key shall become different; what is not given stays.

    Attributes:
        expires_in_hours: from now; None for never.
    """

    scopes: list[str] | UnsetType = UNSET
    allowed_feeds: list[str] | UnsetType = UNSET
    date_range_start: date | UnsetType = UNSET
    date_range_end: date | UnsetType = UNSET
    rate_limit_tier: str | UnsetType = UNSET
    expires_in_hours: Annotated[int, Meta(ge=1, le=MAX_EXPIRY_HOURS)] | UnsetType | None = UNSET


class Owner(NamedTuple):
    """Whose key it is."""

    user_id: str
    user_email: str

    @classmethod
    def of(cls, user_email: str) -> Owner:
        """The owner with an address.

        Raises:
            InvalidRequestError: it is none.
        """
        text = user_email.strip().lower()
        if not _EMAIL.fullmatch(text) or not text.isprintable() or len(text) > _MAX_TEXT_CHARS:
            raise InvalidRequestError(f"userEmail: {shown(user_email)} is no e-mail address", field="userEmail")
        return cls(text, text)


class MadeKey(NamedTuple):
    """A key that was made.

    Attributes:
        text: the key itself, which nobody can ask for later.
    """

    text: str
    row: Row


def check_values(values: Mapping[str, Any], tiers: Collection[str], *, wildcards: Collection[str]) -> Row:
    """A key's columns, checked, lists sorted and without repetitions.

    Args:
        values: those of `NewKey` that a key keeps.
        wildcards: columns in which `*` may stand for all, see `WILDCARDS`.

    Raises:
        InvalidRequestError: one cannot be used.
    """
    checked = dict(values)
    checked["scopes"] = _among("scopes", values["scopes"], [*Scope], "scopes" in wildcards)
    feeds = _among("allowedFeeds", values["allowed_feeds"], [*FEEDS], "allowed_feeds" in wildcards)
    checked["allowed_feeds"] = feeds
    if values["date_range_start"] > values["date_range_end"]:
        raise InvalidRequestError(
            f"dateRangeStart: {values['date_range_start']} is after dateRangeEnd: {values['date_range_end']}",
            field="dateRangeStart",
        )
    if (tier := values["rate_limit_tier"]) not in tiers:
        raise InvalidRequestError(
            f"rateLimitTier: {shown(tier)} is none of {', '.join(sorted(tiers))}", field="rateLimitTier"
        )
    return checked


def expiry(hours: int | None, now: datetime) -> datetime | None:
    """When a key made now expires.

    Raises:
        InvalidRequestError: not 1 to `MAX_EXPIRY_HOURS`.
    """
    if hours is None:
        return None
    if not 1 <= hours <= MAX_EXPIRY_HOURS:
        raise InvalidRequestError(
            f"expiresInHours: {hours} is not between 1 and {MAX_EXPIRY_HOURS}", field="expiresInHours"
        )
    return now + timedelta(hours=hours)


async def insert(
    connection: psycopg.AsyncConnection,
    new: NewKey,
    owner: Owner,
    now: datetime,
    *,
    tiers: Collection[str],
    wildcards: Collection[str],
    created_by: str | None,
) -> MadeKey:
    """Make a key.

    Raises:
        InvalidRequestError: a value cannot be used.
        psycopg.Error: Postgres refused or went away.
    """
    name = new.name.strip()
    if not name or len(name) > _MAX_TEXT_CHARS or not name.isprintable():
        raise InvalidRequestError(f"name: {shown(new.name)} is not 1 to 255 printable characters", field="name")
    values = check_values(msgspec.structs.asdict(new), tiers, wildcards=wildcards)
    row = {**values, "name": name, "expires_at": expiry(new.expires_in_hours, now), "rotated_from": None}
    return await _insert(connection, row, owner, created_by=created_by, environment=new.environment)


async def change(
    connection: psycopg.AsyncConnection,
    prefix: str,
    wanted: KeyChange,
    now: datetime,
    *,
    tiers: Collection[str],
    wildcards: Collection[str],
) -> Row:
    """Change a key; call it in a transaction.

    Raises:
        InvalidRequestError: nothing, or nothing possible, is to be changed; or the key is revoked.
        NotFoundError: no such key.
        psycopg.Error: Postgres refused or went away.
    """
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
    if not given:
        raise InvalidRequestError("nothing to change was given")
    row = await _locked(connection, prefix)
    # What stays may be what only the command line can give, or a tier that is no more.
    known = {*tiers, row["rate_limit_tier"]}
    values = check_values({**row, **given}, known, wildcards={*wildcards, *(row.keys() - given)})
    if "expires_in_hours" in given:
        values["expires_at"] = expiry(given["expires_in_hours"], now)
    return await _one(connection, _UPDATE, values)


async def rotate(
    connection: psycopg.AsyncConnection, prefix: str, now: datetime, *, overlap_hours: int, created_by: str | None
) -> MadeKey:
    """A new key, by id and secret, with the rights and the expiry of another, which itself expires after an overlap;
    call it in a transaction.

    Raises:
        InvalidRequestError: the key is revoked, expired, or has a successor already: of two holders of a key that
            leaked, the second to rotate it is told.
        NotFoundError: no such key.
        psycopg.Error: Postgres refused or went away.
    """
    if not 0 <= overlap_hours <= MAX_OVERLAP_HOURS:
        raise InvalidRequestError(
            f"overlapHours: {overlap_hours} is not between 0 and {MAX_OVERLAP_HOURS}", field="overlapHours"
        )
    row = await _locked(connection, prefix)
    if row["expires_at"] is not None and row["expires_at"] <= now:
        raise InvalidRequestError(f"the key {prefix} has expired")
    successor = await connection.execute(
        b"SELECT key_prefix FROM api_keys WHERE rotated_from = %s AND revoked_at IS NULL", (prefix,)
    )
    if (found := await successor.fetchone()) is not None:
        raise InvalidRequestError(f"the key {prefix} was rotated already: its successor is {found[0]}")
    made = await _insert(
        connection,
        {**row, "rotated_from": prefix},
        Owner(row["user_id"], row["user_email"]),
        created_by=created_by,
        environment="test" if prefix.startswith("sk_test_") else "live",
    )
    await connection.execute(
        b"UPDATE api_keys SET expires_at = least(expires_at, %s) WHERE key_prefix = %s",
        (now + timedelta(hours=overlap_hours), prefix),
    )
    return made


async def revoke(connection: psycopg.AsyncConnection, prefix: str) -> Row:
    """Revoke a key for ever; one that is already stays as it is.

    Raises:
        NotFoundError: no such key.
        psycopg.Error: Postgres refused or went away.
    """
    statement = (
        f"UPDATE api_keys SET revoked_at = coalesce(revoked_at, ssmd_now()) WHERE key_prefix = %(prefix)s "
        f"RETURNING {_COLUMNS}"
    )
    return await _one(connection, statement, {"prefix": prefix})


async def find(connection: psycopg.AsyncConnection, prefix: str) -> Row:
    """One key, revoked or not.

    Raises:
        NotFoundError: no such key.
        psycopg.Error: Postgres refused or went away.
    """
    return await _one(connection, f"SELECT {_COLUMNS} FROM api_keys WHERE key_prefix = %(prefix)s", {"prefix": prefix})


async def page(
    connection: psycopg.AsyncConnection,
    *,
    user_id: str | None = None,
    user_email: str | None = None,
    revoked: bool = False,
    limit: int = 100,
    cursor: str | None = None,
) -> tuple[list[Row], str | None]:
    """A part of the list of keys, the newest first, and the cursor of the next one.

    Args:
        revoked: also those that are.

    Raises:
        InvalidRequestError: a limit outside of 1 to `MAX_LIMIT`, a cursor of another list.
        psycopg.Error: Postgres refused or went away.
    """
    check_limit(limit)
    question = ("keys", user_id, user_email, revoked)
    created_at, prefix = decode_cursor(question, cursor, (datetime, str)) if cursor is not None else (None, None)
    values = {
        "user_id": user_id, "user_email": user_email, "revoked": revoked,
        "created_at": created_at, "prefix": prefix, "limit": limit + 1,
    }  # fmt: skip
    async with connection.cursor(row_factory=dict_row) as found:
        await found.execute(_LIST.encode(), values)
        rows = await found.fetchall()
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], encode_cursor(question, (last["created_at"], last["prefix"]))


def check_limit(limit: int) -> None:
    """Refuse a limit of a list.

    Raises:
        InvalidRequestError: not 1 to `MAX_LIMIT`.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequestError(f"limit: {limit} is not between 1 and {MAX_LIMIT}", field="limit")


def _among(field: str, values: Iterable[str], known: Collection[str], wildcard: bool) -> list[str]:
    given = set(values)
    if not given:
        raise InvalidRequestError(f"{field} is empty", field=field)
    if strange := sorted(given - set(known) - ({ALL} if wildcard else set())):
        raise InvalidRequestError(f"{field}: {shown(strange[0])} is none of {', '.join(known)}", field=field)
    return sorted(given)


async def _locked(connection: psycopg.AsyncConnection, prefix: str) -> Row:
    row = await _one(
        connection, f"SELECT {_COLUMNS} FROM api_keys WHERE key_prefix = %(prefix)s FOR UPDATE", {"prefix": prefix}
    )
    if row["revoked_at"] is not None:
        raise InvalidRequestError(f"the key {prefix} is revoked")
    return row


async def _insert(
    connection: psycopg.AsyncConnection, values: Row, owner: Owner, *, created_by: str | None, environment: Environment
) -> MadeKey:
    key = make_key(environment)
    row = {
        **values,
        **owner._asdict(),
        "id": str(uuid.uuid4()),
        "prefix": key.prefix,
        "key_hash": key.digest,
        "created_by": created_by,
    }
    return MadeKey(key.text, await _one(connection, _INSERT, row))


async def _one(connection: psycopg.AsyncConnection, statement: str, values: Row) -> Row:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement.encode(), values)
        row = await cursor.fetchone()
    if row is None:
        # Cut: somebody may have given the whole key.
        raise NotFoundError(f"no key {shown(values['prefix'][:_PREFIX_CHARS])}")
    return row
