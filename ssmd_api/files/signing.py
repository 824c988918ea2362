"""Signed URLs of local files: HMAC-SHA256 over all that the URL grants.

Signed is a list of texts, each behind its length in bytes and a colon, so that no two lists have the same bytes. A URL
grants a GET (and the HEAD that goes with it) of one file with one content, at one host, until a moment at most twelve
hours away, in the name of one API key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote, urlencode

from ssmd_api.errors import ForbiddenError

MAX_LIFE = timedelta(hours=12)
# The clocks of two machines behind one address differ by less.
_SKEW = timedelta(seconds=60)
_VERSION = "ssmd-file-1"
_METHOD = "GET"


class Grant(NamedTuple):
    """What a URL allows.

    Attributes:
        host: as the client names it in `Host`.
        path: of the file, see `ssmd_core.storage.layout`.
        expires: epoch seconds.
        key_prefix: of the API key that it was made for.
        sha256: of the content.
    """

    host: str
    path: str
    expires: int
    key_prefix: str
    sha256: str


def signature(key_id: str, key: bytes, grant: Grant) -> str:
    """The signature, as base64url without padding."""
    parts = (
        _VERSION,
        key_id,
        _METHOD,
        grant.host.lower(),
        grant.path,
        str(grant.expires),
        grant.key_prefix,
        grant.sha256,
    )
    texts = [part.encode("utf-8", "surrogatepass") for part in parts]
    message = b"".join(b"%d:%b" % (len(text), text) for text in texts)
    return base64.urlsafe_b64encode(hmac.digest(key, message, hashlib.sha256)).rstrip(b"=").decode()


def signed_url(base_url: str, key_id: str, key: bytes, grant: Grant) -> str:
    """The URL that grants it.

    Args:
        base_url: scheme and host, without a path; its host is the grant's.
    """
    query = {
        "key": key_id,
        "expires": grant.expires,
        "for": grant.key_prefix,
        "sha256": grant.sha256,
        "signature": signature(key_id, key, grant),
    }
    return f"{base_url}/v1/files/{quote(grant.path)}?{urlencode(query)}"


def check(grant: Grant, key_id: str, given: str, keys: Mapping[str, bytes], now: datetime) -> None:
    """Refuse a URL that no key here has signed, or whose time is over.

    Raises:
        ForbiddenError: it is one.
    """
    # An unknown key id is compared too, so that the time tells nothing.
    key = keys.get(key_id, b"\0" * 32)
    right = hmac.compare_digest(signature(key_id, key, grant).encode(), given.encode("utf-8", "surrogatepass"))
    if not right or key_id not in keys:
        raise ForbiddenError("the signature does not fit this URL")
    try:
        expires = datetime.fromtimestamp(grant.expires, UTC)
    except (ValueError, OverflowError, OSError):
        raise ForbiddenError("this URL never was valid") from None
    if expires <= now:
        raise ForbiddenError("this URL has expired; ask for a new one")
    if expires > now + MAX_LIFE + _SKEW:
        raise ForbiddenError("this URL claims more than twelve hours")
