"""`/v1/settings`: rows of `settings`, which every process of the API follows at once."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
import structlog
from psycopg.types.json import Jsonb

from ssmd_api.auth.access import Principal, Scope
from ssmd_api.auth.tiers import SETTING as TIERS_SETTING
from ssmd_api.auth.tiers import parse_tiers
from ssmd_api.errors import InvalidRequestError, UnavailableError
from ssmd_api.llm.options import Options, options_of
from ssmd_api.params import shown
from ssmd_api.routing import Call, Route
from ssmd_api.services import Services
from ssmd_core.errors import ConfigError

log = structlog.get_logger()

_MAX_BYTES = 16 * 1024
_MAX_DEPTH = 16
# Postgres gives 1e22 back as an integer, and JSON of answers has none beyond 64 bits.
_MAX_NUMBER = 2**63
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
_COLUMNS = "key, value, description, updated_at"
_SELECT = f"SELECT {_COLUMNS} FROM settings ORDER BY key"
_UPSERT = f"""
INSERT INTO settings (key, value) VALUES (%s, %s)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = ssmd_now() RETURNING {_COLUMNS}
""".encode()


class Setting(msgspec.Struct, kw_only=True, rename="camel"):
    """A setting; the value is any JSON."""

    key: str
    value: Any
    description: str | None
    updated_at: datetime


class Settings(msgspec.Struct, kw_only=True):
    """All of them, by key."""

    settings: list[Setting]


class NewValue(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A setting's value; null is one."""

    value: Any


async def all_settings(services: Services, principal: Principal) -> Settings:
    """Every setting.

    Raises:
        ForbiddenError: not for this principal.
        psycopg.Error: Postgres refused or went away.
    """
    principal.check_scope(Scope.ADMIN_READ)
    return Settings(settings=[Setting(**row) for row in await services.rows(_SELECT)])


async def put(services: Services, principal: Principal, key: str, value: Any) -> Setting:
    """Set one, which need not have been there.

    Raises:
        ForbiddenError: not for this principal.
        InvalidRequestError: a key or value that cannot be used.
        psycopg.Error: Postgres refused or went away.
    """
    principal.check_scope(Scope.ADMIN_WRITE)
    if not _KEY.fullmatch(key):
        raise InvalidRequestError(f"{shown(key)} is no name of a setting: {_KEY.pattern}", field="key")
    _check_value(value, _MAX_DEPTH)
    try:
        if key == TIERS_SETTING:
            parse_tiers(value)
        elif key in Options.__struct_fields__:
            options_of({key: value})
    except (ConfigError, UnavailableError) as error:
        raise InvalidRequestError(f"value: {error}", field="value") from None
    async with services.writing() as connection:
        row = await (await connection.execute(_UPSERT, (key, Jsonb(value)))).fetchone()
    services.changes.bump("settings")
    log.info("setting_changed", setting=key, by=principal.key_prefix)
    assert row is not None
    return Setting(key=row[0], value=row[1], description=row[2], updated_at=row[3])


def _check_value(value: Any, depth: int) -> None:
    """Refuse what Postgres cannot hold, or only at the cost of its stack, and what could not be told again."""
    if depth == 0:
        raise InvalidRequestError(f"value: nested deeper than {_MAX_DEPTH}", field="value")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_value(name, depth)
            _check_value(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, depth - 1)
    elif isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise InvalidRequestError("value: holds a character that no text in the database has", field="value")
    elif isinstance(value, (int, float)) and abs(value) >= _MAX_NUMBER:
        raise InvalidRequestError("value: holds a number of more than 64 bits", field="value")


async def _list(call: Call) -> Any:
    return await all_settings(call.services, call.principal)


async def _put(call: Call) -> Any:
    return await put(call.services, call.principal, call.path["key"], call.body.value)


ROUTES = (
    Route(
        method="GET", path="/v1/settings", handler=_list, summary="All settings, by name.", tag="settings",
        scope=Scope.ADMIN_READ, answer=Settings,
    ),
    Route(
        method="PUT", path="/v1/settings/{key}", handler=_put, summary="Set one.", tag="settings",
        scope=Scope.ADMIN_WRITE, body=NewValue, answer=Setting, max_body_bytes=_MAX_BYTES,
    ),
)  # fmt: skip
