"""Cursors: where a page ended, as text that only its own list takes back.

A cursor holds the position of a page's last row and a digest of that position together with the question. What was
changed, cut or taken from another list does not fit its digest. Whoever computes a digest himself gains nothing: the
position is a parameter of the query, and which rows may be seen is decided again for every page.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import date, datetime
from hashlib import blake2b

import msgspec

from ssmd_api.errors import InvalidRequestError

_DIGEST_BYTES = 8
_MAX_CHARS = 1024

Part = datetime | date | int | str


def encode_cursor(question: object, position: Sequence[Part]) -> str:
    """The cursor behind a row.

    Args:
        question: what was asked, but for limit and cursor; its text must be the same each time.
        position: of the last row.
    """
    body = msgspec.json.encode(position)
    return base64.urlsafe_b64encode(_digest(question, body) + body).decode().rstrip("=")


def decode_cursor(question: object, cursor: str, kinds: tuple[type[Part], ...]) -> tuple[Part, ...]:
    """The position that `encode_cursor` was given.

    Args:
        kinds: types of its parts.

    Raises:
        InvalidRequestError: it is not a cursor of this question.
    """
    try:
        if len(cursor) > _MAX_CHARS:
            raise ValueError
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if digest != _digest(question, body):
            raise ValueError
        position: tuple[Part, ...] = msgspec.json.decode(body, type=tuple[kinds])  # type: ignore[valid-type]  # made here
        if any("\0" in part for part in position if isinstance(part, str)):
            raise ValueError
        return position
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise InvalidRequestError(
            "cursor: not one that this list gave for these parameters; begin without a cursor", field="cursor"
        ) from None


def _digest(question: object, body: bytes) -> bytes:
    return blake2b(
        repr(question).encode("utf-8", "backslashreplace") + b"\0" + body, digest_size=_DIGEST_BYTES
    ).digest()
