"""The bytes of an open file as an answer: whole or one range, conditional, never more than a chunk in memory."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from io import FileIO
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ssmd_core.storage.layout import StoredFile, content_type

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")


class Span(NamedTuple):
    """Bytes of a file, `end` exclusive."""

    start: int
    end: int


def parse_range(text: str, size: int) -> Span | None:
    """The one range that a `Range` header asks for; None to send the whole.

    Several ranges, and what is not a range, get the whole, as RFC 9110 14.2 allows.

    Raises:
        ValueError: no byte of the file is in it.
    """
    found = _RANGE.match(text.strip().replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start = int(found[1])
        end = min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= size or start >= end:
        raise ValueError(f"no byte of {size} is in {text!r}")
    return Span(start, end)


def content_response(request: Request, file: FileIO, stored: StoredFile, sha256: str) -> Response:
    """The answer to a GET or HEAD; a `StreamingResponse` closes the file itself, another does not need it."""
    size = os.fstat(file.fileno()).st_size
    tag = f'"{sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private",
        "Content-Disposition": f'attachment; filename="{stored.download_name}"',
    }
    if _names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    span, status = Span(0, size), 200
    asked = request.headers.get("range", "")
    # A date in If-Range never fits: only the ETag says that the bytes are the same.
    if asked and request.method == "GET" and request.headers.get("if-range", tag).strip() == tag:
        try:
            found = parse_range(asked, size)
        except ValueError:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
        if found is not None:
            span, status = found, 206
            headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    headers["Content-Length"] = str(span.end - span.start)
    media_type = content_type(stored.name)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_chunks(file, span), status, headers, media_type)


def _names(header: str, tag: str) -> bool:
    """Whether an `If-None-Match` header names the tag; weak comparison, as it must be there."""
    return any(part.strip().removeprefix("W/") in {tag, "*"} for part in header.split(",")) if header else False


async def _chunks(file: FileIO, span: Span) -> AsyncIterator[bytes]:
    with file:
        offset = span.start
        while offset < span.end:
            part = await asyncio.to_thread(os.pread, file.fileno(), min(_CHUNK_BYTES, span.end - offset), offset)
            if not part:
                raise OSError("the file became shorter while it was sent")
            yield part
            offset += len(part)
