"""The REST client against replay servers that fail on demand: what is tried again, how long it waits, what is final."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.feeds import get
from ssmd_stream.replay.rest_faults import RestFault, RestFaults
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.secmaster import rest
from ssmd_stream.secmaster.rest import (
    RestClient,
    RestError,
    RestFatalError,
    RestNotFoundError,
    Timing,
    batches,
    decode,
)

PATH = "/exchange/status"


class Time:
    """A clock that only sleeping moves."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []
        self.timing = Timing(lambda: self.now_s, self._sleep, lambda: chance, Clock(1_795_348_800 * NS_PER_S))

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(round(seconds, 3))
        self.now_s += seconds


def asked(faults: RestFaults, time: Time, requests: int = 1, path: str = PATH) -> list[Any]:
    """The answers to some requests of a Kalshi client, one after another."""

    async def run() -> list[Any]:
        async with (
            ReplayServer(get("kalshi"), Generated(markets=1), rest_faults=faults) as server,
            RestClient.for_feed("kalshi", server.rest_url, time.timing) as client,
        ):
            return [await client.get(path) for _ in range(requests)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    "fault",
    [
        RestFault("status", count=2, status=429),
        RestFault("status", count=2, status=408),
        RestFault("status", count=2, status=500),
        RestFault("status", count=2, status=503),
        RestFault("html", count=2),
        RestFault("error_inside", count=2),
        RestFault("truncate", count=2),
        RestFault("body", count=2),
    ],
    ids=lambda fault: f"{fault.kind}{fault.status if fault.kind == 'status' else ''}",
)
def test_what_may_pass_is_tried_again(fault: RestFault) -> None:
    faults, time = RestFaults(fault), Time()
    (answer,) = asked(faults, time)
    assert answer["exchange_active"] is True
    assert len(faults.requests) == 3
    assert time.waits == [1.0, 2.0]


def test_connections_that_break_are_tried_again() -> None:
    (answer,) = asked(RestFaults(RestFault("reset", count=2)), Time())
    assert answer["exchange_active"] is True


def test_waits_double_up_to_a_minute_give_or_take_a_quarter() -> None:
    for chance, factor in ((0.0, 0.75), (1.0, 1.25)):
        faults, time = RestFaults(RestFault("status", count=None)), Time(chance)
        with pytest.raises(RestError, match=r"GET /exchange/status: HTTP 503 .*\(6 attempts\)") as error:
            asked(faults, time)
        assert not isinstance(error.value, RestFatalError)
        assert time.waits == [wait * factor for wait in (1, 2, 4, 8, 16)]
        assert len(faults.requests) == rest.ATTEMPTS


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 451])
def test_other_statuses_are_final_at_once(status: int) -> None:
    faults, time = RestFaults(RestFault("status", status=status, body=b"not \x00 today")), Time()
    with pytest.raises(RestFatalError, match=rf"GET /exchange/status: HTTP {status} 'not \\x00 today'") as error:
        asked(faults, time)
    assert (error.value.status, isinstance(error.value, RestNotFoundError)) == (status, status == 404)
    assert (len(faults.requests), time.waits) == (1, [])


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("3600", 60.0),
        ("9" * 400, 60.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),  # the clock shows 12:00:00
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("soon", 1.0),
        ("-5", 1.0),
        ("1.5", 1.0),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", 1.0),
        ("Sun, 22 Nov 2026 12:00:30 +99999999999999", 1.0),
    ],
)
def test_retry_after_is_honoured_up_to_a_minute(retry_after: str, wait_s: float) -> None:
    time = Time()
    asked(RestFaults(RestFault("status", status=429, retry_after=retry_after)), time)
    assert time.waits[0] == pytest.approx(wait_s, abs=0.5)


def test_every_attempt_waits_for_its_place_in_the_pace() -> None:
    faults, time = RestFaults(RestFault("status", at=1, count=3, status=503, retry_after="0")), Time()
    asked(faults, time, requests=3)
    # Six attempts, five pauses of 1/20 s; the venue's own waits of 0 s stand between them.
    assert [wait for wait in time.waits if wait] == [0.05] * 5


