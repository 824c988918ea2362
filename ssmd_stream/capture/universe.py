"""Which instruments a stream wants, from rows of the security master. No I/O.

Rows come from the database as a whole (`replace`) and from change events one by one (`apply`), in any order across
tables; of one row the newest comes last. An event may come twice or late: every one is applied, none is compared with
a log position, because later ones win and the whole is read again every few minutes.

An instrument is wanted while its market is active and passes the filter. When it is wanted no more, for whatever
reason, it stays for a grace: last trades, the closing snapshot and the settlement come after the close, and a row that
was old news for a moment costs no subscription.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple

from ssmd_core.config import SecmasterConfig
from ssmd_core.errors import SsmdError

_S_PER_HOUR = 3600.0
_YEAR_DIGITS = 4


class RowError(SsmdError):
    """A row of the security master is not what its table holds."""


class Row(NamedTuple):
    """One row's present state.

    Attributes:
        table: of the security master.
        key: value of its key column.
        values: columns as in a change event (NUMERIC as text, times as RFC 3339); None: the row is gone.
    """

    table: str
    key: str
    values: Mapping[str, Any] | None


class Scope(NamedTuple):
    """What the filter looks at.

    Attributes:
        category: "" if there is none.
        series: series ticker; "" where the venue has no series.
        volume: see `SecmasterConfig.min_volume`; None if not known.
        is_game: whether the series is of single games.
    """

    category: str
    series: str
    volume: Decimal | None
    is_game: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What became of the wanted set.

    Attributes:
        added: instrument -> why it is wanted.
        removed: instrument -> why it is not any more.
    """

    added: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)


class Filter:
    """`SecmasterConfig` applied to one market."""

    def __init__(self, config: SecmasterConfig) -> None:
        self.config = config
        self._categories = frozenset(config.categories)
        self._series = frozenset(config.series)
        window_h = config.closing_within_hours
        self.window_s = None if window_h is None else window_h * _S_PER_HOUR
        #: What must be known of a market before the filter can be applied: its event, and its event's series.
        self.needs_series = bool(config.games_only or config.min_volume)
        self.needs_event = bool(self.needs_series or config.categories or config.series or config.suffixes)

    def passes(self, scope: Scope) -> bool:
        """Whether the market's surroundings pass; time is not looked at."""
        config = self.config
        if self._categories and scope.category not in self._categories:
            return False
        named = scope.series in self._series or (bool(config.suffixes) and scope.series.endswith(config.suffixes))
        if (self._series or config.suffixes) and not named:
            return False
        if config.games_only and not scope.is_game:
            return False
        return config.min_volume is None or (scope.volume is not None and scope.volume >= config.min_volume)

    def wanted_from_s(self, close_s: float | None) -> float | None:
        """Epoch seconds from which a market that closes at `close_s` is near enough; None for never."""
        if self.window_s is None:
            return 0.0
        return None if close_s is None else close_s - self.window_s

    def describe(self) -> dict[str, Any]:
        """The filter in force, for the archive: what differs from "all active markets"."""
        return self.config.model_dump(
            mode="json", exclude={"close_grace_s", "reconcile_s", "max_shards"}, exclude_defaults=True
        )


class Verdict(NamedTuple):
    """Attributes:
    wanted: now.
    why: in a few words.
    from_s: epoch seconds from when it will be wanted though it is not yet; None if time alone changes nothing.
    """

    wanted: bool
    why: str
    from_s: float | None = None


