"""What Postgres says of the slot, and whether it agrees with what is on record."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg.rows import dict_row

from ssmd_core.db.connect import DatabaseError
from ssmd_core.errors import ConfigError
from ssmd_stream.cdc.errors import ResnapshotNeededError, RewoundError, SlotBusyError
from ssmd_stream.cdc.names import (
    PUBLICATION,
    STREAM,
    Position,
    PositionError,
    lsn_text,
    parse_lsn,
    parse_message_id,
)
from ssmd_stream.cdc.replication import Replication, Snapshot, hang_up
from ssmd_stream.cdc.stream import Record, Tail

log = structlog.get_logger()

#: A server that says nothing for so long is taken for gone; these queries take milliseconds.
ANSWER_TIMEOUT_S = 10.0
#: How often is looked, and said, what the making of a slot waits for.
WAIT_LOG_S = 10.0

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
       (SELECT concat_ws(' ', p.oid, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
          (SELECT string_agg(concat_ws(':', r.oid, r.prrelid, r.prattrs, md5(r.prqual::text)), ' ' ORDER BY r.oid)
           FROM pg_publication_rel r WHERE r.prpubid = p.oid))
        FROM pg_publication p WHERE p.pubname = %s) AS publication,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_mb,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)::text AS end_lsn
"""


class Server(NamedTuple):
    """Attributes:
    system_id: identifies the cluster.
    end_lsn: where its log ends.
    keep_bytes: WAL that a slot may hold back (`max_slot_wal_keep_size`); None if there is no limit, and an abandoned
        slot fills the disk.
    publication: identifies what is published: the publication and each table's membership by their oids, which are
        given anew when either is made again, with what of them is published. A change made while its table was out of
        the publication is never sent, not even later, so another publication than on record asks for a resnapshot;
        that goes for a migration, too, that adds a table to it.
    """

    system_id: str
    end_lsn: int
    keep_bytes: int | None
    publication: str


class Slot(NamedTuple):
    """Attributes:
    confirmed: everything committed before it was confirmed, and will not be sent again; None while the slot is made.
    active_pid: server process that reads from it; None if nobody does.
    lost: why it cannot be read any more; "" if it can.
    """

    confirmed: int | None
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
    if row["publication"] is None:
        raise ConfigError(
            f"database {row['database']} has no publication {PUBLICATION}: its schema is older than ssmd's, migrate it"
        )
    keep_mb = row["keep_mb"]
    keep_bytes = None if keep_mb < 0 else keep_mb * 1024 * 1024
    return Server(row["system_id"], parse_lsn(row["end_lsn"]), keep_bytes, row["publication"])


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
    return Slot(parse_lsn(row["confirmed"]) if row["confirmed"] else None, row["active_pid"], lost)


async def read_published(connection: psycopg.AsyncConnection[Any]) -> dict[str, list[str]]:
    """Published columns by table.

    Raises:
        DatabaseError: no answer.
    """
    with _answer_in_time(connection):
        cursor = await connection.execute(_TABLES, (PUBLICATION,))
        return {str(table): list(columns) for table, columns in await cursor.fetchall()}


async def drop_slot(connection: psycopg.AsyncConnection[Any], slot: str) -> None:
    """Drop a slot that nobody uses.

    Raises:
        DatabaseError: somebody does, or no answer.
    """
    await _one(connection, "SELECT pg_drop_replication_slot(%s)", slot)


async def create_slot(
    replication: Replication,
    connection: psycopg.AsyncConnection[Any],
    slot: str,
    waits: Callable[[str], None] | None = None,
) -> Snapshot:
    """Make a slot. That waits for the transactions under way, however long they are, and says which.

    Args:
        replication: makes it, and holds its snapshot.
        connection: another one, to ask.
        waits: called with what is waited for, now and then.

    Raises:
        ReplicationError: Postgres refused.
        DatabaseError: no answer.
    """
    making = asyncio.create_task(replication.create_slot(slot))
    try:
        timeout_s = 1.0
        while not (await asyncio.wait({making}, timeout=timeout_s))[0]:
            timeout_s = WAIT_LOG_S
            row = await _one(connection, "SELECT pg_blocking_pids(%s) AS pids", replication.pid)
            pids = ", ".join(map(str, row["pids"] if row else ()))
            log.warning("slot_waits", slot=slot, reason=f"waiting for open transactions of pid {pids}")
            if waits is not None:
                waits(f"slot {slot} is being made: waiting for open transactions of pid {pids}")
        return making.result()
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)


