"""The keys that sign URLs: from `SSMD_SIGNING_KEYS`, or a file of the data folder that is made on first use.

Several keys, each with an id; the first signs, all verify. To rotate: put a new one in front, and take the old one out
twelve hours later. In the environment: `id:base64,id:base64`. In the file: `{"keys": [{"id": …, "key": base64}, …]}`.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ssmd_core.errors import ConfigError

VARIABLE = "SSMD_SIGNING_KEYS"
FILE = "signing-keys.json"
KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")


class _Key(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    key: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[_Key]


class Keyring:
    """Signing keys by id.

    Args:
        environment: may name them.
        data: folder of the file, if the environment does not.

    Raises:
        ConfigError: what the environment names, or the file that is there, cannot be used.
    """

    def __init__(self, environment: Mapping[str, str], data: Path) -> None:
        self._path = data / FILE
        self._keys: dict[str, bytes] = {}
        self._read_at: tuple[int, int] | None = None
        text = environment.get(VARIABLE, "").strip()
        self._fixed = bool(text)
        if text:
            pairs = [part.strip().partition(":") for part in text.split(",")]
            self._keys = _checked(((key_id, key) for key_id, _, key in pairs), VARIABLE)
        elif self._path.exists():
            self._read()

    @property
    def keys(self) -> Mapping[str, bytes]:
        """All of them; the first signs. A file that has changed is read again.

        Raises:
            ConfigError: the file cannot be used, or not be made.
        """
        if not self._fixed:
            self._read()
        return self._keys

    def _read(self) -> None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            _make(self._path)
            found = self._path.stat()
        if (found.st_mtime_ns, found.st_ino) == self._read_at:
            return
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{FILE} may be read by others (mode {stat.S_IMODE(found.st_mode):04o}): make it 0600")
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{FILE} cannot be read: {error}") from error
        self._keys = _checked(((one.id, one.key) for one in content.keys), FILE)
        self._read_at = found.st_mtime_ns, found.st_ino


def _checked(pairs: Iterable[tuple[str, str]], where: str) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for number, (key_id, text) in enumerate(pairs, 1):
        # Not repeated: what stands in the place of the id may be the key.
        if not _ID.match(key_id) or not text:
            raise ConfigError(f"{where}: key {number} is not of the form id:base64")
        if key_id in keys:
            raise ConfigError(f"{where}: the id {key_id} is there twice")
        try:
            key = base64.b64decode(text, altchars=b"-_" if set(text) & set("-_") else None, validate=True)
        except (binascii.Error, ValueError):
            raise ConfigError(f"{where}: the key {key_id} is not base64") from None
        if len(key) < KEY_BYTES:
            raise ConfigError(f"{where}: the key {key_id} has {len(key)} bytes, {KEY_BYTES} are needed")
        keys[key_id] = key
    if not keys:
        raise ConfigError(f"{where} holds no key")
    return keys


def _make(path: Path) -> None:
    """A file with one random key; the first of several processes that try makes it."""
    key_id = f"k{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(_File([_Key(key_id, key)])), indent=1) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
        finally:
            temporary.unlink()
    except OSError as error:
        raise ConfigError(f"{FILE} cannot be made: {error.strerror}; set {VARIABLE} instead") from error
