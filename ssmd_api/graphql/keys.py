"""Root fields of keys, by the rules of `ssmd_api.auth.manage`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import graphene

from ssmd_api.auth import manage
from ssmd_api.auth.access import ANY_KEY, Scope
from ssmd_api.auth.records import DEFAULT_OVERLAP_HOURS, KeyChange, NewKey
from ssmd_api.graphql import scalars
from ssmd_api.graphql.cursors import Connection, check_first
from ssmd_api.graphql.fields import RootField
from ssmd_api.graphql.structs import struct_type
from ssmd_api.graphql.types import choice_of, connection_of, list_of, paging
from ssmd_api.routing import Call

_TEXT, _WHOLE = graphene.String, graphene.Int


class KeyEnvironment(StrEnum):
    """Part of a key's text; nothing else depends on it."""

    LIVE = "live"
    TEST = "test"


KEY = struct_type(manage.KeyInfo, "Key", "What may be told of a key.")
MADE = struct_type(manage.MadeKey, "MadeKey", "A new key; `key` is shown this once.")


def _rights(*, required: bool) -> dict[str, Any]:
    return {
        "scopes": graphene.Argument(list_of(_TEXT), required=required),
        "allowed_feeds": graphene.Argument(list_of(_TEXT), required=required),
        "date_range_start": graphene.Argument(scalars.DATE, required=required),
        "date_range_end": graphene.Argument(scalars.DATE, required=required),
        "rate_limit_tier": graphene.Argument(_TEXT),
        "expires_in_hours": graphene.Argument(_WHOLE, description="From now."),
    }


def _prefix() -> dict[str, Any]:
    return {"prefix": graphene.Argument(_TEXT, required=True, description="The key's public part.")}


async def _keys(call: Call) -> Any:
    query = call.query
    found = await manage.page(
        call.services, call.principal, user_email=query.user_email, revoked=query.revoked,
        limit=check_first(query.first), cursor=query.after,
    )  # fmt: skip
    return Connection(found.keys, found.next_cursor is not None, query.after is not None, lambda key: str(key.prefix))


async def _create(call: Call) -> Any:
    query = call.query
    new = NewKey(
        name=query.name,
        scopes=query.scopes,
        allowed_feeds=query.allowed_feeds,
        date_range_start=query.date_range_start,
        date_range_end=query.date_range_end,
        rate_limit_tier=query.rate_limit_tier or "standard",
        environment=query.environment.value,
        user_email=query.user_email,
        expires_in_hours=query.expires_in_hours,
    )
    return await manage.create(call.services, call.principal, new)


async def _update(call: Call) -> Any:
    query = call.query
    given = {name: value for name in _rights(required=False) if (value := getattr(query, name)) is not None}
    if query.never_expires:
        given["expires_in_hours"] = None
    return await manage.change(call.services, call.principal, query.prefix, KeyChange(**given))


async def _rotate(call: Call) -> Any:
    return await manage.rotate(call.services, call.principal, call.query.prefix, call.query.overlap_hours)


async def _revoke(call: Call) -> Any:
    return await manage.revoke(call.services, call.principal, call.query.prefix)


QUERIES: dict[str, RootField] = {
    "keys": RootField(
        gives=connection_of(KEY),
        arguments={
            "user_email": graphene.Argument(_TEXT, description="Only this owner's."),
            "revoked": graphene.Argument(
                graphene.Boolean, required=True, default_value=False, description="Also those that are revoked."
            ),
        }
        | paging(),
        scope=ANY_KEY,
        feeds=None,
        days=None,
        about="Keys, the newest first: with `admin:read` all, else those of the key's owner.",
        resolve=_keys,
    ),
}
MUTATIONS: dict[str, RootField] = {
    "createKey": RootField(
        gives=MADE,
        arguments={"name": graphene.Argument(_TEXT, required=True)}
        | _rights(required=True)
        | {
            "environment": graphene.Argument(
                choice_of(KeyEnvironment, "KeyEnvironment"),
                required=True,
                default_value=KeyEnvironment.LIVE,
            ),
            "user_email": graphene.Argument(_TEXT, description="Who gets it; default the asking key's owner."),
        },
        scope=Scope.ADMIN_WRITE,
        feeds=None,
        days=None,
        about="Make a key.",
        resolve=_create,
    ),
    "updateKey": RootField(
        gives=KEY,
        arguments=_prefix()
        | _rights(required=False)
        | {"never_expires": graphene.Argument(graphene.Boolean, required=True, default_value=False)},
        scope=Scope.ADMIN_WRITE,
        feeds=None,
        days=None,
        about="Change what a key reaches; what is not given stays.",
        resolve=_update,
    ),
    "rotateKey": RootField(
        gives=MADE,
        arguments=_prefix()
        | {"overlap_hours": graphene.Argument(_WHOLE, required=True, default_value=DEFAULT_OVERLAP_HOURS)},
        scope=ANY_KEY,
        feeds=None,
        days=None,
        about="A new key with another's rights, which itself expires after the overlap; another key than the asking "
        "one needs `admin:write`.",
        resolve=_rotate,
    ),
    "revokeKey": RootField(
        gives=KEY,
        arguments=_prefix(),
        scope=ANY_KEY,
        feeds=None,
        days=None,
        about="Revoke a key for ever; another owner's needs `admin:write`.",
        resolve=_revoke,
    ),
}
