"""The messages of an hour that became no row, each with the reason and the line as it is in the archive."""

from __future__ import annotations

import base64
import gzip
import os
from pathlib import Path
from typing import Any, BinaryIO

import orjson


class RejectsFile:
    """Writes `rejects_{HH}00.jsonl.gz`; makes no file if nothing is rejected. The same rejects give the same bytes.

    Args:
        path: where to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw: BinaryIO | None = None
        self._file: gzip.GzipFile | None = None
        self.counts: dict[str, int] = {}

    def add(self, *, file: str, line: int, nats_seq: int | None, message_type: str, reason: str, raw: bytes) -> None:
        """Keep one message.

        Args:
            file, line: archive file and line number, from 1.
            nats_seq: None if the line has none.
            raw: the archive line; `raw_base64` in the file if it is not UTF-8.
        """
        entry: dict[str, Any] = {
            "file": file,
            "line": line,
            "nats_seq": nats_seq,
            "type": message_type,
            "reason": reason,
        }
        try:
            entry["raw"] = raw.decode()
        except UnicodeDecodeError:
            entry["raw_base64"] = base64.b64encode(raw).decode()
        if self._file is None:
            self._raw = self._path.open("wb")
            self._file = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, compresslevel=6, mtime=0)
        self._file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        self.counts[message_type] = self.counts.get(message_type, 0) + 1

    def close(self) -> bool:
        """Make the file durable; whether there is one."""
        if self._file is None or self._raw is None:
            return False
        self._file.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        return True
