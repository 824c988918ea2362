"""pgoutput: what the parser takes and refuses, and that the fast way to JSON gives what the plain one gives."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ssmd_core.db.values import ValueTextError
from ssmd_stream.cdc import pgoutput
from ssmd_stream.cdc.changes import ChangeEncoder, Done
from ssmd_stream.cdc.errors import RewoundError
from ssmd_stream.cdc.names import Position, PositionError, lsn_text, message_id, parse_lsn, parse_message_id
from ssmd_stream.cdc.pgoutput import UNCHANGED, Cell, PgOutputError, Relation, RelationColumn
from ssmd_stream.cdc.rows import COMPILE_AFTER, TableRows

RELATION_ID = 16_500
TYPES = {"text": 25, "number": 1700, "whole": 23, "flag": 16, "moment": 1184, "words": 1009, "document": 3802}


def tuple_bytes(cells: list[Cell]) -> bytes:
    parts = [struct.pack(">H", len(cells))]
    for cell in cells:
        if cell is None:
            parts.append(b"n")
        elif isinstance(cell, bytes):
            parts.append(b"t" + struct.pack(">I", len(cell)) + cell)
        else:
            parts.append(b"u")
    return b"".join(parts)


def relation_bytes(columns: list[tuple[str, int, bool]], table: str = "things", identity: bytes = b"d") -> bytes:
    head = b"R" + struct.pack(">I", RELATION_ID) + b"public\0" + table.encode() + b"\0" + identity
    described = [
        bytes([is_key]) + name.encode() + b"\0" + struct.pack(">Ii", type_oid, -1) for name, type_oid, is_key in columns
    ]
    return head + struct.pack(">H", len(columns)) + b"".join(described)


def begin(commit_lsn: int) -> bytes:
    return b"B" + struct.pack(">QqI", commit_lsn, 846_000_000_000_000, 77)


def commit(commit_lsn: int, end_lsn: int) -> bytes:
    return b"C\0" + struct.pack(">QQq", commit_lsn, end_lsn, 846_000_000_000_000)


def row(kind: bytes, *tuples: tuple[bytes, list[Cell]]) -> bytes:
    return kind + struct.pack(">I", RELATION_ID) + b"".join(mark + tuple_bytes(cells) for mark, cells in tuples)


def framed(data: bytes, lsn: int = 5) -> bytes:
    return b"w" + struct.pack(">QQq", lsn, lsn, 0) + data


KEYED = [("id", 25, True), ("title", 25, False), ("price", 1700, False)]


def fed(*messages: bytes, after: Position | None = None) -> list[dict[str, Any]]:
    encoder = ChangeEncoder("slot", after, confirmed=0)
    for message in messages:
        encoder.feed(framed(message))
    for event in encoder.events:
        assert json.loads(event.payload)["op"] == event.subject.rpartition(".")[2]
    return [json.loads(event.payload) | {"id": event.id} for event in encoder.events]


def test_every_kind() -> None:
    assert pgoutput.parse(begin(9)) == pgoutput.Begin(9, 846_000_000_000_000 + pgoutput.POSTGRES_EPOCH_US, 77)
    assert pgoutput.parse(commit(9, 10))[:2] == (9, 10)
    columns = tuple(RelationColumn(*column) for column in KEYED)
    assert pgoutput.parse(relation_bytes(KEYED)) == Relation(RELATION_ID, "public", "things", "d", columns)
    cells: list[Cell] = [b"a", None, UNCHANGED]
    assert pgoutput.parse(row(b"I", (b"N", cells))) == pgoutput.Insert(RELATION_ID, cells)
    assert pgoutput.parse(row(b"U", (b"N", cells))) == pgoutput.Update(RELATION_ID, None, cells)
    for mark in (b"K", b"O"):
        before: list[Cell] = [b"b", None, None]
        parsed = pgoutput.parse(row(b"U", (mark, before), (b"N", cells)))
        assert parsed == pgoutput.Update(RELATION_ID, before, cells)
        assert pgoutput.parse(row(b"D", (mark, before))) == pgoutput.Delete(RELATION_ID, before)
    assert pgoutput.parse(b"T" + struct.pack(">IBII", 2, 1, 5, 6)) == pgoutput.Truncate((5, 6))
    assert pgoutput.parse(b"O" + bytes(8) + b"here\0") == pgoutput.Origin("here")
    assert pgoutput.parse(b"Y" + struct.pack(">I", 7) + b"s\0t\0") == pgoutput.Type(7, "s", "t")
    message = b"M\1" + bytes(8) + b"topic\0" + struct.pack(">I", 2) + b"hi"
    assert pgoutput.parse(message) == pgoutput.LogicalMessage("topic", b"hi")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"S" + bytes(20),  # streaming of transactions under way: never asked for
        row(b"I", (b"N", [b"a"]))[:-1],
        row(b"I", (b"N", [b"a"])) + b"x",
        row(b"I", (b"K", [b"a"])),
        row(b"I", (b"N", [b"a"])).replace(b"t\0\0\0\1", b"b\0\0\0\1"),
        row(b"I", (b"N", [b"a"])).replace(b"t\0\0\0\1", b"t\xff\xff\xff\xff"),
        row(b"U", (b"K", [b"a"])),
        b"I" + struct.pack(">I", 5) + b"N" + struct.pack(">H", 65_535),
        b"C\1" + bytes(24),
        b"T" + struct.pack(">IB", 1_000_000_000, 0),
        relation_bytes([("a\xff", 25, True)]).replace("ÿ".encode(), b"\xff"),
        b"R" + bytes(4) + b"n" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(PgOutputError):
        pgoutput.parse(data)


@given(st.sampled_from("BCRIUDTOYM"), st.binary(max_size=80))
def test_any_bytes_are_a_message_or_refused(kind: str, body: bytes) -> None:
    with contextlib.suppress(PgOutputError):
        pgoutput.parse(kind.encode() + body)


SAFE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30).map(str.encode)
WORDS = st.sampled_from([b"{}", b"{a,b}", b'{"a b",NULL}', b'{"tn\\"u"}'])
CELLS = {
    "text": SAFE | st.sampled_from([b"n", b"tn", b"nnu", b"", b"t" * 300, b"n" * 70_000, "µ".encode()]),
    "number": st.decimals(allow_nan=False, allow_infinity=False).map(lambda value: f"{value:f}".encode())
    | st.sampled_from([b"NaN", b"-Infinity"]),
    "whole": st.integers(-(2**31), 2**31 - 1).map(lambda value: str(value).encode()),
    "flag": st.sampled_from([b"t", b"f"]),
    "moment": st.sampled_from([b"2026-11-22 10:00:00+00", b"2026-11-22 10:00:00.123456+00", b"infinity"]),
    "words": WORDS,
    "document": st.sampled_from([b"{}", b'{"a": "tn\\u0000"}', b"[1, null]", b'"n"']),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[Relation, list[list[Cell]]]:
    """A table and rows of it; most rows have the same columns null, so that the fast way has a shape for them."""
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=8))
    columns = tuple(RelationColumn(f"c{n}%", TYPES[kind], n == 0) for n, kind in enumerate(kinds))
    shape = [draw(st.sampled_from("ttttnu")) for _ in kinds]

    def cell(kind: str, mark: str) -> st.SearchStrategy[Cell]:
        return CELLS[kind] if mark == "t" else st.just(None if mark == "n" else UNCHANGED)

    same = st.tuples(*(cell(*both) for both in zip(kinds, shape, strict=True))).map(list)
    other = st.tuples(*(st.none() | CELLS[kind] for kind in kinds)).map(list)
    rows = draw(st.lists(same | other, min_size=1, max_size=5))
    if shape[0] == "u":
        shape[0] = "n"
        rows = [[None if one[0] is UNCHANGED else one[0], *one[1:]] for one in rows]
    return Relation(1, "public", "t", "d", columns), rows


TEXTS_ONLY = Relation(1, "public", "t", "d", tuple(RelationColumn(f"c{n}", 25, n == 0) for n in range(3)))


@given(tables())
@example((TEXTS_ONLY, [[b"xn", b"y", None], [b"x", None, b"yn"]]))
def test_fast_and_plain_way_agree(table: tuple[Relation, list[list[Cell]]]) -> None:
    relation, rows = table
    encoder = TableRows(relation)
    for cells in rows:
        for _ in range(COMPILE_AFTER):
            encoder.encode_cells(cells)
    for cells in rows:
        plain = encoder.encode_cells(cells)
        message = b"head" + tuple_bytes(cells)
        fast = encoder.encode(memoryview(message), 4)
        assert fast is None or fast == plain
        found = json.loads(plain.data)
        left_out = [column.name for column, cell in zip(relation.columns, cells, strict=True) if cell is UNCHANGED]
        assert list(found) == [column.name for column in relation.columns if column.name not in left_out]


def test_common_rows_go_the_fast_way() -> None:
    columns = tuple(RelationColumn(kind, type_oid, kind == "text") for kind, type_oid in TYPES.items())
    encoder = TableRows(Relation(1, "public", "t", "d", columns))
    cells: list[Cell] = [b"KXA-1", b"0.05", b"7", b"t", b"2026-11-22 10:00:00.5+00", b"{a}", b'{"a": 1}']
    for _ in range(COMPILE_AFTER):
        plain = encoder.encode_cells(cells)
    assert encoder.encode(tuple_bytes(cells), 0) == plain
    quoted: list[Cell] = [b'say "hi"', *cells[1:]]
    assert encoder.encode(tuple_bytes(quoted), 0) is None
    assert json.loads(encoder.encode_cells(quoted).data)["text"] == 'say "hi"'
    with pytest.raises(ValueTextError):
        encoder.encode(tuple_bytes([b"\xff", *cells[1:]]), 0)


@given(st.data())
def test_damaged_messages_end_in_a_clear_error(data: st.DataObject) -> None:
    """Bytes of a whole session are changed, cut or doubled: events or a typed error, nothing else."""
    messages = [relation_bytes(KEYED), begin(9)]
    messages += [row(b"I", (b"N", [b"a%d" % n, b"x", b"0.5"])) for n in range(COMPILE_AFTER + 2)]
    messages += [row(b"D", (b"K", [b"a1", None, None])), commit(9, 10)]
    index = data.draw(st.integers(0, len(messages) - 1))
    damaged = bytearray(messages[index])
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    messages[index] = bytes(damaged)
    with contextlib.suppress(PgOutputError, ValueTextError):
        fed(*messages)


@pytest.mark.parametrize("micros", [290_000_000_000_000_000, -(2**63), 2**63 - 1])
def test_times_that_no_calendar_has_are_refused(micros: int) -> None:
    with pytest.raises(PgOutputError, match="outside of the years 1 to 9999"):
        fed(b"B" + struct.pack(">QqI", 9, micros, 77))


def test_events_of_a_transaction() -> None:
    found = fed(
        relation_bytes(KEYED),
        begin(0x1_0000_00AB),
        row(b"I", (b"N", [b"a", b"one", b"0.50"])),
        row(b"U", (b"N", [b"a", UNCHANGED, b"0.51"])),
        row(b"U", (b"K", [b"a", None, None]), (b"N", [b"b", b"one", b"0.51"])),
        row(b"D", (b"K", [b"b", None, None])),
        b"T" + struct.pack(">IBI", 1, 0, RELATION_ID),
        commit(0x1_0000_00AB, 0x1_0000_00FF),
    )
    assert [one["op"] for one in found] == ["insert", "update", "delete", "insert", "delete", "truncate"]
    assert [one["id"] for one in found] == [f"slot:1/AB:{n}" for n in range(6)]
    assert found[0] | {"timestamp": ""} == {
        "id": "slot:1/AB:0",
        "lsn": "0/5",
        "commit_lsn": "1/AB",
        "ordinal": 0,
        "xid": 77,
        "table": "things",
        "op": "insert",
        "key": {"id": "a"},
        "data": {"id": "a", "title": "one", "price": "0.50"},
        "commit_ts": "2026-10-22T16:00:00.000000Z",
        "timestamp": "",
    }
    assert found[1]["data"] == {"id": "a", "price": "0.51"}
    assert found[1]["unchanged"] == ["title"]
    assert [one["key"] for one in found[2:]] == [{"id": "a"}, {"id": "b"}, {"id": "b"}, {}]
    assert found[4]["data"] is None


def test_what_is_stored_already_is_left_out() -> None:
    first = [begin(9), *(row(b"I", (b"N", [b"a%d" % n, b"x", None])) for n in range(3)), commit(9, 10)]
    second = [begin(20), row(b"I", (b"N", [b"b", b"x", None])), commit(20, 21)]
    messages = [relation_bytes(KEYED), *first, *second]
    ids = [one["id"] for one in fed(*messages)]
    assert ids == ["slot:0/9:0", "slot:0/9:1", "slot:0/9:2", "slot:0/14:0"]
    for skipped, id_ in enumerate(ids, 1):
        _, position = parse_message_id(id_)
        assert [one["id"] for one in fed(*messages, after=position)] == ids[skipped:]


@pytest.mark.parametrize(
    "messages",
    [
        [row(b"I", (b"N", [b"a", b"x", None]))],
        [begin(9), row(b"I", (b"N", [b"a", b"x", None]))],
        [relation_bytes(KEYED), row(b"I", (b"N", [b"a", b"x", None]))],
        [relation_bytes(KEYED), begin(9), row(b"I", (b"N", [b"a"]))],
        [relation_bytes(KEYED), begin(9), row(b"U", (b"N", [UNCHANGED, b"x", None]))],
        [begin(9), begin(10)],
        [begin(9), commit(10, 11)],
        [relation_bytes(KEYED, table="a.b>")],
    ],
)
def test_a_session_out_of_order_is_refused(messages: list[bytes]) -> None:
    with pytest.raises(PgOutputError):
        fed(*messages)


def test_positions() -> None:
    position = Position(0xAB_0000_0001, 12)
    assert parse_message_id(message_id("ssmd_cdc", position)) == ("ssmd_cdc", position)
    assert lsn_text(parse_lsn("16/B374D848")) == "16/B374D848"
    for text in ("", "a", "a:b:1", "a:0/1", "a:0/1:-1", "A:0/1:1", "a:0/1:1 ", "a:0/123456789:1"):
        with pytest.raises(PositionError):
            parse_message_id(text)
    for text in ("", "1", "1/", "g/1", "123456789/1"):
        with pytest.raises(PositionError):
            parse_lsn(text)


INSERT = row(b"I", (b"N", [b"a", b"t", b"1"]))
DELETE = row(b"D", (b"K", [b"a", None, None]))
#: When the transactions of `begin` are committed.
COMMITTED = "2026-10-22T16:00:00.000000Z"


def transaction(encoder: ChangeEncoder, commit_lsn: int, *changes: bytes) -> Done:
    for message in (begin(commit_lsn), *([relation_bytes(KEYED)] if changes else []), *changes):
        assert encoder.feed(framed(message)) is None
    done = encoder.feed(framed(commit(commit_lsn, commit_lsn + 5)))
    assert done is not None
    return done


def test_what_came_again_is_counted_and_not_stored_twice() -> None:
    encoder = ChangeEncoder("slot", Position(200, 1), confirmed=90, known_lsn=90)
    assert not encoder.agrees
    assert transaction(encoder, 100, INSERT, DELETE).stored
    assert not encoder.agrees
    assert encoder.skipped == 2
    assert transaction(encoder, 200, INSERT, DELETE).stored
    assert encoder.agrees
    assert encoder.skipped == 4
    assert not transaction(encoder, 300, INSERT).stored
    assert [event.id for event in encoder.events] == ["slot:0/12C:0"]
    partly = ChangeEncoder("slot", Position(200, 0), confirmed=200)
    assert not transaction(partly, 200, INSERT, DELETE).stored
    assert len(partly.events) == 1


def test_another_history_is_refused() -> None:
    """The log went back and on from there: see `ChangeEncoder`."""
    after = Position(200, 1)

    def encoder(confirmed: int = 90, commit_ts: str = "", known_lsn: int = 0) -> ChangeEncoder:
        return ChangeEncoder("slot", after, confirmed=confirmed, after_commit_ts=commit_ts, known_lsn=known_lsn)

    with pytest.raises(RewoundError, match="no longer holds commit 0/C8"):
        transaction(encoder(), 201, INSERT)
    transaction(encoder(confirmed=201), 201, INSERT)
    with pytest.raises(RewoundError, match="no longer holds commit 0/C8"):
        encoder().check_reached(201)
    encoder().check_reached(200)  # a keepalive between what comes before and it
    with pytest.raises(RewoundError, match="has 1 events, 2 are published"):
        transaction(encoder(), 200, INSERT)
    with pytest.raises(RewoundError, match="was committed at"):
        transaction(encoder(commit_ts="2026-10-22T16:00:00.000001Z"), 200, INSERT, DELETE)
    transaction(encoder(commit_ts=COMMITTED), 200, INSERT, DELETE)
    backwards = encoder()
    transaction(backwards, 100, INSERT)
    with pytest.raises(RewoundError, match="came after"):
        transaction(backwards, 100, INSERT)
    with pytest.raises(RewoundError, match="had all up to 0/12C"):
        transaction(encoder(confirmed=201, known_lsn=300), 250, INSERT)
    known = encoder(confirmed=201, known_lsn=300)
    transaction(known, 250)  # of other tables
    assert not known.agrees
    transaction(known, 301, INSERT)
    assert known.agrees
