"""Names that CDC and its consumers share, and how a place in the order of changes is written.

An LSN is a byte position in Postgres's log, written `HI/LO` in hexadecimal. Changes are ordered by the LSN of their
transaction's commit record, then by their number in the transaction, from 0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ssmd_core.errors import SsmdError

STREAM = "SECMASTER_CDC"
SUBJECTS = "cdc.>"
STATE_STREAM = "SECMASTER_CDC_STATE"
STATE_SUBJECTS = "cdc-state.>"
SLOT = "ssmd_cdc"
PUBLICATION = "ssmd_cdc_pub"
#: How far back the stream reaches unless somebody made it with another limit: a consumer that was away for longer has
#: to read the tables again.
MAX_AGE_S = 7 * 24 * 3600.0
#: While CDC streams, its record (`stream.read_record`, `Record.at`) is at most so old.
RECORD_EVERY_S = 10.0

_SLOT = re.compile(r"[a-z0-9_]{1,63}\Z")
_ID = re.compile(r"([a-z0-9_]{1,63}):([0-9A-F]{1,8})/([0-9A-F]{1,8}):([0-9]{1,18})\Z")


class PositionError(SsmdError):
    """A message id or an LSN is not one that CDC writes."""


class Position(NamedTuple):
    """A place in the order of changes.

    Attributes:
        commit_lsn: LSN of the transaction's commit record.
        ordinal: of the change in its transaction, from 0.
    """

    commit_lsn: int
    ordinal: int


def is_slot_name(text: str) -> bool:
    """Whether Postgres takes it as the name of a slot."""
    return bool(_SLOT.match(text))


def lsn_text(lsn: int) -> str:
    """`HI/LO`, as Postgres prints it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The number behind `HI/LO`.

    Raises:
        PositionError: it is not an LSN.
    """
    high, separator, low = text.partition("/")
    try:
        if not separator or len(high) > 8 or len(low) > 8:
            raise ValueError(text)
        return int(high, 16) << 32 | int(low, 16)
    except ValueError as error:
        raise PositionError(f"{text[:64]!r} is not an LSN") from error


def message_id(slot: str, position: Position) -> str:
    """`Nats-Msg-Id` of a change."""
    return f"{slot}:{lsn_text(position.commit_lsn)}:{position.ordinal}"


def parse_message_id(text: str) -> tuple[str, Position]:
    """Slot and position in a `Nats-Msg-Id`.

    Raises:
        PositionError: CDC does not write such ids.
    """
    match = _ID.match(text)
    if match is None:
        raise PositionError(f"{text[:100]!r} is not the id of a change")
    slot, high, low, ordinal = match.groups()
    return slot, Position(int(high, 16) << 32 | int(low, 16), int(ordinal))
