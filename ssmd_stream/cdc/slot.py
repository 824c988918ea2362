"""What Postgres says of the slot, and whether it agrees with what is on record."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from ssmd_core.db.connect import DatabaseError
from ssmd_core.errors import ConfigError
from ssmd_stream.cdc.errors import ResnapshotNeededError
from ssmd_stream.cdc.names import (
    PUBLICATION,
    STREAM,
    Position,
    PositionError,
    lsn_text,
    parse_lsn,
    parse_message_id,
)
from ssmd_stream.cdc.stream import Record, Tail

# to_jsonb: the column came with Postgres 17.
_SLOT = """
SELECT plugin, database, current_database() AS here, active_pid, wal_status,
       to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason, confirmed_flush_lsn::text AS confirmed
FROM pg_replication_slots s WHERE slot_name = %s
"""
_TABLES = "SELECT tablename, attnames::text[] FROM pg_publication_tables WHERE pubname = %s ORDER BY 1"
_SERVER = """
SELECT current_setting('wal_level') AS wal_level, current_setting('server_encoding') AS encoding,
       current_database() AS database, (SELECT system_identifier::text FROM pg_control_system()) AS system_id,
       EXISTS (SELECT FROM pg_publication WHERE pubname = %s) AS published,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_mb,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text AS end_lsn
"""


class Server(NamedTuple):
    """Attributes:
    system_id: identifies the cluster.
    end_lsn: where its log ends.
    keep_bytes: WAL that a slot may hold back (`max_slot_wal_keep_size`); None if there is no limit, and an abandoned
        slot fills the disk.
    """

    system_id: str
    end_lsn: int
    keep_bytes: int | None


class Slot(NamedTuple):
    """Attributes:
    confirmed: everything committed before it was confirmed, and will not be sent again.
    active_pid: server process that reads from it; None if nobody does.
    lost: why it cannot be read any more; "" if it can.
    """

    confirmed: int
    active_pid: int | None
    lost: str


async def read_server(connection: psycopg.AsyncConnection[Any]) -> Server:
    """Check the server.

    Raises:
        ConfigError: it cannot serve CDC; says what to set.
        DatabaseError: no answer.
    """
    row = await _one(connection, _SERVER, PUBLICATION)
    assert row is not None
    if row["wal_level"] != "logical":
        raise ConfigError(f"Postgres has wal_level {row['wal_level']!r}: CDC needs 'logical', and a restart to set it")
    if row["encoding"] != "UTF8":
        raise ConfigError(f"database {row['database']} has encoding {row['encoding']}, CDC needs UTF8")
    if not row["published"]:
        raise ConfigError(
            f"database {row['database']} has no publication {PUBLICATION}: its schema is older than ssmd's, migrate it"
        )
    keep_mb = row["keep_mb"]
    return Server(row["system_id"], parse_lsn(row["end_lsn"]), None if keep_mb < 0 else keep_mb * 1024 * 1024)


async def read_slot(connection: psycopg.AsyncConnection[Any], slot: str) -> Slot | None:
    """The slot; None if there is none.

    Raises:
        ConfigError: a slot of this name belongs to something else.
        DatabaseError: no answer.
    """
    row = await _one(connection, _SLOT, slot)
    if row is None:
        return None
    if row["plugin"] != "pgoutput" or row["database"] != row["here"]:
        raise ConfigError(f"slot {slot} is of plugin {row['plugin']} in database {row['database']}, not CDC's")
    lost = ""
    if row["wal_status"] == "lost" or row["invalidation_reason"]:
        lost = f"slot {slot} was invalidated ({row['invalidation_reason'] or 'its log was removed'})"
    return Slot(parse_lsn(row["confirmed"] or "0/0"), row["active_pid"], lost)


async def read_published(connection: psycopg.AsyncConnection[Any]) -> dict[str, list[str]]:
    """Published columns by table.

    Raises:
        DatabaseError: no answer.
    """
    try:
        cursor = await connection.execute(
            "SELECT tablename, attnames::text[] FROM pg_publication_tables WHERE pubname = %s ORDER BY 1",
            (PUBLICATION,),
        )
        return {str(table): list(columns) for table, columns in await cursor.fetchall()}
    except psycopg.Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error


async def _one(connection: psycopg.AsyncConnection[Any], query: str, *parameters: object) -> dict[str, Any] | None:
    try:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), parameters)
            return await cursor.fetchone()
    except psycopg.Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error


def resume_after(name: str, server: Server, slot: Slot | None, record: Record | None, tail: Tail) -> Position | None:
    """After which event to go on: the last one in the stream.

    Args:
        name: of the slot.
        record: None if the slot is to be made for the first time.

    Returns:
        None: none has come through this slot yet.

    Raises:
        ResnapshotNeededError: changes were lost, or it cannot be told that none were.
    """
    if record is None:
        if slot is not None:
            raise ResnapshotNeededError(f"slot {name} exists, but nothing is on record of it")
        if tail.last_seq:
            raise ResnapshotNeededError(f"{STREAM} holds changes up to {tail.last_seq}, but slot {name} does not exist")
        return None
    if record.phase == "resnapshot":
        raise ResnapshotNeededError("a resnapshot was begun and not finished")
    if record.system_id != server.system_id:
        raise ResnapshotNeededError(f"the database is in cluster {server.system_id}, was in {record.system_id}")
    if record.stream_created != tail.created:
        raise ResnapshotNeededError(f"{STREAM} was made anew at {tail.created} (before: {record.stream_created})")
    if tail.last_seq < max(record.seq, record.from_seq):
        raise ResnapshotNeededError(f"{STREAM} ends at {tail.last_seq}, was at {max(record.seq, record.from_seq)}")
    if slot is None:
        if record.phase == "creating":
            return None
        raise ResnapshotNeededError(f"slot {name} is gone")
    if slot.lost:
        raise ResnapshotNeededError(slot.lost)
    if record.phase == "running" and slot.confirmed > parse_lsn(record.lsn):
        raise ResnapshotNeededError(
            f"slot {name} was advanced to {lsn_text(slot.confirmed)} by somebody else: CDC had confirmed {record.lsn}"
        )
    return _last_event(name, record, tail)


def _last_event(name: str, record: Record, tail: Tail) -> Position | None:
    if tail.last_seq == record.from_seq:
        return None
    if tail.last_id is None:
        if tail.last_seq != record.seq:
            raise ResnapshotNeededError(f"{STREAM} no longer holds its last message, {tail.last_seq}")
        return Position(parse_lsn(record.commit_lsn), record.ordinal)
    try:
        slot, position = parse_message_id(tail.last_id)
    except PositionError as error:
        raise ResnapshotNeededError(f"message {tail.last_seq} of {STREAM} was not published by CDC: {error}") from error
    if slot != name:
        raise ResnapshotNeededError(f"message {tail.last_seq} of {STREAM} came through slot {slot}, not {name}")
    if position < (parse_lsn(record.commit_lsn), record.ordinal):
        raise ResnapshotNeededError(f"{STREAM} ends with {tail.last_id}, before {record.commit_lsn}:{record.ordinal}")
    return position
