"""From a request's key to a `Principal`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from ssmd_api.auth.access import Principal, expand
from ssmd_api.auth.keys import ApiKey, parse_key
from ssmd_api.auth.wrong_keys import WrongKeys
from ssmd_api.changes import Changes, Generation
from ssmd_api.errors import UnauthorizedError
from ssmd_core.clock import Clock
from ssmd_core.db.connect import now_of

_MAX_KEPT = 10_000
_REFUSED = "no valid API key: send it as X-API-Key, or as Authorization: Bearer"
_COLUMNS = (
    "key_prefix, key_hash, user_id, user_email, scopes, rate_limit_tier, allowed_feeds, date_range_start, "
    "date_range_end, expires_at"
)


class _Kept(NamedTuple):
    principal: Principal
    generation: Generation


class Authenticator:
    """Checks keys against the table `api_keys`.

    A key that has proved itself is remembered by its digest, in this process only, until the table changes.
    """

    def __init__(self, pool: AsyncConnectionPool, changes: Changes, clock: Clock, wrong: WrongKeys) -> None:
        self._pool = pool
        self._changes = changes
        self._clock = clock
        self._wrong = wrong
        self._kept: dict[str, _Kept] = {}

    async def principal(self, headers: Mapping[str, str], address: str) -> Principal:
        """Who asks.

        Args:
            address: the client's.

        Raises:
            UnauthorizedError: no key, or one that is malformed, unknown, wrong, revoked or expired; never which.
            RateLimitedError: too many of those.
            psycopg.Error: Postgres refused or went away.
        """
        text = key_text(headers)
        key = parse_key(text)
        if key is None:
            if text:
                self._wrong.malformed(address)
            raise UnauthorizedError(_REFUSED)
        generation = self._changes.generation(("api_keys",))
        kept = self._kept.get(key.digest)
        if kept is not None and kept.generation == generation:
            return self._unexpired(kept.principal)
        counted = await self._wrong.suspect(key, address)
        try:
            principal = await self._look_up(key)
        except UnauthorizedError:
            raise
        except BaseException:
            self._wrong.clear(counted)  # whether it is wrong is not known
            raise
        self._wrong.clear(counted)
        if generation is not None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[key.digest] = _Kept(principal, generation)
        return self._unexpired(principal)

    def _unexpired(self, principal: Principal) -> Principal:
        if principal.expires_at is not None and principal.expires_at <= now_of(self._clock):
            raise UnauthorizedError(_REFUSED)
        return principal

    async def _look_up(self, key: ApiKey) -> Principal:
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"SELECT {_COLUMNS} FROM api_keys WHERE key_prefix = %s AND revoked_at IS NULL".encode(), (key.prefix,)
            )
            row = await cursor.fetchone()
        # The comparison runs for an unknown prefix too, so that the time tells nothing.
        if not key.matches(row["key_hash"] if row else "0" * 64) or row is None:
            raise UnauthorizedError(_REFUSED)
        return principal_of(row)


def key_text(headers: Mapping[str, str]) -> str:
    """What the request gives as its key: `X-API-Key`, else `Authorization: Bearer`; "" if neither."""
    if text := headers.get("x-api-key", ""):
        return text
    kind, _, rest = headers.get("authorization", "").partition(" ")
    return rest.strip() if kind.lower() == "bearer" else ""


def principal_of(row: Mapping[str, object]) -> Principal:
    """A row of `api_keys` as a principal."""
    expires_at = row["expires_at"]
    assert expires_at is None or isinstance(expires_at, datetime)
    return Principal(
        key_prefix=str(row["key_prefix"]),
        user_id=str(row["user_id"]),
        user_email=str(row["user_email"]),
        scopes=expand(row["scopes"]),  # type: ignore[arg-type]  # text[]
        tier=str(row["rate_limit_tier"]),
        feeds=frozenset(row["allowed_feeds"]),  # type: ignore[call-overload]  # text[]
        first_day=row["date_range_start"],  # type: ignore[arg-type]  # date
        last_day=row["date_range_end"],  # type: ignore[arg-type]  # date
        expires_at=expires_at,
    )
