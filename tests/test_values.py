"""JSON of database values against Postgres's own text output."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from ssmd_core.db.connect import connect
from ssmd_core.db.values import RowEncoder, ValueTextError, array_json, encoder, text_session

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=6) | st.just(Decimal("NaN")),
    "float8": st.floats(),
    "text": TEXTS,
    "varchar": TEXTS,
    "text[]": st.lists(st.none() | TEXTS, max_size=5),
    "jsonb": st.recursive(
        st.none() | st.booleans() | TEXTS | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)
    ),
    "timestamptz": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
    "timestamp": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),
    "date": st.dates(date(1, 1, 2)),
}


def expected(kind: str, value: Any) -> Any:
    """What `json.loads` must give for a value."""
    if value is None or kind in ("boolean", "integer", "bigint", "text", "varchar", "text[]", "jsonb"):
        return value
    if kind == "numeric":
        return "NaN" if value.is_nan() else value
    if kind == "float8":
        return value
    if kind == "date":
        return value.isoformat()
    zone = "Z" if kind == "timestamptz" else ""
    fraction = f".{value.microsecond:06d}".rstrip("0") if value.microsecond else ""
    return f"{value:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + fraction + zone


def test_every_type_as_postgres_prints_it(database_url: str) -> None:
    """Values go into Postgres as parameters and come back as JSON that means the same."""
    columns = ", ".join(f'%s::{kind} AS "{kind}"' for kind in VALUES)
    loop = asyncio.new_event_loop()

    async def open_() -> psycopg.AsyncConnection[Any]:
        connection = await connect(database_url, name="test")
        await connection.execute("SET timezone TO '+05:30'")
        await text_session(connection)
        return connection

    connection = loop.run_until_complete(open_())

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.fixed_dictionaries({kind: st.none() | strategy for kind, strategy in VALUES.items()}))
    def check(row: dict[str, Any]) -> None:
        given_ = [Jsonb(row[kind]) if kind == "jsonb" else row[kind] for kind in VALUES]

        async def ask() -> bytes:
            cursor = await connection.execute(f"SELECT {columns}".encode(), given_)
            assert cursor.description is not None
            values = await cursor.fetchone()
            assert values is not None
            return RowEncoder.of(cursor.description).row(values)

        found = json.loads(loop.run_until_complete(ask()))
        assert list(found) == list(VALUES)
        for kind in VALUES:
            wanted, got = expected(kind, row[kind]), found[kind]
            if kind == "numeric" and isinstance(wanted, Decimal):
                assert isinstance(got, str)
                got = Decimal(got)
            if kind == "float8" and isinstance(got, str):
                got = float(got.replace("Infinity", "inf"))
            assert got == wanted or (got is not None and repr(got) == repr(wanted) == "nan"), kind

    try:
        check()
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


@pytest.mark.parametrize(
    ("type_oid", "text", "json_"),
    [
        (1700, b"0.0500", b'"0.0500"'),
        (1700, b"Infinity", b'"Infinity"'),
        (1184, b"2026-11-22 10:00:00.5+00", b'"2026-11-22T10:00:00.5Z"'),
        (1184, b"10000-01-01 00:00:00+00", b'"10000-01-01T00:00:00Z"'),
        (1184, b"infinity", b'"infinity"'),
        (1184, b"0044-03-15 00:00:00+00 BC", b'"0044-03-15 00:00:00+00 BC"'),
        (1009, b'{{a,"b\\"c"},{NULL,"NULL"}}', b'[["a","b\\"c"],[null,"NULL"]]'),
        (1009, b"[0:1]={a,b}", b'["a","b"]'),
        (1009, b'{""}', b'[""]'),
        (701, b"-Infinity", b'"-Infinity"'),
        (2950, b"6f9619ff-8b86-d011-b42d-00cf4fc964ff", b'"6f9619ff-8b86-d011-b42d-00cf4fc964ff"'),
    ],
)
def test_corners(type_oid: int, text: bytes, json_: bytes) -> None:
    assert encoder(type_oid)(text) == json_


@pytest.mark.parametrize(
    ("type_oid", "text"),
    [
        (16, b"true"),
        (25, b"\xff"),
        (1184, b"2026-11-22 10:00:00+05:30"),
        (1009, b"{a"),
        (1009, b'{"a'),
        (1009, b"{a}b"),
        (1009, b"a"),
        (1009, b"{" * 100_000),
        (1009, b"[0:1]"),
        (1009, b"\xff"),
    ],
)
def test_what_postgres_does_not_print_is_refused(type_oid: int, text: bytes) -> None:
    with pytest.raises(ValueTextError):
        encoder(type_oid)(text)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_array_or_refused(text: bytes) -> None:
    try:
        parsed = json.loads(array_json(b"{" + text))
    except ValueTextError:
        return
    assert isinstance(parsed, list)
