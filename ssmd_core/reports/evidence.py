"""What a report is made from: rows, each under the id by which it is cited, within bounds of number and size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, Literal

from ssmd_core.reports.texts import canonical

Status = Literal["GREEN", "YELLOW", "RED"]
Kind = Literal["diagnosis", "volume"]

#: All of it as JSON: some 25,000 tokens, five cents.
MAX_EVIDENCE_BYTES = 64 * 1024
_DAYS = ("date", "hour", "found_at", "from")
_SEVERITY: Mapping[str, int] = {"GREEN": 0, "YELLOW": 1, "RED": 2}


def worst(statuses: Iterable[Status]) -> Status:
    """The most severe; GREEN of none."""
    return max(statuses, key=_SEVERITY.__getitem__, default="GREEN")


def milder(one: Status, other: Status) -> bool:
    """Whether one status is less severe than another."""
    return _SEVERITY[one] < _SEVERITY[other]


@dataclass(frozen=True, slots=True)
class Item:
    """One row that can be cited.

    Attributes:
        id: e.g. `score:kalshi:2026-11-21`, `hour:kraken/spot/2026-11-21T14`, `drift:12`.
        kind: what stands before the first colon.
        feed: whose; "" for a run, which may be about all.
        facts: JSON, clean.
        said: the same in one short sentence, for people who look the citation up.
    """

    id: str
    kind: str
    feed: str
    facts: Mapping[str, Any]
    said: str

    @property
    def day(self) -> str:
        """The day that the row is of, "" for none of its own."""
        return str(next((self.facts[name] for name in _DAYS if self.facts.get(name)), ""))[:10]

    @property
    def good(self) -> bool:
        """Whether the row says that all is well, so that no trouble can be shown by it."""
        return self.facts.get("status") == "GREEN" or self.facts.get("wrong") is False


@dataclass(frozen=True)
class Evidence:
    """All that a report may speak of.

    Attributes:
        kind: of the report.
        day: UTC.
        items: that can be cited, the most telling ones first.
        statuses: what the rows themselves say of each feed on the day; None where nothing is known.
        least: the least severe word of the whole, whatever the feeds' are.
        context: sums that help to understand and cannot be cited.
        unknown: what is not known, a sentence each. Absence has no row, so these are ssmd's own words.
        left_out: kind of item -> how many did not fit.
    """

    kind: Kind
    day: date
    items: tuple[Item, ...]
    statuses: Mapping[str, Status | None]
    least: Status = "GREEN"
    context: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> Mapping[str, Item]:
        """The items by their id."""
        return {item.id: item for item in self.items}

    @property
    def status(self) -> Status:
        """The least severe word that the rows allow: what is not known is not GREEN."""
        known = worst((self.least, *(status for status in self.statuses.values() if status)))
        unsure = bool(self.unknown) or not self.statuses or None in self.statuses.values()
        return worst((known, "YELLOW")) if unsure else known

    @cached_property
    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "report": self.kind,
            "date": str(self.day),
            "rows": [{"id": item.id, "feed": item.feed, **item.facts} for item in self.items],
            "statuses": dict(self.statuses),
            "context": dict(self.context),
            "unknown": list(self.unknown),
            "left_out": dict(self.left_out),
        }

    @cached_property
    def input_sha256(self) -> str:
        """SHA-256 of the document's canonical JSON, hex."""
        return hashlib.sha256(canonical(self.document)).hexdigest()

    def of(self, kind: str, feed: str | None = None) -> list[Item]:
        """Items of a kind, and of a feed."""
        return [item for item in self.items if item.kind == kind and (feed is None or item.feed == feed)]


def fitted(items: Iterable[Item], most_bytes: int) -> tuple[tuple[Item, ...], dict[str, int]]:
    """The first items that fit, and how many of each kind did not.

    Args:
        items: the most telling ones first.
    """
    kept: list[Item] = []
    left_out: dict[str, int] = {}
    size = 0
    for item in items:
        size += len(canonical({"id": item.id, "feed": item.feed, **item.facts})) + 1
        if size <= most_bytes:
            kept.append(item)
        else:
            left_out[item.kind] = left_out.get(item.kind, 0) + 1
    return tuple(kept), left_out
