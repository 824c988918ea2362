"""The table `archiver_sync_log`: when the archive was uploaded, and whether it holds there."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg.types.json import Jsonb

from ssmd_core.db.connect import DatabaseError, connect
from ssmd_core.settings import Settings
from ssmd_stream.upload.sync import UploadReport

_INSERT = b"INSERT INTO archiver_sync_log (archiver_name, success, duration_ms, details) VALUES (%s, %s, %s, %s)"


def write_log(settings: Settings, report: UploadReport) -> None:
    """Write one run down, where there is a database.

    Raises:
        DatabaseError: there is one, and it cannot be reached or refused.
    """
    if settings.database_url:
        asyncio.run(_write(settings, report))


async def _write(settings: Settings, report: UploadReport) -> None:
    values = (f"upload to {report.storage}", report.holds, round(report.seconds * 1000), Jsonb(report.as_dict()))
    try:
        async with await connect(settings.database_url, name="upload", clock=settings.clock) as connection:
            await connection.execute(_INSERT, values)
    except psycopg.Error as error:
        raise DatabaseError(f"Postgres: {str(error).strip()}") from error
