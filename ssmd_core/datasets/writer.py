"""Writes one message type's parquet file in row groups of 100,000."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssmd_core.datasets.arrow import arrow_schema, writer_options
from ssmd_core.feeds.base import Schema

ROW_GROUP_ROWS = 100_000
# 100,000 whole books of Polymarket are 450 MB: a group of such rows is closed earlier. Other types do not come near.
ROW_GROUP_BYTES = 48 * 1024 * 1024


class TypeWriter:
    """Collects rows and writes them.

    Args:
        path: where to.
        schema: the dataset's.

    Attributes:
        rows: rows so far.
        nulls: nulls so far, by column.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path = path
        self.schema = schema
        self.rows = 0
        self.nulls = dict.fromkeys(arrow_schema(schema).names, 0)
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._writer = pq.ParquetWriter(path, arrow_schema(schema), **writer_options(schema))

    def append(self, table: pa.Table) -> None:
        """Add rows, which must follow those before them."""
        self.rows += len(table)
        for name, column in zip(table.column_names, table.columns, strict=True):
            self.nulls[name] += column.null_count
        self._pending.append(table)
        self._pending_rows += len(table)
        self._pending_bytes += table.nbytes
        while self._pending_rows >= ROW_GROUP_ROWS:
            rest = self._write(ROW_GROUP_ROWS)
            self._pending, self._pending_rows, self._pending_bytes = [rest], len(rest), rest.nbytes
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._write(self._pending_rows)
            self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def close(self, metadata: Mapping[str, str]) -> tuple[int, str]:
        """Write what is left and the footer, make the file durable; its size and SHA-256."""
        if self._pending_rows:
            self._write(self._pending_rows)
        self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return self.path.stat().st_size, digest

    def abandon(self) -> None:
        """Close without finishing; the file is worthless."""
        self._writer.close()

    def _write(self, rows: int) -> pa.Table:
        table = pa.concat_tables(self._pending)
        self._writer.write_table(table.slice(0, rows), row_group_size=rows)
        return table.slice(rows)
