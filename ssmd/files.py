"""A parquet file that the API offers, and where it may be stored."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ssmd.errors import ClientError, IntegrityError

#: `datasets/{feed}/{stream}/{YYYY-MM-DD}/{type}_{HH}00.parquet`; a name begins with a letter or digit: none is `..`.
_PATH = re.compile(
    r"datasets/(?P<feed>[a-z0-9][a-z0-9-]{0,63})/(?P<stream>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})/(?P<day>\d{4}-\d{2}-\d{2})/"
    r"(?P<type>[A-Za-z0-9][A-Za-z0-9_]{0,127})_(?P<hour>[01]\d|2[0-3])00\.parquet",
    re.ASCII,
)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class File:
    """One parquet file: one message type of one hour of one stream.

    Attributes:
        path: `datasets/{feed}/{stream}/{YYYY-MM-DD}/{type}_{HH}00.parquet`, as below an installation's data folder.
        type: message type.
        hour: its start, UTC.
        bytes, sha256, rows: what the file has.
        url: signed, good until `expires_at`: whoever knows it can read the file, so it is not printed.
    """

    path: str
    feed: str
    stream: str
    type: str
    hour: datetime
    bytes: int
    sha256: str
    rows: int
    url: str = field(repr=False)
    expires_at: datetime

    @classmethod
    def parse(cls, told: Any, base_url: str) -> File:
        """A file as the API tells of it.

        Args:
            base_url: of the API, for signed URLs that name no host.

        Raises:
            IntegrityError: its path leads elsewhere than to a dataset.
            ClientError: it is not what the API should send.
        """
        try:
            path, sha256 = str(told["path"]), str(told["sha256"])
            size, rows = int(told["bytes"]), int(told["rowCount"])
            url = urljoin(base_url, str(told["signedUrl"]))
            expires_at = datetime.fromisoformat(str(told["expiresAt"])).astimezone(UTC)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ClientError(f"the API told of a file in a way that this client does not know: {error!r}") from None
        parts = split_path(path)
        if size < 0 or rows < 0 or not _SHA256.fullmatch(sha256) or urlsplit(url).scheme not in {"http", "https"}:
            raise ClientError(f"{path}: the API tells of impossible bytes, rows, sha256 or URL")
        return cls(path, parts.feed, parts.stream, parts.type, parts.hour, size, sha256, rows, url, expires_at)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a path says."""

    feed: str
    stream: str
    type: str
    hour: datetime


def split_path(path: str) -> Parts:
    """What a dataset's path says.

    Raises:
        IntegrityError: it is not the path of a dataset.
    """
    found = _PATH.fullmatch(path)
    try:
        if found is None:
            raise ValueError
        hour = datetime.fromisoformat(f"{found['day']}T{found['hour']}:00:00+00:00")
    except ValueError:
        raise IntegrityError(f"{path[:200]!a} is not the path of a dataset") from None
    return Parts(found["feed"], found["stream"], found["type"], hour)


def place(folder: Path, path: str) -> Path:
    """Where a file belongs below the folder; its parents are made.

    Raises:
        IntegrityError: the path, or a link in the folder, leads out of it.
    """
    split_path(path)
    root = folder.resolve()
    target = root / path
    if not target.parent.resolve().is_relative_to(root):
        raise IntegrityError(f"{target.parent} is a link that leads out of {root}")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
