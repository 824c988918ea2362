"""A diagnosis without a model: from the codes of the reasons, the scores and their slope. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from ssmd_core.quality.formulas import GREEN_FROM
from ssmd_core.reports.advice import ADVICE, COMPONENTS, OTHER_TRADES, TRADES, UNKNOWN, Advice
from ssmd_core.reports.answers import MAX_CLAIM_CHARS
from ssmd_core.reports.collect import DAYS
from ssmd_core.reports.evidence import Evidence, Item, Status
from ssmd_core.reports.texts import clean, count_of, hours_told

Body = dict[str, Any]

# Shown of one claim; the calendar has the rest.
_MAX_CITATIONS, _MAX_CODES, _MAX_RECOMMENDATIONS = 8, 3, 8
_MAX_CHANGES, _MAX_INSTRUMENTS = 2, 3
# A token id of Polymarket has 78 digits; the row that is cited has all of them.
_LONG_NUMBER = re.compile(r"\d{25,}")
_LEAST_DAYS = 3
#: Points a day, from which a score is said to rise or fall.
SLOPE = Decimal(1)
_TENTH = Decimal("0.1")


def diagnose_by_rules(evidence: Evidence) -> Body:
    """Summary, feeds, trends and recommendations; each with the ids of its rows."""
    feeds = [said for feed in evidence.statuses if (said := feed_by_rules(evidence, feed))]
    runs = evidence.of("run")
    return {
        "overall_status": evidence.status,
        **summary_by_rules(evidence, feeds, evidence.status),
        "feeds": feeds,
        "trends": [trend for feed in evidence.statuses if (trend := trend_by_rules(evidence, feed))],
        "recommendations": _recommendations(evidence, feeds, runs),
    }


def summary_by_rules(evidence: Evidence, feeds: Sequence[Body], status: Status) -> Body:
    """One or two sentences, and the rows that they rest on."""
    by_status: dict[str, list[str]] = defaultdict(list)
    for feed, word in evidence.statuses.items():
        by_status[word or "without a score"].append(feed)
    parts = [
        f"{', '.join(by_status[word])} {'is' if len(by_status[word]) == 1 else 'are'} {word}"
        for word in ("RED", "YELLOW", "GREEN", "without a score")
        if word in by_status
    ]
    text = f"{'; '.join(parts)}." if parts else "Nothing is known of this day."
    if feeds:
        first = min(feeds, key=lambda one: ("RED", "YELLOW", "GREEN").index(one["status"]))
        found = _found(evidence, first["feed"])
        text += f" First of all, {first['feed']}: {found[0].short if found else first['issue'].rstrip('.')}."
    elif parts and status == "GREEN" and not evidence.of("run"):
        text += " No hour, format, trade or run asks for attention."
    elif parts and evidence.unknown:
        text += f" Not known: {'; '.join(evidence.unknown[:2])}."
    if runs := len(evidence.of("run")):
        text += f" {count_of(runs, 'run')} failed in these {DAYS} days."
    cited = [item.id for item in _scores(evidence) if item.facts["date"] == str(evidence.day)]
    cited += [name for feed in feeds for name in feed["citations"][:1]] + [item.id for item in evidence.of("run")[:1]]
    return {
        "summary": clean(text, MAX_CLAIM_CHARS),
        "summary_citations": list(dict.fromkeys(cited))[: 2 * _MAX_CITATIONS],
    }


def feed_by_rules(evidence: Evidence, feed: str) -> Body | None:
    """What is wrong with a feed; None if nothing is, or nothing that has a row."""
    found = _found(evidence, feed)
    if not found:
        return None
    main, score = found[0].advice, _score_of(evidence, feed)
    return {
        "feed": feed,
        "status": evidence.statuses[feed] or "YELLOW",
        "issue": clean(f"{_capital(_words(evidence, feed, found))}.", MAX_CLAIM_CHARS),
        "likely_cause": f"{_capital(main.cause)}.",
        "action": f"{_capital(main.action)}.",
        "citations": _ids([*([score] if score else []), *(item for one in found for item in one.items[:2])]),
    }


class _Finding(NamedTuple):
    """One kind of trouble of a feed.

    Attributes:
        short: what is wrong.
        detail: its numbers, "" for none.
        items: rows that show it.
    """

    short: str
    detail: str
    advice: Advice
    items: Sequence[Item]


def _found(evidence: Evidence, feed: str) -> list[_Finding]:
    """What is wrong with a feed: the trouble of most hours first."""
    day = str(evidence.day)
    drift = [item for item in evidence.of("drift", feed) if item.facts["found_at"].startswith(day)]
    trades = [item for item in evidence.of("reconciliation", feed) if _is_wrong(item, day)]
    found = [_of_hours(code, items) for code, items in _codes(_hours_of(evidence, feed))[:_MAX_CODES]]
    if drift:
        drift.sort(key=lambda item: str(item.facts["found_at"]))
        told = f"{_at_least(evidence, 'drift')}{count_of(len(drift), 'change')} of the message format"
        if not evidence.left_out.get("drift"):
            told += f", first seen at {drift[0].facts['found_at'][11:16]}"
        details = [_changed(item) for item in drift[:_MAX_CHANGES]]
        if len(drift) > _MAX_CHANGES:
            details.append(f"and {len(drift) - _MAX_CHANGES} more")
        found = [one for one in found if one.advice != ADVICE["drift"]]
        found.append(_Finding(told, "; ".join(details), ADVICE["drift"], drift))
    if trades:
        found.append(_of_trades(trades, _at_least(evidence, "reconciliation")))
    score = _score_of(evidence, feed)
    if not found and score and evidence.statuses[feed] != "GREEN":
        found.append(_of_score(score))
    return found


def _of_hours(code: str, items: Sequence[Item]) -> _Finding:
    """A reason, in how many hours, in which first and with what numbers."""
    advice = ADVICE.get(code, UNKNOWN)
    first = items[0].facts
    details = [reason["detail"] for reason in first.get("reasons", ()) if reason["code"] == code and reason["detail"]]
    detail = (
        "".join(details[:1]) if len(items) == 1 else "".join(f"at {first['hour'][-2:]}:00 {one}" for one in details[:1])
    )
    by_stream: dict[str, list[int]] = defaultdict(list)
    for item in items:
        by_stream[item.facts["stream"]].append(int(item.facts["hour"][-2:]))
    named = [f"{stream} {hours_told(hours)}" for stream, hours in sorted(by_stream.items())]
    when = "; ".join(named) if len(by_stream) > 1 else hours_told(*by_stream.values())
    return _Finding(f"{advice.issue} in {count_of(len(items), 'hour')} ({when})", detail, advice, items)


def _at_least(evidence: Evidence, kind: str) -> str:
    """Before a number of rows, of which some did not fit."""
    return "at least " if evidence.left_out.get(kind) else ""


def _changed(item: Item) -> str:
    facts = item.facts
    return str(facts["detail"] or f"{facts['kind']} of {facts['message_type']} {facts['path']}")


def _of_trades(items: Sequence[Item], at_least: str) -> _Finding:
    """What the comparison with the venue's trades says: lost ones first, for these can be fetched."""
    missing, differing, extra, venue, kept = (
        sum(item.facts[name] for item in items)
        for name in ("missing", "differing", "extra", "venue_trades", "backfilled")
    )
    of = f"of {count_of(venue, 'trade')} of the venue's"
    parts = [f"{at_least}{missing:,} {of} are not in the archive"] if missing else []
    if differing:
        parts.append(f"{differing:,} differ" if missing else f"{at_least}{differing:,} {of} differ in the archive")
    if extra:
        parts.append(f"{count_of(extra, 'archived trade')} not among the venue's")
    named = [f"{item.facts['instrument']} {item.facts['from'][11:16]} to {item.facts['to'][11:16]}" for item in items]
    where = ", ".join(named[:_MAX_INSTRUMENTS])
    if len(named) > _MAX_INSTRUMENTS:
        where += f" and {len(named) - _MAX_INSTRUMENTS} more"
    detail = f"{where}; in the backfill: {kept:,}" if missing else where
    return _Finding(", ".join(parts), detail, TRADES if missing else OTHER_TRADES, items)


