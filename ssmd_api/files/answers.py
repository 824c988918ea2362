"""What the routes about files answer."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

State = Literal["missing", "not_built", "partial", "not_uploaded", "not_proved"]


class FeedEntry(msgspec.Struct, rename="camel"):
    """A stream of a feed, as far as the key reaches.

    Attributes:
        prefix: folder of its datasets.
        message_types: that datasets are made of.
        date_min, date_max: first and last day with a file; None if there is none.
    """

    name: str
    display_name: str
    prefix: str
    stream: str
    message_types: list[str]
    date_min: str | None = None
    date_max: str | None = None
    total_files: int = 0
    total_bytes: int = 0
    total_rows: int = 0


class FeedList(msgspec.Struct, rename="camel"):
    """Answer of `/v1/data/feeds`; `catalog_generated_at` is None while no dataset has been built."""

    feeds: list[FeedEntry]
    catalog_generated_at: str | None = None


class CatalogEntry(msgspec.Struct, rename="camel"):
    """A stream in the overview."""

    feed: str
    stream: str
    message_types: list[str]
    date_min: str
    date_max: str
    total_files: int
    total_bytes: int
    total_rows: int


class CatalogDay(msgspec.Struct, rename="camel"):
    """A day of one stream.

    Attributes:
        hours: that are built, `HH00`.
    """

    date: str
    stream: str
    message_types: list[str]
    hours: list[str]
    files: int
    bytes: int
    rows: int


class CatalogAnswer(msgspec.Struct, rename="camel"):
    """Answer of `/v1/data/catalog`: `feeds`, or with the parameter `feed` that feed's `dates`.

    Attributes:
        catalog_generated_at: None while no dataset has been built.
        from_, to: first and last day with a dataset; as asked, if there is none.
    """

    catalog_generated_at: str | None
    feeds: list[CatalogEntry] | UnsetType = UNSET
    feed: str | UnsetType = UNSET
    from_: str | UnsetType = msgspec.field(name="from", default=UNSET)
    to: str | UnsetType = UNSET
    dates: list[CatalogDay] | UnsetType = UNSET


class Offer(msgspec.Struct, rename="camel"):
    """A file that can be downloaded.

    Attributes:
        date, hour: `HHMM` of its first minute; both "" for a chain, which is of all hours.
        type: message type; of a proof's file what it is; None for a raw file, which holds all types.
        row_count: None where it is not known: of a proof's files.
        signed_url, expires_at: set once it is signed.
    """

    path: str
    name: str
    stream: str
    date: str
    type: str | None
    hour: str
    bytes: int
    sha256: str
    row_count: int | None
    signed_url: str = ""
    expires_at: datetime = datetime.min.replace(tzinfo=UTC)


class MissingHour(msgspec.Struct, rename="camel"):
    """An hour that is not there, or not in full.

    Attributes:
        state: `missing`: nothing of it is archived. `partial`: some of its four slots are. `not_built`: it is
            archived, its datasets are not made. `not_proved`: it is archived, and no ledger says yet what came of it;
            only of `proof`. `not_uploaded`: more of it is here than in the object store. An hour that is none of these
            is there: a type without a file had no message.
    """

    stream: str
    date: str
    hour: str
    state: State


class Download(msgspec.Struct, rename="camel"):
    """Answer of `/v1/data/download`.

    Attributes:
        from_, to: the days, as far as the key reaches.
        type: that was asked for; None for all.
        kind: `parquet`, `raw` for the archive's own files, `proof` or `backfill`.
        missing: hours until now that are not among the files, or not in full.
        expires_in: seconds for which every URL is good.
    """

    feed: str
    stream: str | None
    from_: date = msgspec.field(name="from")
    to: date
    type: str | None
    kind: str
    files: list[Offer]
    missing: list[MissingHour]
    expires_in: int
