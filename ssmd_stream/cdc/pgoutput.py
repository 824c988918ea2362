"""Messages of Postgres's output plugin `pgoutput`, protocol version 1, text values: bytes in, typed messages out.

Layout as in the manual, "Logical Replication Message Formats"; integers are big-endian, strings end in a zero byte.
A transaction comes whole and only once it is committed: Begin, its changes, Commit. A relation is described before its
first change and again whenever it may have changed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from ssmd_core.errors import SsmdError

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")

MAX_NAME_BYTES = 256  # a name in Postgres has at most 63 bytes, a replication origin's 512 in later versions
MAX_COLUMNS = 1664  # Postgres's own limit is 1600
#: Microseconds from 1970-01-01 to Postgres's epoch, 2000-01-01.
POSTGRES_EPOCH_US = 946_684_800_000_000
# What RFC 3339 can say: the years 1 to 9999.
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999

KEY_COLUMN = 1  # flag of a column that belongs to the replica identity


class PgOutputError(SsmdError):
    """Bytes that are not a pgoutput message of version 1 with text values."""


class Unchanged(Enum):
    """A large value stored out of line that an UPDATE did not touch: it is not sent."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
#: One column of a tuple: its text, NULL, or not sent.
Cell = bytes | None | Unchanged


class Begin(NamedTuple):
    """Attributes:
    commit_lsn: of the transaction's commit record; known in advance, for the transaction is committed.
    commit_us: when it was committed, epoch microseconds.
    xid: its number.
    """

    commit_lsn: int
    commit_us: int
    xid: int


class Commit(NamedTuple):
    """Attributes:
    commit_lsn: of the commit record.
    end_lsn: just after it: what is to be confirmed.
    commit_us: epoch microseconds.
    """

    commit_lsn: int
    end_lsn: int
    commit_us: int


class RelationColumn(NamedTuple):
    """Attributes:
    name: of the column.
    type_oid: of its type.
    is_key: whether it belongs to the replica identity.
    """

    name: str
    type_oid: int
    is_key: bool


class Relation(NamedTuple):
    """Attributes:
    id: by which changes name it.
    schema, table: its names.
    identity: `d` primary key, `n` nothing, `f` all columns, `i` an index.
    columns: in the order of the tuples.
    """

    id: int
    schema: str
    table: str
    identity: str
    columns: tuple[RelationColumn, ...]


class Insert(NamedTuple):
    """Attributes:
    relation_id: see `Relation`.
    new: the row.
    """

    relation_id: int
    new: list[Cell]


class Update(NamedTuple):
    """Attributes:
    relation_id: see `Relation`.
    old: the key before, if it changed, or the whole row before with identity `f`; None if neither.
    new: the row after.
    """

    relation_id: int
    old: list[Cell] | None
    new: list[Cell]


class Delete(NamedTuple):
    """Attributes:
    relation_id: see `Relation`.
    old: the key, other columns None; with identity `f` the whole row.
    """

    relation_id: int
    old: list[Cell]


class Truncate(NamedTuple):
    """Attributes:
    relation_ids: tables that were emptied.
    """

    relation_ids: tuple[int, ...]


class Origin(NamedTuple):
    """Attributes:
    name: of the origin, for what was replicated into this server.
    """

    name: str


class Type(NamedTuple):
    """Attributes:
    oid: of a type that is not built in.
    schema, name: its names.
    """

    oid: int
    schema: str
    name: str


class LogicalMessage(NamedTuple):
    """What `pg_logical_emit_message` wrote.

    Attributes:
        prefix: its topic.
        content: its bytes.
    """

    prefix: str
    content: bytes


Message = Begin | Commit | Relation | Insert | Update | Delete | Truncate | Origin | Type | LogicalMessage


