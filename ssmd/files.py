"""A file that the API offers, and where it may be stored."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ssmd.errors import ClientError, IntegrityError

#: What can be downloaded, and the folder that it goes to.
KINDS = {"parquet": "datasets", "proof": "proof", "backfill": "backfill"}
#: Types of the files of an hour's proof, and of the chain of all hours.
CHAIN = "chain"
PROOF_TYPES = ("ledger", "coverage", "integrity", "untrusted", "shapes", "state", CHAIN)
# A name begins with a letter or digit: none is `..`.
_STREAM = r"(?P<feed>[a-z0-9][a-z0-9-]{0,63})/(?P<stream>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})/"
_HOUR = r"_(?P<hour>[01]\d|2[0-3])00"
_DAY = r"(?P<day>\d{4}-\d{2}-\d{2})/"
_PATHS = (
    re.compile(
        rf"(?P<tree>datasets|backfill)/{_STREAM}{_DAY}(?P<type>[A-Za-z0-9][A-Za-z0-9_]{{0,127}}){_HOUR}\.parquet",
        re.ASCII,
    ),
    re.compile(
        rf"(?P<tree>proof)/{_STREAM}{_DAY}(?P<type>{'|'.join(PROOF_TYPES[:-1])}){_HOUR}\.(?:parquet|json|bin\.gz)",
        re.ASCII,
    ),
    re.compile(rf"(?P<tree>proof)/{_STREAM}(?P<type>{CHAIN})\.jsonl(?P<day>)(?P<hour>)", re.ASCII),
)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
HOUR = timedelta(hours=1)
#: The hour of a chain, which is of all of them.
ALL_HOURS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class File:
    """One file: one message type of one hour of one stream, or a part of the hour's proof.

    Attributes:
        path: `datasets/{feed}/{stream}/{YYYY-MM-DD}/{type}_{HH}00.parquet`, as below an installation's data folder.
        type: message type; `ledger`, `coverage`, … of a proof.
        hour: its start, UTC; `datetime.min` for a chain, which is of all hours.
        bytes, sha256, rows: what the file has; `rows` is None for files of a proof.
        url: signed, good until `expires_at`: whoever knows it can read the file, so it is not printed.
    """

    path: str
    feed: str
    stream: str
    type: str
    hour: datetime
    bytes: int
    sha256: str
    rows: int | None
    url: str = field(repr=False)
    expires_at: datetime

    @classmethod
    def parse(cls, told: Any, base_url: str) -> File:
        """A file as the API tells of it.

        Args:
            base_url: of the API, for signed URLs that name no host.

        Raises:
            IntegrityError: its path leads elsewhere than to a dataset, a proof or a backfill.
            ClientError: it is not what the API should send.
        """
        try:
            path, sha256 = str(told["path"]), str(told["sha256"])
            size = int(told["bytes"])
            rows = None if told["rowCount"] is None else int(told["rowCount"])
            url = urljoin(base_url, str(told["signedUrl"]))
            expires_at = datetime.fromisoformat(str(told["expiresAt"])).astimezone(UTC)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ClientError(f"the API told of a file in a way that this client does not know: {error!r}") from None
        parts = split_path(path)
        if (
            size < 0
            or (rows or 0) < 0
            or not _SHA256.fullmatch(sha256)
            or urlsplit(url).scheme not in {"http", "https"}
        ):
            raise ClientError(f"{path}: the API tells of impossible bytes, rows, sha256 or URL")
        return cls(path, parts.feed, parts.stream, parts.type, parts.hour, size, sha256, rows, url, expires_at)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a path says.

    Attributes:
        tree: folder of all files of its kind.
    """

    tree: str
    feed: str
    stream: str
    type: str
    hour: datetime


def split_path(path: str) -> Parts:
    """What the path of a dataset, a backfill or a proof's file says.

    Raises:
        IntegrityError: it is the path of none.
    """
    found = next((found for pattern in _PATHS if (found := pattern.fullmatch(path))), None)
    try:
        if found is None:
            raise ValueError
        hour = ALL_HOURS
        if found["day"]:
            hour = datetime.fromisoformat(f"{found['day']}T{found['hour']}:00:00+00:00")
    except ValueError:
        raise IntegrityError(f"{path[:200]!a} is not the path of a dataset, nor of its proof") from None
    return Parts(found["tree"], found["feed"], found["stream"], found["type"], hour)


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
