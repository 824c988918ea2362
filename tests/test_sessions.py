"""The venues' protocols without I/O: what is sent, how answers are read, and that nothing a venue sends breaks them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmd_core import feeds
from ssmd_core.errors import ConfigError
from ssmd_stream.capture.sessions.base import PONG, Command, Notice, Session
from ssmd_stream.capture.sessions.kalshi import KalshiSession, KalshiSigner
from ssmd_stream.capture.sessions.kraken import KrakenSession
from ssmd_stream.capture.sessions.kraken_futures import KrakenFuturesSession
from ssmd_stream.capture.sessions.polymarket import PolymarketSession

_KEY = rsa.generate_private_key(65537, 2048)


def _pem(private: Any, form: serialization.PrivateFormat) -> str:
    return private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()  # type: ignore[no-any-return]


SIGNER = KalshiSigner("key-1", _pem(_KEY, serialization.PrivateFormat.PKCS8))


def _kalshi(*channels: str) -> KalshiSession:
    return KalshiSession(feeds.get("kalshi"), channels, {}, SIGNER, "wss://h.kalshi.com/trade-api/ws/v2?x=1")


def _kraken(*channels: str, **options: dict[str, Any]) -> KrakenSession:
    return KrakenSession(feeds.get("kraken"), channels, options)


def _sent(commands: list[Command], session: Session) -> list[dict[str, Any]]:
    for command in commands:
        session.sent(command, 0.0)
    return [json.loads(command.text) for command in commands]


def _tell(session: Session, kind: str, message: dict[str, Any]) -> tuple[Notice, ...]:
    return session.on_message(kind, json.dumps(message).encode()).notices


# -- Kalshi


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("held", ["text", "one line", "file"])
def test_kalshi_handshake_is_signed_over_time_and_path(
    form: serialization.PrivateFormat, held: str, tmp_path: Path
) -> None:
    pem = _pem(_KEY, form)
    if held == "file":
        (tmp_path / "key.pem").write_text(pem)
        pem = str(tmp_path / "key.pem")
    elif held == "one line":
        pem = pem.replace("\n", "\\n")
    signer = KalshiSigner.from_environment({"KALSHI_API_KEY": "key-1", "KALSHI_PRIVATE_KEY": pem})
    session = KalshiSession(feeds.get("kalshi"), ("ticker",), {}, signer, "wss://h.kalshi.com/trade-api/ws/v2?x=1")
    headers = session.headers(1_790_000_000_123_456_789)
    assert headers["KALSHI-ACCESS-KEY"] == "key-1"
    assert headers["KALSHI-ACCESS-TIMESTAMP"] == "1790000000123"
    _KEY.public_key().verify(
        base64.b64decode(headers["KALSHI-ACCESS-SIGNATURE"]),
        b"1790000000123GET/trade-api/ws/v2",
        padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32),
        hashes.SHA256(),
    )
    assert session.headers(0)["KALSHI-ACCESS-SIGNATURE"] != headers["KALSHI-ACCESS-SIGNATURE"]


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({}, "missing: KALSHI_API_KEY and KALSHI_PRIVATE_KEY"),
        ({"KALSHI_API_KEY": "k"}, "missing: KALSHI_PRIVATE_KEY"),
        ({"KALSHI_API_KEY": "k", "KALSHI_PRIVATE_KEY": "s3cret"}, "neither PEM text nor a readable file"),
        (
            {"KALSHI_API_KEY": "k", "KALSHI_PRIVATE_KEY": "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END"},
            "not an unencrypted PEM",
        ),
        (
            {
                "KALSHI_API_KEY": "k",
                "KALSHI_PRIVATE_KEY": _pem(ec.generate_private_key(ec.SECP256R1()), serialization.PrivateFormat.PKCS8),
            },
            "needs an RSA key",
        ),
    ],
)
def test_kalshi_bad_key_is_explained_and_not_shown(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        KalshiSigner.from_environment(environment)
    assert "KALSHI_PRIVATE_KEY" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_kalshi_subscribes_each_channel_in_chunks() -> None:
    session = _kalshi("orderbook_delta", "trade", "market_lifecycle_v2")
    tickers = [f"M-{number}" for number in range(300)]
    sent = _sent(session.open(tickers), session)
    assert [message["id"] for message in sent] == [1, 2, 3, 4, 5]
    assert [message["params"]["channels"] for message in sent] == [
        ["orderbook_delta"],
        ["orderbook_delta"],
        ["trade"],
        ["trade"],
        ["market_lifecycle_v2"],
    ]
    assert [len(message["params"].get("market_tickers", ())) for message in sent] == [256, 44, 256, 44, 0]
    assert [message["params"].get("use_yes_price") for message in sent] == [False, False, None, None, None]
    everything = _sent(_kalshi("ticker").open([]), _kalshi("ticker"))
    assert everything == [{"id": 1, "cmd": "subscribe", "params": {"channels": ["ticker"]}}]


def test_kalshi_acknowledgements_errors_and_resubscription() -> None:
    session = _kalshi("ticker", "trade")
    _sent(session.open(["A", "B"]), session)
    assert _tell(session, "subscribed", {"id": 1, "type": "subscribed", "msg": {"channel": "ticker", "sid": 7}}) == (
        Notice("acknowledged", "ticker", ("A", "B")),
    )
    # An additive subscribe is answered with ok, in either generation's shape.
    (add,) = [command for command in session.add(["A", "C"]) if command.channel == "ticker"]
    assert add.instruments == ("C",)
    ok = {"id": add.id, "sid": 7, "seq": 3, "type": "ok", "market_tickers": ["C"]}
    assert _tell(session, "ok", ok) == (Notice("acknowledged", "ticker", ("C",)),)
    assert session.subscriptions["ticker"].accepted == {"A", "B", "C"}
    assert _tell(session, "ok", {"id": 99, "type": "ok", "msg": [{"channel": "ticker", "sid": 7}]}) == ()
    # The trade channel is not acknowledged yet: what is removed now is removed when its sid is known.
    (delete,) = session.remove(["B"])
    assert json.loads(delete.text)["params"] == {"sids": [7], "market_tickers": ["B"], "action": "delete_markets"}
    reply = {"id": 2, "type": "subscribed", "msg": {"channel": "trade", "sid": 8}}
    (later,) = session.on_message("subscribed", json.dumps(reply).encode()).commands
    assert json.loads(later.text)["params"]["sids"] == [8]
    # Buffer overflow kills the sid; asking again names no sid to unsubscribe.
    overflow = {"type": "error", "sid": 7, "seq": 9, "msg": {"code": 25, "msg": "Subscription buffer overflow"}}
    assert _tell(session, "error", overflow) == (
        Notice("resubscribe", "ticker", (), "25 Subscription buffer overflow"),
    )
    (again,) = session.resubscribe("ticker")
    assert json.loads(again.text)["params"] == {"channels": ["ticker"], "market_tickers": ["A", "C"]}
    assert not session.subscriptions["ticker"].accepted
    # A live sid that fell silent is ended first.
    end, _ = session.resubscribe("trade")
    assert json.loads(end.text) == {"id": end.id, "cmd": "unsubscribe", "params": {"sids": [8]}}


def test_kalshi_refusal_and_retry() -> None:
    session = _kalshi("ticker", "ticker_v2")
    _sent(session.open(["A"]), session)
    busy = {"id": 1, "type": "error", "msg": {"code": 27, "msg": "Too many requests"}}
    for attempt in (2, 3):
        reaction = session.on_message("error", json.dumps(busy).encode())
        assert reaction.notices[0].event == "error"
        assert reaction.commands[0].attempt == attempt
        busy["id"] = reaction.commands[0].id
    assert _tell(session, "error", busy) == (Notice("refused", "ticker", ("A",), "27 Too many requests"),)
    assert not session.all_refused
    gone = {"id": 2, "type": "error", "msg": {"code": 8, "msg": "Unknown channel name"}}
    assert _tell(session, "error", gone) == (Notice("refused", "ticker_v2", ("A",), "8 Unknown channel name"),)
    assert session.all_refused


# -- Kraken


def test_kraken_pairs_each_acknowledgement_by_request() -> None:
    session = _kraken("book", "trade", "instrument", book={"depth": 100})
    book, trade, instrument = _sent(session.open(["BTC/USD", "XBT/USD"]), session)
    assert book["params"] == {"channel": "book", "symbol": ["BTC/USD", "XBT/USD"], "depth": 100, "snapshot": True}
    assert trade["params"]["snapshot"] is True
    assert "symbol" not in instrument["params"]
    ack = {"method": "subscribe", "success": True, "req_id": 1, "result": {"channel": "book", "symbol": "BTC/USD"}}
    assert _tell(session, "subscribe", ack) == (Notice("acknowledged", "book", ("BTC/USD",)),)
    unknown = "Currency pair not supported XBT/USD"
    refusal = {"error": unknown, "method": "subscribe", "success": False, "symbol": "XBT/USD", "req_id": 1}
    assert _tell(session, "subscribe", refusal) == (Notice("refused", "book", ("XBT/USD",), unknown),)
    # Real refusals without req_id: the symbol decides where only one channel waits for it, ...
    del refusal["req_id"]
    assert _tell(session, "subscribe", refusal) == (Notice("refused", "trade", ("XBT/USD",), unknown),)
    # ... and what names nothing is an error.
    depth = {"error": "Subscription depth not supported", "method": "subscribe", "success": False}
    assert _tell(session, "subscribe", depth)[0].event == "error"
    assert _tell(session, "subscribe", depth | {"req_id": 2}) == (
        Notice("refused", "trade", ("BTC/USD",), "Subscription depth not supported"),
    )
    done = {"method": "subscribe", "success": True, "req_id": 3, "result": {"channel": "instrument"}}
    assert _tell(session, "subscribe", done) == (Notice("acknowledged", "instrument", ()),)
    assert not session.outstanding
    assert session.refused.keys() == {("book", "XBT/USD"), ("trade", "XBT/USD"), ("trade", "BTC/USD")}
    assert not session.all_refused


def test_kraken_live_changes() -> None:
    session = _kraken("book")
    _sent(session.open(["BTC/USD"]), session)
    (add,) = session.add(["BTC/USD", "ETH/USD"])
    assert json.loads(add.text)["params"]["symbol"] == ["ETH/USD"]
    (remove,) = session.remove(["BTC/USD", "unknown"])
    assert json.loads(remove.text) == {
        "method": "unsubscribe",
        "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 25},
        "req_id": remove.id,
    }
    end, again = session.resubscribe("book")
    assert (json.loads(end.text)["method"], json.loads(again.text)["params"]["symbol"]) == ("unsubscribe", ["ETH/USD"])
    assert session.on_message("pong", b'{"method":"pong","req_id":101}') == PONG


def test_missing_acknowledgement_is_a_refusal_after_the_timeout() -> None:
    session = _kraken("ticker")
    (command,) = session.open(["BTC/USD", "ETH/USD"])
    assert session.overdue(1e9) == []
    session.sent(command, 100.0)
    ack = {"method": "subscribe", "success": True, "req_id": 1, "result": {"channel": "ticker", "symbol": "BTC/USD"}}
    _tell(session, "subscribe", ack)
    assert session.overdue(129.9) == []
    (notice,) = session.overdue(130.0)
    assert (notice.event, notice.instruments) == ("refused", ("ETH/USD",))
    assert not session.all_refused


# -- Kraken Futures


def test_kraken_futures_pairs_by_feed_and_product() -> None:
    session = KrakenFuturesSession(feeds.get("kraken-futures"), ("book", "trade"), {})
    book, _ = _sent(session.open(["PF_XBTUSD", "PF_ETHUSD", "PF_NOPE"]), session)
    assert book == {"event": "subscribe", "feed": "book", "product_ids": ["PF_XBTUSD", "PF_ETHUSD", "PF_NOPE"]}
    ack = {"event": "subscribed", "feed": "book", "product_ids": ["pf_xbtusd"]}
    assert _tell(session, "subscribed", ack) == (Notice("acknowledged", "book", ("PF_XBTUSD",)),)
    _tell(session, "subscribed", {"event": "subscribed", "feed": "book", "product_ids": ["PF_ETHUSD"]})
    failed = {"event": "subscribed_failed", "feed": "trade", "product_ids": ["PF_NOPE"]}
    assert _tell(session, "subscribed_failed", failed)[0].event == "refused"
    assert _tell(session, "alert", {"event": "alert", "message": "Invalid product id"})[0].event == "error"
    overdue = {notice.channel: notice for notice in session.overdue(1e9)}
    assert overdue["book"].instruments == ("PF_NOPE",)
    assert "Invalid product id" in overdue["book"].reason
    assert overdue["trade"].instruments == ("PF_ETHUSD", "PF_XBTUSD")


# -- Polymarket


def test_polymarket_first_frame_and_changes() -> None:
    session = PolymarketSession(feeds.get("polymarket"), ("market",), {})
    (first,) = _sent(session.open(["11", "22"]), session)
    assert first == {
        "type": "market",
        "assets_ids": ["11", "22"],
        "custom_feature_enabled": True,
        "initial_dump": True,
    }
    assert not session.outstanding
    (add,) = _sent(session.add(["22", "33"]), session)
    assert add == {"assets_ids": ["33"], "custom_feature_enabled": True, "operation": "subscribe"}
    (remove,) = _sent(session.remove(["11"]), session)
    assert remove == {"operation": "unsubscribe", "assets_ids": ["11"]}
    end, again = _sent(session.resubscribe("market"), session)
    assert end["operation"] == "unsubscribe"
    assert again["assets_ids"] == ["22", "33"]
    assert session.on_message("", b"PONG") == PONG
    assert not session.all_refused


def test_polymarket_without_tokens_opens_the_channel_for_later() -> None:
    session = PolymarketSession(feeds.get("polymarket"), ("market",), {})
    (first,) = _sent(session.open([]), session)
    assert first["assets_ids"] == []
    assert _sent(session.add(["1"]), session)[0]["operation"] == "subscribe"


# -- whatever a venue sends

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["msg", "id", "sid", "code", "result", "symbol", "success", "product_ids", "feed", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def _sessions() -> list[Session]:
    return [
        _kalshi("ticker", "orderbook_delta"),
        _kraken("book", "ticker"),
        KrakenFuturesSession(feeds.get("kraken-futures"), ("book",), {}),
        PolymarketSession(feeds.get("polymarket"), ("market",), {}),
    ]


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["subscribed", "ok", "error", "subscribe", "subscribed_failed", "alert", "pong", "", "x"]),
    message=_JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40) | st.just(b"[" * 100_000),
)
def test_no_message_breaks_a_session(kind: str, message: bytes) -> None:
    for session in _sessions():
        session.open(["A", "B"])
        for notice in session.on_message(kind, message).notices:
            assert notice.event in ("acknowledged", "refused", "resubscribe", "error")
            if notice.event == "resubscribe":
                session.resubscribe(notice.channel)
        session.add(["C"])
        session.remove(["A"])
        session.overdue(1e12)


# -- instruments that come and go


def _subscribed(session: KalshiSession, *, sid: int = 7) -> None:
    """Acknowledge every command that waits."""
    for id_, pending in list(session._pending.items()):
        channel = pending.command.channel
        _tell(session, "subscribed", {"id": id_, "type": "subscribed", "msg": {"channel": channel, "sid": sid}})


def test_kalshi_removed_before_its_acknowledgement_is_not_accepted_by_it() -> None:
    session = _kalshi("ticker")
    _sent(session.open(["A", "B"]), session)
    assert session.remove(["A"]) == []  # the sid is not known yet
    reply = json.dumps({"id": 1, "type": "subscribed", "msg": {"channel": "ticker", "sid": 7}}).encode()
    reaction = session.on_message("subscribed", reply)
    assert reaction.notices == (Notice("acknowledged", "ticker", ("B",)),)
    (delete,) = reaction.commands
    assert json.loads(delete.text)["params"]["market_tickers"] == ["A"]
    assert session.accepted == {"B"}
    # Once more, with the sid known and everything removed that a command waits for.
    (add,) = session.add(["C"])
    _sent([add], session)
    (delete,) = session.remove(["C"])
    assert _tell(session, "ok", {"id": add.id, "sid": 7, "seq": 1, "type": "ok", "msg": {}}) == ()
    assert _tell(session, "ok", {"id": delete.id, "sid": 7, "seq": 2, "type": "ok", "msg": {}}) == ()
    assert session.accepted == {"B"}
    (add,) = session.add(["D"])
    session.sent(add, 0.0)
    session.remove(["D"])
    assert session.overdue(1e9) == []
    assert not session.outstanding


def test_kalshi_asked_for_again_before_the_removal_could_be_sent_stays() -> None:
    session = _kalshi("ticker")
    _sent(session.open(["A", "B"]), session)
    session.remove(["A", "B"])
    (again,) = session.add(["A"])
    _sent([again], session)
    reply = json.dumps({"id": 1, "type": "subscribed", "msg": {"channel": "ticker", "sid": 7}}).encode()
    reaction = session.on_message("subscribed", reply)
    assert reaction.notices == ()
    assert [command.instruments for command in reaction.commands] == [("B",)]
    assert session.accepted == set()
    _tell(session, "ok", {"id": again.id, "sid": 7, "seq": 1, "type": "ok", "msg": {}})
    assert session.accepted == {"A"}
    # Ending the whole subscription forgets what was still to be removed from it.
    session.add(["C"])
    (ending, asking) = session.resubscribe("ticker")
    assert (ending.instruments, asking.instruments) == ((), ("A", "C"))
    assert session.remove(["C"]) == []
    session.resubscribe("ticker")
    assert not session._removals


def test_kalshi_removal_that_fails_is_told_and_tried_again() -> None:
    session = _kalshi("ticker")
    _sent(session.open(["A", "B"]), session)
    _subscribed(session)
    (delete,) = session.remove(["A", "B"])

    def fail(id_: int, code: int) -> Any:
        error = {"id": id_, "type": "error", "msg": {"code": code, "msg": "no"}}
        return session.on_message("error", json.dumps(error).encode())

    (_,) = session.add(["B"])
    reaction = fail(delete.id, 27)
    assert reaction.notices == (Notice("error", "ticker", ("A", "B"), "not unsubscribed: 27 no"),)
    (again,) = reaction.commands
    assert (again.instruments, again.attempt) == (("A",), 2)
    (last,) = fail(again.id, 18).commands
    assert fail(last.id, 18).commands == ()
    assert fail(999, 7).notices == (Notice("error", reason="7 no"),)


def test_kalshi_retry_leaves_out_what_was_removed_meanwhile() -> None:
    session = _kalshi("ticker")
    _sent(session.open(["A", "B"]), session)
    session.remove(["A"])
    error = {"id": 1, "type": "error", "msg": {"code": 18, "msg": "Command timeout"}}
    (again,) = session.on_message("error", json.dumps(error).encode()).commands
    assert again.instruments == ("B",)
    session.remove(["B"])
    error["id"] = again.id
    # Nothing is left to ask for; an empty list would mean every market.
    reaction = session.on_message("error", json.dumps(error).encode())
    assert (reaction.notices, reaction.commands) == ((), ())


def test_what_was_refused_is_asked_for_in_ever_smaller_commands() -> None:
    session = _kalshi("ticker", "market_lifecycle_v2")
    tickers = [f"M-{number}" for number in range(40)]
    _sent(session.open(tickers), session)
    for size in (16, 16, 8), (1,) * 40:
        for id_ in list(session._pending):
            _tell(session, "error", {"id": id_, "type": "error", "msg": {"code": 11, "msg": "Invalid parameter"}})
        commands = [command for command in session.retry() if command.channel == "ticker"]
        assert tuple(len(command.instruments) for command in commands) == size
    assert not session.refused
    _subscribed(session)
    assert session.accepted == set(tickers)
    assert session.retry() == []


@pytest.mark.parametrize("make", [_kalshi, lambda *_: PolymarketSession(feeds.get("polymarket"), ("market",), {})])
def test_no_instruments_are_none_where_they_come_and_go(make: Any) -> None:
    session: Session = make("ticker")
    session.takes_all = False
    assert session.open([]) == []
    assert [command.instruments for command in session.add(["1"])] == [("1",)]
    session.remove(["1"])
    assert [command for command in session.resubscribe(session.channels[0]) if command.action != "unsubscribe"] == []
    assert not session.wanted(session.channels[0])


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "answer"]), st.sampled_from("ABC")), max_size=40))
def test_kalshi_ends_up_with_what_was_asked_last(steps: list[tuple[str, str]]) -> None:
    """A venue that obeys commands in order, and answers late, holds in the end what the session believes it holds."""
    session = _kalshi("ticker")
    session.takes_all = False
    sent: list[Command] = list(session.open(["A"]))
    held: set[str] = set()
    asked = {"A"}
    unanswered: list[Command] = []
    first = True

    def answer() -> None:
        nonlocal first
        command = unanswered.pop(0)
        kind = "subscribed" if first else "ok"
        body = {"channel": "ticker", "sid": 7} if first else {"market_tickers": sorted(held)}
        reply = {"id": command.id, "type": kind, "sid": 7, "msg": body}
        first = False
        sent.extend(session.on_message(kind, json.dumps(reply).encode()).commands)

    def obey() -> None:
        while sent:
            command = sent.pop(0)
            session.sent(command, 0.0)
            tickers = json.loads(command.text)["params"]["market_tickers"]
            held.difference_update(tickers) if command.action == "unsubscribe" else held.update(tickers)
            unanswered.append(command)

    for step, ticker in steps:
        obey()
        if step == "add":
            asked.add(ticker)
            sent.extend(session.add([ticker]))
        elif step == "remove":
            asked.discard(ticker)
            sent.extend(session.remove([ticker]))
        elif unanswered:
            answer()
    obey()
    while unanswered:
        answer()
        obey()
    assert held == asked == session.accepted
    assert not session.outstanding
