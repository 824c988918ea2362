"""`ssmd secmaster`, `ssmd fees`, `ssmd db`: as people and programs use them, on a real database."""

from __future__ import annotations

import asyncio
import json
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from ssmd_api.cli.main import app
from ssmd_core.db.connect import check_url, sqlalchemy_url
from ssmd_core.db.merge import SyncReport, SyncRun
from ssmd_core.errors import ConfigError
from ssmd_stream.secmaster import sync
from ssmd_stream.secmaster.rest import RestClient
from ssmd_stream.servers.postgres import PostgresServer

NOW = "2026-11-22T11:00:00Z"
EVIL = "[red]Up?[/red]\x1b[31m\u202e <script>"


@pytest.fixture
def ssmd(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`ssmd("fees", "list")` on a filled database, at eleven."""
    fill(database_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SSMD_CLOCK", f"{NOW}@0")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, code: int = 0) -> Result:
        answer = CliRunner().invoke(app, list(arguments))
        assert answer.exit_code == code, answer.output + repr(answer.exception)
        return answer

    return call


def fill(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:

        def at(moment: str, statement: str, *values: object) -> None:
            connection.execute("SELECT set_config('ssmd.now', %s, false)", (moment,))
            connection.execute(statement.encode(), values)

        at(
            "2026-11-17T10:00Z",
            "INSERT INTO series (ticker, title, category, fee_type, fee_multiplier) VALUES "
            "('KXBTC', 'Bitcoin', 'Crypto', 'quadratic', 1), ('KXFED', 'Fed', 'Economics', 'flat', 1)",
        )
        at(
            "2026-11-17T10:00Z",
            "INSERT INTO series_fees (source_id, series_ticker, fee_type, fee_multiplier, effective_from, "
            "effective_to) VALUES ('seed:KXBTC', 'KXBTC', 'quadratic', 1, '2020-01-01Z', '2026-11-20Z'), "
            "('f1', 'KXBTC', 'quadratic', 0.5, '2026-11-20Z', NULL), "
            "('seed:KXFED', 'KXFED', 'flat', 1, '2020-01-01Z', NULL)",
        )
        at(
            "2026-11-17T10:00Z",
            "INSERT INTO events (event_ticker, series_ticker, title, category) VALUES "
            "('KXBTC-1', 'KXBTC', 'Bitcoin today', 'Crypto'), ('KXFED-1', 'KXFED', 'Rates', 'Economics')",
        )
        for number in range(5):
            at(
                f"2026-11-17T11:0{number}Z",
                "INSERT INTO markets (ticker, event_ticker, title, status, close_time, floor_strike, yes_bid) "
                "VALUES (%s, 'KXBTC-1', %s, 'active', %s, 90000, 0.4300)",
                f"KXBTC-1-{number}", EVIL, f"2026-11-22T1{number}:30Z",
            )  # fmt: skip
        at(
            "2026-11-17T12:00Z",
            "INSERT INTO markets (ticker, event_ticker, title, status) "
            "VALUES ('KXFED-1-X', 'KXFED-1', 'Cut?', 'active')",
        )
        at("2026-11-19T12:00Z", "UPDATE markets SET status = 'settled', yes_bid = NULL WHERE ticker = 'KXBTC-1-0'")
        at("2026-11-19T12:00Z", "UPDATE events SET fee_multiplier_override = 2 WHERE event_ticker = 'KXBTC-1'")
        at("2026-11-20T12:00Z", "DELETE FROM markets WHERE ticker = 'KXFED-1-X'")
        at(
            "2026-11-20T12:00Z",
            "INSERT INTO pairs (pair_id, exchange, native_id, base, quote, base_raw, quote_raw, ws_name, symbol, "
            "market_type, status) VALUES ('kraken:XXBTZUSD', 'kraken', 'XXBTZUSD', 'BTC', 'USD', 'XXBT', 'ZUSD', "
            "'XBT/USD', 'BTC/USD', 'spot', 'active')",
        )
        at(
            "2026-11-20T12:00Z",
            "INSERT INTO polymarket_conditions (condition_id, question, status, category, tags, end_date) VALUES "
            "('0xc', 'Up?', 'active', 'Crypto', '{crypto,up-or-down}', '2026-11-22T12:00Z')",
        )


def rows(answer: Result, *names: str) -> list[Any]:
    found = json.loads(answer.stdout)["rows"]
    return [row[names[0]] if len(names) == 1 else tuple(row[name] for name in names) for row in found]


def test_lists_and_filters(ssmd: Any) -> None:
    def listed(*arguments: str) -> list[Any]:
        what = arguments[0]
        key = {"events": "event_ticker", "pairs": "pair_id", "conditions": "condition_id"}.get(what, "ticker")
        return rows(ssmd("secmaster", "list", *arguments, "--json"), key)

    newest_first = [f"KXBTC-1-{number}" for number in (0, 4, 3, 2, 1)]
    assert listed("markets") == newest_first
    assert listed("markets", "--status", "settled") == ["KXBTC-1-0"]
    assert listed("markets", "--series", "KXBTC", "--category", "crypto") == newest_first
    assert listed("markets", "--category", "Economics") == []
    assert listed("markets", "--event", "KXFED-1") == []
    assert listed("markets", "--closing-within", "90m") == ["KXBTC-1-1"]  # 11:30; 10:30 is past, 12:30 is strictly out
    assert listed("markets", "--closing-before", "2026-11-22T11:30Z") == ["KXBTC-1-0"]
    assert listed("markets", "--closing-after", "2026-11-22 13:30") == ["KXBTC-1-4"]
    assert listed("series", "--category", "CRYPTO") == ["KXBTC"]
    assert rows(ssmd("secmaster", "list", "events", "--json"), "event_ticker", "market_count") == [
        ("KXBTC-1", 5),
        ("KXFED-1", 0),
    ]
    assert listed("pairs", "--base", "btc", "--market-type", "spot") == ["kraken:XXBTZUSD"]
    assert listed("conditions", "--category", "Up-Or-Down", "--closing-within", "2h") == ["0xc"]
    assert listed("conditions", "--category", "sports") == []
    # Then: the settled one was active, the deleted one was there, two were not yet.
    then = ("--as-of", "2026-11-17T11:02:30Z")
    assert listed("markets", *then, "--status", "active") == ["KXBTC-1-2", "KXBTC-1-1", "KXBTC-1-0"]
    assert listed("markets", "--as-of", "2026-11-17T14:00Z", "--category", "economics") == ["KXFED-1-X"]
    assert listed("conditions", "--as-of", "2026-11-21", "--category", "crypto") == ["0xc"]


def test_nothing_is_cut_without_a_word_and_strangers_text_is_only_text(ssmd: Any) -> None:
    answer = ssmd("secmaster", "list", "markets", "--limit", "2", "--json")
    assert (json.loads(answer.stdout)["more"], rows(answer, "yes_bid")) == (True, [None, "0.4300"])
    answer = ssmd("secmaster", "list", "markets", "--limit", "2")
    assert "there are more" in answer.stderr
    assert "[red]Up?[/red]\ufffd[31m\ufffd <script>" in answer.stdout
    assert "\x1b[31m" not in answer.stdout
    assert "there are more" not in ssmd("secmaster", "list", "markets", "--limit", "5").stderr


BAD_INPUT = [
    ("secmaster list markets --limit 0", 2, "limit 0"),
    ("secmaster list markets --limit 10001", 2, "limit 10001"),
    ("secmaster list pairs --series KXBTC", 2, "cannot be listed by series"),
    ("secmaster list markets --as-of yesterday", 2, "--as-of 'yesterday'"),
    ("secmaster list markets --closing-within soon", 2, "--closing-within 'soon'"),
    ("secmaster list keys", 2, "keys"),
    ("secmaster show KXNO", 1, "nothing is known as 'KXNO'"),
    ("secmaster show KXBTC-1-1 --as-of 2026-11-01", 1, "at 2026-11-01"),
    ("secmaster show KXBTC-1-1 --as-of 2026-11-01 --history", 2, "choose"),
    ("secmaster sync kalshi/nothing", 2, "no sync 'kalshi/nothing'"),
    ("secmaster sync --rest-url http://127.0.0.1:9", 2, "--rest-url is one venue's"),
    ("secmaster sync kraken/pairs --mode incremental", 2, "no mode 'incremental'"),
    ("fees show KXNO", 1, "no fees of series 'KXNO'"),
    ("fees calc KXBTC --price 1 --contracts 10", 2, "price 1 is not between 0 and 1"),
    ("fees calc KXBTC --price half --contracts 10", 2, "--price 'half'"),
    ("fees calc KXBTC --price 0.5 --contracts 0.123", 2, "more than 2 decimals"),
    ("fees calc KXFED --price 0.5 --contracts 10", 1, "flat fees"),
    *(
        (
            f"fees calc KXFED --price 0.5 --contracts 10 --flat-dollars={dollars}",
            2,
            f"flat_dollars {said} is not between",
        )
        for dollars, said in {
            "NaN": "NaN",
            "sNaN": "sNaN",
            "-1": "-1",
            "Infinity": "Infinity",
            "1e400": "1E+400",
        }.items()
    ),
    ("secmaster list markets --as-of 9999-12-30 --closing-within 9999d", 2, "9999 days from 9999-12-30"),
    ("secmaster show \udcff", 2, "id '\\udcff'"),
    ("secmaster show \udcff --history", 2, "id '\\udcff'"),
    *(
        (f"secmaster list {what} --{name} \udcff", 2, f"{name.replace('-', '_')} '\\udcff'")
        for what, names in {
            "markets": ("category", "status", "series", "event"),
            "pairs": ("exchange", "market-type", "base", "quote"),
        }.items()
        for name in names
    ),
    ("secmaster list markets --as-of \udcff", 2, "--as-of '\\udcff'"),
    ("secmaster open --series \udcff", 2, "series '\\udcff'"),
    ("secmaster open --category \udcff", 2, "category '\\udcff'"),
    ("secmaster runs \udcff", 2, "scope '\\udcff'"),
    ("secmaster sync \udcff", 2, "no sync '\\udcff'"),
    ("fees show \udcff", 2, "series '\\udcff'"),
    ("fees calc \udcff --price 0.5 --contracts 1", 2, "series '\\udcff'"),
    ("fees calc KXBTC --event \udcff --price 0.5 --contracts 1", 2, "event '\\udcff'"),
    ("db upgrade \udcff", 2, "no revision '\\udcff'"),
    ("fees calc KXBTC --price 0.5 --contracts 10 --as-of 2019-12-31", 1, "known from 2020-01-01"),
    ("db upgrade 0001", 2, "is older than"),
    ("db upgrade 9999", 2, "no revision '9999'"),
]


def test_bad_input_gets_one_clear_line(ssmd: Any) -> None:
    for arguments, code, said in BAD_INPUT:
        answer = ssmd(*arguments.split(), code=code)
        assert said in answer.stderr
        assert "Traceback" not in answer.output


def test_show_one_then_and_through_time(ssmd: Any) -> None:
    shown = json.loads(ssmd("secmaster", "show", "KXBTC-1-0", "--json").stdout)
    assert shown["markets"]["status"] == "settled"
    then = json.loads(ssmd("secmaster", "show", "KXBTC-1-0", "--as-of", "2026-11-18", "--json").stdout)
    assert (then["markets"]["status"], then["markets"]["yes_bid"]) == ("active", "0.4300")
    assert "floor_strike  90000" in ssmd("secmaster", "show", "KXBTC-1-0").stdout.replace("   ", " ").replace(
        "   ", " "
    )
    story = ssmd("secmaster", "show", "KXBTC-1-0", "--history").stdout
    assert "first known" in story
    assert "status: active → settled; yes_bid: 0.4300 →" in story
    # Also of what is no more.
    versions = json.loads(ssmd("secmaster", "show", "KXFED-1-X", "--history", "--json").stdout)["markets"]
    assert [(one["known_from"], one["known_to"], one["deleted_at"]) for one in versions] == [
        ("2026-11-17T12:00:00+00:00", "2026-11-20T12:00:00+00:00", None),
        ("2026-11-20T12:00:00+00:00", None, "2026-11-20T12:00:00+00:00"),
    ]
    for key, table in (("KXBTC", "series"), ("kraken:XXBTZUSD", "pairs"), ("0xc", "polymarket_conditions")):
        assert table in json.loads(ssmd("secmaster", "show", key, "--json").stdout)


def test_open_markets_with_strikes_and_fees(ssmd: Any) -> None:
    names = ("ticker", "floor_strike", "fee_multiplier")
    then = ssmd("secmaster", "open", "--as-of", "2026-11-18T14:00Z", "--series", "KXBTC", "--json")
    assert sorted(rows(then, *names)) == [(f"KXBTC-1-{n}", "90000", "1") for n in range(5)]
    now = ssmd("secmaster", "open", "--category", "crypto", "--json")
    assert sorted(rows(now, *names)) == [(f"KXBTC-1-{n}", "90000", "2") for n in range(1, 5)]
    assert "there are more" in ssmd("secmaster", "open", "--limit", "3").stderr
    assert "there are more" not in ssmd("secmaster", "open", "--limit", "4").stderr


def test_stats(ssmd: Any) -> None:
    counted = json.loads(ssmd("secmaster", "stats", "--json").stdout)
    assert counted["markets"] == {"total": 5, "by_status": {"active": 4, "settled": 1}}
    assert counted["events"]["by_category"] == {"Crypto": 1, "Economics": 1}
    assert counted["pairs"]["by_exchange"] == {"kraken": 1}
    assert counted["polymarket_conditions"]["by_tag"] == {"crypto": 1, "up-or-down": 1}
    assert counted["series_fees"] == {"total": 3, "active": 2, "future": 0}
    assert "active 4, settled 1" in ssmd("secmaster", "stats").stdout


def test_fees(ssmd: Any) -> None:
    in_force = ssmd("fees", "list", "--json")
    assert rows(in_force, "series_ticker", "fee_multiplier") == [("KXBTC", "0.5"), ("KXFED", "1")]
    earlier = ssmd("fees", "list", "--as-of", "2026-11-18", "--json")
    assert rows(earlier, "source_id") == ["seed:KXBTC", "seed:KXFED"]
    shown = json.loads(ssmd("fees", "show", "KXBTC", "--as-of", "2026-11-18", "--json").stdout)
    assert [(one["source_id"], one["in_force"]) for one in shown] == [("seed:KXBTC", True), ("f1", False)]
    assert "2026-11-20 00:00:00" in ssmd("fees", "show", "KXBTC").stdout

    def calc(*more: str) -> dict[str, Any]:
        answer = ssmd("fees", "calc", "KXBTC", "--price", "0.50", "--contracts", "100", "--json", *more)
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    now = calc()
    # 0.07 × 0.5 × 100 × 0.25 = 0.875
    assert (now["model_fee_dollars"], now["fee_dollars"]) == ("0.875", "0.875000")
    assert now["fee_dollars_by_rounding"] == {"cent": "0.88", "centicent": "0.8750", "microdollar": "0.875000"}
    assert calc("--as-of", "2026-11-18", "--rounding", "cent")["fee_dollars"] == "1.75"
    assert calc("--event", "KXBTC-1", "--rounding", "cent")["fee_dollars"] == "3.50"  # its override is 2
    assert calc("--event", "KXBTC-1", "--as-of", "2026-11-18", "--rounding", "cent")["fee_dollars"] == "1.75"
    assert calc("--role", "maker", "--rounding", "cent")["fee_dollars"] == "0.00"
    flat = ("fees", "calc", "KXFED", "--price", "0.5", "--contracts", "10", "--flat-dollars", "0.005")
    assert ssmd(*flat).stdout.startswith("$0.050000  (flat × 1 of series KXFED, exactly $0.05)")


def test_sync_reports_what_it_did_and_runs_keep_it(ssmd: Any, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM series_fees")
    with kalshi() as url:
        answer = ssmd("secmaster", "sync", "kalshi/series_fees", "--rest-url", url, "--json")
        [run] = json.loads(answer.stdout)["runs"]
        assert run["tables"]["series_fees"]["inserted"] == 2
        again = ssmd("secmaster", "sync", "kalshi/series_fees", "--rest-url", url)
        assert "2 fetched, 2 unchanged, 1 rejected" in again.stdout
        assert "rejected series_fees h: fee_type 'cubic' is unknown" in again.stderr
        failed = ssmd("secmaster", "sync", "kalshi", "--rest-url", url, "--json", code=1)
        told = json.loads(failed.stdout)["failed"]
        assert "404" in told["kalshi/series"]
        assert told["kalshi/series_fees"] == "not run, because kalshi/series failed"
    kept = json.loads(ssmd("secmaster", "runs", "kalshi/series_fees", "--json").stdout)
    assert [one["report"]["tables"]["series_fees"]["unchanged"] for one in kept] == [2, 0]
    assert "kalshi/series_fees" in ssmd("secmaster", "runs").stdout


def test_one_sync_that_breaks_does_not_stop_the_others(ssmd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(rest: RestClient, run: SyncRun, mode: sync.Mode) -> SyncReport:
        raise ZeroDivisionError("of one sync")

    known = sync.tasks()
    chosen = [sync.SyncTask("kalshi", "broken", ("series",), broken), known["kalshi/series_fees"]]
    monkeypatch.setattr(sync, "tasks", lambda: {task.scope: task for task in chosen})
    with kalshi() as url:
        answer = ssmd("secmaster", "sync", "--rest-url", url, "--json", code=1)
    told = json.loads(answer.stdout)
    assert told["failed"] == {"kalshi/broken": "ZeroDivisionError: of one sync"}
    assert [run["scope"] for run in told["runs"]] == ["kalshi/series_fees"]
    [logged] = [json.loads(line) for line in answer.stderr.splitlines() if '"sync_failed"' in line]
    assert (logged["level"], logged["scope"]) == ("error", "kalshi/broken")
    assert 'raise ZeroDivisionError("of one sync")' in logged["exception"]


class kalshi:
    """A venue with one announced change of fees and one that nobody understands; everything else is 404."""

    def __enter__(self) -> str:
        change = {"id": "c", "series_ticker": "KXBTC", "fee_type": "quadratic", "fee_multiplier": 1,
                  "scheduled_ts": "2026-07-03T17:00:00Z"}  # fmt: skip
        answer = {"series_fee_change_arr": [change, {**change, "id": "h", "fee_type": "cubic", "series_ticker": "KXH"}]}

        async def changes(request: web.Request) -> web.Response:
            return web.json_response(answer)

        web_app = web.Application()
        web_app.router.add_get("/series/fee_changes", changes)
        self._loop, self._runner = asyncio.new_event_loop(), web.AppRunner(web_app)
        self._loop.run_until_complete(self._runner.setup())
        self._loop.run_until_complete(web.TCPSite(self._runner, "127.0.0.1", 0).start())
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()


def test_a_database_url_stays_what_libpq_makes_of_it() -> None:
    assert check_url("postgres:///db?host=/run/postgresql") == "postgresql:///db?host=/run/postgresql"
    assert check_url("postgresql+psycopg://h1:1,h2/db") == "postgresql://h1:1,h2/db"
    assert sqlalchemy_url("POSTGRES://u:p%40@[::1]:5432/db") == "postgresql+psycopg://u:p%40@[::1]:5432/db"
    for url in ("postgresql://u:sesame@h1:1,h2:2/db", "postgresql://u:sesame@h:99999/db"):
        with pytest.raises(ConfigError, match="DATABASE_URL") as caught:
            sqlalchemy_url(url)
        assert "sesame" not in "".join(traceback.format_exception(caught.value))


def test_db(ssmd: Any, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ssmd("db", "revision").stdout.strip().isdigit()
    assert ssmd("db", "upgrade").stdout.startswith("at ")
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE cli_empty")
        try:
            monkeypatch.setenv("DATABASE_URL", postgres_server.url_of("cli_empty"))
            assert "newest is" in ssmd("db", "revision", code=1).stdout
            assert "`ssmd db upgrade` makes what is missing" in ssmd("secmaster", "stats", code=1).stderr
            assert ssmd("db", "upgrade", "0002").stdout.strip() == "from nothing to 0002"
            assert ssmd("db", "upgrade").stdout.startswith("from 0002 to ")
        finally:
            admin.execute("DROP DATABASE cli_empty WITH (FORCE)")
    for url in (
        "postgresql://someone:sesame@[::1",
        "postgresql://someone:sesame@127.0.0.1:notaport/db",
        "postgresql://someone:sesame@127.0.0.1:0/db",
        "postgresql://someone:ses/ame@127.0.0.1/db",
        "postgresql:someone:sesame",
        "postgresql://someone:open@sesame@127.0.0.1/db",
        "postgresql://someone:sesame@127.0.0.1/db?port=x",
        "postgresql://someone:sesame@127.0.0.1/%zz",
    ):
        monkeypatch.setenv("DATABASE_URL", url)
        for command in ("db revision", "db upgrade", "secmaster stats"):
            answer = ssmd(*command.split(), code=2)
            assert answer.stderr.startswith("ssmd: DATABASE_URL ")
            assert "Traceback" not in answer.output
            assert "ses" not in answer.stderr.replace("ssmd: DATABASE_URL ", "").replace("user:password@", "")
    monkeypatch.setenv("DATABASE_URL", "")
    assert "DATABASE_URL is not set" in ssmd("secmaster", "stats", code=2).stderr
