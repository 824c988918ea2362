"""Archive lines: a message's bytes with four members spliced in before its last brace, and the way back.

A line is `<message without its last brace>,"_received_at":µs,"_nats_seq":n,"_epoch":"…","_ordinal":n}`. A message
that cannot carry the members (text such as `PONG`, an array, broken JSON, bytes that are not UTF-8, a line break
inside, or members of these very names) is wrapped whole: `{"_raw":"…",…}`, or `{"_raw_base64":"…",…}` if it is not
UTF-8. `parse_line` gives back the exact bytes of either form.
"""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

import orjson

from ssmd_core.errors import ArchiveError

EPOCH_PATTERN = r"[A-Za-z0-9_-]{1,80}"
TAIL = re.compile(
    rb'(,?)"_received_at":([0-9]{1,19}),"_nats_seq":([0-9]{1,20}),"_epoch":"('
    + EPOCH_PATTERN.encode()
    + rb')","_ordinal":([0-9]{1,19})\}\Z'
)
_TAIL_START = b'"_received_at":'
# Our names, also where a part of them is escaped: a reader of the line would see a member twice.
_RESERVED = re.compile(rb'"_(?:raw|raw_base64|received_at|nats_seq|epoch|ordinal)"|"_[a-z_0-9]*\\u00|"\\u005[fF]')
# A control character takes six bytes in JSON text: 16 MiB of NUL would make a line of 96 MiB, more than readers take.
_MAX_ESCAPED = 1.5
_RAW = b'{"_raw":'
_RAW_BASE64 = b'{"_raw_base64":'


class Line(NamedTuple):
    """One archived message.

    Attributes:
        payload: the venue's bytes.
        recv_us: receive time, epoch microseconds.
        nats_seq: JetStream stream sequence.
        epoch: connection.
        ordinal: position in the epoch.
    """

    payload: bytes
    recv_us: int
    nats_seq: int
    epoch: str
    ordinal: int


def needs_wrapping(payload: bytes) -> bool:
    """Whether a message must be wrapped whole because members cannot be spliced into it."""
    return (
        payload[:1] != b"{"
        or payload[-1:] != b"}"
        or len(payload) < 2
        or (payload[1:2].isspace() and not payload[1:-1].strip())
        or b"\n" in payload
        or b"\r" in payload
        or ((b'"_' in payload or b'"\\u005' in payload) and _RESERVED.search(payload) is not None)
        or (not payload.isascii() and not _is_utf8(payload))
    )


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def wrap(payload: bytes) -> bytes:
    """The message as the only member of an object: as text, or as base64 if text cannot hold it or grows by half."""
    if _is_utf8(payload):
        text = orjson.dumps(payload.decode())
        if len(text) <= 2 + _MAX_ESCAPED * len(payload) or len(payload) < 1024:
            return b'{"_raw":' + text + b"}"
    return b'{"_raw_base64":"' + base64.b64encode(payload) + b'"}'


def format_line(payload: bytes, recv_us: int, nats_seq: int, epoch: str, ordinal: int, *, wrapped: bool) -> bytes:
    """One archive line, without the line break.

    Args:
        wrapped: wrap the message whole; must be true wherever `needs_wrapping` is, and is true as well for what
            the feed's route could not parse.
    """
    if wrapped:
        payload = wrap(payload)
    comma = "" if payload == b"{}" else ","
    tail = f'{comma}"_received_at":{recv_us},"_nats_seq":{nats_seq},"_epoch":"{epoch}","_ordinal":{ordinal}}}'
    return payload[:-1] + tail.encode()


def parse_line(line: bytes) -> Line:
    """Take an archive line apart again; `line` has no line break.

    Raises:
        ArchiveError: the line does not end in the four members, or its wrapping is broken.
    """
    # Not TAIL.search: it tries every byte of the line, which costs more than all else here.
    start = line.rfind(_TAIL_START)
    tail = TAIL.match(line, start - (line[start - 1 : start] == b",")) if start > 0 else None
    if tail is None:
        raise ArchiveError(f"line does not end in the archive's members: {line[-120:]!r}")
    head = line[: tail.start()]
    whole = head + b"}"
    payload = _unwrap(whole) if head.startswith((_RAW, _RAW_BASE64)) else whole
    return Line(payload, int(tail[2]), int(tail[3]), tail[4].decode(), int(tail[5]))


def _unwrap(wrapped: bytes) -> bytes:
    try:
        value: dict[str, str] = orjson.loads(wrapped)
        if "_raw" in value:
            return value["_raw"].encode()
        return base64.b64decode(value["_raw_base64"], validate=True)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArchiveError(f"wrapped message cannot be read: {wrapped[:120]!r}: {error}") from error
