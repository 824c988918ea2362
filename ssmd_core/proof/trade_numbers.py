"""Trades that a venue numbers by one per instrument, across connections and hours: what is missing, late, repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ssmd_core.proof.rules import Counter
from ssmd_core.proof.verdicts import MINUTE_US, Verdicts

CHECK: Final = "trade"

# A late trade is looked for in the newest holes only, so that no venue can make the search long.
_OPEN_HOLES: Final = 100

Longs = npt.NDArray[np.int64]
#: Oldest and newest number of an instrument, the newest's receive time in µs, and the connection on which an interval
#: is open, or empty.
Standing: TypeAlias = tuple[int, int, int, str]


class Trades(NamedTuple):
    """Rows of trades in the order of the archive; columns of equal length.

    Attributes:
        instrument, epoch: strings.
        number: the venue's; int64, null where it cannot be read.
        is_snapshot: a repetition of earlier trades, sent on subscribing.
        recv_us: epoch µs, int64.
        nats_seq: uint64.
    """

    instrument: pa.Array
    epoch: pa.Array
    number: pa.Array
    is_snapshot: npt.NDArray[np.bool_]
    recv_us: Longs
    nats_seq: npt.NDArray[np.uint64]


def trades_of(table: pa.Table, instrument: str, number: str, is_snapshot: bool | None) -> Trades:
    """The columns of a table of trades.

    Args:
        instrument, number: names of columns; the number may be text.
        is_snapshot: of all rows; None if the table has a column for it.
    """
    numbers = table[number].combine_chunks()
    if not pa.types.is_integer(numbers.type):
        whole = pc.match_substring_regex(numbers, "^[0-9]{1,18}$")
        numbers = pc.if_else(whole, numbers, pa.scalar(None, numbers.type)).cast(pa.int64())
    return Trades(
        instrument=table[instrument].combine_chunks(),
        epoch=table["_epoch"].combine_chunks(),
        number=numbers,
        is_snapshot=(
            table["is_snapshot"].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
            if is_snapshot is None
            else np.full(table.num_rows, is_snapshot)
        ),
        recv_us=table["_received_at"].combine_chunks().cast(pa.int64()).to_numpy(),
        nats_seq=table["_nats_seq"].combine_chunks().to_numpy(),
    )


def joined(parts: Sequence[Trades]) -> Trades:
    """Rows of several tables, brought into the order of the archive."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([part.nats_seq for part in parts]), kind="stable")
    arrow = (pa.concat_arrays([part[column] for part in parts]).take(pa.array(order)) for column in range(3))
    plain = (np.concatenate([part[column] for part in parts])[order] for column in range(3, 6))
    return Trades(*arrow, *plain)


@dataclass(slots=True)
class _Hole:
    """Numbers that did not come where they were due; `missing` of them have not come since."""

    first: int
    last: int
    missing: int
    epoch: str
    from_us: int
    to_us: int
    nats_seq: int


@dataclass(slots=True)
class _Known:
    """What is known of an instrument: all numbers from `oldest` to `newest` came, but for those in the holes.

    `doubt` is the connection on which an interval is open, or empty.
    """

    oldest: int
    newest: int
    newest_us: int
    doubt: str = ""
    holes: list[_Hole] = field(default_factory=list)
    filled: set[int] = field(default_factory=set)


class _Tally:
    """A counter of one instrument, connection and minute."""

    __slots__ = ("first", "gaps", "last", "missing", "repeats")

    def __init__(self, first: int) -> None:
        self.first = self.last = first
        self.gaps = self.missing = self.repeats = 0


