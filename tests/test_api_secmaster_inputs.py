"""What strangers send to the routes of the security master, and lists that are read while they change."""

from __future__ import annotations

import base64
import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secmaster_rig import IDS, ROUTES, Told, changing, request_of, told

from ssmd_api.changes import Answers, Changes
from ssmd_api.params import parse_moment
from ssmd_api.routing import Route
from ssmd_api.secmaster.cursors import encode_cursor
from ssmd_core.secmaster.selections import Selection

__all__ = ["changing", "told"]  # fixtures

#: Each is tried on every parameter and every id of a path.
CORPUS = (
    "", "'; DROP TABLE markets; --", '" OR 1=1', "%", "_", "\\", "\u202efdp.exe", "\U0001f600" * 40, "1e400", "-1",
    "1e-99999", "0", "10001", "9" * 40, "NaN", "true", "2026-13-45", "2026-11-17T25:00Z", "0001-01-01T00:00+14:00",
    "9999-12-31T23:59:59Z", "../../etc/passwd", "{}", "a" * 5000, "null", "\x00", "kalshi", "key", "%s",
    "{0}", "\uffff", "١٢",
)  # fmt: skip
PARAMETERS = [
    (route, name)
    for route in ROUTES
    for name in (*route.query.__struct_encode_fields__, "surprise", *([""] if "{" in route.path else []))
]
ANSWERED = {200, 400, 403, 404}


def some_of_each() -> Iterator[tuple[Route, str]]:
    """Each parameter on the first two routes that have it, for the code behind a name is one; and every id."""
    seen = Counter[str]()
    for route, name in PARAMETERS:
        seen[name] += 1
        if not name or seen[name] <= 2:
            yield route, name


def ask(told: Told, case: tuple[Route, str], value: str) -> None:
    """A request with a value in one parameter; in the ids of the path where the name is empty."""
    route, name = case
    path, parameters = request_of(route)
    if name:
        parameters[name] = value
    else:
        # Without an id it would be another path.
        path = re.sub(r"{\w+}", _quoted(value) or "0", route.path)
    answer = told.get(path, told.everything, **parameters)
    assert answer.status_code in ANSWERED, (route.path, name, value, answer.text)
    # Nothing but a feed, or a day that the key does not reach, is a matter of access.
    assert answer.status_code != 403 or name in {"as_of", "known_at", "from", "to"}, (route.path, name, value)
    if answer.status_code == 400:
        assert answer.json()["field"] or name == "as_of", (route.path, name, value, answer.text)


def _quoted(value: str) -> str:
    return "".join(f"%{byte:02x}" for byte in value.encode("utf-8", "surrogatepass"))


def test_every_parameter_takes_what_it_must_and_refuses_the_rest(told: Told) -> None:
    for case in some_of_each():
        for value in CORPUS:
            ask(told, case, value)
    assert told.sql("SELECT count(*) FROM markets") == [(6,)]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(PARAMETERS), value=st.sampled_from(CORPUS) | st.text(max_size=60))
def test_any_text_is_only_text(told: Told, case: tuple[Route, str], value: str) -> None:
    ask(told, case, value)


