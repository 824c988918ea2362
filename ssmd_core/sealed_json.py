"""JSON files that end in the SHA-256 of their own bytes: a changed byte anywhere is noticed whenever one is loaded.

The document's last member is `sha256`; the digest is taken with that member empty.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TypeVar

import msgspec

from ssmd_core.errors import ArchiveError

_UNSIGNED_END = b'"sha256": ""\n}\n'
_SIGNED_END = re.compile(rb'"sha256": "([0-9a-f]{64})"\n\}\n\Z')
_SIGNED_END_BYTES = len(_UNSIGNED_END) + 64
_Document = TypeVar("_Document", bound=msgspec.Struct)


def load_sealed(path: Path, kind: type[_Document]) -> _Document | None:
    """The document, None if there is no such file.

    Raises:
        ArchiveError: its content is not what was written, or not of this kind.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    end = _SIGNED_END.search(content, max(0, len(content) - _SIGNED_END_BYTES))
    if end is None:
        raise ArchiveError(f"{path}: does not end in its own sha256")
    digest = hashlib.sha256(content[: end.start()] + _UNSIGNED_END).hexdigest()
    if digest.encode() != end[1]:
        raise ArchiveError(f"{path}: sha256 of its content is {digest}, but it says {end[1].decode()}")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path}: {error}") from error


def save_sealed(path: Path, document: msgspec.Struct) -> None:
    """Replace the file durably; the document's last field must be `sha256: str`."""
    unsigned = msgspec.json.encode(msgspec.structs.replace(document, sha256=""))
    content = msgspec.json.format(unsigned, indent=1) + b"\n"
    digest = hashlib.sha256(content).hexdigest()
    write_durably(path, content.removesuffix(_UNSIGNED_END) + f'"sha256": "{digest}"\n}}\n'.encode())


def write_durably(path: Path, content: bytes) -> None:
    """Write, fsync, rename, fsync the folder: after a crash the old or the new content is there, never a mix."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make the folder's entries (a rename, a new file) durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
