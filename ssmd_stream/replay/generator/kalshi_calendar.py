"""When Kalshi's generated markets are created, open, close and settle."""

from __future__ import annotations

from dataclasses import dataclass

from ssmd_core.clock import NS_PER_S

# How long after its close a scheduled market is determined and settled, unless told otherwise.
DETERMINED_AFTER_S = 2.0
SETTLED_AFTER_S = 4.0


@dataclass(frozen=True, slots=True)
class ScheduledMarket:
    """A market whose life follows the exchange's clock; all times are seconds after the exchange was made.

    Attributes:
        ticker: `{series}-{event}-{strike}`; the event is everything before the last dash.
        opens_s: trading begins; the venue sends no lifecycle message for it.
        closes_s: trading ends; likewise.
        created_s: when it is listed and `created` is sent; 0 or less: it is there from the start.
        determined_s: `determined` is sent; None: two seconds after the close.
        settled_s: `settled` is sent; None: four seconds after the close.
        result: `yes` or `no`.
    """

    ticker: str
    opens_s: float
    closes_s: float = 3_600.0
    created_s: float = 0.0
    determined_s: float | None = None
    settled_s: float | None = None
    result: str = "yes"


@dataclass(slots=True)
class Life:
    """The dates of one market, epoch nanoseconds; those of the end may lie in the future or be unknown.

    Attributes:
        halted: trading is paused.
        last: price of the last trade, hundredths of a cent; with `volume` and `open_interest` (hundredths of a
            contract) what remained at the close.
    """

    ticker: str
    created_ns: int
    open_ns: int
    close_ns: int
    determined_ns: int | None = None
    settled_ns: int | None = None
    result: str = "yes"
    halted: bool = False
    last: int = 0
    volume: int = 0
    open_interest: int = 0

    @classmethod
    def of(cls, scheduled: ScheduledMarket, start_ns: int) -> Life:
        """The life of a scheduled market."""
        determined_s, settled_s = scheduled.determined_s, scheduled.settled_s
        if determined_s is None:
            determined_s = scheduled.closes_s + DETERMINED_AFTER_S
        if settled_s is None:
            settled_s = max(determined_s, scheduled.closes_s + SETTLED_AFTER_S)
        # What is there from the start was created before the market opened.
        created_s = min(scheduled.created_s, scheduled.opens_s)
        created, opens, closes, determined, settled = (
            start_ns + int(seconds * NS_PER_S)
            for seconds in (created_s, scheduled.opens_s, scheduled.closes_s, determined_s, settled_s)
        )
        return cls(scheduled.ticker, created, opens, closes, determined, settled, scheduled.result)

    @property
    def event_ticker(self) -> str:
        """The event it belongs to."""
        return self.ticker.rpartition("-")[0]

    def status(self, now_ns: int) -> str:
        """The venue's word at that time."""
        if self.settled_ns is not None and now_ns >= self.settled_ns:
            return "finalized"
        if self.determined_ns is not None and now_ns >= self.determined_ns:
            return "determined"
        if now_ns >= self.close_ns:
            return "closed"
        if now_ns < self.open_ns:
            return "initialized"
        return "inactive" if self.halted else "active"
