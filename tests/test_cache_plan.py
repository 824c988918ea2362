"""What the cache does with a change, without servers: keys, what is refused or skipped, what becomes of a batch."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmd_core.errors import ConfigError
from ssmd_stream.cache import layout
from ssmd_stream.cache.apply import Event, Id, PoisonError, Seen, commands, fold, parse
from ssmd_stream.cache.layout import PLACES, Row, escape, temporary, unescape
from ssmd_stream.cache.store import check_url, client
from ssmd_stream.cdc.consume import Change

IDS = st.one_of(st.none(), st.text(), st.text(alphabet=":%.*?[]~-_ \x00\nñ%none{}"))


@given(IDS, IDS)
def test_no_two_ids_share_a_key(one: str | None, other: str | None) -> None:
    assert (escape(one) == escape(other)) == (one == other)
    assert unescape(escape(one)) == one
    keys = {place.hash_of(id_) for place in PLACES.values() for id_ in {one, other}}
    assert len(keys) == len(PLACES) * len({one, other})
    reserved = {layout.STATE, layout.LEASE, layout.EXPIRY, layout.CATEGORIES, *(p.where for p in PLACES.values())}
    assert not keys & reserved
    assert not any(layout.TEMPORARY in key for key in keys)
    assert temporary(PLACES["markets"].hash_of(one), "r") != PLACES["markets"].hash_of(other)


def change(op: str = "update", data: bytes = b"null", **fields: Any) -> Change:
    """A change as it comes from the feed."""
    values: dict[str, Any] = {
        "table": "markets", "key": {"ticker": "A"}, "commit_lsn": "0/10", "ordinal": 0, "lsn": "0/10", "xid": 7,
        "commit_ts": "2026-11-22T12:00:00Z", "timestamp": "2026-11-22T12:00:00Z", **fields,
    }  # fmt: skip
    return Change(op=op, data=msgspec.Raw(data), **values)  # type: ignore[arg-type]  # as a test needs them


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (change(table="orders"), "table"),
        (change("delete", key={"id": 7}), "key"),
        (change("delete", key={"ticker": 7}), "key"),
        (change("insert"), "row"),
        (change("insert", b'{"ticker":"B","event_ticker":"E","deleted_at":null,"status":"active"}'), "row"),
        (change("insert", b'{"ticker":"A"}'), "row"),
        (change("insert", b'{"ticker":"A","event_ticker":["E"]}'), "row"),
        (change("update", b"[]", unchanged=("title",)), "row"),
    ],
)
def test_a_change_that_says_nothing_is_refused_with_its_reason(poison: Change, reason: str) -> None:
    with pytest.raises(PoisonError) as caught:
        parse(poison)
    assert caught.value.reason == reason


def test_only_what_a_snapshot_has_surely_seen_is_skipped() -> None:
    def seen(snapshot: str, xid: int, lsn: str = "0/10") -> bool:
        event = parse(change("delete", xid=xid, commit_lsn=lsn))
        return not Seen(snapshot, "0/20").over(event) and Seen(snapshot, "0/20").has(event)

    assert seen("100:110:", 99) and seen("100:110:105", 104)
    assert not seen("100:110:105", 105)  # was running
    assert not seen("100:110:", 110)  # began later
    assert not seen("100:110:", 99, lsn="0/21") and not seen("100:110:", 99, lsn="?")
    # The event has 32 bits of the transaction id, the snapshot 64.
    turned = 5 * 2**32
    assert seen(f"{turned}:{turned + 3}:", 2**32 - 1) and seen(f"{turned}:{turned + 3}:", 2)
    assert not seen(f"{turned - 3}:{turned - 1}:", 0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from("AB"),  # the row
        st.sampled_from("EF"),  # its parent
        st.sampled_from(["insert", "update", "unchanged", "deleted", "settled", "delete"]),
        st.booleans(),  # the batch ends
    )
)


@given(STEPS)
def test_however_changes_are_cut_into_batches_the_end_is_the_same(steps: list[tuple[str, str, str, bool]]) -> None:
    now_s = 1_000_000.0
    held: dict[str, dict[str, Any]] = {}
    expected: dict[Id, Row | None] = {}
    batch: list[Event] = []
    for number, (key, event, kind, end) in enumerate([*steps, ("A", "E", "insert", True)]):
        row = {
            "ticker": key,
            "event_ticker": event,
            "title": number,
            "status": "settled" if kind == "settled" else "active",
            "close_time": "1970-01-01T00:00:00Z",
            "updated_at": "1970-01-01T00:00:00Z",
            "deleted_at": "1970-01-01T00:00:00Z" if kind == "deleted" else None,
        }
        if kind == "delete":
            parsed = parse(change("delete", key={"ticker": key}))
            expected[parsed.id] = None
        elif kind == "unchanged":
            before = expected.get(Id("markets", key))
            if before is None:
                continue  # there is no update without an insert
            row["title"] = orjson.loads(before.json)["title"]
            left = {name: value for name, value in row.items() if name != "title"}
            parsed = parse(change("update", orjson.dumps(left), key={"ticker": key}, unchanged=("title",)))
            expected[parsed.id] = PLACES["markets"].read(orjson.dumps(row))
        else:
            parsed = parse(change("update", orjson.dumps(row), key={"ticker": key}))
            expected[parsed.id] = parsed.row
        batch.append(parsed)
        if end:
            where = {Id("markets", k): v for k, v in held.get("secmaster:where:markets", {}).items()}
            stored = {id_: held[PLACES["markets"].hash_key(parent)][id_.key] for id_, parent in where.items()}
            folded = fold(batch, stored)
            for row_id in folded.incomplete:  # Postgres knows
                folded.rows[row_id] = expected[row_id]
            plan = commands(folded.rows, where, now_s)
            for name, gone in plan.hdel.items():
                for one in gone:
                    del held[name][one]
            for name, put in plan.hset.items():
                held.setdefault(name, {}).update(put)
            batch = []
    staying = {id_: row for id_, row in expected.items() if row and row.live and row.expires_s is None}
    assert {k: v for k, v in held.items() if v and "where" not in k} == {
        PLACES["markets"].hash_key(parent): {
            id_.key: row.json for id_, row in staying.items() if row.parent == parent
        }
        for parent in {row.parent for row in staying.values()}
    }  # fmt: skip
    assert held.get("secmaster:where:markets", {}) == {id_.key: row.parent for id_, row in staying.items()}


@pytest.mark.parametrize("url", ["", "http://host", "redis://host:port", "redis://host/name"])
def test_a_wrong_redis_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_url(url.replace("host", "user:sesame@host"))
    assert "sesame" not in str(caught.value)


def test_a_redis_url_is_read_whole() -> None:
    options = client("rediss://me:pa%20ss@redis.example:6380/3", name="x").connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("redis.example", 6380, 3)
    assert (options["username"], options["password"]) == ("me", "pa ss")
