"""From rows to evidence of a diagnosis: what can be cited, what each feed's rows say of it, what is not known. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, cast, get_args

from ssmd_core.quality.formulas import GREEN_FROM, YELLOW_FROM
from ssmd_core.reports.collect import Row, Rows, RunFailure
from ssmd_core.reports.evidence import MAX_EVIDENCE_BYTES, Evidence, Item, Status, fitted, worst
from ssmd_core.reports.texts import clean, count_of, hours_told

#: Hours of one feed that can be cited: with four feeds they fill half of what a prompt may hold.
MAX_HOURS_OF_A_FEED = 24
_MAX_ISSUES, _MAX_TYPES = 6, 5
# Of what cannot be cited; sums of a stream take some 150 bytes, a sentence of what is unknown likewise.
_CONTEXT_BYTES, _MAX_STREAMS, _MAX_UNKNOWN = 16 * 1024, 40, 40
_WORDS = ("complete", "degraded", "empty", "missing")
_WRONG_WORDS = ("missing", "degraded")
HourKey = tuple[str, str, datetime]


def evidence_of(rows: Rows) -> Evidence:
    """The evidence, the most telling rows first; what does not fit is counted."""
    untrusted = _untrusted(rows.untrusted)
    hours = _hours(rows, untrusted)
    chosen, hours_left = _chosen_hours(hours, rows.day)
    groups = [
        [_score(row) for row in rows.scores if row["check_date"] == rows.day],
        [_run(run) for run in rows.runs],
        [_drift(row) for row in rows.drift],
        [_reconciliation(row) for row in rows.reconciliations],
        chosen,
        [_score(row) for row in rows.scores if row["check_date"] != rows.day],
    ]
    items, left_out = fitted((item for group in groups for item in group), MAX_EVIDENCE_BYTES - _CONTEXT_BYTES)
    for kind, number in (*rows.left_out.items(), *([("hour", hours_left)] if hours_left else [])):
        left_out[kind] = left_out.get(kind, 0) + number
    return Evidence(
        kind="diagnosis",
        day=rows.day,
        items=items,
        statuses=_statuses(rows, [item for _, item in hours]),
        least="YELLOW" if any(run.hour[:10] == str(rows.day) for run in rows.runs) else "GREEN",
        context={"first_date": str(rows.first), "hours_by_word": _words(rows)},
        unknown=tuple(islice(_unknown(rows), _MAX_UNKNOWN)),
        left_out=dict(sorted(left_out.items())),
    )


def all_green(evidence: Evidence) -> bool:
    """Whether nothing on the day asks for a diagnosis."""
    day = str(evidence.day)
    return (
        evidence.status == "GREEN"
        and not any(item.facts["hour"][:10] in ("", day) for item in evidence.of("run"))
        and not any(item.facts["found_at"].startswith(day) for item in evidence.of("drift"))
        and not any(
            item.facts["wrong"] and item.facts["from"].startswith(day) for item in evidence.of("reconciliation")
        )
        and not any(item.facts["hour"].startswith(day) for item in evidence.of("hour"))
    )


def status_of(row: Row) -> Status:
    """What a row of daily scores says: its own word, else the one of its number."""
    told = row["details"].get("status") if isinstance(row["details"], dict) else None
    if told in get_args(Status):
        return cast("Status", told)
    score = row["score"]
    return "GREEN" if score >= GREEN_FROM else "YELLOW" if score >= YELLOW_FROM else "RED"


def _statuses(rows: Rows, hours: Sequence[Item]) -> dict[str, Status | None]:
    """Each feed that any row is of: its score's word, but not GREEN while a row of the day asks for attention."""
    day = str(rows.day)
    troubled = {item.feed for item in hours if item.facts["hour"].startswith(day)}
    troubled |= {row["feed"] for row in rows.drift if row["found_at"].astimezone(UTC).date() == rows.day}
    troubled |= {
        row["feed"]
        for row in rows.reconciliations
        if row["started_at"].astimezone(UTC).date() == rows.day and (row["missing"] or row["extra"] or row["differing"])
    }
    found: dict[str, Status | None] = {
        row["feed"]: worst((status_of(row), "YELLOW" if row["feed"] in troubled else "GREEN"))
        for row in rows.scores
        if row["check_date"] == rows.day
    }
    others = (*rows.scores, *rows.hours, *rows.drift, *rows.reconciliations, *rows.untrusted)
    return dict(sorted({**{row["feed"]: None for row in others}, **found}.items()))


# -- one row


