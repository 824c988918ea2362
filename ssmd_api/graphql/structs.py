"""GraphQL types of what the API's plain functions give: made from their Structs, so that no member is written twice."""

from __future__ import annotations

from typing import Any

import graphene
import msgspec
from msgspec import inspect

from ssmd_api.graphql import scalars
from ssmd_api.graphql.types import list_of

_SCALARS: dict[type[inspect.Type], Any] = {
    inspect.StrType: graphene.String,
    inspect.EnumType: graphene.String,
    inspect.LiteralType: graphene.String,
    inspect.BoolType: graphene.Boolean,
    inspect.IntType: scalars.LONG,
    inspect.FloatType: graphene.Float,
    inspect.DecimalType: scalars.DECIMAL,
    inspect.DateTimeType: scalars.DATE_TIME,
    inspect.DateType: scalars.DATE,
    inspect.DictType: scalars.JSON,
    inspect.AnyType: scalars.JSON,
}
_made: dict[type[msgspec.Struct], Any] = {}


def struct_type(kind: type[msgspec.Struct], name: str, text: str, *, without: frozenset[str] = frozenset()) -> Any:
    """The type of a Struct.

    A Struct within another one must have been given its type before.

    Args:
        without: members that are left out; such a type is not that of the Struct within others.
    """
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    fields = {one.name: _field(one) for one in info.fields if one.name not in without}
    meta = type("Meta", (), {"default_resolver": _member})
    made = type(name, (graphene.ObjectType,), {"__doc__": text, "Meta": meta, **fields})
    if not without:
        _made[kind] = made
    return made


def _member(name: str, default: Any, value: Any, info: Any) -> Any:
    del default, info
    return getattr(value, name)


def _field(field: inspect.Field) -> Any:
    options = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
    kinds = [one for one in options if not isinstance(one, inspect.NoneType)]
    return graphene.Field(_kind(kinds[0]), name=field.encode_name, required=len(kinds) == len(options))


def _kind(found: inspect.Type) -> Any:
    if isinstance(found, inspect.ListType):
        return list_of(_kind(found.item_type))
    if isinstance(found, inspect.StructType):
        return _made[found.cls]
    return _SCALARS[type(found)]
