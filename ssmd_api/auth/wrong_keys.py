"""Limits of guessing: so many keys that are not valid, by client address and by key prefix.

No guess reaches 192 random bits; the limit spares the database. It must not turn against a key's owner, who may share
an address with whoever guesses, or own the prefix that is guessed at. So beyond the limit a key is compared with those
that are in force, kept in memory: one of them is let through, whatever its address, and everything else is refused
without a look into the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from psycopg_pool import AsyncConnectionPool

from ssmd_api.auth.keys import ApiKey
from ssmd_api.auth.limits import MemoryLimiter
from ssmd_api.changes import Changes, Generation
from ssmd_api.errors import RateLimitedError

#: Keys a minute that are not valid, from an address, and of a prefix.
MAX_WRONG = 20

_TOO_MANY = "too many keys that are not valid"
_DIGESTS = b"SELECT key_hash FROM api_keys WHERE revoked_at IS NULL"
_MAX_AGE_S = 1.0
_IPV6_NETWORK_BITS = 64

Counted = list[tuple[MemoryLimiter, str]]


class WrongKeys:
    """Counts, in this process. See module."""

    def __init__(self, pool: AsyncConnectionPool, changes: Changes, monotonic: Callable[[], float]) -> None:
        self._pool = pool
        self._changes = changes
        # Apart, so that made-up prefixes push out no address.
        self._addresses = MemoryLimiter(monotonic)
        self._prefixes = MemoryLimiter(monotonic)
        self._digests: frozenset[str] = frozenset()
        self._generation: Generation | None = None
        self._monotonic = monotonic
        self._loaded_s = -_MAX_AGE_S
        self._loading = asyncio.Lock()

    def malformed(self, address: str) -> None:
        """Count what is not of a key's form.

        Raises:
            RateLimitedError: too many.
        """
        allowance = self._addresses.count(network(address), MAX_WRONG)
        if not allowance.allowed:
            raise RateLimitedError(_TOO_MANY, retry_after_s=allowance.reset_s)

    async def suspect(self, key: ApiKey, address: str) -> Counted:
        """Count a key before it is looked up.

        Returns:
            For `clear`, if it was right.

        Raises:
            RateLimitedError: too many, and this one is not in force either.
            psycopg.Error: Postgres refused or went away.
        """
        counted: Counted = []
        for limiter, name in ((self._addresses, network(address)), (self._prefixes, key.prefix)):
            allowance = limiter.count(name, MAX_WRONG)
            if allowance.allowed:
                counted.append((limiter, name))
            elif not await self._in_force(key):
                raise RateLimitedError(_TOO_MANY, retry_after_s=allowance.reset_s)
        return counted

    def clear(self, counted: Counted) -> None:
        """Take back what `suspect` has counted."""
        for limiter, name in counted:
            limiter.give_back(name)

    async def _in_force(self, key: ApiKey) -> bool:
        """Whether it is a key of the table, as that was a second ago at the earliest."""
        async with self._loading:
            generation = self._changes.generation(("api_keys",))
            now_s = self._monotonic()
            # While nobody tells of changes, the table is read once a second.
            fresh = generation == self._generation if generation is not None else now_s < self._loaded_s + _MAX_AGE_S
            if not fresh:
                async with self._pool.connection() as connection:
                    rows = await (await connection.execute(_DIGESTS)).fetchall()
                self._digests, self._generation, self._loaded_s = frozenset(row[0] for row in rows), generation, now_s
        return key.digest in self._digests


def network(address: str) -> str:
    """Whom an address belongs to: itself, but for IPv6, where everybody has 2⁶⁴ of them."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{int(found) >> _IPV6_NETWORK_BITS:016x}"
