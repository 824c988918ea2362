"""From counts and intervals to verdicts: the arithmetic of an hour's minutes, for `Verdicts`."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ssmd_core.proof.rules import INTEGRITY_SCHEMA, REASONS, UNTRUSTED_SCHEMA, MinuteChecks

MINUTE_US: Final = 60_000_000

#: Reasons for which what was captured may be right, but nothing shows it; all others mean that it is wrong.
UNVERIFIABLE_REASONS: Final = frozenset({"no_snapshot", "no_check"})

#: Minutes that share one block of counts.
BLOCK_MINUTES: Final = 15

_VERDICTS: Final = ("verified", "unverifiable", "broken")
_UNVERIFIABLE: Final = 1
_BROKEN: Final = 2
_NO_REASON: Final = len(REASONS)
_RANK: Final = np.array([_UNVERIFIABLE if reason in UNVERIFIABLE_REASONS else _BROKEN for reason in REASONS], np.int8)


class Subject(NamedTuple):
    """What is checked: one instrument on one connection, by one check."""

    instrument: str
    check: str
    epoch: str


class Distrust(NamedTuple):
    """The beginning of an interval in which a subject must not be trusted; see `UNTRUSTED_SCHEMA`."""

    from_us: int
    nats_seq: int
    reason: str
    detail: str


class Cells(NamedTuple):
    """Columns of equal length, one row per subject and minute, in this order; `code` is subject * minutes + minute."""

    code: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]  # rows x (messages, passed, failed, unverifiable)


class Touched(NamedTuple):
    """Minutes that intervals touch, one row per interval and minute."""

    code: npt.NDArray[np.int64]
    reason: npt.NDArray[np.int8]
    covered: npt.NDArray[np.bool_]


Interval = tuple[Subject, Distrust, int | None]


class Hour:
    """The arithmetic of one hour's minutes."""

    def __init__(self, start_us: int, end_us: int) -> None:
        self._start_us = start_us
        self._end_us = end_us
        self._minutes = max(1, -(-(end_us - start_us) // MINUTE_US))

    def _clipped(self, interval: Interval) -> tuple[int, int]:
        """Bounds of the interval within the hour."""
        _, opened, to_us = interval
        from_us = min(max(opened.from_us, self._start_us), self._end_us)
        return from_us, self._end_us if to_us is None else min(max(to_us, from_us), self._end_us)

    def cells(
        self, blocks: Mapping[tuple[str, str, str, int], int], counts: array[int], number: Mapping[Subject, int]
    ) -> Cells:
        """What was counted, per subject and minute."""
        table = np.frombuffer(counts, np.int32).reshape(-1, BLOCK_MINUTES, 4)
        # Blocks were appended in the order in which their keys entered the dict.
        owner = np.fromiter(
            (number[Subject(instrument, check, epoch)] for epoch, instrument, check, _ in blocks), np.int64, len(blocks)
        )
        first = np.fromiter((block * BLOCK_MINUTES for *_, block in blocks), np.int64, len(blocks))
        block, minute = np.nonzero(table.any(axis=2))
        minutes = np.clip(first[block] + minute - self._start_us // MINUTE_US, 0, self._minutes - 1)
        return Cells(*_summed(owner[block] * self._minutes + minutes, table[block, minute].astype(np.int64)))

    def touched(self, intervals: Sequence[Interval], number: Mapping[Subject, int]) -> Touched:
        """The minutes of all intervals."""
        bounds = np.array([self._clipped(interval) for interval in intervals], np.int64).reshape(-1, 2)
        from_us, to_us = bounds[:, 0] - self._start_us, bounds[:, 1] - self._start_us
        first = np.minimum(from_us // MINUTE_US, self._minutes - 1)
        last = np.clip((to_us - 1) // MINUTE_US, first, None)
        lengths = last - first + 1
        owner = np.array([number[subject] for subject, _, _ in intervals], np.int64)
        reason = np.array([REASONS.index(opened.reason) for _, opened, _ in intervals], np.int8)
        row = np.repeat(np.arange(len(intervals)), lengths)
        minute = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[row]
        covered = (from_us[row] <= minute * MINUTE_US) & (to_us[row] >= (minute + 1) * MINUTE_US)
        return Touched(owner[row] * self._minutes + minute, reason[row], covered)

    def judge(
        self, cells: Cells, touched: Touched, subjects: Sequence[Subject]
    ) -> tuple[pa.Table, dict[tuple[str, int], MinuteChecks]]:
        """The table of verdicts, and the sums of comparisons by (epoch, minute)."""
        code, counts = _summed(
            np.concatenate([cells.code, touched.code]),
            np.concatenate([cells.counts, np.zeros((len(touched.code), 4), np.int64)]),
        )
        compared = counts[:, 1] + counts[:, 2]
        verdict = np.where(counts[:, 2] > 0, _BROKEN, np.where(compared > 0, 0, _UNVERIFIABLE)).astype(np.int8)
        reason = np.where(
            verdict == _BROKEN,
            REASONS.index("checksum"),
            np.where(verdict == _UNVERIFIABLE, REASONS.index("no_check"), _NO_REASON),
        ).astype(np.int8)
        at = np.searchsorted(code, touched.code)
        rank = _RANK[touched.reason]
        # An interval's reason says more than a count does, one of the broken kind more than the other kind, and the
        # earliest more than those after it: written last, it stays.
        speaks = (rank == _BROKEN) | touched.covered | (compared[at] == 0)
        for level in (_UNVERIFIABLE, _BROKEN):
            which = np.flatnonzero(speaks & (rank == level) & (verdict[at] <= level))[::-1]
            verdict[at[which]] = level
            reason[at[which]] = touched.reason[which]
        return self._rows(code, counts, verdict, reason, subjects), self._sums(code, counts, subjects)

    def _rows(
        self,
        code: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        verdict: npt.NDArray[np.int8],
        reason: npt.NDArray[np.int8],
        subjects: Sequence[Subject],
    ) -> pa.Table:
        """Neighbouring minutes of one verdict in one row."""
        if not len(code):
            return INTEGRITY_SCHEMA.empty_table()
        owner, minute = np.divmod(code, self._minutes)
        changes = (np.diff(code) != 1) | (np.diff(owner) != 0) | (np.diff(verdict) != 0) | (np.diff(reason) != 0)
        first = np.concatenate([[0], np.flatnonzero(changes) + 1])
        last = np.concatenate([first[1:], [len(code)]]) - 1
        sums = np.add.reduceat(counts, first, axis=0)
        whose = owner[first]
        from_us = self._start_us + minute[first] * MINUTE_US
        to_us = self._start_us + (minute[last] + 1) * MINUTE_US
        names = pa.array(zip(*subjects, strict=True), pa.list_(pa.string())).flatten()
        count = len(subjects)
        return pa.table(
            [
                *(names.slice(column * count, count).take(pa.array(whose)) for column in range(3)),
                *(pa.array(moments).cast(pa.timestamp("us", tz="UTC")) for moments in (from_us, to_us)),
                pa.array(_VERDICTS).take(pa.array(verdict[first])),
                *(pa.array(sums[:, column]) for column in range(3)),
                pa.array([*REASONS, None]).take(pa.array(reason[first])),
            ],
            schema=INTEGRITY_SCHEMA,
        )

    def _sums(
        self, code: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], subjects: Sequence[Subject]
    ) -> dict[tuple[str, int], MinuteChecks]:
        """Comparisons by (epoch, start of the minute)."""
        epochs = sorted({subject.epoch for subject in subjects})
        number = {epoch: n for n, epoch in enumerate(epochs)}
        of_subject = np.array([number[subject.epoch] for subject in subjects], np.int64)
        owner, minute = np.divmod(code, self._minutes)
        found = {}
        cells, sums = _summed(of_subject[owner] * self._minutes + minute if len(code) else code, counts)
        for cell, (_, passed, failed, unverifiable) in zip(cells.tolist(), sums.tolist(), strict=True):
            epoch, n = divmod(cell, self._minutes)
            found[epochs[epoch], self._start_us + n * MINUTE_US] = MinuteChecks(passed, failed, unverifiable)
        return found

    def untrusted(self, intervals: Sequence[Interval]) -> pa.Table:
        """The table of intervals."""
        rows = []
        for interval in intervals:
            subject, opened, to_us = interval
            from_us, until_us = self._clipped(interval)
            closes = None if to_us is None else until_us
            rows.append((*subject, from_us, closes, opened.reason, opened.detail, opened.nats_seq))
        columns = zip(*sorted(rows, key=lambda row: (row[:4], row[7])), strict=True) if rows else ([],) * 8
        return pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, UNTRUSTED_SCHEMA, strict=True)],
            schema=UNTRUSTED_SCHEMA,
        )


def _summed(
    code: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each code once, ascending, with the sum of its rows."""
    if not len(code):
        return code, counts
    # Neither np.unique with its inverse nor np.add.at: for 1.8 million cells they take three times as long.
    order = np.argsort(code, kind="stable")
    code = code[order]
    first = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
    sums: npt.NDArray[np.int64] = np.add.reduceat(counts[order], first, axis=0)
    return code[first], sums