class TradeNumbers:
    """Follows the numbers of all instruments of an hour.

    A hole is `sequence_gap`, from the last trade before it to the first behind it, unless its trades came later after
    all: then it is `disorder`. Numbers that came again are counted and are no damage: they tell which trades are one.

    Args:
        verdicts: gets counts and intervals.
        known: what `state` of the hour before told, by instrument.
    """

    def __init__(self, verdicts: Verdicts, known: Mapping[str, Standing]) -> None:
        self._verdicts = verdicts
        self._known = {instrument: _Known(*numbers) for instrument, numbers in known.items()}
        self._late: list[tuple[str, _Hole]] = []
        self._tallies: dict[tuple[str, int], dict[str, _Tally]] = {}

    def take(self, trades: Trades) -> None:
        """The next trades."""
        readable = pc.is_valid(trades.number).to_numpy(zero_copy_only=False)
        if not readable.all():
            unread = pa.array(np.flatnonzero(~readable))
            self._verdicts.count_many(
                trades.epoch.take(unread),
                trades.instrument.take(unread),
                CHECK,
                trades.recv_us[~readable],
                unverifiable=1,
            )
            left = pa.array(np.flatnonzero(readable))
            trades = Trades(*(column.take(left) for column in trades[:3]), *(column[readable] for column in trades[3:]))
        if len(trades.recv_us):
            self._follow(trades)

    def _follow(self, trades: Trades) -> None:
        instruments = pc.dictionary_encode(trades.instrument)
        epochs = pc.dictionary_encode(trades.epoch)
        number, code = trades.number.to_numpy(), instruments.indices.to_numpy()
        # Within a message the order of trades says nothing: a snapshot may be sorted either way.
        order = np.lexsort((number, trades.nats_seq, code))
        number, code, epoch = number[order], code[order], epochs.indices.to_numpy()[order]
        recv_us, nats_seq, is_snapshot = trades.recv_us[order], trades.nats_seq[order], trades.is_snapshot[order]
        first = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
        end = np.concatenate([first[1:], [len(code)]])
        jumps = np.concatenate([[False], (number[1:] != number[:-1] + 1) & (code[1:] == code[:-1])])
        contiguous = ~np.logical_or.reduceat(jumps, first)
        good, bad = np.ones(len(code), np.int64), np.zeros(len(code), np.int64)
        names, epoch_names = instruments.dictionary.to_pylist(), epochs.dictionary.to_pylist()
        for at, until, clean in zip(first.tolist(), end.tolist(), contiguous.tolist(), strict=True):
            name = names[code[at]]
            known = self._known.get(name)
            if clean and known is not None and number[at] == known.newest + 1 and not known.doubt:
                known.newest, known.newest_us = int(number[until - 1]), int(recv_us[until - 1])
                continue
            rows = slice(at, until)
            self._follow_one(
                name,
                _Rows(
                    number[rows].tolist(),
                    is_snapshot[rows].tolist(),
                    recv_us[rows].tolist(),
                    nats_seq[rows].tolist(),
                    [epoch_names[n] for n in epoch[rows].tolist()],
                ),
                good[rows],
                bad[rows],
            )
        self._count(names, epoch_names, code, epoch, recv_us, nats_seq, number, good, bad)

    def _count(
        self,
        names: list[str],
        epoch_names: list[str],
        code: npt.NDArray[np.int32],
        epoch: npt.NDArray[np.int32],
        recv_us: Longs,
        nats_seq: npt.NDArray[np.uint64],
        number: Longs,
        good: Longs,
        bad: Longs,
    ) -> None:
        """Sums per instrument, connection and minute."""
        minute = recv_us // MINUTE_US
        new = (code[1:] != code[:-1]) | (epoch[1:] != epoch[:-1]) | (minute[1:] != minute[:-1])
        first = np.flatnonzero(np.concatenate([[True], new]))
        messages = np.concatenate([[True], new | (nats_seq[1:] != nats_seq[:-1])])
        whose = [names[n] for n in code[first].tolist()]
        where = [epoch_names[n] for n in epoch[first].tolist()]
        self._verdicts.count_many(
            where,
            whose,
            CHECK,
            recv_us[first],
            messages=np.add.reduceat(messages.astype(np.int64), first),
            passed=np.add.reduceat(good, first),
            failed=np.add.reduceat(bad, first),
        )
        lowest, highest = np.minimum.reduceat(number, first), np.maximum.reduceat(number, first)
        columns = (where, whose, minute[first].tolist(), lowest.tolist(), highest.tolist())
        for epoch_name, name, of_minute, low, high in zip(*columns, strict=True):
            tally = self._tally(epoch_name, name, of_minute * MINUTE_US, low)
            tally.first, tally.last = min(tally.first, low), max(tally.last, high)

    def _tally(self, epoch: str, instrument: str, at_us: int, number: int) -> _Tally:
        tallies = self._tallies.setdefault((epoch, at_us // MINUTE_US * MINUTE_US), {})
        tally = tallies.get(instrument)
        if tally is None:
            tally = tallies[instrument] = _Tally(number)
        return tally

    def _follow_one(self, name: str, rows: _Rows, good: Longs, bad: Longs) -> None:
        """One instrument's trades, where they are not simply the next ones."""
        known = self._known.get(name)
        for i, (number, is_snapshot, recv_us, nats_seq, epoch) in enumerate(zip(*rows, strict=True)):
            if known is None:
                known = self._known[name] = _Known(number, number, recv_us)
                good[i] = 0
            elif number == known.newest + 1:
                known.newest, known.newest_us = number, recv_us
                self._trust(name, known, recv_us)
            elif number > known.newest:
                missing = number - known.newest - 1
                hole = _Hole(known.newest + 1, number - 1, missing, epoch, known.newest_us, recv_us, nats_seq)
                known.holes.append(hole)
                if len(known.holes) > _OPEN_HOLES:
                    self._late.append((name, known.holes.pop(0)))
                known.newest, known.newest_us = number, recv_us
                good[i], bad[i] = 0, 1
            elif self._fill(known, number, recv_us):
                pass
            elif number >= known.oldest:
                self._tally(epoch, name, recv_us, number).repeats += 1
            elif not is_snapshot:
                known.doubt = known.doubt or epoch
                self._verdicts.distrust(
                    known.doubt,
                    name,
                    CHECK,
                    from_us=known.newest_us,
                    nats_seq=nats_seq,
                    reason="disorder",
                    detail=f"trade {number} after {known.newest}, and none before {known.oldest} was seen",
                )
                good[i], bad[i] = 0, 1
            elif i + 1 < len(rows.number) and rows.nats_seq[i + 1] == nats_seq:
                # Not the newest of the snapshot, which alone tells whether it joins on.
                pass
            elif number == known.oldest - 1:
                known.oldest = number
            else:
                self._restart(name, known, number, recv_us, nats_seq, epoch)
                good[i], bad[i] = 0, 1

    def _fill(self, known: _Known, number: int, recv_us: int) -> bool:
        for hole in reversed(known.holes):
            if hole.first <= number <= hole.last:
                if number in known.filled:
                    return False
                known.filled.add(number)
                hole.missing -= 1
                hole.to_us = max(hole.to_us, recv_us) if not hole.missing else hole.to_us
                return True
        return False

    def _restart(self, name: str, known: _Known, number: int, recv_us: int, nats_seq: int, epoch: str) -> None:
        """A snapshot whose newest trade is older than all that is known: the venue counts anew."""
        self._verdicts.distrust_between(
            epoch,
            name,
            CHECK,
            from_us=known.newest_us,
            to_us=recv_us,
            nats_seq=nats_seq,
            reason="disorder",
            detail=f"the venue counts anew: a snapshot ends with trade {number} after {known.newest}",
        )
        self._late += [(name, hole) for hole in known.holes]
        self._trust(name, known, recv_us)
        known.oldest, known.newest, known.newest_us = number, number, recv_us
        known.holes, known.filled = [], set()

    def _trust(self, name: str, known: _Known, recv_us: int) -> None:
        if known.doubt:
            self._verdicts.trust(known.doubt, name, CHECK, recv_us)
            known.doubt = ""

    def finish(self) -> dict[tuple[str, int], list[Counter]]:
        """Hand the holes to the verdicts; the counters, by (epoch, start of the minute in µs)."""
        holes = [*self._late, *((name, hole) for name, known in self._known.items() for hole in known.holes)]
        for name, hole in holes:
            numbers = f"trades {hole.first} to {hole.last}" if hole.first < hole.last else f"trade {hole.first}"
            late = f"{numbers} came late" if not hole.missing else f"{hole.missing} of {numbers} did not come"
            self._verdicts.distrust_between(
                hole.epoch,
                name,
                CHECK,
                from_us=hole.from_us,
                to_us=hole.to_us,
                nats_seq=hole.nats_seq,
                reason="sequence_gap" if hole.missing else "disorder",
                detail=f"{late}: {hole.last + 1} after {hole.first - 1}",
            )
            if hole.missing:
                tally = self._tally(hole.epoch, name, hole.to_us, hole.last + 1)
                tally.gaps += 1
                tally.missing += hole.missing
        self._late = []
        for known in self._known.values():
            known.holes, known.filled = [], set()
        return {
            key: [
                Counter(f"{CHECK} {name}", tally.first, tally.last, tally.gaps, tally.missing, tally.repeats)
                for name, tally in sorted(tallies.items())
            ]
            for key, tallies in self._tallies.items()
        }

    def state(self) -> dict[str, Standing]:
        """What the next hour begins with, by instrument, sorted."""
        return {
            name: (known.oldest, known.newest, known.newest_us, known.doubt)
            for name, known in sorted(self._known.items())
        }


class _Rows(NamedTuple):
    """One instrument's trades, as lists."""

    number: list[int]
    is_snapshot: list[bool]
    recv_us: list[int]
    nats_seq: list[int]
    epoch: list[str]
