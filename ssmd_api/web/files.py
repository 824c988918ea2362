"""Files for browsers: read once, compressed once, answered with an ETag."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ssmd_api.errors import NotFoundError, UnavailableError

_OWN = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_LEAST_COMPRESSED_BYTES = 1024
#: A page asks each time whether it is still the same; what belongs to an installed version may be kept for a day.
_PAGE, _KEPT = "no-cache", "public, max-age=86400"


@dataclass(frozen=True, slots=True)
class WebFile:
    """One file.

    Attributes:
        packed: gzip of the content; empty where that is not worth it.
        etag: quoted digest of the content.
    """

    content: bytes
    packed: bytes
    etag: str
    media_type: str

    @classmethod
    def of(cls, content: bytes, suffix: str) -> WebFile:
        """A file with this content."""
        packed = gzip.compress(content, 9, mtime=0) if len(content) >= _LEAST_COMPRESSED_BYTES else b""
        return cls(content, packed, f'"{hashlib.sha256(content).hexdigest()[:32]}"', _TYPES[suffix])

    def answer(self, request: Request, *, keep: bool = False, policy: str = "") -> Response:
        """The file, or 304 if the browser has it.

        Args:
            keep: the browser may use it for a day without asking.
            policy: Content-Security-Policy of a page.
        """
        headers = {"ETag": self.etag, "Cache-Control": _KEPT if keep else _PAGE, "Vary": "Accept-Encoding"}
        if policy:
            headers["Content-Security-Policy"] = policy
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known or "*" in known:
            return Response(b"", 304, headers)
        content = self.content
        if self.packed and _takes_gzip(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
            content = self.packed
        return Response(content, 200, headers, self.media_type)


@lru_cache(maxsize=64)
def own_file(name: str) -> WebFile:
    """A file of this folder's `static/`; `name` is never a stranger's."""
    path = _OWN / name
    return WebFile.of(path.read_bytes(), path.suffix)


@lru_cache(maxsize=8)
def swagger_file(name: str) -> WebFile:
    """A file of the installed Swagger UI; `name` is never a stranger's.

    Raises:
        UnavailableError: Swagger UI is not installed.
        NotFoundError: it has no such file.
    """
    spec = find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise UnavailableError("the package swagger-ui-py is not installed; /openapi.json tells the same")
    path = Path(spec.origin).parent / "static" / name
    if not path.is_file():
        raise NotFoundError(f"this Swagger UI has no {name}")
    return WebFile.of(path.read_bytes(), path.suffix)


def _takes_gzip(accepted: str) -> bool:
    for each in accepted.lower().split(","):
        name, _, quality = each.partition(";")
        if name.strip() in {"gzip", "*"}:
            return quality.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
