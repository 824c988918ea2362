"""The DuckDB query that takes a message type's raw values out of archive lines.

Every value comes out as text: as the venue's string, or as JSON text where the next step must tell a string from a
number. The query has no conditional expression: with one in it, DuckDB parses every line twice.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ssmd_core.feeds.base import Column, Feed, Schema, Source

_LEVEL = {"price": "JSON", "size": "JSON", "qty": "JSON"}
_META = ("_nats_seq", "_received_at", "_epoch", "_ordinal")


ITEMS = "items"


@dataclass(frozen=True, slots=True)
class RawColumn:
    """Where the raw values of one source of a column stand in the query's result.

    Attributes:
        name: of the result's column; "" if they stand in the elements of `items`.
        members: path in the elements.
        column: whose values they are.
        source: which of the column's sources it is.
    """

    name: str
    members: tuple[str, ...]
    column: Column
    source: Source


@dataclass(frozen=True, slots=True)
class Query:
    """The query of a message type.

    Attributes:
        sql: over a table `chunk(i INTEGER, line VARCHAR)`, one row a line, in their order. Result: `i`, the type
            members, the raw columns, `items` (list of structs) with explode, and `_nats_seq`, `_received_at` (µs),
            `_epoch`, `_ordinal`. A line that is not JSON is an error.
        tolerant_sql: the same, but a line that is not JSON is a row of nulls; a tenth slower.
        type_members: result columns that may hold the message type, in the order in which they are tried.
        raw: the raw columns; those of one table column in the order in which they are tried.
    """

    sql: str
    tolerant_sql: str
    type_members: tuple[str, ...]
    raw: tuple[RawColumn, ...]


def has_query(schema: Schema) -> bool:
    """Whether a query can serve the schema: not where it reads an object both whole and by its members.

    That is so for Kalshi's lifecycle only, of which there are a few thousand in an hour.
    """
    paths = {source.path for column in schema.columns for source in column.sources}
    return not any(other.startswith(f"{path}.") for path in paths for other in paths)


def build_query(feed: Feed, schema: Schema, first_only: Collection[str] = ()) -> Query:
    """The query of one message type; of `schema.explode` it serves the first path.

    Args:
        first_only: columns of which only the first source is read.
    """
    sources = [
        (column, source)
        for column in schema.columns
        for source in (column.sources[:1] if column.name in first_only else column.sources)
    ]
    # A path that is read in two ways, as levels and as JSON, comes out as JSON and is parsed again for its levels.
    as_json = {source.path for _, source in sources if source.convert == "json"}
    structure: dict[str, Any] = {
        **dict.fromkeys(feed.type_key, "VARCHAR"),
        "_nats_seq": "UBIGINT",
        "_received_at": "BIGINT",
        "_epoch": "VARCHAR",
        "_ordinal": "BIGINT",
    }
    item: dict[str, Any] = {}
    for _, source in sources:
        in_item = source.path.startswith("item.")
        leaf = "JSON" if source.path in as_json else _leaf(source)
        _put(item if in_item else structure, source.path.removeprefix("item."), leaf)
    if schema.explode:
        _put(structure, schema.explode[0], [item])

    types = tuple(f"t{number}" for number in range(len(feed.type_key)))
    selected = [f"r.{_identifier(key)} AS {name}" for key, name in zip(feed.type_key, types, strict=True)]
    raw = []
    for number, (column, source) in enumerate(sources):
        if source.path.startswith("item."):
            raw.append(RawColumn("", tuple(source.path.split(".")[1:]), column, source))
            continue
        shared = source.convert == "levels" and source.path in as_json
        selected.append(f"{_value(source, shared)} AS c{number}")
        raw.append(RawColumn(f"c{number}", (), column, source))
    if schema.explode:
        selected.append(f"{_expression(schema.explode[0])} AS {ITEMS}")
    selected += [f"r.{name}" for name in _META]
    parse = f"from_json(line, {_literal(json.dumps(structure))})"
    return Query(_select(parse, selected), _select(f"TRY({parse})", selected), types, tuple(raw))


def _select(parsed: str, selected: list[str]) -> str:
    return f"SELECT i, {', '.join(selected)} FROM (SELECT i, {parsed} AS r FROM chunk)"


def _leaf(source: Source) -> Any:
    match source.convert:
        case "decimal" | "cents" | "cents_or_dollars":
            return "JSON"
        case "levels":
            return [_LEVEL]
        case "pairs" | "cents_pairs":
            return [["JSON"]]
        case _:
            return "VARCHAR"


def _value(source: Source, shared: bool) -> str:
    value = _expression(source.path)
    return f"TRY(from_json({value}, {_literal(json.dumps([_LEVEL]))}))" if shared else value


def _expression(path: str) -> str:
    return ".".join(["r", *(_identifier(member) for member in path.split("."))])


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _put(into: dict[str, Any], path: str, leaf: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        into = into.setdefault(parent, {})
    into.setdefault(last, leaf)
