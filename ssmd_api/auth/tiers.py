"""Requests per minute by tier: built in, and as the setting `rate_limit_tiers` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ssmd_api.changes import Changes, Generation
from ssmd_core.errors import ConfigError

log = structlog.get_logger()

#: Name of the setting.
SETTING = "rate_limit_tiers"
#: Requests per minute; an unknown tier is `standard`.
TIERS: Mapping[str, int] = {"standard": 120, "elevated": 1_200, "internal": 6_000}
# Every request of the last minute is remembered: about 100 bytes each.
_MAX_LIMIT = 100_000
_MAX_TIERS = 50
_MAX_NAME_CHARS = 20  # the column's width

_SELECT = f"SELECT value FROM settings WHERE key = '{SETTING}'".encode()


def parse_tiers(value: Any) -> dict[str, int]:
    """All tiers, with those of the setting's value: a name -> requests per minute.

    Raises:
        ConfigError: it is none.
    """
    if value is None:
        return dict(TIERS)
    if not isinstance(value, dict) or len(value) > _MAX_TIERS:
        raise ConfigError(f"{SETTING} is not an object of at most {_MAX_TIERS} tiers")
    for name, limit in value.items():
        if not 0 < len(name) <= _MAX_NAME_CHARS:
            raise ConfigError(f"{SETTING}: a tier's name has 1 to {_MAX_NAME_CHARS} characters, not {len(name)}")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= _MAX_LIMIT:
            raise ConfigError(f"{SETTING}: {name!r} is not a number of requests from 1 to {_MAX_LIMIT}")
    return {**TIERS, **value}


async def read_tiers(connection: psycopg.AsyncConnection) -> dict[str, int]:
    """All tiers; a setting that cannot be used is logged and left out.

    Raises:
        psycopg.Error: Postgres refused or went away.
    """
    row = await (await connection.execute(_SELECT)).fetchone()
    try:
        return parse_tiers(row[0] if row else None)
    except ConfigError as error:
        log.warning("setting_ignored", setting=SETTING, error=str(error))
        return dict(TIERS)


class Tiers:
    """The tiers as they are now: read again when the settings have changed."""

    def __init__(self, pool: AsyncConnectionPool, changes: Changes) -> None:
        self._pool = pool
        self._changes = changes
        self._limits: Mapping[str, int] = TIERS
        self._generation: Generation | None = None

    async def limits(self) -> Mapping[str, int]:
        """Requests per minute, by tier."""
        generation = self._changes.generation(("settings",))
        if generation != self._generation and generation is not None:
            # Whoever asks meanwhile goes by the last known.
            self._generation = generation
            try:
                async with self._pool.connection() as connection:
                    self._limits = await read_tiers(connection)
            except (psycopg.Error, PoolTimeout) as error:
                self._generation = None
                log.warning("tiers_not_read", error=str(error).strip())
        return self._limits

    async def limit(self, tier: str) -> int:
        """Requests per minute of a tier."""
        limits = await self.limits()
        return limits.get(tier, limits["standard"])
