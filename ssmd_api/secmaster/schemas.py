"""JSON schemas of answers, made from the tables whose rows they hold."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from ssmd_api.jsons import camel
from ssmd_core.db.tables import SYNCED

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
MOMENT: Schema = {"type": "string", "format": "date-time"}
DAY: Schema = {"type": "string", "format": "date"}
#: Text of a NUMERIC: digits as the venue wrote them.
NUMBER_TEXT: Schema = {"type": "string"}
NEXT_CURSOR: Schema = {"type": ["string", "null"]}
ANYTHING: Schema = {}
COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}

# A row of now has the times of its row, one of a past moment those of its version.
_NOW_ONLY = ("created_at", "updated_at")
_THEN_ONLY: dict[str, Schema] = {
    "effective_at": {"type": ["string", "null"], "format": "date-time"},
    "known_from": MOMENT,
    "version": {"type": "integer"},
}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return schema | {"type": [schema["type"], "null"]} if schema else schema


def members(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these members and no other; the names are given as they are."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def array(of: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": of}


def column_schema(column: sa.Column[Any]) -> Schema:
    """A column's value as `ssmd_api.jsons` writes it."""
    found = _type_schema(column.type)
    return nullable(found) if column.nullable else found


def row_schema(table: str, **more: Schema) -> Schema:
    """A row of a synced table, of now or of a past moment.

    Args:
        more: members beside the columns, by their names in snake_case.
    """
    one = SYNCED[table]
    kept = {one.key, *one.columns}
    columns = {str(column.name): column_schema(column) for column in one.table.columns}
    required = {camel(name): schema for name, schema in columns.items() if name in kept}
    optional = {camel(name): schema for name, schema in (columns | _THEN_ONLY).items() if name not in kept}
    # History keeps the row as it was written, and a column may be younger than the row.
    return members(required | {camel(name): schema for name, schema in more.items()}, optional)


def version_schema(table: str) -> Schema:
    """A version of a row, with the time up to which it was what is known."""
    one = SYNCED[table]
    columns = {
        str(c.name): (column_schema(c) if c.name == one.key else _or_null(column_schema(c)))
        for c in one.table.columns
        if c.name in {one.key, *one.columns}
    }
    both = columns | _THEN_ONLY | {"known_to": nullable(MOMENT)}
    return members({camel(name): schema for name, schema in both.items()})


def table_schema(table: sa.Table) -> Schema:
    """A row of a table without history."""
    return members({camel(str(column.name)): column_schema(column) for column in table.columns})


def page_of(name: str, of: Schema, optional: dict[str, Schema] | None = None) -> Schema:
    """A page of a list: its rows under a name, and the cursor of the next page."""
    return members({name: array(of), "nextCursor": NEXT_CURSOR}, optional)


def _or_null(schema: Schema) -> Schema:
    return schema if not schema or isinstance(schema["type"], list) else nullable(schema)


def _type_schema(kind: sa.types.TypeEngine[Any]) -> Schema:
    if isinstance(kind, pg.ARRAY):
        return array({"type": ["string", "null"]})
    if isinstance(kind, pg.JSONB):
        return ANYTHING
    for known, schema in (
        (sa.Boolean, {"type": "boolean"}),
        (sa.Integer, {"type": "integer"}),
        (sa.Numeric, NUMBER_TEXT),
        (sa.DateTime, MOMENT),
        (sa.Date, DAY),
        (sa.String, STRING),
    ):
        if isinstance(kind, known):
            return schema
    raise TypeError(f"no JSON schema for {kind!r}")