def _score(row: Row) -> Item:
    details = row["details"] if isinstance(row["details"], dict) else {}
    issues = details.get("issues")
    components = details.get("components")
    status = status_of(row)
    facts = {
        "date": str(row["check_date"]),
        "score": _number(row["score"]),
        "status": status,
        "issues": [clean(issue) for issue in issues[:_MAX_ISSUES]] if isinstance(issues, list) else None,
        "components": _components(components),
        "hours_with_data_pct": _number(row["coverage_pct"]),
        "gaps": row["gap_count"],
        "gap_minutes": _number(row["gap_total_minutes"]),
        "messages": row["actual_messages"],
        "expected_messages": row["expected_messages"],
    }
    said = f"{row['feed']} on {row['check_date']}: score {_number(row['score'])}, {status}"
    return Item(f"score:{row['feed']}:{row['check_date']}", "score", row["feed"], _known(facts), said)


def _hour(row: Row, untrusted: Mapping[str, int], types: Mapping[str, str]) -> Item:
    where, hour = f"{row['feed']}/{clean(row['stream'])}", f"{row['hour'].astimezone(UTC):%Y-%m-%dT%H}"
    word = row["word"] if row["word"] in _WORDS else None
    reasons = _reasons(row["reasons"])
    facts = {
        "stream": clean(row["stream"]),
        "hour": hour,
        "word": word,
        "score": _number(row["score"]),
        "components": _components(row["components"]),
        "reasons": reasons,
        "untrusted_intervals": dict(untrusted),
        "message_types_below_green": dict(types),
    }
    told = [word or "not proved yet", *(reason["code"] for reason in reasons)]
    if row["score"] is not None:
        told.append(f"score {_number(row['score'])}")
    if untrusted:
        told.append(f"{count_of(sum(untrusted.values()), 'untrusted interval')}")
    return Item(f"hour:{where}/{hour}", "hour", row["feed"], _known(facts), f"{where} {hour}:00: {', '.join(told)}")


def _reasons(value: object) -> list[dict[str, Any]]:
    found = []
    for reason in value if isinstance(value, list) else ():
        if isinstance(reason, dict):
            one: dict[str, Any] = {"code": clean(reason.get("code", ""), 64), "detail": clean(reason.get("detail", ""))}
            count = reason.get("count")
            if isinstance(count, int):
                one["count"] = count
            found.append(one)
    return found


def _drift(row: Row) -> Item:
    at = f"{row['found_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    facts = {
        "found_at": at,
        "kind": clean(row["kind"], 32),
        "source": clean(row["source"], 64),
        "message_type": clean(row["message_type"], 64),
        "path": clean(row["path"], 128),
        "detail": clean(row["detail"]),
    }
    said = f"{row['feed']} {at}: {facts['kind']} of {facts['message_type']} {facts['path']}: {facts['detail']}"
    return Item(f"drift:{row['id']}", "drift", row["feed"], facts, said)


