"""Split a frame into its messages; each message keeps its own bytes."""

from __future__ import annotations

import msgspec

# An opening dump of Polymarket holds one element per token, 500 at most. The cap only stops a 16 MiB frame of
# `[1,1,1,…` from becoming eight million messages.
MAX_MESSAGES_PER_FRAME = 100_000
# Decoding those eight million takes 630 MB before they can be counted. A venue's objects have 14 bytes and more per
# comma (`{"price":".48","size":"30"},`), so that many commas less than 8 bytes apart are not messages.
_MIN_BYTES_PER_COMMA = 8

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


def split_frame(frame: bytes) -> list[bytes]:
    """The messages of one frame.

    An array frame gives its elements, byte for byte, without the brackets, commas and blanks between them. Any
    other frame, an empty array, a malformed array and one with more than `MAX_MESSAGES_PER_FRAME` elements is one
    message: itself.
    """
    if frame.lstrip()[:1] != b"[":
        return [frame]
    most = max(MAX_MESSAGES_PER_FRAME, len(frame) // _MIN_BYTES_PER_COMMA)
    if len(frame) > most and frame.count(b",") > most:
        return [frame]
    try:
        elements = _ARRAY.decode(frame)
    except (msgspec.DecodeError, RecursionError):
        return [frame]
    if not elements or len(elements) > MAX_MESSAGES_PER_FRAME:
        return [frame]
    return [bytes(element) for element in elements]