class _Reader:
    """Reads a message from its second byte on; every step is checked against its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 1

    def _take(self, size: int) -> int:
        at = self.at
        if size > len(self.data) - at:
            raise PgOutputError(f"message {_shown(self.data)} ends at byte {len(self.data)}, {at + size} are needed")
        self.at = at + size
        return at

    def u8(self) -> int:
        return self.data[self._take(1)]

    def u16(self) -> int:
        value: int = _U16.unpack_from(self.data, self._take(2))[0]
        return value

    def u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self._take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(self.data, self._take(8))[0]
        return value

    def time_us(self) -> int:
        value: int = _I64.unpack_from(self.data, self._take(8))[0] + POSTGRES_EPOCH_US
        if not _FIRST_US <= value <= _LAST_US:
            raise PgOutputError(f"message {_shown(self.data)} tells a time outside of the years 1 to 9999")
        return value

    def raw(self, size: int) -> bytes:
        at = self._take(size)
        return self.data[at : at + size]

    def string(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + 4 * MAX_NAME_BYTES)
        if end < 0:
            raise PgOutputError(f"message {_shown(self.data)} holds a name without end at byte {self.at}")
        text, self.at = self.data[self.at : end], end + 1
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise PgOutputError(f"name {text[:64]!r} is not UTF-8") from error

    def cells(self) -> list[Cell]:
        count = self.u16()
        if count > MAX_COLUMNS:
            raise PgOutputError(f"message {_shown(self.data)} announces {count} columns")
        cells: list[Cell] = []
        for _ in range(count):
            kind = self.u8()
            if kind == 0x74:  # t
                cells.append(self.raw(self.u32()))
            elif kind == 0x6E:  # n
                cells.append(None)
            elif kind == 0x75:  # u
                cells.append(UNCHANGED)
            else:  # b would be binary, which is never asked for
                raise PgOutputError(f"message {_shown(self.data)} holds a column of kind {chr(kind)!r}")
        return cells

    def end(self) -> None:
        if self.at != len(self.data):
            raise PgOutputError(f"message {_shown(self.data)} goes on after its end at byte {self.at}")

    def expect(self, kinds: str) -> str:
        kind = chr(self.u8())
        if kind not in kinds:
            raise PgOutputError(f"message {_shown(self.data)} has {kind!r} where one of {kinds!r} belongs")
        return kind


def _shown(data: bytes) -> str:
    return repr(data[:24])


def _begin(reader: _Reader) -> Begin:
    return Begin(reader.u64(), reader.time_us(), reader.u32())


def _commit(reader: _Reader) -> Commit:
    flags = reader.u8()
    if flags:
        raise PgOutputError(f"Commit has flags {flags}")
    return Commit(reader.u64(), reader.u64(), reader.time_us())


def _relation(reader: _Reader) -> Relation:
    id_, schema, table = reader.u32(), reader.string(), reader.string()
    identity = reader.expect("dnfi")
    columns = []
    for _ in range(reader.u16()):
        is_key = bool(reader.u8() & KEY_COLUMN)
        name, type_oid = reader.string(), reader.u32()
        reader.u32()  # the type's modifier
        columns.append(RelationColumn(name, type_oid, is_key))
    return Relation(id_, schema, table, identity, tuple(columns))


def _insert(reader: _Reader) -> Insert:
    id_ = reader.u32()
    reader.expect("N")
    return Insert(id_, reader.cells())


def _update(reader: _Reader) -> Update:
    id_ = reader.u32()
    old = None
    if reader.expect("KON") != "N":
        old = reader.cells()
        reader.expect("N")
    return Update(id_, old, reader.cells())


def _delete(reader: _Reader) -> Delete:
    id_ = reader.u32()
    reader.expect("KO")
    return Delete(id_, reader.cells())


def _truncate(reader: _Reader) -> Truncate:
    count = reader.u32()
    reader.u8()  # CASCADE and RESTART IDENTITY; cascaded tables are named too
    if count * 4 != len(reader.data) - reader.at:
        raise PgOutputError(f"Truncate {_shown(reader.data)} announces {count} relations")
    return Truncate(tuple(reader.u32() for _ in range(count)))


def _origin(reader: _Reader) -> Origin:
    reader.u64()
    return Origin(reader.string())


def _type(reader: _Reader) -> Type:
    return Type(reader.u32(), reader.string(), reader.string())


def _message(reader: _Reader) -> LogicalMessage:
    reader.u8()  # transactional or not
    reader.u64()
    prefix = reader.string()
    return LogicalMessage(prefix, reader.raw(reader.u32()))


_PARSERS: dict[int, Callable[[_Reader], Message]] = {
    ord("B"): _begin,
    ord("C"): _commit,
    ord("R"): _relation,
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("T"): _truncate,
    ord("O"): _origin,
    ord("Y"): _type,
    ord("M"): _message,
}


def parse(data: bytes) -> Message:
    """One message.

    Raises:
        PgOutputError: it is not one of version 1 with text values, or not exactly one.
    """
    parser = _PARSERS.get(data[0]) if data else None
    if parser is None:
        raise PgOutputError(f"message {_shown(data)} is of a kind that version 1 does not have")
    reader = _Reader(data)
    message = parser(reader)
    reader.end()
    return message
