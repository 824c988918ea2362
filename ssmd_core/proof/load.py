"""An hour's ledger into Postgres: what pages and questions read. The files stay the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow.parquet as pq
from psycopg import sql
from psycopg.types.json import Jsonb

from ssmd_core.db.tables import ID_CHARS
from ssmd_core.proof.chain import newest
from ssmd_core.proof.ledger import Ledger, as_dict, hour_id, proof_file, read_ledger

#: Minutes older than that are in the parquet files only.
KEPT: Final = timedelta(days=35)
_BATCH: Final = 5_000


async def load_ledger(
    connection: psycopg.AsyncConnection, proof_root: Path, feed: str, stream: str, hour: datetime, *, now: datetime
) -> bool:
    """Replace the hour's rows in `ledger_hours`, `ledger_minutes` and `untrusted_intervals`, in one transaction.

    Args:
        now: minutes older than 35 days before it are removed, of all hours of the stream.

    Returns:
        Whether the hour is proved; if not, its rows are removed.

    Raises:
        ArchiveError: the ledger is damaged.
        psycopg.Error: the database refuses.
    """
    ledger = read_ledger(proof_root, feed, stream, hour)
    async with connection.transaction():
        # Two that load the same hour: one waits.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"{feed}/{stream}/{hour_id(hour)}",))
        await _delete(connection, feed, stream, hour)
        if ledger is not None:
            await _insert_hour(connection, proof_root, ledger, hour)
            if hour + timedelta(hours=1) > now - KEPT:
                await _copy_minutes(connection, proof_root, feed, stream, hour)
            await _copy_untrusted(connection, proof_root, feed, stream, hour)
        await connection.execute(
            "DELETE FROM ledger_minutes WHERE feed = %s AND stream = %s AND minute < %s", (feed, stream, now - KEPT)
        )
    return ledger is not None


async def _delete(connection: psycopg.AsyncConnection, feed: str, stream: str, hour: datetime) -> None:
    await connection.execute(
        "DELETE FROM ledger_minutes WHERE feed = %s AND stream = %s AND minute >= %s AND minute < %s",
        (feed, stream, hour, hour + timedelta(hours=1)),
    )
    for table in ("ledger_hours", "untrusted_intervals"):
        await connection.execute(
            sql.SQL("DELETE FROM {} WHERE feed = %s AND stream = %s AND hour = %s").format(sql.Identifier(table)),
            (feed, stream, hour),
        )


async def _insert_hour(connection: psycopg.AsyncConnection, proof_root: Path, ledger: Ledger, hour: datetime) -> None:
    entry = newest(proof_root, ledger.feed, ledger.stream)[ledger.hour]
    said = as_dict(ledger)
    await connection.execute(
        "INSERT INTO ledger_hours (feed, stream, hour, word, reasons, totals, ledger_sha256, chain_number, sealed_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            ledger.feed,
            ledger.stream,
            hour,
            ledger.word,
            Jsonb(_storable(said["reasons"])),
            Jsonb(said["totals"]),
            entry.ledger,
            entry.n,
            entry.sealed_at,
        ),
    )


async def _copy_minutes(
    connection: psycopg.AsyncConnection, proof_root: Path, feed: str, stream: str, hour: datetime
) -> None:
    path = proof_file(proof_root, feed, stream, hour, "coverage")
    columns = pq.read_schema(path).names
    await _copy(
        connection,
        "ledger_minutes",
        ["feed", "stream", *columns],
        ([feed, stream, *(_minute_value(name, row[name]) for name in columns)] for row in _rows(path)),
    )


async def _copy_untrusted(
    connection: psycopg.AsyncConnection, proof_root: Path, feed: str, stream: str, hour: datetime
) -> None:
    named = ["check_name", "epoch", "started_at", "ended_at", "reason", "detail", "nats_seq"]
    members = ["check", "epoch", "from", "to", "reason", "detail", "nats_seq"]
    await _copy(
        connection,
        "untrusted_intervals",
        ["feed", "stream", "hour", "instrument", *named],
        (
            [feed, stream, hour, _text(row["instrument"])[:ID_CHARS], *(_text(row[name]) for name in members)]
            for row in _rows(proof_file(proof_root, feed, stream, hour, "untrusted"))
        ),
    )


async def _copy(
    connection: psycopg.AsyncConnection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    target = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    )
    async with connection.cursor() as cursor, cursor.copy(target) as copy:
        for row in rows:
            await copy.write_row(row)


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH):
            yield from batch.to_pylist()


def _minute_value(column: str, value: Any) -> Any:
    if column == "by_type":
        return Jsonb(_storable({of["type"]: {"messages": of["messages"], "bytes": of["bytes"]} for of in value}))
    return Jsonb(_storable(value)) if column == "counters" else value


def _storable(value: Any) -> Any:
    """The same without NUL, which the venue's words may hold and Postgres's JSON may not."""
    if isinstance(value, dict):
        return {_text(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else _text(value)


def _text(value: Any) -> Any:
    return value.replace("\0", "?") if isinstance(value, str) else value