def _reconciliation(row: Row) -> Item:
    counts = {
        name: row[name] for name in ("venue_trades", "archived_trades", "missing", "extra", "differing", "backfilled")
    }
    wrong = bool(row["missing"] or row["extra"] or row["differing"])
    facts = {
        "stream": clean(row["stream"]),
        "instrument": clean(row["instrument"], 80),
        "from": f"{row['started_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "to": f"{row['ended_at'].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "status": clean(row["status"], 32),
        "wrong": wrong,
        **counts,
        "match_rate": _number(row["match_rate"]),
        "detail": clean(row["detail"]),
    }
    said = (
        f"{row['feed']}/{facts['stream']} {facts['instrument']} from {facts['from']} to {facts['to']}: "
        f"{facts['status']}, {row['missing']:,} missing, {row['extra']:,} extra, {row['differing']:,} differing"
    )
    return Item(f"reconciliation:{row['id']}", "reconciliation", row["feed"], _known(facts), said)


def _run(run: RunFailure) -> Item:
    facts = {"job": clean(run.job, 100), "hour": clean(run.hour, 40), "error": clean(run.error)}
    said = " ".join(("run of", facts["job"], facts["hour"], "failed:", facts["error"]))
    return Item(f"run:{clean(run.run_id, 64)}", "run", "", facts, said)


# -- hours


def _untrusted(rows: Iterable[Row]) -> dict[HourKey, dict[str, int]]:
    found: dict[HourKey, dict[str, int]] = defaultdict(dict)
    for row in rows:
        found[_key(row)][clean(row["reason"], 64)] = row["intervals"]
    return found


def _hours(rows: Rows, untrusted: Mapping[HourKey, Mapping[str, int]]) -> list[tuple[Row, Item]]:
    """Hours that are not as they should be."""
    types: dict[HourKey, dict[str, str]] = defaultdict(dict)
    for row in rows.types:
        if len(of := types[_key(row)]) < _MAX_TYPES:
            of[clean(row["message_type"], 64)] = _number(row["score"]) or ""
    known = {_key(row): row for row in rows.hours}
    # An interval without its hour's ledger can only come from one that was removed; it is shown all the same.
    for feed, stream, hour in untrusted.keys() - known.keys():
        nothing = {"word": None, "score": None, "components": None, "reasons": None}
        known[feed, stream, hour] = {"feed": feed, "stream": stream, "hour": hour, **nothing}
    return [
        (row, _hour(row, untrusted.get(key, {}), types.get(key, {})))
        for key, row in known.items()
        if row["word"] in _WRONG_WORDS
        or key in untrusted
        or key in types
        or (row["score"] is not None and row["score"] < GREEN_FROM)
    ]


def _chosen_hours(hours: Sequence[tuple[Row, Item]], day: date) -> tuple[list[Item], int]:
    """The worst hours, those of the day first, and how many are left out; feeds take turns, so that a bad one does
    not push out the others."""

    def rank(one: tuple[Row, Item]) -> tuple[Any, ...]:
        row = one[0]
        bad = _WRONG_WORDS.index(row["word"]) if row["word"] in _WRONG_WORDS else len(_WRONG_WORDS)
        score = Decimal(100) if row["score"] is None else row["score"]
        return (row["hour"].astimezone(UTC).date() != day, bad, score, -row["hour"].timestamp(), row["stream"])

    by_feed: dict[str, list[Item]] = defaultdict(list)
    for row, item in sorted(hours, key=rank):
        by_feed[row["feed"]].append(item)
    kept = [by_feed[feed][:MAX_HOURS_OF_A_FEED] for feed in sorted(by_feed)]
    turns = [group[n] for n in range(MAX_HOURS_OF_A_FEED) for group in kept if n < len(group)]
    return turns, len(hours) - len(turns)


def _words(rows: Rows) -> dict[str, dict[str, dict[str, int]]]:
    """`feed/stream` -> on the day, and on the days before -> word -> hours."""
    counted: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for row in rows.hours:
        word = row["word"] if row["word"] in _WORDS else "not proved yet"
        when = "day" if row["hour"].astimezone(UTC).date() == rows.day else "days_before"
        counted[f"{row['feed']}/{clean(row['stream'])}"][when][word] += 1
    shown = sorted(counted.items())[:_MAX_STREAMS]
    return {where: {when: dict(words) for when, words in days.items()} for where, days in shown}


def _unknown(rows: Rows) -> Iterable[str]:
    statuses = _statuses(rows, ())
    if not statuses:
        yield (
            f"there are no scores and no ledgers from {rows.first} to {rows.day}; "
            f"`ssmd health daily --date {rows.day}` makes scores, if anything was captured"
        )
    for feed, status in statuses.items():
        if status is None:
            yield f"{feed} has no score for {rows.day}; `ssmd health daily --date {rows.day}` makes it"
    proved: dict[tuple[str, str], set[int]] = defaultdict(set)
    # Before the first hour that is known nothing was captured yet.
    first: dict[tuple[str, str], datetime] = {}
    for row in rows.hours:
        stream = row["feed"], clean(row["stream"])
        first[stream] = min(first.get(stream, row["hour"]), row["hour"])
        of_day = proved[stream]
        if row["hour"].astimezone(UTC).date() == rows.day and row["word"]:
            of_day.add(row["hour"].astimezone(UTC).hour)
    start = datetime(rows.day.year, rows.day.month, rows.day.day, tzinfo=UTC)
    over = [n for n in range(24) if start + timedelta(hours=n + 1) <= rows.now]
    for (feed, name), hours in sorted(proved.items()):
        began = first[feed, name]
        if without := [n for n in over if n not in hours and start + timedelta(hours=n) >= began]:
            told = count_of(len(without), "hour is", "hours are")
            yield f"{feed}/{name}: {told} not proved yet, {hours_told(without)}"


# -- values


def _key(row: Row) -> HourKey:
    return row["feed"], row["stream"], row["hour"]


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null or empty: a missing member says the same in fewer bytes."""
    return {name: value for name, value in facts.items() if value is not None and value not in ({}, [], "")}


def _number(value: Decimal | None) -> str | None:
    """A decimal as text, without the zeros that its column adds."""
    if value is None:
        return None
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _components(value: object) -> dict[str, int | float] | None:
    if not isinstance(value, dict):
        return None
    return {clean(name, 32): number for name, number in value.items() if isinstance(number, (int, float))}
