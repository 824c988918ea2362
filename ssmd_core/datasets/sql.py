"""The DuckDB query that takes a message type's raw values out of archive lines.

Every value comes out as text: as the venue's string, or as JSON text where the next step must tell a string from a
number. A row whose values DuckDB may have altered on their way (it reads JSON numbers with a fraction as binary floats)
is marked `odd`, or found by `project.py`, and is then converted by `reference.py` from the original bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ssmd_core.datasets.arrow import is_levels
from ssmd_core.feeds.base import Column, Convert, Feed, Schema, Source

# Numbers in compact JSON that may have been altered, and control characters, whose escapes DuckDB writes in its way.
_ODD_JSON = "regexp_matches({v}, '[:\\[,]-?(?:[0-9]+[.eE]|NaN|Infinity)|^-?[0-9]+[.eE]|^-?[NI]|\\\\u')"
_META = ("_nats_seq", "_received_at", "_epoch", "_ordinal")


@dataclass(frozen=True, slots=True)
class RawColumn:
    """One column of the query's result.

    Attributes:
        name: in the result.
        column: whose value it is.
        convert: how it is to be read.
    """

    name: str
    column: Column
    convert: Convert


@dataclass(frozen=True, slots=True)
class Query:
    """The query of a message type.

    Attributes:
        sql: over a table `chunk(i INTEGER, routed BOOLEAN, line VARCHAR)`. Result: `i`, `odd`, the raw columns, and
            `_nats_seq`, `_received_at` (µs), `_epoch`, `_ordinal`. Without explode one row a line, in the order of
            the lines; with explode a row an element. A line that is not JSON is an error.
        tolerant_sql: the same, but a line that is not JSON is an odd row, or none with explode; a tenth slower.
        raw: the raw columns; those of one table column in the order in which they are tried.
    """

    sql: str
    tolerant_sql: str
    raw: tuple[RawColumn, ...]


def has_query(schema: Schema) -> bool:
    """Whether a query can serve the schema: not where it reads an object both whole and by its members.

    That is so for Kalshi's lifecycle only, of which there are a few thousand in an hour.
    """
    paths = {source.path for column in schema.columns for source in column.sources}
    return not any(other.startswith(f"{path}.") for path in paths for other in paths)


def build_query(feed: Feed, message_type: str, schema: Schema, first_only: Collection[str] = ()) -> Query:
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

    type_members = ", ".join(f"nullif(r.{_identifier(key)}, '')" for key in feed.type_key)
    odd = [f"NOT (routed OR coalesce({type_members}, '') = {_literal(message_type)})"]
    selected = []
    raw = []
    for number, (column, source) in enumerate(sources):
        shared = source.convert == "levels" and source.path in as_json
        selected.append(f"{_value(source, shared)} AS c{number}")
        raw.append(RawColumn(f"c{number}", column, source.convert))
        odd += _odd(column, source, shared)
    selected += [f"r.{name}" for name in _META]
    parse = f"from_json(line, {_literal(json.dumps(structure))})"
    return Query(
        sql=_select(schema, parse, odd, selected),
        tolerant_sql=_select(schema, f"TRY({parse})", odd, selected),
        raw=tuple(raw),
    )


def _select(schema: Schema, parsed: str, odd: list[str], selected: list[str]) -> str:
    source = f"SELECT i, routed, line, {parsed} AS r FROM chunk"
    if schema.explode:
        source = f"SELECT i, routed, line, r, unnest({_expression(schema.explode[0])}) AS item FROM ({source})"
    return f"SELECT i, coalesce({' OR '.join(odd)}, true) AS odd, {', '.join(selected)} FROM ({source})"


def _leaf(source: Source) -> Any:
    match source.convert:
        case "decimal" | "cents" | "cents_or_dollars":
            return "JSON"
        case "levels":
            return [{"price": "JSON", "size": "JSON", "qty": "JSON"}]
        case "pairs" | "cents_pairs":
            return [["JSON"]]
        case _:
            return "VARCHAR"


def _value(source: Source, shared: bool) -> str:
    value = _expression(source.path)
    if source.convert != "levels":
        return value
    if shared:
        value = f'TRY(from_json({value}, \'[{{"price":"JSON","size":"JSON","qty":"JSON"}}]\'))'
    return f"list_transform({value}, lambda x: {{price: x.price, size: coalesce(x.size, x.qty)}})"


def _odd(column: Column, source: Source, shared: bool) -> list[str]:
    value = _expression(source.path)
    if source.convert == "json":
        return [f"coalesce({_ODD_JSON.format(v=value)}, false)"]
    if not is_levels(column):
        return []
    # What is not an array comes out as null; the member must then not be there at all.
    member = _literal('"' + source.path.rsplit(".", 1)[-1] + '"')
    otherwise = f"NOT starts_with({value}, '[')" if shared else "false"
    return [f"CASE WHEN {value} IS NULL THEN contains(line, {member}) ELSE {otherwise} END"]


def _expression(path: str) -> str:
    head, *tail = path.split(".")
    members = tail if head == "item" else [head, *tail]
    return ".".join(["item" if head == "item" else "r", *(_identifier(member) for member in members)])


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _put(into: dict[str, Any], path: str, leaf: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        into = into.setdefault(parent, {})
    into.setdefault(last, leaf)
