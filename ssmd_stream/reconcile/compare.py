"""Two accounts of the same trades, compared. No I/O, no clock; the order of either side does not matter.

A trade counts if its time lies in the window; trades around it serve for finding partners, so that two clocks that
tell a trade a little apart make neither a missing nor an extra one at the window's edge. Every venue trade of the
window is matched, differing or missing; an archived one without partner is extra, unless it is a repeat.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal

from ssmd_stream.reconcile.trades import US_PER_S, Trade, VenueTrade

# A float64 gives back every decimal of up to 15 digits; of a longer one it is off by at most half of 2^-52.
_FLOAT_DIGITS = 15
_FLOAT_ERROR = Decimal(2) ** -52
# Trades without an id are the same if price and size agree and whole seconds are at most so far apart.
NAMELESS_S = 2
_RATE = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two accounts of a window have in common.

    Attributes:
        venue_trades: of the window; the sum of `matched`, `differing` and `missing`.
        archived_trades: of the window, repeats left out.
        matched: venue trades whose numbers the archive has too.
        missing: venue trades that the archive does not have.
        extra: archived trades that the venue does not have.
        differing: trades that both have, with other numbers: the venue's and the archive's.
        repeats: archived rows that tell a trade once more.
        elsewhere: archived trades that were found only in the venue's other rows.
    """

    venue_trades: int
    archived_trades: int
    matched: int
    missing: tuple[VenueTrade, ...]
    extra: tuple[Trade, ...]
    differing: tuple[tuple[VenueTrade, Trade], ...]
    repeats: int = 0
    elsewhere: int = 0

    @property
    def match_rate(self) -> Decimal | None:
        """See `rate_of`."""
        return rate_of(self.matched, self.venue_trades)


def compare(
    venue: Iterable[VenueTrade],
    archived: Iterable[Trade],
    start_us: int,
    end_us: int,
    *,
    unique_ids: bool,
    same_time: Callable[[int, int], bool],
    others: Iterable[Trade] = (),
) -> Comparison:
    """Compare [start, end) of the venue's time.

    Args:
        venue, archived: of the window and of some time around it.
        unique_ids: an id names one trade, and comes several times only if the trade is told several times. Otherwise
            trades are a multiset of (id, asset, price, size).
        same_time: see `VenueTrades`; for trades with a unique id.
        others: further rows of the venue in which an archived trade may be told; none of them can be missing.
    """

    def inside(trade: Trade) -> bool:
        return start_us <= trade.time_us < end_us

    def order(trade: Trade) -> tuple[bool, int, str, str, Decimal, Decimal, str]:
        # Of equal trades those of the window find a partner first.
        side = trade.side or ""
        return not inside(trade), trade.time_us, trade.id, trade.asset, trade.price, trade.size, side

    told, theirs = sorted(venue, key=order), sorted(archived, key=order)
    named = [trade for trade in theirs if trade.id]
    match = _by_id(told, named, same_time) if unique_ids else _as_multiset(told, named)
    _match_nameless(match, [trade for trade in theirs if not trade.id])
    differing = tuple(pair for pair in match.differing if inside(pair[0]))
    missing = tuple(trade for trade in match.venue_left if inside(trade))
    matched = sum(inside(venue_trade) for venue_trade, _ in match.pairs)
    shelf = Counter(map(_key, others))
    extra: list[Trade] = []
    elsewhere = 0
    for trade in filter(inside, match.archived_left):
        if shelf[_key(trade)]:
            shelf[_key(trade)] -= 1
            elsewhere += 1
        else:
            extra.append(trade)
    partners = sum(inside(trade) for _, trade in (*match.pairs, *match.differing))
    return Comparison(
        venue_trades=matched + len(differing) + len(missing),
        archived_trades=partners + len(extra) + elsewhere,
        matched=matched,
        missing=missing,
        extra=tuple(extra),
        differing=differing,
        repeats=sum(map(inside, match.repeats)),
        elsewhere=elsewhere,
    )


def rate_of(matched: int, venue_trades: int) -> Decimal | None:
    """Matched of the venue's, four decimals, half up; None if the venue had none."""
    return (Decimal(matched) / venue_trades).quantize(_RATE, ROUND_HALF_UP) if venue_trades else None


def same_number(venue: Decimal, archived: Decimal, *, approximate: bool) -> bool:
    """Whether both are the same number, as far as the archive can tell."""
    if venue == archived:
        return True
    digits = len(venue.normalize().as_tuple().digits)
    return approximate and digits > _FLOAT_DIGITS and abs(venue - archived) <= abs(venue) * _FLOAT_ERROR


