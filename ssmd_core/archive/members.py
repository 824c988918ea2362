"""Independent gzip members: written one per commit, each verified by ourselves when read.

Common readers accept a wrong checksum (DuckDB), hang on a cut file (pyarrow) or give nothing at all (spec: peers 3c),
so an archive file is only ever read through this module.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from isal import isal_zlib

from ssmd_core.errors import TornFileError

# No name, no time: the same lines give the same bytes.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_TRAILER = struct.Struct("<II")
_LEVEL = 1
_READ_BYTES = 256 * 1024
_OUTPUT_BYTES = 1024 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024


def member(content: bytes) -> bytes:
    """`content` as one gzip member; the same content always gives the same bytes."""
    deflate = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -15)
    body = deflate.compress(content) + deflate.flush()
    return _HEADER + body + _TRAILER.pack(isal_zlib.crc32(content), len(content) & 0xFFFFFFFF)


def iter_blocks(path: Path) -> Iterator[bytes]:
    """Decompressed blocks of about 1 MB, cut anywhere.

    A member's checksum is known only at its end: what was yielded counts once the iterator has ended without error.

    Raises:
        TornFileError: a member is cut, damaged, or followed by something that is not a member.
    """
    with path.open("rb") as file:
        pending = b""
        offset = 0
        while True:
            pending, ended = _fill(file, pending, len(_HEADER))
            if ended and not pending:
                return
            if not pending.startswith(_HEADER):
                raise TornFileError(str(path), offset, f"not a member's header: {pending[:10].hex()}")
            inflate = isal_zlib.decompressobj(-15)
            crc = 0
            size = 0
            consumed = len(_HEADER)
            chunk = pending[len(_HEADER) :]
            while not inflate.eof:
                if not chunk:
                    chunk = file.read(_READ_BYTES)
                    if not chunk:
                        raise TornFileError(str(path), offset, "cut in the middle")
                try:
                    output = inflate.decompress(chunk, _OUTPUT_BYTES)
                except isal_zlib.error as error:
                    raise TornFileError(str(path), offset, f"damaged: {error}") from error
                rest = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
                consumed += len(chunk) - len(rest)
                chunk = rest
                crc = isal_zlib.crc32(output, crc)
                size += len(output)
                if output:
                    yield output
            pending, ended = _fill(file, chunk, _TRAILER.size)
            if len(pending) < _TRAILER.size:
                raise TornFileError(str(path), offset, "cut in its trailer")
            stated_crc, stated_size = _TRAILER.unpack_from(pending)
            if stated_crc != crc:
                raise TornFileError(str(path), offset, f"checksum is {crc:08x}, its trailer says {stated_crc:08x}")
            if stated_size != size & 0xFFFFFFFF:
                raise TornFileError(str(path), offset, f"holds {size} bytes, its trailer says {stated_size}")
            pending = pending[_TRAILER.size :]
            offset += consumed + _TRAILER.size


def iter_lines(path: Path) -> Iterator[bytes]:
    """Lines without their line breaks; the last one must have had one.

    Raises:
        TornFileError: as `iter_blocks`, or a line is longer than 64 MiB, or the last line is not whole.
    """
    rest = b""
    for block in iter_blocks(path):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise TornFileError(str(path), 0, f"a line is longer than {MAX_LINE_BYTES} bytes")
        yield from lines
    if rest:
        raise TornFileError(str(path), 0, f"the last line is not whole: {rest[-80:]!r}")


def iter_chunks(path: Path, chunk_bytes: int) -> Iterator[bytes]:
    """Decompressed chunks of about `chunk_bytes`, each cut after a line break; the last line must have one.

    Raises:
        TornFileError: as `iter_lines`.
    """
    blocks: list[bytes] = []
    held = 0
    for block in iter_blocks(path):
        blocks.append(block)
        held += len(block)
        if held < chunk_bytes:
            continue
        cut = block.rfind(b"\n") + 1
        if cut:
            blocks[-1] = block[:cut]
            yield b"".join(blocks)
            blocks = [block[cut:]]
            held = len(blocks[0])
        elif held > chunk_bytes + MAX_LINE_BYTES:
            raise TornFileError(str(path), 0, f"a line is longer than {MAX_LINE_BYTES} bytes")
    rest = b"".join(blocks)
    if rest:
        if not rest.endswith(b"\n"):
            raise TornFileError(str(path), 0, f"the last line is not whole: {rest[-80:]!r}")
        yield rest


class Salvage:
    """Iterates over every whole line before the damage; afterwards `damage` says what it was ("" if none)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damage = ""

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from iter_lines(self._path)
        except TornFileError as error:
            self.damage = str(error)


def salvage_lines(path: Path) -> Salvage:
    """Every whole line of a file that may be torn, e.g. a `.part` after a crash."""
    return Salvage(path)


def _fill(file: IO[bytes], pending: bytes, wanted: int) -> tuple[bytes, bool]:
    """Read until `wanted` bytes are at hand; True if the file ended."""
    while len(pending) < wanted:
        block = file.read(_READ_BYTES)
        if not block:
            return pending, True
        pending += block
    return pending, False
