"""Reconciliation without a venue: the comparison, which instruments, what is kept of the missing ones."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmd_core.datasets.arrow import arrow_schema
from ssmd_core.db.connect import connect
from ssmd_core.feeds import get
from ssmd_stream.reconcile import kalshi, kraken, polymarket
from ssmd_stream.reconcile.backfill import Backfill
from ssmd_stream.reconcile.compare import Comparison, compare, same_number
from ssmd_stream.reconcile.instruments import MOST_IN_TURN, choose
from ssmd_stream.reconcile.report import SAMPLE, HourReport, Reconciliation
from ssmd_stream.reconcile.store import store
from ssmd_stream.reconcile.trades import Trade, VenueTrade
from ssmd_stream.secmaster.fields import FieldError
from ssmd_stream.secmaster.rest import decode

S = 1_000_000
WINDOW = (0, 60 * S)
HOUR = datetime(2026, 11, 22, 12, tzinfo=UTC)


def told(id_: str, time_us: int, price: str = "1", size: str = "2", asset: str = "A", side: str | None = None) -> Any:
    return VenueTrade(
        id=id_, asset=asset, time_us=time_us, price=Decimal(price), size=Decimal(size), side=side, columns={}, raw=""
    )


def kept(id_: str, time_us: int, price: str = "1", size: str = "2", asset: str = "A", **more: Any) -> Trade:
    return Trade(id=id_, asset=asset, time_us=time_us, price=Decimal(price), size=Decimal(size), **more)


def by_id(venue: list[VenueTrade], archived: list[Trade]) -> Comparison:
    return compare(venue, archived, *WINDOW, unique_ids=True, same_time=lambda a, b: abs(a - b) <= 5 * S)


def multiset(venue: list[VenueTrade], archived: list[Trade], others: list[VenueTrade] | None = None) -> Comparison:
    return compare(venue, archived, *WINDOW, unique_ids=False, same_time=lambda _a, _b: True, others=others or [])


# What happens to a trade: told by both, by one only, with other numbers; how often it is archived; how far apart both
# clocks tell it.
FATES = st.lists(
    st.tuples(
        st.sampled_from(["both", "venue", "archive", "differs"]),
        st.integers(-5 * S, 65 * S),
        st.integers(1, 3),
        st.sampled_from([0, 1, -1, 2 * S, -2 * S]),
    ),
    max_size=30,
)


@given(FATES, st.integers(0, 2**32))
def test_every_trade_of_the_window_is_matched_missing_or_differing(
    fates: list[tuple[str, int, int, int]], seed: int
) -> None:
    venue, archived = [], []
    for number, (fate, time_us, times, apart_us) in enumerate(fates):
        if fate != "archive":
            venue.append(told(f"t{number}", time_us))
        if fate != "venue":
            trade = kept(f"t{number}", time_us + apart_us, size="3" if fate == "differs" else "2.00")
            archived += [trade] * times
    found = by_id(venue, archived)
    inside = {f"t{number}" for number, each in enumerate(fates) if WINDOW[0] <= each[1] < WINDOW[1]}

    def fated(word: str) -> set[str]:
        return {f"t{number}" for number, each in enumerate(fates) if each[0] == word}

    assert {trade.id for trade in found.missing} == fated("venue") & inside
    assert {venue.id for venue, _ in found.differing} == fated("differs") & inside
    assert found.matched == len(fated("both") & inside)
    assert found.venue_trades == found.matched + len(found.missing) + len(found.differing)
    only_ours = {trade.id for trade in archived if WINDOW[0] <= trade.time_us < WINDOW[1]} & fated("archive")
    assert {trade.id for trade in found.extra} == only_ours
    if found.venue_trades:
        assert found.match_rate is not None
        assert abs(found.match_rate - Decimal(found.matched) / found.venue_trades) <= Decimal("0.00005")
    else:
        assert found.match_rate is None
    # The order of neither side matters, nor does a page that comes twice.
    shuffled = random.Random(seed)
    mixed, mixed_archived = venue * 2, list(archived)
    shuffled.shuffle(mixed)
    shuffled.shuffle(mixed_archived)
    assert by_id(mixed, mixed_archived) == found


@given(
    st.lists(st.sampled_from([("h1", "1"), ("h1", "2"), ("h2", "1"), ("h3", "1")]), max_size=12),
    st.lists(st.sampled_from([("h1", "1"), ("h1", "2"), ("h2", "1"), ("h4", "1")]), max_size=12),
)
def test_trades_without_ids_of_their_own_are_a_multiset(
    venue: list[tuple[str, str]], archived: list[tuple[str, str]]
) -> None:
    found = multiset(
        [told(hash_, 30 * S, size=size) for hash_, size in venue],
        # Each at its own microsecond: none repeats another.
        [kept(hash_, 30 * S + number, size=size) for number, (hash_, size) in enumerate(archived)],
    )
    same = Counter(venue) & Counter(archived)
    assert found.matched == same.total()
    missing, extra = (Counter(side) - same for side in (venue, archived))
    # What is left of one transaction on both sides is the same trade, told otherwise.
    pairs = sum(
        min(sum(n for (h, _), n in missing.items() if h == hash_), sum(n for (h, _), n in extra.items() if h == hash_))
        for hash_ in ("h1", "h2", "h3", "h4")
    )
    assert len(found.differing) == pairs
    assert len(found.missing) == missing.total() - pairs
    assert len(found.extra) == extra.total() - pairs
    assert (found.venue_trades, found.archived_trades) == (len(venue), len(archived))


def test_a_message_that_comes_twice_is_one_trade() -> None:
    found = multiset([told("h", 30 * S)], [kept("h", 30 * S + 7), kept("h", 30 * S + 7)])
    assert (found.matched, found.extra, found.differing, found.repeats) == (1, (), (), 1)


def test_a_trade_that_only_the_makers_rows_tell_is_no_extra() -> None:
    archived = [kept("h", 30 * S), kept("h", 31 * S), kept("h", 32 * S)]
    found = multiset([told("h", 30 * S)], archived, others=[told("h", 30 * S, asset="A")])
    assert (found.matched, len(found.extra), found.elsewhere, found.archived_trades) == (1, 1, 1, 3)


def test_old_messages_without_an_id_are_found_by_their_numbers_and_time() -> None:
    venue = [told(f"t{second}", second * S + 900_000) for second in (10, 12, 20, 30)]
    archived = [kept("", 12 * S), kept("", 14 * S), kept("", 25 * S), kept("", 31 * S, size="9")]
    found = by_id(venue, archived)
    assert found.matched == 2
    assert [trade.id for trade in found.missing] == ["t20", "t30"]
    assert [trade.time_us for trade in found.extra] == [25 * S, 31 * S]


def test_the_edges_of_the_window_are_half_open() -> None:
    venue = [told(f"t{time_us}", time_us) for time_us in (-1, 0, 60 * S - 1, 60 * S)]
    assert [trade.id for trade in by_id(venue, []).missing] == ["t0", f"t{60 * S - 1}"]
    # Beyond the edge a trade still has a partner within.
    found = by_id([told("a", -1), told("b", 60 * S - 1)], [kept("a", 1), kept("b", 60 * S + 1)])
    assert (found.venue_trades, found.matched, found.missing, found.extra) == (1, 1, (), ())


@given(st.decimals("0.00000001", "99999999999", allow_nan=False, places=8))
def test_a_float_column_is_compared_as_exactly_as_it_can_be(number: Decimal) -> None:
    # What the datasets hold of it.
    archived = Decimal(repr(float(number)))
    assert same_number(number, archived, approximate=True)
    digits = len(number.normalize().as_tuple().digits)
    if digits <= 15:
        # Up to 15 digits a neighbour is told apart.
        _, _, exponent = number.normalize().as_tuple()
        assert isinstance(exponent, int)
        assert not same_number(number, archived + Decimal(10) ** exponent, approximate=True)
        assert archived == number


def test_sides_and_times_count_where_both_tell_them() -> None:
    venue = [told("a", 30 * S, side="buy"), told("b", 30 * S, side="buy"), told("c", 30 * S)]
    archived = [kept("a", 30 * S, side="sell"), kept("b", 30 * S), kept("c", 40 * S)]
    found = by_id(venue, archived)
    assert [pair[0].id for pair in found.differing] == ["a", "c"]


def test_kalshis_times_are_compared_as_exactly_as_they_are_told() -> None:
    same = kalshi.KalshiTrades.same_time
    client: Any = None
    assert same(client, 1_667_166, 1_667_000)
    assert not same(client, 1_667_166, 1_668_000)
    assert same(client, 1_667_166, 1_000_000)  # before 2026-04-17 there were only seconds
    assert not same(client, 2_000_001, 1_000_000)


def test_over_a_day_every_instrument_has_its_turn() -> None:
    trades = {f"T{number}": 1000 - number if number < 30 else 0 for number in range(300)}
    busy = {f"T{number}" for number in range(20)}
    seen: set[str] = set()
    for number in range(24):
        choice = choose(trades, HOUR.replace(hour=number))
        assert busy <= set(choice.chosen)
        assert choice.known == 300
        assert len(choice.chosen) < 50
        assert choice == choose(dict(reversed(trades.items())), HOUR.replace(hour=number))
        seen |= set(choice.chosen)
    assert seen == set(trades)
    assert choose(trades, HOUR, seed=1).chosen != choose(trades, HOUR).chosen
    assert choose({"A": 1}, HOUR).bound == "all 1 instruments"


def test_too_many_for_an_hour_take_turns_by_the_day_and_it_is_said() -> None:
    trades = dict.fromkeys((f"T{number}" for number in range(5_000)), 0)
    choice = choose(trades, HOUR)
    assert len(choice.chosen) == 20 + MOST_IN_TURN
    assert choice.over > 0
    assert f"{choice.over} were over the bound of {MOST_IN_TURN}" in choice.bound
    assert choose(trades, HOUR + timedelta(days=1)).chosen[20:] != choice.chosen[20:]


# -- rows of real answers


def test_real_answers_of_the_venues_are_read(samples: Path) -> None:
    page = decode((samples / "kalshi/rest/markets_trades_live_2026-08-24.json").read_bytes())
    (one,) = [kalshi.trade_of(row) for row in page["trades"]]
    assert (one.price, one.size, one.side, one.time_us) == (
        Decimal("0.08"), Decimal(43), "yes", 1_787_583_717_667_166
    )  # fmt: skip
    for name, count in (("trades.json", None), ("Trades_BTCUSD_2026-09-25.json", 3)):
        body = decode((samples / "kraken/rest" / name).read_bytes())["result"]
        (rows,) = [value for key, value in body.items() if key != "last"]
        trades = [kraken.trade_of("BTC/USD", row) for row in rows]
        ids = [int(trade.id) for trade in trades]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert count is None or len(ids) == count
        # Numbers as the venue wrote them.
        assert orjson.loads(trades[0].raw)[6] == ids[0]
        assert str(rows[0][2]) in trades[0].raw
    assert [str(trade.size) for trade in trades] == ["0.00005100", "0.00044682", "0.00551352"]
    rows = decode((samples / "polymarket/rest/data_api_trades_anonymised.json").read_bytes())
    answers = [polymarket.trade_of(row["conditionId"], row) for row in rows]
    assert (answers[0].price, answers[0].size, answers[0].id[:5]) == (Decimal("0.998"), Decimal("5.4"), "0xabc")
    assert answers[0].time_us == 1_729_000_180 * S


@pytest.mark.parametrize(
    ("read", "row", "reason"),
    [
        (kalshi.trade_of, {"trade_id": "a", "ticker": "T", "created_time": "2026-08-24T15:01:57Z"}, "yes_price"),
        (kalshi.trade_of, {"trade_id": "a\x00", "ticker": "T"}, "character"),
        (kalshi.trade_of, [], "not an object"),
        (lambda row: kraken.trade_of("S", row), ["1", "2", Decimal(3), "b", "l", ""], "row of seven"),
        (lambda row: kraken.trade_of("S", row), ["1", "2", Decimal("9e99"), "b", "l", "", 1], "time"),
        (lambda row: kraken.trade_of("S", row), ["x", "2", 3, "b", "l", "", 1], "price"),
        (lambda row: kraken.trade_of("S", row), ["1", "2", 3, "b", "l", "", "1"], "trade id"),
        (lambda row: polymarket.trade_of("c", row), {"asset": "1", "timestamp": 1, "price": 1, "size": 1}, "Hash"),
        (
            lambda row: polymarket.trade_of("c", row),
            {"asset": "1", "timestamp": 1_729_000_180, "price": 1, "size": Decimal("1e20"), "transactionHash": "h"},
            "does not fit",
        ),
    ],
)
def test_what_is_no_trade_is_refused_with_a_reason(read: Any, row: Any, reason: str) -> None:
    with pytest.raises(FieldError, match=reason):
        read(row)


# -- what is kept


def rows_of(count: int) -> list[VenueTrade]:
    row = {
        "trade_id": "t0", "ticker": "KXA-1", "created_time": "2026-11-22T12:00:01.5Z", "count_fp": "1.50",
        "yes_price_dollars": "0.0800", "no_price_dollars": "0.9200", "taker_side": "yes",
    }  # fmt: skip
    return [kalshi.trade_of({**row, "trade_id": f"t{number}"}) for number in range(count)]


def test_the_backfill_holds_each_trade_once_and_the_same_bytes(tmp_path: Path) -> None:
    feed, rows = get("kalshi"), rows_of(5)
    one = Backfill(tmp_path / "a", feed, "crypto", HOUR)
    assert one.add(rows[:3], "why", HOUR) == 3
    assert one.add(rows, "again", HOUR + timedelta(hours=9)) == 2
    before = one.path.read_bytes()
    assert one.add(reversed(rows), "again", HOUR) == 0
    assert one.path.read_bytes() == before
    assert one.path == tmp_path / "a/kalshi/crypto/2026-11-22/trade_1200.parquet"
    table = pq.read_table(one.path)
    kept_rows = table.to_pylist()
    assert [row["trade_id"] for row in kept_rows] == ["t0", "t1", "t2", "t3", "t4"]
    assert [row["_reason"] for row in kept_rows] == ["why"] * 3 + ["again"] * 2
    assert {row["_source"] for row in kept_rows} == {"rest"}
    assert orjson.loads(kept_rows[0]["_raw"])["count_fp"] == "1.50"
    # The types are those of the capture's columns, so that both can be read as one.
    capture = arrow_schema(feed.required_schema("trade"))
    assert all(capture.field(field.name).type == field.type for field in table.schema if field.name[0] != "_")
    other = Backfill(tmp_path / "b", feed, "crypto", HOUR)
    other.add(reversed(rows[:3]), "why", HOUR)
    other.add(rows[3:], "again", HOUR + timedelta(hours=9))
    assert other.path.read_bytes() == before


def test_equal_parts_of_one_order_are_kept_as_often_as_they_are_missing(tmp_path: Path) -> None:
    row = {
        "asset": "1", "timestamp": 1_795_348_801, "price": Decimal("0.5"), "size": 3, "transactionHash": "0xh",
        "proxyWallet": "0xw", "name": "anybody",
    }  # fmt: skip
    keep = Backfill(tmp_path, get("polymarket"), "markets", HOUR)
    twice = [polymarket.trade_of("0xc", row), polymarket.trade_of("0xc", row)]
    assert keep.add(twice[:1], "r", HOUR) == 1
    assert keep.add(twice, "r", HOUR) == 1
    # Who traded has another name by now; it is the same trade.
    assert keep.add([polymarket.trade_of("0xc", {**row, "name": "somebody"})] * 2, "r", HOUR) == 0


def test_the_newest_answer_about_a_window_stands(database_url: str) -> None:
    def result(status: Any, **counts: Any) -> Reconciliation:
        found = Reconciliation("kalshi", "crypto", "KX\x00A", HOUR, HOUR + timedelta(hours=1), status)
        for name, value in counts.items():
            setattr(found, name, value)
        return found

    comparison = by_id([told(f"t\ud800{number}", number * S) for number in range(50)], [])
    first, second, silence = result("ok"), result("ok", detail="a\x00b"), result("unavailable")
    first.count(comparison, whole=True)
    assert (first.status, first.missing, len(first.sample), first.match_rate) == ("missing", 50, SAMPLE, Decimal(0))

    async def twice() -> None:
        async with await connect(database_url, name="test") as connection:
            await store(connection, [first], HOUR)
            await store(connection, [second], HOUR + timedelta(hours=1))
            # No answer wipes nothing out.
            await store(connection, [silence], HOUR + timedelta(hours=2))

    asyncio.run(twice())
    assert first.id == second.id == silence.id
    assert first.citation == f"reconciliation:{first.id}"
    with psycopg.connect(database_url) as plain:
        rows = plain.execute("SELECT status, missing, detail, sample, checked_at FROM trade_reconciliations").fetchall()
    assert rows == [("ok", 0, "a\ufffdb", [], HOUR + timedelta(hours=1))]


def test_the_hour_sums_up_its_instruments() -> None:
    report = HourReport("kalshi", "crypto", HOUR)
    assert (report.match_rate, report.wrong, report.incomplete) == (None, False, False)
    for status, venue, matched in (("ok", 2, 2), ("unavailable", 0, 0), ("missing", 4, 1)):
        one = Reconciliation("kalshi", "crypto", status, HOUR, HOUR, status)  # type: ignore[arg-type]
        one.venue_trades, one.matched = venue, matched
        report.results.append(one)
    assert (str(report.match_rate), report.wrong, report.incomplete) == ("0.5000", True, True)
    assert orjson.loads(orjson.dumps(report.as_dict()))["statuses"] == {"missing": 1, "ok": 1, "unavailable": 1}
