"""What the integrity rules share: counts per instrument and minute, intervals of distrust, and their verdict."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ssmd_core.proof.minutes import BLOCK_MINUTES, MINUTE_US, UNVERIFIABLE_REASONS, Distrust, Hour, Subject
from ssmd_core.proof.rules import REASONS, Counter, Findings, MinuteChecks

__all__ = ["MINUTE_US", "UNVERIFIABLE_REASONS", "Distrust", "Subject", "Verdicts"]

Columns: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
Amounts: TypeAlias = Sequence[int] | npt.NDArray[np.integer] | pa.Array | pa.ChunkedArray | int

# A block holds the counts of an instrument over 15 minutes: 240 bytes. 30,000 instruments that never pause need 29 MB
# an hour, and an instrument that came once needs one block, not an hour's worth.
_BLOCK_US: Final = BLOCK_MINUTES * MINUTE_US
_BLOCK_INTS: Final = 4 * BLOCK_MINUTES
_EMPTY_BLOCK: Final = bytes(4 * _BLOCK_INTS)


class Verdicts:
    """Collects what a rule sees over an hour and says for every instrument and minute what it is worth.

    A minute in which an instrument had messages, or lies in an interval, is

    * `broken` if a broken-kind interval touches it, or a comparison failed in it;
    * else `unverifiable` if an interval of kind `no_snapshot` or `no_check` covers it, or nothing was compared in it;
    * else `verified`.

    A minute with neither has no row: nothing came, and nothing speaks against what was there before.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, str, str, int], int] = {}
        self._counts = array("i")
        self._open: dict[Subject, Distrust] = {}
        self._closed: list[tuple[Subject, Distrust, int]] = []

    def count(
        self,
        epoch: str,
        instrument: str,
        check: str,
        recv_us: int,
        *,
        messages: int = 1,
        passed: int = 0,
        failed: int = 0,
        unverifiable: int = 0,
    ) -> None:
        """Add messages and comparisons of one subject in the minute of `recv_us`.

        Args:
            unverifiable: messages that could have been checked but were not, e.g. before a snapshot.
        """
        block, within_us = divmod(recv_us, _BLOCK_US)
        counts = self._counts
        at = self._blocks.get((epoch, instrument, check, block))
        if at is None:
            at = self._blocks[epoch, instrument, check, block] = len(counts)
            counts.frombytes(_EMPTY_BLOCK)
        at += within_us // MINUTE_US * 4
        counts[at] += messages
        if passed:
            counts[at + 1] += passed
        if failed:
            counts[at + 2] += failed
        if unverifiable:
            counts[at + 3] += unverifiable

    def count_many(
        self,
        epochs: Columns,
        instruments: Columns,
        check: str,
        recv_us: Amounts,
        *,
        messages: Amounts = 1,
        passed: Amounts = 0,
        failed: Amounts = 0,
        unverifiable: Amounts = 0,
    ) -> None:
        """`count` for many subjects of one check: columns of equal length, best one row per subject and minute.

        Args:
            recv_us: any moment of the minute, epoch µs, as integers.
            messages, passed, failed, unverifiable: columns, or one number for all rows.
        """
        epoch_list, instrument_list = _plain(epochs), _plain(instruments)
        rows = len(epoch_list)
        amounts = (_column(amount, rows) for amount in (recv_us, messages, passed, failed, unverifiable))
        for epoch, instrument, at_us, seen, good, bad, unseen in zip(
            epoch_list, instrument_list, *amounts, strict=True
        ):
            self.count(epoch, instrument, check, at_us, messages=seen, passed=good, failed=bad, unverifiable=unseen)

    def distrust(
        self, epoch: str, instrument: str, check: str, *, from_us: int, nats_seq: int, reason: str, detail: str
    ) -> None:
        """Open an interval; while one is open for the subject, nothing changes.

        Args:
            from_us: receive time of the last message that was still good.
            nats_seq: message at which it was found.
            reason: one of `REASONS`.
            detail: one sentence with the numbers.

        Raises:
            ValueError: there is no such reason.
        """
        _known(reason)
        self._open.setdefault(Subject(instrument, check, epoch), Distrust(from_us, nats_seq, reason, detail))

    def trust(self, epoch: str, instrument: str, check: str, at_us: int) -> None:
        """Close the subject's interval, if one is open, at the message that restored it (or ended the subject)."""
        subject = Subject(instrument, check, epoch)
        opened = self._open.pop(subject, None)
        if opened is not None:
            self._closed.append((subject, opened, at_us))

    def distrust_between(
        self,
        epoch: str,
        instrument: str,
        check: str,
        *,
        from_us: int,
        to_us: int,
        nats_seq: int,
        reason: str,
        detail: str,
    ) -> None:
        """Add an interval that is over already, whatever else is open; see `distrust`.

        Args:
            to_us: receive time of the message with which it ended.

        Raises:
            ValueError: there is no such reason.
        """
        _known(reason)
        self._closed.append((Subject(instrument, check, epoch), Distrust(from_us, nats_seq, reason, detail), to_us))

    def distrusted(self, epoch: str, instrument: str, check: str) -> Distrust | None:
        """The subject's open interval, if there is one."""
        return self._open.get(Subject(instrument, check, epoch))

    def open_intervals(self) -> list[tuple[str, str, str, int, int, str, str]]:
        """The intervals still open, sorted, for the state: subject's three members, then those of `Distrust`."""
        return sorted((*subject, *opened) for subject, opened in self._open.items())

    def restore(self, intervals: Sequence[Sequence[str | int]]) -> None:
        """Open again what `open_intervals` of the hour before has told.

        Raises:
            ValueError: an interval has not its seven members, or an unknown reason.
        """
        for instrument, check, epoch, from_us, nats_seq, reason, detail in intervals:
            self.distrust(
                str(epoch),
                str(instrument),
                str(check),
                from_us=int(from_us),
                nats_seq=int(nats_seq),
                reason=str(reason),
                detail=str(detail),
            )

    def findings(
        self, start_us: int, end_us: int, counters: Mapping[tuple[str, int], Sequence[Counter]] | None = None
    ) -> Findings:
        """The tables of the hour.

        Args:
            start_us, end_us: the hour's bounds, epoch µs. What was received outside them (a clock that was set back)
                counts in the nearest minute.
            counters: of the venue, by (epoch, start of the minute in µs).
        """
        intervals = sorted(
            [
                *((subject, opened, to_us) for subject, opened, to_us in self._closed),
                *((subject, opened, None) for subject, opened in self._open.items()),
            ],
            key=lambda interval: (interval[0], interval[1], -1 if interval[2] is None else interval[2]),
        )
        subjects = sorted(
            {Subject(instrument, check, epoch) for epoch, instrument, check, _ in self._blocks}
            | {subject for subject, _, _ in intervals}
        )
        number = {subject: n for n, subject in enumerate(subjects)}
        hour = Hour(start_us, end_us)
        cells = hour.cells(self._blocks, self._counts, number)
        integrity, sums = hour.judge(cells, hour.touched(intervals, number), subjects)
        for key, seen in (counters or {}).items():
            minute = sums.setdefault(key, MinuteChecks())
            minute.counters = sorted(seen, key=lambda c: (c.gaps == 0, c))[: MinuteChecks.MAX_COUNTERS]
        return Findings(integrity, hour.untrusted(intervals), dict(sorted(sums.items())))


def _known(reason: str) -> None:
    if reason not in REASONS:
        raise ValueError(f"{reason!r} is not a reason; the reasons are {', '.join(REASONS)}")


def _plain(column: Columns) -> Sequence[str]:
    if isinstance(column, (pa.Array, pa.ChunkedArray)):
        names: list[str] = column.to_pylist()
        return names
    return column


def _column(amount: Amounts, rows: int) -> Sequence[int]:
    """As Python ints: what comes from numpy would make every later sum a numpy scalar."""
    if isinstance(amount, int):
        return [amount] * rows
    if isinstance(amount, (pa.Array, pa.ChunkedArray)):
        amounts: list[int] = amount.to_pylist()
        return amounts
    whole: list[int] = np.asarray(amount).tolist()
    return whole
