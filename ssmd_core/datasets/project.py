"""The fast path: DuckDB takes the raw values out of many lines at once, arrow converts them column by column.

Arrow's casts from text are exact or refuse: a decimal with too many digits is an error, never rounded. What they
refuse, and what `sql.py` marks as odd, is left to `reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.datasets.arrow import arrow_schema, arrow_type, is_levels, value_type
from ssmd_core.datasets.sql import ITEMS, RawColumn, build_query
from ssmd_core.errors import DatasetError
from ssmd_core.feeds.base import META_COLUMNS, Column, Convert, Feed, Schema

Mask = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.int32]
_QUOTE, _MINUS, _ZERO = b'"-0'
_ODD_TEXT = r"^(?:[\[{]|-?[0-9]+(?:\.[0-9]+(?:e[+-]?[0-9]+)?|e[+-]?[0-9]+)$|true$|false$|NaN$|-?Infinity$)"
# In compact JSON: numbers that DuckDB may have altered (it reads those with a fraction as binary floats), and control
# characters, whose escapes it writes in its own way.
_ODD_JSON = r"[:\[,]-?(?:[0-9]+[.eE]|NaN|Infinity)|^-?[0-9]+[.eE]|^-?[NI]|\\u"
_LONGEST_NUMBER = 24  # -1.2345678901234567e-308
_NUMBER_OR_WORD, _BRACKET = 1, 2
_KIND_OF_FIRST_BYTE = np.zeros(256, np.uint8)
_KIND_OF_FIRST_BYTE[list(b"-0123456789tfNI")] = _NUMBER_OR_WORD
_KIND_OF_FIRST_BYTE[list(b"[{")] = _BRACKET
# Whole books take up to ten times their text while they are converted.
_LEVELS_SLICE_BYTES = 2 * 1024 * 1024
_YEAR_10000_US = 253_402_300_800_000_000


class Projected(NamedTuple):
    """What the fast path made of a message type's lines.

    Attributes:
        rows: of the lines that were converted, in the order of the lines.
        i: the line of each row.
        left: lines that were not converted, ascending.
    """

    rows: pa.Table
    i: Indexes
    left: Indexes


class _CannotCast(Exception):
    """At least one value of the array is not certain to be converted exactly."""


def connect() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that can reach neither files nor network nor extensions.

    It has one thread: chunks, not queries, are spread over the cores.
    """
    return duckdb.connect(
        ":memory:",
        config={
            "threads": 1,
            "memory_limit": "200MB",
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "preserve_insertion_order": "true",
        },
    )