class Universe(ABC):
    """The wanted instruments of one stream.

    Args:
        config: the filter.

    Attributes:
        wanted: instruments that should be subscribed now, those in their grace included.
        waiting: instruments, or parents of instruments, of which a related row is not yet known.
    """

    columns: ClassVar[Mapping[str, tuple[str, ...]]]
    """Tables whose rows count, parents first, and the columns that are looked at."""

    def __init__(self, config: SecmasterConfig) -> None:
        self.filter = Filter(config)
        self._grace_s = config.close_grace_s
        self.wanted: dict[str, None] = {}
        self.waiting: set[str] = set()
        self._leaving: dict[str, tuple[float, str]] = {}
        self._touched: dict[str, None] = {}
        self._gone: dict[str, str] = {}
        self._due: list[tuple[float, str]] = []

    # -- rows

    def apply(self, row: Row) -> None:
        """Take in one row; `settle` says what that changes. Rows of other tables are ignored.

        Raises:
            RowError: a value is not what the column holds.
        """
        if row.table not in self.columns:
            return
        try:
            self._take(row)
        except (KeyError, ValueError, ArithmeticError, TypeError, AttributeError) as error:
            raise RowError(f"{row.table} {row.key!r}: {type(error).__name__}: {error}") from error

    def empty(self) -> Universe:
        """Another of this kind with the same filter, to be filled and given to `replace`."""
        return type(self)(self.filter.config)

    def replace(self, fresh: Universe) -> None:
        """Take in the whole security master: `fresh` has had every row applied; what it lacks is gone."""
        self._adopt(fresh)
        self._touched.update(dict.fromkeys(self.wanted))
        self._touched.update(fresh._touched)
        self.waiting = fresh.waiting
        self._gone = dict.fromkeys(self.wanted, "no active row in the security master")
        self._due = []

    def settle(self, now_s: float) -> Change:
        """What has changed since the last call, by rows and by time (epoch seconds, not before the last call's)."""
        while self._due and self._due[0][0] <= now_s:
            self._touched[heapq.heappop(self._due)[1]] = None
        added: dict[str, str] = {}
        for instrument in self._touched:
            verdict = self._judge(instrument, now_s)
            if verdict.wanted:
                self._leaving.pop(instrument, None)
                if instrument not in self.wanted:
                    self.wanted[instrument] = None
                    added[instrument] = verdict.why
            elif instrument in self.wanted and instrument not in self._leaving:
                why = self._gone.get(instrument) or verdict.why
                self._leaving[instrument] = (now_s + self._grace_s, why)
            if verdict.from_s is not None:
                heapq.heappush(self._due, (verdict.from_s, instrument))
        self._touched.clear()
        removed = {instrument: why for instrument, (due_s, why) in self._leaving.items() if due_s <= now_s}
        for instrument in removed:
            del self._leaving[instrument]
            del self.wanted[instrument]
        self._gone.clear()
        return Change(added, removed)

    def next_due_s(self) -> float | None:
        """Epoch seconds at which `settle` may find something by time alone."""
        times = [due_s for due_s, _ in self._leaving.values()]
        return min([*times, *(due_s for due_s, _ in self._due[:1])], default=None)

    @property
    def desired(self) -> set[str]:
        """Wanted by what the rows say: without those in their grace."""
        return self.wanted.keys() - self._leaving.keys()

    # -- for the venues

    def _touch(self, instruments: Iterable[str]) -> None:
        self._touched.update(dict.fromkeys(instruments))

    def _ended(self, instrument: str, why: str) -> None:
        if instrument in self.wanted:
            self._gone[instrument] = why
            self._touched[instrument] = None

    def _judged(self, scope: Scope, close_s: float | None, now_s: float) -> Verdict:
        if not self.filter.passes(scope):
            return Verdict(False, "outside the filter")
        from_s = self.filter.wanted_from_s(close_s)
        if from_s is None:
            return Verdict(False, "closing time not known")
        if from_s > now_s:
            return Verdict(False, "closes too late", from_s)
        return Verdict(True, "active")

    @abstractmethod
    def _take(self, row: Row) -> None:
        """See `apply`."""

    @abstractmethod
    def _adopt(self, fresh: Any) -> None:
        """Take over the rows that another universe of this kind holds."""

    @abstractmethod
    def _judge(self, instrument: str, now_s: float) -> Verdict:
        """Whether the rows want an instrument now."""


def number(value: object) -> Decimal | None:
    """A NUMERIC, from its text; None for null."""
    return None if value is None else Decimal(str(value))


def moment_s(value: str | None) -> float | None:
    """Epoch seconds of a timestamptz as RFC 3339; None for null, and for times that Python's calendar lacks."""
    if value is None or "infinity" in value or value.endswith("BC") or value.find("-") != _YEAR_DIGITS:
        return None
    return datetime.fromisoformat(value).timestamp()
