"""The faults that `ssmd faults` plays, what must be seen of each, and how soon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ssmd_stream.capture.connector import Connector
from ssmd_stream.replay.faults import Fault, FaultKind

BUSY = 100.0
QUIET = 0.2
# Five and a half seconds of traffic: by then the connection's habit is known.
_LEARNED = 550
_SOON = 200
_FOREVER = 10**9

BOOKS: dict[str, tuple[str, ...]] = {
    "kalshi": ("orderbook_delta",),
    "kraken": ("book",),
    "kraken-futures": ("book",),
    "polymarket": ("market",),
}
ALL: dict[str, tuple[str, ...]] = {
    "kalshi": ("orderbook_delta", "ticker", "trade"),
    "kraken": ("book", "ticker", "trade"),
    "kraken-futures": ("book", "ticker", "trade"),
    "polymarket": ("market",),
}


class Sight(NamedTuple):
    """Something that reached the stream.

    Attributes:
        at_ns: receive time, epoch ns.
        event: ssmd's own event; `{"event": "snapshot"}` and `{"event": "unreadable"}` stand for messages of the
            venue.
        payload: the message.
    """

    at_ns: int
    event: dict[str, Any]
    payload: bytes


Sees = Callable[[Sequence[Sight], Connector], tuple[int, str] | None]
"""When what must be seen was seen, and in which words; None: not yet."""


@dataclass(frozen=True)
class Case:
    """A fault and what must follow.

    Attributes:
        key: for `--only`: what is wrong, in one word.
        name: what is wrong, for people.
        must: what must be seen.
        limit_s: how soon.
        frames_per_s, markets, instruments, channels: of the traffic.
        frames: how many data frames there are in all; None: no end.
        never: nothing of the kind may be seen, for so long.
        strikes_by_s: by then the fault has happened.
    """

    key: str
    name: str
    feed: str
    faults: tuple[Fault, ...]
    must: str
    sees: Sees
    limit_s: float
    channels: tuple[str, ...]
    frames_per_s: float = BUSY
    markets: int = 4
    instruments: int = 8
    frames: int | None = None
    never: bool = False
    strikes_by_s: float = 45.0

    @property
    def of_subscription(self) -> bool:
        """Whether the fault is there from the first subscription on."""
        return not self.faults or self.faults[0].kind in ("refuse", "mute", "withhold", "cap", "drop_ack")


def _given_up(sights: Sequence[Sight], _connector: Connector) -> tuple[int, str] | None:
    """The connection was given up, and the next one is open."""
    for index, sight in enumerate(sights):
        if sight.event["event"] == "error" and "market data" in sight.event["reason"]:
            opened = any(later.event["event"] == "open" for later in sights[index:])
            return (sight.at_ns, sight.event["reason"]) if opened else None
    return None


def _event(name: str, reason: str = "") -> Sees:
    def sees(sights: Sequence[Sight], _connector: Connector) -> tuple[int, str] | None:
        for sight in sights:
            said = str(sight.event.get("reason", ""))
            if sight.event["event"] == name and reason in said:
                return sight.at_ns, str(sight.event.get("detail") or said)
        return None

    return sees


def _healed(sights: Sequence[Sight], _connector: Connector) -> tuple[int, str] | None:
    """Trouble was told, and a new snapshot has come since."""
    for index, sight in enumerate(sights):
        if sight.event["event"] == "trouble":
            healed = next((later for later in sights[index:] if later.event["event"] == "snapshot"), None)
            return None if healed is None else (healed.at_ns, sight.event["detail"])
    return None


def _kept(sights: Sequence[Sight], connector: Connector) -> tuple[int, str] | None:
    """What cannot be read is in the stream, and the connection lives."""
    kept = next((sight for sight in sights if sight.event["event"] == "unreadable"), None)
    if kept is None or connector.shards[0].stats.connects != 1:
        return None
    return kept.at_ns, "kept"


def _reopened(sights: Sequence[Sight], _connector: Connector) -> tuple[int, str] | None:
    closed = next((sight for sight in sights if sight.event.get("code") == 1009), None)
    if closed is None or not any(sight.event["event"] == "open" for sight in sights):
        return None
    return closed.at_ns, closed.event["reason"]


def cases() -> list[Case]:
    """All of them, in the order of the table."""
    return [*_silence(), *_subscriptions(), *_numbers(), *_frames(), *_drift()]


def _silence() -> Iterable[Case]:
    must = "given up and opened again"
    for feed in BOOKS:
        faults = (Fault("silence", at=_LEARNED),)
        yield Case("mute", "data stops, pings go on", feed, faults, must, _given_up, 10, ALL[feed])
        faults = (Fault("half_open", at=_LEARNED),)
        yield Case("half-open", "half-open socket", feed, faults, must, _given_up, 10, ALL[feed])
    faults = (Fault("silence", at=_LEARNED),)
    name = "data stops, and there is no order book to ask for"
    yield Case("mute", name, "kalshi", faults, must, _given_up, 10, ("ticker", "trade"))
    for feed, books in BOOKS.items():
        faults = (Fault("silence", at=2),)
        name = "a quiet connection goes mute"
        yield Case("quiet", name, feed, faults, must, _given_up, 60, books, frames_per_s=QUIET)
        faults = (Fault("mute", connection=0),)
        yield Case("deaf", "subscription accepted, nothing ever comes", feed, faults, must, _given_up, 60, books)
    for feed, books in BOOKS.items():
        alone = Case("no-fault", "", feed, (), "no reconnect", _given_up, 60, books, never=True)
        yield replace(alone, name="no fault: a frame every 50 s", frames_per_s=0.02)
        name = "no fault: the market falls silent, the venue answers"
        yield replace(alone, name=name, frames=_LEARNED, limit_s=20)


def _subscriptions() -> Iterable[Case]:
    missing = "flagged: asked for and not delivered"
    flagged, refused, overdue = (
        _event("trouble", "no_snapshot"),
        _event("refused"),
        _event("refused", "acknowledgement"),
    )

    def case(key: str, name: str, feed: str, fault: Fault, must: str, sees: Sees) -> Case:
        return Case(key, name, feed, (fault,), must, sees, 60, BOOKS[feed])

    for feed, victim in (("kraken", "BTC/USD"), ("kraken-futures", "PF_XBTUSD")):
        one = frozenset({victim})
        yield case("refused", "one instrument refused", feed, Fault("refuse", instruments=one), "refusal", refused)
        held = Fault("withhold", instruments=one)
        yield case("partial", "acknowledged, but one instrument gets nothing", feed, held, missing, flagged)
        lost = Fault("drop_ack", instruments=one)
        name = "acknowledgement of one instrument lost"
        yield case("dropped-ack", name, feed, lost, "refusal: no acknowledgement", overdue)
    yield case("refused", "subscription refused", "kalshi", Fault("refuse"), "refusal", refused)
    name = "acknowledgement lost"
    yield case("dropped-ack", name, "kalshi", Fault("drop_ack"), "refusal: no acknowledgement", overdue)
    name = "acknowledged, but only three of four markets get data"
    yield case("partial", name, "kalshi", Fault("cap", count=3), missing, flagged)
    many = case(
        "partial", "500 tokens asked for, data for 480", "polymarket", Fault("cap", count=480), missing, flagged
    )
    yield replace(many, markets=251, instruments=500)
    name = "one token more than the venue takes (7, not 500)"
    yield case("token-501", name, "polymarket", Fault("cap", count=7), missing, flagged)
    yield case("refused", "tokens that the venue does not know", "polymarket", Fault("refuse"), missing, flagged)


def _numbers() -> Iterable[Case]:
    must = "trouble, and a new snapshot"

    def case(key: str, name: str, feed: str, fault: Fault, instruments: int = 4) -> Case:
        return Case(key, name, feed, (fault,), must, _healed, 2, BOOKS[feed], instruments=instruments)

    for feed in ("kalshi", "kraken-futures"):
        yield case("gap", "one message of a book lost", feed, Fault("drop", at=_SOON))
        # Swapped messages of two instruments would prove nothing.
        yield case("reorder", "two messages of a book swapped", feed, Fault("reorder", at=_SOON), 1)
        fault = Fault("renumber", at=_SOON, count=_FOREVER, member="seq")
        yield case("reset", "the numbers of a book begin anew", feed, fault, 1)
    for feed in BOOKS:
        fault = Fault("old_snapshot", at=_SOON)
        yield case("old-snapshot", "a snapshot that is older than the changes before it", feed, fault, 1)
    # The checksum covers the ten best levels: one update alone may lie below them.
    yield case("gap", "twenty book updates lost", "kraken", Fault("drop", at=_SOON, count=20))
    yield case("checksum", "a checksum that is not the book's", "kraken", _spoiled("checksum", 1))
    name = "a best bid that is not the book's"
    yield case("checksum", name, "polymarket", _spoiled("best_bid", 1))


def _frames() -> Iterable[Case]:
    bad: tuple[tuple[FaultKind, str], ...] = (
        ("malformed", "not JSON"),
        ("truncate", "JSON cut off"),
        ("invalid_utf8", "not UTF-8"),
        ("binary", "a binary frame"),
        ("deep", "100,000 arrays in one another"),
    )
    for feed, (kind, name) in zip(("kalshi", "kraken", "kraken-futures", "polymarket", "kraken"), bad, strict=True):
        faults = (_fault(kind, at=_SOON),)
        yield Case("frames", name, feed, faults, "kept, and the connection lives", _kept, 2, ALL[feed])
    faults = (Fault("oversized", at=_SOON),)
    must = "refused and told, opened again"
    yield Case("frames", "a frame of 20 MiB", "kalshi", faults, must, _reopened, 2, BOOKS["kalshi"])


def _drift() -> Iterable[Case]:
    members = {
        "kalshi": ("price_dollars", "delta_fp", "type"),
        "kraken": ("bid_qty", "last", "channel"),
        "kraken-futures": ("markPrice", "index", "feed"),
        "polymarket": ("best_bid", "best_ask", "event_type"),
    }
    names: tuple[tuple[FaultKind, str, int], ...] = (
        ("drop_member", "member {} gone", 0),
        ("add_member", "a member beside {}", 0),
        ("retype_member", "member {} of another type", 1),
        ("new_type", "a message type that nobody knows in {}", 2),
    )
    for feed, known in members.items():
        for kind, name, which in names:
            faults = (_fault(kind, at=_SOON, count=_FOREVER, member=known[which]),)
            told = _event("trouble", "drift")
            yield Case("drift", name.format(f"`{known[which]}`"), feed, faults, "drift", told, 10, ALL[feed])


def _spoiled(member: str, count: int) -> Fault:
    return Fault("checksum", at=_SOON, count=count, member=member)


def _fault(kind: FaultKind, *, at: int, count: int = 1, member: str = "") -> Fault:
    return Fault(kind, at=at, count=count, member=member)
