"""The one word for an hour, and the reasons behind it: pure functions of what the archive shows.

Evidence is short text that can be opened: `seq:{nats_seq}` (a message of the archive), `archive:{file}#{line}`,
`ledger_minutes:{feed}/{stream}/{minute}/{epoch}`, `untrusted:{feed}/{stream}/{hour}/{instrument}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from ssmd_core.clock import rfc3339_us
from ssmd_core.proof.ledger import Reason

Word = Literal["complete", "degraded", "empty"]
SLOTS: Final = 4
#: Codes of reasons; those of `INFORMING` alone do not degrade an hour.
CODES: Final = (
    "slots_missing",
    "messages_lost",
    "ordinals_missing",
    "not_connected",
    "not_acknowledged",
    "refused",
    "live_count_differs",
    "untrusted",
    "checks_failed",
    "drift",
    "rejects",
    "null_column",
    "clock_offset",
    "no_control_events",
    "two_connectors",
    "handover",
    "carried_state_missing",
)
INFORMING: Final = frozenset({"handover", "carried_state_missing"})
#: A connector that is replaced by another one without a pause overlaps with it for seconds; nothing is missed, some
#: messages are there twice, each under its own epoch.
HANDOVER_US: Final = 120_000_000
#: Clocks of healthy machines and venues differ by 0.1 s, times in whole seconds by 1 s, and bursts come 10 s late; the
#: smallest difference of an hour beyond 5 s is a clock.
MAX_OFFSET_MS: Final = 5_000.0
_MOST: Final = 5


@dataclass(slots=True)
class Seen:
    """Something of one kind that was seen in the hour.

    Attributes:
        text: what, with its numbers.
        count: of what it is about.
        from_us, to_us: when; None where it cannot be told.
        evidence: where to look.
    """

    text: str
    count: int = 1
    from_us: int | None = None
    to_us: int | None = None
    evidence: Sequence[str] = ()


@dataclass(slots=True)
class Facts:
    """What the archive shows of an hour, as far as its word depends on it.

    Attributes:
        sealed: starts of the sealed slots, `HHMM`.
        market_messages: messages that are about the market.
        control_events: ssmd's own.
        lost: holes in which the archiver lost messages.
        ordinals, connected, acknowledged, refused, live, untrusted, failed, drift, rejects, nulls, connectors: what
            was found wrong, in this order of the codes.
        offsets_ms: receive time minus venue time of clocks that are apart, by epoch, with when and in how many minutes.
        not_carried: epochs whose opening is not proved.
    """

    sealed: Sequence[str]
    market_messages: int
    control_events: int
    lost: Sequence[Seen] = ()
    ordinals: Sequence[Seen] = ()
    connected: Sequence[Seen] = ()
    acknowledged: Sequence[Seen] = ()
    refused: Sequence[Seen] = ()
    live: Sequence[Seen] = ()
    untrusted: Sequence[Seen] = ()
    failed: Sequence[Seen] = ()
    drift: Sequence[Seen] = ()
    rejects: Sequence[Seen] = ()
    nulls: Sequence[Seen] = ()
    connectors: Sequence[Seen] = ()
    offsets_ms: Mapping[str, tuple[float, int, int]] = field(default_factory=dict)
    not_carried: Sequence[str] = ()


def judge(facts: Facts) -> tuple[Word, list[Reason]]:
    """The hour's word, and every reason that holds, in the order of `CODES`."""
    found = reasons_of(facts)
    if any(reason.code not in INFORMING for reason in found):
        return "degraded", found
    return ("complete" if facts.market_messages else "empty"), found


def reasons_of(facts: Facts) -> list[Reason]:
    """Every reason that holds."""
    found: list[Reason] = []
    missing = SLOTS - len(facts.sealed)
    if missing > 0:
        there = ", ".join(facts.sealed) or "none"
        found.append(Reason("slots_missing", f"{missing} of 4 slots were not sealed; there: {there}", count=missing))
    for code, seen, about in (
        ("messages_lost", facts.lost, "messages were lost before they were archived"),
        ("ordinals_missing", facts.ordinals, "messages were received and are not in the archive"),
        ("not_connected", facts.connected, "seconds in which connections were missing or mute"),
        ("not_acknowledged", facts.acknowledged, "subscriptions were not acknowledged in time"),
        ("refused", facts.refused, "subscriptions were refused"),
        ("live_count_differs", facts.live, "messages by which connections and archive differ"),
        ("untrusted", facts.untrusted, "intervals in which what was captured must not be trusted"),
        ("checks_failed", facts.failed, "comparisons with the venue failed"),
        ("drift", facts.drift, "changes of the venue's format"),
        ("rejects", facts.rejects, "messages break their schema"),
        ("null_column", facts.nulls, "columns turned null"),
    ):
        if seen:
            found.append(_summed(code, seen, about))
    found += _offsets(facts.offsets_ms)
    if not facts.control_events:
        detail = "the archive holds no control events: nothing shows what was asked for and when a connection was open"
        found.append(Reason("no_control_events", detail))
    about = "times two connectors captured the stream at once"
    short = [
        seen
        for seen in facts.connectors
        if seen.from_us is not None and seen.to_us is not None and seen.to_us - seen.from_us <= HANDOVER_US
    ]
    if long := [seen for seen in facts.connectors if seen not in short]:
        found.append(_summed("two_connectors", long, about))
    if short:
        found.append(_summed("handover", short, about))
    if facts.not_carried:
        first = ", ".join(facts.not_carried[:_MOST])
        detail = f"{len(facts.not_carried)} connections were opened in an hour that is not proved: {first}"
        found.append(Reason("carried_state_missing", detail, count=len(facts.not_carried)))
    return found


def _summed(code: str, seen: Sequence[Seen], about: str) -> Reason:
    count = sum(each.count for each in seen)
    begins = [each.from_us for each in seen if each.from_us is not None]
    ends = [each.to_us for each in seen if each.to_us is not None]
    texts = [each.text for each in seen[:_MOST]]
    if len(seen) > _MOST:
        texts.append(f"and {len(seen) - _MOST} more")
    return Reason(
        code,
        f"{count} {about}: " + "; ".join(texts),
        rfc3339_us(min(begins)) if begins else None,
        rfc3339_us(max(ends)) if ends else None,
        count,
        [text for each in seen for text in each.evidence][: 2 * _MOST],
    )


def _offsets(offsets_ms: Mapping[str, tuple[float, int, int]]) -> list[Reason]:
    if not offsets_ms:
        return []
    epoch, (offset, from_us, minutes) = max(sorted(offsets_ms.items()), key=lambda item: abs(item[1][0]))
    side = "behind" if offset > 0 else "ahead of"
    detail = f"the venue's times are at least {abs(offset) / 1000:.1f} s {side} ours on {epoch} in {minutes} minutes"
    text = f"{detail}: a clock is wrong, or everything came late"
    return [Reason("clock_offset", text, rfc3339_us(from_us), count=len(offsets_ms))]


def minute_evidence(feed: str, stream: str, at_us: int, epoch: str) -> str:
    """Citation of the ledger's row of a moment."""
    minute = datetime.fromtimestamp(at_us // 60_000_000 * 60, UTC)
    return f"ledger_minutes:{feed}/{stream}/{minute:%Y-%m-%dT%H:%M:%SZ}/{epoch}"
