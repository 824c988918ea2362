"""API keys: `sk_{live|test}_{key id}_{secret}`.

The key id (8 characters) finds the row, the secret (32 characters, 192 random bits) proves the key. Kept is the
SHA-256 of the prefix and the secret: the prefix is a salt of each key's own, and no guessing reaches 192 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Literal, NamedTuple

Environment = Literal["live", "test"]

# base64url has _ and -, so the parts are told apart by their length.
_KEY = re.compile(r"(sk_(?:live|test)_[A-Za-z0-9_-]{8})_([A-Za-z0-9_-]{32})\Z")
_KEY_ID_BYTES = 6
_SECRET_BYTES = 24


class ApiKey(NamedTuple):
    """A key in its two parts.

    Attributes:
        prefix: public, up to and including the key id.
        secret: never kept, never logged.
    """

    prefix: str
    secret: str

    @property
    def text(self) -> str:
        """The whole key, as its owner gets it once."""
        return f"{self.prefix}_{self.secret}"

    @property
    def digest(self) -> str:
        """What is kept."""
        return hashlib.sha256(f"{self.prefix}:{self.secret}".encode()).hexdigest()

    def matches(self, digest: str) -> bool:
        """Whether this is the key of which that was kept; takes as long for any other."""
        return hmac.compare_digest(self.digest, digest)


def make_key(environment: Environment) -> ApiKey:
    """A new key."""
    prefix = f"sk_{environment}_{secrets.token_urlsafe(_KEY_ID_BYTES)}"
    return ApiKey(prefix, secrets.token_urlsafe(_SECRET_BYTES))


def parse_key(text: str) -> ApiKey | None:
    """The parts of a key, None if it is not of a key's form."""
    match = _KEY.match(text)
    return ApiKey(match[1], match[2]) if match else None
