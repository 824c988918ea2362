"""Events of ssmd's own about a connection, archived beside the data: a gap can then be told from silence.

Each is `{"ssmd":{"event":…,"connection":…,…}}` and is published to `….json.control.{connection}`, with an ordinal of
the same epoch as the data around it, so the ordinals of a complete epoch have no hole.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson

Event = Literal[
    "open",
    "subscribe",
    "acknowledged",
    "refused",
    "unsubscribe",
    "closed",
    "tick",
    "resubscribe",
    "error",
    "wanted",
    "unwanted",
    "coverage",
    "minute",
    "trouble",
]
CONTROL_TYPE = "control"
PREFIX = b'{"ssmd":'
#: Longer lists of instruments are told in several events: 500 of Polymarket's token ids are 40 KB.
INSTRUMENTS_PER_EVENT = 500


def control_event(event: Event, connection: str, **fields: Any) -> bytes:
    """Bytes of one event.

    Args:
        connection: connection name within the connector, e.g. `c0`.
        fields: what the event says: `url` and `local` (host:port of our end) for open; `channel`, `instruments` for
            subscribe, acknowledged and refused; `reason`, `code`, `messages` (ordinals used) for closed.
            `wanted` and `unwanted` (of the connector's own epoch): `instruments`, `cause`, `reason`, and for wanted
            the `filter` in force. `coverage`, at the start of every hour: `channel`, `instruments` and their `state`,
            asked, acknowledged or refused; at the same time `wanted` with cause `hour` repeats all that is wanted.
            With them an hour's archive needs no other hour to be read.
    """
    return orjson.dumps({"ssmd": {"event": event, "connection": connection, **fields}})


def is_control(payload: bytes) -> bool:
    """Whether the bytes are one of ssmd's own events (a venue's message never starts so)."""
    return payload.startswith(PREFIX)
