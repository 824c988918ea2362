"""From pgoutput messages to the events of the stream. No I/O: bytes in, events out."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import orjson

from ssmd_core.clock import rfc3339_us
from ssmd_stream.cdc import pgoutput
from ssmd_stream.cdc.errors import RewoundError
from ssmd_stream.cdc.names import Position, lsn_text
from ssmd_stream.cdc.pgoutput import PgOutputError
from ssmd_stream.cdc.rows import Buffer, EncodedRow, TableRows

#: Bytes of XLogData before pgoutput's own: `w`, position of the message, end of the log, time sent.
HEADER_BYTES = 25

_HEAD = struct.Struct(">xII")
_RELATION_ID = struct.Struct(">xI")
_TABLE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_INSERT, _UPDATE, _DELETE, _RELATION, _BEGIN, _COMMIT, _TRUNCATE = b"IUDRBCT"
_NEW = ord("N")
_START = Position(0, -1)


class Event(NamedTuple):
    """One message of the stream.

    Attributes:
        subject: `cdc.{table}.{op}`.
        id: `Nats-Msg-Id`, `{slot}:{commit_lsn}:{ordinal}`.
        payload: JSON.
    """

    subject: str
    id: str
    payload: bytes


class Done(NamedTuple):
    """A transaction of which every event has been handed out.

    Attributes:
        position: of its last event; ordinal -1 if it has none.
        stored: whether every event of it was in the stream before.
        end_lsn: may be confirmed once all events up to this one are stored.
        commit_us: when it was committed, epoch microseconds.
    """

    position: Position
    end_lsn: int
    commit_us: int
    stored: bool


class _Table(NamedTuple):
    rows: TableRows
    name: bytes
    subjects: dict[str, str]


class ChangeEncoder:
    """Turns the messages of one replication session into events.

    It also notices a Postgres that went back in time and on from there: its log then holds other transactions at
    positions of which events were stored. A slot sends every transaction whose commit record begins at or after what
    was confirmed to it, in the order of these records. So, with C the commit of the last event stored:

    - If no more than C is confirmed, the transaction of C must come again, before any later one, with at least as many
      events as are stored of it, committed at the same time.
    - If more is confirmed, C is in the log that Postgres has: it was confirmed to that log.
    - Between C and the place up to which all is known to be in the stream, no transaction may have events.
    - Until all this is seen (`agrees`), nothing may be confirmed: else the next session could not see it any more.

    Args:
        slot: name of the slot, part of every id.
        after: events up to this one are stored already and are left out; None if none is.
        after_commit_ts: when that was committed, as the event says it; "" if not known.
        confirmed: what the slot itself says, once it streams: nobody else can move it then.
        known_lsn: everything committed before is in the stream.

    Attributes:
        events: what `feed` has made; the caller takes them.
        timestamp: of publishing, RFC 3339 bytes; the caller sets it.
        transactions, skipped: transactions seen, changes left out because of `after`.
    """

    def __init__(
        self,
        slot: str,
        after: Position | None = None,
        *,
        after_commit_ts: str = "",
        confirmed: int,
        known_lsn: int = 0,
    ) -> None:
        self._slot = slot
        self._after = after or _START
        self._after_commit_ts = after_commit_ts
        self._known_lsn = known_lsn
        self._before = -1  # commit of the transaction before
        self._awaiting = after is not None and confirmed <= after.commit_lsn
        self._reached = confirmed >= known_lsn
        self._tables: dict[int, _Table] = {}
        self._commit_lsn = -1  # no transaction is open
        self._commit_us = 0
        self._ordinal = 0
        self._skip_to = -1  # ordinals up to here are stored
        self._skip_all = False
        self._id_head = ""
        self._middle = self._xid = b""
        self._tail = b""
        self.events: list[Event] = []
        self.timestamp = rfc3339_us(0).encode()
        self.transactions = 0
        self.skipped = 0

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction has begun whose end was not fed yet."""
        return self._commit_lsn >= 0

    @property
    def agrees(self) -> bool:
        """Whether Postgres's log has turned out to be the one of which the stream holds the changes."""
        return self._reached and not self._awaiting

    @property
    def open_commit_us(self) -> int:
        """Commit time of the transaction that has begun, epoch microseconds; 0 if none has."""
        return self._commit_us if self.in_transaction else 0

    def feed(self, data: Buffer) -> Done | None:
        """Take one XLogData message, header and all.

        Returns:
            The transaction, if the message ends one.

        Raises:
            PgOutputError, ValueTextError: it is not what pgoutput sends; nothing after it may be fed.
        """
        if len(data) <= HEADER_BYTES:
            raise PgOutputError(f"XLogData of {len(data)} bytes")
        kind = data[HEADER_BYTES]
        if kind in (_UPDATE, _INSERT):
            if self._skip_all:
                self.skipped += 1
                return None
            # Both begin alike: kind, relation, and `N` if the new row is all there is.
            if len(data) > HEADER_BYTES + 6 and data[HEADER_BYTES + 5] == _NEW:
                table = self._table(_RELATION_ID.unpack_from(data, HEADER_BYTES)[0])
                row = table.rows.encode(data, HEADER_BYTES + 6)
                if row is not None:
                    self._add(data, table, "update" if kind == _UPDATE else "insert", row)
                    return None
        return self._plain(data, kind)

    def _plain(self, data: Buffer, kind: int) -> Done | None:
        message = pgoutput.parse(bytes(data[HEADER_BYTES:]))
        if kind == _BEGIN:
            assert isinstance(message, pgoutput.Begin)
            self._begin(message)
        elif kind == _COMMIT:
            assert isinstance(message, pgoutput.Commit)
            return self._commit(message)
        elif kind == _RELATION:
            assert isinstance(message, pgoutput.Relation)
            self._relation(message)
        elif self._skip_all:
            if isinstance(message, pgoutput.Delete):
                self.skipped += 1
            elif isinstance(message, pgoutput.Truncate):
                self.skipped += len(message.relation_ids)
        elif isinstance(message, pgoutput.Insert):
            table = self._table(message.relation_id)
            self._add(data, table, "insert", table.rows.encode_cells(message.new))
        elif isinstance(message, pgoutput.Update):
            self._update(data, message)
        elif isinstance(message, pgoutput.Delete):
            table = self._table(message.relation_id)
            self._add(data, table, "delete", EncodedRow(table.rows.key(message.old), b"null", b""))
        elif isinstance(message, pgoutput.Truncate):
            for relation_id in message.relation_ids:
                self._add(data, self._table(relation_id), "truncate", EncodedRow(b"{}", b"null", b""))
        # What is left says nothing of a row: Type, Origin, LogicalMessage.
        return None

    def _begin(self, begin: pgoutput.Begin) -> None:
        if self.in_transaction:
            raise PgOutputError(f"transaction {begin.xid} begins inside another")
        commit_lsn, after = begin.commit_lsn, self._after
        self._check_place(commit_lsn, begin.commit_us)
        self._commit_lsn, self._commit_us, self._ordinal = commit_lsn, begin.commit_us, 0
        self._skip_all = commit_lsn < after.commit_lsn
        self._skip_to = after.ordinal if commit_lsn == after.commit_lsn else -1
        text = lsn_text(commit_lsn)
        self._id_head = f"{self._slot}:{text}:"
        self._middle = f'","commit_lsn":"{text}","ordinal":'.encode()
        self._xid = f',"xid":{begin.xid},"table":"'.encode()
        self._tail = f',"commit_ts":"{rfc3339_us(begin.commit_us)}","timestamp":"'.encode()

    def _check_place(self, commit_lsn: int, commit_us: int) -> None:
        after = self._after
        if commit_lsn <= self._before:
            raise RewoundError(f"commit {lsn_text(commit_lsn)} came after {lsn_text(self._before)}")
        self._before = commit_lsn
        self.check_reached(commit_lsn)
        if commit_lsn == after.commit_lsn:
            text = rfc3339_us(commit_us)
            if self._after_commit_ts and text != self._after_commit_ts:
                raise RewoundError(f"{lsn_text(commit_lsn)} was committed at {self._after_commit_ts}, now at {text}")
            self._awaiting = False

    def check_reached(self, lsn: int) -> None:
        """Postgres has sent every transaction whose commit record begins before a place.

        Raises:
            RewoundError: but not the transaction of the last event stored.
        """
        if self._awaiting and lsn > self._after.commit_lsn:
            raise RewoundError(
                f"Postgres no longer holds commit {lsn_text(self._after.commit_lsn)}, which is published"
            )
        self._reached = self._reached or lsn >= self._known_lsn

    def _commit(self, commit: pgoutput.Commit) -> Done:
        if commit.commit_lsn != self._commit_lsn:
            raise PgOutputError(f"commit of {lsn_text(commit.commit_lsn)} ends another transaction")
        if self._ordinal <= self._skip_to:
            raise RewoundError(
                f"commit {lsn_text(self._commit_lsn)} has {self._ordinal} events, {self._skip_to + 1} are published"
            )
        stored = self._skip_all or 0 < self._ordinal == self._skip_to + 1
        done = Done(Position(self._commit_lsn, self._ordinal - 1), commit.end_lsn, self._commit_us, stored)
        self._commit_lsn, self._skip_all, self._skip_to = -1, False, -1
        self.transactions += 1
        return done

    def _relation(self, relation: pgoutput.Relation) -> None:
        if not _TABLE.match(relation.table):
            raise PgOutputError(f"table {relation.table!r} cannot be part of a subject")
        known = self._tables.get(relation.id)
        if known is not None and known.rows.relation == relation:
            return
        subjects = {op: f"cdc.{relation.table}.{op}" for op in ("insert", "update", "delete", "truncate")}
        self._tables[relation.id] = _Table(TableRows(relation), relation.table.encode(), subjects)

    def _update(self, data: Buffer, message: pgoutput.Update) -> None:
        table = self._table(message.relation_id)
        row = table.rows.encode_cells(message.new, message.old)
        if message.old is not None:
            before = table.rows.key(message.old)
            if before != row.key:
                # Another key is another row: so a reader that keeps rows by key is right without knowing of this.
                self._add(data, table, "delete", EncodedRow(before, b"null", b""))
                self._add(data, table, "insert", row)
                return
        self._add(data, table, "update", row)

    def _table(self, relation_id: int) -> _Table:
        table = self._tables.get(relation_id)
        if table is None:
            raise PgOutputError(f"a change of relation {relation_id}, which was not described")
        return table

    def _add(self, data: Buffer, table: _Table, op: str, row: EncodedRow) -> None:
        if self._commit_lsn < 0:
            raise PgOutputError(f"a change of {table.name.decode()} outside a transaction")
        ordinal = self._ordinal
        if not ordinal and self._after.commit_lsn < self._commit_lsn < self._known_lsn:
            raise RewoundError(
                f"commit {lsn_text(self._commit_lsn)} is not in the stream, which had all up to "
                f"{lsn_text(self._known_lsn)}"
            )
        self._ordinal = ordinal + 1
        if ordinal <= self._skip_to:
            self.skipped += 1
            return
        high, low = _HEAD.unpack_from(data)
        payload = b'{"lsn":"%X/%X%b%d%b%b","op":"%b","key":%b,"data":%b%b%b%b"}' % (
            *(high, low, self._middle, ordinal, self._xid, table.name, op.encode()),
            *(row.key, row.data, row.unchanged, self._tail, self.timestamp),
        )
        self.events.append(Event(table.subjects[op], f"{self._id_head}{ordinal}", payload))


def resnapshot_event(
    slot: str, position: Position, table: str, op: str, row: EncodedRow, *, commit_ts: str, timestamp: str
) -> Event:
    """An event that no transaction made: the difference between the stream and the table, found by a resnapshot."""
    lsn = lsn_text(position.commit_lsn)
    head = {"lsn": lsn, "commit_lsn": lsn, "ordinal": position.ordinal, "xid": 0, "table": table, "op": op}
    payload = b'%b,"key":%b,"data":%b%b,"commit_ts":"%b","timestamp":"%b"}' % (
        *(orjson.dumps(head)[:-1], row.key, row.data, row.unchanged),
        *(commit_ts.encode(), timestamp.encode()),
    )
    return Event(f"cdc.{table}.{op}", f"{slot}:{lsn}:{position.ordinal}", payload)
