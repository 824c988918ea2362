"""Two sets of shapes against each other, e.g. one day's with another's: no order, no time, only counts."""

from __future__ import annotations

from ssmd_core.drift.facts import type_facts
from ssmd_core.drift.findings import Finding, dropped_field, new_field, new_type, retyped_field
from ssmd_core.drift.kinds import family
from ssmd_core.drift.shapes import Place, Shape, Shapes
from ssmd_core.feeds.base import Feed

#: Objects before, from which on their members are judged, and after, from which on one may be called dropped. A member
#: that is in 1 of 50 is in none of 50 once in three cases, but such a member was not "always" there.
MIN_BEFORE = 300
MIN_AFTER = 50
_ALWAYS = 0.99


def differences(feed: Feed, before: Shapes, after: Shapes) -> list[Finding]:
    """What is new, dropped or retyped in `after`; sorted, without times."""
    findings: list[Finding] = []
    for name, shape in after.types.items():
        known = before.types.get(name)
        if known is not None:
            findings += _of_type(feed, name, known, shape)
        elif name not in feed.message_types:
            findings.append(new_type(feed.name, name, 0, ""))
    return sorted(findings)


def _of_type(feed: Feed, name: str, before: Shape, after: Shape) -> list[Finding]:
    facts = type_facts(feed, name)
    if facts.control:
        return []
    old = {place.path: place for place in before.places()}
    new = {place.path: place for place in after.places()}
    findings = []
    for path, place in new.items():
        if path in old:
            findings += _retyped(name, old[path], place, facts.columns(path))
        elif place.member and _parents(old, path) >= MIN_BEFORE and not facts.knows(path):
            findings.append(new_field(name, path, place.node.types, 0, ""))
    for path, place in old.items():
        parents, later = _parents(old, path), _parents(new, path)
        always = parents >= MIN_BEFORE and place.node.seen >= _ALWAYS * parents
        gone = path not in new or not new[path].node.seen
        if place.member and always and gone and later >= MIN_AFTER and not facts.may_be_absent(path):
            counts = f"{place.node.seen:,} of {parents:,}", f"all {later:,} later ones"
            findings.append(dropped_field(name, path, *counts, facts.columns(path), 0, ""))
    return findings


def _retyped(name: str, before: Place, after: Place, columns: tuple[str, ...]) -> list[Finding]:
    known = {family(kind) for kind in before.node.types} - {"null"}
    now = {family(kind) for kind in after.node.types} - {"null"}
    if not known or before.node.seen < MIN_BEFORE:
        return []
    if now - known:
        words = " or ".join(sorted(known)), " or ".join(sorted(now - known))
        return [retyped_field(name, before.path, *words, columns, 0, "")]
    decimals, texts = before.node.types.get("decimal text", 0), before.node.types.get("text", 0)
    later = after.node.types
    if decimals >= MIN_BEFORE and not texts and later.get("text", 0) >= MIN_AFTER and "decimal text" not in later:
        return [retyped_field(name, before.path, "decimal text", "other text", columns, 0, "")]
    return []


def _parents(places: dict[str, Place], path: str) -> int:
    """How many objects could have had the member."""
    parent = path.rpartition(".")[0]
    place = places.get(parent)
    return place.node.types.get("object", 0) if place else 0