@contextlib.contextmanager
def _answer_in_time(connection: psycopg.AsyncConnection[Any]) -> Iterator[None]:
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        hang_up(connection)

    timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT_S, give_up)
    try:
        yield
    except psycopg.Error as error:
        reason = f"no answer for {ANSWER_TIMEOUT_S:g} s" if late else str(error).strip()
        raise DatabaseError(f"Postgres: {reason}") from error
    finally:
        timer.cancel()


async def _one(connection: psycopg.AsyncConnection[Any], query: str, *parameters: object) -> dict[str, Any] | None:
    with _answer_in_time(connection):
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), parameters)
            return await cursor.fetchone()


def resume_after(name: str, server: Server, slot: Slot | None, record: Record | None, tail: Tail) -> Position | None:
    """After which event to go on: the last one in the stream.

    Args:
        name: of the slot.
        record: None if the slot is to be made for the first time.

    Returns:
        None: none has come through this slot yet.

    Raises:
        RewoundError: Postgres's log ends before what it has sent. One that ends later may be another all the same:
            see `ChangeEncoder`.
        ResnapshotNeededError: changes were lost, or it cannot be told that none were.
        SlotBusyError: somebody is making the slot.
    """
    if record is None:
        if slot is not None:
            raise ResnapshotNeededError(f"slot {name} exists, but nothing is on record of it")
        if tail.last_seq:
            raise ResnapshotNeededError(f"{STREAM} holds changes up to {tail.last_seq}, but slot {name} does not exist")
        return None
    if record.phase == "resnapshot":
        raise ResnapshotNeededError("a resnapshot is due, or was begun and not finished")
    if record.system_id != server.system_id:
        raise ResnapshotNeededError(f"the database is in cluster {server.system_id}, was in {record.system_id}")
    if record.stream_created != tail.created:
        raise ResnapshotNeededError(f"{STREAM} was made anew at {tail.created} (before: {record.stream_created})")
    if tail.last_seq < max(record.seq, record.from_seq):
        raise ResnapshotNeededError(f"{STREAM} ends at {tail.last_seq}, was at {max(record.seq, record.from_seq)}")
    if slot is None and record.phase == "creating":
        return None
    _check_slot(name, slot, record)
    check_publication(record, server)
    after = _last_event(name, record, tail)
    sent = max(parse_lsn(record.lsn), after.commit_lsn if after else 0)
    if server.end_lsn < sent:
        raise RewoundError(f"Postgres's log ends at {lsn_text(server.end_lsn)}, but was sent up to {lsn_text(sent)}")
    return after


def _check_slot(name: str, slot: Slot | None, record: Record) -> None:
    if slot is None:
        raise ResnapshotNeededError(f"slot {name} is gone")
    if slot.confirmed is None:
        raise SlotBusyError(
            f"slot {name} is being made by server process {slot.active_pid}, which waits for open transactions to end"
        )
    if slot.lost:
        raise ResnapshotNeededError(slot.lost)
    if record.phase == "running" and slot.confirmed > parse_lsn(record.lsn):
        raise ResnapshotNeededError(
            f"slot {name} was advanced to {lsn_text(slot.confirmed)} by somebody else: CDC had confirmed {record.lsn}"
        )


def check_publication(record: Record, server: Server) -> None:
    """Compare what is published with what was when the slot was made; see `Server`.

    Raises:
        ResnapshotNeededError: it is not the same.
    """
    if record.publication and record.publication != server.publication:
        raise ResnapshotNeededError(
            f"publication {PUBLICATION} or the tables in it were changed: [{record.publication}] is now "
            f"[{server.publication}], and what was committed in between may not have been sent"
        )


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
