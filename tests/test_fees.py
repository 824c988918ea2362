"""Fees: Kalshi's formula to the digit, intervals whatever the order of arrival, lookups in time, and the sync."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from typing import Any

import psycopg
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from ssmd_core.clock import Clock
from ssmd_core.db.connect import connect
from ssmd_core.db.merge import SyncReport, SyncRun
from ssmd_core.secmaster import fees
from ssmd_core.secmaster.fees import CENT, CENTICENT, SEED_FROM, FeeChange, FeeInterval, FeeTerms, OwnTerms, Role
from ssmd_stream.secmaster.kalshi_fees import sync_series_fees
from ssmd_stream.secmaster.rest import RestClient, RestError

NOW = datetime(2026, 11, 22, 11, tzinfo=UTC)
CALLED_OFF = "series_fees: announced for the future, no longer listed, not to come into force"
DAY = timedelta(days=1)


def change(
    source_id: str, day: int, fee_type: str = "quadratic", multiplier: str = "1", series: str = "KXBTC"
) -> FeeChange:
    return FeeChange(source_id, series, fee_type, D(multiplier), NOW + day * DAY)


def terms(fee_type: str = "quadratic", multiplier: str = "1") -> FeeTerms:
    interval = FeeInterval("seed:KXBTC", "KXBTC", fee_type, D(multiplier), SEED_FROM, None)
    return FeeTerms(fee_type, D(multiplier), interval)


# -- the formula


@pytest.mark.parametrize(
    ("fee_type", "multiplier", "price", "contracts", "role", "quantum", "dollars"),
    [
        # 0.07 × 100 × 0.50 × 0.50 = 1.75
        ("quadratic", "1", "0.50", "100", "taker", CENT, "1.75"),
        # 0.07 × 1 × 0.50 × 0.50 = 0.0175
        ("quadratic", "1", "0.50", "1", "taker", CENT, "0.02"),
        ("quadratic", "1", "0.50", "1", "taker", CENTICENT, "0.0175"),
        # 0.07 × 100 × 0.05 × 0.95 = 0.3325, in the published table as 0.34
        ("quadratic", "1", "0.05", "100", "taker", CENT, "0.34"),
        # 0.07 × 100 × 0.25 × 0.75 = 1.3125, published 1.32
        ("quadratic", "1", "0.25", "100", "taker", CENT, "1.32"),
        # 0.07 × 1 × 0.055 × 0.945 = 0.00363825
        ("quadratic", "1", "0.055", "1", "taker", fees.MICRODOLLAR, "0.003639"),
        ("quadratic", "1", "0.055", "1", "taker", CENTICENT, "0.0037"),
        # 0.07 × 0.30 × 0.50 × 0.50 = 0.00525
        ("quadratic", "1", "0.50", "0.30", "taker", CENTICENT, "0.0053"),
        # half, none, and the finest price with many contracts: 0.07 × 0.5 × 1,000,000 × 0.0001 × 0.9999 = 3.49965
        ("quadratic", "0.5", "0.50", "100", "taker", CENT, "0.88"),
        ("quadratic", "0", "0.50", "100", "taker", CENT, "0.00"),
        ("quadratic", "0.5", "0.0001", "1000000", "taker", fees.MICRODOLLAR, "3.499650"),
        # makers: nothing; 0.0175 × 100 × 0.25 = 0.4375; 0.035 × 100 × 0.25 = 0.875
        ("quadratic", "1", "0.50", "100", "maker", CENT, "0.00"),
        ("quadratic_with_maker_fees", "1", "0.50", "100", "maker", CENT, "0.44"),
        ("quadratic_with_maker_fees", "1", "0.50", "100", "taker", CENT, "1.75"),
        ("quadratic_with_combo_maker_fees", "1", "0.50", "100", "maker", CENTICENT, "0.8750"),
    ],
)
def test_published_formula(
    fee_type: str, multiplier: str, price: str, contracts: str, role: Role, quantum: D, dollars: str
) -> None:
    found = fees.fee_of(terms(fee_type, multiplier), D(price), D(contracts), role, quantum=quantum)
    assert str(found) == dollars


def test_flat_fees_need_the_table_that_no_api_has() -> None:
    with pytest.raises(fees.FeeUnknownError, match="flat fees"):
        fees.fee_of(terms("flat"), D("0.5"), D(10), "taker")
    found = fees.fee_of(terms("flat", "2"), D("0.5"), D(10), "maker", quantum=CENT, flat_dollars=D("0.0025"))
    assert found == D("0.05")  # 10 × 2 × 0.0025
    with pytest.raises(fees.FeeUnknownError, match="'cubic'"):
        fees.fee_of(terms("cubic"), D("0.5"), D(10), "taker")


@pytest.mark.parametrize(
    ("price", "contracts", "said"),
    [
        ("0", "1", "price 0 is not between"),
        ("1", "1", "price 1 is not"),
        ("-0.1", "1", "price -0.1"),
        ("NaN", "1", "price NaN"),
        ("0.1234567", "1", "more than 6 decimals"),
        ("0.5", "0", "contracts 0"),
        ("0.5", "-3", "contracts -3"),
        ("0.5", "0.001", "more than 2 decimals"),
        ("0.5", "Infinity", "contracts Infinity"),
        ("0.5", "1e30", "contracts 1E"),
    ],
)
def test_values_outside_of_their_range(price: str, contracts: str, said: str) -> None:
    with pytest.raises(fees.FeeInputError, match=said):
        fees.fee_of(terms(), D(price), D(contracts), "taker")


@pytest.mark.parametrize("flat", ["NaN", "sNaN", "-NaN", "Infinity", "-Infinity", "1e400", "-0.01", "1", "0.0000001"])
def test_flat_dollars_outside_of_their_range(flat: str) -> None:
    for fee_type in ("flat", "quadratic"):
        with pytest.raises(fees.FeeInputError, match=f"flat_dollars {str(D(flat)).replace('+', '.')} "):
            fees.fee_of(terms(fee_type), D("0.5"), D(10), "taker", flat_dollars=D(flat))
    assert str(fees.fee_of(terms("flat"), D("0.5"), D(10), "taker", quantum=CENT, flat_dollars=D("-0e99999"))) == "0.00"


@given(
    st.integers(1, 9999).map(lambda n: D(n) / 10_000),
    st.integers(1, 10**9).map(lambda n: D(n) / 100),
    st.sampled_from(["quadratic", "quadratic_with_maker_fees", "quadratic_with_combo_maker_fees"]),
    st.integers(0, 400).map(lambda n: D(n) / 100),
    st.sampled_from(list(fees.ROUNDINGS.values())),
)
def test_formula_bounds(price: D, contracts: D, fee_type: str, multiplier: D, quantum: D) -> None:
    one = terms(fee_type, str(multiplier))
    taker, maker = (fees.fee_of(one, price, contracts, role, quantum=quantum) for role in ("taker", "maker"))
    assert 0 <= maker <= taker
    assert taker % quantum == 0
    assert 0 <= taker - fees.model_fee(one, price, contracts, "taker") < quantum
    assert taker == fees.fee_of(one, 1 - price, contracts, "taker", quantum=quantum)


@pytest.mark.parametrize(
    ("trade_fee", "revenue", "precision", "fills"),
    [
        # The three worked examples of Kalshi's fee rounding page: (rounding, accumulated, rebate, net).
        ("0.0085", "-0.0550", CENT, [("0.0065", "0.0065", "0", "0.0150"), ("0.0065", "0.0030", "0.01", "0.0050"),
                                     ("0.0065", "0.0095", "0", "0.0150")]),
        ("0.0041", "-0.1500", CENT, [("0.0059", "0.0059", "0", "0.01"), ("0.0059", "0.0018", "0.01", "0"),
                                     ("0.0059", "0.0077", "0", "0.01")]),
        ("0.0005", "-0.009903", CENT, [("0.009597", "0.009597", "0", "0.010097"),
                                       ("0.009597", "0.009194", "0.01", "0.000097"),
                                       ("0.009597", "0.008791", "0.01", "0.000097")]),
        # A direct member's balance has 0.0001: −0.055 − 0.003639 = −0.058639 → −0.0587.
        ("0.003639", "-0.055", CENTICENT, [("0.000061", "0.000061", "0", "0.0037")]),
    ],
)  # fmt: skip
def test_balance_rounding(trade_fee: str, revenue: str, precision: D, fills: list[tuple[str, ...]]) -> None:
    accumulated = D(0)
    for rounding, after, rebate, net in fills:
        charge = fees.charge_fill(D(trade_fee), D(revenue), accumulated=accumulated, precision=precision)
        assert (charge.rounding_fee, charge.accumulated) == (D(rounding), D(after))
        assert (charge.rebate, charge.net_fee) == (D(rebate), D(net))
        assert charge.balance_change % precision == 0
        accumulated = charge.accumulated


# -- intervals


def test_newest_first_future_and_twice() -> None:
    later, sooner = change("b", -10, multiplier="0.5"), change("a", -20)
    ahead, corrected = change("c", 10, "quadratic_with_maker_fees"), change("a", -19)
    found = fees.intervals([ahead, later, sooner, corrected, corrected])
    assert [(one.source_id, one.effective_from, one.effective_to) for one in found] == [
        ("a", NOW - 19 * DAY, NOW - 10 * DAY),
        ("b", NOW - 10 * DAY, NOW + 10 * DAY),
        ("c", NOW + 10 * DAY, None),
    ]
    assert fees.interval_at("KXBTC", NOW, found).source_id == "b"  # the future one is not in force yet
    assert fees.interval_at("KXBTC", NOW + 10 * DAY, found).source_id == "c"
    with pytest.raises(fees.FeeUnknownError, match="known from 2026-11-03"):
        fees.interval_at("KXBTC", NOW - 20 * DAY, found)
    with pytest.raises(fees.UnknownSeriesError, match="'KXETH'"):
        fees.interval_at("KXETH", NOW, found)
    assert fees.fee("KXBTC", D("0.5"), D(100), "taker", NOW, known=found, quantum=CENT) == D("0.88")


def test_at_one_moment_the_announced_one_wins() -> None:
    found = fees.intervals([change("z", 0, multiplier="2"), change("a", 0), change("seen:KXBTC:x", 0, "flat")])
    assert [(one.source_id, one.effective_to) for one in found] == [("seen:KXBTC:x", NOW), ("a", NOW), ("z", None)]
    assert fees.interval_at("KXBTC", NOW, found).source_id == "z"


def test_what_was_not_understood_ends_what_was_known() -> None:
    found = fees.intervals([change("a", -20), change("b", 5)], cuts=[("KXBTC", NOW - DAY), ("KXETH", NOW)])
    assert [one.effective_to for one in found] == [NOW - DAY, None]
    with pytest.raises(fees.FeeUnknownError):
        fees.interval_at("KXBTC", NOW, found)


def test_seeds_claim_only_what_the_series_can_know() -> None:
    def own_terms(multiplier: str, asked_at: datetime = NOW) -> dict[str, OwnTerms]:
        return {"KXBTC": OwnTerms("quadratic", D(multiplier), asked_at)}

    own = own_terms("1")
    [seed] = fees.with_seeds([], own, NOW)
    assert (seed.source_id, seed.effective_from) == ("seed:KXBTC", SEED_FROM)
    # Still ahead: the series' terms are those before. Happened: they are those after, and before is not known.
    assert [one.source_id for one in fees.with_seeds([change("a", 1)], own, NOW)] == ["a", "seed:KXBTC"]
    assert [one.source_id for one in fees.with_seeds([change("a", -1)], own, NOW)] == ["a"]
    # A seed from before stays and ends where the change begins.
    kept = fees.with_seeds([seed, change("a", -1)], own, NOW)
    assert [one.effective_to for one in fees.intervals(kept)] == [NOW - DAY, None]
    # Changed without an announcement: new terms from now on, once.
    grown = fees.with_seeds([seed], own_terms("0.5"), NOW)
    assert grown[1:] == [FeeChange(f"seen:KXBTC:{NOW.isoformat()}", "KXBTC", "quadratic", D("0.5"), NOW)]
    assert fees.with_seeds(grown, own_terms("0.50", NOW + DAY), NOW + DAY) == grown
    # Also against an announced one, but only if the series was read after that one began.
    announced = [change("a", -1)]
    assert fees.with_seeds(announced, own_terms("0.5", NOW - DAY), NOW) == announced
    assert fees.with_seeds(announced, own_terms("0.5"), NOW)[1:] == grown[1:]
    # After a change that could not be read nothing is known: neither what holds, nor what held before.
    cut = [("KXBTC", NOW - DAY / 2)]
    assert fees.with_seeds(announced, own_terms("0.5"), NOW, cut) == announced
    assert fees.with_seeds([], own, NOW, cut) == []


CHANGES = st.lists(
    st.builds(
        FeeChange,
        st.sampled_from(["a", "b", "c", "d", "e", "seed:S", "seen:S:x"]),
        st.sampled_from(["S", "T"]),
        st.just("quadratic"),
        st.integers(0, 3).map(D),
        st.integers(0, 6).map(lambda n: NOW + n * DAY),
    ),
    max_size=12,
    unique_by=lambda one: one.source_id,
)


@given(CHANGES, st.randoms(use_true_random=False))
def test_intervals_do_not_depend_on_the_order_and_never_overlap(changes: list[FeeChange], random: Any) -> None:
    found = fees.intervals(changes)
    shuffled = list(changes)
    random.shuffle(shuffled)
    assert fees.intervals(shuffled) == found
    assert {one.source_id for one in found} == {one.source_id for one in changes}
    for series in ("S", "T"):
        begins = {one.effective_from for one in changes if one.series_ticker == series}
        for moment in (NOW + n * DAY / 2 for n in range(-1, 15)):
            covering = [one for one in found if one.series_ticker == series and one.covers(moment)]
            assert len(covering) == (1 if any(begin <= moment for begin in begins) else 0)


# -- the sync, against a server that plays Kalshi


@asynccontextmanager
async def kalshi(series_changes: Any, event_changes: list[list[dict[str, Any]]] | None) -> AsyncIterator[str]:
    """`event_changes` in pages; None is a venue without that path."""

    async def by_series(request: web.Request) -> web.Response:
        assert request.query["show_historical"] == "true"
        return web.json_response(series_changes)

    async def by_event(request: web.Request) -> web.Response:
        page = int(request.query.get("cursor", "0"))
        more = str(page + 1) if page + 1 < len(event_changes or []) else ""
        return web.json_response({"event_fee_changes": (event_changes or [[]])[page], "cursor": more})

    app = web.Application()
    app.router.add_get("/series/fee_changes", by_series)
    if event_changes is not None:
        app.router.add_get("/events/fee_changes", by_event)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def record(
    source_id: str, at: datetime, multiplier: Any = 1, fee_type: Any = "quadratic", series: str = "KXBTC"
) -> Any:
    ts = at.isoformat().replace("+00:00", "Z")
    return {"id": source_id, "series_ticker": series, "fee_type": fee_type, "fee_multiplier": multiplier,
            "scheduled_ts": ts}  # fmt: skip


def override(source_id: str, event: str, at: datetime, fee_type: str | None, multiplier: Any) -> dict[str, Any]:
    return {"id": source_id, "event_ticker": event, "series_ticker": "KXBTC", "fee_type_override": fee_type,
            "fee_multiplier_override": multiplier, "scheduled_ts": at.isoformat()}  # fmt: skip


def clock_at(moment: datetime) -> Clock:
    return Clock(int(moment.timestamp()) * 1_000_000_000, rate=0)


async def sync(
    url: str, changes: Any, moment: datetime = NOW, events: list[list[dict[str, Any]]] | None = None
) -> SyncReport:
    document = {"series_fee_change_arr": changes} if isinstance(changes, list) else changes
    async with (
        kalshi(document, events) as base,
        RestClient.for_feed("kalshi", base) as rest,
        await SyncRun.begin(url, "kalshi/series_fees", "full", clock_at(moment)) as run,
    ):
        return await sync_series_fees(rest, run, "full")


def prepare(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT set_config('ssmd.now', %s, false)", ((NOW - 30 * DAY).isoformat(),))
        connection.execute(
            "INSERT INTO series (ticker, title, category, fee_type, fee_multiplier) VALUES "
            "('KXBTC', 'Bitcoin', 'Crypto', 'quadratic', 1), ('KXETH', 'Ether', 'Crypto', 'quadratic', 0.5), "
            "('KXODD', 'Odd', 'Crypto', 'cubic', 1), ('KXNIL', 'None', 'Crypto', NULL, NULL)"
        )
        connection.execute("INSERT INTO events (event_ticker, series_ticker, title) VALUES ('KXBTC-1', 'KXBTC', 'Up?')")


def stored(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        overlaps = connection.execute(
            "SELECT a.source_id, b.source_id FROM series_fees a JOIN series_fees b USING (series_ticker) "
            "WHERE a.source_id < b.source_id AND tstzrange(a.effective_from, a.effective_to) "
            "&& tstzrange(b.effective_from, b.effective_to)"
        ).fetchall()
        assert overlaps == []
        return connection.execute(
            "SELECT source_id, fee_multiplier, effective_from, effective_to FROM series_fees ORDER BY 1"
        ).fetchall()


def test_sync_computes_intervals_seeds_and_repeats_itself_without_a_change(database_url: str) -> None:
    prepare(database_url)
    # Newest first, the newest one ahead, as the venue lists them.
    changes = [record("c", NOW + DAY), record("b", NOW - DAY, 0.5), record("a", NOW - 3 * DAY, "2")]
    first = asyncio.run(sync(database_url, changes))
    expected = [
        ("a", D(2), NOW - 3 * DAY, NOW - DAY),
        ("b", D("0.5"), NOW - DAY, NOW + DAY),
        ("c", D(1), NOW + DAY, None),
        ("seed:KXETH", D("0.5"), SEED_FROM, None),
    ]
    assert stored(database_url) == expected
    assert [(one.key, one.reason) for one in first.rejects] == [("KXODD", "not seeded: fee_type 'cubic' is unknown")]
    assert first.warnings["series_fees: series without fee_type or fee_multiplier, not seeded"] == 1
    again = asyncio.run(sync(database_url, changes, NOW + timedelta(hours=1)))
    assert (again.touched, again.tables["series_fees"].unchanged) == (0, 4)
    # The venue lists less: what has begun is not lost, and what was still ahead is called off.
    less = asyncio.run(sync(database_url, [], NOW + timedelta(hours=2)))
    assert less.tables["series_fees"].changed == 2
    assert less.warnings[CALLED_OFF] == 1
    assert stored(database_url)[1:3] == [("b", D("0.5"), NOW - DAY, None), ("c", D(1), NOW + DAY, NOW + DAY)]
    # The one ahead is moved, another comes between, a third at the same moment: still no overlap.
    moved = [record("c", NOW + 2 * DAY), record("d", NOW - 2 * DAY, 0), record("e", NOW - DAY, 3)]
    asyncio.run(sync(database_url, moved, NOW + timedelta(hours=3)))
    assert [(row[0], row[3]) for row in stored(database_url)] == [
        ("a", NOW - 2 * DAY),
        ("b", NOW - DAY),
        ("c", None),
        ("d", NOW - DAY),
        ("e", NOW + 2 * DAY),
        ("seed:KXETH", None),
    ]
    # A series says something else, and nothing announced it: from now on, and the past stays.
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE series SET fee_multiplier = 0.25 WHERE ticker = 'KXETH'")
    asyncio.run(sync(database_url, moved, NOW + timedelta(hours=4)))
    since = NOW + timedelta(hours=4)
    assert [row for row in stored(database_url) if "KXETH" in row[0]] == [
        ("seed:KXETH", D("0.5"), SEED_FROM, since),
        (f"seen:KXETH:{since.isoformat()}", D("0.25"), since, None),
    ]
    assert asyncio.run(sync(database_url, moved, NOW + timedelta(hours=5))).touched == 0


def say(url: str, moment: datetime, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT set_config('ssmd.now', %s, false)", (moment.isoformat(),))
        connection.execute(statement.encode())


def test_what_was_called_off_never_comes_into_force(database_url: str) -> None:
    prepare(database_url)
    listed = [record("a", NOW - 3 * DAY), record("c", NOW + DAY, 0.5)]
    asyncio.run(sync(database_url, listed))
    assert asyncio.run(sync(database_url, listed[:1], NOW + timedelta(hours=1))).warnings[CALLED_OFF] == 1
    expected = [("a", D(1), NOW - 3 * DAY, None), ("c", D("0.5"), NOW + DAY, NOW + DAY)]
    for days in (2, 3):
        assert asyncio.run(sync(database_url, listed[:1], NOW + days * DAY)).touched == 0
        assert stored(database_url)[:2] == expected
    # Listed again, it counts again.
    asyncio.run(sync(database_url, listed, NOW + 4 * DAY))
    assert [row[3] for row in stored(database_url)[:2]] == [NOW + DAY, None]


def test_a_series_that_contradicts_what_was_announced_is_believed(database_url: str) -> None:
    prepare(database_url)
    listed = [record("a", NOW - 3 * DAY), record("c", NOW + DAY, 0.5)]
    asyncio.run(sync(database_url, listed))
    # Its day has come. The series was read before that, so it does not contradict.
    assert asyncio.run(sync(database_url, [], NOW + 2 * DAY)).touched == 0
    # Now it is read after, and still says what held before.
    ran = f"'{(NOW + 3 * DAY).isoformat()}'"
    say(
        database_url, NOW + 3 * DAY,
        f"INSERT INTO sync_runs (scope, mode, started_at, finished_at) VALUES ('kalshi/series', 'full', {ran}, {ran})",
    )  # fmt: skip
    since = NOW + 3 * DAY + timedelta(hours=1)
    report = asyncio.run(sync(database_url, [], since))
    assert report.warnings["series_fees: series with other terms than those in force, which end now"] == 1
    assert [row for row in stored(database_url) if row[0][-3:] != "ETH"] == [
        ("a", D(1), NOW - 3 * DAY, NOW + DAY),
        ("c", D("0.5"), NOW + DAY, since),
        (f"seen:KXBTC:{since.isoformat()}", D(1), since, None),
    ]
    again = asyncio.run(sync(database_url, [], since + DAY))
    assert (again.touched, [text for text in again.warnings if "other terms" in text]) == (0, [])


@pytest.mark.parametrize(
    ("broken", "ends"),
    [
        ({"fee_type": "new_kind"}, NOW - 2 * DAY),
        ({"fee_multiplier": "many", "scheduled_ts": (NOW - DAY).isoformat()}, NOW - DAY),
        ({"scheduled_ts": "soon"}, NOW - 2 * DAY),
    ],
)
def test_a_change_that_can_no_longer_be_read_holds_no_more(
    database_url: str, broken: dict[str, Any], ends: datetime
) -> None:
    prepare(database_url)
    before, c1 = record("a", NOW - 9 * DAY, 2), record("c1", NOW - 2 * DAY)
    asyncio.run(sync(database_url, [before, c1]))
    for hours in (1, 2):
        # Twice in one listing, once as before: the last one counts.
        report = asyncio.run(sync(database_url, [before, c1, {**c1, **broken}], NOW + timedelta(hours=hours)))
        assert (report.touched > 0) == (hours == 1)
        assert stored(database_url)[:2] == [
            ("a", D(2), NOW - 9 * DAY, ends),
            ("c1", D(1), NOW - 2 * DAY, NOW - 2 * DAY),
        ]

    async def check(connection: psycopg.AsyncConnection) -> None:
        with pytest.raises(fees.FeeUnknownError):
            await fees.terms_at(connection, "KXBTC", NOW)

    asyncio.run(connected(database_url, check))
    asyncio.run(sync(database_url, [before, c1], NOW + DAY))
    assert [row[3] for row in stored(database_url)[:2]] == [NOW - 2 * DAY, None]


def test_ids_of_ssmds_own_form_are_not_taken_from_the_venue(database_url: str) -> None:
    prepare(database_url)
    asyncio.run(sync(database_url, []))
    before = stored(database_url)
    listed = [record("seed:KXBTC", NOW - DAY, 3), record("seen:KXETH:x", NOW - DAY, 3, "cubic", "KXETH")]
    report = asyncio.run(sync(database_url, listed, NOW + DAY))
    assert (report.touched, stored(database_url)) == (0, before)
    assert [one.key for one in report.rejects] == ["seed:KXBTC", "seen:KXETH:x", "KXODD"]


def test_hostile_records_are_rejected_and_the_rest_is_taken(database_url: str) -> None:
    prepare(database_url)
    hostile = [
        None,
        "text",
        {},
        record("", NOW),
        record("x" * 200, NOW),
        record("nul\0", NOW),
        record("h1", NOW, "NaN", series="KXA"),
        record("h2", NOW, 100.5, series="KXB"),
        record("h8", NOW, 1e300, series="KXB"),
        record("h3", NOW, -1, series="KXC"),
        record("h4", NOW, fee_type="'; DROP TABLE series_fees; --", series="KXD"),
        record("h5", NOW, fee_type=["quadratic"], series="KXE"),
        {**record("h6", NOW), "scheduled_ts": "tomorrow"},
        {**record("h7", NOW), "scheduled_ts": "0001-01-01T00:00:00Z"},
        record("ok", NOW - 2 * DAY, series="KXD"),
    ]
    report = asyncio.run(sync(database_url, hostile))
    assert report.tables["series_fees"].rejected == 14 + 1  # and KXODD's seed
    reasons = {one.key: one.reason for one in report.rejects}
    assert "unknown" in reasons["h4"]
    assert "between 0 and 100" in reasons["h2"]
    # What KXD has from h4 on is not known, so it is not said.
    assert ("ok", D(1), NOW - 2 * DAY, NOW) in stored(database_url)
    with pytest.raises(RestError, match="no array 'series_fee_change_arr'"):
        asyncio.run(sync(database_url, {"series": []}))


def test_event_overrides(database_url: str) -> None:
    prepare(database_url)
    pages = [
        [override("o3", "KXBTC-1", NOW + DAY, None, None), override("o1", "KXBTC-1", NOW - 2 * DAY, "flat", 3)],
        [override("o2", "KXBTC-1", NOW - DAY, None, 0.5), override("o4", "KXGONE-1", NOW - DAY, None, 2),
         override("o5", "KXBTC-1", NOW, "cubic", 1)],
    ]  # fmt: skip
    report = asyncio.run(sync(database_url, [], NOW, pages))
    assert report.warnings["events: fee overrides of events that are not stored"] == 1
    assert [(one.table, one.key) for one in report.rejects if one.key != "KXODD"] == [("events", "o5")]
    assert report.tables["events"].changed == 1
    assert asyncio.run(sync(database_url, [], NOW + timedelta(hours=1), pages)).touched == 0
    # The override ends by the one that was ahead; before, it is still what it was.
    asyncio.run(sync(database_url, [], NOW + 2 * DAY, pages))

    async def check(connection: psycopg.AsyncConnection) -> list[D]:
        found = []
        for moment in (NOW - DAY, NOW + timedelta(hours=1), NOW + 3 * DAY):
            arguments = ("KXBTC", D("0.5"), D(100), "taker", moment)
            found.append(await fees.fee_at(connection, *arguments, event="KXBTC-1", quantum=CENT))
        assert (await fees.terms_at(connection, "KXBTC", NOW + DAY, "KXBTC-1")).overridden
        with pytest.raises(fees.FeeUnknownError, match="'KXBTC-1' was not known"):
            await fees.terms_at(connection, "KXBTC", NOW - 40 * DAY, "KXBTC-1")
        with pytest.raises(fees.FeeInputError, match="one of series 'KXBTC'"):
            await fees.terms_at(connection, "KXETH", NOW, "KXBTC-1")
        return found

    assert asyncio.run(connected(database_url, check)) == [D("1.75"), D("0.88"), D("1.75")]


def test_a_fee_as_it_was_known_then(database_url: str) -> None:
    prepare(database_url)
    asyncio.run(sync(database_url, [record("a", NOW - 10 * DAY)], NOW))
    # Learned late: the fee had been doubled two days before.
    asyncio.run(sync(database_url, [record("b", NOW - DAY, 2)], NOW + DAY))

    async def check(connection: psycopg.AsyncConnection) -> None:
        arguments = ("KXBTC", D("0.5"), D(100), "taker", NOW)
        assert await fees.fee_at(connection, *arguments) == D("3.5")
        assert await fees.fee_at(connection, *arguments, known_at=NOW + timedelta(hours=1)) == D("1.75")
        with pytest.raises(fees.UnknownSeriesError):
            await fees.fee_at(connection, *arguments, known_at=NOW - DAY)
        with pytest.raises(fees.UnknownSeriesError, match="'KXNO'"):
            await fees.fee_at(connection, "KXNO", D("0.5"), D(1), "taker", NOW)

    asyncio.run(connected(database_url, check))


async def connected(url: str, work: Callable[[psycopg.AsyncConnection], Coroutine[Any, Any, Any]]) -> Any:
    async with await connect(url, name="test") as connection:
        return await work(connection)
