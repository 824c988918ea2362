"""JetStream stream names and subjects of a feed's streams (design: contracts)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ssmd_core.errors import ConfigError
from ssmd_core.feeds.base import Feed

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_NOT_ID = re.compile(r"[^A-Za-z0-9_.-]+")
_DOTS = re.compile(r"\.{2,}")
MAX_ID_CHARS = 128


def subject_id(text: str) -> str:
    """A venue's id as the tail of a subject: letters, digits, `_`, `-` and single inner dots; never empty.

    Ids are written by strangers. `/` becomes `-` (BTC/USD), everything else outside the set is dropped, and what
    is left empty becomes `unknown`. Kalshi tickers keep their dots, so an id may span several tokens.
    """
    cleaned = _DOTS.sub(".", _NOT_ID.sub("", text.replace("/", "-")))[:MAX_ID_CHARS].strip(".")
    return cleaned or "unknown"


@dataclass(frozen=True, slots=True)
class StreamName:
    """A feed's stream in one environment.

    Attributes:
        env: environment name, e.g. `prod`.
        feed: the feed.
        stream: stream name, e.g. `crypto`.
    """

    env: str
    feed: Feed
    stream: str

    def __post_init__(self) -> None:
        for what, text in (("environment", self.env), ("stream", self.stream)):
            if not _NAME.match(text):
                raise ConfigError(f"{what} {text!r} must be lower-case letters, digits and single dashes")

    @property
    def prefix(self) -> str:
        """Subject prefix, `{env}.{feed}[.{category}]`."""
        category = "" if self.stream == self.feed.default_stream else f".{self.stream}"
        return f"{self.env}.{self.feed.name}{category}"

    @property
    def jetstream(self) -> str:
        """JetStream stream name, `{ENV}_{FEED}[_{CATEGORY}]`."""
        return self.prefix.replace(".", "_").replace("-", "_").upper()

    @property
    def filter(self) -> str:
        """The subjects of the stream."""
        return f"{self.prefix}.json.>"

    def subject(self, token: str, id_: str) -> str:
        """Subject of one message; `id_` must have come through `subject_id`."""
        return f"{self.prefix}.json.{token}.{id_}"

    @property
    def folder(self) -> str:
        """Folder below the archive root, `{feed}/{stream}`."""
        return f"{self.feed.name}/{self.stream}"
