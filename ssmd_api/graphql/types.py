"""GraphQL's types. Those of the security master come from the tables themselves: no column is written twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import graphene
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from ssmd_api.graphql import scalars
from ssmd_api.graphql.cursors import DEFAULT_FIRST, MAX_FIRST, Connection
from ssmd_core.db.tables import SYNCED, pair_snapshots

_SCALARS: tuple[tuple[type[Any], Any], ...] = (
    (sa.Boolean, graphene.Boolean),
    (sa.BigInteger, scalars.LONG),
    (sa.Integer, graphene.Int),
    (sa.Numeric, scalars.DECIMAL),
    (sa.DateTime, scalars.DATE_TIME),
    (sa.Date, scalars.DATE),
    (pg.JSONB, scalars.JSON),
    (pg.ARRAY, graphene.List(graphene.NonNull(graphene.String))),
    (sa.String, graphene.String),
)


def member(name: str, default: Any, row: dict[str, Any], info: Any) -> Any:
    """How every field of a row is resolved that has no resolver of its own."""
    del default, info
    return row.get(name)


def object_type(name: str, text: str, fields: Mapping[str, Any]) -> Any:
    """A type of rows that are dicts."""
    meta = type("Meta", (), {"default_resolver": member})
    return type(name, (graphene.ObjectType,), {"__doc__": text, "Meta": meta, **fields})


def columns_of(table: sa.Table, *keys: str) -> dict[str, Any]:
    """Fields for a table's columns.

    Args:
        keys: columns that are never null; another may be, in a version from before the column was added.
    """
    return {column.name: graphene.Field(_kind(column.type), required=column.name in keys) for column in table.columns}


def _kind(found: sa.types.TypeEngine[Any]) -> Any:
    return next(kind for base, kind in _SCALARS if isinstance(found, base))


def connection_of(node: Any) -> Any:
    """The connection type of a type: `nodes`, `edges` with cursors, `pageInfo`."""
    name = str(node)
    edge = type(f"{name}Edge", (graphene.ObjectType,), {
        "__doc__": f"A {name} in a list.",
        "cursor": graphene.Field(graphene.String, required=True, resolver=lambda edge, _: edge[0].cursor_of(edge[1])),
        "node": graphene.Field(node, required=True, resolver=lambda edge, _: edge[1]),
    })  # fmt: skip
    return type(f"{name}Connection", (graphene.ObjectType,), {
        "__doc__": f"A part of a list of {name}.",
        "nodes": graphene.Field(list_of(node), required=True),
        "edges": graphene.Field(
            list_of(edge), required=True, resolver=lambda value, _: [(value, row) for row in value.nodes]
        ),
        "page_info": graphene.Field(PAGE_INFO, required=True, resolver=lambda value, _: value),
    })  # fmt: skip


def list_of(kind: Any) -> Any:
    """A list of that type, without nulls."""
    return graphene.List(graphene.NonNull(kind))


def _end(index: int) -> Callable[[Connection, Any], str | None]:
    return lambda value, _: value.cursor_of(value.nodes[index]) if value.nodes else None


PAGE_INFO = type("PageInfo", (graphene.ObjectType,), {
    "__doc__": "Where a part of a list stands.",
    "has_next_page": graphene.Field(graphene.Boolean, required=True, resolver=lambda value, _: value.more),
    "has_previous_page": graphene.Field(graphene.Boolean, required=True, resolver=lambda value, _: value.continued),
    "start_cursor": graphene.Field(graphene.String, resolver=_end(0)),
    "end_cursor": graphene.Field(graphene.String, resolver=_end(-1)),
})  # fmt: skip


def paging() -> dict[str, Any]:
    """Arguments of every list."""
    return {
        "first": graphene.Argument(
            graphene.Int,
            required=True,
            default_value=DEFAULT_FIRST,
            description=f"How many rows, at most {MAX_FIRST}.",
        ),
        "after": graphene.Argument(graphene.String, description="A cursor: the list goes on behind its row."),
    }


class FillRole(StrEnum):
    """Whose order it was."""

    TAKER = "taker"
    MAKER = "maker"


def choice_of(kind: type[StrEnum], name: str) -> Any:
    """The type of a fixed set of words; values are those of the enum, which are text."""
    return graphene.Enum.from_enum(kind, name=name, description=kind.__doc__)


ROLE = choice_of(FillRole, "Role")

#: Table -> name and description of its type.
NAMES = {
    "series": ("Series", "A series of Kalshi's: events of one kind."),
    "events": ("Event", "An event of Kalshi's: what its markets are about."),
    "markets": ("Market", "A market of Kalshi's; prices in dollars, sizes in contracts."),
    "series_fees": ("Fee", "Terms of trading fees of a Kalshi series, in force from `effectiveFrom` to `effectiveTo`."),
    "pairs": ("Pair", "A pair or contract of Kraken's; prices in the quote currency."),
    "polymarket_conditions": ("Condition", "A condition of Polymarket's: a question with its outcomes."),
    "polymarket_tokens": ("Token", "An outcome of a Polymarket condition, traded as a token; prices in dollars."),
}


def _version_type(table: str) -> Any:
    """What a row said for a time."""
    one = SYNCED[table]
    name = NAMES[table][0]
    own = {
        key: field for key, field in columns_of(one.table, one.key).items() if key in {one.key, *one.columns}
    }  # fmt: skip
    return object_type(f"{name}Version", f"What a {name} said from `knownFrom` until `knownTo`.", own | {
        "version": graphene.Field(scalars.LONG, required=True),
        "known_from": graphene.Field(scalars.DATE_TIME, required=True),
        "known_to": graphene.Field(scalars.DATE_TIME, description="Null: it still holds, as far as the key reaches."),
        "effective_at": graphene.Field(scalars.DATE_TIME, description="The venue's own time of the change."),
    })  # fmt: skip


#: By table; relations are added in `relations`.
VERSIONS: dict[str, Any] = {table: _version_type(table) for table in SYNCED}
VERSION_CONNECTIONS: dict[str, Any] = {table: connection_of(kind) for table, kind in VERSIONS.items()}

SNAPSHOT = object_type(
    "PairSnapshot", "What a pair's ticker said at a moment.", columns_of(pair_snapshots, "id", "pair_id")
)
SNAPSHOTS = connection_of(SNAPSHOT)