class Projector:
    """Converts lines of one message type.

    Args:
        feed, message_type, schema: which; `sql.has_query(schema)` must be true.
        connection: of `connect`; used by one thread at a time.
    """

    def __init__(self, feed: Feed, message_type: str, schema: Schema, connection: duckdb.DuckDBPyConnection) -> None:
        self._feed = feed
        self._message_type = message_type
        self._schema = schema
        self._connection = connection
        self._arrow = arrow_schema(schema)
        # Members of older generations are read only if the newest is not always there: an eighth of the time on deltas.
        self._first_only = {column.name for column in schema.columns if len(column.sources) > 1}
        self._query = build_query(feed, schema, self._first_only)

    def project(self, lines: pa.Array, i: Indexes, routed: bool) -> Projected:
        """Convert lines.

        Args:
            lines: large_string, valid UTF-8, each one archive line with or without its line break.
            i: the lines' numbers, ascending.
            routed: whether their type is certain; otherwise it is compared with the type that DuckDB reads.
        """
        slices = 1
        if any(is_levels(column) for column in self._schema.columns):
            slices = -(-lines.nbytes // _LEVELS_SLICE_BYTES)
        if slices <= 1:
            return self._project(lines, i, routed)
        cuts = np.linspace(0, len(i), slices + 1).astype(int).tolist()
        parts = [self._project(lines[first:end], i[first:end], routed) for first, end in pairwise(cuts) if end > first]
        return Projected(
            pa.concat_tables([part.rows for part in parts]),
            np.concatenate([part.i for part in parts]),
            np.concatenate([part.left for part in parts]),
        )

    def _project(self, lines: pa.Array, i: Indexes, routed: bool) -> Projected:
        self._connection.register("chunk", pa.table({"i": pa.array(i), "line": lines}))
        try:
            raw = self._run()
            incomplete = {
                step.column.name
                for step in self._query.raw
                if step.column.name in self._first_only and _may_be_absent(raw.values(step), step.source.convert)
            }
            if incomplete:
                self._first_only -= incomplete
                self._query = build_query(self._feed, self._schema, self._first_only)
                raw = self._run()
            return self._typed(raw, i, lines, routed)
        except (duckdb.Error, pa.ArrowException) as error:
            # Slow is better than not at all; the tests run the strangest messages through here without coming by.
            import structlog

            structlog.get_logger().warning(
                "datasets.fast_path_failed", message_type=self._message_type, lines=len(i), error=str(error)
            )
            return Projected(self._arrow.empty_table(), i[:0], i)
        finally:
            self._connection.unregister("chunk")

    def _run(self) -> _Raw:
        try:
            table = self._connection.sql(self._query.sql).to_arrow_table()
        except duckdb.InvalidInputException:
            table = self._connection.sql(self._query.tolerant_sql).to_arrow_table()
        return _Raw(table)

    def _typed(self, raw: _Raw, i: Indexes, lines: pa.Array, routed: bool) -> Projected:
        if not np.array_equal(raw.column("i").to_numpy(), i):
            raise DatasetError("DuckDB has not kept the order of the lines")
        bad: Mask = raw.empty.copy() if routed else raw.empty | self._other_types(raw)
        values: dict[str, pa.Array] = {}
        for step in self._query.raw:
            name = step.column.name
            if name in values and not values[name].null_count:
                continue
            array = raw.values(step)
            converted, refused = _convert(array, step.column, step.source.convert)
            bad |= refused if step.name else raw.messages_of(refused)
            if step.name:
                converted = raw.per_row(converted)
            if is_levels(step.column):
                bad |= _not_lists(array, lines, step) if step.name else raw.messages_of(_nulls(array))
            values[name] = pc.coalesce(values[name], converted) if name in values else converted
        for name in ("_nats_seq", "_received_at", "_epoch", "_ordinal"):
            values[name] = raw.per_row(raw.column(name)).cast(self._arrow.field(name).type)
        for column in (*self._schema.columns, *META_COLUMNS):
            if not column.nullable:
                bad |= raw.messages_of(_nulls(values[column.name]))
        nullable = pa.schema([field.with_nullable(True) for field in self._arrow])
        table = pa.Table.from_arrays([values[name] for name in self._arrow.names], schema=nullable)
        number = i[raw.parents] if raw.parents is not None else i
        if bad.any():
            keep = ~(bad[raw.parents] if raw.parents is not None else bad)
            table, number = table.filter(pa.array(keep)), number[keep]
        return Projected(table.cast(self._arrow), number, i[bad])

    def _other_types(self, raw: _Raw) -> Mask:
        """Messages that DuckDB reads another type of."""
        kind = pa.nulls(len(raw.empty), pa.string())
        for name in reversed(self._query.type_members):
            member = raw.column(name)
            kind = pc.if_else(pc.greater(pc.binary_length(member), 0).fill_null(False), member, kind)
        other: Mask = pc.not_equal(kind, self._message_type).fill_null(True).to_numpy(zero_copy_only=False)
        return other


def _not_lists(lists: pa.Array, lines: pa.Array, step: RawColumn) -> Mask:
    """Where a list is null although its member is there: it is no list."""
    found = _nulls(lists)
    member = '"' + step.source.path.rsplit(".", 1)[-1] + '"'
    for row in np.flatnonzero(found).tolist():
        found[row] = member in lines[row].as_py()
    return found


class _Raw:
    """The query's result.

    Attributes:
        parents: message of each row; None if each message is one row.
        empty: messages without a row, or with an element that is null.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        self.parents: npt.NDArray[np.int64] | None = None
        self.empty: Mask = np.zeros(len(table), dtype=bool)
        if ITEMS in table.column_names:
            lists = self.column(ITEMS)
            self._elements = lists.flatten()
            self.parents = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
            self.empty[:] = True
            self.empty[self.parents] = False
            self.empty |= self.messages_of(_nulls(self._elements))

    def column(self, name: str) -> pa.Array:
        """One column."""
        column = self._table[name]
        return column.chunk(0) if column.num_chunks else pa.array([], column.type)

    def values(self, step: RawColumn) -> pa.Array:
        """The raw values of one source: one per message, or one per element."""
        if step.name:
            return self.column(step.name)
        values = self._elements
        for member in step.members:
            values = pc.struct_field(values, member)
        return values

    def per_row(self, values: pa.Array) -> pa.Array:
        """The messages' values, one per row."""
        return values if self.parents is None else values.take(pa.array(self.parents))

    def messages_of(self, rows: Mask) -> Mask:
        """The messages of the marked rows."""
        if self.parents is None:
            return rows
        messages = np.zeros(len(self._table), dtype=bool)
        messages[self.parents[rows]] = True
        return messages


def _nulls(array: pa.Array) -> Mask:
    if not array.null_count:
        return np.zeros(len(array), dtype=bool)
    nulls: Mask = pc.is_null(array).to_numpy(zero_copy_only=False)
    return nulls


def _may_be_absent(raw: pa.Array, convert: Convert) -> bool:
    """Whether the next source could have a value where this one has none."""
    if raw.null_count:
        return True
    return convert in ("decimal", "cents_or_dollars") and bool(pc.any(pc.equal(raw, '""')).as_py())


def _convert(raw: pa.Array, column: Column, convert: Convert) -> tuple[pa.Array, Mask]:
    """The column's values (null where refused) and where they were refused."""
    if raw.null_count == len(raw):
        return pa.nulls(len(raw), arrow_type(column)), np.zeros(len(raw), dtype=bool)
    if is_levels(column):
        return _levels(raw, column, convert)
    if convert == "json":
        return raw, pc.match_substring_regex(raw, _ODD_JSON).fill_null(False).to_numpy(zero_copy_only=False)
    if convert == "text":
        return raw, _odd_texts(raw)
    return _scalars(raw, value_type(column), convert)


def _odd_texts(texts: pa.Array) -> Mask:
    """Texts that DuckDB may have made of a number with a fraction, an object, an array, a bool or NaN."""
    odd = np.zeros(len(texts), dtype=bool)
    data, at = _bytes_at(texts)
    lengths = np.diff(at)
    filled = np.flatnonzero(lengths)
    kind = _KIND_OF_FIRST_BYTE[data[at[filled]]]
    suspects = filled[(kind == _BRACKET) | ((kind == _NUMBER_OR_WORD) & (lengths[filled] <= _LONGEST_NUMBER))]
    if len(suspects):
        matches = pc.match_substring_regex(texts.take(pa.array(suspects)), _ODD_TEXT)
        odd[suspects[matches.to_numpy(zero_copy_only=False)]] = True
    return odd


def _scalars(raw: pa.Array, value: pa.DataType, convert: Convert) -> tuple[pa.Array, Mask]:
    if convert in ("decimal", "cents", "cents_or_dollars", "bool", "is_snapshot"):
        # Prices repeat: casting the distinct texts only took 12 instead of 44 ns a value.
        encoded = raw.dictionary_encode()
        if convert in ("decimal", "cents_or_dollars"):
            encoded = _without_empty(encoded)
        words, refused = _cast_or_refuse(encoded.dictionary, _CASTS[convert], value)
        values = words.take(encoded.indices)
        if not refused.any():
            return values, np.zeros(len(raw), dtype=bool)
        bad = pa.array(refused).take(encoded.indices).fill_null(False)
        return values, bad.to_numpy(zero_copy_only=False)
    return _cast_or_refuse(raw, _CASTS[convert], value)


def _without_empty(encoded: pa.DictionaryArray) -> pa.DictionaryArray:
    """An empty string, `""` as JSON text, is null."""
    at = pc.index(encoded.dictionary, '""').as_py()
    if at < 0:
        return encoded
    # The entry stays in the dictionary, unused, as a text that can be cast.
    words = pc.if_else(pc.equal(encoded.dictionary, '""'), "0", encoded.dictionary)
    nothing = pa.scalar(None, encoded.indices.type)
    return pa.DictionaryArray.from_arrays(pc.if_else(pc.equal(encoded.indices, at), nothing, encoded.indices), words)


def _cast_or_refuse(
    raw: pa.Array, cast: Callable[[pa.Array, pa.DataType], pa.Array], value: pa.DataType
) -> tuple[pa.Array, Mask]:
    """Cast all, or find by halves which values cannot be."""
    try:
        return cast(raw, value), np.zeros(len(raw), dtype=bool)
    except (_CannotCast, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(raw) == 1:
            return pa.nulls(1, value), np.ones(1, dtype=bool)
    middle = len(raw) // 2
    first, first_refused = _cast_or_refuse(raw[:middle], cast, value)
    second, second_refused = _cast_or_refuse(raw[middle:], cast, value)
    return pa.concat_arrays([first, second]), np.concatenate([first_refused, second_refused])


def _levels(raw: pa.Array, column: Column, convert: Convert) -> tuple[pa.Array, Mask]:
    value = value_type(column)
    refused = np.zeros(len(raw), dtype=bool)
    children = raw.flatten()
    if convert == "levels":
        price, size = pc.struct_field(children, "price"), pc.struct_field(children, "size")
        if size.null_count:
            size = pc.coalesce(size, pc.struct_field(children, "qty"))
    else:
        lengths = pc.list_value_length(children)
        if len(children) and not (children.null_count == 0 and pc.all(pc.equal(lengths, 2)).as_py()):
            return pa.nulls(len(raw), arrow_type(column)), pc.is_valid(raw).to_numpy(zero_copy_only=False)
        values = children.flatten()
        price = values.take(pa.array(np.arange(0, len(values), 2)))
        size = values.take(pa.array(np.arange(1, len(values), 2)))
    bad = np.zeros(len(children), dtype=bool)
    prices, refused_prices = _scalars(price, value, "cents" if convert == "cents_pairs" else _level_convert(value))
    sizes, refused_sizes = _scalars(size, value, _level_convert(value))
    bad |= refused_prices | refused_sizes
    for child in (children, prices, sizes):
        if child.null_count:
            bad |= _nulls(child)
    if bad.any():
        refused[np.unique(pc.list_parent_indices(raw).to_numpy()[bad])] = True
        prices, sizes = _filled(prices, value), _filled(sizes, value)
    level = pa.StructArray.from_arrays([prices, sizes], fields=list(arrow_type(column).value_type))
    offsets = pa.array(
        np.concatenate([[0], np.cumsum(pc.list_value_length(raw).fill_null(0).to_numpy())]).astype(np.int32)
    )
    mask = pc.is_null(raw) if raw.null_count else None
    return pa.ListArray.from_arrays(offsets, level, type=arrow_type(column), mask=mask), refused


def _filled(array: pa.Array, value: pa.DataType) -> pa.Array:
    return array.fill_null(pa.scalar("0").cast(value))


def _level_convert(value: pa.DataType) -> Convert:
    return "decimal" if pa.types.is_decimal(value) else "float"


def _bytes_at(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Bytes of a string array and the offsets of its values."""
    _, offsets, data = texts.buffers()
    at = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), at


def _unquoted(texts: pa.Array) -> pa.Array:
    """Decimal texts out of JSON texts: strings lose their quotes, whole numbers stay, all else is refused."""
    data, at = _bytes_at(texts)
    filled = at[1:] > at[:-1]
    quoted = data[at[:-1][filled]] == _QUOTE
    if not quoted.all():
        if bool(pc.any(pc.match_substring_regex(texts, r'^[^"].*[.eE]')).as_py()):
            raise _CannotCast
        texts = pc.ascii_trim(texts, '"')
    else:
        texts = pc.binary_slice(texts.cast(pa.binary()), 1, -1).cast(pa.string())
    return texts


def _to_decimal(raw: pa.Array, value: pa.DataType) -> pa.Array:
    texts = _unquoted(raw)
    # Arrow makes 0 of 8.8e-222, without a word.
    if pc.any(pc.match_substring_regex(texts, "[eE]|^.{39}")).as_py():
        raise _CannotCast
    return texts.cast(value)


def _to_cents(raw: pa.Array, value: pa.DataType) -> pa.Array:
    whole = _to_int(_unquoted(raw), pa.int64())
    return pc.binary_join_element_wise(whole.cast(pa.string()), "e-2", "").cast(value)


def _to_cents_or_dollars(raw: pa.Array, value: pa.DataType) -> pa.Array:
    if bool(pc.any(pc.match_substring_regex(raw, r'^[^"]')).as_py()):
        raise _CannotCast
    return _to_decimal(raw, value)


def _to_int(raw: pa.Array, value: pa.DataType) -> pa.Array:
    # Arrow reads 0x10 as 16.
    data, at = _bytes_at(raw)
    starts, lengths = at[:-1], np.diff(at)
    starts = starts[lengths > 1]
    minus = starts[data[starts] == _MINUS]
    if (data[starts] == _ZERO).any() or (data[minus + 1] == _ZERO).any():
        raise _CannotCast
    return raw.cast(value)


def _to_float(raw: pa.Array, value: pa.DataType) -> pa.Array:
    numbers = raw.cast(value)
    if bool(pc.any(pc.invert(pc.is_finite(numbers))).as_py()):
        raise _CannotCast
    return numbers


def _to_bool(raw: pa.Array, _: pa.DataType) -> pa.Array:
    return _one_of(raw, "true", "false")


def _to_is_snapshot(raw: pa.Array, _: pa.DataType) -> pa.Array:
    return _one_of(raw, "snapshot", "update")


def _one_of(raw: pa.Array, yes: str, no: str) -> pa.Array:
    is_yes = pc.equal(raw, yes)
    if not pc.all(pc.or_(is_yes, pc.equal(raw, no))).as_py():
        raise _CannotCast
    return is_yes


def _from_epoch(us: int) -> Callable[[pa.Array, pa.DataType], pa.Array]:
    def cast(raw: pa.Array, value: pa.DataType) -> pa.Array:
        times = pc.multiply_checked(_to_int(raw, pa.int64()), us)
        if (pc.max(pc.abs_checked(times)).as_py() or 0) >= _YEAR_10000_US:
            raise _CannotCast
        return times.cast(value)

    return cast


def _to_time(raw: pa.Array, value: pa.DataType) -> pa.Array:
    # Arrow also reads times without seconds.
    if pc.min(pc.binary_length(raw)).as_py() not in (None, *range(20, 64)):
        raise _CannotCast
    return raw.cast(value)


_CASTS: dict[str, Callable[[Any, pa.DataType], pa.Array]] = {
    "int": _to_int,
    "float": _to_float,
    "bool": _to_bool,
    "decimal": _to_decimal,
    "cents": _to_cents,
    "cents_or_dollars": _to_cents_or_dollars,
    "s": _from_epoch(1_000_000),
    "ms": _from_epoch(1_000),
    "us": _from_epoch(1),
    "iso": _to_time,
    "is_snapshot": _to_is_snapshot,
}
