"""What stands behind an hour, over REST and GraphQL: words, ledgers, intervals, books, lists."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from api_rig import ApiRig
from installation import CLOCK, Installation
from little_archive import TRADE, LittleArchive
from proof_rig import BROKEN, COMPLETE, DEGRADED, EMPTY, NOT_PROVED, WHOLE, proved
from typer.testing import CliRunner

from ssmd_api.auth.access import Scope
from ssmd_api.cli.main import app
from ssmd_api.errors import UnavailableError
from ssmd_api.proof import hours
from ssmd_core.feeds import FEEDS, get
from ssmd_core.proof.hour import prove_hour
from ssmd_core.proof.ledger import FILES, proof_file
from ssmd_core.settings import Settings

DAY = "2026-11-19"
HOUR = {"feed": "kraken", "date": DAY}


@pytest.fixture(scope="module")
def rig(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRig]:
    """One for all tests that change nothing."""
    with proved(installation, tmp_path_factory.mktemp("proof"), "proof") as found:
        yield found


@pytest.fixture(scope="module")
def key(rig: ApiRig) -> str:
    return rig.key(*Scope)


@pytest.fixture
def own(installation: Installation, tmp_path: Path) -> Iterator[ApiRig]:
    """One that a test may damage."""
    with proved(installation, tmp_path, "damaged") as found:
        yield found


def words(rig: ApiRig, key: str, day: str = DAY) -> dict[str, str | None]:
    """Of the hours of kraken that are not missing, as the calendar shows them."""
    found = rig.json("/v1/data/coverage", key, feed="kraken", **{"from": day, "to": day})
    day_hours = found["feeds"][0]["streams"][0]["days"][0]["hours"]
    return {hour["hour"]: hour["word"] for hour in day_hours if hour["word"] != "missing"}


def test_every_hour_has_one_word_or_none(rig: ApiRig, key: str) -> None:
    assert words(rig, key) == {"0800": "complete", "0900": "empty", "1100": "degraded", "1200": None}
    # 13:20: three slots of 12:00 are archived and not proved, 13:00 is not over.
    today = words(rig, key, "2026-11-20")
    assert today == {"1100": "degraded"} | {f"{hour}00": None for hour in range(12, 24)}


def test_answers_are_complete_only_by_ledgers(rig: ApiRig, key: str) -> None:
    def basis(hour: str | None) -> tuple[bool | None, list[str]]:
        more = {"hour": hour} if hour else {}
        found = rig.json("/v1/data/trades", key, **HOUR, **more)
        return found["complete"], found["degradedHours"]

    assert basis("0800") == (True, [])
    assert basis("0900") == (True, [])
    assert basis("1100") == (False, ["1100"])
    assert basis("1200") == (None, [])
    assert basis(None) == (False, ["1100"])
    day = rig.json("/v1/data/day", key, **HOUR)
    assert day["complete"] is False and day["contents"][0]["hours"][8]["word"] == "complete"


def test_hours_are_listed_page_by_page(rig: ApiRig, key: str) -> None:
    asked = {"feed": "kraken", "from": DAY, "to": DAY}
    whole = rig.json("/v1/proof/hours", key, **asked)
    assert [(hour["hour"][11:13], hour["word"]) for hour in whole["hours"]] == [
        ("11", "degraded"), ("09", "empty"), ("08", "complete"),
    ]  # fmt: skip
    first = rig.json("/v1/proof/hours", key, limit=2, **asked)
    rest = rig.json("/v1/proof/hours", key, limit=2, cursor=first["nextCursor"], **asked)
    assert first["hours"] + rest["hours"] == whole["hours"] and rest["nextCursor"] is None
    assert [hour["hour"] for hour in rig.json("/v1/proof/hours", key, word="empty")["hours"]] == [
        "2026-11-19T09:00:00.000Z"
    ]
    for wrong in ({"word": "missing"}, {"cursor": first["nextCursor"]}, {"limit": 1001}, {"feed": "nasdaq"}):
        assert rig.get("/v1/proof/hours", key, **wrong).status_code == 400, wrong


def test_a_ledger_with_its_place_in_the_chain_and_its_files(rig: ApiRig, key: str) -> None:
    found = rig.json("/v1/proof/ledger", key, hour="1100", **HOUR)
    assert found["word"] == found["ledger"]["word"] == found["chain"]["word"] == "degraded"
    assert {"untrusted", "checks_failed"} <= {reason["code"] for reason in found["ledger"]["reasons"]}
    for kind in ("ledger", "coverage", "integrity", "untrusted", "shapes"):
        answer = rig.get("/v1/proof/file", key, hour="1100", kind=kind, **HOUR)
        name = f"proof/kraken/spot/{DAY}/{kind}_1100{FILES[kind]}"
        digest = found["chain"]["ledger"] if kind == "ledger" else found["ledger"]["outputs"][name]
        assert hashlib.sha256(answer.content).hexdigest() == digest
        assert f"kraken_spot_2026-11-19T11_{kind}" in answer.headers["content-disposition"]
    assert rig.sql("SELECT count(*) FROM data_access_log WHERE route = '/v1/proof/file' AND feed = 'kraken'") == [(5,)]
    minutes = rig.json("/v1/proof/minutes", key, hour="0800", limit=1000, **HOUR)["minutes"]
    of_connection = [minute for minute in minutes if minute["connection"] == "c0"]
    assert len(of_connection) == 60 and sum(minute["messages"] for minute in of_connection) == 361
    assert of_connection[0]["byType"]["trade"]["messages"] == 6 and of_connection[0]["openS"] == "60.00"


def test_intervals_and_verdicts(rig: ApiRig, key: str) -> None:
    (interval,) = rig.json("/v1/proof/untrusted", key, feed="kraken", instrument=BROKEN)["intervals"]
    assert (interval["reason"], interval["endedAt"], interval["startedAt"][:16]) == ("checksum", None, f"{DAY}T11:15")
    assert rig.json("/v1/proof/untrusted", key, feed="kraken", instrument=WHOLE)["intervals"] == []
    rows = rig.json("/v1/proof/integrity", key, hour="1100", instrument=BROKEN, **HOUR)["rows"]
    book = [(row["from"][11:16], row["verdict"], row["reason"]) for row in rows if row["check"] == "book"]
    assert book == [("11:00", "verified", None), ("11:15", "broken", "checksum")]
    table = pq.read_table(io.BytesIO(rig.get("/v1/proof/file", key, hour="1100", kind="integrity", **HOUR).content))
    assert len(rows) == table["instrument"].to_pylist().count(BROKEN)
    assert rig.json("/v1/proof/integrity", key, hour="1100", instrument="no'; DROP", **HOUR)["rows"] == []


def test_books_are_given_where_they_can_be_trusted(rig: ApiRig, key: str) -> None:
    def ask(at: str, instrument: str = BROKEN, **more: Any) -> tuple[int, dict[str, Any]]:
        answer = rig.get("/v1/proof/book", key, feed="kraken", instrument=instrument, at=f"{DAY}T{at}", **more)
        return answer.status_code, answer.json()

    status, book = ask("11:10Z")
    assert status == 200 and book["doubts"] == [] and len(book["bids"]) == len(book["asks"]) == 10
    prices = [[float(level["price"]) for level in book[side]] for side in ("bids", "asks")]
    assert prices == [sorted(prices[0], reverse=True), sorted(prices[1])] and prices[0][0] < prices[1][0]
    assert ask("12:10+01:00")[1] | {"at": ""} == book | {"at": ""}
    status, refused = ask("11:50Z")
    assert (status, refused["code"]) == (409, "conflict") and "checksum" in refused["error"]
    status, book = ask("11:50Z", untrusted="true")
    assert status == 200 and [doubt["reason"] for doubt in book["doubts"]] == ["checksum"]
    assert ask("11:50Z", WHOLE)[0] == 200
    status, refused = ask("12:50Z", WHOLE)
    assert status == 409 and "not_proved" in refused["error"]
    for at, instrument in (("08:30Z", BROKEN), ("11:50Z", "NO/SUCH"), ("10:30Z", BROKEN)):
        assert ask(at, instrument)[0] == 404, at
    for wrong in ({"instrument": "a\nb"}, {"instrument": "x" * 257}, {"stream": "../.."}, {"untrusted": "yes"}):
        assert ask("11:50Z", **{"instrument": BROKEN} | wrong)[0] == 400, wrong
    assert (COMPLETE.hour, EMPTY.hour, DEGRADED.hour, NOT_PROVED.hour) == (8, 9, 11, 12)


def test_what_is_not_there_is_404_and_nonsense_400(rig: ApiRig, key: str) -> None:
    for path in ("ledger", "file", "integrity"):
        more = {"instrument": BROKEN} if path == "integrity" else {}
        assert rig.get(f"/v1/proof/{path}", key, hour="1200", **HOUR, **more).status_code == 404
        assert rig.get(f"/v1/proof/{path}", key, hour="0800", stream="other", **HOUR, **more).status_code == 404
        for wrong in ({"hour": "8"}, {"hour": "2400"}, {"stream": "../../x"}, {"stream": ""}, {"date": "2026-13-01"}):
            answer = rig.get(f"/v1/proof/{path}", key, **{"hour": "0800", **HOUR, **more, **wrong})
            assert answer.status_code == 400, (path, wrong, answer.text)
    assert rig.get("/v1/proof/file", key, hour="0800", kind="state", **HOUR).status_code == 400
    everything = rig.key(*Scope, days=(date(1, 1, 1), date.max))
    for day in ("0001-01-01", "9999-12-31"):
        asked = {"feed": "kraken", "date": day, "hour": "2300" if day[0] == "9" else "0000"}
        assert rig.get("/v1/proof/ledger", everything, **asked).status_code == 404
        assert rig.json("/v1/proof/minutes", everything, **asked)["minutes"] == []
        at = f"{day}T{asked['hour'][:2]}:00Z"
        assert rig.get("/v1/proof/book", everything, feed="kraken", instrument=BROKEN, at=at).status_code == 404
    assert rig.get("/v1/proof/hours", everything).status_code == 200


def test_keys_reach_their_days_and_feeds(rig: ApiRig) -> None:
    other_day = rig.key(*Scope, days=(date(2026, 11, 20), date(2026, 11, 20)))
    book = {"feed": "kraken", "instrument": BROKEN}
    assert rig.get("/v1/proof/book", other_day, at=f"{DAY}T11:10Z", **book).status_code == 403
    # The day is that of the moment in UTC.
    assert rig.get("/v1/proof/book", other_day, at="2026-11-20T00:30+01:00", **book).status_code == 403
    assert rig.get("/v1/proof/book", other_day, at="2026-11-20T11:10Z", **book).status_code == 200
    of_days = {hour["hour"][:10] for hour in rig.json("/v1/proof/hours", other_day)["hours"]}
    assert of_days == {"2026-11-20"}
    assert rig.json("/v1/drift/shapes", rig.key(*Scope, days=(date(2026, 11, 18),) * 2))["shapes"] == []
    most = rig.key(*Scope, feeds=[feed for feed in FEEDS if feed != "polymarket"])
    assert rig.get("/v1/reports", most).status_code == 403
    assert rig.json("/v1/drift", most)["findings"] == []
    asked = {"query": "{ reports { nodes { kind } } }"}
    assert rig.http.post("/graphql", json=asked, headers={"X-API-Key": most}).status_code == 403


def test_lists_say_what_the_tables_hold(rig: ApiRig, key: str) -> None:
    (finding,) = rig.json("/v1/drift", key)["findings"]
    assert (finding["feed"], finding["kind"], finding["messageType"]) == ("polymarket", "new_type", "market_paused")
    shapes = rig.json("/v1/drift/shapes", key, feed="kraken", type="trade")["shapes"]
    assert shapes and {shape["messageType"] for shape in shapes} == {"trade"}
    (reconciled,) = rig.json("/v1/reconciliations", key, status="missing")["reconciliations"]
    assert (reconciled["matchRate"], reconciled["missing"], reconciled["sample"][0]["what"]) == ("0.9000", 1, "missing")
    assert rig.json("/v1/reconciliations", key, status="ok")["reconciliations"] == []
    reports = rig.json("/v1/reports", key, limit=1)
    following = rig.json("/v1/reports", key, limit=1, cursor=reports["nextCursor"])
    assert [one["kind"] for one in reports["reports"] + following["reports"]] == ["volume", "diagnosis"]
    diagnosis = following["reports"][0]
    cited = {each for feed in diagnosis["body"]["feeds"] for each in feed["citations"]}
    assert diagnosis["source"] == "rules" and cited and cited <= diagnosis["body"]["evidence"].keys()
    scores = rig.json("/v1/health/hourly", key, feed="kraken", type="*")["scores"]
    assert [score["messageType"] for score in scores] == ["*"] and scores[0]["inputs"]["word"] == "degraded"
    daily = {one["feed"]: one for one in rig.json("/v1/health/daily", key)["scores"]}
    assert {feed: one["grade"] for feed, one in daily.items()}["kalshi"] == "A" and len(daily) == len(FEEDS)
    assert all(one["composite_score"] == daily["kalshi"]["composite_score"] for one in daily.values())
    (gap,) = rig.json("/v1/health/gaps", key, feed="polymarket")["gaps"]
    assert (gap["duration_minutes"], gap["start"]) == (60.0, "12:00")
    levels = {one["feed"]: one for one in rig.json("/v1/health/sla", key)["metrics"]}
    assert levels["kraken"]["avg_latency_ms"] is not None and levels["kraken"]["freshness_minutes"] == 35.0


def test_graphql_says_the_same(rig: ApiRig, key: str) -> None:
    query = f"""{{
      provedHours(feed: "kraken", from: "{DAY}", word: "complete") {{ nodes {{ hour word reasons totals }} }}
      ledger(feed: "kraken", date: "{DAY}", hour: "1100") {{ word ledger chain {{ n signature }} }}
      integrity(feed: "kraken", date: "{DAY}", hour: "1100", instrument: "{BROKEN}") {{ from verdict }}
      book(feed: "kraken", instrument: "{BROKEN}", at: "{DAY}T11:50Z", untrusted: true) {{
        bids {{ price size }} asks {{ price size }} doubts {{ reason since until }} }}
    }}"""

    def ask(text: str) -> dict[str, Any]:
        answer: dict[str, Any] = rig.http.post("/graphql", json={"query": text}, headers={"X-API-Key": key}).json()
        return answer

    found = ask(query)
    assert "errors" not in found, found["errors"]
    data = found["data"]
    assert [hour["word"] for hour in data["provedHours"]["nodes"]] == ["complete"]
    assert data["ledger"]["chain"]["signature"] and data["ledger"]["ledger"]["word"] == "degraded"
    assert "broken" in {row["verdict"] for row in data["integrity"]} and len(data["book"]["bids"]) == 10
    refused = ask(f'{{ book(feed: "kraken", instrument: "{BROKEN}", at: "{DAY}T11:50Z") {{ epoch }} }}')
    assert refused["errors"][0]["extensions"]["code"] == "conflict"
    wrong = ask('{ provedHours(word: "whole") { nodes { word } } }')
    assert wrong["errors"][0]["extensions"]["code"] == "invalid"


def test_a_changed_ledger_proves_nothing(own: ApiRig) -> None:
    key = own.key(*Scope)
    proof = own.data / "proof"
    path = proof_file(proof, "kraken", "spot", DEGRADED, "ledger")
    changed = json.loads(path.read_bytes()) | {"word": "complete", "reasons": []}
    path.write_text(json.dumps(changed, separators=(",", ":"), sort_keys=True))
    # The chain's own word does not count without the ledger.
    chain = proof / "kraken/spot/chain.jsonl"
    lines = [line.replace('"word":"empty"', '"word":"complete"') for line in chain.read_text().splitlines()]
    chain.write_text("\n".join(lines) + "\n")
    assert words(own, key) == {"0800": "complete", "0900": "empty", "1100": None, "1200": None}
    listed = own.json("/v1/proof/hours", key, feed="kraken", **{"from": DAY, "to": DAY})["hours"]
    assert [hour["word"] for hour in listed] == [None, "empty", "complete"]
    assert own.json("/v1/data/trades", key, hour="1100", **HOUR)["complete"] is None
    assert own.get("/v1/proof/ledger", key, hour="1100", **HOUR).status_code == 404
    book = {"feed": "kraken", "instrument": WHOLE, "at": f"{DAY}T11:10Z"}
    assert "not_proved" in own.get("/v1/proof/book", key, **book).json()["error"]


def test_damaged_files_are_503(own: ApiRig) -> None:
    key = own.key(*Scope)
    proof = own.data / "proof"
    proof_file(proof, "kraken", "spot", DEGRADED, "integrity").write_bytes(b"PAR1 nothing PAR1")
    proof_file(proof, "kraken", "spot", DEGRADED, "untrusted").unlink()
    for path, more in (
        ("integrity", {"hour": "1100", "instrument": BROKEN, **HOUR}),
        ("file", {"hour": "1100", "kind": "untrusted", **HOUR}),
        ("book", {"feed": "kraken", "instrument": WHOLE, "at": f"{DAY}T11:10Z"}),
    ):
        answer = own.get(f"/v1/proof/{path}", key, **more)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), (path, answer.text)
        assert "ssmd verify" in answer.json()["error"] and str(own.data) not in answer.text
    chain = proof / "kraken/spot/chain.jsonl"
    chain.write_bytes(b"\xff no chain\n" + chain.read_bytes()[:-20])
    assert set(words(own, key).values()) <= {"complete", "empty", "degraded", None}
    shutil.rmtree(proof)
    proof.write_text("no folder")
    assert words(own, key) == {"0800": None, "0900": None, "1100": None, "1200": None}
    assert own.get("/v1/proof/ledger", key, hour="0800", **HOUR).status_code == 404


def test_hours_that_changed_since_have_no_word(own: ApiRig) -> None:
    key = own.key(*Scope)
    late = LittleArchive(own.data / "archive")
    late.next_seq = 9_000
    late.seal(DEGRADED, [TRADE], late=1)
    assert words(own, key)["1100"] is None
    listed = own.json("/v1/proof/hours", key, feed="kraken", **{"from": DAY, "to": DAY})["hours"]
    assert listed[0]["word"] is None
    book = {"feed": "kraken", "instrument": WHOLE, "at": f"{DAY}T11:10Z"}
    assert "archived anew" in own.get("/v1/proof/book", key, **book).json()["error"]
    # Three slots of an hour, proved: nothing is known of the fourth.
    settings = Settings.from_environment({"SSMD_DATA": str(own.data), "SSMD_CLOCK": CLOCK})
    prove_hour(settings, get("kraken"), "spot", COMPLETE.replace(day=20, hour=12))
    assert words(own, key, "2026-11-20")["1200"] == "degraded"
    for minute, status in (("20", 200), ("50", 409)):
        asked = {"feed": "kraken", "instrument": WHOLE, "at": f"2026-11-20T12:{minute}Z"}
        answer = own.get("/v1/proof/book", key, **asked)
        assert answer.status_code == status, answer.text
    assert "slots_missing" in answer.text
    assert timedelta(hours=1) == EMPTY - COMPLETE


def test_two_books_at_a_time_and_none_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A book that takes long holds its place only while somebody waits for it."""
    monkeypatch.setattr(hours, "_WAIT_S", 0.2)
    stopped: list[float] = []

    def work(wanted: Callable[[], bool]) -> int:
        deadline_s = time.monotonic() + 10
        while wanted() and time.monotonic() < deadline_s:
            time.sleep(0.005)
        stopped.append(deadline_s - time.monotonic())
        return 1

    async def run() -> None:
        books = hours.Books()
        slow = [asyncio.create_task(books.build(work)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(UnavailableError, match="both places"):
            await books.build(work)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert await books.build(lambda wanted: 2 if wanted() else 0) == 2
        with pytest.raises(ZeroDivisionError):
            await books.build(lambda _: 1 // 0)

    asyncio.run(run())
    assert len(stopped) == 2 and min(stopped) > 8


def test_the_command_prints_a_book_or_says_why_not(rig: ApiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSMD_DATA", str(rig.data))

    def run(at: str, *more: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, ["book", "kraken/spot", BROKEN, f"{DAY}T{at}", *more])
        return answer.exit_code, answer.output

    code, shown = run("11:10Z", "--depth", "3")
    assert code == 0 and "10 bids, 10 asks" in shown and len(shown.splitlines()) == 5
    code, shown = run("11:50Z")
    assert code == 1 and "must not be trusted (checksum)" in shown
    code, shown = run("11:50Z", "--untrusted")
    assert code == 0 and shown.startswith("NOT TO BE TRUSTED (checksum)")
    told = json.loads(run("11:50Z", "--untrusted", "--json")[1])
    assert told["doubts"][0]["reason"] == "checksum" and len(told["bids"]) == 10
    assert run("10:10Z")[0] == 1