def test_pace_stays_below_the_venues_limit() -> None:
    faults = RestFaults(rate_per_s=22)

    async def run() -> None:
        async with (
            ReplayServer(get("kalshi"), Generated(markets=1), rest_faults=faults) as server,
            RestClient.for_feed("kalshi", server.rest_url) as client,
        ):
            await asyncio.gather(*(client.get(PATH) for _ in range(30)))

    asyncio.run(run())
    assert (len(faults.requests), faults.limited) == (30, 0)


def test_paces_go_by_path() -> None:
    time = Time()
    client = RestClient.for_feed("polymarket", "http://127.0.0.1:1", time.timing)
    for path, per_s in (("/events", 50), ("/markets/keyset", 30), ("/anything", 30)):
        pace = next(pace for start, pace in client._paces if path.startswith(start))
        asyncio.run(pace.wait())
        asyncio.run(pace.wait())
        assert time.waits.pop() == round(1 / per_s, 3)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=128), max_size=60))
def test_values_of_a_query_are_split_by_number_and_by_length(values: list[str]) -> None:
    found = list(batches(values, 25, 3))
    assert [value for batch in found for value in batch] == values
    assert all(0 < len(batch) <= 25 for batch in found)
    assert all(len(quote(",".join(batch), safe="")) <= rest.MAX_VALUES_CHARS for batch in found)
    assert len(found) <= 1 + sum(len(quote(value, safe="")) + 3 for value in values) // 2_000 + len(values) // 25


def test_slow_answers_and_closed_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "READ_TIMEOUT_S", 0.1)
    faults = RestFaults(RestFault("slow", count=2, delay_s=0.5))
    asked(faults, Time())
    assert len(faults.requests) == 3

    async def refused() -> None:
        time = Time()
        async with RestClient.for_feed("kalshi", "http://127.0.0.1:1", time.timing) as client:
            with pytest.raises(RestError, match="Connect call failed"):
                await client.get(PATH)
            assert (client.requests, len(time.waits)) == (6, 5)

    asyncio.run(refused())


def served(body: bytes, headers: dict[str, str], test: Callable[[str], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        app = web.Application()
        app.router.add_get("/x", _always(body, headers))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await test(f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()

    asyncio.run(run())


def _always(body: bytes, headers: dict[str, str]) -> Callable[[web.Request], Coroutine[None, None, web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        del request
        return web.Response(body=body, headers=headers)

    return answer


@pytest.mark.parametrize("packed", [False, True])
def test_too_large_bodies_are_final(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(rest, "MAX_BODY_BYTES", 1024 * 1024)
    body = b'["' + b"x" * 16 * 1024 * 1024 + b'"]'
    headers = {"Content-Encoding": "gzip"} if packed else {}

    async def test(url: str) -> None:
        async with RestClient.for_feed("kalshi", url, Time().timing) as client:
            with pytest.raises(RestFatalError, match="body above 1048576 bytes"):
                await client.get("/x")
            assert client.requests == 1

    served(gzip.compress(body) if packed else body, headers, test)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_an_error(opening: bytes) -> None:
    async def test(url: str) -> None:
        async with RestClient.for_feed("kalshi", url, Time().timing) as client:
            with pytest.raises(RestError, match="nested too deep"):
                await client.get("/x")

    served(opening * 100_000, {}, test)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"0.10", "Decimal('0.10')"),
        (b"1234567890123456789.12345678901234567890", "Decimal('1234567890123456789.12345678901234567890')"),
        (b"1e400", "Decimal('1E+400')"),
        (b"1e99999999999999999999", "Decimal('Infinity')"),
        (b"[NaN, -Infinity, 1]", "[None, None, 1]"),
        (b'"\\ud800"', "'\\ud800'"),
        (b'"\xff"', "'\ufffd'"),
        (b"9" * 5_000, "Decimal('NaN')"),
    ],
)  # fmt: skip
def test_numbers_are_exact_and_odd_json_is_read(body: bytes, value: str) -> None:
    assert repr(decode(body)) == value


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1", b"nan-sense"])
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(body)


def test_decimals_keep_their_digits_through_a_request() -> None:
    fault = RestFault("body", body=b'{"price": 0.1000, "count": 3}')
    assert asked(RestFaults(fault), Time()) == [{"price": Decimal("0.1000"), "count": 3}]
