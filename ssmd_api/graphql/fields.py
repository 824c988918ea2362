"""Root fields: what each needs of a key, said where it is declared and enforced in one place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import graphene

from ssmd_api.auth.access import ANY_KEY, AnyKey, Scope
from ssmd_api.graphql.context import Context
from ssmd_api.routing import Call, DayRule, FeedRule, Route, reach
from ssmd_core.secmaster.as_of import check_text


@dataclass(frozen=True, slots=True, kw_only=True)
class RootField:
    """A field of Query or Mutation.

    Attributes:
        gives: graphene type.
        resolve: gets the checked call; arguments are members of `call.query`, None where not given.
        scope, feeds, days: as in `ssmd_api.routing.Route`.
        about: one sentence.
        kept: whether the synced tables alone decide the answer, so that it may be kept until one of them changes.
    """

    gives: Any
    resolve: Callable[[Call], Awaitable[Any]]
    scope: Scope | AnyKey
    feeds: tuple[str, ...] | FeedRule | None
    days: DayRule | None
    about: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kept: bool = False


def as_graphene(name: str, declared: RootField) -> Any:
    """The field with its checks before its resolver."""
    needs = "Any key" if declared.scope == ANY_KEY else f"Scope `{declared.scope}`"
    return graphene.Field(
        declared.gives,
        name=name,
        args=dict(declared.arguments),
        description=f"{declared.about} {needs}.",
        resolver=_guarded(name, declared),
    )


def _guarded(name: str, declared: RootField) -> Callable[..., Awaitable[Any]]:
    """The resolver, reached only by who may."""
    route = Route(
        method="POST", path=f"graphql:{name}", handler=declared.resolve, summary=declared.about, tag="graphql",
        scope=declared.scope, feeds=declared.feeds, days=declared.days,
    )  # fmt: skip
    absent = dict.fromkeys((*declared.arguments, "as_of"))

    async def resolve(root: None, info: Any, **given: Any) -> Any:
        del root
        context: Context = info.context
        if declared.scope != ANY_KEY:
            context.principal.check_scope(declared.scope)
        for argument, value in given.items():
            if isinstance(value, str):
                check_text(argument, value)
        call = Call(
            context.services, context.request, route, context.request_id, context.principal,
            query=SimpleNamespace(**absent | given),
        )  # fmt: skip
        reach(call, context.principal, context.services.now)
        return await declared.resolve(call)

    return resolve
