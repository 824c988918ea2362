"""The book of who got which data: a row in `data_access_log` before the answer is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from ssmd_api.errors import UnavailableError

if TYPE_CHECKING:
    from ssmd_api.routing import Call

log = structlog.get_logger()

_INSERT = b"""
INSERT INTO data_access_log
  (key_prefix, user_email, feed, date_from, date_to, msg_type, files_count, route, request_id)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


async def record(call: Call, feed: str, *, message_type: str | None = None, files: int = 0) -> None:
    """Write down that the call's key gets data of a feed; call it before the answer leaves the handler.

    The days are the call's, as far as the key reaches.

    Args:
        message_type: None for all of them.
        files: that are read for the answer, or handed out.

    Raises:
        UnavailableError: it could not be written, so the answer must not be given.
    """
    principal = call.principal
    first, last = max(call.first_day, principal.first_day), min(call.last_day, principal.last_day)
    values = (
        principal.key_prefix, principal.user_email, feed, first, last, message_type, files,
        call.route.path, call.request_id,
    )  # fmt: skip
    try:
        async with call.services.writing() as connection:
            await connection.execute(_INSERT, values)
    except (psycopg.Error, PoolTimeout) as error:
        log.error("access_not_logged", error=str(error).strip(), request_id=call.request_id, feed=feed)
        raise UnavailableError("the access could not be logged, so nothing is given out") from error
