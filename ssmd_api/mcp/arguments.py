"""What the tools take: Structs whose members are named as the parameters of the REST interface."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Annotated

import msgspec

from ssmd_core.feeds import FEEDS
from ssmd_core.secmaster.selections import STATUSES

MAX_ROWS = 200
DEFAULT_ROWS = 20
_MAX_EVENTS = 100
_MAX_IDS = 100
_STATUSES = dict.fromkeys(word for words in STATUSES.values() for word in words)


def _text(about: str, *, most: int = 128) -> msgspec.Meta:
    return msgspec.Meta(min_length=1, max_length=most, description=about)


def _one_of(words: Iterable[str], about: str) -> msgspec.Meta:
    """Words of letters, digits, - and _."""
    known = list(words)
    return msgspec.Meta(pattern=f"^(?:{'|'.join(known)})$", description=about, extra_json_schema={"enum": known})


def _rows(most: int) -> msgspec.Meta:
    return msgspec.Meta(ge=1, le=most, description="At most so many rows.")


_Feed = Annotated[str, _one_of(FEEDS, "The feed, which is a venue.")]
_Day = Annotated[date, msgspec.Meta(description="Day, UTC, as 2026-11-20. Default: today.")]
_Hour = Annotated[str, msgspec.Meta(pattern="^([01][0-9]|2[0-3])00$", description="Hour, UTC, as 1100. Default: all.")]
_Cursor = Annotated[str, _text("`nextCursor` of the page before.", most=1024)]
_AsOf = Annotated[str, _text("What was known at this moment, as 2026-11-20T13:15:00Z. Default: now.", most=64)]


class Arguments(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Nothing; what the others add to."""


class DayArguments(Arguments):
    """A feed and a day, or one of its hours."""

    feed: _Feed
    date: _Day | None = None
    hour: _Hour | None = None


class RowsArguments(DayArguments):
    """The same, page by page."""

    limit: Annotated[int, _rows(MAX_ROWS)] = DEFAULT_ROWS
    cursor: _Cursor | None = None


class EventsArguments(DayArguments):
    """The same, with as many rows as the API gives; it has no pages."""

    limit: Annotated[int, _rows(_MAX_EVENTS)] = DEFAULT_ROWS


class VolumeArguments(Arguments):
    """A day, or one of its hours, of all feeds or one."""

    date: _Day | None = None
    hour: _Hour | None = None
    feed: _Feed | None = None


class LookupArguments(Arguments):
    """Ids."""

    ids: Annotated[
        list[Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern="^[^,]*$")]],
        msgspec.Meta(min_length=1, max_length=_MAX_IDS, description="Tickers, pair, condition or token ids."),
    ]
    feed: _Feed | None = None
    as_of: _AsOf | None = None


class FeedArguments(Arguments):
    """All feeds or one."""

    feed: _Feed | None = None


class CoverageArguments(Arguments):
    """A feed and up to 31 days."""

    feed: _Feed
    first: Annotated[date, msgspec.Meta(description="First day, UTC.")]
    last: Annotated[date, msgspec.Meta(description="Last day, UTC, included; at most 30 days later.")]


class HoursArguments(Arguments, kw_only=True):
    """A feed, days, and a word."""

    feed: _Feed | None = None
    first: Annotated[date, msgspec.Meta(description="First day, UTC.")]
    last: Annotated[date, msgspec.Meta(description="Last day, UTC, included.")]
    word: Annotated[str, _one_of(("complete", "degraded", "empty"), "Only hours of this word.")] | None = None
    cursor: _Cursor | None = None
    limit: Annotated[int, _rows(MAX_ROWS)] = DEFAULT_ROWS


class LedgerArguments(Arguments, kw_only=True):
    """An hour of a feed."""

    feed: _Feed
    date: Annotated[date, msgspec.Meta(description="Day, UTC, as 2026-11-20.")]
    hour: Annotated[str, msgspec.Meta(pattern="^([01][0-9]|2[0-3])00$", description="Hour, UTC, as 1100.")]


class BookArguments(Arguments, kw_only=True):
    """An instrument and a moment."""

    feed: _Feed
    instrument: Annotated[str, _text("Market ticker, symbol, product or token id.", most=256)]
    at: Annotated[str, _text("The moment, as 2026-11-20T11:20:00Z.", most=64)]
    untrusted: Annotated[bool, msgspec.Meta(description="Also where it must not be trusted.")] = False
    levels: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS, description="Levels of each side.")] = DEFAULT_ROWS


class DailyArguments(Arguments, kw_only=True):
    """Days of a feed, or of all."""

    feed: _Feed | None = None
    first: Annotated[date, msgspec.Meta(description="First day, UTC.")]
    last: Annotated[date, msgspec.Meta(description="Last day, UTC, included.")]
    cursor: _Cursor | None = None
    limit: Annotated[int, _rows(MAX_ROWS)] = DEFAULT_ROWS


class ReportsArguments(Arguments, kw_only=True):
    """Reports of some days."""

    kind: Annotated[str, _one_of(("diagnosis", "volume"), "Which kind. Default: both.")] | None = None
    first: Annotated[date, msgspec.Meta(description="First day, UTC.")]
    last: Annotated[date, msgspec.Meta(description="Last day, UTC, included.")]
    cursor: _Cursor | None = None
    limit: Annotated[int, _rows(MAX_ROWS)] = DEFAULT_ROWS


class SearchArguments(Arguments):
    """Conditions on markets; those that a feed's markets do not have are refused."""

    feed: _Feed
    status: Annotated[str, _one_of(_STATUSES, "Status; which of them exist depends on the feed.")] | None = None
    category: Annotated[str, _text("kalshi, polymarket: category; polymarket: or a tag.")] | None = None
    series: Annotated[str, _text("kalshi: ticker of the series.")] | None = None
    event: Annotated[str, _text("kalshi: ticker of the event; polymarket: event id.")] | None = None
    base: Annotated[str, _text("kraken, kraken-futures: base currency, as BTC.")] | None = None
    quote: Annotated[str, _text("kraken, kraken-futures: quote currency, as USD.")] | None = None
    market_type: Annotated[str, _one_of(("perpetual", "future"), "kraken-futures; default: both.")] | None = None
    as_of: _AsOf | None = None
    cursor: _Cursor | None = None
    limit: Annotated[int, _rows(MAX_ROWS)] = DEFAULT_ROWS