def _time_us(trade: Trade) -> int:
    return trade.time_us


def _key(trade: Trade) -> tuple[str, str, Decimal, Decimal]:
    return trade.id, trade.asset, trade.price, trade.size


@dataclass(slots=True)
class _Match:
    """Who found whom; `pairs` agree, `differing` do not."""

    pairs: list[tuple[VenueTrade, Trade]] = field(default_factory=list)
    differing: list[tuple[VenueTrade, Trade]] = field(default_factory=list)
    venue_left: list[VenueTrade] = field(default_factory=list)
    archived_left: list[Trade] = field(default_factory=list)
    repeats: list[Trade] = field(default_factory=list)


def _by_id(told: list[VenueTrade], named: list[Trade], same_time: Callable[[int, int], bool]) -> _Match:
    match = _Match()
    groups: defaultdict[str, list[Trade]] = defaultdict(list)
    for trade in named:
        groups[trade.id].append(trade)
    for group in groups.values():
        match.repeats += group[1:]
    seen: set[str] = set()
    for venue in told:
        if venue.id in seen:  # a page that came twice
            continue
        seen.add(venue.id)
        group = groups.pop(venue.id, [])
        if not group:
            match.venue_left.append(venue)
            continue
        # What is told several times must be right every time.
        wrong = next((trade for trade in group if not _agree(venue, trade, same_time)), None)
        if wrong is None:
            match.pairs.append((venue, group[0]))
        else:
            match.differing.append((venue, wrong))
    match.archived_left = [group[0] for group in groups.values()]
    return match


def _agree(venue: Trade, archived: Trade, same_time: Callable[[int, int], bool]) -> bool:
    approximate = archived.approximate
    return (
        same_number(venue.price, archived.price, approximate=approximate)
        and same_number(venue.size, archived.size, approximate=approximate)
        and (venue.side is None or archived.side is None or venue.side == archived.side)
        and same_time(venue.time_us, archived.time_us)
    )


def _as_multiset(told: list[VenueTrade], named: list[Trade]) -> _Match:
    match = _Match()
    shelves: defaultdict[tuple[str, str, Decimal, Decimal], deque[Trade]] = defaultdict(deque)
    for trade in named:
        shelves[_key(trade)].append(trade)
    unmatched = []
    for venue in told:
        shelf = shelves[_key(venue)]
        if shelf:
            match.pairs.append((venue, shelf.popleft()))
        else:
            unmatched.append(venue)
    # The same message twice, to the millisecond, is one trade told twice (the venue repeats some after 0 to 6 ms,
    # and two connections may hold one token); another trade of the transaction would be another row of the venue.
    known = {trade for _, trade in match.pairs}
    wrong: defaultdict[tuple[str, str], deque[Trade]] = defaultdict(deque)
    for trade in (trade for shelf in shelves.values() for trade in shelf):
        if trade in known:
            match.repeats.append(trade)
        else:
            wrong[trade.id, trade.asset].append(trade)
    for venue in unmatched:
        candidates = wrong[venue.id, venue.asset]
        if candidates:
            match.differing.append((venue, candidates.popleft()))
        else:
            match.venue_left.append(venue)
    match.archived_left = [trade for group in wrong.values() for trade in group]
    return match


def _match_nameless(match: _Match, nameless: list[Trade]) -> None:
    """Find partners for archived trades without an id, among the venue's that have none yet."""
    shelves: defaultdict[tuple[str, Decimal, Decimal], list[Trade]] = defaultdict(list)
    for trade in nameless:
        shelves[trade.asset, trade.price, trade.size].append(trade)
    waiting: defaultdict[tuple[str, Decimal, Decimal], list[VenueTrade]] = defaultdict(list)
    rest: list[VenueTrade] = []
    for venue in match.venue_left:
        key = (venue.asset, venue.price, venue.size)
        (waiting[key] if key in shelves else rest).append(venue)
    for key, shelf in shelves.items():
        # Both in the order of time: whoever comes too early for the other's first finds nobody later either.
        ours = deque(sorted(shelf, key=_time_us))
        theirs = deque(sorted(waiting[key], key=_time_us))
        while ours and theirs:
            apart_s = ours[0].time_us // US_PER_S - theirs[0].time_us // US_PER_S
            if abs(apart_s) <= NAMELESS_S:
                match.pairs.append((theirs.popleft(), ours.popleft()))
            elif apart_s < 0:
                match.archived_left.append(ours.popleft())
            else:
                rest.append(theirs.popleft())
        match.archived_left += ours
        rest += theirs
    match.venue_left = rest
