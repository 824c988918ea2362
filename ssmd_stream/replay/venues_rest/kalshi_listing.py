"""What Kalshi's REST interface lists: fixed records, or those of the generated exchange."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssmd_core.clock import NS_PER_S
from ssmd_stream.secmaster.fields import FieldError, moment_of

Json = dict[str, Any]


class Entry(NamedTuple):
    """A market, as far as filters look at it; times in epoch seconds, None if unknown.

    Attributes:
        status: the venue's word.
        record: makes the JSON object.
    """

    ticker: str
    event_ticker: str
    status: str
    created_s: float | None
    close_s: float | None
    settled_s: float | None
    updated_s: float | None
    multivariate: bool
    record: Callable[[], Json]


class Listing(ABC):
    """Everything that the venue can be asked for; records are the venue's JSON objects."""

    @abstractmethod
    def series(self) -> Sequence[Json]:
        """With `volume_fp`, which is only shown on request."""

    @abstractmethod
    def events(self) -> Sequence[Json]:
        """Without their markets."""

    @abstractmethod
    def markets(self) -> Sequence[Entry]:
        """Of `/markets`."""

    @abstractmethod
    def historical_markets(self) -> Sequence[Entry]:
        """Of `/historical/markets`: those that settled before the cutoff."""

    @abstractmethod
    def fee_changes(self) -> Sequence[Json]:
        """Of series, past and pending."""

    @abstractmethod
    def event_fee_changes(self) -> Sequence[Json]:
        """Of single events."""


class KalshiListing(Listing):
    """Fixed records; hand it to `ReplayServer(listing=...)` and change it as the test goes on.

    Records are served as they are, also hostile ones; what no filter can read passes only where nothing is filtered.

    Args:
        markets, events, series, fee_changes, event_fee_changes, historical_markets: the venue's JSON objects.
    """

    def __init__(
        self,
        *,
        markets: Iterable[Json] = (),
        events: Iterable[Json] = (),
        series: Iterable[Json] = (),
        fee_changes: Iterable[Json] = (),
        event_fee_changes: Iterable[Json] = (),
        historical_markets: Iterable[Json] = (),
    ) -> None:
        self._markets: dict[object, Entry] = {}
        self._historical = [entry_of(record) for record in historical_markets]
        self.event_records = list(events)
        self.series_records = list(series)
        self.fee_change_records = list(fee_changes)
        self.event_fee_change_records = list(event_fee_changes)
        for record in markets:
            self.put_market(record)

    @classmethod
    def from_samples(cls, folder: Path) -> KalshiListing:
        """Everything that the REST bodies of a folder (`*.json`, `*.jsonl`) hold."""
        listing = cls()
        for path in sorted(folder.glob("*.json*")):
            text = path.read_text()
            bodies = text.splitlines() if path.suffix == ".jsonl" else [text]
            for body in bodies:
                listing._take(json.loads(body))
        return listing

    def put_market(self, record: Json) -> None:
        """Add a market, or replace the one of its ticker."""
        entry = entry_of(record)
        # Without a usable ticker every one stands for itself.
        self._markets[entry.ticker or id(record)] = entry

    def remove_market(self, ticker: str) -> None:
        """The venue lists it no more."""
        del self._markets[ticker]

    def series(self) -> Sequence[Json]:
        return self.series_records

    def events(self) -> Sequence[Json]:
        return self.event_records

    def markets(self) -> Sequence[Entry]:
        return list(self._markets.values())

    def historical_markets(self) -> Sequence[Entry]:
        return self._historical

    def fee_changes(self) -> Sequence[Json]:
        return self.fee_change_records

    def event_fee_changes(self) -> Sequence[Json]:
        return self.event_fee_change_records

    def _take(self, body: Any) -> None:
        body = body.get("response", body)
        if "ticker" in body and "event_ticker" in body:
            self.put_market(body)
        for record in body.get("markets", ()):
            self.put_market(record)
        self.event_records += [body["event"]] if "event" in body else body.get("events", [])
        series = body.get("series", [])
        self.series_records += [series] if isinstance(series, dict) else series
        self.fee_change_records += body.get("series_fee_change_arr", [])


def entry_of(record: Json) -> Entry:
    """An entry for a fixed record."""

    def text(name: str) -> str:
        value = record.get(name)
        return value if isinstance(value, str) else ""

    ticker = text("ticker")
    return Entry(
        ticker,
        text("event_ticker"),
        text("status"),
        seconds_of(record.get("created_time")),
        seconds_of(record.get("close_time")),
        seconds_of(record.get("settlement_ts")),
        seconds_of(record.get("updated_time")),
        bool(record.get("mve_collection_ticker")) or ticker.startswith("KXMVE"),
        lambda: record,
    )


def seconds_of(value: Any) -> float | None:
    """Epoch seconds of whatever stands for a time; None if nothing does."""
    try:
        moment = moment_of(value)
    except FieldError:
        return None
    return moment.timestamp() if moment is not None else None


def seconds(ns: int | None) -> float | None:
    """Epoch nanoseconds in seconds."""
    return ns / NS_PER_S if ns is not None else None
