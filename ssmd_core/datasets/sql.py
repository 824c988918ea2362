"""The DuckDB query that takes a message type's raw values out of archive lines.

Every value comes out as text: as the venue's string, or as JSON text where the next step must tell a string from a
number. A value that DuckDB may have altered on its way (it reads JSON numbers with a fraction as binary floats) marks
its row `odd`, and the row is then converted by `reference.py` from the original bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ssmd_core.datasets.arrow import is_levels
from ssmd_core.feeds.base import Column, Convert, Feed, Schema, Source

# Texts that DuckDB may have made of something else than a string or a whole number: a fraction, an object, an array,
# a bool, NaN.
_ODD_TEXT = (
    "CASE WHEN {v} < 'A' THEN contains({v}, '.') OR (contains({v}, 'e') AND "
    "regexp_full_match({v}, '-?[0-9](\\.[0-9]+)?e[+-]?[0-9]+')) OR {v} = '-Infinity' "
    "ELSE {v} IN ('true', 'false', 'NaN', 'Infinity') OR starts_with({v}, '[') OR starts_with({v}, '{{') END"
)
# Numbers in compact JSON that may have been altered.
_ODD_JSON = "regexp_matches({v}, '[:\\[,]-?(?:[0-9]+[.eE]|NaN|Infinity)|^-?[0-9]+[.eE]|^-?[NI]')"


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
            the lines; with explode a row an element.
        raw: the raw columns; those of one table column in the order in which they are tried.
    """

    sql: str
    raw: tuple[RawColumn, ...]


def build_query(feed: Feed, message_type: str, schema: Schema) -> Query:
    """The query of one message type; of `schema.explode` it serves the first path."""
    structure: dict[str, Any] = {
        **dict.fromkeys(feed.type_key, "VARCHAR"),
        "_nats_seq": "UBIGINT",
        "_received_at": "BIGINT",
        "_epoch": "VARCHAR",
        "_ordinal": "BIGINT",
    }
    item: dict[str, Any] = {}
    for column in schema.columns:
        for source in column.sources:
            into, path = (item, source.path[5:]) if source.path.startswith("item.") else (structure, source.path)
            _put(into, path, _leaf(source))
    if schema.explode:
        _put(structure, schema.explode[0], [item])
    # A path that is read in two ways, as levels and as JSON, comes out as JSON and is parsed again for its levels.
    shared = {path for path in _paths(schema) if len({_is_json(source) for source in _sources_at(schema, path)}) > 1}
    for path in shared:
        into, tail = (item, path[5:]) if path.startswith("item.") else (structure, path)
        _replace(into, tail, "JSON")

    selected = []
    raw = []
    odd = [f"NOT (routed OR coalesce({', '.join(_type_member(key) for key in feed.type_key)}, '') = {_literal(message_type)})"]
    for number, column in enumerate(schema.columns):
        for step, (convert, paths) in enumerate(_groups(column)):
            values = [_value(column, convert, path, path in shared) for path in paths]
            name = f"c{number}_{step}"
            selected.append(f"{values[0] if len(values) == 1 else 'coalesce(' + ', '.join(values) + ')'} AS {name}")
            raw.append(RawColumn(name, column, convert))
            odd += [condition for path in paths if (condition := _odd(column, convert, path, path in shared))]
    meta = ", ".join(f"r.{name}" for name in ("_nats_seq", "_received_at", "_epoch", "_ordinal"))
    source = f"SELECT i, routed, line, TRY(from_json(line, {_literal(json.dumps(structure))})) AS r FROM chunk"
    if schema.explode:
        source = f"SELECT i, routed, line, r, unnest({_expression(schema.explode[0])}) AS item FROM ({source})"
    sql = f"SELECT i, coalesce({' OR '.join(odd)}, true) AS odd, {', '.join(selected)}, {meta} FROM ({source})"
    return Query(sql, tuple(raw))


def _groups(column: Column) -> list[tuple[Convert, list[str]]]:
    """The column's sources in order; neighbours that are read alike are one raw column."""
    groups: list[tuple[Convert, list[str]]] = []
    for source in column.sources:
        if groups and groups[-1][0] == source.convert:
            groups[-1][1].append(source.path)
        else:
            groups.append((source.convert, [source.path]))
    return groups


def _leaf(source: Source) -> Any:
    match source.convert:
        case "decimal" | "cents" | "cents_or_dollars" | "json":
            return "JSON"
        case "levels":
            return [{"price": "JSON", "size": "JSON", "qty": "JSON"}]
        case "pairs" | "cents_pairs":
            return [["JSON"]]
        case _:
            return "VARCHAR"


def _value(column: Column, convert: Convert, path: str, shared: bool) -> str:
    value = _expression(path)
    if convert in ("decimal", "cents_or_dollars"):
        return f"nullif({value}, '\"\"')"
    if convert != "levels":
        return value
    if shared:
        value = f"TRY(from_json({value}, '[{{\"price\":\"JSON\",\"size\":\"JSON\",\"qty\":\"JSON\"}}]'))"
    return f"list_transform({value}, lambda x: {{price: x.price, size: coalesce(x.size, x.qty)}})"


def _odd(column: Column, convert: Convert, path: str, shared: bool) -> str:
    value = _expression(path)
    if convert == "text":
        return f"coalesce({_ODD_TEXT.format(v=value)}, false)"
    if convert == "json":
        return f"coalesce({_ODD_JSON.format(v=value)}, false)"
    if is_levels(column):
        # What is not an array comes out as null; the member must then not be there at all.
        member = '"' + path.rsplit(".", 1)[-1] + '"'
        otherwise = f"NOT starts_with({value}, '[')" if shared else "false"
        return f"CASE WHEN {value} IS NULL THEN contains(line, {_literal(member)}) ELSE {otherwise} END"
    return ""


def _expression(path: str) -> str:
    head, *tail = path.split(".")
    members = tail if head == "item" else [head, *tail]
    return ".".join(["item" if head == "item" else "r", *(_identifier(member) for member in members)])


def _type_member(key: str) -> str:
    return f"nullif(r.{_identifier(key)}, '')"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _put(into: dict[str, Any], path: str, leaf: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        into = into.setdefault(parent, {})
    into.setdefault(last, leaf)


def _replace(into: dict[str, Any], path: str, leaf: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        into = into[parent]
    into[last] = leaf


def _paths(schema: Schema) -> set[str]:
    return {source.path for column in schema.columns for source in column.sources}


def _sources_at(schema: Schema, path: str) -> list[Source]:
    return [source for column in schema.columns for source in column.sources if source.path == path]


def _is_json(source: Source) -> bool:
    return source.convert == "json"
