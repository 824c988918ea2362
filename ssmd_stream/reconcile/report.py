"""What a reconciliation found, as it is stored, shown and handed on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from ssmd_core.clock import rfc3339_us
from ssmd_stream.reconcile.compare import Comparison, rate_of
from ssmd_stream.reconcile.trades import Trade
from ssmd_stream.secmaster.fields import clean

Status = Literal["ok", "missing", "extra", "differing", "unavailable", "partial"]
SAMPLE = 20


@dataclass(slots=True)
class Reconciliation:
    """One instrument in one window; the columns of `trade_reconciliations`.

    Attributes:
        status: the worst that was found, in this order: `missing` (the venue has trades that the archive has not),
            `differing` (both have a trade, with other numbers), `extra` (the archive has trades that the venue has
            not), `partial` (nothing wrong, but only a part could be compared: `detail` says which), `unavailable`
            (nothing could be compared: the venue did not answer, or its history is too short), `ok`.
        venue_trades, archived_trades, matched, missing, extra, differing: of the part that was compared.
        backfilled: of the missing ones, those that stand in the backfill dataset.
        match_rate: matched of the venue's trades; None if there are none.
        sample: at most 20 of what is wrong: `{"what","id","time","venue","archive"}`.
        detail: what people should know, in sentences; "" if there is nothing.
        id: of the stored row; None if it was not stored.
    """

    feed: str
    stream: str
    instrument: str
    started_at: datetime
    ended_at: datetime
    status: Status
    venue_trades: int = 0
    archived_trades: int = 0
    matched: int = 0
    missing: int = 0
    extra: int = 0
    differing: int = 0
    backfilled: int = 0
    match_rate: Decimal | None = None
    sample: list[dict[str, Any]] = field(default_factory=list)
    detail: str = ""
    id: int | None = None

    @property
    def citation(self) -> str | None:
        """By which others refer to it."""
        return None if self.id is None else f"reconciliation:{self.id}"

    def count(self, comparison: Comparison, *, whole: bool) -> None:
        """Take the figures of a comparison; `whole` if it covers all of the window."""
        self.venue_trades = comparison.venue_trades
        self.archived_trades = comparison.archived_trades
        self.matched = comparison.matched
        self.missing = len(comparison.missing)
        self.extra = len(comparison.extra)
        self.differing = len(comparison.differing)
        self.match_rate = comparison.match_rate
        self.sample = _sample(comparison)
        wrong: tuple[tuple[Status, int], ...] = (
            ("missing", self.missing),
            ("differing", self.differing),
            ("extra", self.extra),
        )
        self.status = next((word for word, count in wrong if count), "ok" if whole else "partial")

    def as_dict(self) -> dict[str, Any]:
        """For JSON; numbers with a fraction are text."""
        return {
            "id": self.citation,
            "feed": self.feed,
            "stream": self.stream,
            "instrument": self.instrument,
            "from": _utc(self.started_at),
            "to": _utc(self.ended_at),
            "status": self.status,
            "venue_trades": self.venue_trades,
            "archived_trades": self.archived_trades,
            "matched": self.matched,
            "missing": self.missing,
            "extra": self.extra,
            "differing": self.differing,
            "backfilled": self.backfilled,
            "match_rate": None if self.match_rate is None else str(self.match_rate),
            "sample": self.sample,
            "detail": self.detail,
        }


@dataclass(slots=True)
class HourReport:
    """All reconciliations of one hour of a stream.

    Attributes:
        results: one per instrument.
        bound: which instruments these are, in one sentence.
        backfill_path: of the hour's backfill dataset, relative to the data folder; None if it has none.
        backfill_added: rows that this run added to it.
        requests: attempts made at the venue.
    """

    feed: str
    stream: str
    hour: datetime
    results: list[Reconciliation] = field(default_factory=list)
    bound: str = ""
    backfill_path: str | None = None
    backfill_added: int = 0
    requests: int = 0

    @property
    def statuses(self) -> Counter[str]:
        """How many results have which status."""
        return Counter(result.status for result in self.results)

    @property
    def wrong(self) -> bool:
        """Whether anything is missing, differing or extra."""
        return any(result.status in ("missing", "differing", "extra") for result in self.results)

    @property
    def incomplete(self) -> bool:
        """Whether something could not be compared."""
        return any(result.status in ("unavailable", "partial") for result in self.results)

    @property
    def match_rate(self) -> Decimal | None:
        """Matched of all venue trades that were compared, four decimals; None if there were none."""
        venue = sum(result.venue_trades for result in self.results)
        return rate_of(sum(result.matched for result in self.results), venue)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for Dagster's metadata."""
        rate = self.match_rate
        return {
            "feed": self.feed,
            "stream": self.stream,
            "hour": _utc(self.hour),
            "bound": self.bound,
            "match_rate": None if rate is None else str(rate),
            "statuses": dict(sorted(self.statuses.items())),
            "backfill_path": self.backfill_path,
            "backfill_added": self.backfill_added,
            "requests": self.requests,
            "results": [result.as_dict() for result in self.results],
        }


def _sample(comparison: Comparison) -> list[dict[str, Any]]:
    found = [
        *(_item("missing", trade, trade, None) for trade in comparison.missing),
        *(_item("differing", venue, venue, archived) for venue, archived in comparison.differing),
        *(_item("extra", trade, None, trade) for trade in comparison.extra),
    ]
    return found[:SAMPLE]


def _item(what: str, trade: Trade, venue: Trade | None, archived: Trade | None) -> dict[str, Any]:
    return {
        "what": what,
        "id": clean(trade.id),
        "asset": clean(trade.asset),
        "time": rfc3339_us(trade.time_us),
        "venue": _numbers(venue),
        "archive": _numbers(archived),
    }


def _numbers(trade: Trade | None) -> dict[str, str | None] | None:
    if trade is None:
        return None
    return {"price": _told(trade.price), "size": _told(trade.size), "time": rfc3339_us(trade.time_us)}


def _told(number: Decimal) -> str | None:
    return f"{number:f}" if number.is_finite() else None


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
