"""Column schema and column lineage of a dataset, as Dagster shows them, from the registry's schema."""

from __future__ import annotations

import dagster as dg

from ssmd_core.feeds.base import META_COLUMNS, Column, Schema


def table_schema(schema: Schema) -> dg.TableSchema:
    """The columns with type, unit, nullability and description."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type,
                description=_description(column),
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=_is_row_key(schema, column)),
            )
            for column in (*schema.columns, *META_COLUMNS)
        ]
    )


def column_lineage(schema: Schema, archive: dg.AssetKey) -> dg.TableColumnLineage:
    """Each column's members of the archived message, every generation of the wire format."""
    return dg.TableColumnLineage(
        {
            column.name: [
                dg.TableColumnDep(asset_key=archive, column_name=path)
                for path in dict.fromkeys(_member(schema, source.path) for source in column.sources)
            ]
            for column in (*schema.columns, *META_COLUMNS)
        }
    )


def _is_row_key(schema: Schema, column: Column) -> bool:
    """Whether no two rows of a file share the value: a message is one row unless an array of it is exploded."""
    return column.name == "_nats_seq" and not schema.explode


def _description(column: Column) -> str | None:
    unit = f"[{column.unit}]" if column.unit else ""
    return " ".join(part for part in (column.description, unit) if part) or None


def _member(schema: Schema, path: str) -> str:
    """`item.price` of a schema that explodes `data` stands at `data[].price`."""
    if schema.explode and path.startswith("item."):
        array = schema.explode[0]
        member = path.removeprefix("item.")
        return member if array == "." else f"{array}[].{member}"
    return path
