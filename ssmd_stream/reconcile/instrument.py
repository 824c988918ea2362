"""One instrument's trades of a window, on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from ssmd_core.clock import rfc3339_us
from ssmd_stream.reconcile.archived import ArchivedTrades
from ssmd_stream.reconcile.compare import Comparison, compare
from ssmd_stream.reconcile.report import Reconciliation
from ssmd_stream.reconcile.trades import Answer, Trade, VenueTrade, VenueTrades, us_of
from ssmd_stream.secmaster.rest import RestError, RestFatalError

log = structlog.get_logger()

_MAX_DETAIL_CHARS = 500
NOT_BUILT = "no dataset has been built of this hour"


@dataclass(slots=True)
class Found:
    """What came of one instrument.

    Attributes:
        result: without its id.
        missing: the venue's trades that the archive lacks.
        no_answer: the venue failed to answer, after all attempts.
    """

    result: Reconciliation
    missing: Sequence[VenueTrade] = ()
    no_answer: bool = False


class InstrumentReconciler:
    """Reconciles instruments in one window of one hour.

    Args:
        archive: of the hour.
        venue: the feed's.
        feed, stream: their names.
        hour: UTC.
        start, end: the window, a part of the hour.
    """

    def __init__(
        self,
        archive: ArchivedTrades,
        venue: VenueTrades,
        feed: str,
        stream: str,
        hour: datetime,
        start: datetime,
        end: datetime,
    ) -> None:
        self._archive = archive
        self._venue = venue
        self._feed, self._stream = feed, stream
        self._start, self._end = start, end
        self._start_us, self._end_us = us_of(start), us_of(end)
        # A trade near the hour's edge may have come in the hour beside it.
        margin_us = venue.margin_us
        self._sure_from_us = us_of(hour) + (0 if archive.built_before else margin_us)
        self._sure_to_us = us_of(hour + timedelta(hours=1)) - (0 if archive.built_after else margin_us)

    def unavailable(self, instrument: str, detail: str) -> Found:
        """Nothing could be compared."""
        result = self._result(instrument)
        result.detail = detail[:_MAX_DETAIL_CHARS]
        return Found(result)

    async def reconcile(self, instrument: str) -> Found:
        """Ask the venue and compare.

        Raises:
            DatasetError: a dataset cannot be read.
        """
        if not self._archive.built:
            return self.unavailable(instrument, NOT_BUILT)
        start_us, end_us = self._start_us - self._venue.margin_us, self._end_us + self._venue.margin_us
        archived = self._archive.trades(instrument, start_us, end_us)
        try:
            answer = await self._venue.trades(instrument, start_us, end_us)
            from_us, to_us = self._covered(answer, archived)
            if from_us >= to_us:
                return self.unavailable(instrument, _sentences(answer.notes))
            comparison = self._compare(answer.trades, archived, from_us, to_us)
            if comparison.missing:
                from_us, to_us = self._without_edges(answer, comparison, from_us, to_us)
                if from_us >= to_us:
                    return self.unavailable(instrument, _sentences(answer.notes))
                comparison = self._compare(answer.trades, archived, from_us, to_us)
            if comparison.extra and not self._venue.unique_ids:
                others = await self._venue.others(instrument, start_us, end_us)
                comparison = self._compare(answer.trades, archived, from_us, to_us, others)
        except RestError as error:
            log.warning("reconciliation_unavailable", instrument=instrument[:80], reason=str(error))
            found = self.unavailable(instrument, str(error))
            found.no_answer = not isinstance(error, RestFatalError)
            return found
        if 0 < len(comparison.extra) <= answer.unreadable:
            answer.notes.append(f"{len(comparison.extra)} archived trades may be the venue's that cannot be read")
            comparison = replace(comparison, extra=())
        whole = (from_us, to_us) == (self._start_us, self._end_us)
        if not whole:
            answer.notes.insert(0, f"compared from {rfc3339_us(from_us)} to {rfc3339_us(to_us)}")
        if comparison.elsewhere:
            answer.notes.append(f"{comparison.elsewhere} archived trades stand only among the makers' rows")
        if comparison.repeats:
            answer.notes.append(f"{comparison.repeats} archived rows tell a trade once more")
        result = self._result(instrument)
        result.count(comparison, whole=whole and not answer.unreadable)
        result.detail = _sentences(answer.notes)
        return Found(result, comparison.missing)

    def _result(self, instrument: str) -> Reconciliation:
        return Reconciliation(self._feed, self._stream, instrument, self._start, self._end, "unavailable")

    def _covered(self, answer: Answer, archived: Sequence[Trade]) -> tuple[int, int]:
        """The part of the window that the venue's answer covers."""
        from_us, to_us = self._start_us, self._end_us
        if answer.known_from_us is not None:
            from_us = max(from_us, answer.known_from_us)
        if answer.known_to_us is not None:
            to_us = min(to_us, answer.known_to_us)
        captured = [trade.time_us for trade in archived if from_us <= trade.time_us < to_us]
        told = [trade.time_us for trade in answer.trades]
        if captured and not told:
            answer.notes.append(f"the venue tells no trade of this time, though {len(captured)} were captured")
            return to_us, to_us
        known = {trade.id for trade in answer.trades}
        begins_us = min([to_us, *told])
        # The very first one may be told a microsecond later than it was captured, see `same_time`.
        earlier = any(from_us <= trade.time_us < begins_us and trade.id not in known for trade in archived)
        if self._venue.begins_silently and earlier:
            # What was captured before the first one that the venue tells proves that its history begins later.
            # Of the trades of that very moment some may be forgotten.
            from_us = min(told) + 1
            answer.notes.append(f"the venue's history begins at {rfc3339_us(from_us)}")
        return from_us, to_us

    def _without_edges(self, answer: Answer, found: Comparison, from_us: int, to_us: int) -> tuple[int, int]:
        """The window without its edges, as far as what is missing there may stand in an hour that is not built."""
        times = [trade.time_us for trade in found.missing]
        early = sum(time < self._sure_from_us for time in times)
        late = sum(time >= self._sure_to_us for time in times)
        for count, hour in ((early, "before"), (late, "after")):
            if count:
                answer.notes.append(f"{count} trades may stand in the hour {hour}, which is not built")
        return (
            max(from_us, self._sure_from_us) if early else from_us,
            min(to_us, self._sure_to_us) if late else to_us,
        )

    def _compare(
        self,
        told: Sequence[VenueTrade],
        archived: Sequence[Trade],
        from_us: int,
        to_us: int,
        others: Answer | None = None,
    ) -> Comparison:
        comparison = compare(
            told,
            archived,
            from_us,
            to_us,
            unique_ids=self._venue.unique_ids,
            same_time=self._venue.same_time,
            others=others.trades if others else (),
        )
        if others is None or others.known_from_us is None:
            return comparison
        # The makers' rows reach less far back: whoever is not found before them is not called extra.
        extra = tuple(trade for trade in comparison.extra if trade.time_us >= others.known_from_us)
        unsure = len(comparison.extra) - len(extra)
        return replace(comparison, extra=extra, elsewhere=comparison.elsewhere + unsure)


def _sentences(notes: Sequence[str]) -> str:
    return "; ".join(notes)[:_MAX_DETAIL_CHARS]
