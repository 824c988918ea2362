"""What a stream wants of the security master: the filter, late and repeated rows, time. No I/O."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmd_core.config import SecmasterConfig
from ssmd_stream.capture.universe import Row, RowError, Universe
from ssmd_stream.capture.universe_venues import KalshiUniverse, PolymarketUniverse

NOW_S = 1_795_000_000.0
HOUR_S = 3600.0


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")


def _series(ticker: str, category: str = "Crypto", *, game: bool = False, volume: str | None = "5") -> Row:
    return Row("series", ticker, {"ticker": ticker, "category": category, "is_game": game, "volume": volume})


def _event(ticker: str, series: str, category: str = "") -> Row:
    return Row("events", ticker, {"event_ticker": ticker, "series_ticker": series, "category": category})


def _market(ticker: str, event: str, status: str = "active", close_s: float | None = None, **more: Any) -> Row:
    close = None if close_s is None else _time(close_s)
    return Row("markets", ticker, {"event_ticker": event, "status": status, "close_time": close, **more})


def _condition(id_: str, status: str = "active", category: str = "Crypto", **more: Any) -> Row:
    values = {"status": status, "category": category, "volume": "100.5", "end_date": None, **more}
    return Row("polymarket_conditions", id_, values)


def _token(id_: str, condition: str) -> Row:
    return Row("polymarket_tokens", id_, {"condition_id": condition})


def _fill(universe: Universe, rows: Iterable[Row]) -> None:
    fresh = universe.empty()
    for row in rows:
        fresh.apply(row)
    universe.replace(fresh)


def _kalshi(rows: Iterable[Row], now_s: float = NOW_S, **config: Any) -> KalshiUniverse:
    universe = KalshiUniverse(SecmasterConfig(**config))
    _fill(universe, rows)
    universe.settle(now_s)
    return universe


ROWS = (
    _series("KXBTC15M", volume="1000"),
    _series("KXBTCD", volume="0.5"),
    _series("KXNBAGAME", "Sports", game=True, volume=None),
    _event("KXBTC15M-1", "KXBTC15M", "Crypto"),
    _event("KXBTCD-1", "KXBTCD"),
    _event("KXNBAGAME-1", "KXNBAGAME", "Sports"),
    _market("KXBTC15M-1-A", "KXBTC15M-1", close_s=NOW_S + 900),
    _market("KXBTCD-1-A", "KXBTCD-1", close_s=NOW_S + 30 * HOUR_S),
    _market("KXBTCD-1-B", "KXBTCD-1", "initialized"),
    _market("KXBTCD-1-C", "KXBTCD-1", deleted_at=_time(NOW_S)),
    _market("KXNBAGAME-1-A", "KXNBAGAME-1"),
)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, {"KXBTC15M-1-A", "KXBTCD-1-A", "KXNBAGAME-1-A"}),
        # An event without a category has its series'.
        ({"categories": ["Crypto"]}, {"KXBTC15M-1-A", "KXBTCD-1-A"}),
        ({"series": ["KXBTCD"]}, {"KXBTCD-1-A"}),
        ({"suffixes": ["15M"]}, {"KXBTC15M-1-A"}),
        ({"series": ["KXBTCD"], "suffixes": ["15M", "GAME"], "categories": ["Crypto"]}, {"KXBTC15M-1-A", "KXBTCD-1-A"}),
        # An unknown volume is not zero, and not enough either.
        ({"min_volume": "0.5"}, {"KXBTC15M-1-A", "KXBTCD-1-A"}),
        ({"min_volume": 1000}, {"KXBTC15M-1-A"}),
        ({"closing_within_hours": 24}, {"KXBTC15M-1-A"}),
        ({"games_only": True}, {"KXNBAGAME-1-A"}),
    ],
)
def test_filter(config: dict[str, Any], wanted: set[str]) -> None:
    assert _kalshi(ROWS, **config).wanted.keys() == wanted


def test_market_stays_for_its_grace_and_says_why_it_goes() -> None:
    universe = _kalshi(ROWS, close_grace_s=60)
    universe.apply(_market("KXBTC15M-1-A", "KXBTC15M-1", "closed"))
    assert universe.settle(NOW_S + 1).removed == {}
    assert universe.next_due_s() == NOW_S + 61
    assert "KXBTC15M-1-A" in universe.wanted
    # A second ending does not begin another grace; a reopening ends it.
    universe.apply(_market("KXBTC15M-1-A", "KXBTC15M-1", "settled"))
    universe.settle(NOW_S + 30)
    assert universe.settle(NOW_S + 61).removed == {"KXBTC15M-1-A": "status closed"}
    universe.apply(Row("markets", "KXBTCD-1-A", None))
    universe.settle(NOW_S + 62)
    universe.apply(_market("KXBTCD-1-A", "KXBTCD-1"))
    universe.settle(NOW_S + 100)
    change = universe.settle(NOW_S + 1_000)
    assert (change.added, change.removed) == ({}, {})
    assert "KXBTCD-1-A" in universe.wanted


def test_market_waits_for_what_the_filter_must_know() -> None:
    universe = _kalshi((), games_only=True)
    universe.apply(_market("G-1-A", "G-1"))
    assert universe.settle(NOW_S).added == {}
    assert universe.waiting == {"G-1-A"}
    universe.apply(_event("G-1", "G"))
    assert universe.settle(NOW_S).added == {}
    universe.apply(_series("G", game=True))
    assert universe.settle(NOW_S).added == {"G-1-A": "active"}
    assert not universe.waiting


def test_closing_window_moves_with_time() -> None:
    rows = [_event("E", "S"), _market("near", "E", close_s=NOW_S + HOUR_S), _market("far", "E", close_s=NOW_S + 90_000)]
    universe = _kalshi(rows, closing_within_hours=24)
    assert universe.wanted.keys() == {"near"}
    assert universe.next_due_s() == NOW_S + 90_000 - 24 * HOUR_S
    assert universe.settle(NOW_S + 3_600).added == {"far": "active"}
    universe.apply(_market("far", "E", close_s=NOW_S + 10 * 90_000))
    universe.settle(NOW_S + 3_601)
    assert universe.settle(NOW_S + 3_700).removed == {"far": "closes too late"}


def test_tokens_follow_their_condition() -> None:
    universe = PolymarketUniverse(SecmasterConfig(categories=("Crypto",), min_volume=Decimal(100), close_grace_s=0))
    universe.apply(_token("1", "c"))
    universe.apply(_condition("c"))
    universe.apply(_token("2", "c"))
    universe.apply(_condition("alone"))
    assert universe.waiting == {"alone"}
    assert universe.settle(NOW_S).added.keys() == {"1", "2"}
    universe.apply(_condition("c", "suspended"))
    assert universe.settle(NOW_S).removed == dict.fromkeys(("1", "2"), "status suspended")
    # Its tokens are still known when it is active again.
    universe.apply(_condition("c", volume="99.99"))
    assert universe.settle(NOW_S).added == {}
    universe.apply(_condition("c", volume="100"))
    assert universe.settle(NOW_S).added.keys() == {"1", "2"}


@pytest.mark.parametrize("close", ["infinity", "12026-01-01T00:00:00Z", "0044-03-15 00:00:00+00 BC"])
def test_time_beyond_the_calendar_is_unknown(close: str) -> None:
    row = Row("markets", "M", {"event_ticker": "E", "status": "active", "close_time": close})
    assert _kalshi([_event("E", "S"), row]).wanted.keys() == {"M"}
    assert not _kalshi([_event("E", "S"), row], closing_within_hours=1).wanted


@pytest.mark.parametrize(
    "row",
    [
        Row("markets", "M", {"status": "active"}),
        Row("markets", "M", {"event_ticker": "E", "status": "active", "close_time": "2026-soon"}),
        Row("series", "S", {"category": "x", "is_game": False, "volume": "many"}),
    ],
)
def test_row_that_is_none_is_named(row: Row) -> None:
    with pytest.raises(RowError, match=f"{row.table} '{row.key}'"):
        KalshiUniverse(SecmasterConfig()).apply(row)


# -- any order

_TICKERS = st.sampled_from(["A", "B", "C"])
_SECONDS = st.sampled_from([None, NOW_S - HOUR_S, NOW_S + HOUR_S, NOW_S + 30 * HOUR_S])
_KALSHI_ROWS = st.one_of(
    st.builds(
        lambda ticker, category, game: _series("S" + ticker, category, game=game),
        _TICKERS,
        st.sampled_from(["Crypto", "Sports", ""]),
        st.booleans(),
    ),
    st.builds(
        lambda ticker, series, category: _event("E" + ticker, "S" + series, category),
        _TICKERS,
        _TICKERS,
        st.sampled_from(["Crypto", "Sports", ""]),
    ),
    st.builds(
        lambda ticker, event, status, close_s: _market("M" + ticker, "E" + event, status, close_s),
        _TICKERS,
        _TICKERS,
        st.sampled_from(["initialized", "active", "active", "closed", "settled"]),
        _SECONDS,
    ),
    st.builds(lambda ticker: Row("markets", "M" + ticker, None), _TICKERS),
)
_POLYMARKET_ROWS = st.one_of(
    st.builds(
        _condition,
        _TICKERS,
        st.sampled_from(["active", "active", "closed", "suspended"]),
        st.sampled_from(["Crypto", "Sports"]),
    ),
    st.builds(lambda id_, condition: _token("T" + id_, condition), _TICKERS, _TICKERS),
    st.builds(lambda id_: Row("polymarket_tokens", "T" + id_, None), _TICKERS),
)
_CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "categories": st.just(("Crypto",)),
        "closing_within_hours": st.just(24.0),
        "games_only": st.just(True),
        "series": st.just(("SA", "SB")),
    },
)


def _last(rows: Iterable[Row]) -> dict[tuple[str, str], Row]:
    return {(row.table, row.key): row for row in rows}


def _as_database(rows: Iterable[Row]) -> list[Row]:
    """What a read of the tables gives: the last row of each key, those that are gone left out."""
    return [row for row in _last(rows).values() if row.values is not None]


@given(
    config=_CONFIGS,
    kind=st.sampled_from([KalshiUniverse, PolymarketUniverse]),
    data=st.data(),
    seed=st.integers(0, 1_000),
)
def test_any_order_of_rows_and_reads_ends_with_the_same_wanted(
    config: dict[str, Any], kind: type[Universe], data: st.DataObject, seed: int
) -> None:
    source = _KALSHI_ROWS if kind is KalshiUniverse else _POLYMARKET_ROWS
    history = data.draw(st.lists(source, max_size=25))
    choose = random.Random(seed)
    expected = kind(SecmasterConfig(**config))
    _fill(expected, _as_database(history))
    expected.settle(NOW_S)

    # Changes arrive in the order of each row, but rows of different keys in any order; some of them twice, as a replay.
    by_key: dict[tuple[str, str], list[Row]] = {}
    for row in history:
        by_key.setdefault((row.table, row.key), []).append(row)
    arrivals: list[Row] = []
    queues = [list(rows) for rows in by_key.values()]
    while queues := [queue for queue in queues if queue]:
        arrivals.append(choose.choice(queues).pop(0))
    replayed = arrivals[choose.randrange(len(arrivals) + 1) :]
    universe = kind(SecmasterConfig(**config))
    for row in [*arrivals, *replayed]:
        universe.apply(row)
        if choose.random() < 0.3:
            universe.settle(NOW_S)
        if choose.random() < 0.1:
            # A read of some earlier state, followed by everything once more, as a follower does it.
            _fill(universe, _as_database(arrivals[: choose.randrange(len(arrivals) + 1)]))
            for again in arrivals:
                universe.apply(again)
    for row in replayed:
        universe.apply(row)
    universe.settle(NOW_S)
    universe.settle(NOW_S + 61)
    assert universe.wanted.keys() == expected.wanted.keys()
    assert universe.desired == set(universe.wanted)
    assert not universe.waiting & universe.wanted.keys()

    before = set(universe.wanted)
    _fill(universe, _as_database(history))
    change = universe.settle(NOW_S + 61)
    assert (change.added, change.removed, set(universe.wanted)) == ({}, {}, before)
