"""Arrow types of the registry's columns, and parquet encodings that fit them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import pyarrow as pa

from ssmd_core.errors import DatasetError
from ssmd_core.feeds.base import META_COLUMNS, Column, Schema

_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)\Z")
_SIMPLE: dict[str, pa.DataType] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
LEVEL_DECIMAL = pa.decimal128(18, 6)


def value_type(column: Column) -> pa.DataType:
    """Type of the column's values; of a level's price and size for columns of levels."""
    if column.type == "levels_decimal":
        return LEVEL_DECIMAL
    if column.type == "levels_float":
        return pa.float64()
    decimal = _DECIMAL.match(column.type)
    if decimal:
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    try:
        return _SIMPLE[column.type]
    except KeyError:
        raise DatasetError(f"column {column.name}: unknown type {column.type!r}") from None


def is_levels(column: Column) -> bool:
    """Whether the column holds price levels."""
    return column.type.startswith("levels_")


def arrow_type(column: Column) -> pa.DataType:
    """Type of the column in arrow and parquet."""
    value = value_type(column)
    if not is_levels(column):
        return value
    level = pa.struct([pa.field("price", value, nullable=False), pa.field("size", value, nullable=False)])
    return pa.list_(pa.field("element", level, nullable=False))


@lru_cache
def arrow_schema(schema: Schema) -> pa.Schema:
    """The dataset's columns with unit and description as field metadata; the archive's four members stand last."""
    fields = []
    for column in (*schema.columns, *META_COLUMNS):
        about = {"unit": column.unit, "description": column.description}
        fields.append(
            pa.field(
                column.name,
                arrow_type(column),
                nullable=column.nullable,
                metadata={key: value for key, value in about.items() if value},
            )
        )
    return pa.schema(fields, metadata={"ssmd.schema_name": schema.name, "ssmd.schema_version": schema.version})


def writer_options(schema: Schema) -> dict[str, Any]:
    """Encodings for `pyarrow.parquet.ParquetWriter`.

    Integers and times are delta-encoded, all else that repeats gets a dictionary. On 480,000 Kalshi deltas this took
    183 instead of 344 ns a row and 1.9 instead of 7.6 MB with pyarrow's defaults (DuckDB's own writer: 4.4 MB).
    """
    dictionaries = []
    encodings = {}
    for column in (*schema.columns, *META_COLUMNS):
        if is_levels(column):
            dictionaries += [f"{column.name}.list.element.price", f"{column.name}.list.element.size"]
        elif column.type in ("int64", "uint64", "timestamp"):
            encodings[column.name] = "DELTA_BINARY_PACKED"
        elif column.type != "bool" and not column.distinct:
            dictionaries.append(column.name)
    return {
        "compression": "zstd",
        "use_dictionary": dictionaries,
        "column_encoding": encodings,
        "store_decimal_as_integer": True,
        "write_page_index": False,
    }
