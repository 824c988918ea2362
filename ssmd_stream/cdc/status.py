"""How CDC stands, asked of Postgres and NATS; works whether or not it runs."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from ssmd_core.db import connect as db
from ssmd_stream import jetstream
from ssmd_stream.cdc import slot as slots
from ssmd_stream.cdc.errors import ResnapshotNeededError, SlotBusyError
from ssmd_stream.cdc.names import STREAM, lsn_text
from ssmd_stream.cdc.stream import read_record, read_tail


async def cdc_status(slot: str, nats_url: str, database_url: str) -> dict[str, Any]:
    """The slot, the stream, what is on record, and whether they agree.

    Returns:
        JSON object; `problem` is "" if CDC runs or could be started.

    Raises:
        ConfigError: the server is not what CDC needs.
        DatabaseError, SsmdError, OSError: a server cannot be reached.
    """
    async with contextlib.AsyncExitStack() as stack:
        client = await jetstream.connect(nats_url, name="ssmd-cdc-status", reconnect=False)
        stack.push_async_callback(jetstream.abort, client)
        connection = await db.connect(database_url, name="cdc status")
        stack.push_async_callback(connection.close)
        server = await slots.read_server(connection)
        found = await slots.read_slot(connection, slot)
        record, tail, problem = None, None, ""
        try:
            tail, record = await read_tail(client), await read_record(client, slot)
            slots.resume_after(slot, server, found, record, tail)
        except jetstream.ApiError as error:
            problem = f"CDC has not run here: {error}"
        except (ResnapshotNeededError, SlotBusyError) as error:
            problem = str(error)
    confirmed = found.confirmed if found is not None else None
    return {
        "slot": slot,
        "running": found is not None and found.active_pid is not None,
        "problem": problem,
        "confirmed_lsn": None if confirmed is None else lsn_text(confirmed),
        "lag_bytes": None if confirmed is None else server.end_lsn - confirmed,
        "keep_bytes": server.keep_bytes,
        "stream": tail and {"name": STREAM, **tail._asdict()},
        "record": record and msgspec.to_builtins(record),
    }