def walk(told: Told, path: str, **parameters: Any) -> list[str]:
    """All ids of a list, page by page."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    name = path.rpartition("/")[2]
    for _ in range(1000):
        page = told.ask(path, **parameters, **cursor)
        found += [row[IDS[name]] for row in page[name]]
        if page["nextCursor"] is None:
            return found
        cursor = {"cursor": page["nextCursor"]}
    raise AssertionError("the list does not end")


def test_a_walk_by_key_shows_every_row_once_while_rows_change(changing: Told) -> None:
    told = changing
    told.sql(
        "INSERT INTO markets (ticker, event_ticker, title, status) SELECT 'KX-' || md5(n::text), 'KXBTC-1', 'Up?', "
        "'active' FROM generate_series(1, 600) n"
    )
    all_along = {row[0] for row in told.sql("SELECT ticker FROM markets WHERE deleted_at IS NULL")}
    then = told.sql("SELECT max(known_from)::text FROM markets_history")[0][0]
    done = threading.Event()

    def change() -> None:
        with psycopg.connect(told.database_url, autocommit=True) as connection:
            for number in itertools.count():
                if done.is_set():
                    return
                connection.execute(
                    "UPDATE markets SET volume = %s "
                    "WHERE ticker IN (SELECT ticker FROM markets ORDER BY random() LIMIT 20)",
                    (number,),
                )
                connection.execute(
                    "INSERT INTO markets (ticker, event_ticker, title, status) "
                    "VALUES (%s, 'KXBTC-1', 'New?', 'active')",
                    (f"KX-{number:x}-new",),
                )

    changer = threading.Thread(target=change)
    changer.start()
    try:
        found = walk(told, "/v1/markets", order="key", limit=37)
        active = walk(told, "/v1/markets", order="key", limit=50, category="crypto", status="active")
        past = {order: walk(told, "/v1/markets", order=order, limit=90, as_of=then) for order in ("key", "updated")}
    finally:
        done.set()
        changer.join()
    assert len(found) == len(set(found)) and found == sorted(found) and all_along <= set(found)
    assert set(active) >= all_along - {"KXBTC-1-0"} and len(active) == len(set(active))
    # The past does not move, whatever happens now.
    assert past["key"] == sorted(past["updated"]) == sorted(all_along)
    newest_first = walk(told, "/v1/markets", order="updated", limit=90)
    assert (
        len(newest_first)
        == len(set(newest_first))
        == told.sql("SELECT count(*) FROM markets WHERE deleted_at IS NULL")[0][0]
    )


def test_a_cursor_belongs_to_its_list(told: Told) -> None:
    asked = {"limit": 2, "order": "key"}
    cursor = told.ask("/v1/markets", **asked)["nextCursor"]
    assert told.status("/v1/markets", **asked, cursor=cursor) == 200
    assert told.status("/v1/markets", limit=10_000, order="key", cursor=cursor) == 200
    for other in ({"order": "updated"}, {"status": "active"}, {"as_of": "2026-11-18"}, {"close_within_hours": 2}):
        assert told.status("/v1/markets", **asked | other, cursor=cursor) == 400, other
    assert told.status("/v1/pairs", **asked, cursor=cursor) == 400
    assert cursor == encode_cursor(("markets", "key", Selection()), ("KXBTC-1-1",))
    raw = base64.urlsafe_b64decode(cursor + "==")
    forged = [
        *(cursor[:n] + ("A" if cursor[n] != "A" else "B") + cursor[n + 1 :] for n in range(len(cursor))),
        *(cursor[:n] for n in range(len(cursor))),
        cursor + cursor,
        base64.urlsafe_b64encode(raw[:8] + b'["\' OR 1=1 --"]').decode(),
        # Also by somebody who knows how a digest is made.
        encode_cursor(("markets", "key", Selection()), ("\0",)),
        encode_cursor(("markets", "key", Selection()), (parse_moment("2026-11-17", ""), "KXBTC-1-0")),
    ]
    for each in forged:
        answer = told.get("/v1/markets", told.everything, **asked, cursor=each)
        # The last character has bits that mean nothing: then it is the same cursor.
        same = base64.urlsafe_b64decode(each + "=" * (-len(each) % 4)) == raw if len(each) % 4 != 1 else False
        assert (answer.status_code, answer.json().get("field")) == ((200, None) if same else (400, "cursor")), each


def test_words_are_one_to_twenty_at_every_door(told: Told) -> None:
    """None would be no condition; thousands are looked for in every question."""
    path, many = "/v1/polymarket/tokens", [f"w{n}" for n in range(21)]
    for words, status in (([], 400), ([","], 400), (many, 400), (many[1:], 200)):
        assert told.status(path, category="crypto", q=",".join(words)) == status
    for words in ([], many):
        for name in ("words", "categories"):
            body = {
                "query": f"query($w: [String!]) {{ conditions({name}: $w) {{ nodes {{ slug }} }} }}",
                "variables": {"w": words},
            }
            answer = told.http.post("/graphql", json=body, headers={"X-API-Key": told.everything}).json()
            assert answer["errors"][0]["extensions"]["field"] == name, answer


def test_kept_answers_count_what_was_asked() -> None:
    """Long parameters before short answers must not fill the memory."""
    changes = Changes("postgresql://nowhere")
    changes.listening = True
    answers = Answers(changes, 100_000, lambda: 0.0)
    for n in range(100):
        answers.keep(("x" * 20_000, n), b"{}", ("markets",), changes.generation(("markets",)), 1.0)
    assert answers.size_bytes <= 100_000 and len(answers._kept) == 4
    assert answers.find(("x" * 20_000, 99)) == b"{}" and answers.find(("x" * 20_000, 95)) is None
    changes.bump("markets")
    assert [answers.find(("x" * 20_000, n)) for n in range(96, 100)] == [None] * 4 and answers.size_bytes == 0