def _hours_of(evidence: Evidence, feed: str) -> list[Item]:
    return [item for item in evidence.of("hour", feed) if item.facts["hour"].startswith(str(evidence.day))]


def _score_of(evidence: Evidence, feed: str) -> Item | None:
    return evidence.by_id.get(f"score:{feed}:{evidence.day}")


def _codes(hours: Sequence[Item]) -> list[tuple[str, list[Item]]]:
    """Reason -> hours that have it: those in most hours first, the more harmful first among equals."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in hours:
        codes = {reason["code"] for reason in item.facts.get("reasons", ())}
        if item.facts.get("word") == "missing":
            codes.add("missing")
        if not codes:
            codes.add("untrusted" if item.facts.get("untrusted_intervals") else "low_score")
        for code in codes:
            found[code].append(item)

    def order(one: tuple[str, list[Item]]) -> tuple[bool, int, int, str]:
        code, items = one
        # It informs and does not degrade an hour.
        return code == "carried_state_missing", -len(items), ADVICE.get(code, UNKNOWN).rank, code

    return sorted(found.items(), key=order)


def _words(evidence: Evidence, feed: str, found: Sequence[_Finding]) -> str:
    """All that was found; before several findings how many hours it is all about."""
    hours = _hours_of(evidence, feed)
    counted = {word: sum(item.facts.get("word") == word for item in hours) for word in ("missing", "degraded")}
    told = ", ".join(f"{number} {word}" for word, number in counted.items() if number)
    total = count_of(sum(counted.values()), "hour is", "hours are")
    start = f"{total} not whole ({told}): " if told and len(found) > 1 else ""
    return start + "; ".join(_short_numbers(f"{one.short}: {one.detail}" if one.detail else one.short) for one in found)


def _short_numbers(text: str) -> str:
    return _LONG_NUMBER.sub(lambda number: f"{number[0][:8]}…{number[0][-4:]}", text)


def _of_score(score: Item) -> _Finding:
    """What the score itself says, where no hour, drift or trade explains it."""
    components: Mapping[str, float] = score.facts.get("components", {})
    low = sorted((value, name) for name, value in components.items() if value < GREEN_FROM)
    issues = list(score.facts.get("issues", ()))[:_MAX_CODES]
    cause, action = COMPONENTS.get(low[0][1] if low else "", ("not known", "open the score's components"))
    told = issues or [f"the component {name} is {value:g}" for value, name in low[:_MAX_CODES]]
    told = told or [f"the score is {score.facts['score']}"]
    return _Finding("; ".join(told), "", Advice(UNKNOWN.rank, "", cause, action), [score])


def trend_by_rules(evidence: Evidence, feed: str) -> Body | None:
    """The slope of the scores by least squares; None with fewer than three of them."""
    scores = sorted(_scores(evidence, feed), key=lambda item: str(item.facts["date"]))
    if len(scores) < _LEAST_DAYS:
        return None
    days = [date.fromisoformat(item.facts["date"]).toordinal() for item in scores]
    values = [Decimal(item.facts["score"]) for item in scores]
    slope = slope_of(days, values)
    direction = "improving" if slope >= SLOPE else "degrading" if slope <= -SLOPE else "stable"
    shown = slope.quantize(_TENTH, ROUND_HALF_UP)
    first, last = scores[0].facts, scores[-1].facts
    note = (
        f"from {first['score']} on {first['date']} to {last['score']} on {last['date']}, "
        f"{shown:+f} points a day over {len(scores)} days."
    )
    if len(scores) < DAYS:
        note = f"{note[:-1]} that have a score."
    return {"feed": feed, "direction": direction, "note": note, "citations": [scores[0].id, scores[-1].id]}


def slope_of(days: Sequence[int], values: Sequence[Decimal]) -> Decimal:
    """Points a day of the least-squares line through scores; at least two different days."""
    count = len(days)
    mean_day, mean = Decimal(sum(days)) / count, sum(values, Decimal()) / count
    above = sum(((day - mean_day) * (value - mean) for day, value in zip(days, values, strict=True)), Decimal())
    return above / sum(((day - mean_day) ** 2 for day in days), Decimal())


def _recommendations(evidence: Evidence, feeds: Sequence[Body], runs: Sequence[Item]) -> list[Body]:
    """What to do: RED feeds first, failed runs next; the same thing once for all feeds."""
    merged: dict[str, tuple[list[str], list[str]]] = {}
    for status in ("RED", "YELLOW", "GREEN"):
        for feed in (told["feed"] for told in feeds if told["status"] == status):
            for one in _found(evidence, feed):
                names, cited = merged.setdefault(one.advice.action, ([], []))
                names.append(feed)
                cited += [item.id for item in one.items]
        if status == "RED" and runs:
            text = f"mend what made {runs[0].facts['job']} fail and run it again: {runs[0].facts['error']}"
            merged[clean(text, 300)] = ([count_of(len(runs), "failed run")], [item.id for item in runs])
    found = [
        {"text": f"{', '.join(names)}: {text}.", "citations": _limited(cited)}
        for text, (names, cited) in merged.items()
    ]
    return found[:_MAX_RECOMMENDATIONS]


def _scores(evidence: Evidence, feed: str | None = None) -> list[Item]:
    return evidence.of("score", feed)


def _is_wrong(item: Item, day: str) -> bool:
    return bool(item.facts["wrong"]) and str(item.facts["from"]).startswith(day)


def _ids(items: Sequence[Item]) -> list[str]:
    return _limited([item.id for item in items])


def _limited(ids: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(ids))[:_MAX_CITATIONS]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
