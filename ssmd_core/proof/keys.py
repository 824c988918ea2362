"""The key that signs ledgers, and the keys that are trusted when they are checked."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ssmd_core.errors import ConfigError
from ssmd_core.sealed_json import fsync_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY: Final = "SSMD_LEDGER_KEY"
TRUSTED: Final = "SSMD_LEDGER_TRUSTED"
_RAW_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class LedgerKey:
    """A key that signs.

    Attributes:
        public: its public half, 32 bytes in base64.
    """

    _private: Ed25519PrivateKey
    public: str

    @property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.public)

    def sign(self, content: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self._private.sign(content)


def fingerprint(public: str) -> str:
    """SHA-256 of a public key in groups of four digits, its first 16 bytes: to be compared by eye."""
    digest = hashlib.sha256(base64.b64decode(public)).hexdigest()[:32]
    return ":".join(digest[at : at + 4] for at in range(0, 32, 4))


def own_key(data: Path, environment: Mapping[str, str] | None = None) -> LedgerKey:
    """The key of this installation: `SSMD_LEDGER_KEY` (path of a PEM file, or 32 bytes in base64), else
    `{data}/keys/ledger.pem`, made once.

    Raises:
        ConfigError: the key cannot be read, or it is gone though ledgers have been signed: a new one made in silence
            would turn every older line into one of somebody else. It is not repeated in the text.
    """
    found = _known_key(data, environment)
    if found is None and any(data.glob("proof/*/*/chain.jsonl")):
        raise ConfigError(
            f"{_default_path(data)} is not there, but ledgers have been signed: put it back or name the key in {KEY}; "
            f"if it is lost, `ssmd ledger key --new` makes another one"
        )
    return found if found is not None else new_key(data)


def new_key(data: Path) -> LedgerKey:
    """A new key in `{data}/keys/ledger.pem`; the one that is there, if there is one."""
    return _made_key(_default_path(data))


def readable_by_others(data: Path) -> str:
    """What to do about a key that not only its owner can read; "" if nothing."""
    path = _default_path(data)
    try:
        mode = path.stat().st_mode & 0o777
    except OSError:
        return ""
    return f"{path}: others can read the key (mode {mode:04o}): chmod 600, and make a new one" if mode & 0o077 else ""


def trusted_keys(data: Path, environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Public keys whose signatures are believed: `SSMD_LEDGER_TRUSTED` (base64, commas between), else that of this
    installation; none if it has none.

    Raises:
        ConfigError: one of them is no key.
    """
    values = os.environ if environment is None else environment
    listed = [name.strip() for name in values.get(TRUSTED, "").split(",") if name.strip()]
    for public in listed:
        if len(_decoded(public) or b"") != _RAW_BYTES:
            raise ConfigError(f"{TRUSTED}: {public[:60]!r} is not a public key: 32 bytes in base64")
    if listed:
        return tuple(listed)
    own = _known_key(data, environment)
    return (own.public,) if own is not None else ()


def is_signed(public: str, signature: str, content: bytes) -> bool:
    """Whether the signature of the content is that of the key; both in base64."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw, signed = _decoded(public), _decoded(signature)
    if raw is None or signed is None or len(raw) != _RAW_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signed, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _known_key(data: Path, environment: Mapping[str, str] | None) -> LedgerKey | None:
    values = os.environ if environment is None else environment
    given = values.get(KEY, "").strip()
    if not given:
        path = _default_path(data)
        return _read_pem(path) if path.exists() else None
    raw = _decoded(given)
    if raw is not None and len(raw) == _RAW_BYTES:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return _key(Ed25519PrivateKey.from_private_bytes(raw))
    try:
        if Path(given).is_file():
            return _read_pem(Path(given))
    except (OSError, ValueError):
        pass  # no path at all: the same answer
    raise ConfigError(f"{KEY} is neither the path of a PEM file nor a key of 32 bytes in base64")


def _default_path(data: Path) -> Path:
    return data / "keys" / "ledger.pem"


def _read_pem(path: Path) -> LedgerKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError) as error:
        raise ConfigError(f"{path}: no private key in PEM without a password ({type(error).__name__})") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key")
    return _key(found)


def _made_key(path: Path) -> LedgerKey:
    """Make the key, unless another process is faster."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = Ed25519PrivateKey.generate()
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link, not a rename: it fails where there is a key already.
        os.link(temporary, path)
    except FileExistsError:
        return _read_pem(path)
    finally:
        temporary.unlink()
    fsync_folder(path.parent)
    return _key(private)


def _key(private: Ed25519PrivateKey) -> LedgerKey:
    return LedgerKey(private, base64.b64encode(private.public_key().public_bytes_raw()).decode())


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
